//! Fewer queues than lanes: a lane without a queue of its own, a *guest*, has its commands sent by another, its *host*.
//!
//! The guest keeps its requests, their memory and their PRP lists; what it gives to the host is a finished submission queue
//! entry. The host puts it into its queue under a tag of its own and returns the status. Both ways are bounded queues, and
//! the other lane is woken through its mailbox.
//!
//! Invariants:
//! - A guest has at most [`GUEST_COMMANDS`] commands with its host, and its inbox has room for as many answers: an answer
//!   always fits.
//! - The host answers each command once: with a status when it is over, or as [`Outcome`] says if it has none.
//! - What a guest that went away has left is not sent: the host looks at that before it puts a command into its queue. A
//!   guest goes with commands unanswered only once the controller has been stopped.
//! - A host that goes closes the port, returns what it has not sent, and waits for the rest. Its guests look for another
//!   queue when all is answered; one number has just become free.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_engine::aio::{AioContext, AioHandle};
use crossbeam::queue::ArrayQueue;

use crate::nvme::queue::pair::QueuePair;
use crate::nvme::recovery::control::wake;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::status::Status;

/// Commands that one guest has with its host at most.
pub const GUEST_COMMANDS: u32 = 32;
/// Commands of all guests that a host has in its queue at most.
pub const HOST_SLOTS: u32 = 64;

/// The lanes of one controller that lend their queue.
#[derive(Default)]
pub struct Hosts(Mutex<Vec<Arc<Port>>>);

impl Hosts {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Port>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of the host with the fewest guests, with one guest more.
    pub fn choose(&self) -> Option<Arc<Port>> {
        let ports = self.lock();
        let open = ports.iter().filter(|port| !port.closed.load(Ordering::Relaxed));
        let port = open.min_by_key(|port| port.guests.load(Ordering::Relaxed))?;
        port.guests.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(port))
    }

    fn add(&self, port: &Arc<Port>) {
        self.lock().push(Arc::clone(port));
    }

    fn remove(&self, port: &Arc<Port>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, port));
    }
}

/// Where guests leave commands for a host.
pub struct Port {
    inbox: ArrayQueue<Order>,
    /// Whether the inbox may have something. Read by the host every turn, written only when guests come.
    waiting: AtomicBool,
    closed: AtomicBool,
    guests: AtomicU32,
    lane: AioHandle,
}

/// A command of a guest.
struct Order {
    from: Arc<Inbox>,
    tag: u32,
    command: Command,
}

/// Where a host leaves answers for a guest.
struct Inbox {
    answers: ArrayQueue<Answer>,
    waiting: AtomicBool,
    /// The guest has gone, and its memory with it.
    gone: AtomicBool,
    lane: AioHandle,
}

/// What became of a guest's command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The guest's tag.
    pub tag: u32,
    /// How it went.
    pub outcome: Outcome,
}

/// How a guest's command went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The controller's status.
    Status(Status),
    /// The controller never saw it.
    Returned,
    /// It was in flight when the controller was reset.
    Reset,
    /// It was beyond its deadline, and was aborted or ended by a reset.
    TimedOut,
}

impl Inbox {
    fn put(&self, answer: Answer) {
        // There is room for all that the guest may have sent.
        let _fits = self.answers.push(answer);
        if !self.waiting.swap(true, Ordering::AcqRel) {
            wake(&self.lane);
        }
    }
}

/// Whose command it is, and under which of the guest's tags.
type Origin = (Arc<Inbox>, u32);

/// The host's side.
pub struct Host {
    port: Arc<Port>,
    /// By guest slot.
    slots: Box<[Option<Origin>]>,
    free: Vec<u32>,
    /// The host's first tag for guests.
    first_tag: u32,
}

impl Host {
    /// Lends the queue of the lane of `ctx`, with tags from `first_tag` on.
    pub fn open(hosts: &Hosts, ctx: &AioContext, first_tag: u32) -> Host {
        let port = Arc::new(Port {
            inbox: ArrayQueue::new(4 * HOST_SLOTS as usize),
            waiting: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            guests: AtomicU32::new(0),
            lane: ctx.handle(),
        });
        hosts.add(&port);
        let slots = (0..HOST_SLOTS).map(|_| None).collect();
        Host { port, slots, free: (0..HOST_SLOTS).rev().collect(), first_tag }
    }

    /// Puts what guests have left into the queue, as far as there is room.
    #[inline(always)]
    pub fn serve(&mut self, pair: &mut QueuePair) {
        if self.port.waiting.load(Ordering::Relaxed) && !self.port.closed.load(Ordering::Relaxed) {
            self.serve_waiting(pair);
        }
    }

