//! [`Device`]: a PCI function as seen by whoever carries its accesses, be it a vfio-user server or a test.
//!
//! Invariants:
//! - All calls are control plane and may come from any thread. They return when their effect holds: when
//!   [`Device::dma_unmap`] returns, the device does not touch the range any more.
//! - Nothing that a client passes is trusted: a range outside a region, an overlapping mapping or a missing eventfd is an
//!   error value, never a panic.

use std::os::fd::{BorrowedFd, OwnedFd};

use corelane_dma::DeviceMemory;

/// The parts of the function that a client reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Region {
    /// PCI configuration space (256 bytes; little-endian).
    Config,
    /// BAR 0: controller registers and doorbells (NVMe over PCIe transport specification, section 3.1.2).
    Bar0,
    /// BAR 4: the MSI-X table and pending bits (PCI 3.0, section 6.8.2). Plain memory; a client's own emulation rules.
    Bar4,
}

/// The doorbells as memory that a client maps: it writes them there, and the device's thread polls them.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellMemory<'device> {
    /// A sealed memfd.
    pub fd: BorrowedFd<'device>,
    /// Where in the file the doorbells start, in bytes.
    pub fd_offset_bytes: u64,
    /// Where in BAR 0 they start, in bytes; a multiple of the page size.
    pub bar_offset_bytes: u64,
    /// How many bytes can be mapped; a multiple of the page size. They reach to the end of BAR 0.
    pub len_bytes: u64,
}

/// Why an access was refused.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A range outside of its region.
    #[error(
        "{len_bytes} bytes at {offset_bytes:#x} reach outside {region:?}, which has {region_bytes:#x} bytes"
    )]
    Range {
        /// The region meant.
        region: Region,
        /// Where the access starts, in bytes from the start of the region.
        offset_bytes: u64,
        /// How long it is.
        len_bytes: u64,
        /// How long the region is.
        region_bytes: u64,
    },
    /// A mapping that shares addresses with another one, is empty, or reaches beyond the last address.
    #[error(
        "cannot map {len_bytes:#x} bytes at I/O address {iova:#x}: {reason}; map ranges that are not empty and do not overlap"
    )]
    Map {
        /// The first I/O virtual address.
        iova: u64,
        /// How many bytes.
        len_bytes: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An unmapping of a range that cuts through a mapping.
    #[error(
        "cannot unmap {len_bytes:#x} bytes at I/O address {iova:#x}: the range cuts through the mapping of \
         {mapped_bytes:#x} bytes at {mapped_iova:#x}; unmap whole mappings"
    )]
    Unmap {
        /// The first I/O virtual address.
        iova: u64,
        /// How many bytes.
        len_bytes: u64,
        /// Where the mapping starts.
        mapped_iova: u64,
        /// How long it is.
        mapped_bytes: u64,
    },
    /// More interrupt vectors than there are.
    #[error("vectors {first} to {first}+{count} do not exist; the function has {vectors} MSI-X vectors")]
    Vectors {
        /// The first one meant.
        first: u32,
        /// How many were meant.
        count: usize,
        /// How many there are.
        vectors: u32,
    },
    /// The model cannot be made as configured.
    #[error("{what} of {value} is not possible; it must be {expected}")]
    Config {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: String,
    },
    /// A node of the block layer that cannot be used as a namespace.
    #[error("cannot use a node as a namespace: {reason}")]
    Node {
        /// Why, and what would be right.
        reason: String,
    },
    /// Memory that cannot be had.
    #[error("no memory for {what}: {source}")]
    Memory {
        /// What for.
        what: &'static str,
        /// What the memory crate says.
        source: corelane_dma::DmaError,
    },
    /// The system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it says.
        source: std::io::Error,
    },
}

/// A PCI function. See the module for the rules.
pub trait Device: Send + Sync {
    /// The length of a region in bytes; 0 for one that the function does not have.
    fn region_len(&self, region: Region) -> u64;

    /// The doorbells as memory to map.
    fn doorbell_memory(&self) -> DoorbellMemory<'_>;

    /// Reads bytes of a region. Registers are read whole where `data` covers them.
    ///
    /// # Errors
    /// [`DeviceError::Range`].
    fn read(&self, region: Region, offset_bytes: u64, data: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes bytes of a region. A doorbell written here is one rung.
    ///
    /// # Errors
    /// [`DeviceError::Range`].
    fn write(&self, region: Region, offset_bytes: u64, data: &[u8]) -> Result<(), DeviceError>;

    /// Lets the device use `memory` under the I/O virtual addresses from `iova` on.
    ///
    /// # Errors
    /// [`DeviceError::Map`], and nothing changes.
    fn dma_map(&self, iova: u64, memory: DeviceMemory) -> Result<(), DeviceError>;

    /// Takes the memory under `len_bytes` bytes from `iova` on away: all mappings that lie wholly within the range.
    /// Returns how many bytes were unmapped.
    ///
    /// # Errors
    /// [`DeviceError::Unmap`] for a range that cuts through a mapping, and nothing changes.
    fn dma_unmap(&self, iova: u64, len_bytes: u64) -> Result<u64, DeviceError>;

    /// Takes all memory away.
    fn dma_unmap_all(&self);

    /// How many MSI-X vectors the function has.
    fn interrupts(&self) -> u32;

    /// Lets vector `first + i` signal `eventfds[i]`, or nothing where that is `None`. Others stay as they are.
    ///
    /// # Errors
    /// [`DeviceError::Vectors`], and nothing changes.
    fn set_interrupts(&self, first: u32, eventfds: Vec<Option<OwnedFd>>) -> Result<(), DeviceError>;

    /// Resets the function (PCI Express function-level reset): registers as after power-on, queues gone, memory mappings
    /// and eventfds kept. When it returns the device touches no memory.
    fn reset(&self);

    /// As [`reset`](Self::reset), as a client asks for it: a device may fail to. Returns whether it was reset.
    fn try_reset(&self) -> bool {
        self.reset();
        true
    }
}
