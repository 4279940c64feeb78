//! The system calls of VFIO that no crate wraps, or none that tells what went wrong. Raw calls stand only here.
//!
//! Invariants:
//! - Every argument is a buffer of ours, as long as its first word says (`argsz`), of which the kernel writes no more.
//! - What comes back is bytes; nobody here believes them.
//!
//! Known gaps of vfio-ioctls 0.10 that are dealt with here: it has no query of IOVA ranges (`iommu_info`); it shifts the
//! numbers of regions behind one that the kernel refuses, and gives no errno (`region_info`); it swallows the result of a
//! reset (`reset`) and the errno of setting interrupts (`set_irqs`).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use vfio_bindings::bindings::vfio;
use vfio_ioctls::{VfioContainer, VfioDevice};
use zerocopy::IntoBytes;

use crate::iova::Iova;
use crate::region::MemRegion;

/// A number of linux/vfio.h: `_IO(VFIO_TYPE, VFIO_BASE + n)`.
const fn number(n: u32) -> Opcode {
    rustix::ioctl::opcode::none(vfio::VFIO_TYPE, (vfio::VFIO_BASE + n) as u8)
}

const DEVICE_GET_REGION_INFO: Opcode = number(8);
const DEVICE_GET_IRQ_INFO: Opcode = number(9);
const DEVICE_SET_IRQS: Opcode = number(10);
const DEVICE_RESET: Opcode = number(11);
/// The same number as a device's hot reset information; the file tells them apart.
const IOMMU_GET_INFO: Opcode = number(12);

/// Longer than any answer of a kernel; a kernel that asks for more is not believed.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A call with a buffer whose first 32-bit word is its length in bytes.
struct Sized<'a> {
    opcode: Opcode,
    buffer: &'a mut [u64],
}

// SAFETY: the pointer is that of a buffer that is borrowed exclusively during the call, and `call` made it as long as its
// first word says, which is what the kernel goes by.
unsafe impl Ioctl for Sized<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Calls with `words` as the argument, which starts with its own length in bytes; returns what the kernel made of it.
fn call(fd: BorrowedFd<'_>, opcode: Opcode, words: &[u32]) -> io::Result<Vec<u64>> {
    let len_bytes = size_of_val(words);
    debug_assert_eq!(words.first().map(|&len| len as usize), Some(len_bytes));
    let mut buffer = vec![0u64; len_bytes.div_ceil(size_of::<u64>())];
    if let Some(start) = buffer.as_mut_bytes().get_mut(..len_bytes) {
        start.copy_from_slice(words.as_bytes());
    }
    // SAFETY: the opcode is one whose argument is a structure that starts with its length (the constants above), and the
    // buffer is at least that long.
    unsafe { ioctl(fd, Sized { opcode, buffer: &mut buffer }) }?;
    Ok(buffer)
}

/// Asks for information of which only the kernel knows the length: with `words` at first, then as long as it says.
fn ask(fd: BorrowedFd<'_>, opcode: Opcode, words: &[u32]) -> io::Result<Vec<u64>> {
    let short = call(fd, opcode, words)?;
    let wanted = short.as_bytes().first_chunk().map_or(0, |len| u32::from_ne_bytes(*len) as usize);
    if wanted <= size_of_val(words) || wanted > MAX_ANSWER_BYTES {
        return Ok(short);
    }
    let mut longer = words.to_vec();
    longer.resize(wanted.div_ceil(size_of::<u32>()), 0);
    longer[0] = size_of_val(longer.as_slice()) as u32;
    call(fd, opcode, &longer)
}

/// `struct vfio_iommu_type1_info` and its capabilities.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Vec<u64>> {
    ask(container, IOMMU_GET_INFO, &[24, 0, 0, 0, 0, 0])
}

/// `struct vfio_region_info` and its capabilities.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u64>> {
    ask(device, DEVICE_GET_REGION_INFO, &[32, 0, index, 0, 0, 0, 0, 0])
}

/// How many vectors an interrupt has (`struct vfio_irq_info`).
pub(super) fn irq_count(device: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let answer = call(device, DEVICE_GET_IRQ_INFO, &[16, 0, index, 0])?;
    Ok(answer
        .as_bytes()
        .get(12..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |count| u32::from_ne_bytes(*count)))
}

/// Lets vector *i* signal eventfd *i*, or switches the interrupt off if there is none (`struct vfio_irq_set`).
pub(super) fn set_irqs(device: BorrowedFd<'_>, index: u32, eventfds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let data =
        if eventfds.is_empty() { vfio::VFIO_IRQ_SET_DATA_NONE } else { vfio::VFIO_IRQ_SET_DATA_EVENTFD };
    let len_bytes = (5 + eventfds.len()) * size_of::<u32>();
    let count = eventfds.len() as u32;
    let mut words = vec![len_bytes as u32, data | vfio::VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, count];
    words.extend(eventfds.iter().map(|eventfd| eventfd.as_raw_fd().cast_unsigned()));
    call(device, DEVICE_SET_IRQS, &words).map(drop)
}

/// Resets the device.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no argument.
    let call = unsafe { rustix::ioctl::NoArg::<DEVICE_RESET>::new() };
    // SAFETY: as above.
    Ok(unsafe { ioctl(device, call) }?)
}

/// The device's file.
pub(super) fn device_fd(device: &VfioDevice) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the device, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) }
}

/// The container's file.
pub(super) fn container_fd(container: &VfioContainer) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the container, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) }
}

