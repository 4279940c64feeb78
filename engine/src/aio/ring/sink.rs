//! Where completions go: the table of sinks of one ring.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use io_uring::cqueue;

use super::KEY_MASK;

/// One completion, as the kernel reports it.
#[derive(Clone, Debug)]
#[repr(transparent)]
pub struct Cqe(pub(super) cqueue::Entry);

impl Cqe {
    /// What the entry was pushed with.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        self.0.user_data() & KEY_MASK
    }

    /// The result; a negative one is an errno.
    #[inline(always)]
    pub fn result(&self) -> i32 {
        self.0.result()
    }

    /// The flags (`IORING_CQE_F_*`).
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        self.0.flags()
    }

    /// The sink that it is for.
    #[inline(always)]
    pub(super) fn sink(&self) -> SinkId {
        SinkId((self.0.user_data() >> super::KEY_BITS) as u16)
    }
}

/// Whether all are for one sink, and none will be followed by another of the same entry.
#[inline(always)]
pub(super) fn all_last_of_one(cqes: &[Cqe]) -> bool {
    let first = cqes.first().map_or(0, |cqe| cqe.0.user_data());
    let gather = |(differing, flags): (u64, u32), cqe: &Cqe| {
        (differing | (cqe.0.user_data() ^ first), flags | cqe.flags())
    };
    let (differing, flags) = cqes.iter().fold((0, 0), gather);
    differing >> super::KEY_BITS == 0 && flags & super::deliver::CQE_MORE == 0
}

/// Takes the completions of what was pushed in its name.
pub trait CqeSink {
    /// An entry completed. `key` is what it was pushed with, `result` and `flags` are the completion's (a negative
    /// `result` is an errno). Called from [`Ring::reap`](super::Ring::reap); may push and submit.
    fn complete(&self, key: u64, result: i32, flags: u32);

    /// Entries completed, in this order: what [`complete`](Self::complete) does for each, in one call for the batch.
    fn complete_all(&self, cqes: &[Cqe]) {
        for cqe in cqes {
            self.complete(cqe.key(), cqe.result(), cqe.flags());
        }
    }
}

/// Names a sink of one ring.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SinkId(pub(super) u16);

const EPOCH_STEP: u64 = 1 << 16;

/// The sinks by number. `epoch` changes with the table, so that a reaper may keep a sink at hand. It counts in steps of
/// 2^16: with a sink's number in the bits below, one comparison tells whether the sink at hand is the right one.
#[derive(Default)]
pub(super) struct SinkTable {
    sinks: RefCell<Vec<Option<Rc<dyn CqeSink>>>>,
    epoch: Cell<u64>,
    /// Where the last batch ended, for the next one to begin with.
    pub cursor: RefCell<Cursor>,
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
        self.epoch.set(self.epoch.get() + EPOCH_STEP);
        // A delivery that is under way finds out when it ends.
        let old = self.cursor.try_borrow_mut().ok().map(|mut cursor| std::mem::take(&mut *cursor));
        drop(old);
    }

    /// A sink that may be gone from the table is not kept at hand. Gives the cursor for the caller to drop.
    #[inline(always)]
    pub fn forget_if_stale(&self, cursor: &mut Cursor) -> Option<Cursor> {
        (cursor.tag & !(EPOCH_STEP - 1) != self.epoch.get()).then(|| std::mem::take(cursor))
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
pub(super) struct Cursor {
    /// The epoch and the sink's number; all ones if there is none.
    tag: u64,
    sink: Option<Rc<dyn CqeSink>>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { tag: u64::MAX, sink: None }
    }
}

impl Cursor {
    #[inline]
    pub fn get(&mut self, table: &SinkTable, id: SinkId) -> Option<&dyn CqeSink> {
        let tag = table.epoch.get() | u64::from(id.0);
        if self.tag != tag {
            *self = Self { tag, sink: table.look_up(id) };
        }
        self.sink.as_deref()
    }
}
