//! Memory of the controller's own (controller memory buffer, Base 8.5), for submission queues: the controller finds their entries
//! at hand, and has not to fetch them from the host.
//!
//! The processor writes them through the mapped BAR, as plain stores of 64 bits; such a mapping is uncached, so that they are
//! there before the doorbell that follows them.
//!
//! Invariants:
//! - No two queues have a byte in common, and none has one outside of what the controller said and the bus has mapped.
//! - The I/O addresses by which the controller knows its memory are no others': they stay reserved as long as any queue is there.
//! - What is there may be lost in a reset: queues are empty after one.

use std::sync::{Arc, Mutex, PoisonError};

use corelane_dma::{MemRegion, ReservedIova};

use super::core::Core;
use super::registers::PAGE_BYTES;
use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::spec::register::{
    self, BufferLocation, BufferSize, CMBLOC, CMBMSC, CMBSTS, CMBSTS_INVALID, CMBSZ, buffer_space,
};

/// The most of it that is used: 64 queues of 4,096 entries, and more.
const MOST_BYTES: u64 = 64 << 20;

/// See the module's documentation.
pub struct MemoryBuffer {
    memory: MemRegion,
    reserved: ReservedIova,
    /// By page: whether it is a queue's.
    taken: Mutex<Vec<bool>>,
}

/// A queue's part of it, given back when this goes.
pub struct QueueMemory {
    buffer: Arc<MemoryBuffer>,
    first: usize,
    pages: usize,
}

impl MemoryBuffer {
    /// Finds out whether a disabled controller has memory for submission queues, and lets it answer under I/O addresses of ours.
    /// `None` if it has none, or none that can be used.
    fn open(bus: &dyn Bus) -> Result<Option<Arc<MemoryBuffer>>, NvmeError> {
        // Its location and size can be read from then on (Base 3.1.3.14).
        bus.write64(CMBMSC, buffer_space(None))?;
        let (location, size) = (BufferLocation(bus.read32(CMBLOC)?), BufferSize(bus.read32(CMBSZ)?));
        if size.0 == u32::MAX || !size.submission_queues() {
            tracing::info!(controller = bus.address(), "its memory buffer is not for submission queues");
            return Ok(None);
        }
        let offset = u64::from(location.offset()) * size.unit_bytes();
        let len_bytes = size.bytes().min(MOST_BYTES) / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        let mapped = (len_bytes > 0).then(|| bus.bar_memory(location.bar(), offset, len_bytes)).flatten();
        let Some(mapped) = mapped else {
            let (controller, bar) = (bus.address(), location.bar());
            tracing::warn!(
                controller,
                bar,
                offset,
                len_bytes,
                "its memory buffer cannot be mapped, and is not used"
            );
            return Ok(None);
        };
        let Ok(reserved) = bus.dma().reserve(size.bytes()) else {
            let (controller, len_bytes) = (bus.address(), size.bytes());
            tracing::warn!(
                controller,
                len_bytes,
                "there are no I/O addresses for its memory buffer, which is not used"
            );
            return Ok(None);
        };
        let pages = (len_bytes / PAGE_BYTES as u64) as usize;
        let buffer =
            MemoryBuffer { memory: mapped.memory(), reserved, taken: Mutex::new(vec![false; pages]) };
        if !buffer.enable(bus)? {
            tracing::warn!(
                controller = bus.address(),
                "its memory buffer takes no I/O address, and is not used"
            );
            return Ok(None);
        }
        Ok(Some(Arc::new(buffer)))
    }

    /// Lets the controller answer under the I/O addresses. False if it says that it cannot.
    fn enable(&self, bus: &dyn Bus) -> Result<bool, NvmeError> {
        bus.write64(CMBMSC, buffer_space(Some(self.reserved.iova().0)))?;
        Ok(bus.read32(CMBSTS)? & CMBSTS_INVALID == 0)
    }

    /// Memory for a queue of so many bytes, in whole pages; `None` if there is not so much.
    pub fn take(self: &Arc<Self>, len_bytes: usize) -> Option<QueueMemory> {
        let pages = len_bytes.div_ceil(PAGE_BYTES);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let first = taken.windows(pages.max(1)).position(|window| window.iter().all(|page| !page))?;
        taken[first..first + pages].fill(true);
        Some(QueueMemory { buffer: Arc::clone(self), first, pages })
    }
}

impl QueueMemory {
    /// All of the controller's memory; the queue's part of it begins at [`offset_bytes`](Self::offset_bytes).
    pub fn memory(&self) -> &MemRegion {
        &self.buffer.memory
    }

