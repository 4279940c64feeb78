//! Mappings of memory: made by the kernel, aligned as asked, zeroed, undone on drop.
//!
//! Invariant: a [`Mapping`] is the only owner of its address range; the range stays mapped, readable and writable, at
//! the same address until the mapping is dropped.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::error::DmaError;
use crate::hugepages::HugePages;
use crate::raw::RawSpan;

/// How a mapping is undone.
enum Kind {
    /// By munmap of the whole range.
    Kernel,
    /// By hugepage-rs, which wants the layout back.
    HugePageRs(Layout),
}

/// A mapped range.
pub(crate) struct Mapping {
    span: RawSpan,
    kind: Kind,
    fd: Option<OwnedFd>,
    page_bytes: usize,
}

fn map_error(what: &'static str, len_bytes: usize, errno: Errno) -> DmaError {
    DmaError::Map { what, len_bytes, source: io::Error::from(errno) }
}

/// The longest mapping that can be asked for: room is left for rounding and alignment to be computed.
pub(crate) const MAX_BYTES: usize = (isize::MAX as usize) / 2;

fn round_up(len_bytes: usize, page_bytes: usize) -> usize {
    len_bytes.next_multiple_of(page_bytes)
}

impl Mapping {
    /// Anonymous ordinary pages. `align_bytes` is a power of two, `len_bytes` at most [`MAX_BYTES`].
    pub(crate) fn anonymous(len_bytes: usize, align_bytes: usize) -> Result<Mapping, DmaError> {
        let page_bytes = rustix::param::page_size();
        let len = round_up(len_bytes, page_bytes);
        let span = map_anonymous(len, align_bytes, page_bytes, READ_WRITE, MapFlags::PRIVATE)
            .map_err(|errno| map_error("map", len, errno))?;
        Ok(Mapping { span, kind: Kind::Kernel, fd: None, page_bytes })
    }

    /// Anonymous huge pages of the default size, through hugepage-rs. `align_bytes` is a power of two.
    ///
    /// hugepage-rs 0.1 knows only the default huge page size, gives no errno and no file descriptor, and panics where
    /// /proc/meminfo does not name a size. All of that is dealt with here: `pages` proves that the size can be read,
    /// and a refusal is explained from the kernel's counters.
    pub(crate) fn huge(len_bytes: usize, align_bytes: usize, pages: &HugePages) -> Result<Mapping, DmaError> {
        let bad = DmaError::BadAlignment { align_bytes, max_bytes: pages.page_bytes };
        if align_bytes > pages.page_bytes {
            return Err(bad);
        }
        let len = round_up(len_bytes, pages.page_bytes);
        let Ok(layout) = Layout::from_size_align(len, align_bytes) else { return Err(bad) };
        // SAFETY: the layout's size is not zero, since a multiple of the page size at least as long as `len_bytes`,
        // which the caller checked to be at least 1.
        let ptr = unsafe { hugepage_rs::alloc(layout) };
        let Some(ptr) = NonNull::new(ptr) else { return Err(pages.refusal(len)) };
        // SAFETY: hugepage-rs mapped `len` bytes readable and writable, and they stay so until `Drop`.
        let span = unsafe { RawSpan::new(ptr, len) };
        Ok(Mapping { span, kind: Kind::HugePageRs(layout), fd: None, page_bytes: pages.page_bytes })
    }

