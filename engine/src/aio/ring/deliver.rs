//! The way of completions from the queue to their sinks.
//!
//! Invariant: nothing of the ring is borrowed while a sink runs but the cursor, which a delivery within a delivery does
//! without.

use std::mem::MaybeUninit;

use super::sink::{self, Cursor};
use super::{Cqe, Ring};

/// `IORING_CQE_F_MORE`: the entry will complete again.
pub(super) const CQE_MORE: u32 = 1 << 1;
/// Completions that are taken out of the queue in one go.
const BATCH: usize = 32;

impl Ring {
    /// Delivers every completion that is in the queue now to its sink. Enters the kernel for none of them, so call
    /// [`submit`](Self::submit) before. Returns how many there were.
    ///
    /// A sink may push, submit, add and remove sinks, and even reap.
    #[inline]
    pub fn reap(&self) -> usize {
        match self.ready() {
            0 => 0,
            ready => self.deliver(ready),
        }
    }

    #[inline(never)]
    fn deliver(&self, ready: usize) -> usize {
        let Ok(mut cursor) = self.sinks.cursor.try_borrow_mut() else {
            return self.deliver_batch(ready, &mut Cursor::default());
        };
        // What a lane with one request in flight does each turn, without what only pays for several.
        let count =
            if ready == 1 { self.deliver_one(&mut cursor) } else { self.deliver_batch(ready, &mut cursor) };
        let stale = self.sinks.forget_if_stale(&mut cursor);
        drop(cursor);
        drop(stale);
        count
    }

    #[inline(always)]
    fn deliver_one(&self, target: &mut Cursor) -> usize {
        let Some(cqe) = self.take_one() else { return 0 };
        if cqe.flags() & CQE_MORE == 0 {
            self.in_flight.set(self.in_flight.get().wrapping_sub(1));
        }
        if let Some(sink) = target.get(&self.sinks, cqe.sink()) {
            sink.complete(cqe.key(), cqe.result(), cqe.flags());
        }
        1
    }

    #[inline(never)]
    fn deliver_batch(&self, ready: usize, target: &mut Cursor) -> usize {
        let mut space = [const { MaybeUninit::uninit() }; BATCH];
        let mut count = 0;
        while count < ready {
            let cqes = self.take(&mut space[..BATCH.min(ready - count)]);
            if cqes.is_empty() {
                break;
            }
            count += cqes.len();
            if sink::all_last_of_one(cqes) {
                self.in_flight.set(self.in_flight.get().wrapping_sub(cqes.len() as u32));
                if let Some(sink) = target.get(&self.sinks, cqes[0].sink()) {
                    sink.complete_all(cqes);
                }
            } else {
                self.deliver_mixed(cqes, target);
            }
        }
        self.give_places_back();
        count
    }

    /// Completions for several sinks, or such that others will follow.
    #[inline(never)]
    fn deliver_mixed(&self, cqes: &[Cqe], target: &mut Cursor) {
        for run in cqes.chunk_by(|one, next| one.sink() == next.sink()) {
            let last = run.iter().filter(|cqe| cqe.flags() & CQE_MORE == 0).count();
            self.in_flight.set(self.in_flight.get().wrapping_sub(last as u32));
            if let Some(sink) = target.get(&self.sinks, run[0].sink()) {
                sink.complete_all(run);
            }
        }
    }
}