    #[cold]
    fn serve_waiting(&mut self, pair: &mut QueuePair) {
        // Before the look: an order that comes after the last one was popped sets it again.
        self.port.waiting.store(false, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        while !pair.is_full()
            && let Some(slot) = self.free.pop()
        {
            let Some(Order { from, tag, mut command }) = self.port.inbox.pop() else {
                self.free.push(slot);
                return;
            };
            if from.gone.load(Ordering::SeqCst) {
                self.free.push(slot);
                continue;
            }
            if let Some(place) = self.slots.get_mut(slot as usize) {
                *place = Some((from, tag));
            }
            pair.push(self.first_tag + slot, &mut command);
        }
        self.port.waiting.store(true, Ordering::Release);
    }

    /// Answers the guest whose command has this tag of the host.
    #[cold]
    pub fn answer(&mut self, tag: u32, outcome: Outcome) {
        let slot = tag.wrapping_sub(self.first_tag);
        if let Some(place) = self.slots.get_mut(slot as usize)
            && let Some((inbox, tag)) = place.take()
        {
            self.free.push(slot);
            inbox.put(Answer { tag, outcome });
        }
    }

    /// Takes nothing more: what the controller has not seen is returned.
    pub fn shut(&mut self, hosts: &Hosts) {
        hosts.remove(&self.port);
        self.port.closed.store(true, Ordering::SeqCst);
        self.port.return_all();
    }

    /// Answers all that is still in the queue, which has been deleted, with `status`.
    pub fn abort(&mut self, status: Status) {
        for place in &mut self.slots {
            if let Some((inbox, tag)) = place.take() {
                inbox.put(Answer { tag, outcome: Outcome::Status(status) });
            }
        }
    }
}

impl Port {
    /// Returns what nobody will serve.
    fn return_all(&self) {
        while let Some(Order { from, tag, .. }) = self.inbox.pop() {
            from.put(Answer { tag, outcome: Outcome::Returned });
        }
    }
}

/// The guest's side.
pub struct Guest {
    port: Arc<Port>,
    inbox: Arc<Inbox>,
    in_flight: u32,
    pushed: bool,
}

impl Guest {
    /// A guest of `port`, in the lane of `ctx`.
    pub fn new(port: Arc<Port>, ctx: &AioContext) -> Guest {
        let inbox = Arc::new(Inbox {
            answers: ArrayQueue::new(GUEST_COMMANDS as usize),
            waiting: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            lane: ctx.handle(),
        });
        Guest { port, inbox, in_flight: 0, pushed: false }
    }

    /// How many commands the host has not answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether no command can be pushed.
    pub fn is_full(&self) -> bool {
        self.in_flight >= GUEST_COMMANDS || self.port.inbox.is_full()
    }

    /// Whether the host is gone and all that it had is answered: another queue is needed.
    pub fn is_orphan(&self) -> bool {
        self.in_flight == 0 && self.port.closed.load(Ordering::Acquire)
    }

    /// Leaves a command with the host. False, and nothing is done, if there is no room after all.
    pub fn push(&mut self, tag: u32, command: &Command) -> bool {
        let order = Order { from: Arc::clone(&self.inbox), tag, command: *command };
        if self.port.inbox.push(order).is_err() {
            return false;
        }
        (self.in_flight, self.pushed) = (self.in_flight + 1, true);
        true
    }

    /// Has the host look, once for all that was pushed.
    pub fn tell(&mut self) {
        if !std::mem::take(&mut self.pushed) {
            return;
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        if !self.port.waiting.swap(true, Ordering::AcqRel) {
            wake(&self.port.lane);
        }
        // The host may have closed between the push and this.
        if self.port.closed.load(Ordering::SeqCst) {
            self.port.return_all();
        }
    }

    /// The guest goes with commands unanswered: none that the host has not put into its queue will get there.
    pub fn abandon(&self) {
        self.inbox.gone.store(true, Ordering::SeqCst);
    }

    /// Whether there may be an answer.
    pub fn has_answer(&self) -> bool {
        self.inbox.waiting.load(Ordering::Relaxed)
    }

    /// The next answer.
    pub fn take(&mut self) -> Option<Answer> {
        if let Some(answer) = self.inbox.answers.pop() {
            self.in_flight -= 1;
            return Some(answer);
        }
        if !self.inbox.waiting.load(Ordering::Relaxed) {
            return None;
        }
        self.inbox.waiting.store(false, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        // One that came before the flag was cleared.
        let answer = self.inbox.answers.pop()?;
        self.in_flight -= 1;
        Some(answer)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.port.guests.fetch_sub(1, Ordering::Relaxed);
    }
}
