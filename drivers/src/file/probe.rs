//! What an open file demands of requests, asked of the kernel instead of assumed.
//!
//! Through the page cache everything is byte-granular. With `O_DIRECT` the order of trust is: `statx` with
//! `STATX_DIOALIGN` (Linux 6.1), `BLKSSZGET` and the queue's attributes in sysfs, and at last trial reads, as QEMU's
//! `raw_probe_alignment` does. A trial read tells something only where there is data, since a hole is read without the
//! device; a file of holes gets the careful values.

use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;

use corelane_dma::{Backing, DmaBuffer};
use corelane_engine::block::{BlockError, BlockLimits, MAX_REQUEST_BYTES};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use super::sysfs::DeviceQueue;

/// `IOV_MAX` of Linux: the most segments in one system call.
const MAX_IOV: u32 = 1024;
/// Alignment that every device and file system takes.
const CAREFUL_ALIGNMENT: u32 = 4096;
/// Alignments that the trial reads try, the smallest first.
const TRIAL_ALIGNMENTS: [u32; 4] = [512, 1024, 2048, 4096];
/// The smallest page of any machine that Linux runs on.
const SMALLEST_PAGE_BYTES: u64 = 4096;
/// `STATX_DIOALIGN` (`statx(2)`), which `rustix` does not name.
const STATX_DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    Block,
}

impl FileKind {
    /// The name of QEMU's driver for this kind.
    pub const fn format_name(self) -> &'static str {
        match self {
            FileKind::Regular => "file",
            FileKind::Block => "host_device",
        }
    }
}

/// What was found out about an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Its kind.
    pub kind: FileKind,
    /// Its limits.
    pub limits: BlockLimits,
    /// Unit of a block device's discards and write-zeroes in bytes, 1 for a regular file.
    pub logical_block_bytes: u32,
    /// Whether it may be able to discard.
    pub discard: bool,
    /// Whether it is a block device that is set read-only.
    pub read_only: bool,
    /// The largest request that the device below takes as one, in bytes, however its memory is scattered.
    hw_bytes: Option<u64>,
}

/// The largest polled request where the device's limit is not known, in bytes.
const CAREFUL_POLLED_BYTES: u64 = 64 << 10;

impl Probe {
    /// Limits for polling. A polled request may not wait, and so may not be split; Linux 6.1 tries one that would have to
    /// be (too long, or a vector with gaps between its pages) again for ever.
    pub fn restrict_to_polling(&mut self) {
        let limits = &mut self.limits;
        let unit = u64::from(limits.request_alignment);
        let most =
            self.hw_bytes.unwrap_or(CAREFUL_POLLED_BYTES).min(MAX_REQUEST_BYTES).max(unit) / unit * unit;
        // Both are at most `MAX_REQUEST_BYTES`, which fits.
        limits.max_transfer = most as u32;
        limits.max_iov = 1;
        if limits.opt_transfer != 0 && !limits.max_transfer.is_multiple_of(limits.opt_transfer) {
            limits.opt_transfer = 0;
        }
    }
}

/// Probes the open file `fd`, which was opened with `O_DIRECT` if `direct`. `filename` is for messages.
///
/// # Errors
/// [`BlockError::Open`] when it is neither a regular file nor a block device, or when no alignment works with `O_DIRECT`.
pub fn probe(fd: BorrowedFd<'_>, filename: &str, direct: bool) -> Result<Probe, BlockError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| open_error(filename, &errno.to_string()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::BlockDevice => FileKind::Block,
        other => return Err(open_error(filename, wrong_kind(other))),
    };
    let device = if kind == FileKind::Block { stat.st_rdev } else { stat.st_dev };
    let queue = DeviceQueue::of(rustix::fs::major(device), rustix::fs::minor(device));
    let mut limits = BlockLimits { max_iov: MAX_IOV, ..BlockLimits::default() };
    if direct {
        direct_limits(fd, filename, kind, &queue, &mut limits)?;
    }
    let mut found = Probe {
        kind,
        limits,
        logical_block_bytes: 1,
        discard: true,
        read_only: kind == FileKind::Block && queue.read_only == Some(true),
        hw_bytes: unsplit_bytes(&queue),
    };
    if kind == FileKind::Block {
        let logical = rustix::fs::ioctl_blksszget(fd).ok().and_then(valid_alignment).unwrap_or(512);
        let physical = rustix::fs::ioctl_blkpbszget(fd).ok().and_then(valid_alignment).unwrap_or(logical);
        found.logical_block_bytes = logical;
        found.discard = queue.discard_max_bytes != Some(0);
        device_limits(&queue, logical, physical, &mut found.limits);
    }
    Ok(found)
}

/// How long a request may be to reach the device as one: each page may be a segment of its own, and a request that
/// starts within a page has one page more.
fn unsplit_bytes(queue: &DeviceQueue) -> Option<u64> {
    let by_segments = queue.max_segments?.saturating_sub(1).max(1).saturating_mul(SMALLEST_PAGE_BYTES);
    Some(queue.max_bytes?.min(by_segments))
}

