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
    /// A place in memory that its type cannot have.
    #[error("offset {offset_bytes} does not lie at a multiple of {align_bytes} bytes in memory")]
    Misaligned {
        /// The offset that was refused, in bytes from the start of the memory.
        offset_bytes: usize,
        /// The alignment that the type needs, in bytes.
        align_bytes: usize,
    },
    /// A register access that is not aligned to its width or outside the mapped registers.
    #[error(
        "an access of {len_bytes} bytes to register {offset_bytes:#x} is not possible: it must be aligned to its width and \
         lie within the {size_bytes:#x} bytes that are mapped"
    )]
    RegisterAccess {
        /// The offset of the register, in bytes.
        offset_bytes: u64,
        /// The width of the access, in bytes.
        len_bytes: usize,
        /// How many bytes of registers are mapped.
        size_bytes: u64,
    },
    /// No I/O virtual addresses are left for a mapping.
    #[error(
        "no range of {len_bytes} I/O addresses is free ({free_bytes} bytes are, the longest range has {largest_bytes}); \
         unregister memory, or register it in smaller pieces"
    )]
    NoIova {
        /// How many bytes were to be mapped.
        len_bytes: u64,
        /// How many are free in all.
        free_bytes: u64,
        /// How long the longest free range is, in bytes.
        largest_bytes: u64,
    },
    /// The IOMMU, or whoever translates addresses, takes no further mapping.
    #[error("{mapper} takes no further mapping; {in_use} are in use{}{advice}", limit_text(.limit))]
    MappingsExhausted {
        /// What refused.
        mapper: String,
        /// How many mappings are in use.
        in_use: usize,
        /// How many are possible, where that is known.
        limit: Option<u32>,
        /// How to raise the limit: empty, or a clause that begins with its own punctuation.
        advice: String,
    },
    /// A mapping that was refused.
    #[error("{mapper} cannot map {len_bytes} bytes at {addr:#x} to I/O address {iova:#x}: {source}")]
    MapDma {
        /// What refused.
        mapper: String,
        /// Where the memory starts.
        addr: usize,
        /// Its length in bytes.
        len_bytes: usize,
        /// The I/O virtual address.
        iova: u64,
        /// Why.
        source: io::Error,
    },
    /// A mapping that could not be undone. Its memory is kept, and its addresses are not used again.
    #[error(
        "{mapper} cannot unmap {len_bytes} bytes at I/O address {iova:#x}, so their memory is never freed: {source}"
    )]
    UnmapDma {
        /// What refused.
        mapper: String,
        /// The I/O virtual address.
        iova: u64,
        /// The length in bytes.
        len_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// Memory that the process may not lock.
    #[error(
        "{len_bytes} more bytes cannot be locked in memory for a device: RLIMIT_MEMLOCK is {limit_bytes} bytes and \
         {locked_bytes} are locked; `ulimit -l unlimited` in the shell that starts the program, `LimitMEMLOCK=infinity` in \
         a systemd unit, or a `memlock` line in /etc/security/limits.conf raises it"
    )]
    LockedMemory {
        /// How many bytes were to be mapped.
        len_bytes: usize,
        /// The limit, in bytes.
        limit_bytes: u64,
        /// How many bytes the process has locked already (`VmLck` of /proc/self/status, or pinned: `VmPin`).
        locked_bytes: u64,
    },
    /// Memory without a file descriptor, for a device in another process.
    #[error(
        "{mapper} cannot reach the {len_bytes} bytes at {addr:#x}: they have no file descriptor that it could map; use a \
         memfd (Backing::Memfd or Backing::MemfdHuge)"
    )]
    NeedsFd {
        /// Who is to reach them.
        mapper: String,
        /// Where the memory starts.
        addr: usize,
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// A device cannot share an address space with the ones that have it already.
    #[error("{mapper} cannot join the address space of {others}: {reason}")]
    CannotJoin {
        /// Who wanted to join.
        mapper: String,
        /// Who is there.
        others: String,
        /// What does not fit.
        reason: String,
    },
}

/// " of N" where the number is known.
fn limit_text(limit: &Option<u32>) -> String {
    limit.map_or_else(String::new, |limit| format!(" of {limit}"))
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
