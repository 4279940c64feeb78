//! The protocols between lanes: how a sleeper is woken, how a thing is queued at most once, how a full mailbox makes
//! its posters wait, and how it closes with nothing lost.
//!
//! Each is generic over the atomic [`Flag`], so that the tests run the very same code under loom. The reasoning never
//! needs sequential consistency: wherever two sides must not miss each other, both do a read-modify-write on one flag.
//! Of two such operations the later one in the flag's order sees the earlier one, and all that came before it.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// An atomic boolean.
pub(super) trait Flag {
    fn new(value: bool) -> Self;
    fn load(&self, order: Ordering) -> bool;
    fn store(&self, value: bool, order: Ordering);
    fn swap(&self, value: bool, order: Ordering) -> bool;
    /// Clears the flag. True if it was set; if not, nothing is written.
    fn clear(&self, order: Ordering) -> bool;
}

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        Self::new(value)
    }
    #[inline]
    fn load(&self, order: Ordering) -> bool {
        self.load(order)
    }
    #[inline]
    fn store(&self, value: bool, order: Ordering) {
        self.store(value, order);
    }
    #[inline]
    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.swap(value, order)
    }
    #[inline]
    fn clear(&self, order: Ordering) -> bool {
        self.compare_exchange(true, false, order, Relaxed).is_ok()
    }
}

/// An atomic counter.
pub(super) trait Counter {
    fn new(value: usize) -> Self;
    fn load(&self, order: Ordering) -> usize;
    fn fetch_add(&self, value: usize, order: Ordering) -> usize;
    fn fetch_sub(&self, value: usize, order: Ordering) -> usize;
}

impl Counter for AtomicUsize {
    fn new(value: usize) -> Self {
        Self::new(value)
    }
    fn load(&self, order: Ordering) -> usize {
        self.load(order)
    }
    fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        self.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        self.fetch_sub(value, order)
    }
}

/// Tells a lane that work was put into its queues, waking it if it sleeps.
///
/// The sender puts the work in and calls [`notify`](Self::notify); if that says so, it writes the lane's eventfd. The
/// lane calls [`take`](Self::take) in each turn and empties its queues if that says so; before it sleeps it calls
/// [`try_sleep`](Self::try_sleep), and sleeps only if that says so.
#[derive(Debug)]
pub(super) struct Signal<F = AtomicBool> {
    /// Work was put in since the queues were last emptied.
    attention: F,
    /// The lane sleeps, or is about to, and nobody has written its eventfd yet.
    sleeping: F,
}

impl<F: Flag> Signal<F> {
    pub fn new() -> Self {
        Self { attention: F::new(false), sleeping: F::new(false) }
    }

    /// Says that work was put in. True if the caller must write the eventfd.
    ///
    /// No wake-up is lost: this swap of `attention` comes either before the one in `try_sleep`, which then sees it and
    /// does not sleep; or after it, and then the load sees `sleeping` set, or cleared by another sender, who writes the
    /// eventfd, or by the lane, which is awake and will look at `attention` again before it sleeps.
    #[must_use]
    pub fn notify(&self) -> bool {
        self.attention.swap(true, AcqRel);
        self.sleeping.load(Relaxed) && self.sleeping.clear(Relaxed)
    }

    /// Whether the queues must be looked at. One load if not.
    #[inline]
    pub fn take(&self) -> bool {
        self.attention.load(Relaxed) && self.attention.swap(false, AcqRel)
    }

    /// Whether the queues will have to be looked at. Takes nothing.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.attention.load(Relaxed)
    }

    /// Sets the flag without waking anybody: for the lane itself, which has left work in its queues. A swap, not a
    /// store: a store would hide the sender who came in between from the next [`take`](Self::take).
    #[cold]
    pub fn keep(&self) {
        self.attention.swap(true, AcqRel);
    }

    /// Announces sleep. If this says no, there is work: look at the queues and do not sleep.
    #[inline]
    #[must_use]
    pub fn try_sleep(&self) -> bool {
        self.sleeping.store(true, Relaxed);
        if self.attention.swap(false, AcqRel) {
            self.sleeping.store(false, Relaxed);
            self.keep();
            return false;
        }
        true
    }

    /// Ends what [`try_sleep`](Self::try_sleep) began.
    #[inline]
    pub fn wake(&self) {
        self.sleeping.store(false, Relaxed);
    }
}

/// Whether a task or bottom half is in a queue, so that it is put there once.
#[derive(Debug)]
pub(super) struct Queued<F = AtomicBool>(F);

impl<F: Flag> Queued<F> {
    pub fn new() -> Self {
        Self(F::new(false))
    }

    /// True if the caller must queue it. If not, it is queued, and the run to come sees what the caller did before.
    #[must_use]
    pub fn enter(&self) -> bool {
        !self.0.swap(true, AcqRel)
    }

    /// It was taken out and runs now. True if it was queued. A swap, not a store, so as to see what those did who
    /// found it queued already.
    pub fn leave(&self) -> bool {
        self.0.swap(false, AcqRel)
    }
}

/// Whether somebody waits for space in a full mailbox.
///
/// The poster registers its waker, calls [`announce`](Self::announce), and tries once more before it waits. The lane
/// makes space, and then wakes all who registered if [`take`](Self::take) says so.
#[derive(Debug)]
pub(super) struct Waiting<F = AtomicBool>(F);

impl<F: Flag> Waiting<F> {
    pub fn new() -> Self {
        Self(F::new(false))
    }

    /// Either this swap comes after the lane's, and the next attempt to post sees the space; or before, and the lane
    /// sees the waker.
    pub fn announce(&self) {
        self.0.swap(true, AcqRel);
    }

    /// Whether wakers were registered. To be called after space was made.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.swap(false, AcqRel)
    }
}

/// Lets posters in until it closes, and knows when the last of them is out.
#[derive(Debug)]
pub(super) struct Gate<C = AtomicUsize>(C);

/// Set when closed; the bits below count those inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

impl<C: Counter> Gate<C> {
    pub fn new() -> Self {
        Self(C::new(0))
    }

    /// Runs `post` if the gate is open. What it put in is seen by the closer after [`is_empty`](Self::is_empty).
    pub fn pass<T>(&self, post: impl FnOnce() -> T) -> Option<T> {
        if self.0.fetch_add(1, Acquire) & CLOSED != 0 {
            self.0.fetch_sub(1, Release);
            return None;
        }
        let result = post();
        self.0.fetch_sub(1, Release);
        Some(result)
    }

    /// Closes. To be called once, by the lane.
    pub fn close(&self) {
        self.0.fetch_add(CLOSED, AcqRel);
    }

    pub fn is_closed(&self) -> bool {
        self.0.load(Acquire) & CLOSED != 0
    }

    /// Whether nobody is inside any more, after [`close`](Self::close).
    pub fn is_empty(&self) -> bool {
        self.0.load(Acquire) == CLOSED
    }
}

#[cfg(test)]
mod loom_tests;