/// Limits that only block devices have. `logical` and `physical` are powers of two.
fn device_limits(queue: &DeviceQueue, logical: u32, physical: u32, limits: &mut BlockLimits) {
    let unit = u64::from(limits.request_alignment.max(logical));
    let multiple_of_unit = |value: Option<u64>| value.filter(|v| *v > 0 && v % unit == 0);
    // What a device prefers is its stripe or, failing that, what it writes without reading first, if that is more than a
    // block.
    let whole = u64::from(physical).max(unit);
    let preferred =
        multiple_of_unit(queue.optimal_io_size).or(multiple_of_unit((whole > unit).then_some(whole)));
    limits.opt_transfer = preferred.and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    limits.max_hw_transfer = queue.max_bytes.map_or(0, |max| max.min(MAX_REQUEST_BYTES) / unit * unit);
    limits.max_hw_iov = queue.max_segments.and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    let granularity = multiple_of_unit(queue.discard_granularity).and_then(|v| u32::try_from(v).ok());
    limits.pdiscard_alignment = granularity.unwrap_or(unit as u32);
    let discard_unit = u64::from(limits.pdiscard_alignment);
    limits.max_pdiscard = queue.discard_max_bytes.map_or(0, |max| max / discard_unit * discard_unit);
    limits.pwrite_zeroes_alignment = unit as u32;
    limits.max_pwrite_zeroes = queue.write_zeroes_max_bytes.map_or(0, |max| max / unit * unit);
}

/// Alignments with `O_DIRECT`.
fn direct_limits(
    fd: BorrowedFd<'_>,
    filename: &str,
    kind: FileKind,
    queue: &DeviceQueue,
    limits: &mut BlockLimits,
) -> Result<(), BlockError> {
    let refused =
        || open_error(filename, "no alignment works with O_DIRECT; use cache=writeback or writethrough");
    let data = data_offset(fd, kind);
    let (memory, request) = match told_alignment(fd) {
        Told::Alignment { memory, request } => (memory, request),
        Told::Refused => return Err(refused()),
        Told::Nothing => {
            let known = match kind {
                FileKind::Block => rustix::fs::ioctl_blksszget(fd).ok().and_then(valid_alignment),
                FileKind::Regular => None,
            };
            let request = known.or_else(|| trial_request(fd, data)).ok_or_else(refused)?;
            let memory = queue.memory_alignment.and_then(|v| u32::try_from(v).ok()).and_then(valid_alignment);
            (memory.filter(|_| kind == FileKind::Block).unwrap_or(request), request)
        }
    };
    limits.request_alignment = request;
    let segments_may_be_short = memory < request && trial_short_segments(fd, data, memory, request);
    limits.min_mem_alignment = if segments_may_be_short { memory } else { memory.max(request) };
    limits.opt_mem_alignment = limits.opt_mem_alignment.max(limits.min_mem_alignment).max(CAREFUL_ALIGNMENT);
    Ok(())
}

/// What `statx` says of direct I/O.
enum Told {
    Alignment {
        memory: u32,
        request: u32,
    },
    /// The file cannot do it.
    Refused,
    /// The kernel does not say.
    Nothing,
}

fn told_alignment(fd: BorrowedFd<'_>) -> Told {
    let Ok(stat) = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, STATX_DIOALIGN) else {
        return Told::Nothing;
    };
    if stat.stx_mask & STATX_DIOALIGN.bits() == 0 {
        return Told::Nothing;
    }
    let (memory, request) =
        (valid_alignment(stat.stx_dio_mem_align), valid_alignment(stat.stx_dio_offset_align));
    match (memory, request) {
        (Some(memory), Some(request)) => Told::Alignment { memory, request },
        _ if stat.stx_dio_offset_align == 0 => Told::Refused,
        _ => Told::Nothing,
    }
}

/// A power of two in the range that the block layer takes.
fn valid_alignment(value: u32) -> Option<u32> {
    (value.is_power_of_two() && value <= 1 << 20).then_some(value)
}

/// Where reads reach the device: the first data that is aligned for everybody. `None` if there is none.
fn data_offset(fd: BorrowedFd<'_>, kind: FileKind) -> Option<u64> {
    if kind == FileKind::Block {
        return Some(0);
    }
    let start = rustix::fs::seek(fd, rustix::fs::SeekFrom::Data(0)).ok()?;
    let start = start / u64::from(CAREFUL_ALIGNMENT) * u64::from(CAREFUL_ALIGNMENT);
    let length = rustix::fs::fstat(fd).ok().and_then(|stat| u64::try_from(stat.st_size).ok())?;
    (start + 2 * u64::from(CAREFUL_ALIGNMENT) <= length).then_some(start)
}

