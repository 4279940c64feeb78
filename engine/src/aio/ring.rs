//! One io_uring: entries in, completions out to the sinks that asked for them.
//!
//! Invariants, on which the unsafe code of this module stands:
//!
//! - A [`Ring`] is `!Send` and `!Sync`: one thread touches its queues. That thread made it, as `SINGLE_ISSUER` asks.
//! - `sq` and `cq` are the only [`SubmissionQueue`] and [`CompletionQueue`] over the ring. Each reference into them
//!   lives within one method, and no foreign code (a sink, a drop) runs while it does.
//! - The ring's memory is one heap allocation that does not move; the queues point into it and go before it.
//! - The queue's own copy of the head is refreshed after each enter, and the backlog holds entries only while that
//!   copy says that the queue is full. So the order of submission is the order of `push`.
#![allow(unsafe_code)]

mod config;
mod deliver;
mod enter;
mod op;
mod sink;
mod table;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, Probe, SubmissionQueue, Submitter, cqueue, squeue};

pub use config::{RingConfig, SetupFlags};
pub use op::PlainOp;
pub use sink::{Cqe, CqeSink, SinkId};
pub use table::{FixedFile, MAX_BUFFER_BYTES};

use crate::aio::AioError;
use enter::{Until, refused};
use sink::SinkTable;
use table::Tables;

/// The bits of `user_data` below the sink's number.
const KEY_BITS: u32 = 48;
const KEY_MASK: u64 = (1 << KEY_BITS) - 1;

/// An io_uring and the sinks that its completions go to. Not `Send`.
///
/// An [`AioContext`](super::AioContext) owns one and sleeps in it. A driver may own a further one where it needs
/// flags that the lane's cannot have (IOPOLL, SQPOLL); it then calls [`submit`](Self::submit) and
/// [`reap`](Self::reap) itself, from its [`Poller`](super::Poller).
pub struct Ring {
    sq: UnsafeCell<ManuallyDrop<SubmissionQueue<'static>>>,
    cq: UnsafeCell<ManuallyDrop<CompletionQueue<'static>>>,
    submitter: ManuallyDrop<Submitter<'static>>,
    /// Entries submitted or to be submitted, whose last completion has not been reaped.
    in_flight: Cell<u32>,
    enters: Cell<u64>,
    flags: SetupFlags,
    can_be_quiet: bool,
    sinks: SinkTable,
    backlog: RefCell<VecDeque<squeue::Entry>>,
    tables: RefCell<Tables>,
    probe: Box<Probe>,
    /// Where reads of eventfds put their counts, which nobody looks at.
    scratch: NonNull<u64>,
    uring: NonNull<IoUring>,
}

impl Ring {
    /// Sets a ring up, with the best flags that the kernel grants.
    ///
    /// # Errors
    /// [`AioError::Disabled`], [`AioError::BadConfig`], [`AioError::KernelTooOld`], [`AioError::MemLock`] or
    /// [`AioError::Setup`].
    pub fn new(config: &RingConfig) -> Result<Rc<Self>, AioError> {
        let (uring, mut flags) = config.create()?;
        let mut probe = Box::new(Probe::new());
        uring
            .submitter()
            .register_probe(&mut probe)
            .map_err(|source| AioError::Register { what: "a probe", source })?;
        let uring: &'static mut IoUring = Box::leak(Box::new(uring));
        let uring = NonNull::from(uring);
        // SAFETY: the allocation was just leaked, so it lives until `drop` frees it, and only shared references to it
        // are made from here on.
        let shared: &'static IoUring = unsafe { uring.as_ref() };
        let mut submitter = shared.submitter();
        // A thread has 16 places for registered rings; with none left the descriptor itself does.
        if config.allow.contains(SetupFlags::REGISTERED_RING) && submitter.register_ring_fd().is_ok() {
            flags |= SetupFlags::REGISTERED_RING;
        }
        // SAFETY: this is the only submission queue ever made over this ring.
        let sq = unsafe { shared.submission_shared() };
        // SAFETY: this is the only completion queue ever made over this ring.
        let cq = unsafe { shared.completion_shared() };
        Ok(Rc::new(Self {
            sq: UnsafeCell::new(ManuallyDrop::new(sq)),
            cq: UnsafeCell::new(ManuallyDrop::new(cq)),
            submitter: ManuallyDrop::new(submitter),
            in_flight: Cell::new(0),
            enters: Cell::new(0),
            flags,
            can_be_quiet: shared.params().is_feature_no_iowait(),
            sinks: SinkTable::default(),
            backlog: RefCell::default(),
            tables: RefCell::new(Tables::new(config)),
            probe,
            scratch: NonNull::from(Box::leak(Box::new(0))),
            uring,
        }))
    }

