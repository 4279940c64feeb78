//! [`Iova`]: an address as a device sees it, and the allocator of such addresses.
//!
//! Invariants of the allocator:
//! - It gives out whole pages, only within the allowed ranges, no page twice, and never the page at 0 (a device that reads
//!   an uninitialised pointer must hit a hole).
//! - The free list holds maximal ranges: neighbours are merged as soon as they touch, so that giving everything back leaves
//!   what was there at first.
//! - Ranges are kept by first and last byte, since the last byte of the address space has no end.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use crate::registered::Attachment;

/// An I/O virtual address: what a device puts on the bus, translated by the IOMMU.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Iova(pub u64);

impl Iova {
    /// The address `bytes` further on. It wraps at the end of the address space, where nothing is ever mapped.
    #[inline]
    #[must_use]
    pub const fn add(self, bytes: u64) -> Iova {
        Iova(self.0.wrapping_add(bytes))
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Attachment for Iova {
    fn continues(&self, own_bytes: usize, next: &Iova) -> bool {
        self.0.checked_add(own_bytes as u64) == Some(next.0)
    }
}

/// The sizes for which an address is given the same offset within them as the memory has, so that the IOMMU can use a page
/// of that size: those of x86-64 and of arm64 with 4 KiB pages.
const HUGE_BYTES: [u64; 2] = [1 << 30, 2 << 20];

/// Gives out I/O virtual addresses, first fit.
#[derive(Clone, Debug)]
pub struct IovaAllocator {
    page_bytes: u64,
    /// Where addresses may be: first byte to last byte.
    allowed: BTreeMap<u64, u64>,
    /// What of that nobody has.
    free: BTreeMap<u64, u64>,
}

impl IovaAllocator {
    /// An allocator of pages of `page_bytes` (a power of two; the next one is taken otherwise) within `ranges`.
    pub fn new(page_bytes: u64, ranges: &[RangeInclusive<u64>]) -> IovaAllocator {
        let page_bytes = page_bytes.clamp(1, 1 << 62).next_power_of_two();
        let allowed = whole_pages(page_bytes, ranges);
        IovaAllocator { page_bytes, free: allowed.clone(), allowed }
    }

    /// The size of a page, in bytes.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// How many bytes are free.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().fold(0, |sum: u64, (first, last)| sum.saturating_add(last - first).saturating_add(1))
    }

    /// How long the longest free range is, in bytes.
    pub fn largest_free_bytes(&self) -> u64 {
        self.free.iter().map(|(first, last)| (last - first).saturating_add(1)).max().unwrap_or(0)
    }

    /// Takes `len_bytes` bytes, a multiple of the page size, for memory at `addr`. Where the memory holds a whole huge page
    /// the result has the same offset within a huge page as `addr` (so long as such a place is free). `None` if no free
    /// range is long enough, or the length is no multiple of the page size or 0.
    pub fn allocate(&mut self, len_bytes: u64, addr: u64) -> Option<Iova> {
        if len_bytes == 0 || !len_bytes.is_multiple_of(self.page_bytes) {
            return None;
        }
        let huge = HUGE_BYTES.into_iter().filter(|&huge| holds_aligned(addr, len_bytes, huge));
        let found =
            huge.chain([self.page_bytes]).filter(|&align| align >= self.page_bytes).find_map(|align| {
                self.find(len_bytes, align, addr % align / self.page_bytes * self.page_bytes)
            })?;
        self.take(found, len_bytes);
        Some(Iova(found))
    }

    /// Takes exactly these bytes, so that the addresses continue those of a neighbour; false if they are not all free.
    pub fn allocate_at(&mut self, iova: Iova, len_bytes: u64) -> bool {
        let whole = len_bytes > 0 && (iova.0 | len_bytes).is_multiple_of(self.page_bytes);
        let Some(last) = iova.0.checked_add(len_bytes.wrapping_sub(1)) else { return false };
        let free = whole && self.free.range(..=iova.0).next_back().is_some_and(|(_, &end)| end >= last);
        if free {
            self.take(iova.0, len_bytes);
        }
        free
    }

    /// Gives back what was allocated. Bytes that are no longer allowed (see [`narrow`](Self::narrow)) are not given out
    /// again.
    pub fn release(&mut self, iova: Iova, len_bytes: u64) {
        let Some(last) = len_bytes.checked_sub(1).and_then(|more| iova.0.checked_add(more)) else { return };
        let parts: Vec<(u64, u64)> = overlaps(&self.allowed, iova.0, last).collect();
        for (first, last) in parts {
            self.insert(first, last);
        }
    }

    /// Allows only what also lies in `ranges`. What is allocated elsewhere stays so until it is released.
    pub fn narrow(&mut self, ranges: &[RangeInclusive<u64>]) {
        let allowed = whole_pages(self.page_bytes, ranges);
        let within = |old: &BTreeMap<u64, u64>| -> BTreeMap<u64, u64> {
            old.iter().flat_map(|(&first, &last)| overlaps(&allowed, first, last)).collect()
        };
        self.free = within(&self.free);
        self.allowed = within(&self.allowed);
    }

    /// The lowest free address with `offset` bytes to the multiple of `align` before it and `len_bytes` free from there on.
    fn find(&self, len_bytes: u64, align: u64, offset: u64) -> Option<u64> {
        self.free.iter().find_map(|(&first, &last)| {
            let back = first.wrapping_sub(offset) % align;
            let start = if back == 0 { first } else { first.checked_add(align - back)? };
            (start <= last && last - start >= len_bytes - 1).then_some(start)
        })
    }

    /// Removes a range that lies within one free range.
    fn take(&mut self, start: u64, len_bytes: u64) {
        let end = start + (len_bytes - 1);
        let Some((&first, &last)) = self.free.range(..=start).next_back() else { return };
        self.free.remove(&first);
        if first < start {
            self.free.insert(first, start - 1);
        }
        if end < last {
            self.free.insert(end + 1, last);
        }
    }

    /// Adds a range and merges it with what it touches. Bytes that are free already stay so.
    fn insert(&mut self, mut first: u64, mut last: u64) {
        let touches = |&(_, &end): &(&u64, &u64)| end.saturating_add(1) >= first;
        if let Some((&before, &end)) = self.free.range(..=first).next_back().filter(touches) {
            self.free.remove(&before);
            (first, last) = (before, last.max(end));
        }
        while let Some((&next, &end)) = self.free.range(first..=last.saturating_add(1)).next() {
            self.free.remove(&next);
            last = last.max(end);
        }
        self.free.insert(first, last);
    }
}

/// Whether `len_bytes` bytes at `addr` hold a whole page of `huge` bytes.
fn holds_aligned(addr: u64, len_bytes: u64, huge: u64) -> bool {
    let start = addr.checked_next_multiple_of(huge);
    let end = addr.checked_add(len_bytes);
    start.and_then(|start| start.checked_add(huge)).zip(end).is_some_and(|(needed, end)| needed <= end)
}

/// The whole pages within `ranges`, merged, without the page at 0.
fn whole_pages(page_bytes: u64, ranges: &[RangeInclusive<u64>]) -> BTreeMap<u64, u64> {
    let mut all = IovaAllocator { page_bytes, allowed: BTreeMap::new(), free: BTreeMap::new() };
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let Some(first) = (*range.start()).max(page_bytes).checked_next_multiple_of(page_bytes) else {
            continue;
        };
        // One past the last byte of the last whole page, less one; a range to the very end has no "one past".
        let last = match range.end().checked_add(1) {
            None => u64::MAX,
            Some(end) if end / page_bytes > 0 => end / page_bytes * page_bytes - 1,
            Some(_) => continue,
        };
        if first < last {
            all.insert(first, last);
        }
    }
    all.free
}

/// The parts of `first..=last` that lie in `ranges`.
fn overlaps(ranges: &BTreeMap<u64, u64>, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    let before = ranges.range(..=last).rev().take_while(move |&(_, &end)| end >= first);
    before.map(move |(&start, &end)| (start.max(first), end.min(last)))
}

#[cfg(test)]
mod tests;