/// The smallest alignment of offset and length that a read gets through with; the careful one where there is no data to
/// try on, `None` if nothing works.
fn trial_request(fd: BorrowedFd<'_>, data: Option<u64>) -> Option<u32> {
    let Some(data) = data else { return Some(CAREFUL_ALIGNMENT) };
    let mut buffer =
        DmaBuffer::new(CAREFUL_ALIGNMENT as usize, CAREFUL_ALIGNMENT as usize, Backing::Pages).ok()?;
    TRIAL_ALIGNMENTS.into_iter().find(|align| {
        let memory = buffer.as_mut_slice().and_then(|whole| whole.get_mut(..*align as usize));
        memory.is_some_and(|memory| worked(&rustix::io::pread(fd, memory, data + u64::from(*align))))
    })
}

/// Whether a vector may have segments that are aligned to `memory` only, when a request is aligned to `request`. Before
/// Linux 6.18 a segment's length must be whole blocks even where its address need not be.
fn trial_short_segments(fd: BorrowedFd<'_>, data: Option<u64>, memory: u32, request: u32) -> bool {
    let Some(data) = data else { return false };
    let (memory, request) = (memory as usize, request as usize);
    let Ok(mut buffer) = DmaBuffer::new(2 * request, request.max(4096), Backing::Pages) else { return false };
    let Some(whole) = buffer.as_mut_slice() else { return false };
    // Both pieces start at an address that is aligned to `memory` and to nothing more.
    let (first, rest) = whole[memory..memory + request].split_at_mut(memory);
    let mut vector = [IoSliceMut::new(first), IoSliceMut::new(rest)];
    worked(&rustix::io::preadv(fd, &mut vector, data))
}

/// Whether a trial read was not refused for its alignment. Another error, such as a bad sector, says nothing against it.
fn worked<T>(outcome: &Result<T, Errno>) -> bool {
    !matches!(outcome, Err(Errno::INVAL))
}

fn wrong_kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "it is a directory; name a regular file or a block device",
        FileType::CharacterDevice => "it is a character device; name a regular file or a block device",
        _ => "it is neither a regular file nor a block device",
    }
}

fn open_error(filename: &str, reason: &str) -> BlockError {
    BlockError::Open { filename: filename.to_owned(), reason: reason.to_owned() }
}

/// Says how a failed `open(2)` can be helped.
pub fn explain_open(filename: &str, err: &io::Error, direct: bool, read_only: bool) -> BlockError {
    let hint = match err.raw_os_error() {
        Some(libc::EINVAL) if direct => {
            "; the file system has no O_DIRECT, so use cache=writeback or writethrough"
        }
        Some(libc::EACCES | libc::EROFS | libc::EPERM) if !read_only => "; read-only=on may do",
        Some(libc::ENOENT) => "; it is not created by opening it",
        Some(libc::ETXTBSY) => "; it is a program that is running",
        _ => "",
    };
    BlockError::Open { filename: filename.to_owned(), reason: format!("{err}{hint}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polled_requests_are_never_split() {
        let queue =
            DeviceQueue { max_bytes: Some(512 << 10), max_segments: Some(127), ..DeviceQueue::default() };
        let mut probe = Probe {
            kind: FileKind::Block,
            limits: BlockLimits { request_alignment: 512, opt_transfer: 4096, ..BlockLimits::default() },
            logical_block_bytes: 512,
            discard: true,
            read_only: false,
            hw_bytes: unsplit_bytes(&queue),
        };
        probe.restrict_to_polling();
        assert_eq!((probe.limits.max_transfer, probe.limits.max_iov), (126 * 4096, 1));
        probe.limits.validate().unwrap();
        for unknown in
            [DeviceQueue::default(), DeviceQueue { max_bytes: Some(1), max_segments: Some(1), ..queue }]
        {
            probe.limits.opt_transfer = 12288;
            probe.hw_bytes = unsplit_bytes(&unknown);
            probe.restrict_to_polling();
            assert!(probe.limits.max_transfer >= 512, "{unknown:?}");
            probe.limits.validate().unwrap();
        }
    }

    #[test]
    fn a_devices_odd_values_give_limits_that_hold_together() {
        let odd = [None, Some(0), Some(1), Some(511), Some(512), Some(4096), Some(12288), Some(u64::MAX)];
        for value in odd {
            for (logical, physical) in [(512, 512), (512, 4096), (4096, 4096), (4096, 512)] {
                let queue = DeviceQueue {
                    optimal_io_size: value,
                    max_bytes: value,
                    max_segments: value,
                    discard_granularity: value,
                    discard_max_bytes: value,
                    write_zeroes_max_bytes: value,
                    ..DeviceQueue::default()
                };
                let mut limits = BlockLimits { request_alignment: 1, ..BlockLimits::default() };
                device_limits(&queue, logical, physical, &mut limits);
                assert_eq!(limits.validate(), Ok(()), "{queue:?} {logical} {physical}");
                assert_eq!(limits.pwrite_zeroes_alignment, logical);
            }
        }
    }
}
