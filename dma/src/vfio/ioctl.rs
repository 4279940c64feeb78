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
