//! The doorbells (PCIe transport 1.0, section 3.1.2.1): memory that hosts write and the polling thread reads, in place of
//! registers that would have to trap.
//!
//! Invariant: the memory is a part of a sealed memfd laid out as BAR 0 is, from the doorbells to the end, so a client can
//! map all of it. The file has the same offsets as the BAR because vfio-user has one distance between the two for a whole
//! region, which cannot be negative; nobody uses the pages before the doorbells. Doorbells of queues that do not exist are
//! in the memory too; a value found there is an error of the host.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corelane_dma::{Backing, CellArray, DeviceMemory, DmaBuffer, MemRegion};

use crate::device::DeviceError;
use crate::wire::register::DOORBELLS;

/// Where a doorbell is read: the registers, or the host's shadow of them.
#[derive(Clone, Debug)]
pub(crate) struct Doorbell {
    cells: CellArray,
    index: usize,
}

impl Doorbell {
    pub(crate) fn new(cells: &CellArray, index: usize) -> Doorbell {
        Doorbell { cells: cells.clone(), index }
    }

    /// The value; what the host wrote before it is visible.
    #[inline]
    pub(crate) fn load(&self) -> u32 {
        self.cells.load(self.index)
    }

    /// Sets the value, as the controller does when it makes a queue.
    pub(crate) fn store(&self, value: u32) {
        self.cells.store(self.index, value);
    }
}

/// Which cell is the tail doorbell of a submission queue.
pub(crate) fn tail_cell(queue: u16) -> usize {
    2 * usize::from(queue)
}

/// Which cell is the head doorbell of a completion queue.
pub(crate) fn head_cell(queue: u16) -> usize {
    2 * usize::from(queue) + 1
}

/// All doorbells.
#[derive(Debug)]
pub(crate) struct Doorbells {
    region: MemRegion,
    fd: OwnedFd,
    memory: DeviceMemory,
    cells: CellArray,
}

impl Doorbells {
    /// Memory for the doorbells of `pairs` I/O queue pairs and the admin queues.
    pub(crate) fn new(pairs: u16, stride: u8) -> Result<Doorbells, DeviceError> {
        let stride_bytes = 4_usize << stride;
        let used = (usize::from(pairs) + 1) * 2 * stride_bytes;
        // BAR 0 has a power of two of bytes, at least 16 KiB as hosts expect.
        let bar_bytes = (DOORBELLS as usize + used).next_power_of_two().max(0x4000);
        let len_bytes = bar_bytes - DOORBELLS as usize;
        let what = "doorbells";
        let memory = |source| DeviceError::Memory { what, source };
        let bar = DmaBuffer::new(bar_bytes, 4096, Backing::Memfd).map_err(memory)?;
        let region = MemRegion::from_buffer(bar).part(DOORBELLS as usize, len_bytes).map_err(memory)?;
        let device = DeviceMemory::of(&region);
        let cells = CellArray::new(device.clone(), stride_bytes, len_bytes / stride_bytes).map_err(memory)?;
        let missing =
            || DeviceError::System { what: "share the doorbells", source: ErrorKind::Unsupported.into() };
        let (fd, _) = region.fd().ok_or_else(missing)?;
        let fd = fd
            .try_clone_to_owned()
            .map_err(|source| DeviceError::System { what: "share the doorbells", source })?;
        Ok(Doorbells { region, memory: device, cells, fd })
    }

    /// The memory, shared by everybody who rings.
    pub(crate) fn region(&self) -> &MemRegion {
        &self.region
    }

    /// The file that they are, and where in it they start.
    pub(crate) fn file(&self) -> (BorrowedFd<'_>, u64) {
        (self.fd.as_fd(), DOORBELLS)
    }

    /// The same as the controller sees it.
    pub(crate) fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// The doorbells by number: tail of queue 0, head of queue 0, tail of queue 1, ...
    pub(crate) fn cells(&self) -> &CellArray {
        &self.cells
    }

    /// The length of BAR 0 in bytes.
    pub(crate) fn bar_bytes(&self) -> u64 {
        DOORBELLS + self.memory.len() as u64
    }
}
