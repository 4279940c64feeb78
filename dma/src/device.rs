//! [`DeviceMemory`]: memory as a device sees it, for programs that play the device (a controller in software).
//!
//! A device reads and writes the memory that its host let it use, at the moments that their protocol names; nothing but
//! the protocol keeps the two apart. So a device's copies are the raw ones of this crate: they tolerate that the host
//! writes meanwhile, and no reference to the memory is made here.
//!
//! Invariants:
//! - The keeper inside keeps the memory mapped; read-only memory is never written (a fault would end the process).
//! - Words are read and written whole, as aligned 64-bit or 32-bit accesses, each with the memory order named.
//! - Whoever plays a device writes only what the host told it to write: as hardware does by DMA, it goes past borrows.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arena::Arena;
use crate::error::{DmaError, check_range};
use crate::iobuf::IoBuf;
use crate::mmap::Mapping;
use crate::raw::RawSpan;
use crate::region::{MemOwner, MemRegion};

/// Memory that a host let a device use. Cloning it is cheap and makes another handle on the same memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    region: MemRegion,
    writable: bool,
}

/// Keeps memory that somebody else owns mapped.
enum Mapped {
    Region { _region: MemRegion },
    File { _mapping: Mapping },
}

impl MemOwner for Mapped {}

impl DeviceMemory {
    /// The memory of a region that was mapped for the device, readable and writable.
    pub fn of(region: &MemRegion) -> DeviceMemory {
        // The device's own view: what may be leased of the host's does not matter to it.
        let region =
            MemRegion::foreign(region.span(), Arc::new(Mapped::Region { _region: region.clone() }), 0);
        DeviceMemory { region, writable: true }
    }

    /// Maps `len_bytes` bytes at `offset_bytes` of a file that the host shares with the device. Both must be multiples of
    /// the page size.
    ///
    /// The host can still shorten its file, and an access then ends this process by SIGBUS, unless the file is sealed.
    ///
    /// # Errors
    /// [`DmaError::BadLength`] for a length of zero or beyond the end of the file, and [`DmaError::Map`].
    pub fn map_fd(
        fd: BorrowedFd<'_>,
        offset_bytes: u64,
        len_bytes: usize,
        writable: bool,
    ) -> Result<DeviceMemory, DmaError> {
        let mapping = Mapping::of_file(fd, offset_bytes, len_bytes, writable)?;
        let span = mapping.span();
        let region = MemRegion::foreign(span, Arc::new(Mapped::File { _mapping: mapping }), offset_bytes);
        Ok(DeviceMemory { region, writable })
    }

    /// The length in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // Nobody asks; a mapping is never empty.
    pub fn len(&self) -> usize {
        self.region.len()
    }

    /// Whether the device may write it.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The part of `len_bytes` bytes at `offset_bytes`. It keeps the whole mapped.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`].
    pub fn part(&self, offset_bytes: usize, len_bytes: usize) -> Result<DeviceMemory, DmaError> {
        Ok(DeviceMemory { region: self.region.part(offset_bytes, len_bytes)?, writable: self.writable })
    }

    /// `len_bytes` bytes at `offset_bytes` as the memory of a request, so that they are used in place. Who writes them
    /// asks [`is_writable`](Self::is_writable) first.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`].
    pub fn lease(&self, offset_bytes: usize, len_bytes: usize) -> Result<IoBuf, DmaError> {
        IoBuf::lease(&Rc::new(self.region.clone()), offset_bytes, len_bytes)
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    #[inline]
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        self.region.span().copy_to(offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] or [`DmaError::ReadOnly`], and nothing is copied.
    #[inline]
    pub fn copy_from(&self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        self.writable_part(offset_bytes, from.len())?.copy_from(0, from)
    }

    /// Sets `len_bytes` bytes at `offset_bytes` to `byte`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] or [`DmaError::ReadOnly`], and nothing is written.
    #[inline]
    pub fn fill(&self, offset_bytes: usize, len_bytes: usize, byte: u8) -> Result<(), DmaError> {
        self.writable_part(offset_bytes, len_bytes)?.fill(0, len_bytes, byte)
    }

    /// Copies `len_bytes` bytes at `arena_offset_bytes` of an arena to `offset_bytes` of this memory.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] or [`DmaError::ReadOnly`], and nothing is copied.
    #[inline]
    pub fn copy_from_arena(
        &self,
        offset_bytes: usize,
        arena: &Arena,
        arena_offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        let from = arena.span(arena_offset_bytes, len_bytes as u64)?;
        self.writable_part(offset_bytes, len_bytes)?.copy_span(from);
        Ok(())
    }

    /// Copies `len_bytes` bytes at `offset_bytes` of this memory to `arena_offset_bytes` of an arena.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    #[inline]
    pub fn copy_to_arena(
        &self,
        offset_bytes: usize,
        arena: &Arena,
        arena_offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        let to = arena.span(arena_offset_bytes, len_bytes as u64)?;
        to.copy_span(self.region.span().part(offset_bytes, len_bytes)?);
        Ok(())
    }

    #[inline]
    fn writable_part(&self, offset_bytes: usize, len_bytes: usize) -> Result<RawSpan, DmaError> {
        if !self.writable {
            return Err(DmaError::ReadOnly { offset_bytes, len_bytes });
        }
        self.region.span().part(offset_bytes, len_bytes)
    }
}

/// Entries of `WORDS` 64-bit words each: a queue or a list that host and device share.
#[derive(Clone, Debug)]
pub struct WordArray<const WORDS: usize> {
    memory: DeviceMemory,
    entries: usize,
}

impl<const WORDS: usize> WordArray<WORDS> {
    /// The bytes of an entry.
    pub const ENTRY_BYTES: usize = WORDS * size_of::<u64>();

