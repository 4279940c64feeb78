//! [`Control`]: a controller's [state](super::state), shared by its queues, and how whoever notices a fault says so.
//!
//! Invariants:
//! - Whoever notices a fault calls [`fail`](Control::fail), from any thread, with the epoch that it saw it in; what is older
//!   than that was dealt with. The work is the [warden](super::warden)'s.
//! - Lanes are woken whenever the state has changed, and at a tick if they sleep with something in flight.
//! - Who rings doorbells of I/O queues says so before it looks at the state and until it has rung
//!   ([`LaneGuard::begin`]); a controller is stopped once all who looked before are through. So no doorbell is rung of a
//!   queue that a reset has deleted, however long the thread that was about to ring it does not run.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use corelane_dma::fence_all_threads;
use corelane_engine::aio::{AioContext, AioHandle};
use corelane_engine::block::{Errno, IoError};
use rustix::event::{EventfdFlags, eventfd};

use super::deadline::Deadline;
use super::state::{State, Word};
use crate::nvme::controller::registers::Registers;
use crate::nvme::error::NvmeError;
use crate::nvme::spec::Qid;

/// See the module's documentation.
pub struct Control {
    registers: Registers,
    word: AtomicU64,
    /// Why it is not running.
    reason: Mutex<Reason>,
    lanes: Mutex<Vec<Entry>>,
    next_lane: AtomicU64,
    deadline: Deadline,
    /// Commands beyond their deadline, which the warden is to abort.
    late: Mutex<Vec<Late>>,
    /// Queues whose completions had no interrupt.
    missed: Mutex<Vec<Qid>>,
    /// Whether commands have completed since the warden last looked.
    progress: AtomicBool,
    /// Nobody uses it any more: whoever still asks the controller something is not to wait for the answer.
    closing: AtomicBool,
    /// Wakes the warden.
    bell: OwnedFd,
}

#[derive(Clone, Default)]
struct Reason {
    text: String,
    gone: bool,
    /// It is gone as far as its registers tell, which may have been switched off.
    unclear: bool,
}

/// A command that was not completed in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Late {
    /// In which epoch it was sent.
    pub epoch: u32,
    /// Its queue.
    pub qid: Qid,
    /// Its number.
    pub cid: u16,
}

struct Entry {
    id: u64,
    /// Who is woken; a thread that waits by itself needs no waking.
    lane: Option<AioHandle>,
    flags: Arc<LaneFlags>,
}

#[derive(Default)]
struct LaneFlags {
    /// It sleeps with something in flight, or did.
    watched: AtomicBool,
    /// It may be about to ring a doorbell.
    ringing: AtomicBool,
}

