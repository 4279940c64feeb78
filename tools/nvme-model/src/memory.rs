//! The host's memory by I/O virtual address, as an IOMMU shows it to a device.
//!
//! Invariants: mappings never overlap. The polling thread works on a snapshot ([`View`]) that it replaces when told; a
//! snapshot keeps its memory mapped, so an access through an old one is harmless. An address without a mapping is an
//! error value.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_dma::DeviceMemory;

use crate::device::DeviceError;

/// A mapping: the memory from `iova` on.
#[derive(Clone, Debug)]
struct Mapping {
    iova: u64,
    memory: DeviceMemory,
}

impl Mapping {
    /// Where `iova` lies in it, if it does.
    #[inline]
    fn offset(&self, iova: u64) -> Option<usize> {
        let offset = iova.wrapping_sub(self.iova);
        (offset < self.memory.len() as u64).then_some(offset as usize)
    }
}

/// All mappings, changed by clients.
#[derive(Debug, Default)]
pub(crate) struct IovaTable {
    mappings: Mutex<BTreeMap<u64, DeviceMemory>>,
}

impl IovaTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, DeviceMemory>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a mapping.
    pub(crate) fn map(&self, iova: u64, memory: DeviceMemory) -> Result<(), DeviceError> {
        let len_bytes = memory.len() as u64;
        let refuse = |reason| Err(DeviceError::Map { iova, len_bytes, reason });
        if len_bytes == 0 {
            return refuse("it is empty");
        }
        // The last byte, so that a mapping may reach to the very end.
        let Some(last) = iova.checked_add(len_bytes - 1) else { return refuse("it wraps around") };
        let mut mappings = self.lock();
        let before = mappings.range(..=last).next_back();
        if before.is_some_and(|(start, memory)| start + (memory.len() as u64 - 1) >= iova) {
            return refuse("it overlaps another mapping");
        }
        mappings.insert(iova, memory);
        Ok(())
    }

    /// Removes all mappings that lie within the range. Returns how many bytes they had.
    pub(crate) fn unmap(&self, iova: u64, len_bytes: u64) -> Result<u64, DeviceError> {
        let Some(last) = len_bytes.checked_sub(1).and_then(|less| iova.checked_add(less)) else {
            return Ok(0);
        };
        let mut mappings = self.lock();
        let mut inside = Vec::new();
        for (&start, memory) in mappings.range(..=last).rev() {
            let mapped_bytes = memory.len() as u64;
            let mapped_last = start + (mapped_bytes - 1);
            if mapped_last < iova {
                break;
            }
            if start < iova || mapped_last > last {
                return Err(DeviceError::Unmap { iova, len_bytes, mapped_iova: start, mapped_bytes });
            }
            inside.push(start);
        }
        Ok(inside.iter().filter_map(|start| mappings.remove(start)).map(|memory| memory.len() as u64).sum())
    }

    /// Removes all mappings.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// The mappings as they are now.
    pub(crate) fn view(&self) -> View {
        let mappings = self.lock();
        let copy = |(&iova, memory): (&u64, &DeviceMemory)| Mapping { iova, memory: memory.clone() };
        View { mappings: mappings.iter().map(copy).collect::<Vec<_>>().into(), last: 0 }
    }
}

/// An address without memory, or one that may not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// The address.
    pub(crate) iova: u64,
    /// Whether there is memory, but only for reading.
    pub(crate) read_only: bool,
}

/// The mappings at one moment, with a last-hit cache.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Sorted by address.
    mappings: Arc<[Mapping]>,
    last: usize,
}

impl View {
    /// The memory at `iova`, where in it that is, and how many bytes are left from there.
    #[inline]
    pub(crate) fn find(&mut self, iova: u64) -> Result<(&DeviceMemory, usize, usize), Fault> {
        let mut hit = self.mappings.get(self.last).and_then(|mapping| mapping.offset(iova));
        if hit.is_none() {
            let after = self.mappings.partition_point(|mapping| mapping.iova <= iova);
            self.last = after.wrapping_sub(1);
            hit = self.mappings.get(self.last).and_then(|mapping| mapping.offset(iova));
        }
        let mapping = self.mappings.get(self.last);
        match (mapping, hit) {
            (Some(mapping), Some(offset)) => Ok((&mapping.memory, offset, mapping.memory.len() - offset)),
            _ => Err(Fault { iova, read_only: false }),
        }
    }

    /// Calls `f(memory, offset, done, len)` for each piece of memory that the `len_bytes` bytes at `iova` consist of.
    #[inline]
    pub(crate) fn pieces(
        &mut self,
        iova: u64,
        len_bytes: usize,
        mut f: impl FnMut(&DeviceMemory, usize, usize, usize) -> Result<(), corelane_dma::DmaError>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len_bytes {
            // Past the last address there is no memory, and neither is there at the first one, where this wraps to.
            let at = iova.wrapping_add(done as u64);
            let (memory, offset, left) = self.find(at)?;
            let len = left.min(len_bytes - done);
            f(memory, offset, done, len).map_err(|_| Fault { iova: at, read_only: true })?;
            done += len;
        }
        Ok(())
    }

    /// Whether all of the `len_bytes` bytes at `iova` are memory, and may be written if `write`.
    #[inline]
    pub(crate) fn check(&mut self, iova: u64, len_bytes: usize, write: bool) -> Result<(), Fault> {
        let (memory, _, left) = self.find(iova)?;
        if left >= len_bytes && (memory.is_writable() || !write) {
            return Ok(());
        }
        self.pieces(iova, len_bytes, |memory, offset_bytes, _, len_bytes| {
            let refused = write && !memory.is_writable();
            if refused { Err(corelane_dma::DmaError::ReadOnly { offset_bytes, len_bytes }) } else { Ok(()) }
        })
    }

    /// Reads bytes.
    pub(crate) fn read(&mut self, iova: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.pieces(iova, to.len(), |memory, offset, done, len| {
            memory.copy_to(offset, &mut to[done..done + len])
        })
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, iova: u64, from: &[u8]) -> Result<(), Fault> {
        self.pieces(iova, from.len(), |memory, offset, done, len| {
            memory.copy_from(offset, &from[done..done + len])
        })
    }

    /// The `len_bytes` bytes at `iova` as one piece of memory, as a queue has to be.
    pub(crate) fn contiguous(&mut self, iova: u64, len_bytes: usize) -> Result<DeviceMemory, Fault> {
        let (memory, offset, _) = self.find(iova)?;
        memory.part(offset, len_bytes).map_err(|_| Fault { iova, read_only: false })
    }
}

#[cfg(test)]
mod tests;
