//! The leaf queue's side of the table, and a table by itself for who drives a queue without a channel.

use std::cell::{Ref, RefMut};
use std::fmt;
use std::rc::Rc;

use super::{Command, Done, Filling, LeafCommand, LeafCompletion, Shared, State, Table, Tag, Target};
use crate::block::errno::IoResult;

/// What a leaf queue says to a command that it is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// It has it now.
    Taken,
    /// It has carried it out at once.
    Ended(IoResult),
    /// It has no room: this one and those behind it are offered again at the next commit.
    NoRoom,
}

/// A leaf queue's handle on the commands of its channel. It keeps their memory: a queue that cannot stop its device leaks
/// it rather than drop it.
pub struct LeafTable(Rc<Shared>);

impl LeafTable {
    pub(super) fn new(shared: Rc<Shared>) -> LeafTable {
        LeafTable(shared)
    }

    /// How many commands there can be at once: tags are `0..tags`.
    pub fn tags(&self) -> u32 {
        // A table's length is a sum of two u32 that its maker has checked.
        self.0.borrow().slots.len() as u32
    }

    /// The commands, to work on. Not to be held while anything foreign runs.
    ///
    /// # Panics
    /// If it is held already.
    #[inline(always)]
    pub fn borrow(&self) -> LeafSlots<'_> {
        LeafSlots(self.0.borrow_mut())
    }

    /// A view of the commands, for who watches a queue.
    pub fn view(&self) -> TableView {
        TableView(Rc::clone(&self.0))
    }
}

impl fmt::Debug for LeafTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The commands of a channel, borrowed by its leaf queue.
pub struct LeafSlots<'a>(RefMut<'a, Table>);

impl LeafSlots<'_> {
    /// Offers what is pending, oldest first, until `send` has no room. What it takes, or ends, is pending no more.
    #[inline(always)]
    pub fn send_pending(&mut self, mut send: impl FnMut(Tag, &mut Command) -> Offer) {
        let table = &mut *self.0;
        if table.pending.is_empty() {
            return;
        }
        let mut taken = 0;
        while let Some(&index) = table.pending.get(taken) {
            let Some(slot) = table.slots.get_mut(index as usize) else { break };
            // Before the offer: what the device may have seen must not count as merely pending.
            slot.state = State::Sent;
            match send(Tag(index), slot) {
                Offer::Taken => {}
                Offer::Ended(result) => {
                    table.end_sent(Tag(index), result);
                }
                Offer::NoRoom => {
                    slot.state = State::Pending;
                    break;
                }
            }
            taken += 1;
        }
        if taken == table.pending.len() {
            table.pending.clear();
        } else {
            table.pending.drain(..taken);
        }
    }

    /// The command with this tag, if the queue has it.
    #[inline(always)]
    pub fn get_mut(&mut self, tag: Tag) -> Option<&mut Command> {
        self.0.slots.get_mut(tag.0 as usize).filter(|slot| slot.state == State::Sent)
    }

    /// Ends a command that the queue has: the device no longer uses its memory. False, and nothing is done, if the queue
    /// has no command with this tag.
    #[inline(always)]
    pub fn end(&mut self, tag: Tag, result: IoResult) -> bool {
        self.0.end_sent(tag, result)
    }

    /// Ends a command if the queue has it and `whole` says that all of it succeeded. False, and nothing is done, otherwise.
    #[inline(always)]
    pub fn end_if(&mut self, tag: Tag, whole: impl FnOnce(&Command) -> bool) -> bool {
        self.get_mut(tag).is_some_and(|command| whole(command)) && self.0.end_sent(tag, Ok(()))
    }

    /// Whether any command waits to be taken.
    #[inline]
    pub fn has_pending(&self) -> bool {
        !self.0.pending.is_empty()
    }

    /// Whether a command has ended that the channel has yet to look at.
    #[inline]
    pub fn has_ended(&self) -> bool {
        !self.0.done.is_empty() || !self.0.others.is_empty()
    }

    /// The commands that the queue has.
    pub fn sent(&self) -> impl Iterator<Item = (Tag, &Command)> {
        commands(&self.0, State::Sent)
    }
}

fn commands(table: &Table, state: State) -> impl Iterator<Item = (Tag, &Command)> {
    let all = table.slots.iter().enumerate();
    all.filter(move |(_, slot)| slot.state == state).map(|(index, slot)| (Tag(index as u32), slot))
}

/// A view of a channel's commands.
pub struct TableView(Rc<Shared>);

impl TableView {
    /// Shows each command that waits to be taken, oldest first.
    ///
    /// # Panics
    /// From within the queue's own borrow.
    pub fn for_each_pending(&self, mut show: impl FnMut(Tag, &Command)) {
        let table: Ref<'_, Table> = self.0.borrow();
        for &index in &table.pending {
            if let Some(slot) = table.slots.get(index as usize) {
                show(Tag(index), slot);
            }
        }
    }

    /// How many commands the queue has ended that it did not have.
    pub fn bogus(&self) -> u64 {
        self.0.borrow().bogus
    }
}

/// A table without a channel, for tests and benches that drive a leaf queue directly.
pub struct CommandTable(Rc<Shared>);

impl CommandTable {
    /// A table for the tags `0..tags`, and the handle for the queue.
    pub fn new(tags: u32) -> (CommandTable, LeafTable) {
        // All are internal: whoever drives the queue chooses the tags.
        let shared = Shared::new(0, tags);
        let leaf = shared.leaf();
        (CommandTable(shared), leaf)
    }

    /// Has the queue sent `command` at its next commit.
    ///
    /// # Errors
    /// The command itself if the table has no such tag, or the tag is in use.
    #[allow(clippy::result_large_err)] // The command is moved back, not an error report.
    pub fn put(&self, tag: Tag, command: LeafCommand) -> Result<(), LeafCommand> {
        let mut table = self.0.borrow_mut();
        match table.slots.get(tag.0 as usize) {
            Some(slot) if slot.state == State::Free => {}
            _ => return Err(command),
        }
        table.send_as(tag, Filling::from(command), Target::Batch);
        Ok(())
    }

    /// Takes out what has ended, and shows it. Allocates nothing.
    pub fn drain_ended(&self, mut each: impl FnMut(LeafCompletion)) {
        loop {
            let mut table = self.0.borrow_mut();
            let next = table.done.pop();
            let Some(Done { tag, result }) = next.or_else(|| table.others.pop()) else { return };
            let payload = table.release(tag);
            drop(table);
            each(LeafCompletion { tag, result, payload });
        }
    }

    /// Takes out what has ended.
    pub fn take_ended(&self) -> Vec<LeafCompletion> {
        let mut ended = Vec::new();
        self.drain_ended(|completion| ended.push(completion));
        ended
    }

    /// How many completions there were for nothing.
    pub fn bogus(&self) -> u64 {
        self.0.borrow().bogus
    }
}