    /// See [`memory`](Self::memory).
    pub fn offset_bytes(&self) -> usize {
        self.first * PAGE_BYTES
    }

    /// The I/O address of its first byte.
    pub fn iova(&self) -> u64 {
        self.buffer.reserved.iova().0 + self.offset_bytes() as u64
    }
}

impl Drop for QueueMemory {
    fn drop(&mut self) {
        let mut taken = self.buffer.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[self.first..self.first + self.pages].fill(false);
    }
}

impl Core {
    /// Opens the memory buffer of a controller that is about to be enabled for the first time, if that is wanted and there is
    /// one.
    ///
    /// # Errors
    /// Those of the bus and of addresses.
    pub fn open_memory_buffer(&self) -> Result<(), NvmeError> {
        let registers = self.control.registers();
        if self.options.queues_in_controller && registers.capabilities().memory_buffer() {
            let buffer = MemoryBuffer::open(registers.bus().as_ref())?;
            *self.memory_buffer.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
        }
        Ok(())
    }

    /// The memory buffer, if it is used.
    pub fn memory_buffer(&self) -> Option<Arc<MemoryBuffer>> {
        self.memory_buffer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a controller that has stopped answer under none of our I/O addresses any more, so that memory can be there.
    pub fn close_memory_buffer(&self) {
        if self.memory_buffer().is_some()
            && let Err(error) = self.bus().write64(CMBMSC, 0)
        {
            tracing::debug!(controller = self.control.address(), %error, "its memory buffer stays open");
        }
    }

    /// Lets a controller that was reset answer as before.
    ///
    /// # Errors
    /// Those of the bus, and [`NvmeError::Changed`].
    pub fn enable_memory_buffer_again(&self) -> Result<(), NvmeError> {
        let Some(buffer) = self.memory_buffer() else { return Ok(()) };
        if buffer.enable(self.bus().as_ref())? {
            return Ok(());
        }
        let (address, what) = (self.control.address().to_owned(), "the memory buffer's state");
        let (value, expected) = ("an invalid address (CMBSTS.CBAI)".to_owned(), "valid".to_owned());
        Err(NvmeError::Changed { address, what, value, expected })
    }
}

/// Registers that this module writes exist from version 1.4 on, where CAP.CMBS says so.
const _: () = assert!(register::CMBMSC == 0x50);

#[cfg(test)]
mod tests {
    use corelane_dma::{Backing, DmaBuffer};

    use super::*;

    fn buffer(pages: usize) -> Arc<MemoryBuffer> {
        struct Nothing;
        impl corelane_dma::DmaMapper for Nothing {
            fn constraints(&self) -> corelane_dma::IovaConstraints {
                let ranges = vec![0x10_0000..=0xff_ffff];
                corelane_dma::IovaConstraints {
                    page_bytes: 4096,
                    ranges,
                    max_mappings: None,
                    needs_fd: false,
                }
            }
            fn map(&self, _: corelane_dma::Iova, _: &MemRegion) -> Result<(), corelane_dma::DmaError> {
                Ok(())
            }
            fn unmap(&self, _: corelane_dma::Iova, _: u64) -> Result<(), corelane_dma::DmaError> {
                Ok(())
            }
            fn describe(&self) -> String {
                "nothing".to_owned()
            }
        }
        let space = corelane_dma::AddressSpace::new(Box::new(Nothing)).unwrap();
        let len_bytes = pages * PAGE_BYTES;
        let memory = MemRegion::from_buffer(DmaBuffer::new(len_bytes, PAGE_BYTES, Backing::Pages).unwrap());
        let reserved = space.reserve(len_bytes as u64).unwrap();
        Arc::new(MemoryBuffer { memory, reserved, taken: Mutex::new(vec![false; pages]) })
    }

    #[test]
    fn queues_have_pages_of_their_own_and_give_them_back() {
        let buffer = buffer(4);
        let first = buffer.take(PAGE_BYTES + 1).unwrap();
        let second = buffer.take(64).unwrap();
        assert_eq!((first.offset_bytes(), second.offset_bytes()), (0, 2 * PAGE_BYTES));
        assert_eq!(second.iova() - first.iova(), 2 * PAGE_BYTES as u64);
        assert!(buffer.take(2 * PAGE_BYTES).is_none());
        drop(first);
        assert_eq!(buffer.take(2 * PAGE_BYTES).unwrap().offset_bytes(), 0);
        assert!(buffer.take(5 * PAGE_BYTES).is_none());
    }
}
