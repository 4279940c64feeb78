//! The event loop: one [`AioContext`], its turn, and what runs in it.
//!
//! Nothing of the context is borrowed while foreign code runs (tasks, callbacks, pollers, sinks, destructors), so that
//! all of it may use the context. The one thing they may not do is turn it: a turn within a turn would run a task
//! inside another.

mod work;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::bh::{BhHeader, Callback};
use super::current::{self, Entered};
use super::fd::FdSource;
use super::handle::AioHandle;
use super::idle::{AtOnce, Idle};
use super::poller::{Asked, Pollers, Readiness};
use super::ready::{ReadyQueue, Work};
use super::ring::Ring;
use super::shared::{LaneId, Remote, Shared};
use super::task::{TaskHeader, TaskId, Tasks};
use super::timer::Timers;
use super::wake::WakeSource;
use super::{AioConfig, AioError};

/// Whether a turn may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Return at once.
    No,
    /// Wait for something to happen if nothing did, as QEMU's `aio_poll(ctx, true)`.
    Yes,
}

/// Whether a turn may wait, with what only the loops of this module can ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Park {
    No,
    /// Unless something happened in this turn: the caller may have waited for just that.
    IfIdle,
    /// Even if tasks ran in this turn: the loop knows that it waits for something else.
    IfNothingReady,
}

/// With timers set, a turn in which something happened looks at the clock only once in so many.
const TURNS_PER_CLOCK_READ: u8 = 8;

/// How often a lane that has nothing to do but to look at its devices does so before it goes through a whole turn again.
const LOOKS_PER_TURN: u32 = 16;

struct Inner {
    shared: Arc<Shared>,
    ring: Rc<Ring>,
    ready: ReadyQueue,
    tasks: RefCell<Tasks>,
    /// Whether the future of `block_on` was woken.
    main_woken: Cell<bool>,
    pollers: Pollers,
    timers: Timers,
    turns_without_clock: Cell<u8>,
    bottom_halves: RefCell<Vec<Option<Rc<Callback>>>>,
    idle: Idle,
    at_once: AtOnce,
    wake: WakeSource,
    fds: FdSource,
    turning: Cell<bool>,
    /// Tasks whose result another thread awaits.
    awaited: Cell<usize>,
    ended: Cell<bool>,
}

/// One event loop. A clone is another handle on the same one. `!Send`: other threads use its [`handle`](Self::handle).
///
/// A context whose tasks hold handles on it is kept alive by them: call [`shutdown`](Self::shutdown) when done, as
/// [`IoThread`](super::IoThread) does.
#[derive(Clone)]
pub struct AioContext(Rc<Inner>);

impl AioContext {
    /// Makes an event loop for the calling thread.
    ///
    /// # Errors
    /// Those of [`Ring::new`], [`AioError::BadConfig`] and [`AioError::EventFd`].
    pub fn new(config: &AioConfig) -> Result<Self, AioError> {
        let shared = Shared::new(config)?;
        let ring = Ring::new(&config.ring())?;
        let (wake, fds) = (WakeSource::new(&ring), FdSource::new(&ring));
        Ok(Self(Rc::new(Inner {
            shared,
            ring,
            ready: ReadyQueue::new(),
            tasks: RefCell::default(),
            main_woken: Cell::new(false),
            pollers: Pollers::default(),
            timers: Timers::default(),
            turns_without_clock: Cell::new(0),
            bottom_halves: RefCell::default(),
            idle: Idle::new(config.poll),
            at_once: AtOnce::new(),
            wake,
            fds,
            turning: Cell::new(false),
            awaited: Cell::new(0),
            ended: Cell::new(false),
        })))
    }

    /// The context that runs on this thread, seen from inside its turn.
    #[must_use]
    pub fn current() -> Option<Self> {
        current::with(Self::clone)
    }

    /// Where it is, which no other context has in common with it as long as it lives.
    #[inline]
    pub(super) fn address(&self) -> usize {
        Rc::as_ptr(&self.0).addr()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.0.timers
    }

    pub(super) fn fds(&self) -> &FdSource {
        &self.0.fds
    }

    /// The context's identity.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.0.shared.id
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> AioHandle {
        AioHandle::new(Arc::clone(&self.0.shared))
    }

    /// The ring that the lane sleeps in. What is pushed there is submitted at the end of the turn.
    #[must_use]
    pub fn ring(&self) -> &Rc<Ring> {
        &self.0.ring
    }

    /// How long the lane looks again before it sleeps, as adaptive polling has learned, in nanoseconds.
    #[must_use]
    pub fn poll_ns(&self) -> u64 {
        self.0.idle.poll_ns()
    }
}

/// The loop.
impl AioContext {
    /// Makes this the thread's current context ([`current`](Self::current)) until the guard is dropped. A loop around
    /// [`turn`](Self::turn) that holds one spares each turn the change.
    #[must_use = "the context is current only as long as the guard lives"]
    pub fn enter(&self) -> Entered {
        Entered::new(self)
    }

