//! Raw spans of memory, and the only copies that touch memory which others may be changing.
//!
//! Laws:
//! - Whoever stores a [`RawSpan`] stores beside it what keeps its memory mapped, readable and writable (a mapping, a
//!   lease, a keeper), and drops the two together. A span never outlives that.
//! - A device, a guest, another process or another lane may write the memory at any time. So nothing here makes a
//!   reference to it: copies go through assembly that the compiler cannot look into (each byte is read or written as
//!   the hardware does it, in no promised order), or through relaxed atomics. A reader that races with a writer gets
//!   some mixture of old and new bytes and nothing worse.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::error::{DmaError, check_range};

/// A span of mapped memory, without ownership. See the module's laws.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawSpan {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a span is an address and a length. Every access through it tolerates concurrent access (module's laws), and
// the memory is kept mapped by an owner that travels with it.
unsafe impl Send for RawSpan {}
// SAFETY: as for Send; the methods on `&RawSpan` only do accesses that tolerate each other.
unsafe impl Sync for RawSpan {}

impl RawSpan {
    /// The span of no memory.
    pub(crate) const EMPTY: RawSpan = RawSpan { ptr: NonNull::dangling(), len: 0 };

    /// # Safety
    /// The `len` bytes at `ptr` are mapped readable and writable for as long as this span or a part of it is used, and
    /// no Rust reference to them is alive while the span's copies run, unless the caller of the copy rules out a
    /// conflict.
    #[inline]
    pub(crate) const unsafe fn new(ptr: NonNull<u8>, len: usize) -> RawSpan {
        RawSpan { ptr, len }
    }