    /// The first `entries` entries of `memory`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] where the memory is shorter, [`DmaError::BadAlignment`] where it does not start at a
    /// multiple of 8.
    pub fn new(memory: DeviceMemory, entries: usize) -> Result<WordArray<WORDS>, DmaError> {
        check_range(0, entries.saturating_mul(Self::ENTRY_BYTES), memory.len())?;
        if !memory.region.addr().is_multiple_of(align_of::<u64>()) {
            return Err(DmaError::BadAlignment { align_bytes: 1, max_bytes: align_of::<u64>() });
        }
        Ok(WordArray { memory, entries })
    }

    /// The number of entries.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // An empty one is of no use, and nobody asks.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Where entry `index` starts, if there is one.
    #[inline]
    fn entry(&self, index: usize) -> Option<*mut u64> {
        // `entries * ENTRY_BYTES` lies within the memory (checked by `new`), so the product cannot overflow.
        let at = (index < self.entries).then_some(index * Self::ENTRY_BYTES)?;
        Some(self.memory.region.span().ptr().wrapping_add(at).cast())
    }

    /// The words of entry `index`, each read once. `None` for an entry that does not exist.
    #[inline]
    pub fn load(&self, index: usize) -> Option<[u64; WORDS]> {
        let entry = self.entry(index)?;
        Some(std::array::from_fn(|word| {
            // SAFETY: the entry's words lie within the memory, which the region keeps mapped, and are aligned (both
            // checked by `new`); all other accesses are the hardware's or atomic (module's laws of `raw`).
            unsafe { AtomicU64::from_ptr(entry.wrapping_add(word)) }.load(Ordering::Relaxed)
        }))
    }

    /// Writes the words of entry `index` in their order, the last one such that who sees it sees everything written
    /// before. Returns false, with nothing written, for an entry that does not exist or memory that is read-only.
    #[inline]
    pub fn publish(&self, index: usize, words: &[u64; WORDS]) -> bool {
        let Some(entry) = self.entry(index).filter(|_| self.memory.writable) else { return false };
        for (at, word) in words.iter().enumerate() {
            let order = if at + 1 == WORDS { Ordering::Release } else { Ordering::Relaxed };
            // SAFETY: as in `load`; the memory is writable, as just checked.
            unsafe { AtomicU64::from_ptr(entry.wrapping_add(at)) }.store(*word, order);
        }
        true
    }
}

/// 32-bit cells: doorbells, shadow doorbells.
#[derive(Clone, Debug)]
pub struct CellArray {
    memory: DeviceMemory,
    stride_bytes: usize,
    cells: usize,
}

impl CellArray {
    /// `cells` cells, one every `stride_bytes` bytes (a multiple of 4) of `memory`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] where the memory is shorter, [`DmaError::BadAlignment`] where it or the stride is no
    /// multiple of 4.
    pub fn new(memory: DeviceMemory, stride_bytes: usize, cells: usize) -> Result<CellArray, DmaError> {
        check_range(0, stride_bytes.saturating_mul(cells), memory.len())?;
        for value in [stride_bytes, memory.region.addr()] {
            if !value.is_multiple_of(align_of::<u32>()) {
                return Err(DmaError::BadAlignment { align_bytes: value, max_bytes: align_of::<u32>() });
            }
        }
        if !memory.writable {
            return Err(DmaError::ReadOnly { offset_bytes: 0, len_bytes: memory.len() });
        }
        Ok(CellArray { memory, stride_bytes, cells })
    }

    /// The number of cells.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // An empty one is of no use, and nobody asks.
    pub fn len(&self) -> usize {
        self.cells
    }

    #[inline]
    fn cell(&self, index: usize) -> Option<&AtomicU32> {
        // `cells * stride_bytes` lies within the memory (checked by `new`), so the product cannot overflow.
        let at = (index < self.cells).then_some(index * self.stride_bytes)?;
        let ptr = self.memory.region.span().ptr().wrapping_add(at).cast();
        // SAFETY: the cell lies within the memory, which the region in `self` keeps mapped, writable (checked by `new`)
        // and aligned; all other accesses are the hardware's or atomic (laws of `raw`), which an atomic tolerates.
        Some(unsafe { AtomicU32::from_ptr(ptr) })
    }

    /// The value of a cell; what was written before it is visible. 0 for a cell that does not exist.
    #[inline]
    pub fn load(&self, index: usize) -> u32 {
        self.cell(index).map_or(0, |cell| cell.load(Ordering::Acquire))
    }

    /// Writes a cell, if it exists; who sees the value sees everything written before.
    #[inline]
    pub fn store(&self, index: usize, value: u32) {
        if let Some(cell) = self.cell(index) {
            cell.store(value, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