impl Control {
    /// Of a controller that is about to be enabled.
    ///
    /// # Errors
    /// [`NvmeError::Io`] without an eventfd.
    pub fn new(registers: Registers, deadline: Deadline) -> Result<Arc<Control>, NvmeError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| {
            NvmeError::Io { what: "making an eventfd for a controller's thread", source: errno.into() }
        })?;
        Ok(Arc::new(Control {
            registers,
            word: AtomicU64::new(Word::new(State::Starting).raw()),
            reason: Mutex::default(),
            lanes: Mutex::default(),
            next_lane: AtomicU64::new(0),
            deadline,
            late: Mutex::default(),
            missed: Mutex::default(),
            progress: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            bell,
        }))
    }

    /// The registers.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The controller's name.
    pub fn address(&self) -> &str {
        self.registers.bus().address()
    }

    /// How deadlines are counted.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// State, epoch and tick now. One load of a line that is written only at ticks and when something fails.
    #[inline(always)]
    pub fn word(&self) -> Word {
        Word::from_raw(self.word.load(Ordering::Acquire))
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.word().state()
    }

    /// Whether it is driven.
    pub fn is_running(&self) -> bool {
        self.state() == State::Running
    }

    /// Changes the state if `next` may follow the one of now, and `only_if` says so. The word after it.
    fn change(&self, next: State, only_if: impl Fn(Word) -> bool) -> Option<Word> {
        let change = |raw| {
            let word = Word::from_raw(raw);
            if only_if(word) { word.with_state(next).map(Word::raw) } else { None }
        };
        let before = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).ok()?;
        Word::from_raw(before).with_state(next)
    }

    /// Changes the state. False if `next` may not follow.
    pub fn become_state(&self, next: State) -> bool {
        let changed = self.change(next, |_| true).is_some();
        if changed {
            self.wake_lanes();
        }
        changed
    }

    /// Has all end that its own threads are doing.
    pub(super) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether it is being closed.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Ends it for good, with the warden gone: whatever the state was, by the way that leads to `last`.
    pub fn close(&self, last: State) {
        if !self.state().is_final() && self.state() != State::Quiet {
            self.change(State::Stopping, |_| true);
        }
        self.change(last, |_| true);
    }

    /// Counts one tick of the deadlines, and wakes the lanes that sleep with something in flight.
    pub(super) fn tick(&self) {
        let tick = |raw| Some(Word::from_raw(raw).ticked().raw());
        // It always changes.
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, tick);
        for entry in self.lanes().iter().filter(|entry| entry.flags.watched.load(Ordering::Relaxed)) {
            entry.lane.iter().for_each(wake);
        }
    }

    /// Has every lane look at its namespace before it sends more.
    pub(super) fn notice(&self) {
        let notice = |raw| Some(Word::from_raw(raw).noticed().raw());
        // It always changes.
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, notice);
        self.wake_lanes();
    }

    fn reason(&self) -> MutexGuard<'_, Reason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the controller has to be stopped, because of `error`, noticed in `epoch`. Only the first call does
    /// something.
    #[cold]
    pub fn fail(&self, epoch: u32, error: &NvmeError) {
        let mut reason = self.reason();
        if self.change(State::Stopping, |word| word.epoch() == epoch).is_none() {
            return;
        }
        let unclear = matches!(error, NvmeError::Gone { .. });
        *reason = Reason { text: error.to_string(), gone: error.is_gone(), unclear };
        drop(reason);
        tracing::error!(controller = self.address(), %error, "the controller is stopped");
        self.ring();
        self.wake_lanes();
    }

    /// Says that the controller is gone, although it was not that what it was stopped for.
    pub(super) fn note_gone(&self, error: &NvmeError) {
        *self.reason() = Reason { text: error.to_string(), gone: true, unclear: false };
    }

    /// Says that the controller is there after all: its registers read as all ones, but it could be stopped.
    pub(super) fn note_there(&self) {
        let mut reason = self.reason();
        reason.gone &= !reason.unclear;
    }

    /// Why it was stopped last, and whether that was because it is gone.
    pub(super) fn last_reason(&self) -> (String, bool) {
        let reason = self.reason().clone();
        (reason.text, reason.gone)
    }

    /// As [`NvmeError::Stopped`], with the reason.
    pub fn stopped(&self) -> NvmeError {
        let Reason { text, gone, .. } = self.reason().clone();
        NvmeError::Stopped { address: self.address().to_owned(), reason: text, gone }
    }

    /// The word, once it is driven; waits while it is brought back. Blocks, in bounded time.
    ///
    /// # Errors
    /// [`NvmeError::Stopped`] if it was given up.
    pub fn settled(&self) -> Result<Word, NvmeError> {
        loop {
            let word = self.word();
            match word.state() {
                State::Running => return Ok(word),
                State::Stopped | State::Lost => return Err(self.stopped()),
                State::Starting | State::Stopping | State::Quiet => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Waits until the controller provably does nothing any more that it was told of in `epoch`, which has ended: true; or
    /// until it is clear that this cannot be had. Blocks, in bounded time.
    pub fn wait_until_stopped(&self, epoch: u32) -> bool {
        loop {
            let word = self.word();
            match word.state() {
                State::Lost => return false,
                State::Stopped => return true,
                State::Stopping => {}
                State::Starting | State::Running | State::Quiet if word.epoch() != epoch => return true,
                State::Starting | State::Running | State::Quiet => {}
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// How requests end once it is given up: ENODEV if it is gone, else EIO.
    #[cold]
    pub fn request_error(&self) -> IoError {
        if self.reason().gone { Errno::ENODEV.into() } else { Errno::EIO.into() }
    }

    /// Wants a command aborted that is beyond its deadline.
    #[cold]
    pub fn abort(&self, late: Late) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(late);
        self.ring();
    }

    /// The commands to abort, oldest first; those of earlier epochs are none of it.
    pub(super) fn take_late(&self, most: usize) -> Vec<Late> {
        let epoch = self.word().epoch();
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.retain(|late| late.epoch == epoch);
        let count = most.min(late.len());
        late.drain(..count).collect()
    }

    /// Completions of a queue were found for which no interrupt had come.
    #[cold]
    pub fn note_missed(&self, qid: Qid) {
        let controller = self.address();
        tracing::warn!(controller, %qid, "completions were there, but no interrupt had come for them");
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).push(qid);
        self.ring();
    }

    pub(super) fn take_missed(&self) -> Vec<Qid> {
        std::mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Commands have completed.
    pub fn note_progress(&self) {
        self.progress.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_progress(&self) -> bool {
        self.progress.swap(false, Ordering::Relaxed)
    }

    /// Has the warden look.
    pub fn ring(&self) {
        // Fails only where the count is full, which is as good.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Wakes the lane of `ctx` whenever the state has changed, until the guard goes.
    pub fn join(self: &Arc<Control>, ctx: &AioContext) -> LaneGuard {
        self.add(Some(ctx.handle()))
    }

    /// As [`join`](Self::join), for a thread that is no lane and waits by itself.
    pub fn join_thread(self: &Arc<Control>) -> LaneGuard {
        self.add(None)
    }

    fn add(self: &Arc<Control>, lane: Option<AioHandle>) -> LaneGuard {
        let id = self.next_lane.fetch_add(1, Ordering::Relaxed);
        let flags = Arc::new(LaneFlags::default());
        self.lanes().push(Entry { id, lane, flags: Arc::clone(&flags) });
        LaneGuard { control: Arc::clone(self), id, flags }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_lanes(&self) {
        for entry in self.lanes().iter() {
            entry.lane.iter().for_each(wake);
        }
    }

    /// Waits until none rings a doorbell who has not seen that the controller is not driven, but no longer than `most`.
    /// False if one is still at it then.
    pub(super) fn let_bells_end(&self, most: Duration) -> bool {
        // The state has changed before. Who has looked at it before this has said that it rings, and that is seen from here
        // on; who looks after it sees the change.
        fence_all_threads();
        let deadline = Instant::now() + most;
        let mut left: Vec<_> = self.lanes().iter().map(|entry| Arc::clone(&entry.flags)).collect();
        loop {
            left.retain(|flags| flags.ringing.load(Ordering::Acquire));
            if left.is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                tracing::warn!(controller = self.address(), "a lane does not end its turn");
                return false;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Ends a lane's sleep. Allocates nothing.
pub fn wake(lane: &AioHandle) {
    // A full mailbox wakes as well, and a lane that has ended needs no waking.
    let _ = lane.try_post(Box::new(|_| {}));
}

/// A lane that is told of changes.
pub struct LaneGuard {
    control: Arc<Control>,
    id: u64,
    flags: Arc<LaneFlags>,
}

impl LaneGuard {
    /// Whether ticks wake the lane from now on. A lane that sleeps with nothing in flight need not be woken.
    #[inline(always)]
    pub fn watch(&self, on: bool) {
        self.flags.watched.store(on, Ordering::Relaxed);
    }

    /// Doorbells may be rung from now on, if the state is still the one that they are rung in: look at it after this.
    /// Nothing blocks until [`end`](Self::end).
    #[inline(always)]
    pub fn begin(&self) {
        self.flags.ringing.store(true, Ordering::Relaxed);
        // Between this and the look at the state: the compiler keeps the order, and the processor is made to where it matters
        // (`fence_all_threads`).
        compiler_fence(Ordering::SeqCst);
    }

    /// No doorbell is rung any more.
    #[inline(always)]
    pub fn end(&self) {
        self.flags.ringing.store(false, Ordering::Release);
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        self.control.lanes().retain(|entry| entry.id != self.id);
    }
}
