//! [`CoherentBuffer`]: memory that a driver and a device both use all the time, as queues, PRP lists, identify pages and
//! shadow doorbells; and [`CoherentArray`], a part of it seen as an array.
//!
//! Invariants:
//! - The memory is leasable: nobody ever has a reference to it. It is read and written by volatile accesses that the
//!   compiler neither merges nor repeats; whoever races with the device gets some mixture of old and new bytes.
//! - Types carried over are plain bytes without padding (`zerocopy`), so whatever the device wrote is a value.
//! - What has to be seen in order goes through [`load_acquire32`](CoherentBuffer::load_acquire32) and
//!   [`store_release32`](CoherentBuffer::store_release32): what the device stored before the word it published is seen
//!   after the load of that word, and the other way round.
//! - Only one thread uses a buffer or an array at a time (not `Sync`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::buffer::{Backing, DmaBuffer};
use crate::error::{DmaError, check_range};
use crate::hugepages::HugePages;
use crate::raw::RawSpan;
use crate::region::MemRegion;

/// Makes a type that is `Send` stay out of `Sync`.
type OneThread = PhantomData<Cell<()>>;

/// Page-aligned, zeroed memory shared with a device.
pub struct CoherentBuffer {
    region: MemRegion,
    one_thread: OneThread,
}

impl CoherentBuffer {
    /// Maps `len_bytes` zeroed bytes, at a page boundary. Huge pages fall back to ordinary ones where none is free, or where
    /// less than half of one would be used.
    ///
    /// # Errors
    /// As [`DmaBuffer::new`] for ordinary pages.
    pub fn new(len_bytes: usize, backing: Backing) -> Result<CoherentBuffer, DmaError> {
        let align_bytes = rustix::param::page_size();
        let wasteful = HugePages::probe().is_ok_and(|pages| len_bytes < pages.page_bytes / 2);
        let backing = if wasteful { backing.without_huge_pages() } else { backing };
        CoherentBuffer::from_region(MemRegion::from_buffer(DmaBuffer::new_or_fallback(
            len_bytes,
            align_bytes,
            backing,
        )?))
    }

    /// Memory that exists already, seen as a coherent buffer.
    ///
    /// # Errors
    /// [`DmaError::NotLeasable`] for memory that its owner can look at as a slice.
    pub fn from_region(region: MemRegion) -> Result<CoherentBuffer, DmaError> {
        if !region.is_leasable() {
            return Err(DmaError::NotLeasable { addr: region.addr(), len_bytes: region.len() });
        }
        Ok(CoherentBuffer { region, one_thread: PhantomData })
    }

    /// The memory, to be registered with the device.
    pub fn region(&self) -> &MemRegion {
        &self.region
    }

    /// The length in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // A buffer is made of at least one byte.
    pub fn len_bytes(&self) -> usize {
        self.region.len()
    }

    /// The address of the first byte in this process.
    #[inline]
    pub fn addr(&self) -> usize {
        self.region.addr()
    }

    /// Writes a value at `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    #[inline]
    pub fn store<T: IntoBytes + Immutable + Copy>(
        &self,
        offset_bytes: usize,
        value: &T,
    ) -> Result<(), DmaError> {
        let span = self.region.span().part(offset_bytes, size_of::<T>())?;
        // SAFETY: `span` is as long as T, within memory that the region keeps mapped and nobody references.
        unsafe { write(span.ptr(), *value) };
        Ok(())
    }

    /// Reads a value at `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`].
    #[inline]
    pub fn load<T: FromBytes>(&self, offset_bytes: usize) -> Result<T, DmaError> {
        let span = self.region.span().part(offset_bytes, size_of::<T>())?;
        // SAFETY: as in `store`, and every pattern of bytes is a T (FromBytes).
        Ok(unsafe { read(span.ptr()) })
    }

    /// Reads the word at `offset_bytes`, in one access; what is loaded afterwards is as new as the word, or newer.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], [`DmaError::Misaligned`].
    #[inline]
    pub fn load_acquire32(&self, offset_bytes: usize) -> Result<u32, DmaError> {
        let at = self.word(offset_bytes)?;
        // SAFETY: `word` checked bounds and alignment; the region keeps the memory mapped, and all concurrent accesses to
        // the word are single ones (module's invariants).
        Ok(unsafe { AtomicU32::from_ptr(at) }.load(Ordering::Acquire))
    }

