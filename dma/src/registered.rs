//! The table of registered memory: what devices have been told of, how often, and what they answered.
//!
//! Invariants:
//! - Entries do not overlap. Each was registered as one range, holds its [`MemRegion`] (so the memory stays mapped), and
//!   carries the value that the device attached to it (an IOVA, a buffer index, nothing).
//! - A range counts on every entry that it lies in; an entry goes when nothing counts on it any more.
//! - The *spans* are the entries with neighbours merged where their values continue each other. They are published as an
//!   immutable snapshot; the generation number changes after it does, under the same lock.
//!
//! Rules of overlap: the identical range again counts up; a range that lies within registered memory (one entry or several
//! neighbours) counts on that; any other overlap is refused, since half of the range would be mapped twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::DmaError;
use crate::region::MemRegion;

mod lookup;

pub use lookup::{Hit, LookupCache};

/// What a device attaches to registered memory.
pub trait Attachment: Clone {
    /// Whether `next`, attached to the memory directly behind the `own_bytes` bytes that `self` is attached to, continues
    /// `self`, so that the two can be looked up as one. For an IOVA: whether it is `own_bytes` further.
    fn continues(&self, own_bytes: usize, next: &Self) -> bool;
}

impl Attachment for () {
    fn continues(&self, _own_bytes: usize, _next: &()) -> bool {
        true
    }
}

/// Registered memory, of all lanes. See the module for the rules.
#[derive(Debug)]
pub struct RegisteredTable<T = ()> {
    state: Mutex<State<T>>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct State<T> {
    /// By address.
    entries: BTreeMap<usize, Entry<T>>,
    /// How often each range is registered, by address and length.
    counts: BTreeMap<(usize, usize), usize>,
    spans: Arc<[Span<T>]>,
}

#[derive(Debug)]
struct Entry<T> {
    region: MemRegion,
    value: T,
    /// How many registrations count on it.
    users: usize,
}

impl<T> Entry<T> {
    fn end(&self) -> usize {
        self.region.addr() + self.region.len()
    }
}

/// A maximal piece of registered memory that is looked up as one.
#[derive(Clone, Debug)]
struct Span<T> {
    addr: usize,
    len_bytes: usize,
    value: T,
}

/// What a registration did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registered {
    /// The range is a new entry.
    New,
    /// The range was registered already, or lies within what is; it was counted.
    Counted,
}

impl<T: Attachment> RegisteredTable<T> {
    /// An empty table.
    pub fn new() -> RegisteredTable<T> {
        let state = State { entries: BTreeMap::new(), counts: BTreeMap::new(), spans: Arc::from([]) };
        RegisteredTable { state: Mutex::new(state), generation: AtomicU64::new(0) }
    }

    /// Registers a region whose value is known.
    ///
    /// # Errors
    /// As [`register_with`](Self::register_with).
    pub fn register(&self, region: &MemRegion, value: T) -> Result<Registered, DmaError> {
        self.register_with(region, |_| Ok(value))
    }

    /// Registers a region. `attach` is called if it becomes a new entry, to tell the device and get its value; when it
    /// fails, nothing is registered. The table is locked meanwhile, so `attach` must not use it.
    ///
    /// # Errors
    /// [`DmaError::BadLength`] for an empty region, [`DmaError::PartialOverlap`], and what `attach` returns.
    pub fn register_with<E: From<DmaError>>(
        &self,
        region: &MemRegion,
        attach: impl FnOnce(&MemRegion) -> Result<T, E>,
    ) -> Result<Registered, E> {
        let (addr, len_bytes) = (region.addr(), region.len());
        if len_bytes == 0 {
            return Err(DmaError::BadLength { len_bytes, max_bytes: crate::mmap::MAX_BYTES }.into());
        }
        let mut state = self.lock();
        let registered = if state.touched(addr, len_bytes).next().is_none() {
            let value = attach(region)?;
            state.entries.insert(addr, Entry { region: region.clone(), value, users: 1 });
            Registered::New
        } else {
            state.check_within(addr, len_bytes)?;
            state.touched_mut(addr, len_bytes).for_each(|entry| entry.users += 1);
            Registered::Counted
        };
        *state.counts.entry((addr, len_bytes)).or_insert(0) += 1;
        if registered == Registered::New {
            self.publish(&mut state);
        }
        Ok(registered)
    }

