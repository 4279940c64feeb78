//! The table of requests in flight: one for a channel and its leaf queue together.
//!
//! A request's memory does not move from its submission to its completion: the channel puts it into a slot, the leaf queue
//! looks at it there, and the completion takes it out. The table is allocated with the channel and never grows. Indices
//! `0..depth` are the caller's requests, the rest are the commands into which the slow path cuts them.
//!
//! Invariants:
//!
//! - A slot belongs to exactly one request from its start to its release; its generation then changes, so that whoever
//!   still holds the old name finds nothing.
//! - From the moment that a leaf queue has taken a command until the queue itself has ended it, nobody takes the payload out
//!   of the slot, and the table keeps it as long as the queue holds its [`LeafTable`]. Code that lets a device at the memory
//!   stands on this.
//! - The table is never borrowed while foreign code (a callback, a waker) runs.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;

use corelane_dma::Payload;

use super::driver::{LeafCommand, LeafCompletion, Tag};
use super::errno::{Errno, IoError, IoResult};
use super::request::{Completion, Op};

mod leaf;
mod slot;

pub use leaf::{CommandTable, LeafSlots, LeafTable, TableView};
pub use slot::Command;
pub(super) use slot::{Filling, State, Target};

/// The half that only futures touch.
#[derive(Debug, Default)]
pub(super) struct ColdSlot {
    pub(super) waker: Option<Waker>,
    pub(super) outcome: Option<IoResult>,
}

/// A slot's name that does not outlive its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotName {
    pub(super) tag: Tag,
    pub(super) generation: u16,
}

/// A request that has ended, its memory still in its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) token: u64,
    pub(super) tag: Tag,
    outcome: Outcome,
    /// It went to the device as it came, and succeeded.
    pub(super) plain: bool,
}

/// An [`IoResult`] in one word. The compiler stores a result field by field but copies it as a whole, and a load that covers
/// more than the last store to its place waits until that store has left the processor's store buffer.
#[derive(Clone, Copy, Debug)]
struct Outcome(u64);

impl Outcome {
    #[inline(always)]
    fn new(result: IoResult) -> Outcome {
        Outcome(match result {
            Ok(()) => 0,
            Err(IoError { errno, device_status }) => {
                u64::from(errno.raw().unsigned_abs()) | u64::from(device_status) << 32
            }
        })
    }

    #[inline(always)]
    fn result(self) -> IoResult {
        match self.0 {
            0 => Ok(()),
            word => Err(IoError { errno: Errno::from_raw(word as i32), device_status: (word >> 32) as u32 }),
        }
    }
}

impl Done {
    #[inline(always)]
    pub(super) fn new(token: u64, tag: Tag, result: IoResult, plain: bool) -> Done {
        Done { token, tag, outcome: Outcome::new(result), plain }
    }

    /// How it went.
    #[inline(always)]
    pub(super) fn result(&self) -> IoResult {
        self.outcome.result()
    }
}

/// The table. See the module's documentation.
#[derive(Debug)]
pub(super) struct Table {
    slots: Box<[Command]>,
    cold: Box<[ColdSlot]>,
    free_public: Vec<u32>,
    free_internal: Vec<u32>,
    /// What the leaf queue has yet to take, oldest first, from `taken` on.
    pending: Vec<u32>,
    taken: usize,
    /// Requests of batches that have ended, to be drained from `drained` on.
    pub(super) done: Vec<Done>,
    drained: usize,
    /// What ended otherwise: futures, commands of the slow path, errors.
    pub(super) others: Vec<Done>,
    /// Completions for nothing, which a leaf queue must not make.
    pub(super) bogus: u64,
    depth: u32,
}

/// The table with the lane's borrow around it.
pub(super) struct Shared(RefCell<Table>);

impl Shared {
    /// `depth` slots for the caller and `internal` for the slow path.
    pub(super) fn new(depth: u32, internal: u32) -> Rc<Shared> {
        Rc::new(Shared(RefCell::new(Table::new(depth, internal))))
    }

    #[inline(always)]
    pub(super) fn borrow_mut(&self) -> std::cell::RefMut<'_, Table> {
        self.0.borrow_mut()
    }

    #[inline(always)]
    pub(super) fn borrow(&self) -> std::cell::Ref<'_, Table> {
        self.0.borrow()
    }

    /// The leaf queue's handle; there is to be one only.
    pub(super) fn leaf(self: &Rc<Shared>) -> LeafTable {
        LeafTable::new(Rc::clone(self))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.try_borrow();
        let in_use = table.map(|table| table.in_use()).ok();
        f.debug_struct("CommandTable").field("in_use", &in_use).finish_non_exhaustive()
    }
}

