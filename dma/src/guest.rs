//! Guest memory: the regions of a `vm-memory` guest, to be registered one by one and leased from by guest address.
//!
//! Invariants:
//! - A region's keeper is the mapping's own `Arc`, so host memory stays mapped even if the guest loses the region.
//! - `vm-memory` never makes references to guest memory (its own law), and neither do leases, so any number of both may be
//!   in use while the guest runs.
//! - Only mappings that are readable and writable get in.
//!
//! What a device writes through a lease does not pass through `vm-memory`, so a dirty bitmap does not see it: a monitor
//! that tracks dirty pages marks the range itself when the request completes.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use crate::error::DmaError;
use crate::iobuf::IoBuf;
use crate::raw::RawSpan;
use crate::region::{MemOwner, MemRegion};
use crate::vector::IoVector;

/// `PROT_READ | PROT_WRITE` (mmap(2)), as `vm-memory` tells a mapping's protection.
const READ_WRITE: i32 = rustix::mm::ProtFlags::READ.union(rustix::mm::ProtFlags::WRITE).bits() as i32;
/// `MAP_SHARED` (mmap(2)).
const SHARED: i32 = rustix::mm::MapFlags::SHARED.bits() as i32;

/// Keeps a guest region mapped.
struct Keeper<B>(Arc<MmapRegion<B>>);

impl<B: Bitmap + Send + Sync> MemOwner for Keeper<B> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // A private mapping of a file parts from it at the first write, so the file is of no use to others.
        let shared = self.0.flags() & SHARED != 0;
        self.0.file_offset().filter(|_| shared).map(|file| file.file().as_fd())
    }
}

/// A region of guest memory.
#[derive(Clone, Debug)]
pub struct GuestRegion {
    /// The guest's address of its first byte.
    pub guest_addr: u64,
    /// Its memory in this process.
    pub memory: MemRegion,
}

/// The regions of a guest, in the order of their guest addresses. Each `memory` is to be registered by itself.
///
/// # Errors
/// [`DmaError::GuestProtection`] for a region that is not mapped readable and writable.
pub fn guest_regions<B>(memory: &GuestMemoryMmap<B>) -> Result<Vec<GuestRegion>, DmaError>
where
    B: Bitmap + Send + Sync + 'static,
{
    memory.iter().map(guest_region).collect()
}

fn guest_region<B>(region: &GuestRegionMmap<B>) -> Result<GuestRegion, DmaError>
where
    B: Bitmap + Send + Sync + 'static,
{
    let guest_addr = region.start_addr().raw_value();
    let mapping = region.get_mmap();
    let (prot, len_bytes) = (mapping.prot(), mapping.size());
    let protected = DmaError::GuestProtection { guest_addr, len_bytes, prot, wanted: READ_WRITE };
    if prot & READ_WRITE != READ_WRITE {
        return Err(protected);
    }
    let Some(start) = NonNull::new(mapping.as_ptr()) else { return Err(protected) };
    // SAFETY: the mapping is `size` bytes, readable and writable as just checked, and stays so as long as its `Arc`, which
    // the keeper stored beside the span holds. `vm-memory` makes no references to guest memory.
    let span = unsafe { RawSpan::new(start, len_bytes) };
    let fd_offset_bytes = mapping.file_offset().map_or(0, FileOffset::start);
    Ok(GuestRegion {
        guest_addr,
        memory: MemRegion::foreign(span, Arc::new(Keeper(mapping)), fd_offset_bytes),
    })
}

/// A lane's view of a guest's memory: leases by guest address, with a last-hit cache. It shows the regions that the guest
/// had when it was made; a guest whose memory changes needs a new one.
#[derive(Debug)]
pub struct GuestView {
    /// Sorted by guest address, without overlaps.
    regions: Box<[(u64, Rc<MemRegion>)]>,
    last: usize,
}

impl GuestView {
    /// A view of these regions, in any order.
    pub fn new(mut regions: Vec<GuestRegion>) -> GuestView {
        regions.sort_by_key(|region| region.guest_addr);
        let regions = regions.into_iter().map(|region| (region.guest_addr, Rc::new(region.memory))).collect();
        GuestView { regions, last: 0 }
    }

    /// Leases `len_bytes` bytes at `guest_addr`, which must lie within one region.
    ///
    /// # Errors
    /// [`DmaError::NotGuestMemory`] where they do not; see [`push`](Self::push) for ranges across regions.
    pub fn lease(&mut self, guest_addr: GuestAddress, len_bytes: usize) -> Result<IoBuf, DmaError> {
        let guest_addr = guest_addr.raw_value();
        let (region, offset) = self.find(guest_addr, len_bytes)?;
        if len_bytes > region.len() - offset {
            let left = region.len() - offset;
            let guest_addr = guest_addr + left as u64;
            return Err(DmaError::NotGuestMemory { guest_addr, len_bytes: len_bytes - left });
        }
        IoBuf::lease(region, offset, len_bytes)
    }

    /// Adds `len_bytes` bytes at `guest_addr` to a vector: a segment for each region that they lie in.
    ///
    /// # Errors
    /// [`DmaError::NotGuestMemory`] where some of them are not memory; the vector is as before then.
    pub fn push(
        &mut self,
        vector: &mut IoVector,
        guest_addr: GuestAddress,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        let before_bytes = vector.len_bytes();
        let result = self.push_pieces(vector, guest_addr.raw_value(), len_bytes);
        if result.is_err() {
            vector.split_off(before_bytes)?;
        }
        result
    }

    fn push_pieces(
        &mut self,
        vector: &mut IoVector,
        mut guest_addr: u64,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        let mut left = len_bytes;
        while left > 0 {
            let (region, offset) = self.find(guest_addr, left)?;
            let step = left.min(region.len() - offset);
            vector.push(IoBuf::lease(region, offset, step)?);
            left -= step;
            // It overflows only at the very end of the address space, where nothing can be left.
            guest_addr = guest_addr.wrapping_add(step as u64);
            if left > 0 && guest_addr == 0 {
                return Err(DmaError::NotGuestMemory { guest_addr, len_bytes: left });
            }
        }
        Ok(())
    }

    /// The region that holds the byte at `guest_addr`, and where in it that is. `len_bytes` is for the error.
    #[inline]
    fn find(&mut self, guest_addr: u64, len_bytes: usize) -> Result<(&Rc<MemRegion>, usize), DmaError> {
        let offset = |(start, region): &(u64, Rc<MemRegion>)| {
            let offset = guest_addr.checked_sub(*start).and_then(|offset| usize::try_from(offset).ok());
            offset.filter(|&offset| offset < region.len())
        };
        if self.regions.get(self.last).and_then(offset).is_none() {
            let after = self.regions.partition_point(|&(start, _)| start <= guest_addr);
            self.last = after.saturating_sub(1);
        }
        let found = self.regions.get(self.last).and_then(|entry| Some((&entry.1, offset(entry)?)));
        found.ok_or(DmaError::NotGuestMemory { guest_addr, len_bytes })
    }
}

#[cfg(test)]
mod tests;
