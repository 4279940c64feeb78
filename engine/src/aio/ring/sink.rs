//! Where completions go: the table of sinks of one ring.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Takes the completions of what was pushed in its name.
pub trait CqeSink {
    /// An entry completed. `key` is what it was pushed with, `result` and `flags` are the completion's (a negative
    /// `result` is an errno). Called from [`Ring::reap`](super::Ring::reap); may push and submit.
    fn complete(&self, key: u64, result: i32, flags: u32);
}

/// Names a sink of one ring.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SinkId(pub(super) u16);

/// The sinks by number. `epoch` changes with the table, so that a reaper may keep a sink at hand.
#[derive(Default)]
pub(super) struct SinkTable {
    sinks: RefCell<Vec<Option<Rc<dyn CqeSink>>>>,
    epoch: Cell<u32>,
    /// Where the last batch ended, for the next one to begin with.
    cursor: Cell<Cursor>,
}

impl SinkTable {
    pub fn add(&self, sink: Rc<dyn CqeSink>) -> SinkId {
        self.change();
        let mut sinks = self.sinks.borrow_mut();
        if let Some(free) = sinks.iter().position(Option::is_none) {
            sinks[free] = Some(sink);
            return SinkId(free as u16);
        }
        let id = u16::try_from(sinks.len()).expect("a lane has fewer than 65,536 queues open");
        sinks.push(Some(sink));
        SinkId(id)
    }

    /// The sink, for the caller to drop when nothing here is borrowed.
    pub fn remove(&self, id: SinkId) -> Option<Rc<dyn CqeSink>> {
        self.change();
        self.sinks.borrow_mut().get_mut(usize::from(id.0)).and_then(Option::take)
    }

    fn change(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.cursor.take();
    }

    #[inline]
    pub fn cursor(&self) -> Cursor {
        self.cursor.take()
    }

    #[inline]
    pub fn keep(&self, cursor: Cursor) {
        if cursor.epoch == self.epoch.get() {
            self.cursor.set(cursor);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_up(&self, id: SinkId) -> Option<Rc<dyn CqeSink>> {
        let sink = self.sinks.borrow().get(usize::from(id.0)).cloned().flatten();
        if sink.is_none() {
            tracing::debug!(id = id.0, "a completion for a sink that is gone was dropped");
        }
        sink
    }
}

/// The sink that the last completion went to: in a batch, and from one to the next, most go to the same.
#[derive(Default)]
pub(super) struct Cursor {
    id: SinkId,
    epoch: u32,
    sink: Option<Rc<dyn CqeSink>>,
}

impl Cursor {
    #[inline]
    pub fn get(&mut self, table: &SinkTable, id: SinkId) -> Option<&dyn CqeSink> {
        if self.id != id || self.epoch != table.epoch.get() || self.sink.is_none() {
            *self = Self { id, epoch: table.epoch.get(), sink: table.look_up(id) };
        }
        self.sink.as_deref()
    }
}
