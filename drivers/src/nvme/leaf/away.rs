//! What a queue does beyond sending and completing: ticks, deadlines, retries, and the way through a reset of the controller.
//!
//! ```text
//! joined ──the state is not Running──► waits ──the controller uses no memory──► pulls back ──it runs again──► joins
//!    ▲                                                                                                         │
//!    └──────────────────────────── its queues were made again, what was in flight is sent again ◄──────────────┘
//! ```
//!
//! Invariants:
//! - What was in flight is ended, or kept to be sent again, when the controller has provably stopped, and not before.
//! - Queues are made again on a helper thread, from memory that this queue does not touch meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use corelane_engine::aio::{AioContext, AioHandle, Readiness, offload};
use corelane_engine::block::{Command as Request, Errno, IoError, IoResult, Tag};

use super::NvmeQueue;
use super::link::{Link, Own};
use super::share::Outcome;
use crate::nvme::controller::NvmeController;
use crate::nvme::controller::admin::Permit;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::pair::Plan;
use crate::nvme::recovery::control::{Late, wake};
use crate::nvme::recovery::deadline::Deadline;
use crate::nvme::recovery::retry::Retries;
use crate::nvme::recovery::state::{State, Word};
use crate::nvme::spec::status::Status;

/// What is to be done with a request whose command has come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The command ended like this.
    Ended(IoResult),
    /// The request will be sent again.
    Again,
}

/// See the module's documentation.
pub struct Away {
    retries: Retries,
    deadline: Deadline,
    /// Requests to be sent again, each when its time has come.
    again: Vec<(Tag, Option<Instant>)>,
    /// The epoch for which all was pulled back, or that the queues were made in.
    pulled: u32,
    joining: Option<Arc<Joining>>,
    /// Where the completion queue was at the last tick.
    head: u32,
    ctx: AioContext,
}

/// Queues that are being made again.
struct Joining {
    epoch: u32,
    outcome: Mutex<Option<Result<(), NvmeError>>>,
}

impl Joining {
    fn take(&self) -> Option<Result<(), NvmeError>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has a helper thread make the queues of `plan` again, and wake the lane.
    fn start(controller: Arc<NvmeController>, permit: Permit, plan: Plan, lane: AioHandle) -> Arc<Joining> {
        let joining = Arc::new(Joining { epoch: permit.epoch(), outcome: Mutex::new(None) });
        let told = Arc::clone(&joining);
        // Nobody awaits it: it is looked at when the lane was woken.
        drop(offload(move || {
            let outcome = controller.create_both(permit, plan);
            drop(controller);
            *told.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            wake(&lane);
        }));
        joining
    }
}

impl Away {
    /// Of a queue with the tags `0..tags`.
    pub fn new(controller: &NvmeController, link: &Link, tags: u32, ctx: &AioContext) -> Away {
        let delays = controller.identify().crdt.map(zerocopy::little_endian::U16::get);
        Away {
            retries: Retries::new(tags, controller.options().io_retries, delays),
            deadline: controller.control().deadline(),
            again: Vec::new(),
            pulled: epoch_of(link),
            joining: None,
            head: 0,
            ctx: ctx.clone(),
        }
    }

