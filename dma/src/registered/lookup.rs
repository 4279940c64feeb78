//! [`LookupCache`]: a lane's own view of a [`RegisteredTable`], for the hot path.
//!
//! Invariant: `spans` is the snapshot that was current at `generation`, and `last` is of it. One load of the table's
//! generation tells whether it still is; the lock is taken only when it is not. A look-up writes nothing that lanes share.

use std::sync::Arc;

use super::{Attachment, RegisteredTable, Span};
use crate::payload::Payload;

/// A lane's cache over the table: the last hit first, then a binary search.
#[derive(Debug)]
pub struct LookupCache<T = ()> {
    /// The last hit, here so that finding it again takes no further memory; of `spans`.
    last: Option<Span<T>>,
    generation: u64,
    table: Arc<RegisteredTable<T>>,
    spans: Arc<[Span<T>]>,
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
        LookupCache { last: None, generation, table, spans }
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
        let offset_bytes = match self.last.as_ref().and_then(|span| span.offset_of(addr, len_bytes)) {
            Some(offset_bytes) => offset_bytes,
            None => self.search(addr, len_bytes)?,
        };
        let span = self.last.as_ref()?;
        Some(Hit { value: &span.value, offset_bytes, left_bytes: span.len_bytes - offset_bytes })
    }

    /// Whether every buffer of a payload is registered.
    #[inline]
    pub fn covers(&mut self, payload: &Payload) -> bool {
        payload.as_bufs().iter().all(|buf| self.lookup(buf.addr(), buf.len()).is_some())
    }

    /// Makes the span that holds the range the last hit, if there is one, and tells where in it the range starts.
    #[inline(never)]
    fn search(&mut self, addr: usize, len_bytes: usize) -> Option<usize> {
        let at = self.spans.partition_point(|span| span.addr <= addr).checked_sub(1)?;
        let span = self.spans.get(at)?;
        let offset_bytes = span.offset_of(addr, len_bytes)?;
        self.last = Some(span.clone());
        Some(offset_bytes)
    }

    #[cold]
    fn refresh(&mut self) {
        self.last = None;
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
