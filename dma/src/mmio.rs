//! Registers of a device, mapped into the process: [`MmioRegion`], and [`Mmio32`] for the one register that the hot path
//! writes, a doorbell.
//!
//! Invariants:
//! - The mapping lives as long as a region or a register of it.
//! - Each access is one instruction of exactly its width, neither merged nor repeated nor left out, at an aligned address
//!   within the mapping. On x86-64 it is assembly that the compiler cannot look into; elsewhere a volatile access between
//!   fences.
//! - Nothing ever makes a reference to the registers: a device, or another thread that stands for one, changes them at any
//!   time.
//!
//! A device that has left the bus reads as all ones. One whose memory decoding is switched off raises SIGBUS on access
//! (Linux, vfio-pci); on x86-64 it then reads as all ones as well, and writes do nothing (`fault.rs`).
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};

use crate::buffer::DmaBuffer;
use crate::error::DmaError;
use crate::fault::{Guarded, guard};
use crate::raw::RawSpan;
use crate::region::{MemOwner, MemRegion};

/// What keeps registers mapped.
enum Keeper {
    /// A mapping of our own, of the whole span, whose faults are dealt with.
    Mapped(Option<Guarded>),
    /// Memory that stands for registers.
    Memory(#[allow(dead_code)] MemRegion), // Held, never read: its drop unmaps.
}

struct Inner {
    span: RawSpan,
    keeper: Keeper,
}

impl MemOwner for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Keeper::Mapped(guarded) = &mut self.keeper {
            // Before the addresses can be another's.
            drop(guarded.take());
            // SAFETY: `from_fd` mapped exactly this span, and the last region or register of it is being dropped.
            let result = unsafe { rustix::mm::munmap(self.span.ptr().cast(), self.span.len()) };
            debug_assert!(result.is_ok(), "munmap of registers: {result:?}");
        }
    }
}

/// A mapped range of device registers, or shared memory that stands for them. Clones are handles on the same mapping.
#[derive(Clone)]
pub struct MmioRegion {
    /// A part of what `inner` maps.
    span: RawSpan,
    inner: Arc<Inner>,
}