    /// Writes the word at `offset_bytes`, in one access; what was stored before is visible first.
    ///
    /// # Errors
    /// As [`load_acquire32`](Self::load_acquire32).
    #[inline]
    pub fn store_release32(&self, offset_bytes: usize, value: u32) -> Result<(), DmaError> {
        let at = self.word(offset_bytes)?;
        // SAFETY: as in `load_acquire32`.
        unsafe { AtomicU32::from_ptr(at) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Sets all bytes to zero.
    pub fn clear(&self) {
        // The range is the whole, so it cannot be refused.
        let _ = self.region.span().fill(0, self.region.len(), 0);
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        self.region.span().copy_to(offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_from(&self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        self.region.span().copy_from(offset_bytes, from)
    }

    /// A view of `count` values of type T, the first at `offset_bytes`.
    ///
    /// # Errors
    /// As [`CoherentArray::new`].
    pub fn array<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        offset_bytes: usize,
        count: usize,
    ) -> Result<CoherentArray<T>, DmaError> {
        CoherentArray::new(&self.region, offset_bytes, count)
    }

    #[inline]
    fn word(&self, offset_bytes: usize) -> Result<*mut u32, DmaError> {
        word_of(self.region.span(), offset_bytes)
    }
}

impl fmt::Debug for CoherentBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoherentBuffer").field("region", &self.region).finish()
    }
}

/// An array in memory shared with a device. It keeps the memory mapped.
pub struct CoherentArray<T> {
    span: RawSpan,
    count: usize,
    /// What keeps the span mapped.
    region: MemRegion,
    item: PhantomData<T>,
    one_thread: OneThread,
}

impl<T: FromBytes + IntoBytes + Immutable + Copy> CoherentArray<T> {
    /// A view of `count` values of type T in `region`, the first at `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`]; [`DmaError::Misaligned`] where the first is not aligned as T is;
    /// [`DmaError::NotLeasable`] for memory that its owner can look at as a slice.
    pub fn new(region: &MemRegion, offset_bytes: usize, count: usize) -> Result<CoherentArray<T>, DmaError> {
        if !region.is_leasable() {
            return Err(DmaError::NotLeasable { addr: region.addr(), len_bytes: region.len() });
        }
        let len_bytes = count.saturating_mul(size_of::<T>());
        let span = region.span().part(offset_bytes, len_bytes)?;
        if !span.addr().is_multiple_of(align_of::<T>()) {
            return Err(DmaError::Misaligned { offset_bytes, align_bytes: align_of::<T>() });
        }
        let region = region.clone();
        Ok(CoherentArray { span, count, region, item: PhantomData, one_thread: PhantomData })
    }

    /// How many values there are.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // Nobody asks a queue whether it has entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Value `index`, or `None` for one outside.
    #[inline]
    pub fn get(&self, index: usize) -> Option<T> {
        let at = self.place(index)?;
        // SAFETY: `place` checked the index against memory that `region` keeps mapped and nobody references, and every
        // pattern of bytes is a T (FromBytes).
        Some(unsafe { read(at) })
    }

    /// Writes value `index`; `None`, and nothing is written, for one outside.
    #[inline]
    #[must_use = "an index outside writes nothing"]
    pub fn set(&self, index: usize, value: &T) -> Option<()> {
        let at = self.place(index)?;
        if const { size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8 } {
            // SAFETY: as in `get`; `new` checked that the array is aligned as T is, which is by 8.
            unsafe { write_words(at.cast(), value) };
        } else {
            // SAFETY: as in `get`.
            unsafe { write(at, *value) };
        }
        Some(())
    }

    /// The word at `offset_bytes` within value `index`, in one access; what is loaded afterwards is as new as the word, or
    /// newer. For the phase tag of a completion. `None` for a word that is outside the value or not aligned.
    #[inline]
    pub fn load_acquire32(&self, index: usize, offset_bytes: usize) -> Option<u32> {
        let at = self.place(index)?.wrapping_add(offset_bytes);
        let inside = size_of::<T>() >= size_of::<u32>() && offset_bytes <= size_of::<T>() - size_of::<u32>();
        if !inside || !(at as usize).is_multiple_of(align_of::<u32>()) {
            return None;
        }
        // SAFETY: the word lies within value `index` and is aligned; concurrent accesses to it are single ones.
        Some(unsafe { AtomicU32::from_ptr(at.cast()) }.load(Ordering::Acquire))
    }

