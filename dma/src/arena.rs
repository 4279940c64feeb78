//! [`Arena`]: byte-addressed memory that all lanes share, as a RAM disk is.
//!
//! Invariant: nobody ever makes a reference to an arena's bytes; reads and writes are raw copies that tolerate each
//! other. Two writes of the same bytes at once leave some mixture, as with any disk.

use crate::buffer::{Backing, DmaBuffer};
use crate::error::{DmaError, check_range};
use crate::payload::Payload;
use crate::raw::RawSpan;
use crate::vector;

/// Shared memory, zeroed at first.
#[derive(Debug)]
pub struct Arena {
    buffer: DmaBuffer,
}

/// From this length on, zeroing gives whole pages back to the kernel rather than write them. Below it the faults that
/// the next accesses take would cost more than the writing.
const RELEASE_MIN_BYTES: usize = 1 << 20;

impl Arena {
    /// Makes an arena of `len_bytes` bytes. Ordinary pages are taken from the system only when they are first written.
    ///
    /// # Errors
    /// As [`DmaBuffer::new`].
    pub fn new(len_bytes: usize, backing: Backing) -> Result<Arena, DmaError> {
        Ok(Arena { buffer: DmaBuffer::new(len_bytes, 1, backing)? })
    }

    /// The length in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // An arena is never empty.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// What the memory consists of.
    pub fn backing(&self) -> Backing {
        self.buffer.backing()
    }

    /// Fills the whole of `payload` from the bytes at `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    #[inline]
    pub fn read_into(&self, offset_bytes: u64, payload: &mut Payload) -> Result<(), DmaError> {
        let from = self.span(offset_bytes, payload.len_bytes() as u64)?;
        vector::walk(payload.as_bufs(), from.len(), 0, from.len(), |segment, _, done, step| {
            segment.span().copy_span(from.part(done, step)?);
            Ok(())
        })
    }

    /// Writes the whole of `payload` at `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    #[inline]
    pub fn write_from(&self, offset_bytes: u64, payload: &Payload) -> Result<(), DmaError> {
        let to = self.span(offset_bytes, payload.len_bytes() as u64)?;
        vector::walk(payload.as_bufs(), to.len(), 0, to.len(), |segment, _, done, step| {
            to.part(done, step)?.copy_span(segment.span());
            Ok(())
        })
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset_bytes: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.span(offset_bytes, to.len() as u64)?.copy_to(0, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_from(&self, offset_bytes: u64, from: &[u8]) -> Result<(), DmaError> {
        self.span(offset_bytes, from.len() as u64)?.copy_from(0, from)
    }

    /// Makes `len_bytes` bytes at `offset_bytes` zero; the memory stays allocated, except that of a long range.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    pub fn zero(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), DmaError> {
        let range = self.span(offset_bytes, len_bytes)?;
        if range.len() >= RELEASE_MIN_BYTES { self.release(range) } else { range.fill(0, range.len(), 0) }
    }

    /// Makes `len_bytes` bytes at `offset_bytes` zero, and gives whole ordinary pages among them back to the system.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    pub fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), DmaError> {
        self.release(self.span(offset_bytes, len_bytes)?)
    }

    /// Gives the pages that lie within `range` back, and writes zeroes to the rest of it.
    ///
    /// Huge pages are kept and written: the promise of the kernel to have them goes with them (before Linux 6.9 for
    /// private mappings, always for a memfd), and the next access would be a SIGBUS if somebody else took them meanwhile.
    fn release(&self, range: RawSpan) -> Result<(), DmaError> {
        if self.buffer.backing().is_huge() {
            return range.fill(0, range.len(), 0);
        }
        let page_bytes = self.buffer.page_bytes();
        let head = range.len().min(range.addr().next_multiple_of(page_bytes) - range.addr());
        let pages = (range.len() - head) / page_bytes * page_bytes;
        range.fill(0, head, 0)?;
        if pages > 0 && !self.buffer.release_pages(range.part(head, pages)?) {
            range.fill(head, pages, 0)?;
        }
        range.fill(head + pages, range.len() - head - pages, 0)
    }

    #[inline]
    pub(crate) fn span(&self, offset_bytes: u64, len_bytes: u64) -> Result<RawSpan, DmaError> {
        // Saturated, a value beyond the address space is out of bounds too: an arena is at most half of it.
        let offset_bytes = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        let len_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        check_range(offset_bytes, len_bytes, self.buffer.len())?;
        self.buffer.span().part(offset_bytes, len_bytes)
    }
}

#[cfg(test)]
mod tests;
