//! The way up: completions from the leaf queue to the caller.
//!
//! What a leaf queue has ended is in the table's list. Requests of batches that succeeded, which are most, stay there until
//! [`Channel::drain`](crate::block::Channel::drain) takes them out, memory and all; the rest is looked at once a turn.
//! Futures are woken, handlers called and lanes left only when nothing is borrowed any more.

use std::task::Waker;

use corelane_dma::Payload;

use super::{ChannelInner, ClearWait, Watch};
use crate::aio::{Poller, Readiness};
use crate::block::driver::Tag;
use crate::block::errno::IoResult;
use crate::block::request::{Completion, Request};
use crate::block::slow;
use crate::block::table::{Done, State, Target};

impl ChannelInner {
    /// Ends a request of the slow path.
    pub(in crate::block) fn finish(&self, tag: Tag, result: IoResult, payload: Payload) {
        self.table.borrow_mut().end_slow(tag, result, payload);
        self.take_ended();
    }

    /// See [`Channel::send`](crate::block::Channel::send).
    #[inline(always)]
    pub(super) fn send(&self) {
        if !self.in_ring {
            self.commit_pending();
        }
    }

    #[inline(always)]
    fn commit_pending(&self) {
        if self.table.borrow().has_pending() {
            self.leaf.borrow_mut().commit();
        }
    }

    /// See [`Channel::poll`](crate::block::Channel::poll).
    #[inline(always)]
    pub(super) fn poll(&self, looks: u32) -> bool {
        self.commit_pending();
        if self.in_ring {
            self.ctx.poll_ring();
        } else {
            self.look(looks);
        }
        self.take_ended()
    }

    /// Looks at the device until something has ended, at most so often.
    #[inline]
    fn look(&self, looks: u32) {
        let mut leaf = self.leaf.borrow_mut();
        for _ in 0..looks {
            leaf.reap();
            if self.table.borrow().has_ended() {
                return;
            }
            // A pause leaves the line that is looked at to the device for a moment.
            std::hint::spin_loop();
        }
    }

    /// Looks at what has ended. True if anything has that was not drained yet.
    #[inline(always)]
    fn take_ended(&self) -> bool {
        let table = self.table.borrow();
        let (done, others) = (!table.done.is_empty(), !table.others.is_empty());
        drop(table);
        if others | !self.watch.get().is_empty() {
            self.take_ended_slow(others);
        }
        done | others
    }

    /// What may only happen without a borrow: other means, wakers, the handler, leaving the lane.
    #[inline(never)]
    fn take_ended_slow(&self, others: bool) {
        if others {
            self.take_others();
        }
        if self.watch.get().contains(Watch::AWAITED) {
            self.settle_clear_waits();
        }
        self.run_wakes();
        if self.watch.get().contains(Watch::HANDLER) {
            self.run_handler();
        }
        if self.watch.get().contains(Watch::CLOSING) {
            self.leave_lane_when_idle();
        }
    }

    /// Takes in what may be anything: a future's, a command's, an error.
    fn take_others(&self) {
        loop {
            let mut table = self.table.borrow_mut();
            let Some(done) = table.others.pop() else { return };
            let Some(slot) = table.get_mut(done.tag) else { continue };
            if slot.state == State::Tracked {
                let (op, flags, offset, bytes, token) =
                    (slot.op, slot.asked, slot.offset, slot.bytes, slot.token);
                drop(table);
                let request = Request { op, flags, offset, bytes, payload: Payload::None, token };
                self.fall_back(done.tag, request);
                continue;
            }
            match slot.target {
                Target::Batch => table.done.push(done),
                Target::Future => {
                    if let Some(cold) = table.cold_mut(done.tag) {
                        cold.outcome = Some(done.result());
                        let waker = cold.waker.take();
                        self.state.borrow_mut().wakes.extend(waker);
                    }
                }
                Target::Orphan => {
                    let payload = table.release(done.tag);
                    drop(table);
                    drop(payload);
                    self.slot_released();
                }
            }
        }
    }

    /// Answers whoever waited for requests to end.
    #[cold]
    fn settle_clear_waits(&self) {
        let table = self.table.borrow();
        let mut state = self.state.borrow_mut();
        let ended = state.clear_waits.extract_if(.., |wait| {
            wait.names.retain(|name| table.is_active(*name));
            wait.names.is_empty()
        });
        let answered: Vec<ClearWait> = ended.collect();
        self.set_watch(Watch::AWAITED, !state.clear_waits.is_empty());
        drop((table, state));
        // An answer wakes who asked.
        drop(answered);
    }

    fn run_handler(&self) {
        if let Ok(mut handler) = self.handler.try_borrow_mut()
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
        self.drain_done(|done| {
            let completion = self.table.borrow_mut().finish(done);
            each(completion);
        });
    }

    /// Hands out what has ended until now. Each is [finished](crate::block::table::Table::finish), or sent again, by
    /// `each`. If that panics, the rest waits for the next time. How many it was.
    #[inline(always)]
    pub(super) fn drain_done(&self, mut each: impl FnMut(Done)) -> usize {
        let mut count = self.table.borrow().done.len();
        if count == 0 {
            return 0;
        }
        let only = count == 1;
        for index in 0..count {
            let mut table = self.table.borrow_mut();
            let next = if only { table.only_done() } else { table.next_done() };
            drop(table);
            // `each` may have drained what was left.
            let Some(done) = next else {
                count = index;
                break;
            };
            each(done);
        }
        if !only {
            self.table.borrow_mut().forget_drained();
        }
        self.call_slot_waiters(count);
        count
    }

    /// Slots are free: as many as wait for one may go on.
    #[inline]
    fn call_slot_waiters(&self, count: usize) {
        if !self.state.borrow().slot_waiters.is_empty() {
            self.call_slot_waiters_now(count);
        }
    }

    #[cold]
    fn call_slot_waiters_now(&self, count: usize) {
        self.with_state(|state| {
            let count = count.min(state.slot_waiters.len());
            let waiters = state.slot_waiters.drain(..count).map(|(_, waker)| waker);
            state.wakes.extend(waiters);
        });
        self.run_wakes();
    }

    /// A zeroing or discard that the device turned out not to support: the slow path does it by other means. The slot
    /// stays tracked: a serialising request may be waiting for it already.
    #[cold]
    fn fall_back(&self, tag: Tag, request: Request) {
        let Some(this) = self.this.upgrade() else { return };
        self.plan.forget(request.op);
        let fast = &self.fast[request.op as usize];
        fast.set(fast.get() - 1);
        self.with_state(|state| state.stats.slow[request.op as usize] += 1);
        self.ctx.spawn(slow::run(this, tag, request));
    }
}

impl Poller for ChannelInner {
    #[inline]
    fn commit(&self) -> Readiness {
        let readiness = self.leaf.borrow_mut().commit();
        if self.table.borrow().has_ended() { Readiness::Ready } else { readiness }
    }

    #[inline]
    fn reap(&self) -> bool {
        if !self.in_ring {
            self.leaf.borrow_mut().reap();
        }
        self.take_ended()
    }
}
