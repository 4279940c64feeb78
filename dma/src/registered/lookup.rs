//! [`LookupCache`]: a lane's own view of a [`RegisteredTable`], for the hot path.
//!
//! Invariant: `spans` is the snapshot that was current at `generation`. One load of the table's generation tells whether
//! it still is; the lock is taken only when it is not. A look-up writes nothing that lanes share.

use std::sync::Arc;

use super::{Attachment, RegisteredTable, Span};
use crate::payload::Payload;

/// A lane's cache over the table: the last hit first, then a binary search.
#[derive(Debug)]
pub struct LookupCache<T = ()> {
    table: Arc<RegisteredTable<T>>,
    spans: Arc<[Span<T>]>,
    generation: u64,
    last: usize,
}

/// Registered memory that holds a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit<'a, T> {
    /// What the device attached to the start of it.
    pub value: &'a T,
    /// Where in it the range starts, in bytes.
    pub offset_bytes: usize,
    /// How many bytes of it follow from there on; at least the range's length.
    pub left_bytes: usize,
}

impl<T: Attachment> LookupCache<T> {
    /// A cache for one lane.
    pub fn new(table: Arc<RegisteredTable<T>>) -> LookupCache<T> {
        let (spans, generation) = table.snapshot();
        LookupCache { table, spans, generation, last: 0 }
    }

    /// The table behind it.
    pub fn table(&self) -> &Arc<RegisteredTable<T>> {
        &self.table
    }

    /// The registered memory that holds the `len_bytes` bytes at `addr`, if all of them are registered and look-up as one.
    #[inline]
    pub fn lookup(&mut self, addr: usize, len_bytes: usize) -> Option<Hit<'_, T>> {
        if self.table.generation() != self.generation {
            self.refresh();
        }
        let last = self.spans.get(self.last).and_then(|span| span.offset_of(addr, len_bytes));
        if last.is_none() {
            self.last = self.search(addr);
        }
        let span = self.spans.get(self.last)?;
        let offset_bytes = span.offset_of(addr, len_bytes)?;
        Some(Hit { value: &span.value, offset_bytes, left_bytes: span.len_bytes - offset_bytes })
    }

    /// Whether every buffer of a payload is registered.
    #[inline]
    pub fn covers(&mut self, payload: &Payload) -> bool {
        payload.as_bufs().iter().all(|buf| self.lookup(buf.addr(), buf.len()).is_some())
    }

    /// The last span that starts at `addr` or before, or the first.
    fn search(&self, addr: usize) -> usize {
        self.spans.partition_point(|span| span.addr <= addr).saturating_sub(1)
    }

    #[cold]
    fn refresh(&mut self) {
        (self.spans, self.generation) = self.table.snapshot();
    }
}

impl<T> Span<T> {
    #[inline]
    fn offset_of(&self, addr: usize, len_bytes: usize) -> Option<usize> {
        let offset = addr.checked_sub(self.addr)?;
        (offset <= self.len_bytes && len_bytes <= self.len_bytes - offset).then_some(offset)
    }
}
