//! The client's memory: what it let the device use, and under which addresses.
//!
//! Invariants:
//! - Mappings are made of pages, do not overlap, and there are not more of them than was said in the handshake.
//! - A mapping that came without a descriptor is known (so that it can be taken away), but the device does not see it: the
//!   messages by which it could be reached are not used. QEMU sends such ones for ROMs.
//! - When an unmapping was answered, the device does not use the memory any more, and it is not mapped here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use corelane_dma::{DeviceMemory, DmaError};
use corelane_drivers::nvme::bus::vfio_user::wire::{DMA_READABLE, DMA_WRITABLE, DmaMap, DmaUnmap, UNMAP_ALL};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::commands::errno_of;
use super::session::Reply;
use crate::device::Device;

/// The size of a page, in bytes.
const PAGE_BYTES: u64 = 4096;
/// How many mappings there can be at a time.
const MOST: usize = 65_535;

/// A client's mappings: lengths by address, and whether the device has them.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    by_address: BTreeMap<u64, Mapping>,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    size: u64,
    seen_by_device: bool,
}

impl Mappings {
    pub(super) fn map(&mut self, device: &dyn Device, asked: DmaMap, fds: &[OwnedFd]) -> Result<(), Errno> {
        let DmaMap { flags, offset, address, size, .. } = asked;
        let pages = (offset | address | size).is_multiple_of(PAGE_BYTES);
        let known = flags & !(DMA_READABLE | DMA_WRITABLE) == 0 && flags != 0;
        if size == 0 || !pages || !known || fds.len() > 1 {
            return Err(Errno::INVAL);
        }
        let last = address.checked_add(size - 1).ok_or(Errno::INVAL)?;
        let before = self.by_address.range(..=last).next_back();
        if before.is_some_and(|(start, mapping)| start + (mapping.size - 1) >= address) {
            return Err(Errno::EXIST);
        }
        if self.by_address.len() >= MOST {
            return Err(Errno::NOSPC);
        }
        let seen_by_device = !fds.is_empty();
        if let Some(fd) = fds.first() {
            let len_bytes = usize::try_from(size).map_err(|_| Errno::INVAL)?;
            let memory = DeviceMemory::map_fd(fd.as_fd(), offset, len_bytes, flags & DMA_WRITABLE != 0)
                .map_err(|error| match error {
                    DmaError::Map { source, .. } => {
                        source.raw_os_error().map_or(Errno::NOMEM, Errno::from_raw_os_error)
                    }
                    _ => Errno::INVAL,
                })?;
            device.dma_map(address, memory).map_err(|error| errno_of(&error))?;
        }
        self.by_address.insert(address, Mapping { size, seen_by_device });
        Ok(())
    }

    pub(super) fn unmap(&mut self, device: &dyn Device, asked: DmaUnmap) -> Result<Reply, Errno> {
        let DmaUnmap { argsz, flags, address, size } = asked;
        if (argsz as usize) < size_of::<DmaUnmap>() || flags & !UNMAP_ALL != 0 {
            return Err(Errno::INVAL);
        }
        if flags & UNMAP_ALL != 0 {
            if (address, size) != (0, 0) {
                return Err(Errno::INVAL);
            }
            device.dma_unmap_all();
            self.by_address.clear();
        } else {
            // The protocol: exactly what was mapped.
            let mapping = *self.by_address.get(&address).ok_or(Errno::NOENT)?;
            if mapping.size != size {
                return Err(Errno::INVAL);
            }
            if mapping.seen_by_device {
                device.dma_unmap(address, size).map_err(|error| errno_of(&error))?;
            }
            self.by_address.remove(&address);
        }
        Ok(asked.as_bytes().to_vec().into())
    }
}
