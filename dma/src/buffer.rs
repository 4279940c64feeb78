//! [`DmaBuffer`]: memory that a device may use, aligned and zeroed, from ordinary or huge pages, shareable or not.
//!
//! Invariant: the memory of a *private* buffer (one without a file descriptor) is reachable only through this value, so
//! borrowing the buffer borrows the memory. A buffer with a descriptor may be mapped and written by another process at
//! any time, so it never gives out slices; its bytes are copied in and out.
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::DmaError;
use crate::hugepages::HugePages;
use crate::mmap::{MAX_BYTES, Mapping};
use crate::raw::RawSpan;

/// What a buffer's memory consists of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backing {
    /// Ordinary anonymous pages.
    Pages,
    /// Anonymous huge pages of the default size (hugetlbpage of the kernel's admin guide), through hugepage-rs.
    HugePages,
    /// A memfd of ordinary pages, which other processes can map (memfd_create(2)).
    Memfd,
    /// A memfd of huge pages of the default size (`MFD_HUGETLB`).
    MemfdHuge,
}

impl Backing {
    /// Whether the memory has a file descriptor, so that other processes can map it.
    pub const fn is_shareable(self) -> bool {
        matches!(self, Backing::Memfd | Backing::MemfdHuge)
    }

    /// Whether it consists of huge pages.
    pub const fn is_huge(self) -> bool {
        matches!(self, Backing::HugePages | Backing::MemfdHuge)
    }

    /// The same with ordinary pages.
    pub const fn without_huge_pages(self) -> Backing {
        match self {
            Backing::Pages | Backing::HugePages => Backing::Pages,
            Backing::Memfd | Backing::MemfdHuge => Backing::Memfd,
        }
    }
}

/// Aligned, zeroed memory with one owner.
pub struct DmaBuffer {
    mapping: Mapping,
    len_bytes: usize,
    backing: Backing,
    fallback_reason: Option<Box<DmaError>>,
}

impl DmaBuffer {
    /// Maps `len_bytes` zeroed bytes whose address is a multiple of `align_bytes`, from exactly this backing.
    ///
    /// # Errors
    /// - [`DmaError::BadLength`] for a length of 0 or above half the address space.
    /// - [`DmaError::BadAlignment`] for an alignment that is no power of two, or, with [`Backing::HugePages`], above the
    ///   huge page size.
    /// - [`DmaError::NoHugePages`] or [`DmaError::HugePagesUnsupported`] where huge pages are asked for and none is free.
    /// - [`DmaError::Map`] where the kernel refuses otherwise.
    pub fn new(len_bytes: usize, align_bytes: usize, backing: Backing) -> Result<DmaBuffer, DmaError> {
        if len_bytes == 0 || len_bytes > MAX_BYTES {
            return Err(DmaError::BadLength { len_bytes, max_bytes: MAX_BYTES });
        }
        if !align_bytes.is_power_of_two() || align_bytes > MAX_BYTES {
            return Err(DmaError::BadAlignment { align_bytes, max_bytes: 1 << (MAX_BYTES.ilog2()) });
        }
        let mapping = match backing {
            Backing::Pages => Mapping::anonymous(len_bytes, align_bytes)?,
            Backing::HugePages => Mapping::huge(len_bytes, align_bytes, &HugePages::probe()?)?,
            Backing::Memfd => Mapping::memfd(len_bytes, align_bytes, None)?,
            Backing::MemfdHuge => Mapping::memfd(len_bytes, align_bytes, Some(&HugePages::probe()?))?,
        };
        Ok(DmaBuffer { mapping, len_bytes, backing, fallback_reason: None })
    }

    /// As [`new`](Self::new), but where no huge page is free (or alignment asks for more than they give), takes ordinary
    /// pages and says so: in the log, once per process as a warning, and in [`fallback_reason`](Self::fallback_reason).
    ///
    /// # Errors
    /// As [`new`](Self::new) for what has nothing to do with huge pages.
    pub fn new_or_fallback(
        len_bytes: usize,
        align_bytes: usize,
        backing: Backing,
    ) -> Result<DmaBuffer, DmaError> {
        let reason = match DmaBuffer::new(len_bytes, align_bytes, backing) {
            Err(reason) if backing.is_huge() => reason,
            result => return result,
        };
        let mut buffer = DmaBuffer::new(len_bytes, align_bytes, backing.without_huge_pages())?;
        log_fallback(len_bytes, &reason);
        buffer.fallback_reason = Some(Box::new(reason));
        Ok(buffer)
    }

    /// Where the memory is. Valid until the buffer is dropped.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.span().ptr()
    }

    /// The address of the first byte.
    #[inline]
    pub fn addr(&self) -> usize {
        self.mapping.span().addr()
    }

    /// The length asked for, in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // A buffer is never empty.
    pub fn len(&self) -> usize {
        self.len_bytes
    }

    /// The bytes, for a buffer without a file descriptor; `None` for one that other processes may be writing.
    #[inline]
    pub fn as_slice(&self) -> Option<&[u8]> {
        // SAFETY: the memory is mapped for at least `len_bytes`, initialised (the kernel zeroes it), and private to this
        // value, so that `&self` rules out a writer (the module's invariant).
        self.is_private().then(|| unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len_bytes) })
    }

    /// The bytes to write, for a buffer without a file descriptor; `None` for one that other processes may be using.
    #[inline]
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        // SAFETY: as for `as_slice`; `&mut self` rules out every other user.
        self.is_private().then(|| unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len_bytes) })
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        self.span().copy_to(offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_from(&mut self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        self.span().copy_from(offset_bytes, from)
    }

    /// The descriptor that other processes can map at offset 0, for the memfd backings.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.mapping.fd()
    }

    /// What the memory consists of; after a fall-back not what was asked for.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Why ordinary pages were taken instead of huge ones, if they were.
    pub fn fallback_reason(&self) -> Option<&DmaError> {
        self.fallback_reason.as_deref()
    }

    /// The size of the pages that the memory consists of, in bytes.
    pub fn page_bytes(&self) -> usize {
        self.mapping.page_bytes()
    }

    /// Whether no other process can reach the memory.
    #[inline]
    pub fn is_private(&self) -> bool {
        !self.backing.is_shareable()
    }

    /// Gives the pages of `pages`, a page-aligned part of this buffer, back to the system; they read as zeroes
    /// afterwards. Returns false, with nothing or only some pages given back, where the kernel cannot. Nobody may hold a
    /// reference to the bytes.
    pub(crate) fn release_pages(&self, pages: RawSpan) -> bool {
        self.mapping.release(pages)
    }

    /// The visible part of the mapping. Who stores it keeps the buffer alive (see `raw`).
    #[inline]
    pub(crate) fn span(&self) -> RawSpan {
        let ptr = self.mapping.span().non_null();
        // SAFETY: the mapping is at least `len_bytes` long and lives as long as this buffer.
        unsafe { RawSpan::new(ptr, self.len_bytes) }
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer")
            .field("addr", &format_args!("{:#x}", self.addr()))
            .field("len_bytes", &self.len_bytes)
            .field("backing", &self.backing)
            .finish()
    }
}

/// Warns of the first fall-back; a program that makes a buffer per job would repeat itself otherwise.
fn log_fallback(len_bytes: usize, reason: &DmaError) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if WARNED.swap(true, Ordering::Relaxed) {
        tracing::debug!(len_bytes, %reason, "ordinary pages instead of huge ones");
    } else {
        tracing::warn!(len_bytes, %reason, "ordinary pages instead of huge ones; further ones are logged as debug");
    }
}

#[cfg(test)]
mod tests;