    #[inline]
    pub(crate) fn ptr(self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    #[inline]
    pub(crate) fn non_null(self) -> NonNull<u8> {
        self.ptr
    }

    #[inline]
    pub(crate) fn addr(self) -> usize {
        self.ptr.as_ptr() as usize
    }

    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// The part of `len_bytes` bytes at `offset_bytes`.
    #[inline]
    pub(crate) fn part(self, offset_bytes: usize, len_bytes: usize) -> Result<RawSpan, DmaError> {
        check_range(offset_bytes, len_bytes, self.len)?;
        // SAFETY: the range was just checked, so the result stays inside this span or one past its end.
        let ptr = unsafe { self.ptr.add(offset_bytes) };
        Ok(RawSpan { ptr, len: len_bytes })
    }

    /// The whole pages of `page_bytes` (a power of two) that hold the span; `None` if `page_bytes` is larger than the
    /// system's page and the span does not consist of such pages, since then nobody knows what is mapped around it.
    pub(crate) fn whole_pages(self, page_bytes: usize) -> Option<RawSpan> {
        let head = self.addr() % page_bytes;
        let len = (head + self.len).checked_next_multiple_of(page_bytes)?;
        if page_bytes > rustix::param::page_size() && (head, len) != (0, self.len) {
            return None;
        }
        let start = NonNull::new(self.ptr().wrapping_sub(head))?;
        Some(RawSpan { ptr: start, len })
    }

    /// Copies from the span, at `offset_bytes`, into `to`.
    #[inline]
    pub(crate) fn copy_to(self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        let from = self.part(offset_bytes, to.len())?;
        // SAFETY: `from` is `to.len()` mapped bytes (module's laws), and `to` is as long and exclusively borrowed.
        unsafe { copy(from.ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies `from` into the span at `offset_bytes`.
    #[inline]
    pub(crate) fn copy_from(self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        let to = self.part(offset_bytes, from.len())?;
        // SAFETY: `to` is `from.len()` mapped, writable bytes (module's laws), and `from` is as long.
        unsafe { copy(from.as_ptr(), to.ptr(), from.len()) };
        Ok(())
    }

    /// Copies as many bytes from `from` as the shorter of the two holds. They may overlap; the overlapping bytes then
    /// hold some mixture of both.
    #[inline]
    pub(crate) fn copy_span(self, from: RawSpan) {
        // SAFETY: both spans are mapped for at least the shorter one's length (module's laws).
        unsafe { copy(from.ptr(), self.ptr(), self.len.min(from.len)) };
    }

    /// Sets `len_bytes` bytes at `offset_bytes` to `byte`.
    #[inline]
    pub(crate) fn fill(self, offset_bytes: usize, len_bytes: usize, byte: u8) -> Result<(), DmaError> {
        let to = self.part(offset_bytes, len_bytes)?;
        // SAFETY: `to` is `len_bytes` mapped, writable bytes (module's laws).
        unsafe { fill(to.ptr(), len_bytes, byte) };
        Ok(())
    }
}

/// Copies `len` bytes as the hardware does it.
///
/// # Safety
/// Both ranges are mapped, `from` readable and `to` writable, and no reference forbids the access.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear on entry (asm! ABI) and is not changed.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Sets `len` bytes as the hardware does it.
///
/// # Safety
/// The range is mapped and writable, and no reference forbids the access.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn fill(to: *mut u8, len: usize, byte: u8) {
    // SAFETY: the caller vouches for the range; the direction flag is clear on entry (asm! ABI) and is not changed.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            in("al") byte,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(any(test, miri, not(target_arch = "x86_64")))]
mod portable {
    //! The same with relaxed atomics, for the other architectures: by words where both sides are aligned alike.

    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

    const WORD: usize = size_of::<u64>();

    /// # Safety
    /// As [`super::copy`].
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        let alike = (from as usize) % WORD == (to as usize) % WORD;
        let mut done = 0;
        while done < len {
            let (from, to) = (from.wrapping_add(done).cast_mut(), to.wrapping_add(done));
            if alike && (to as usize).is_multiple_of(WORD) && len - done >= WORD {
                // SAFETY: a word from `done` on is within the caller's range and aligned; all accesses are atomic.
                let (from, to) = (from.cast::<u64>(), unsafe { AtomicU64::from_ptr(to.cast()) });
                // SAFETY: as above, and `from` is aligned as `to` is.
                to.store(unsafe { AtomicU64::from_ptr(from) }.load(Relaxed), Relaxed);
                done += WORD;
            } else {
                // SAFETY: byte `done` is within the caller's range; all accesses are atomic.
                let to = unsafe { AtomicU8::from_ptr(to) };
                // SAFETY: as above.
                to.store(unsafe { AtomicU8::from_ptr(from) }.load(Relaxed), Relaxed);
                done += 1;
            }
        }
    }

    /// # Safety
    /// As [`super::fill`].
    pub(super) unsafe fn fill(to: *mut u8, len: usize, byte: u8) {
        for i in 0..len {
            // SAFETY: `i` is below `len`, so the pointer stays in the caller's range; the access is atomic.
            unsafe { AtomicU8::from_ptr(to.wrapping_add(i)) }.store(byte, Relaxed);
        }
    }
}

#[cfg(any(miri, not(target_arch = "x86_64")))]
use portable::{copy, fill};

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + 3) as u8).collect()
    }

    #[test]
    fn both_copies_copy_exactly_the_range() {
        for len in [0, 1, 7, 8, 9, 63, 64, 200] {
            for (from_at, to_at) in [(0, 0), (1, 1), (3, 5), (8, 0)] {
                let from = pattern(from_at + len);
                let from = &from[from_at..];
                let mut expected = vec![0xEE; to_at + len + 16];
                expected[to_at..to_at + len].copy_from_slice(from);

                let mut to = vec![0xEE; to_at + len + 16];
                let place = to[to_at..].as_mut_ptr();
                // SAFETY: both slices hold `len` bytes.
                unsafe { copy(from.as_ptr(), place, len) };
                assert_eq!(to, expected);

                to.fill(0xEE);
                let place = to[to_at..].as_mut_ptr();
                // SAFETY: as above.
                unsafe { portable::copy(from.as_ptr(), place, len) };
                assert_eq!(to, expected);
            }
        }
    }

    #[test]
    fn both_fills_fill_exactly_the_range() {
        for len in [0, 1, 8, 65] {
            let mut expected = vec![1u8; len + 10];
            expected[5..5 + len].fill(0xA5);
            let mut to = vec![1u8; len + 10];
            let place = to[5..].as_mut_ptr();
            // SAFETY: the slice holds more than `len` bytes.
            unsafe { fill(place, len, 0xA5) };
            assert_eq!(to, expected);
            to.fill(1);
            let place = to[5..].as_mut_ptr();
            // SAFETY: as above.
            unsafe { portable::fill(place, len, 0xA5) };
            assert_eq!(to, expected);
        }
    }

    #[test]
    fn a_part_outside_is_refused() {
        let mut memory = vec![0u8; 16];
        let ptr = NonNull::new(memory.as_mut_ptr()).unwrap();
        // SAFETY: the vector outlives the span, and nobody else uses it meanwhile.
        let span = unsafe { RawSpan::new(ptr, 16) };
        assert!(span.part(16, 0).is_ok());
        assert!(span.part(16, 1).is_err());
        assert!(span.part(17, 0).is_err());
        assert!(span.part(8, usize::MAX).is_err());
        assert!(span.copy_to(9, &mut [0; 8]).is_err());
        assert!(span.copy_from(9, &[0; 8]).is_err());
        assert!(span.fill(9, 8, 0).is_err());
    }
}