impl Table {
    fn new(depth: u32, internal: u32) -> Table {
        let total = depth + internal;
        let list = || Vec::with_capacity(total as usize);
        Table {
            slots: (0..total).map(|_| Command::free()).collect(),
            cold: (0..total).map(|_| ColdSlot::default()).collect(),
            // Popped from the end, so that the lowest indices (the warmest lines) are used first.
            free_public: (0..depth).rev().collect(),
            free_internal: (depth..total).rev().collect(),
            pending: Vec::with_capacity(total as usize),
            taken: 0,
            done: list(),
            drained: 0,
            others: list(),
            bogus: 0,
            depth,
        }
    }

    /// Takes a free slot of the caller's and has the leaf queue sent what `request` makes.
    ///
    /// # Errors
    /// The request itself if no slot is free.
    #[inline(always)]
    pub(super) fn send<R: Into<Filling>>(&mut self, request: R, target: Target) -> Result<SlotName, R> {
        let Some(&index) = self.free_public.last() else { return Err(request) };
        let Some(slot) = self.slots.get_mut(index as usize) else { return Err(request) };
        self.free_public.pop();
        slot.fill(request.into(), State::Pending, target);
        self.pending.push(index);
        Ok(SlotName { tag: Tag(index), generation: slot.generation })
    }

    /// Takes a free slot of the caller's for a request of the slow path, whose memory the slow path keeps; `held` if it waits
    /// for the end of a drained section.
    pub(super) fn take_waiting(&mut self, request: Filling, target: Target, held: bool) -> Option<SlotName> {
        let tag = Tag(self.free_public.pop()?);
        let state = if held { State::Held } else { State::Waiting };
        self.slots.get_mut(tag.0 as usize)?.fill(request, state, target);
        Some(self.name(tag))
    }

    /// What was held back is a request of the slow path as any other now.
    pub(super) fn unhold(&mut self, tag: Tag) {
        if let Some(slot) = self.slots.get_mut(tag.0 as usize) {
            debug_assert_eq!(slot.state, State::Held, "slot {} was not held back", tag.0);
            slot.state = State::Waiting;
        }
    }

    /// A free slot for a command of the slow path.
    pub(super) fn take_internal(&mut self) -> Option<Tag> {
        self.free_internal.pop().map(Tag)
    }

    /// Has the leaf queue sent a command, in a slot that was [taken](Self::take_internal).
    pub(super) fn send_as(&mut self, tag: Tag, command: Filling, target: Target) {
        if let Some(slot) = self.slots.get_mut(tag.0 as usize) {
            debug_assert_eq!(slot.state, State::Free, "slot {} has a request already", tag.0);
            slot.fill(command, State::Pending, target);
            self.pending.push(tag.0);
        }
    }

    /// The leaf queue ends a command that it has. False, and nothing is done, if it has no such command.
    #[inline(always)]
    fn end_sent(&mut self, tag: Tag, result: IoResult) -> bool {
        match self.slots.get_mut(tag.0 as usize) {
            Some(slot) if slot.state == State::Sent => {
                slot.state = State::Ended;
                if slot.target == Target::Batch && result.is_ok() {
                    self.done.push(Done::new(slot.token, tag, result, true));
                } else {
                    self.end_otherwise(tag, result);
                }
                true
            }
            _ => {
                self.end_bogus();
                false
            }
        }
    }

    #[cold]
    fn end_bogus(&mut self) {
        self.bogus += 1;
    }

    /// Puts aside what the channel has to look at before anybody is told.
    #[cold]
    #[inline(never)]
    fn end_otherwise(&mut self, tag: Tag, result: IoResult) {
        if let Err(error) = result
            && error.errno == Errno::ENOTSUP
            && tag.0 < self.depth
            && let Some(slot) = self.slots.get_mut(tag.0 as usize)
            && matches!(slot.op, Op::WriteZeroes | Op::Discard)
        {
            // The slow path will do it by other means: it goes on touching its range.
            slot.state = State::Tracked;
        }
        self.push_other(tag, result);
    }

    fn push_other(&mut self, tag: Tag, result: IoResult) {
        let token = self.slots.get(tag.0 as usize).map_or(0, |slot| slot.token);
        self.others.push(Done::new(token, tag, result, false));
    }

    /// Ends a request that was refused as it came, so that its caller finds the outcome at once.
    pub(super) fn refuse(&mut self, tag: Tag, result: IoResult, payload: Payload) {
        let Some(slot) = self.slots.get_mut(tag.0 as usize) else { return };
        slot.payload = payload;
        slot.state = State::Ended;
        if slot.target == Target::Batch {
            self.done.push(Done::new(slot.token, tag, result, false));
        } else if let Some(cold) = self.cold.get_mut(tag.0 as usize) {
            cold.outcome = Some(result);
        }
    }

    /// Ends a request of the slow path, which gives its memory back.
    pub(super) fn end_slow(&mut self, tag: Tag, result: IoResult, payload: Payload) {
        if let Some(slot) = self.slots.get_mut(tag.0 as usize) {
            slot.payload = payload;
            slot.state = State::Ended;
            self.push_other(tag, result);
        }
    }

