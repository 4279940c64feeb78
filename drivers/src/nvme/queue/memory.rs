//! [`HostMemory`]: coherent memory that is registered with the controller, and its I/O address.
//!
//! Invariant: the memory stays mapped for the device as long as this lives. Whoever drops it knows that the controller uses
//! it no more: its queue was deleted, or the controller stopped.

use std::sync::Arc;

use corelane_dma::{AddressSpace, Backing, CoherentArray, CoherentBuffer, DmaError, LookupCache};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::nvme::bus::Bus;

/// Registered memory that driver and controller both use.
#[derive(Debug)]
pub struct HostMemory {
    buffer: CoherentBuffer,
    space: Arc<AddressSpace>,
    iova: u64,
}

impl HostMemory {
    /// Maps and registers `len_bytes` zeroed bytes, in whole pages.
    ///
    /// # Errors
    /// Those of making and of registering memory.
    pub fn new(bus: &dyn Bus, len_bytes: usize) -> Result<HostMemory, DmaError> {
        let buffer = match CoherentBuffer::new(len_bytes, bus.backing()) {
            // A queue is small: ordinary pages do as well where that backing is not to be had.
            Err(_) if bus.backing().is_huge() => CoherentBuffer::new(len_bytes, plain(bus.backing()))?,
            result => result?,
        };
        HostMemory::of(bus, buffer)
    }

    /// As [`new`](Self::new), but never of huge pages, which are for data.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn without_huge_pages(bus: &dyn Bus, len_bytes: usize) -> Result<HostMemory, DmaError> {
        HostMemory::of(bus, CoherentBuffer::new(len_bytes, plain(bus.backing()))?)
    }

    fn of(bus: &dyn Bus, buffer: CoherentBuffer) -> Result<HostMemory, DmaError> {
        let len_bytes = buffer.len_bytes();
        let space = Arc::clone(bus.dma());
        space.register(buffer.region())?;
        let mut cache = LookupCache::new(Arc::clone(space.table()));
        let hit = cache.lookup(buffer.addr(), len_bytes).map(|hit| hit.value.add(hit.offset_bytes as u64));
        let Some(iova) = hit else {
            // It was registered a moment ago.
            let (addr, len_bytes) = (buffer.addr(), buffer.len_bytes());
            return Err(DmaError::NotRegistered { addr, len_bytes });
        };
        Ok(HostMemory { buffer, space, iova: iova.0 })
    }

    /// The I/O address of the first byte.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The memory.
    pub fn buffer(&self) -> &CoherentBuffer {
        &self.buffer
    }

    /// A part of it as an array.
    ///
    /// # Errors
    /// As [`CoherentBuffer::array`].
    pub fn array<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        offset_bytes: usize,
        count: usize,
    ) -> Result<CoherentArray<T>, DmaError> {
        self.buffer.array(offset_bytes, count)
    }
}

fn plain(backing: Backing) -> Backing {
    backing.without_huge_pages()
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Err(error) = self.space.unregister(self.buffer.region()) {
            tracing::error!(%error, "memory of a queue stays registered");
        }
    }
}
