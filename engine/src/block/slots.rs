//! A channel's table of requests in flight.
//!
//! The table is allocated with the channel and never grows. Indices `0..depth` are the caller's requests, the rest are
//! the commands into which the slow path cuts them. A slot belongs to exactly one request from [`SlotTable::take`] to
//! [`SlotTable::release`]; its generation then changes, so that whoever still holds the old name finds nothing.

use std::task::Waker;

use super::driver::{LeafCompletion, Tag};
use super::errno::IoResult;
use super::request::{Op, ReqFlags};
use corelane_dma::Payload;

/// Who is told when a slot's request ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Target {
    /// The channel's batch of completions.
    Batch,
    /// A future: outcome and waker are in the cold half.
    Future,
    /// Nobody: the future was dropped. The memory is released when the device is done with it.
    Orphan,
}

/// Where a slot's request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// The slot is free.
    Free,
    /// Taken, but not yet counted as touching its range: it waits for a serialising request.
    Waiting,
    /// Touches its range: serialising requests wait for it.
    Tracked,
    /// Ended; the outcome waits in the cold half for its future.
    Ended,
}

/// The half of a slot that the fast path touches.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) generation: u32,
    pub(super) op: Op,
    pub(super) flags: ReqFlags,
    pub(super) target: Target,
    pub(super) phase: Phase,
}

/// The half that only futures touch.
#[derive(Debug, Default)]
pub(super) struct ColdSlot {
    pub(super) waker: Option<Waker>,
    pub(super) outcome: Option<(IoResult, Payload)>,
}

/// A slot's name that does not outlive its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotName {
    pub(super) tag: Tag,
    pub(super) generation: u32,
}

/// The table. See the module's documentation.
#[derive(Debug)]
pub(super) struct SlotTable {
    slots: Box<[Slot]>,
    cold: Box<[ColdSlot]>,
    free_public: Vec<u32>,
    free_internal: Vec<u32>,
    depth: u32,
}

impl SlotTable {
    /// `depth` slots for the caller and `internal` for the slow path.
    pub(super) fn new(depth: u32, internal: u32) -> SlotTable {
        let total = depth + internal;
        let slot = |_| Slot {
            token: 0,
            offset: 0,
            bytes: 0,
            generation: 0,
            op: Op::Flush,
            flags: ReqFlags::empty(),
            target: Target::Batch,
            phase: Phase::Free,
        };
        SlotTable {
            slots: (0..total).map(slot).collect(),
            cold: (0..total).map(|_| ColdSlot::default()).collect(),
            // Popped from the end, so that the lowest indices (the warmest lines) are used first.
            free_public: (0..depth).rev().collect(),
            free_internal: (depth..total).rev().collect(),
            depth,
        }
    }

    /// A free slot for a request of the caller, unless the `undrained` completions that wait to be drained stand for all that
    /// are free: they count as if they still held their slots.
    #[inline(always)]
    pub(super) fn take(&mut self, undrained: usize) -> Option<Tag> {
        let left = self.free_public.len();
        if left <= undrained {
            return None;
        }
        let index = self.free_public.pop();
        index.map(Tag)
    }

    /// Ends a request of the caller's batch: the entry gets the request's token, and the slot is free. False, and nothing
    /// is done, if there is no such request in flight.
    #[inline(always)]
    pub(super) fn end_batch(&mut self, completion: &mut LeafCompletion) -> bool {
        let tag = completion.tag;
        match self.slots.get_mut(tag.0 as usize) {
            Some(slot) if slot.phase == Phase::Tracked && slot.target == Target::Batch => {
                completion.token = slot.token;
                slot.phase = Phase::Free;
                slot.generation = slot.generation.wrapping_add(1);
                // Only the caller's own slots have this target.
                self.free_public.push(tag.0);
                true
            }
            _ => false,
        }
    }

    /// A free slot for a command of the slow path.
    #[inline]
    pub(super) fn take_internal(&mut self) -> Option<Tag> {
        self.free_internal.pop().map(Tag)
    }

    /// How many of the caller's slots are in use.
    pub(super) fn public_in_use(&self) -> usize {
        self.depth as usize - self.free_public.len()
    }

