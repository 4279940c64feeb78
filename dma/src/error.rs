//! What can go wrong with memory. Every error carries the values that were refused and says what would be right.

use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// A length of zero, or one that no address space holds.
    #[error("a buffer of {len_bytes} bytes cannot be made; the length must be from 1 to {max_bytes} bytes")]
    BadLength {
        /// The length asked for, in bytes.
        len_bytes: usize,
        /// The longest that can be asked for, in bytes.
        max_bytes: usize,
    },
    /// An alignment that is no power of two or that the backing cannot give.
    #[error(
        "an alignment of {align_bytes} bytes is not possible; it must be a power of two from 1 to {max_bytes}"
    )]
    BadAlignment {
        /// The alignment asked for, in bytes.
        align_bytes: usize,
        /// The largest that this backing can give, in bytes.
        max_bytes: usize,
    },
    /// The kernel refused to map memory.
    #[error("cannot {what} {len_bytes} bytes: {source}")]
    Map {
        /// What was tried: "map", "create a memfd of", ...
        what: &'static str,
        /// How much, in bytes.
        len_bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not enough huge pages are free.
    #[error(
        "{needed_pages} huge pages of {page_kib} KiB are needed, but vm.nr_hugepages gives {free_pages} free of \
         {total_pages} (and {reserved_pages} of the free ones are promised to others); \
         `sysctl -w vm.nr_hugepages={suggested_pages}` raises it"
    )]
    NoHugePages {
        /// How many huge pages the buffer needs.
        needed_pages: usize,
        /// The size of one, in KiB.
        page_kib: usize,
        /// `HugePages_Free` of /proc/meminfo after the refusal.
        free_pages: usize,
        /// `HugePages_Rsvd` of /proc/meminfo: pages that are free but promised to other mappings.
        reserved_pages: usize,
        /// `HugePages_Total` of /proc/meminfo.
        total_pages: usize,
        /// The value of vm.nr_hugepages with which this buffer would have fitted.
        suggested_pages: usize,
    },
    /// The kernel has no huge pages at all.
    #[error("this kernel offers no huge pages: {reason}; use ordinary pages")]
    HugePagesUnsupported {
        /// What was found.
        reason: String,
    },
    /// A range that reaches outside the memory it names.
    #[error(
        "bytes {offset_bytes} to {offset_bytes}+{len_bytes} reach outside a memory of {size_bytes} bytes"
    )]
    OutOfBounds {
        /// Where the range starts, in bytes from the start of the memory.
        offset_bytes: usize,
        /// How long it is.
        len_bytes: usize,
        /// How long the memory is.
        size_bytes: usize,
    },
    /// A write to memory that the host lets its device only read.
    #[error(
        "{len_bytes} bytes at {offset_bytes} of this memory may only be read; its owner mapped it without writing"
    )]
    ReadOnly {
        /// Where the refused write starts, in bytes from the start of the memory.
        offset_bytes: usize,
        /// How long it is.
        len_bytes: usize,
    },
    /// Memory whose owner may look at it as a slice, and which therefore cannot be leased to others.
    #[error(
        "the region of {len_bytes} bytes at {addr:#x} can be registered but not leased: its owner still has access; \
         give the buffer away (MemRegion::from_buffer of the only Arc) or take blocks from the pool"
    )]
    NotLeasable {
        /// Where the region starts.
        addr: usize,
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// A range that shares bytes with a registered one but is not contained in what is registered.
    #[error(
        "cannot register {len_bytes} bytes at {addr:#x}: they overlap the {with_len_bytes} bytes at {with_addr:#x}, which \
         are registered, without lying within registered memory; register a range of its own, one within that, or both \
         as one"
    )]
    PartialOverlap {
        /// Where the refused range starts.
        addr: usize,
        /// Its length in bytes.
        len_bytes: usize,
        /// Where the first registered range that it overlaps starts.
        with_addr: usize,
        /// The length of that one in bytes.
        with_len_bytes: usize,
    },
    /// A range that is not registered, or has already been unregistered as often as it was registered.
    #[error(
        "{len_bytes} bytes at {addr:#x} are not registered as such; only a range that was registered can be undone"
    )]
    NotRegistered {
        /// Where the range starts.
        addr: usize,
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// A range of guest addresses that is not, or not wholly, memory.
    #[error("guest addresses {guest_addr:#x}+{len_bytes} are not memory of the guest")]
    NotGuestMemory {
        /// The first address that is not memory.
        guest_addr: u64,
        /// How much of the range is left from there, in bytes.
        len_bytes: usize,
    },
    /// Guest memory that this process may not read and write.
    #[error(
        "the guest's memory at {guest_addr:#x}+{len_bytes} is mapped with protection {prot:#x}; it must be readable and \
         writable ({wanted:#x}) to be used for I/O"
    )]
    GuestProtection {
        /// Where the guest region starts.
        guest_addr: u64,
        /// Its length in bytes.
        len_bytes: usize,
        /// How it is mapped (mmap(2), `PROT_*`).
        prot: i32,
        /// How it has to be.
        wanted: i32,
    },
    /// A block pool whose numbers do not fit.
    #[error(
        "a pool of {count} blocks of {block_bytes} bytes is not possible: both must be at least 1 and their product \
         within {max_bytes} bytes"
    )]
    BadPool {
        /// The size of a block in bytes.
        block_bytes: usize,
        /// How many blocks.
        count: usize,
        /// How much memory a pool can have at most.
        max_bytes: usize,
    },
}

/// Checks that `len_bytes` bytes at `offset_bytes` lie within `size_bytes`.
#[inline]
pub(crate) fn check_range(offset_bytes: usize, len_bytes: usize, size_bytes: usize) -> Result<(), DmaError> {
    if offset_bytes <= size_bytes && len_bytes <= size_bytes - offset_bytes {
        Ok(())
    } else {
        Err(DmaError::OutOfBounds { offset_bytes, len_bytes, size_bytes })
    }
}
