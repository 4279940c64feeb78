//! The leaf queue's side of the table, and a table by itself for who drives a queue without a channel.

use std::cell::{Ref, RefMut};
use std::fmt;
use std::rc::Rc;

use super::{Command, Filling, LeafCommand, LeafCompletion, Shared, State, Table, Tag, Target};
use crate::block::errno::IoResult;

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
    /// Takes the oldest command that is pending: the queue has it now.
    #[inline(always)]
    pub fn take_pending(&mut self) -> Option<(Tag, &mut Command)> {
        let table = &mut *self.0;
        let &index = table.pending.get(table.taken)?;
        let slot = table.slots.get_mut(index as usize)?;
        table.taken += 1;
        if table.taken == table.pending.len() {
            table.pending.clear();
            table.taken = 0;
        }
        slot.state = State::Sent;
        Some((Tag(index), slot))
    }

    /// Gives back the command that was taken last, for lack of room; it is the next to be taken. Nothing may have been
    /// told to the device.
    pub fn put_back(&mut self, tag: Tag) {
        let table = &mut *self.0;
        let Some(slot) = table.slots.get_mut(tag.0 as usize).filter(|slot| slot.state == State::Sent) else {
            return;
        };
        match table.taken.checked_sub(1) {
            // It was the last of the list, which was cleared then.
            None => table.pending.insert(0, tag.0),
            Some(last) if table.pending.get(last) == Some(&tag.0) => table.taken = last,
            Some(_) => return,
        }
        slot.state = State::Pending;
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
        self.0.has_pending()
    }

    /// Whether a command has ended that the channel has yet to look at.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
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
        for &index in table.pending.iter().skip(table.taken) {
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
            let Some(done) = next.or_else(|| table.others.pop()) else { return };
            let (tag, result) = (done.tag, done.result());
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
