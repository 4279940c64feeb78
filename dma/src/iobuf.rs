//! [`IoBuf`]: the memory of one request, or of one segment of it.
//!
//! A buffer is linear: `submit` moves it in, the completion gives it back, and in between nobody else has it. That is
//! what makes the memory safe from races with a device, without borrowing across the submit.
//!
//! Invariants:
//! - The lease keeps the span mapped.
//! - An *exclusive* buffer (owned or of a pool, and private to the process) is the only way to its memory. All others may
//!   share theirs with further leases, guests, devices and processes; in that memory nobody ever makes a reference.
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::buffer::DmaBuffer;
use crate::error::{DmaError, check_range};
use crate::payload::Payload;
use crate::pool::PoolInner;
use crate::raw::RawSpan;
use crate::region::{MemOwner, MemRegion};

/// A piece of memory that a device may read or write while a request is in flight. Belongs to one lane.
///
/// ```
/// use corelane_dma::{Backing, BlockPool, DmaError};
///
/// let pool = BlockPool::new(4096, 8, 4096, Backing::Pages)?;
/// let mut buf = pool.take().expect("none is out yet");
/// buf.as_mut_slice().expect("a block is exclusive").fill(1);
/// buf.set_len(512)?; // for a request of 512 bytes
/// assert_eq!((buf.len(), buf.capacity()), (512, 4096));
/// # Ok::<(), DmaError>(())
/// ```
///
/// It stays in its lane, since what keeps the memory is counted without atomics:
///
/// ```compile_fail,E0277
/// fn to_another_thread<T: Send>() {}
/// to_another_thread::<corelane_dma::IoBuf>();
/// ```
pub struct IoBuf {
    span: RawSpan,
    lease: Lease,
}

// A request's memory travels by value; it has to stay small.
const _: () = assert!(size_of::<IoBuf>() == 32 && size_of::<Option<IoBuf>>() == 32);

/// What keeps the memory. Nothing here is atomic except what an owned buffer or a region brings along, and that is
/// touched only when they are made and dropped.
enum Lease {
    /// No memory: an empty buffer.
    Empty,
    Owned(Box<DmaBuffer>),
    Pool(Rc<PoolInner>),
    Region(Rc<MemRegion>),
    /// Part of a payload that was shared.
    Sub(Rc<Payload>),
}

/// Stands for memory that something else keeps.
struct Borrowed(Option<OwnedFd>);

impl MemOwner for Borrowed {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

impl IoBuf {
    /// The buffer of no bytes.
    #[inline]
    pub const fn empty() -> IoBuf {
        IoBuf { span: RawSpan::EMPTY, lease: Lease::Empty }
    }

    /// Leases `len_bytes` bytes at `offset_bytes` of a region. Any number of leases may overlap.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], or [`DmaError::NotLeasable`] (see [`MemRegion::from_buffer`]).
    #[inline]
    pub fn lease(region: &Rc<MemRegion>, offset_bytes: usize, len_bytes: usize) -> Result<IoBuf, DmaError> {
        if !region.is_leasable() {
            return Err(DmaError::NotLeasable { addr: region.addr(), len_bytes: region.len() });
        }
        let span = region.span().part(offset_bytes, len_bytes)?;
        Ok(IoBuf { span, lease: Lease::Region(Rc::clone(region)) })
    }

    /// A block, for [`BlockPool::take`](crate::BlockPool::take).
    #[inline]
    pub(crate) fn of_pool(block: RawSpan, pool: Rc<PoolInner>) -> IoBuf {
        IoBuf { span: block, lease: Lease::Pool(pool) }
    }

    /// A part of a buffer in `whole`; `span` lies within one of its segments.
    #[inline]
    pub(crate) fn of_shared(span: RawSpan, whole: &Rc<Payload>) -> IoBuf {
        IoBuf { span, lease: Lease::Sub(Rc::clone(whole)) }
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.span.len()
    }

    /// Whether the length is 0.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.span.len() == 0
    }