    /// What the ring was set up with.
    #[must_use]
    pub fn set_up_flags(&self) -> SetupFlags {
        self.flags
    }

    /// Whether the kernel knows an opcode (`io_uring::opcode::X::CODE`).
    #[must_use]
    pub fn supports(&self, opcode: u8) -> bool {
        self.probe.is_supported(opcode)
    }

    /// How often `io_uring_enter(2)` was called.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// Entries pushed whose last completion has not been reaped.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Gives completions a place to go to. The sink must not be pushed for after [`remove_sink`](Self::remove_sink).
    pub fn add_sink(&self, sink: Rc<dyn CqeSink>) -> SinkId {
        self.sinks.add(sink)
    }

    /// Forgets a sink. It should have nothing in flight: what completes for it later is dropped, or goes to a sink that
    /// was given the same number since.
    pub fn remove_sink(&self, id: SinkId) {
        drop(self.sinks.remove(id));
    }

    /// Queues an entry; its completion goes to `sink` with `key`, which must be below 2^48. Never fails: a full queue
    /// is submitted first.
    ///
    /// The entry's own `user_data` is overwritten. It is sent by the next [`submit`](Self::submit), at the latest at
    /// the end of the lane's turn.
    ///
    /// # Safety
    /// Whatever the entry points to (buffers, vectors, paths, time specs) stays valid, and, where the kernel writes
    /// it, untouched by others, until its last completion has been delivered to the sink.
    #[inline(always)]
    pub unsafe fn push(&self, sink: SinkId, key: u64, mut entry: squeue::Entry) {
        debug_assert!(key <= KEY_MASK, "the key {key:#x} needs more than 48 bits");
        entry.set_user_data(u64::from(sink.0) << KEY_BITS | key & KEY_MASK);
        self.in_flight.set(self.in_flight.get().wrapping_add(1));
        // SAFETY: one thread, and the reference ends with this statement (module invariants). The entry is valid by
        // this function's contract.
        let full = unsafe { (*self.sq.get()).push(&entry) }.is_err();
        if full {
            self.push_slow(entry);
        }
    }

    /// The queue is full by what we know: submit it, and keep the entry aside if the kernel takes none.
    #[cold]
    #[inline(never)]
    fn push_slow(&self, entry: squeue::Entry) {
        let waiting = !self.backlog.borrow().is_empty();
        self.backlog.borrow_mut().push_back(entry);
        if waiting {
            return;
        }
        if let Err(error) = self.enter(Until::NOW) {
            // Not lost: the entry waits in the backlog, and the lane's own enter meets the same error.
            tracing::warn!(error = %AioError::Enter(error), "a full submission queue could not be submitted");
        }
    }

    /// Makes sure that `count` entries can be pushed without an enter between them, which would end a chain of linked
    /// entries. False if the ring is smaller than that, or the kernel takes nothing now.
    pub fn reserve(&self, count: u32) -> bool {
        let fits = || {
            // SAFETY: one thread, and the reference ends with this block (module invariants).
            let sq = unsafe { &*self.sq.get() };
            sq.capacity() - sq.len() >= count as usize
        };
        fits() || (self.enter(Until::NOW).is_ok() && fits())
    }