    /// One turn: mailbox, ready tasks and bottom halves, pollers' commits, the ring, completions, timers. True if
    /// something happened. With [`Wait::Yes`] it waits if nothing did; it may return false then, too, having looked
    /// again for a while, so call it in a loop.
    ///
    /// # Panics
    /// When called from inside a turn of the same context, and when the kernel refuses the ring for good.
    #[inline]
    pub fn turn(&self, wait: Wait) -> bool {
        let park = match wait {
            Wait::No => Park::No,
            Wait::Yes => Park::IfIdle,
        };
        if current::is(self) {
            return self.turn_once(park);
        }
        let _current = Entered::new(self);
        self.turn_once(park)
    }

    /// Turns until [`AioHandle::stop`] is called, then ends the lane in order: no more mail is accepted; what was
    /// accepted is run; what another thread awaits ([`AioHandle::run_on`]) is run to its end. Other tasks are left as
    /// they are, for [`shutdown`](Self::shutdown) to drop.
    ///
    /// # Panics
    /// As [`turn`](Self::turn), and with whatever a task or callback panics with.
    pub fn run(&self) {
        let _current = Entered::new(self);
        while !self.0.shared.is_stopped() {
            self.turn_once(Park::IfNothingReady);
        }
        self.0.shared.close();
        while self.0.shared.has_mail() || self.0.awaited.get() > 0 || !self.0.ready.is_empty() {
            self.turn_once(if self.0.shared.has_mail() { Park::No } else { Park::IfIdle });
        }
    }

