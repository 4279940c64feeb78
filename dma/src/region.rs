//! [`MemRegion`]: a range of memory that stays mapped as long as somebody holds the region. It is what gets registered
//! with devices, and what buffers of several lanes can be leased from.
//!
//! Invariants:
//! - The keeper keeps the span mapped, readable and writable.
//! - Only a *leasable* region gives buffers out. In its memory there is no Rust reference and never will be, so that any
//!   number of leases, devices, guests and processes may use it at once; each access is a raw copy.
//! - A region that is not leasable only describes memory (for registration): its owner goes on using it.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::buffer::DmaBuffer;
use crate::error::DmaError;
use crate::raw::RawSpan;

/// Keeps memory mapped until it is dropped.
pub trait MemOwner: Send + Sync {
    /// The descriptor through which other processes can map the memory, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl MemOwner for DmaBuffer {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        DmaBuffer::fd(self)
    }
}

/// A range of memory and what keeps it mapped. Cloning it is cheap and makes another handle on the same memory.
#[derive(Clone)]
pub struct MemRegion {
    span: RawSpan,
    keeper: Arc<dyn MemOwner>,
    /// Where the region starts in the keeper's file.
    fd_offset_bytes: u64,
    leasable: bool,
}

impl MemRegion {
    /// The whole of a buffer. Takes a [`DmaBuffer`] or an `Arc` of one.
    ///
    /// Buffers can be leased from it if nobody else can look at the memory as a slice: if this was the only `Arc`, or
    /// if the buffer has a file descriptor (such a buffer gives no slices). Otherwise it can only be registered.
    pub fn from_buffer(buffer: impl Into<Arc<DmaBuffer>>) -> MemRegion {
        let mut buffer = buffer.into();
        let leasable = !buffer.is_private() || Arc::get_mut(&mut buffer).is_some();
        MemRegion { span: buffer.span(), keeper: buffer, fd_offset_bytes: 0, leasable }
    }

    /// The whole of a buffer that a pool hands out in blocks.
    pub(crate) fn of_pool(buffer: Arc<DmaBuffer>) -> MemRegion {
        let leasable = !buffer.is_private();
        MemRegion { span: buffer.span(), keeper: buffer, fd_offset_bytes: 0, leasable }
    }

    /// Foreign memory, kept by `keeper`, in which nobody makes references. The span is mapped as long as the keeper is.
    pub(crate) fn foreign(span: RawSpan, keeper: Arc<dyn MemOwner>, fd_offset_bytes: u64) -> MemRegion {
        MemRegion { span, keeper, fd_offset_bytes, leasable: true }
    }

    /// The address of the first byte.
    #[inline]
    pub fn addr(&self) -> usize {
        self.span.addr()
    }

    /// The first byte.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.span.ptr()
    }

    /// The length in bytes; may be 0 only for a part.
    #[inline]
    pub fn len(&self) -> usize {
        self.span.len()
    }

    /// Whether it has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.span.len() == 0
    }

    /// Whether buffers can be leased from it (see [`from_buffer`](Self::from_buffer)).
    #[inline]
    pub fn is_leasable(&self) -> bool {
        self.leasable
    }

    /// Whether the `len_bytes` bytes at `addr` lie within the region.
    #[inline]
    pub fn contains(&self, addr: usize, len_bytes: usize) -> bool {
        addr.checked_sub(self.addr()).is_some_and(|at| at <= self.len() && len_bytes <= self.len() - at)
    }

    /// Whether the two share a byte.
    #[inline]
    pub fn overlaps(&self, other: &MemRegion) -> bool {
        let (first, second) = if self.addr() <= other.addr() { (self, other) } else { (other, self) };
        !second.is_empty() && second.addr() - first.addr() < first.len()
    }

    /// The part of `len_bytes` bytes at `offset_bytes`. It keeps the whole mapped.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`].
    pub fn part(&self, offset_bytes: usize, len_bytes: usize) -> Result<MemRegion, DmaError> {
        let span = self.span.part(offset_bytes, len_bytes)?;
        let fd_offset_bytes = self.fd_offset_bytes + offset_bytes as u64;
        Ok(MemRegion { span, keeper: Arc::clone(&self.keeper), fd_offset_bytes, leasable: self.leasable })
    }

    /// The whole pages that hold the region, as a device sees them: the MMU maps whole pages, so that all of them is mapped.
    /// `None` where a page of `page_bytes` (a power of two) is larger than the system's and the region does not fill such
    /// pages.
    ///
    /// A device in software leases from it, whoever else may look at the memory as a slice: it is allowed what a device is
    /// allowed, raw copies of what a command names while the command is in flight, when its memory belongs to nobody else.
    pub(crate) fn whole_pages(&self, page_bytes: usize) -> Option<MemRegion> {
        let span = self.span.whole_pages(page_bytes)?;
        let head = (self.addr() - span.addr()) as u64;
        let fd_offset_bytes = self.fd_offset_bytes.saturating_sub(head);
        Some(MemRegion { span, keeper: Arc::clone(&self.keeper), fd_offset_bytes, leasable: true })
    }

    /// The descriptor through which other processes can map the memory, and where in it the region starts, in bytes.
    pub fn fd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        Some((self.keeper.fd()?, self.fd_offset_bytes))
    }

    /// The memory. Who stores it keeps the region alive (see `raw`).
    #[inline]
    pub(crate) fn span(&self) -> RawSpan {
        self.span
    }
}