    /// Entries pushed and not yet taken by the kernel.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> usize {
        // SAFETY: one thread, and the reference ends with this statement (module invariants).
        let queued = unsafe { (*self.sq.get()).len() };
        queued + if queued == 0 { 0 } else { self.backlog.borrow().len() }
    }

    /// Whether there is anything to submit. The backlog fills behind the queue, so it need not be looked at.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        // SAFETY: one thread, and the reference ends with this statement (module invariants).
        unsafe { !(*self.sq.get()).is_empty() }
    }

    /// Whether completions can be reaped without entering the kernel.
    #[inline]
    #[must_use]
    pub fn has_completions(&self) -> bool {
        // SAFETY: one thread, and the reference ends with this block (module invariants).
        let cq = unsafe { &mut *self.cq.get() };
        cq.sync();
        !cq.is_empty()
    }

    /// Whether the kernel must be entered for completions to show: task work waits, the completion queue overflowed,
    /// or the device is polled.
    #[inline]
    fn needs_kernel(&self) -> bool {
        // SAFETY: one thread, and the reference ends with this block (module invariants).
        let sq = unsafe { &*self.sq.get() };
        sq.taskrun()
            || sq.cq_overflow()
            || (self.flags.contains(SetupFlags::IOPOLL) && self.in_flight.get() > 0)
    }

    /// Sends what was pushed, in at most one `io_uring_enter(2)`; none if there is nothing to send, no task work
    /// waits and no completion queue overflowed. On an IOPOLL ring this also polls the device once.
    ///
    /// Returns how many entries the kernel took. A kernel that is short of memory, or wants completions reaped first,
    /// takes fewer; the rest goes with the next call.
    ///
    /// # Errors
    /// [`AioError::Enter`] for what a retry does not cure.
    #[inline]
    pub fn submit(&self) -> Result<usize, AioError> {
        self.send().map_err(AioError::Enter)
    }

    /// [`submit`](Self::submit), with the bare error, which fits into a register.
    #[inline]
    pub(super) fn send(&self) -> io::Result<usize> {
        if self.pending() == 0 && !self.needs_kernel() {
            return Ok(0);
        }
        self.enter(Until::NOW)
    }

    /// Sends what was pushed, of which the caller knows that there is something.
    #[inline(always)]
    pub(super) fn send_queued(&self) -> io::Result<usize> {
        if self.flags.intersects(SetupFlags::IOPOLL.union(SetupFlags::SQPOLL))
            || !self.backlog.borrow().is_empty()
        {
            return self.enter(Until::NOW);
        }
        let to_submit = self.publish();
        let flags = if self.needs_kernel() { EnterFlags::GETEVENTS } else { EnterFlags::empty() };
        self.enters.set(self.enters.get() + 1);
        // SAFETY: the entries were vouched for by their pushers; there is no argument.
        let result = unsafe { self.submitter.enter::<()>(to_submit, 0, flags.bits(), None) };
        self.publish();
        result.or_else(refused)
    }

    /// Sends what was pushed and waits for `want` completions, or until the time is over, in one
    /// `io_uring_enter(2)`. A signal ends the wait early.
    ///
    /// # Errors
    /// [`AioError::Enter`] for what a retry does not cure.
    #[inline]
    pub fn submit_and_wait(&self, want: u32, timeout: Option<Duration>) -> Result<usize, AioError> {
        self.enter(Until { want, timeout, quiet: false }).map_err(AioError::Enter)
    }

    /// [`submit_and_wait`](Self::submit_and_wait) for one completion, for the lane's sleep. A quiet one does not count
    /// as waiting for I/O, where the kernel can tell (6.15).
    #[inline]
    pub(super) fn sleep(&self, timeout: Option<Duration>, quiet: bool) -> io::Result<usize> {
        self.enter(Until { want: 1, timeout, quiet: quiet && self.can_be_quiet })
    }

    /// Publishes the tail and refreshes the head. Returns the number of entries to submit.
    #[inline]
    fn publish(&self) -> u32 {
        // SAFETY: one thread, and the reference ends with this function (module invariants).
        let sq = unsafe { &mut *self.sq.get() };
        sq.sync();
        sq.len() as u32
    }

    #[inline(never)]
    fn enter(&self, until: Until) -> io::Result<usize> {
        let to_submit = self.publish();
        if !self.backlog.borrow().is_empty() {
            return self.enter_with_backlog(until);
        }
        let taken = self.enter_once(to_submit, until);
        self.publish();
        taken
    }

    /// The queue was too small for what was pushed: enters as often as it takes, and waits only in the last one.
    #[cold]
    fn enter_with_backlog(&self, until: Until) -> io::Result<usize> {
        let mut submitted = 0;
        loop {
            let last = self.refill();
            if last && until.want == 0 && submitted > 0 {
                return Ok(submitted);
            }
            let taken = self.enter_once(self.publish(), if last { until } else { Until::NOW })?;
            submitted += taken;
            // A kernel that takes nothing wants its completions reaped; the submission thread takes in its own time.
            if last || taken == 0 || self.flags.contains(SetupFlags::SQPOLL) {
                self.refill();
                return Ok(submitted);
            }
        }
    }

    /// Moves entries from the backlog into the queue. True if none is left.
    fn refill(&self) -> bool {
        // SAFETY: one thread, and the reference ends with this function, which runs no foreign code.
        let sq = unsafe { &mut *self.sq.get() };
        let mut backlog = self.backlog.borrow_mut();
        sq.sync();
        while let Some(entry) = backlog.front() {
            // SAFETY: whoever pushed the entry vouched for it until its completion.
            if unsafe { sq.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
        backlog.is_empty()
    }

    /// One enter, if one is needed.
    fn enter_once(&self, to_submit: u32, until: Until) -> io::Result<usize> {
        let Until { want, timeout, quiet } = until;
        let mut flags = EnterFlags::empty();
        if want > 0 || self.needs_kernel() {
            flags |= EnterFlags::GETEVENTS;
        }
        if quiet {
            flags |= EnterFlags::NO_IOWAIT;
        }
        if self.flags.contains(SetupFlags::SQPOLL) {
            // SAFETY: one thread, and the reference ends with this statement (module invariants).
            if unsafe { (*self.sq.get()).need_wakeup() } {
                flags |= EnterFlags::SQ_WAKEUP;
            } else if flags.is_empty() {
                return Ok(to_submit as usize);
            }
        }
        self.enters.set(self.enters.get() + 1);
        let result = match timeout {
            Some(timeout) if want > 0 => {
                let time = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&time);
                flags |= EnterFlags::EXT_ARG;
                // SAFETY: the entries were vouched for by their pushers; `args` and `time` live beyond the call.
                unsafe { self.submitter.enter(to_submit, want, flags.bits(), Some(&args)) }
            }
            // SAFETY: the entries were vouched for by their pushers; there is no argument.
            _ => unsafe { self.submitter.enter::<()>(to_submit, want, flags.bits(), None) },
        };
        match result {
            Ok(taken) => Ok(taken),
            Err(error) => refused(error),
        }
    }

    /// How many completions there are.
    #[inline(always)]
    fn ready(&self) -> usize {
        // SAFETY: one thread, and the reference ends with this block (module invariants).
        let cq = unsafe { &mut *self.cq.get() };
        cq.sync();
        cq.len()
    }

    /// Copies the next completion out of the queue, whose place is the kernel's again.
    #[inline(always)]
    fn take_one(&self) -> Option<Cqe> {
        // SAFETY: one thread, and the reference ends with this block (module invariants). The entry is a copy.
        let cq = unsafe { &mut *self.cq.get() };
        let cqe = cq.next().map(Cqe);
        cq.sync();
        cqe
    }

    /// Gives the places of the completions that were taken back to the kernel.
    #[inline(always)]
    fn give_places_back(&self) {
        // SAFETY: one thread, and the reference ends with this statement (module invariants).
        unsafe { (*self.cq.get()).sync() };
    }

    /// Copies completions out of the queue.
    #[inline(always)]
    fn take<'a>(&self, space: &'a mut [MaybeUninit<Cqe>]) -> &'a [Cqe] {
        // SAFETY: `Cqe` is transparent over the queue's entry, so the slices are of one layout, initialised or not.
        let space = unsafe { &mut *(std::ptr::from_mut(space) as *mut [MaybeUninit<cqueue::Entry>]) };
        // SAFETY: one thread, and the reference ends with this statement (module invariants).
        let cqes = unsafe { (*self.cq.get()).fill(space) };
        // SAFETY: as above; `fill` returns the part that it has initialised.
        unsafe { &*(std::ptr::from_ref(cqes) as *const [Cqe]) }
    }
}