    /// How many slots of either kind are in use.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free_public.len() - self.free_internal.len()
    }

    /// The slot behind `tag`, or `None` for a tag that the table does not have (a driver's fault).
    #[inline]
    pub(super) fn get_mut(&mut self, tag: Tag) -> Option<&mut Slot> {
        self.slots.get_mut(tag.0 as usize)
    }

    /// The cold half of `tag`'s slot.
    #[inline]
    pub(super) fn cold_mut(&mut self, tag: Tag) -> Option<&mut ColdSlot> {
        self.cold.get_mut(tag.0 as usize)
    }

    /// The full name of the request in `tag`'s slot.
    #[inline]
    pub(super) fn name(&self, tag: Tag) -> SlotName {
        let generation = self.slots.get(tag.0 as usize).map_or(0, |slot| slot.generation);
        SlotName { tag, generation }
    }

    /// Whether the request that `name` was given out for has yet to end.
    pub(super) fn is_active(&self, name: SlotName) -> bool {
        self.slots.get(name.tag.0 as usize).is_some_and(|slot| {
            slot.generation == name.generation && matches!(slot.phase, Phase::Waiting | Phase::Tracked)
        })
    }

    /// Names of the caller's requests that have yet to end.
    pub(super) fn active(&self) -> Vec<SlotName> {
        (0..self.depth).map(|index| self.name(Tag(index))).filter(|name| self.is_active(*name)).collect()
    }

    /// Gives the slot back.
    #[inline]
    pub(super) fn release(&mut self, tag: Tag) {
        let Some(slot) = self.slots.get_mut(tag.0 as usize) else { return };
        debug_assert_ne!(slot.phase, Phase::Free, "slot {} released twice", tag.0);
        slot.phase = Phase::Free;
        slot.generation = slot.generation.wrapping_add(1);
        if tag.0 < self.depth {
            self.free_public.push(tag.0);
        } else {
            self.free_internal.push(tag.0);
        }
    }

    /// Names of the tracked requests of the caller that overlap `start..end`.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> Vec<SlotName> {
        let public = self.slots.iter().take(self.depth as usize).enumerate();
        public
            .filter(|(_, slot)| {
                slot.phase == Phase::Tracked
                    && slot.offset < end
                    && slot.offset.saturating_add(slot.bytes) > start
            })
            .map(|(index, slot)| SlotName { tag: Tag(index as u32), generation: slot.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(table: &mut SlotTable, offset: u64, bytes: u64, phase: Phase) -> Tag {
        let tag = table.take(0).expect("a free slot");
        let slot = table.get_mut(tag).expect("a slot of the table");
        (slot.offset, slot.bytes, slot.phase) = (offset, bytes, phase);
        tag
    }

    #[test]
    fn slots_are_bounded_and_come_back() {
        let mut table = SlotTable::new(2, 1);
        let first = start(&mut table, 0, 1, Phase::Tracked);
        start(&mut table, 0, 1, Phase::Tracked);
        assert_eq!(table.take(0), None);
        assert_eq!((table.public_in_use(), table.in_use()), (2, 2));
        let internal = table.take_internal().expect("an internal slot");
        assert!(internal.0 >= 2);
        assert_eq!(table.take_internal(), None);
        table.release(first);
        assert_eq!(table.take(0), Some(first));
    }

    #[test]
    fn completions_that_are_not_drained_count_as_in_flight() {
        let mut table = SlotTable::new(2, 0);
        assert_eq!(table.take(2), None);
        assert!(table.take(1).is_some());
        assert_eq!(table.take(1), None);
    }

    #[test]
    fn only_a_request_in_flight_ends() {
        let mut table = SlotTable::new(1, 1);
        let tag = start(&mut table, 0, 1, Phase::Tracked);
        table.get_mut(tag).expect("a slot of the table").token = 77;
        let mut completion = LeafCompletion::new(tag, Ok(()), Payload::None);
        assert!(table.end_batch(&mut completion));
        assert_eq!((completion.token, table.in_use()), (77, 0));
        assert!(!table.end_batch(&mut completion), "a second completion for the same command");
        assert!(!table.end_batch(&mut LeafCompletion::new(Tag(9), Ok(()), Payload::None)));
    }

    #[test]
    fn a_stale_name_is_recognised() {
        let mut table = SlotTable::new(1, 0);
        let tag = start(&mut table, 0, 1, Phase::Tracked);
        let name = table.name(tag);
        assert!(table.is_active(name));
        table.release(tag);
        assert!(!table.is_active(name));
        start(&mut table, 0, 1, Phase::Tracked);
        assert!(!table.is_active(name));
    }

    #[test]
    fn only_tracked_requests_that_overlap_are_found() {
        let mut table = SlotTable::new(4, 0);
        let hit = start(&mut table, 100, 50, Phase::Tracked);
        start(&mut table, 150, 50, Phase::Tracked);
        start(&mut table, 100, 50, Phase::Waiting);
        let found = table.overlapping(120, 150);
        assert_eq!(found, vec![table.name(hit)]);
        assert!(table.overlapping(0, 100).is_empty());
    }

    #[test]
    fn a_tag_outside_the_table_is_harmless() {
        let mut table = SlotTable::new(1, 1);
        assert!(table.get_mut(Tag(9)).is_none());
        table.release(Tag(9));
        assert_eq!(table.in_use(), 0);
    }
}