    /// The address of the first byte.
    #[inline]
    pub fn addr(&self) -> usize {
        self.span.addr()
    }

    /// The first byte, for a device. The memory stays where it is until the buffer is dropped, wherever the buffer
    /// itself is moved.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.span.ptr()
    }

    /// The memory as a region that keeps it, for what may outlive the buffer; `None` for memory that goes away with it.
    pub(crate) fn kept_region(&self) -> Option<MemRegion> {
        let whole = match &self.lease {
            Lease::Region(region) => MemRegion::clone(region),
            Lease::Pool(pool) => pool.region(),
            Lease::Sub(payload) => payload.as_bufs().iter().find(|buf| self.is_within(buf))?.kept_region()?,
            Lease::Empty | Lease::Owned(_) => return None,
        };
        whole.part(self.addr().checked_sub(whole.addr())?, self.len()).ok()
    }

    /// The memory as a region for a device, which keeps the file descriptor, if there is one, but not the memory.
    pub(crate) fn device_region(&self) -> MemRegion {
        let owner = match &self.lease {
            Lease::Sub(payload) => payload.as_bufs().iter().find(|buf| self.is_within(buf)),
            _ => Some(self),
        };
        let (fd, start) = match owner.map(|owner| &owner.lease) {
            Some(Lease::Owned(buffer)) => {
                (buffer.fd().and_then(|fd| fd.try_clone_to_owned().ok()), buffer.addr())
            }
            _ => (None, self.addr()),
        };
        MemRegion::foreign(self.span, Arc::new(Borrowed(fd)), self.addr().wrapping_sub(start) as u64)
    }

    fn is_within(&self, whole: &IoBuf) -> bool {
        let offset = self.addr().wrapping_sub(whole.addr());
        offset <= whole.len() && self.len() <= whole.len() - offset
    }

    /// Whether this buffer is the only way to its memory, so that it can be looked at as a slice.
    #[inline]
    pub fn is_exclusive(&self) -> bool {
        match &self.lease {
            Lease::Empty => true,
            Lease::Owned(buffer) => buffer.is_private(),
            Lease::Pool(pool) => pool.is_private(),
            Lease::Region(_) | Lease::Sub(_) => false,
        }
    }

    /// The bytes, if the buffer [is exclusive](Self::is_exclusive).
    #[inline]
    pub fn as_slice(&self) -> Option<&[u8]> {
        // SAFETY: the lease keeps the span mapped, its bytes are initialised (the kernel zeroes pages), and an exclusive
        // buffer is the only way to them, so `&self` rules out writers; no request has it, or we would not.
        self.is_exclusive().then(|| unsafe { std::slice::from_raw_parts(self.span.ptr(), self.span.len()) })
    }

    /// The bytes to write, if the buffer [is exclusive](Self::is_exclusive).
    #[inline]
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.is_exclusive() {
            return None;
        }
        // SAFETY: as for `as_slice`, and `&mut self` rules out readers.
        Some(unsafe { std::slice::from_raw_parts_mut(self.span.ptr(), self.span.len()) })
    }

    /// Copies bytes at `offset_bytes` into `to`. Where others write the memory meanwhile, some mixture arrives.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    #[inline]
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        self.span.copy_to(offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    #[inline]
    pub fn copy_from(&mut self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        self.span.copy_from(offset_bytes, from)
    }

    /// Sets `len_bytes` bytes at `offset_bytes` to `byte`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    #[inline]
    pub fn fill(&mut self, offset_bytes: usize, len_bytes: usize, byte: u8) -> Result<(), DmaError> {
        self.span.fill(offset_bytes, len_bytes, byte)
    }

    /// How long the buffer can be made by [`set_len`](Self::set_len), in bytes: the whole block for a block of a pool and
    /// the whole buffer for an owned one, but the present length for a lease of a region or of a shared payload.
    #[inline]
    pub fn capacity(&self) -> usize {
        match &self.lease {
            Lease::Owned(buffer) => buffer.len(),
            Lease::Pool(pool) => pool.block_bytes(),
            Lease::Empty | Lease::Region(_) | Lease::Sub(_) => self.span.len(),
        }
    }

    /// Makes the buffer show only its first `len_bytes` bytes, or more again up to its [`capacity`](Self::capacity). What
    /// was cut off keeps its content. A lease can only be shortened, for good.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing changes.
    #[inline]
    pub fn set_len(&mut self, len_bytes: usize) -> Result<(), DmaError> {
        check_range(0, len_bytes, self.capacity())?;
        // SAFETY: the span starts where the memory that the lease keeps starts, and `len_bytes` is within that memory
        // (owned, pool) or within the present span (leases).
        self.span = unsafe { RawSpan::new(self.span.non_null(), len_bytes) };
        Ok(())
    }

    /// A further buffer over `len_bytes` bytes at `offset_bytes` of this one, which keeps its range but is not exclusive
    /// any more. An owned buffer or a block is given back when the last of them is dropped. Allocates if this buffer was
    /// owned or a block.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing changes.
    pub fn share_part(&mut self, offset_bytes: usize, len_bytes: usize) -> Result<IoBuf, DmaError> {
        let span = self.span.part(offset_bytes, len_bytes)?;
        if matches!(self.lease, Lease::Owned(_) | Lease::Pool(_)) {
            let whole = std::mem::take(self);
            *self = IoBuf { span: whole.span, lease: Lease::Sub(Rc::new(Payload::One(whole))) };
        }
        let lease = match &self.lease {
            Lease::Region(region) => Lease::Region(Rc::clone(region)),
            Lease::Sub(whole) => Lease::Sub(Rc::clone(whole)),
            // Only the empty buffer is left; it has no part but the empty one.
            Lease::Empty | Lease::Owned(_) | Lease::Pool(_) => Lease::Empty,
        };
        Ok(IoBuf { span, lease })
    }

    /// Cuts the buffer in two at `at_bytes`; see [`share_part`](Self::share_part) for what becomes of an owned one.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing changes.
    pub fn split_off(&mut self, at_bytes: usize) -> Result<IoBuf, DmaError> {
        check_range(at_bytes, 0, self.len())?;
        let tail = self.share_part(at_bytes, self.len() - at_bytes)?;
        self.span = self.span.part(0, at_bytes)?;
        Ok(tail)
    }

    /// The buffer that this one owns.
    ///
    /// # Errors
    /// The buffer itself, if it is not an owned one.
    pub fn into_buffer(mut self) -> Result<DmaBuffer, IoBuf> {
        match std::mem::replace(&mut self.lease, Lease::Empty) {
            Lease::Owned(buffer) => Ok(*buffer),
            lease => {
                self.lease = lease;
                Err(self)
            }
        }
    }

    /// The memory. Who stores it keeps the buffer alive (see `raw`).
    #[inline]
    pub(crate) fn span(&self) -> RawSpan {
        self.span
    }
}

impl Drop for IoBuf {
    #[inline]
    fn drop(&mut self) {
        if let Lease::Pool(pool) = &self.lease {
            // SAFETY: a pool's buffer starts where its block starts, and the block is `block_bytes` long.
            let block = unsafe { RawSpan::new(self.span.non_null(), pool.block_bytes()) };
            pool.give_back(block);
        }
    }
}

impl Default for IoBuf {
    fn default() -> IoBuf {
        IoBuf::empty()
    }
}

impl From<DmaBuffer> for IoBuf {
    fn from(buffer: DmaBuffer) -> IoBuf {
        IoBuf { span: buffer.span(), lease: Lease::Owned(Box::new(buffer)) }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = match &self.lease {
            Lease::Empty => "empty",
            Lease::Owned(_) => "owned",
            Lease::Pool(_) => "pool",
            Lease::Region(_) => "region",
            Lease::Sub(_) => "shared",
        };
        write!(f, "IoBuf({:#x}+{}, {lease})", self.addr(), self.len())
    }
}

#[cfg(test)]
mod tests;