/// Maps a region, of whole pages, for all devices of a container.
pub(super) fn map(
    container: &VfioContainer,
    iova: Iova,
    region: &MemRegion,
) -> Result<(), vfio_ioctls::VfioError> {
    // SAFETY: the address space that the mapper belongs to keeps the region until it is unmapped, or for good. Its memory
    // is accessed only by the raw copies of this crate, or by slices whose owner has no request in flight with them (the
    // law of `IoBuf`).
    unsafe { container.vfio_dma_map(iova.0, region.len(), region.as_ptr()) }
}

/// The calls of iommufd (linux/iommufd.h) and those of VFIO for it.
pub(super) mod iommufd {
    use std::ops::RangeInclusive;

    use super::*;

    /// A number of linux/iommufd.h: `_IO(IOMMUFD_TYPE, IOMMUFD_CMD_...)`.
    const fn command(n: u8) -> Opcode {
        rustix::ioctl::opcode::none(vfio::VFIO_TYPE, n)
    }

    const IOAS_ALLOC: Opcode = command(0x81);
    const IOAS_IOVA_RANGES: Opcode = command(0x84);
    const IOAS_MAP: Opcode = command(0x85);
    const IOAS_UNMAP: Opcode = command(0x86);
    const DEVICE_BIND_IOMMUFD: Opcode = number(18);
    const DEVICE_ATTACH_IOMMUFD_PT: Opcode = number(19);

    /// `IOMMU_IOAS_MAP_FIXED_IOVA`, `_WRITEABLE` and `_READABLE`.
    const MAP_FLAGS: u32 = 0b111;

    /// More ranges than a kernel has.
    const MAX_RANGES: u32 = 4096;

    fn low(value: u64) -> u32 {
        value as u32
    }

    fn high(value: u64) -> u32 {
        (value >> 32) as u32
    }

    /// A 64-bit number as the two words of a structure.
    fn words(value: u64) -> [u32; 2] {
        let (low, high) = (low(value), high(value));
        if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
    }

    fn word(buffer: &[u64], at: usize) -> u32 {
        buffer
            .as_bytes()
            .get(at * 4..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |word| u32::from_ne_bytes(*word))
    }

    /// Makes an I/O address space (`struct iommu_ioas_alloc`); its number.
    pub(in super::super) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> io::Result<u32> {
        Ok(word(&call(iommufd, IOAS_ALLOC, &[12, 0, 0])?, 2))
    }

    /// Binds a device's file to an iommufd (`struct vfio_device_bind_iommufd`, as it was at first).
    pub(in super::super) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<()> {
        call(device, DEVICE_BIND_IOMMUFD, &[16, 0, iommufd.as_raw_fd().cast_unsigned(), 0]).map(drop)
    }

    /// Attaches a device to an I/O address space (`struct vfio_device_attach_iommufd_pt`).
    pub(in super::super) fn attach(device: BorrowedFd<'_>, ioas: u32) -> io::Result<()> {
        call(device, DEVICE_ATTACH_IOMMUFD_PT, &[12, 0, ioas]).map(drop)
    }

    /// Where addresses may be, and their alignment in bytes (`struct iommu_ioas_iova_ranges`).
    pub(in super::super) fn iova_ranges(
        iommufd: BorrowedFd<'_>,
        ioas: u32,
    ) -> io::Result<(Vec<RangeInclusive<u64>>, u64)> {
        let mut count = 16;
        loop {
            let mut ranges = vec![[0u64; 2]; count as usize];
            let [low, high] = words(ranges.as_mut_ptr().expose_provenance() as u64);
            let mut buffer: Vec<u64> = [[32, ioas], [count, 0], [low, high], [0, 0]].map(pair).to_vec();
            let size = Sized { opcode: IOAS_IOVA_RANGES, buffer: &mut buffer };
            // SAFETY: the structure says how long it is, and how many ranges the list that it points to has room for; the
            // list is ours and lives until after the call.
            let result = unsafe { ioctl(iommufd, size) };
            let wanted = word(&buffer, 2);
            match result {
                Ok(()) => {
                    ranges.truncate(wanted.min(count) as usize);
                    let alignment = buffer.get(3).copied().unwrap_or(0);
                    return Ok((ranges.iter().map(|[first, last]| *first..=*last).collect(), alignment));
                }
                Err(rustix::io::Errno::MSGSIZE) if wanted > count && wanted <= MAX_RANGES => count = wanted,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn pair(words: [u32; 2]) -> u64 {
        u64::from_ne_bytes(
            words.map(u32::to_ne_bytes).as_flattened().first_chunk().copied().unwrap_or_default(),
        )
    }

    /// Maps a region, of whole pages (`struct iommu_ioas_map`).
    pub(in super::super) fn map(
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        iova: Iova,
        region: &MemRegion,
    ) -> io::Result<()> {
        let [addr, len, at] = [region.addr() as u64, region.len() as u64, iova.0].map(words);
        let words = [40, MAP_FLAGS, ioas, 0, addr[0], addr[1], len[0], len[1], at[0], at[1]];
        // The memory is kept, and only copied from and to, as in `map` above.
        call(iommufd, IOAS_MAP, &words).map(drop)
    }

    /// Unmaps what was mapped at once (`struct iommu_ioas_unmap`).
    pub(in super::super) fn unmap(
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        iova: Iova,
        len_bytes: u64,
    ) -> io::Result<()> {
        let [at, len] = [iova.0, len_bytes].map(words);
        call(iommufd, IOAS_UNMAP, &[24, ioas, at[0], at[1], len[0], len[1]]).map(drop)
    }
}