    /// Takes an ended request of the caller's batch out: its slot is free.
    #[inline(always)]
    pub(super) fn finish(&mut self, done: Done) -> Completion {
        let Some(slot) = self.slots.get_mut(done.tag.0 as usize) else { return no_completion(done) };
        let payload = std::mem::replace(&mut slot.payload, Payload::None);
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        // Only the caller's own slots come here.
        self.free_public.push(done.tag.0);
        Completion { token: done.token, result: done.result(), payload }
    }

    /// An ended read or write, which went to the device as it came, goes there once more as it is, but at `offset`, if
    /// `admits` its length there. Says what it does, or `None` if nothing was done.
    #[inline(always)]
    pub(super) fn send_again(
        &mut self,
        tag: Tag,
        offset: u64,
        admits: impl FnOnce(u64) -> bool,
    ) -> Option<Op> {
        let slot = self.slots.get_mut(tag.0 as usize)?;
        if slot.op.is_range() || !admits(slot.bytes) {
            return None;
        }
        slot.offset = offset;
        slot.generation = slot.generation.wrapping_add(1);
        (slot.state, slot.note) = (State::Pending, 0);
        let op = slot.op;
        self.pending.push(tag.0);
        Some(op)
    }

    /// The next ended request to be drained.
    #[inline(always)]
    pub(super) fn next_done(&mut self) -> Option<Done> {
        let done = *self.done.get(self.drained)?;
        self.drained += 1;
        Some(done)
    }

    /// The one ended request to be drained, if there is just one: then nothing is left to be forgotten.
    #[inline(always)]
    pub(super) fn only_done(&mut self) -> Option<Done> {
        let &[done] = self.done.as_slice() else { return None };
        if self.drained > 0 {
            return None;
        }
        self.done.clear();
        Some(done)
    }

    /// Forgets what was drained. The list never grows beyond its capacity: what is in it holds a slot.
    #[inline(always)]
    pub(super) fn forget_drained(&mut self) {
        if self.drained == self.done.len() {
            self.done.clear();
        } else {
            self.done.drain(..self.drained);
        }
        self.drained = 0;
    }

    /// Whether the leaf queue has something to take.
    #[inline(always)]
    pub(super) fn has_pending(&self) -> bool {
        self.pending.len() > self.taken
    }

    /// Whether something has ended that the channel has yet to look at, or the caller to drain.
    #[inline(always)]
    pub(super) fn has_ended(&self) -> bool {
        !self.done.is_empty() || !self.others.is_empty()
    }

    /// How many of the caller's requests wait to be drained.
    pub(super) fn completed(&self) -> usize {
        self.done.len() - self.drained
    }

    /// How many of the caller's requests have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.depth as usize - self.free_public.len() - self.completed()
    }

    /// How many slots of either kind are in use.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free_public.len() - self.free_internal.len()
    }

    /// The slot behind `tag`, or `None` for a tag that the table does not have.
    #[inline]
    pub(super) fn get_mut(&mut self, tag: Tag) -> Option<&mut Command> {
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
            slot.generation == name.generation && !matches!(slot.state, State::Free | State::Ended)
        })
    }

    /// Names of the caller's requests that have yet to end; without those that are held back, unless `held`.
    pub(super) fn active(&self, held: bool) -> Vec<SlotName> {
        let public = self.slots.iter().take(self.depth as usize).enumerate();
        public
            .filter(|(_, slot)| match slot.state {
                State::Free | State::Ended => false,
                State::Held => held,
                State::Waiting | State::Tracked | State::Pending | State::Sent => true,
            })
            .map(|(index, slot)| SlotName { tag: Tag(index as u32), generation: slot.generation })
            .collect()
    }

    /// Gives the slot back, with what memory it still has.
    pub(super) fn release(&mut self, tag: Tag) -> Payload {
        let Some(slot) = self.slots.get_mut(tag.0 as usize) else { return Payload::None };
        debug_assert_ne!(slot.state, State::Sent, "slot {} is released while the device has it", tag.0);
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        let list = if tag.0 < self.depth { &mut self.free_public } else { &mut self.free_internal };
        list.push(tag.0);
        std::mem::take(&mut slot.payload)
    }

    /// Names of the caller's requests that touch a part of `start..end`.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> Vec<SlotName> {
        let public = self.slots.iter().take(self.depth as usize).enumerate();
        public
            .filter(|(_, slot)| {
                touches(slot.state) && slot.offset < end && slot.offset.saturating_add(slot.bytes) > start
            })
            .map(|(index, slot)| SlotName { tag: Tag(index as u32), generation: slot.generation })
            .collect()
    }
}

/// Whether a request in this state counts as touching its range.
fn touches(state: State) -> bool {
    matches!(state, State::Tracked | State::Pending | State::Sent)
}

/// A done entry always names a slot of the table.
#[cold]
fn no_completion(done: Done) -> Completion {
    Completion {
        token: done.token,
        result: done.result().and(Err(Errno::EIO.into())),
        payload: Payload::None,
    }
}

#[cfg(test)]
mod tests;