impl MmioRegion {
    /// Maps `len_bytes` bytes of `fd` at `offset_bytes`, shared, readable and writable, as a VFIO device's file wants it
    /// (Documentation/driver-api/vfio.rst). Both are multiples of the page size.
    ///
    /// # Errors
    /// [`DmaError::BadLength`] for a length of 0, [`DmaError::Map`] where the kernel refuses.
    pub fn from_fd(fd: BorrowedFd<'_>, offset_bytes: u64, len_bytes: usize) -> Result<MmioRegion, DmaError> {
        if len_bytes == 0 || len_bytes > crate::mmap::MAX_BYTES {
            return Err(DmaError::BadLength { len_bytes, max_bytes: crate::mmap::MAX_BYTES });
        }
        let failed = |source| DmaError::Map { what: "map device registers of", len_bytes, source };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let shared = MapFlags::SHARED;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { rustix::mm::mmap(null_mut(), len_bytes, prot, shared, fd, offset_bytes) };
        let start = start.map_err(|errno| failed(io::Error::from(errno)))?;
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(failed(io::Error::from(io::ErrorKind::AddrNotAvailable)));
        };
        // SAFETY: just mapped with this length; it stays so until the drop of the `Inner` that it is put into.
        let span = unsafe { RawSpan::new(start, len_bytes) };
        let keeper = Keeper::Mapped(Some(guard(span.addr(), len_bytes)));
        Ok(MmioRegion { span, inner: Arc::new(Inner { span, keeper }) })
    }

    /// Memory that stands for registers: written here, read by another thread or process, or the other way round.
    ///
    /// # Errors
    /// [`DmaError::NotLeasable`] for memory that its owner can look at as a slice (see [`MemRegion::from_buffer`]).
    pub fn from_region(region: MemRegion) -> Result<MmioRegion, DmaError> {
        if !region.is_leasable() {
            return Err(DmaError::NotLeasable { addr: region.addr(), len_bytes: region.len() });
        }
        let span = region.span();
        Ok(MmioRegion { span, inner: Arc::new(Inner { span, keeper: Keeper::Memory(region) }) })
    }

    /// As [`from_region`](Self::from_region), of a whole buffer.
    ///
    /// # Errors
    /// [`DmaError::NotLeasable`] for a private buffer of which there are other `Arc`s.
    pub fn from_shared(buffer: impl Into<Arc<DmaBuffer>>) -> Result<MmioRegion, DmaError> {
        MmioRegion::from_region(MemRegion::from_buffer(buffer))
    }

    /// The length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.span.len() as u64
    }

    /// The part of `len_bytes` bytes at `offset_bytes`. It keeps the whole mapped.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`].
    pub fn part(&self, offset_bytes: u64, len_bytes: u64) -> Result<MmioRegion, DmaError> {
        let saturated = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let span = self.span.part(saturated(offset_bytes), saturated(len_bytes))?;
        Ok(MmioRegion { span, inner: Arc::clone(&self.inner) })
    }

    /// The range as memory: a device's own, to be written as any other. It keeps the mapping, whose faults are dealt with as far as
    /// each access is a load or store of 32 or 64 bits, as those of [`CoherentArray::set`](crate::CoherentArray::set) are for what
    /// is aligned by 8.
    pub fn memory(&self) -> MemRegion {
        MemRegion::foreign(self.span, Arc::clone(&self.inner) as Arc<dyn MemOwner>, 0)
    }

    /// Reads the 32-bit register at `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::RegisterAccess`] for an offset that is not aligned or outside.
    #[inline]
    pub fn read32(&self, offset_bytes: u64) -> Result<u32, DmaError> {
        let at = self.place(offset_bytes, size_of::<u32>())?;
        // SAFETY: `place` checked bounds and alignment, and `self` keeps the mapping.
        Ok(unsafe { read32(at.cast()) })
    }

    /// Reads the 64-bit register at `offset_bytes` as one access.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    #[inline]
    pub fn read64(&self, offset_bytes: u64) -> Result<u64, DmaError> {
        let at = self.place(offset_bytes, size_of::<u64>())?;
        // SAFETY: as in `read32`.
        Ok(unsafe { read64(at.cast()) })
    }

    /// Writes the 32-bit register at `offset_bytes`. What was stored to memory before is visible to the device first.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    #[inline]
    pub fn write32(&self, offset_bytes: u64, value: u32) -> Result<(), DmaError> {
        let at = self.place(offset_bytes, size_of::<u32>())?;
        // SAFETY: as in `read32`.
        unsafe { write32(at.cast(), value) };
        Ok(())
    }

    /// Writes the 64-bit register at `offset_bytes` as one access. What was stored to memory before is visible first.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    #[inline]
    pub fn write64(&self, offset_bytes: u64, value: u64) -> Result<(), DmaError> {
        let at = self.place(offset_bytes, size_of::<u64>())?;
        // SAFETY: as in `read32`.
        unsafe { write64(at.cast(), value) };
        Ok(())
    }

    /// The 32-bit register at `offset_bytes`, checked once, for the hot path.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    pub fn register32(&self, offset_bytes: u64) -> Result<Mmio32, DmaError> {
        let at = self.place(offset_bytes, size_of::<u32>())?;
        let at = NonNull::new(at.cast()).ok_or(self.refusal(offset_bytes, size_of::<u32>()))?;
        Ok(Mmio32 { at, _inner: Arc::clone(&self.inner) })
    }

    #[inline]
    fn place(&self, offset_bytes: u64, len_bytes: usize) -> Result<*mut u8, DmaError> {
        let span = self.span;
        let offset = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        let at = span.addr().wrapping_add(offset);
        if !at.is_multiple_of(len_bytes) || span.len() < len_bytes || offset > span.len() - len_bytes {
            return Err(self.refusal(offset_bytes, len_bytes));
        }
        Ok(span.ptr().wrapping_add(offset))
    }

    #[cold]
    fn refusal(&self, offset_bytes: u64, len_bytes: usize) -> DmaError {
        DmaError::RegisterAccess { offset_bytes, len_bytes, size_bytes: self.len_bytes() }
    }
}