    /// Whether nothing is to be sent again.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.again.is_empty()
    }

    /// Whether something could be sent again now, if there were room.
    pub fn has_due(&self) -> bool {
        self.again.iter().any(|(_, due)| due.is_none())
    }

    /// Takes what is to be sent again now.
    pub fn take_due(&mut self) -> Vec<Tag> {
        let mut now = None;
        let mut is_due =
            |due: Option<Instant>| due.is_none_or(|due| due <= *now.get_or_insert_with(Instant::now));
        let mut due = Vec::new();
        self.again.retain(|(tag, at)| {
            let is_due = is_due(*at);
            if is_due {
                due.push(*tag);
            }
            !is_due
        });
        due
    }

    /// A request is to be sent again, as soon as there is room.
    pub fn send_again(&mut self, tag: Tag) {
        self.again.push((tag, None));
    }

    /// A request is to be sent again, after `delay`.
    fn send_later(&mut self, tag: Tag, delay: Duration) {
        if delay.is_zero() {
            return self.send_again(tag);
        }
        let due = Instant::now() + delay;
        self.again.push((tag, Some(due)));
        // It ends the lane's sleep; the next turn then finds what is due.
        self.ctx.add_timer(due, || {});
    }

    /// Forgets all of them: they end.
    pub fn take_all(&mut self) -> impl Iterator<Item = Tag> + '_ {
        self.again.drain(..).map(|(tag, _)| tag)
    }

    /// What to do with a request whose command ended with this status at this age.
    pub fn judge(&mut self, tag: Tag, request: &Request, status: Status, age: u32) -> Verdict {
        if status.is_success() {
            return Verdict::Ended(Ok(()));
        }
        self.judge_failed(tag, request, self.outcome(status, age))
    }

    /// What to do with a request that the host says this of.
    pub fn judge_answer(&mut self, tag: Tag, request: &Request, outcome: Outcome) -> Verdict {
        match outcome {
            Outcome::Status(status) if status.is_success() => Verdict::Ended(Ok(())),
            outcome => self.judge_failed(tag, request, outcome),
        }
    }

    #[cold]
    fn judge_failed(&mut self, tag: Tag, request: &Request, outcome: Outcome) -> Verdict {
        match outcome {
            Outcome::Status(status) => match self.retries.after_status(tag, request, status) {
                Some(delay) => self.send_later(tag, delay),
                None => return Verdict::Ended(Err(status.to_io_error())),
            },
            Outcome::Returned => self.send_again(tag),
            Outcome::Reset if self.retries.after_reset(tag, request) => self.send_again(tag),
            Outcome::Reset => return Verdict::Ended(Err(Errno::EIO.into())),
            Outcome::TimedOut => return Verdict::Ended(Err(Errno::ETIMEDOUT.into())),
        }
        Verdict::Again
    }

    /// What a status means for a command of this age: one that was aborted because it was late has timed out.
    pub fn outcome(&self, status: Status, age: u32) -> Outcome {
        if self.deadline.is_late(age) && status.is(Status::ABORT_REQUESTED) {
            return Outcome::TimedOut;
        }
        Outcome::Status(status)
    }

    /// What the stop of the controller means for a command of this age.
    fn outcome_of_reset(&self, age: u32) -> Outcome {
        if self.deadline.is_late(age) { Outcome::TimedOut } else { Outcome::Reset }
    }

    /// The queue has another link.
    pub fn relinked(&mut self, link: &Link) {
        (self.pulled, self.head) = (epoch_of(link), 0);
    }

    /// Waits until no queues are being made. The epoch in which they were, if so. Blocks.
    pub fn finish_joining(&mut self) -> Option<u32> {
        let joining = self.joining.take()?;
        loop {
            if let Some(outcome) = joining.take() {
                return outcome.is_ok().then_some(joining.epoch);
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// In which epoch the controller was told of the link's queues. A guest has none.
fn epoch_of(link: &Link) -> u32 {
    match link {
        Link::Own(own) => own.pair.epoch(),
        Link::Guest(_) => 0,
    }
}

impl NvmeQueue {
    /// A turn in which the state of the controller, or the tick, is not that of the last one.
    #[cold]
    pub(super) fn commit_changed(&mut self) -> Readiness {
        let word = self.control.word();
        match word.state() {
            State::Running => {
                if !self.is_joined(word) {
                    self.pull_back(word);
                    self.join(word);
                }
                if self.is_joined(word) {
                    let before = std::mem::replace(&mut self.changed, word);
                    self.word = word;
                    if !self.may_ring() {
                        // It has changed once more.
                        return Readiness::Ready;
                    }
                    if before.tick() != word.tick() {
                        self.tick();
                    }
                    if let Some(error) = self.watched.failed() {
                        return self.commit_failed(error);
                    }
                    let ended = self.send() | self.table.borrow().has_ended();
                    self.lane.end();
                    return if ended { Readiness::Ready } else { self.readiness() };
                }
            }
            // The lane is woken when it is over.
            State::Stopping => {}
            State::Quiet | State::Starting => self.pull_back(word),
            state @ (State::Stopped | State::Lost) => {
                self.end_all(self.control.request_error(), state == State::Lost);
            }
        }
        if self.table.borrow().has_ended() { Readiness::Ready } else { Readiness::Idle }
    }

    /// A turn with a namespace that is not any more what was opened: what is in flight comes back, nothing is sent. It has begun
    /// to ring.
    fn commit_failed(&mut self, error: IoError) -> Readiness {
        self.take_completions();
        // Guests of this lane may be of other namespaces.
        if let Err(error) = self.link.tell() {
            self.control.fail(self.word.epoch(), &error.into());
        }
        self.lane.end();
        self.end_unsent(error);
        // So that each turn comes here.
        self.word = super::NEVER;
        match self.link.in_flight() {
            _ if self.table.borrow().has_ended() => Readiness::Ready,
            0 => Readiness::Idle,
            _ => Readiness::Spin,
        }
    }

    fn is_joined(&self, word: Word) -> bool {
        match &self.link {
            Link::Own(own) => own.pair.epoch() == word.epoch(),
            // Its host sees to it.
            Link::Guest(_) => true,
        }
    }

    /// A tick: everything in flight is older.
    fn tick(&mut self) {
        // What has completed is not late, even if no interrupt came for it.
        let missed =
            self.alarm.as_ref().is_some_and(|alarm| alarm.is_waiting()) && self.link.has_completion();
        self.take_completions();
        let NvmeQueue { link, control, away, lane, .. } = self;
        if link.in_flight() == 0 {
            lane.watch(false);
        }
        let Link::Own(Own { pair, .. }) = link else { return };
        let (epoch, qid, deadline) = (pair.epoch(), pair.qid(), away.deadline);
        if missed && pair.took_old() {
            control.note_missed(qid);
        }
        let mut overdue = None;
        pair.tick(|cid, age| {
            if deadline.is_just_late(age) {
                control.abort(Late { epoch, qid, cid });
            } else if deadline.is_overdue(age) {
                overdue = Some(cid);
            }
        });
        if let Some(cid) = overdue {
            let (address, timeout_ms) = (control.address().to_owned(), deadline.timeout_ms());
            control.fail(epoch, &NvmeError::Overdue { address, qid, cid, timeout_ms });
        }
        if pair.head() != away.head {
            away.head = pair.head();
            control.note_progress();
        }
    }

    /// With the controller stopped: takes everything back that it had.
    fn pull_back(&mut self, word: Word) {
        let NvmeQueue { table, link, issuer, away, .. } = self;
        let Link::Own(Own { pair, host }) = link else { return self.take_answers() };
        if away.pulled == word.epoch() {
            return;
        }
        (away.pulled, away.head) = (word.epoch(), 0);
        let mut slots = table.borrow();
        pair.pull_back(|tag, age| {
            let outcome = away.outcome_of_reset(age);
            let Some(request) = slots.get_mut(Tag(tag)) else { return host.answer(tag, outcome) };
            if let Verdict::Ended(result) = away.judge_failed(Tag(tag), request, outcome) {
                if let Some(part) = issuer.parts.get_mut(tag as usize) {
                    part.clear();
                }
                slots.end(Tag(tag), result);
            }
        });
    }

    /// Has the queues made again in a controller that runs again, or finds out that they were.
    fn join(&mut self, word: Word) {
        let Link::Own(own) = &mut self.link else { return };
        if let Some(joining) = &self.away.joining {
            let Some(outcome) = joining.take() else { return };
            let epoch = joining.epoch;
            self.away.joining = None;
            match outcome {
                Ok(()) if epoch == word.epoch() => return own.pair.joined(epoch),
                // What was refused once would be refused again.
                Err(error) if epoch == word.epoch() => return self.control.fail(epoch, &error),
                // Before the last reset.
                _ => {}
            }
        }
        let Some(plan) = own.pair.plan() else { return };
        let joining = Joining::start(Arc::clone(&self.controller), Permit::of(word), plan, self.ctx.handle());
        self.away.joining = Some(joining);
    }
}