    /// Undoes one registration of exactly `len_bytes` bytes at `addr`. Returns the entries that nothing counts on any more;
    /// it is for the caller to tell the device.
    ///
    /// Lanes may go on finding them until they next look at the generation number: whoever unregisters first makes sure
    /// that no request uses the range.
    ///
    /// # Errors
    /// [`DmaError::NotRegistered`], and nothing changes.
    pub fn unregister(&self, addr: usize, len_bytes: usize) -> Result<Vec<(MemRegion, T)>, DmaError> {
        let mut state = self.lock();
        let Some(count) = state.counts.get_mut(&(addr, len_bytes)) else {
            return Err(DmaError::NotRegistered { addr, len_bytes });
        };
        *count -= 1;
        if *count == 0 {
            state.counts.remove(&(addr, len_bytes));
        }
        let mut unused = Vec::new();
        for entry in state.touched_mut(addr, len_bytes) {
            entry.users -= 1;
            if entry.users == 0 {
                unused.push(entry.region.addr());
            }
        }
        let removed: Vec<_> = unused
            .iter()
            .filter_map(|addr| state.entries.remove(addr))
            .map(|entry| (entry.region, entry.value))
            .collect();
        if !removed.is_empty() {
            self.publish(&mut state);
        }
        Ok(removed)
    }

    /// The registered regions with their values, by address; for a device that joins later.
    pub fn entries(&self) -> Vec<(MemRegion, T)> {
        self.lock().entries.values().map(|entry| (entry.region.clone(), entry.value.clone())).collect()
    }

    /// A number that changes whenever a look-up may have a different answer.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes the new snapshot, then the new generation, visible.
    fn publish(&self, state: &mut State<T>) {
        state.spans = state.merged();
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The spans and their generation, which belong together since both change under the lock.
    fn snapshot(&self) -> (Arc<[Span<T>]>, u64) {
        let state = self.lock();
        (Arc::clone(&state.spans), self.generation())
    }
}

impl<T> RegisteredTable<T> {
    /// A panic in an `attach` leaves the state as it was before, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Attachment> Default for RegisteredTable<T> {
    fn default() -> RegisteredTable<T> {
        RegisteredTable::new()
    }
}

impl<T: Attachment> State<T> {
    /// The entries that share a byte with the range, from the last to the first.
    fn touched(&self, addr: usize, len_bytes: usize) -> impl Iterator<Item = &Entry<T>> {
        let before_end = self.entries.range(..addr + len_bytes);
        before_end.rev().map(|(_, entry)| entry).take_while(move |entry| entry.end() > addr)
    }

    fn touched_mut(&mut self, addr: usize, len_bytes: usize) -> impl Iterator<Item = &mut Entry<T>> {
        let before_end = self.entries.range_mut(..addr + len_bytes);
        before_end.rev().map(|(_, entry)| entry).take_while(move |entry| entry.end() > addr)
    }

    /// Checks that a range which touches some entry lies wholly within entries.
    fn check_within(&self, addr: usize, len_bytes: usize) -> Result<(), DmaError> {
        // Walked from the last entry down, `covered_from` is where the covered part of the range starts.
        let mut covered_from = addr + len_bytes;
        let mut first = (addr, len_bytes);
        let mut gap = false;
        for entry in self.touched(addr, len_bytes) {
            gap |= entry.end() < covered_from;
            covered_from = entry.region.addr();
            first = (entry.region.addr(), entry.region.len());
        }
        if gap || covered_from > addr {
            let (with_addr, with_len_bytes) = first;
            return Err(DmaError::PartialOverlap { addr, len_bytes, with_addr, with_len_bytes });
        }
        Ok(())
    }

    fn merged(&self) -> Arc<[Span<T>]> {
        let mut spans: Vec<Span<T>> = Vec::with_capacity(self.entries.len());
        for entry in self.entries.values() {
            match spans.last_mut() {
                Some(last)
                    if last.addr + last.len_bytes == entry.region.addr()
                        && last.value.continues(last.len_bytes, &entry.value) =>
                {
                    last.len_bytes += entry.region.len();
                }
                _ => spans.push(Span {
                    addr: entry.region.addr(),
                    len_bytes: entry.region.len(),
                    value: entry.value.clone(),
                }),
            }
        }
        Arc::from(spans)
    }
}

#[cfg(test)]
mod tests;