impl fmt::Debug for MmioRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioRegion").field("len_bytes", &self.len_bytes()).finish_non_exhaustive()
    }
}

/// One 32-bit register, checked and kept mapped.
#[derive(Clone)]
pub struct Mmio32 {
    at: NonNull<u32>,
    _inner: Arc<Inner>,
}

// SAFETY: an address of a register that `_inner` keeps mapped; accesses from any thread tolerate each other (module's
// invariants).
unsafe impl Send for Mmio32 {}
// SAFETY: as for Send.
unsafe impl Sync for Mmio32 {}

impl Mmio32 {
    /// Writes the register. What this thread stored to memory before is visible to the device first.
    #[inline]
    pub fn write(&self, value: u32) {
        // SAFETY: `register32` checked bounds and alignment, and `_inner` keeps the mapping.
        unsafe { write32(self.at.as_ptr(), value) }
    }

    /// Reads the register. What is loaded from memory afterwards is as new as the value, or newer.
    #[inline]
    pub fn read(&self) -> u32 {
        // SAFETY: as in `write`.
        unsafe { read32(self.at.as_ptr()) }
    }
}

impl fmt::Debug for Mmio32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmio32").field("at", &self.at).finish_non_exhaustive()
    }
}

/// A load or store of one width. The assembly counts as touching all memory, so the compiler moves nothing across it; the
/// processor keeps the order of stores, and of loads, by itself (Intel SDM volume 3, 10.2.2; uncached memory is stricter).
macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty, $register:literal, $width:literal) => {
        /// # Safety
        /// `at` is mapped, readable and aligned.
        #[inline]
        unsafe fn $read(at: *mut $type) -> $type {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            {
                let value: $type;
                // SAFETY: the caller vouches for the address.
                unsafe {
                    std::arch::asm!(
                        concat!("mov {value", $register, "}, ", $width, " ptr [{at}]"),
                        at = in(reg) at,
                        value = lateout(reg) value,
                        options(nostack, preserves_flags)
                    );
                }
                value
            }
            #[cfg(any(miri, not(target_arch = "x86_64")))]
            {
                // SAFETY: the caller vouches for the address.
                let value = unsafe { at.read_volatile() };
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                value
            }
        }

        /// # Safety
        /// `at` is mapped, writable and aligned.
        #[inline]
        unsafe fn $write(at: *mut $type, value: $type) {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: the caller vouches for the address.
            unsafe {
                std::arch::asm!(
                    concat!("mov ", $width, " ptr [{at}], {value", $register, "}"),
                    at = in(reg) at,
                    value = in(reg) value,
                    options(nostack, preserves_flags)
                );
            }
            #[cfg(any(miri, not(target_arch = "x86_64")))]
            {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                // SAFETY: the caller vouches for the address.
                unsafe { at.write_volatile(value) };
            }
        }
    };
}