    /// As [`load_acquire32`](Self::load_acquire32), of 64 bits.
    #[inline]
    pub fn load_acquire64(&self, index: usize, offset_bytes: usize) -> Option<u64> {
        let at = self.place(index)?.wrapping_add(offset_bytes);
        let inside = size_of::<T>() >= size_of::<u64>() && offset_bytes <= size_of::<T>() - size_of::<u64>();
        // An array of what is aligned by 8 is: the second test goes away where the offset is known.
        let aligned = if align_of::<T>() == 8 {
            offset_bytes.is_multiple_of(8)
        } else {
            (at as usize).is_multiple_of(8)
        };
        if !inside || !aligned {
            return None;
        }
        // SAFETY: the word lies within value `index` and is aligned; concurrent accesses to it are single ones.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) }.load(Ordering::Acquire))
    }

    /// Has the processor fetch the cache line where value `index` begins, to be written soon. A store to a line that is in
    /// another core's cache waits for it, and so does every store behind it. Changes nothing, and does nothing for a value
    /// outside.
    #[inline(always)]
    pub fn prefetch_for_write(&self, index: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(at) = self.place(index) {
            // SAFETY: PREFETCHW is a hint: it writes nothing, never faults, and does nothing on a processor without it.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }

    /// The memory that it lies in.
    pub fn region(&self) -> &MemRegion {
        &self.region
    }

    #[inline]
    fn place(&self, index: usize) -> Option<*mut u8> {
        (index < self.count).then(|| self.span.ptr().wrapping_add(index * size_of::<T>()))
    }
}

impl<T> fmt::Debug for CoherentArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoherentArray").field("region", &self.region).field("count", &self.count).finish()
    }
}

/// The aligned word at `offset_bytes`.
#[inline]
fn word_of(span: RawSpan, offset_bytes: usize) -> Result<*mut u32, DmaError> {
    check_range(offset_bytes, size_of::<u32>(), span.len())?;
    let at = span.ptr().wrapping_add(offset_bytes).cast::<u32>();
    if at.is_aligned() {
        Ok(at)
    } else {
        Err(DmaError::Misaligned { offset_bytes, align_bytes: align_of::<u32>() })
    }
}

/// The value moves through an array of bytes, so that nothing has to be aligned; what comes out of the compiler are the
/// widest loads and stores that the length allows.
///
/// # Safety
/// `at` is mapped, readable, and as long as T.
#[inline]
unsafe fn read<T: FromBytes>(at: *mut u8) -> T {
    // SAFETY: the caller vouches for the range; `Packed` asks for no alignment, and every pattern of bytes is a T.
    unsafe { at.cast::<Packed<T>>().read_volatile() }.0
}

/// # Safety
/// `at` is mapped, writable, and as long as T.
#[inline]
unsafe fn write<T: IntoBytes>(at: *mut u8, value: T) {
    // SAFETY: the caller vouches for the range; `Packed` asks for no alignment and, as T, has no padding (IntoBytes).
    unsafe { at.cast::<Packed<T>>().write_volatile(Packed(value)) }
}

/// As [`write`], by words of 64 bits: what the caller has in registers goes from there, and not through its stack in two
/// sizes, which costs more than all the rest.
///
/// # Safety
/// `at` is mapped, writable, aligned, and as long as T, which is a multiple of 8 bytes and aligned by 8.
#[inline(always)]
unsafe fn write_words<T: IntoBytes>(at: *mut u64, value: &T) {
    let from = std::ptr::from_ref(value).cast::<u64>();
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: the word lies within `value`, which is aligned by 8 and has no padding (IntoBytes), and within the range
        // that the caller vouches for.
        unsafe { at.add(word).write_volatile(from.add(word).read()) };
    }
}