    /// A memfd of ordinary pages, or of huge pages of the default size if `huge` is given, mapped shared. It is sealed
    /// against shrinking and growing, so that nobody who gets the descriptor can make an access here fault.
    pub(crate) fn memfd(
        len_bytes: usize,
        align_bytes: usize,
        huge: Option<&HugePages>,
    ) -> Result<Mapping, DmaError> {
        let page_bytes = huge.map_or_else(rustix::param::page_size, |pages| pages.page_bytes);
        // See `map_file` for what an alignment above the page size costs when it fails; a failure is common here.
        if huge.is_some() && align_bytes > page_bytes {
            return Err(DmaError::BadAlignment { align_bytes, max_bytes: page_bytes });
        }
        let len = round_up(len_bytes, page_bytes);
        let refused = |what, errno| match huge {
            Some(pages) if errno == Errno::NOMEM => pages.refusal(len),
            _ => map_error(what, len, errno),
        };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        flags.set(MemfdFlags::HUGETLB, huge.is_some());
        let fd = rustix::fs::memfd_create("corelane-dma", flags)
            .map_err(|errno| refused("create a memfd of", errno))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(|errno| refused("size a memfd to", errno))?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|errno| refused("seal a memfd of", errno))?;
        let span =
            map_file(&fd, len, align_bytes, page_bytes).map_err(|errno| refused("map a memfd of", errno))?;
        Ok(Mapping { span, kind: Kind::Kernel, fd: Some(fd), page_bytes })
    }

    /// `len_bytes` bytes at `offset_bytes` of a file of somebody else, shared; both are multiples of the page size. Without
    /// `writable` it is mapped for reading only, and whoever holds the mapping never writes.
    pub(crate) fn of_file(
        fd: BorrowedFd<'_>,
        offset_bytes: u64,
        len_bytes: usize,
        writable: bool,
    ) -> Result<Mapping, DmaError> {
        let what = "map a shared file's";
        let refused = |errno| map_error(what, len_bytes, errno);
        let page_bytes = rustix::param::page_size();
        let file_bytes = rustix::fs::fstat(fd).map_err(refused)?.st_size as u64;
        let left_bytes = file_bytes.saturating_sub(offset_bytes);
        // A page beyond the end of the file would be a SIGBUS when it is touched.
        let max_bytes = usize::try_from(left_bytes).unwrap_or(MAX_BYTES).min(MAX_BYTES);
        if len_bytes == 0 || len_bytes > max_bytes {
            return Err(DmaError::BadLength { len_bytes, max_bytes });
        }
        let prot = if writable { READ_WRITE } else { ProtFlags::READ };
        let shared = MapFlags::SHARED;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { rustix::mm::mmap(null_mut(), len_bytes, prot, shared, fd, offset_bytes) };
        let start = start.map_err(refused)?;
        let span = span_of(start.cast(), len_bytes).map_err(refused)?;
        Ok(Mapping { span, kind: Kind::Kernel, fd: None, page_bytes })
    }

    /// The mapped range, which may be longer than what was asked for.
    #[inline]
    pub(crate) fn span(&self) -> RawSpan {
        self.span
    }

    /// Gives the pages of `part` back to the system, so that they read as zeroes; false if the kernel refuses.
    ///
    /// Private memory loses its pages by MADV_DONTNEED, a file's by MADV_REMOVE (madvise(2)); both are atomic for every
    /// byte with respect to raw copies, which see the old value or zero.
    pub(crate) fn release(&self, part: RawSpan) -> bool {
        let start = self.span.addr();
        let end = start + self.span.len();
        if part.addr() < start || part.len() > end - start || part.addr() > end - part.len() {
            return false;
        }
        let advice = if self.fd.is_some() { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
        // SAFETY: the range was just checked to be within this mapping, which stays mapped; only contents change, and to
        // raw spans (module `raw`) contents may change at any time.
        unsafe { rustix::mm::madvise(part.ptr().cast(), part.len(), advice) }.is_ok()
    }

    /// The descriptor that other processes can map, for a memfd.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The size of the pages that it consists of.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match self.kind {
            // SAFETY: pointer and layout are those of the allocation, and this mapping was its only owner.
            Kind::HugePageRs(layout) => unsafe { hugepage_rs::dealloc(self.span.ptr(), layout) },
            Kind::Kernel => unmap(self.span.ptr(), self.span.len()),
        }
    }
}

/// Unmaps a range that the caller owns. It can fail only for want of memory to split a mapping (ENOMEM) or for a range
/// that was never mapped; the address range is leaked then, which is harmless.
fn unmap(ptr: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: the callers pass ranges of their own mappings that nobody else uses.
        let result = unsafe { rustix::mm::munmap(ptr.cast(), len) };
        debug_assert!(result.is_ok(), "munmap of {len} bytes: {result:?}");
    }
}

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Maps `len` anonymous bytes, a multiple of the page size, aligned to `align`: maps more where necessary and gives the
/// ends back.
fn map_anonymous(
    len: usize,
    align: usize,
    page: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> rustix::io::Result<RawSpan> {
    let slack = align.max(page) - page;
    let whole = len.checked_add(slack).ok_or(Errno::NOMEM)?;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
    let base = unsafe { rustix::mm::mmap_anonymous(null_mut(), whole, prot, flags) }?.cast::<u8>();
    let head = base.align_offset(align);
    let start = base.wrapping_add(head);
    unmap(base, head);
    unmap(start.wrapping_add(len), slack - head);
    span_of(start, len)
}

/// Maps the first `len` bytes of `fd`, a multiple of its page size, aligned to `align`.
///
/// An alignment above the page size takes a reservation of address space that the file is then mapped over. If that
/// mapping fails, the kernel may or may not have removed the reservation, and another thread may already have got the
/// address; so it is left alone. It costs addresses, not memory.
fn map_file(fd: &OwnedFd, len: usize, align: usize, page: usize) -> rustix::io::Result<RawSpan> {
    if align <= page {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { rustix::mm::mmap(null_mut(), len, READ_WRITE, MapFlags::SHARED, fd, 0) }?;
        return span_of(start.cast(), len);
    }
    let reserved =
        map_anonymous(len, align, page, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?;
    let (start, flags) = (reserved.ptr().cast(), MapFlags::SHARED | MapFlags::FIXED);
    // SAFETY: the mapping replaces exactly the reservation just made, which nobody else knows of.
    let start = unsafe { rustix::mm::mmap(start, len, READ_WRITE, flags, fd, 0) }?;
    span_of(start.cast(), len)
}

/// The span of a mapping just made. The callers put it into the [`Mapping`] that keeps it until its drop.
fn span_of(start: *mut u8, len: usize) -> rustix::io::Result<RawSpan> {
    let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
    // SAFETY: the callers just mapped `len` bytes there, readable and writable (or, for a reservation, use only its
    // address), and they stay so until the mapping is dropped.
    Ok(unsafe { RawSpan::new(start, len) })
}