accessors!(read32, write32, u32, ":e", "dword");
accessors!(read64, write64, u64, ":r", "qword");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backing;

    fn region(len_bytes: usize) -> (MmioRegion, MemRegion) {
        let memory = MemRegion::from_buffer(DmaBuffer::new(len_bytes, 4096, Backing::Memfd).unwrap());
        (MmioRegion::from_region(memory.clone()).unwrap(), memory)
    }

    #[test]
    fn registers_read_and_write_their_own_bytes() {
        let (registers, memory) = region(4096);
        registers.write32(4, 0x0403_0201).unwrap();
        registers.write64(8, 0x0C0B_0A09_0807_0605).unwrap();
        let mut bytes = [0; 20];
        memory.span().copy_to(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0]);
        assert_eq!(registers.read32(12).unwrap(), 0x0C0B_0A09);
        assert_eq!(registers.read64(0).unwrap(), 0x0403_0201 << 32);
    }

    #[test]
    fn an_access_outside_or_askew_is_refused() {
        let (registers, _) = region(100);
        assert_eq!(registers.len_bytes(), 100);
        assert!(registers.read32(96).is_ok() && registers.read64(88).is_ok());
        for offset in [97, 98, 2, 100, 1 << 20, u64::MAX, u64::MAX - 3] {
            assert!(
                matches!(registers.read32(offset), Err(DmaError::RegisterAccess { len_bytes: 4, size_bytes: 100, offset_bytes }) if offset_bytes == offset)
            );
            assert!(registers.write32(offset, 0).is_err() && registers.register32(offset).is_err());
        }
        assert!(
            registers.read64(92).is_err()
                && registers.read64(96).is_err()
                && registers.write64(4, 0).is_err()
        );
        let small = MmioRegion::from_region(region(4096).1.part(0, 2).unwrap()).unwrap();
        assert!(small.read32(0).is_err());
    }

    #[test]
    fn a_part_has_its_own_bounds() {
        let (registers, _) = region(4096);
        let part = registers.part(0x1000 - 8, 8).unwrap();
        drop(registers.clone());
        part.write32(4, 9).unwrap();
        assert_eq!((registers.read32(0xFFC).unwrap(), part.len_bytes()), (9, 8));
        assert!(
            part.read32(8).is_err()
                && registers.part(4096, 1).is_err()
                && registers.part(1, u64::MAX).is_err()
        );
    }

    #[test]
    fn memory_of_a_device_outlives_its_region_and_is_written_by_words() {
        let (registers, memory) = region(4096);
        let array =
            crate::CoherentArray::<[u64; 8]>::new(&registers.part(1024, 1024).unwrap().memory(), 64, 4);
        drop(registers);
        assert_eq!(array.as_ref().unwrap().set(1, &[7; 8]), Some(()));
        let mut bytes = [0; 8];
        memory.span().copy_to(1024 + 128, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 7);
    }

    #[test]
    fn a_register_outlives_its_region() {
        let (registers, memory) = region(4096);
        let doorbell = registers.register32(0x10).unwrap();
        drop(registers);
        doorbell.write(0xABCD);
        let mut bytes = [0; 4];
        memory.span().copy_to(0x10, &mut bytes).unwrap();
        assert_eq!((u32::from_le_bytes(bytes), doorbell.read()), (0xABCD, 0xABCD));
    }

    #[test]
    fn a_file_is_mapped_at_its_offset() {
        let buffer = Arc::new(DmaBuffer::new(8192, 4096, Backing::Memfd).unwrap());
        let fd = buffer.fd().unwrap();
        let second = MmioRegion::from_fd(fd, 4096, 4096).unwrap();
        let whole = MmioRegion::from_shared(Arc::clone(&buffer)).unwrap();
        second.write32(8, 7).unwrap();
        assert_eq!(whole.read32(4096 + 8).unwrap(), 7);
        assert!(matches!(MmioRegion::from_fd(fd, 0, 0), Err(DmaError::BadLength { .. })));
        assert!(matches!(MmioRegion::from_fd(fd, 1, 4096), Err(DmaError::Map { .. })));
    }

    #[test]
    fn memory_that_can_be_borrowed_stands_for_no_registers() {
        let buffer = Arc::new(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap());
        assert!(matches!(MmioRegion::from_shared(Arc::clone(&buffer)), Err(DmaError::NotLeasable { .. })));
        assert!(MmioRegion::from_shared(buffer).is_ok());
    }
}