    /// Turns until the future is done, and gives its result. The future may borrow from the caller.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _current = Entered::new(self);
        let waker = Waker::from(TaskHeader::new(TaskId::MAIN, Arc::clone(&self.0.shared)));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        self.0.main_woken.set(true);
        loop {
            if self.0.main_woken.replace(false)
                && let Poll::Ready(value) = future.as_mut().poll(&mut cx)
            {
                return value;
            }
            self.turn_once(Park::IfNothingReady);
        }
    }

    fn turn_once(&self, park: Park) -> bool {
        let inner = &*self.0;
        assert!(
            !inner.turning.replace(true),
            "a turn of this AioContext is under way: await instead of blocking"
        );
        let notified = inner.shared.signal.take();
        if notified {
            self.take_remote();
        }
        let ran = !inner.ready.is_empty();
        if ran {
            self.run_ready();
        }
        let pollers = inner.pollers.now();
        let readiness = pollers.commit();
        let may_park = match park {
            Park::No => false,
            Park::IfIdle => !ran,
            Park::IfNothingReady => !inner.main_woken.get(),
        };
        let may_park = may_park && !notified && inner.ready.is_empty();
        let mut happened = if may_park && readiness == Readiness::Idle {
            self.exchange()
        } else {
            self.check(inner.ring.send());
            inner.ring.reap() > 0
        };
        happened |= pollers.reap() | ran | notified;
        if !happened && may_park && readiness == Readiness::Spin {
            happened = self.look_again(&pollers);
        }
        drop(pollers);
        if !inner.timers.is_empty() {
            happened |= self.expire_timers(happened);
        }
        if happened {
            inner.idle.busy();
        }
        inner.turning.set(false);
        happened
    }

    /// Sends what is queued, waits if that is right, and takes completions. True if there were any.
    #[inline]
    fn exchange(&self) -> bool {
        let Inner { ring, at_once, .. } = &*self.0;
        if ring.has_pending() && at_once.guess() {
            return self.exchange_at_once();
        }
        if ring.has_completions() {
            self.check(ring.send());
        } else {
            self.wait();
        }
        ring.reap() > 0
    }

    /// Sends what is queued and takes what has completed within that very call.
    #[inline(always)]
    fn exchange_at_once(&self) -> bool {
        let Inner { ring, at_once, .. } = &*self.0;
        self.check(ring.send_queued());
        let right = ring.reap() > 0;
        at_once.learn(right);
        right
    }

    /// What a turn would do for the lane's ring alone, without waiting: sends what is queued, if that is likely to complete
    /// at once, and takes completions. True if there were any.
    #[inline]
    pub(crate) fn poll_ring(&self) -> bool {
        let Inner { ring, at_once, .. } = &*self.0;
        if !ring.has_pending() {
            return ring.reap() > 0;
        }
        at_once.guess() && self.exchange_at_once()
    }

    /// Looks at the devices some more times, until something happens, as long as nothing else needs the lane: what is
    /// found by looking is found after one look, not after a turn. True if something happened.
    #[inline(never)]
    fn look_again(&self, pollers: &Asked<'_>) -> bool {
        let Inner { shared, ring, ready, .. } = &*self.0;
        for _ in 0..LOOKS_PER_TURN {
            if pollers.reap() {
                return true;
            }
            if shared.signal.is_set() || !ready.is_empty() || ring.has_pending() || ring.has_completions() {
                return false;
            }
        }
        false
    }

    /// Submits, and sleeps until something happens if that is right. One enter.
    #[inline(never)]
    fn wait(&self) {
        let inner = &*self.0;
        // In this order: a lane that polls need not look at the clock for its timers here.
        let sleep = inner.idle.may_sleep();
        let timeout = if sleep { inner.timers.wait() } else { None };
        if !sleep || timeout == Some(Duration::ZERO) {
            self.check(inner.ring.send());
            return;
        }
        inner.wake.arm(&inner.ring, &inner.shared);
        if inner.shared.signal.try_sleep() {
            // What only waits to be woken is no I/O, and a sleep for it should not be accounted as waiting for I/O.
            let quiet = inner.ring.in_flight() <= 1 + inner.fds.in_flight();
            self.check(inner.ring.sleep(timeout, quiet));
            inner.shared.signal.wake();
        } else {
            self.check(inner.ring.send());
        }
    }

    #[inline]
    fn check(&self, entered: io::Result<usize>) {
        if let Err(error) = entered {
            self.cannot_go_on(error);
        }
    }

    #[cold]
    fn cannot_go_on(&self, error: io::Error) -> ! {
        let (name, error) = (&self.0.shared.name, AioError::Enter(error));
        panic!("lane {name}: {error}; what is in flight cannot be completed");
    }

    #[inline(never)]
    fn expire_timers(&self, happened: bool) -> bool {
        let turns = &self.0.turns_without_clock;
        if happened && turns.get() + 1 < TURNS_PER_CLOCK_READ {
            turns.set(turns.get() + 1);
            return false;
        }
        turns.set(0);
        self.0.timers.expire()
    }

    /// Takes what other threads sent: wake-ups to the ready queue, mail to be run at once.
    #[cold]
    fn take_remote(&self) {
        let shared = &self.0.shared;
        while let Some(remote) = shared.remote.pop() {
            match remote {
                Remote::Task(header) => {
                    header.queued.leave();
                    self.wake_task(header.id);
                }
                Remote::BottomHalf(header) => self.take_remote_bh(&header),
            }
        }
        // Bounded, so that closures that post closures do not keep the turn here.
        for _ in 0..shared.mailbox_capacity() {
            let Some(mail) = shared.take_mail() else { break };
            mail(self);
        }
        shared.space_was_made();
        if shared.has_mail() {
            shared.signal.keep();
        }
    }

    fn take_remote_bh(&self, header: &Arc<BhHeader>) {
        let callback = self.0.bottom_halves.borrow().get(header.index).cloned().flatten();
        if let Some(callback) = callback.filter(|callback| Arc::ptr_eq(&callback.header, header)) {
            self.push_bh(&callback);
        }
    }

    /// Runs what is ready now, not what becomes ready meanwhile.
    #[inline(never)]
    fn run_ready(&self) {
        for _ in 0..self.0.ready.len() {
            match self.0.ready.pop() {
                Some(Work::Task(id)) => self.poll_task(id),
                Some(Work::BottomHalf(callback)) => callback.run(),
                Some(Work::Once(callback)) => callback(),
                None => break,
            }
        }
    }

    fn poll_task(&self, id: TaskId) {
        let taken = self.0.tasks.borrow_mut().take(id);
        let Some(mut body) = taken else { return };
        match body.poll() {
            Poll::Pending => self.0.tasks.borrow_mut().put_back(id, body),
            Poll::Ready(()) => self.0.tasks.borrow_mut().remove(id),
        }
    }

    /// Ends the context: mail is accepted no more, what was accepted is run, and then tasks, bottom halves, timers and
    /// pollers are dropped, in this order, each in the lane. Who owns something in flight waits for it in its
    /// destructor. Repeating it does nothing.
    ///
    /// # Panics
    /// When called from inside a turn of the same context.
    pub fn shutdown(&self) {
        assert!(!self.0.turning.get(), "shutdown of an AioContext from inside its turn");
        let _current = Entered::new(self);
        self.0.shared.close();
        while let Some(mail) = self.0.shared.take_mail() {
            mail(self);
        }
        self.abandon();
    }

    /// Drops everything that the context runs.
    pub(super) fn abandon(&self) {
        let _current = Entered::new(self);
        let inner = &*self.0;
        inner.shared.close();
        while inner.shared.take_mail().is_some() {}
        // A task's destructor may spawn another.
        while self.task_count() > 0 {
            let bodies = inner.tasks.borrow_mut().take_all();
            drop(bodies);
        }
        drop(inner.ready.take_all());
        let bottom_halves = std::mem::take(&mut *inner.bottom_halves.borrow_mut());
        drop(bottom_halves);
        inner.timers.clear();
        inner.pollers.clear();
        while inner.shared.remote.pop().is_some() {}
        if !inner.ended.replace(true) {
            inner.fds.finish(&inner.ring);
            inner.wake.disarm(&inner.ring, &inner.shared);
        }
    }
}

impl std::fmt::Debug for AioContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AioContext")
            .field("id", &self.id())
            .field("ring", &self.0.ring)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        while self.shared.take_mail().is_some() {}
        if !self.ended.get() {
            self.fds.finish(&self.ring);
            self.wake.disarm(&self.ring, &self.shared);
        }
    }
}