#[repr(C, packed)]
struct Packed<T>(T);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    struct Entry {
        low: u64,
        mid: u32,
        status: u32,
    }

    fn buffer() -> CoherentBuffer {
        CoherentBuffer::new(8192, Backing::Pages).unwrap()
    }

    #[test]
    fn it_is_zeroed_page_aligned_and_leasable() {
        for backing in [Backing::Pages, Backing::Memfd, Backing::HugePages] {
            let buffer = CoherentBuffer::new(5000, backing).unwrap();
            assert_eq!((buffer.addr() % 4096, buffer.len_bytes()), (0, 5000));
            let mut bytes = vec![1; 5000];
            buffer.copy_to(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0));
            assert!(buffer.region().is_leasable());
            assert_eq!(buffer.region().fd().is_some(), backing.is_shareable());
        }
    }

    #[test]
    fn values_land_at_their_bytes_only() {
        let buffer = buffer();
        buffer.copy_from(0, &[0xEE; 64]).unwrap();
        let entry = Entry { low: 0x0807_0605_0403_0201, mid: 0x0C0B_0A09, status: 0x100F_0E0D };
        buffer.store(17, &entry).unwrap();
        let mut bytes = [0; 64];
        buffer.copy_to(0, &mut bytes).unwrap();
        let expected: Vec<u8> = (0..64).map(|i| if (17..33).contains(&i) { i - 16 } else { 0xEE }).collect();
        assert_eq!(bytes[..], expected[..]);
        assert_eq!(buffer.load::<Entry>(17).unwrap(), entry);
        buffer.clear();
        assert_eq!(buffer.load::<[u8; 64]>(0).unwrap(), [0; 64]);
    }

    #[test]
    fn nothing_reaches_outside() {
        let buffer = buffer();
        assert!(buffer.store(8192 - 16, &[1u64; 2]).is_ok());
        for offset in [8192 - 15, 8192, usize::MAX, usize::MAX - 7] {
            assert!(matches!(buffer.store(offset, &[1u64; 2]), Err(DmaError::OutOfBounds { .. })));
            assert!(matches!(buffer.load::<[u64; 2]>(offset), Err(DmaError::OutOfBounds { .. })));
        }
        assert!(matches!(buffer.load_acquire32(8189), Err(DmaError::OutOfBounds { .. })));
        assert!(matches!(
            buffer.load_acquire32(2),
            Err(DmaError::Misaligned { offset_bytes: 2, align_bytes: 4 })
        ));
        assert!(buffer.store_release32(8188, 5).is_ok());
        assert_eq!(buffer.load_acquire32(8188).unwrap(), 5);
    }

    #[test]
    fn an_array_is_its_elements() {
        let buffer = buffer();
        let entries = buffer.array::<Entry>(4096, 256).unwrap();
        assert_eq!(entries.len(), 256);
        for i in 0..256 {
            let entry = Entry { low: i as u64, mid: 7, status: (i as u32) << 16 };
            entries.set(i, &entry).unwrap();
        }
        assert_eq!(entries.get(255).unwrap().low, 255);
        assert_eq!(entries.load_acquire32(3, 12), Some(3 << 16));
        assert_eq!(buffer.load::<u64>(4096 + 16 * 9).unwrap(), 9);
        for index in [2, 255, 256, usize::MAX] {
            entries.prefetch_for_write(index);
        }
        assert_eq!(entries.get(2).unwrap().low, 2, "a prefetch changes nothing");
        assert!(entries.get(256).is_none() && entries.set(256, &entries.get(0).unwrap()).is_none());
        for (index, offset) in [(256, 0), (0, 13), (0, 16), (0, 2), (0, usize::MAX)] {
            assert_eq!(entries.load_acquire32(index, offset), None);
        }
        assert_eq!(entries.load_acquire64(3, 8), Some(3 << 48 | 7));
        for (index, offset) in [(256, 0), (0, 9), (0, 16), (0, 4), (0, usize::MAX)] {
            assert_eq!(entries.load_acquire64(index, offset), None);
        }
        assert_eq!(buffer.load::<[u8; 4096]>(0).unwrap(), [0; 4096]);
    }

    #[test]
    fn an_array_that_does_not_fit_is_refused() {
        let buffer = buffer();
        assert!(matches!(buffer.array::<Entry>(4096, 257), Err(DmaError::OutOfBounds { .. })));
        assert!(matches!(buffer.array::<Entry>(0, usize::MAX), Err(DmaError::OutOfBounds { .. })));
        assert!(matches!(buffer.array::<Entry>(4, 1), Err(DmaError::Misaligned { align_bytes: 8, .. })));
    }

    #[test]
    fn memory_that_can_be_borrowed_is_refused() {
        let buffer = std::sync::Arc::new(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap());
        let region = MemRegion::from_buffer(std::sync::Arc::clone(&buffer));
        assert!(matches!(CoherentBuffer::from_region(region.clone()), Err(DmaError::NotLeasable { .. })));
        assert!(matches!(CoherentArray::<u32>::new(&region, 0, 4), Err(DmaError::NotLeasable { .. })));
    }
}