impl fmt::Debug for MemRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemRegion")
            .field("addr", &format_args!("{:#x}", self.addr()))
            .field("len_bytes", &self.len())
            .field("leasable", &self.leasable)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backing;

    fn buffer(len_bytes: usize, backing: Backing) -> DmaBuffer {
        DmaBuffer::new(len_bytes, 4096, backing).unwrap()
    }

    #[test]
    fn only_memory_that_nobody_can_borrow_is_leasable() {
        assert!(MemRegion::from_buffer(buffer(4096, Backing::Pages)).is_leasable());
        let shared = Arc::new(buffer(4096, Backing::Pages));
        assert!(!MemRegion::from_buffer(Arc::clone(&shared)).is_leasable());
        let weak = Arc::downgrade(&shared);
        assert!(!MemRegion::from_buffer(shared).is_leasable(), "a Weak can become an Arc again");
        drop(weak);
        let shared = Arc::new(buffer(4096, Backing::Memfd));
        assert!(MemRegion::from_buffer(Arc::clone(&shared)).is_leasable());
        assert!(shared.as_slice().is_none());
    }

    #[test]
    fn contains_and_overlaps_are_exact() {
        let whole = MemRegion::from_buffer(buffer(8192, Backing::Pages));
        let (addr, len) = (whole.addr(), whole.len());
        assert!(
            whole.contains(addr, len) && whole.contains(addr + len, 0) && whole.contains(addr + 1, len - 1)
        );
        assert!(
            !whole.contains(addr, len + 1) && !whole.contains(addr - 1, 2) && !whole.contains(addr + len, 1)
        );
        assert!(!whole.contains(addr + 1, usize::MAX));
        let low = whole.part(0, 4096).unwrap();
        let high = whole.part(4096, 4096).unwrap();
        let middle = whole.part(4095, 2).unwrap();
        assert!(!low.overlaps(&high) && !high.overlaps(&low));
        assert!(
            low.overlaps(&middle)
                && middle.overlaps(&high)
                && whole.overlaps(&middle)
                && low.overlaps(&whole)
        );
        assert!(!whole.part(100, 0).unwrap().overlaps(&whole));
        assert!(whole.part(8192, 1).is_err());
    }

    #[test]
    fn a_part_keeps_the_memory_and_knows_its_place_in_the_file() {
        let whole = MemRegion::from_buffer(buffer(8192, Backing::Memfd));
        let part = whole.part(4096, 100).unwrap().part(10, 20).unwrap();
        drop(whole);
        let (_, offset_bytes) = part.fd().unwrap();
        assert_eq!(offset_bytes, 4106);
        part.span().fill(0, 20, 7).unwrap();
        let mut byte = [0];
        part.span().copy_to(19, &mut byte).unwrap();
        assert_eq!(byte, [7]);
    }
}