impl Ring {
    /// Queues an operation that touches no memory of the caller's.
    pub fn push_plain(&self, sink: SinkId, key: u64, op: PlainOp<'_>) {
        let entry = op.entry(self.scratch);
        // SAFETY: no plain operation refers to memory, except the eventfd read, whose eight bytes are the ring's own
        // scratch; `drop` leaks them if anything is in flight.
        unsafe { self.push(sink, key, entry) };
    }

    /// Fills an entry of the table of buffers, or empties it.
    fn set_buffer(&self, index: u32, start: *mut u8, len_bytes: usize) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: start.cast(), iov_len: len_bytes };
        // SAFETY: the kernel checks that the range is mapped and takes references to its pages, so nothing here
        // depends on how long the mapping lives; who pushes I/O on it answers for that.
        unsafe { self.submitter.register_buffers_update(index, &[buffer], None) }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("flags", &self.flags)
            .field("in_flight", &self.in_flight.get())
            .field("enters", &self.enters.get())
            .finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.flags.contains(SetupFlags::REGISTERED_RING) {
            // A registered descriptor keeps the ring alive until the thread ends.
            let _ = self.submitter.unregister_ring_fd();
        }
        // SAFETY: dropped once, before the memory that it points into.
        unsafe { ManuallyDrop::drop(self.sq.get_mut()) };
        // SAFETY: dropped once, before the memory that it points into.
        unsafe { ManuallyDrop::drop(self.cq.get_mut()) };
        // SAFETY: leaked by `new` and freed only here; the queues over it are gone and the submitter, which has no
        // destructor, is not used again.
        drop(unsafe { Box::from_raw(self.uring.as_ptr()) });
        if self.in_flight.get() == 0 {
            // SAFETY: leaked by `new` and freed only here; nothing in flight, so the kernel writes no count.
            drop(unsafe { Box::from_raw(self.scratch.as_ptr()) });
        }
    }
}
