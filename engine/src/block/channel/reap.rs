//! The way up: completions from the leaf queue to the caller.
//!
//! A completion of a batch becomes the caller's where it lies: the vector that the leaf queue filled is the one that
//! [`Channel::drain`](crate::block::Channel::drain) hands out. Futures are woken, handlers called and lanes left only when nothing
//! is borrowed any more.

use std::task::Waker;

use corelane_dma::Payload;

use super::{ChannelInner, State};
use crate::aio::{Poller, Readiness};
use crate::block::driver::{LeafCompletion, Tag};
use crate::block::errno::{Errno, IoResult};
use crate::block::request::{Completion, Op, Request};
use crate::block::slots::Phase;
use crate::block::slow;

impl ChannelInner {
    /// Ends a request of the slow path.
    pub(in crate::block) fn finish(&self, tag: Tag, result: IoResult, payload: Payload) {
        let mut state = self.state.borrow_mut();
        state.end(tag, result, payload);
        if !state.clear_waits.is_empty() {
            state.settle_clear_waits();
        }
        drop(state);
        self.after_reap();
    }

    /// What may only happen without a borrow: other means, wakers, the handler, leaving the lane.
    #[inline(never)]
    fn after_reap(&self) {
        while let Some(tag) = self.with_state(|state| state.fall_back.pop()) {
            self.fall_back(tag);
        }
        self.drop_foreign();
        self.run_wakes();
        if self.has_handler.get() {
            self.run_handler();
        }
        if self.closing.get() {
            self.leave_lane_when_idle();
        }
    }

    /// Answers whoever waited for requests to end, and gives up the memory of those that nobody waits for.
    fn drop_foreign(&self) {
        let (answered, orphaned) = self
            .with_state(|state| (std::mem::take(&mut state.answered), std::mem::take(&mut state.orphaned)));
        drop((answered, orphaned));
    }

    fn run_handler(&self) {
        if !self.state.borrow().done.is_empty()
            && let Ok(mut handler) = self.handler.try_borrow_mut()
            && let Some(handler) = handler.as_mut()
        {
            self.drain(handler);
        }
    }

    #[inline]
    pub(in crate::block) fn run_wakes(&self) {
        if !self.state.borrow().wakes.is_empty() {
            self.run_wakes_now();
        }
    }

    #[inline(never)]
    fn run_wakes_now(&self) {
        let mut wakes = std::mem::take(&mut self.state.borrow_mut().wakes);
        while !wakes.is_empty() {
            wakes.drain(..).for_each(Waker::wake);
            // A waker is foreign code: it may have ended something here.
            wakes.append(&mut self.state.borrow_mut().wakes);
        }
        // The vector with the capacity is kept.
        self.state.borrow_mut().wakes = wakes;
    }

    #[inline(always)]
    pub(super) fn drain(&self, mut each: impl FnMut(Completion)) {
        if self.state.borrow().done.is_empty() {
            return;
        }
        let mut batch = self.take_done();
        if batch.len() == 1
            && let Some(LeafCompletion { token, result, payload, .. }) = batch.pop()
        {
            each(Completion { token, result, payload });
        }
        for LeafCompletion { token, result, payload, .. } in batch.drain(..) {
            each(Completion { token, result, payload });
        }
        let nested = std::mem::replace(&mut self.state.borrow_mut().spare, batch);
        if nested.capacity() == 0 {
            // Nothing to free; the destructor would look at each of no entries.
            std::mem::forget(nested);
        }
    }

    #[inline]
    fn take_done(&self) -> Vec<LeafCompletion> {
        let mut state = self.state.borrow_mut();
        let mut spare = std::mem::take(&mut state.spare);
        if spare.capacity() == 0 {
            // A drain within a drain, or after one whose callback panicked: the leaf queue needs room to complete into.
            spare.reserve(state.reaped.capacity());
        }
        let batch = std::mem::replace(&mut state.done, spare);
        if !state.slot_waiters.is_empty() {
            let count = batch.len().min(state.slot_waiters.len());
            let waiters: Vec<Waker> = state.slot_waiters.drain(..count).map(|(_, waker)| waker).collect();
            state.wakes.extend(waiters);
            drop(state);
            self.run_wakes();
        }
        batch
    }

    /// A zeroing or discard that the device turned out not to support: the slow path does it by other means.
    #[cold]
    fn fall_back(&self, tag: Tag) {
        let Some(this) = self.this.upgrade() else { return };
        let mut state = self.state.borrow_mut();
        let Some(slot) = state.slots.get_mut(tag) else { return };
        // The slot stays tracked: a serialising request may be waiting for it already.
        let (op, flags, offset, bytes, token) = (slot.op, slot.flags, slot.offset, slot.bytes, slot.token);
        state.plan.forget(op);
        state.stats.fast[op as usize] -= 1;
        state.stats.slow[op as usize] += 1;
        drop(state);
        let request = Request { op, flags, offset, bytes, payload: Payload::None, token };
        self.ctx.spawn(slow::run(this, tag, request));
    }

    /// Takes the leaf queue's completions in, and returns how many there were, and whether there is more to do. Those of
    /// batches, which are most, become the caller's completions where they lie.
    #[inline(always)]
    fn take_reaped(&self) -> (usize, bool) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let start = state.done.len();
        state.leaf.reap(&mut state.done);
        let count = state.done.len() - start;
        let mut plain =
            |completion: &mut LeafCompletion| completion.result.is_ok() && state.slots.end_batch(completion);
        let other = state.done[start..].iter_mut().position(|completion| !plain(completion));
        if let Some(other) = other {
            self.take_others(state, start + other);
        }
        if count > 0 && !state.clear_waits.is_empty() {
            state.settle_clear_waits();
        }
        let more = !state.wakes.is_empty()
            || !state.fall_back.is_empty()
            || !state.answered.is_empty()
            || !state.orphaned.is_empty();
        (count, more)
    }

    /// Takes in what is from `start` on in the batch and may be anything: a future's, a command's, an error, nonsense.
    #[inline(never)]
    fn take_others(&self, state: &mut State, start: usize) {
        let mut reaped = std::mem::take(&mut state.reaped);
        reaped.extend(state.done.drain(start..));
        for LeafCompletion { tag, result, payload, .. } in reaped.drain(..) {
            match state.slots.get_mut(tag) {
                Some(slot) if slot.phase == Phase::Tracked => match result {
                    Err(error)
                        if error.errno == Errno::ENOTSUP && can_fall_back(slot.op, tag, self.depth) =>
                    {
                        state.fall_back.push(tag);
                    }
                    _ => state.end(tag, result, payload),
                },
                _ => state.stats.bogus += 1,
            }
        }
        state.reaped = reaped;
    }
}

/// Whether a request that the device does not support has another way: not the slow path's own commands.
fn can_fall_back(op: Op, tag: Tag, depth: usize) -> bool {
    matches!(op, Op::WriteZeroes | Op::Discard) && (tag.0 as usize) < depth
}

impl Poller for ChannelInner {
    fn commit(&self) -> Readiness {
        let mut state = self.state.borrow_mut();
        if !state.backlog.is_empty() {
            state.send_backlog();
        }
        let readiness = state.leaf.commit();
        if state.done.is_empty() { readiness } else { Readiness::Ready }
    }

    fn reap(&self) -> bool {
        let (count, more) = self.take_reaped();
        if more || self.has_handler.get() || self.closing.get() {
            self.after_reap();
        }
        count > 0
    }
}
