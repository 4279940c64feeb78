//! The seam to PCI: [`Bus`] is one PCI function that is an NVMe controller, however it is reached.
//!
//! Three kinds of bus stand behind it: VFIO (a real function), vfio-user (a function that another process provides) and a
//! controller model in this process. Everything above is the same code for all of them.
//!
//! Invariants:
//! - All of it is control plane, except [`Doorbell::ring`], which the hot path calls once per batch.
//! - Memory that the device is told of lies in the bus's address space ([`Bus::dma`]) as long as the device may use it.
//! - What a bus returns is the device's word: whoever reads a register checks it.

pub mod vfio_user;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use corelane_dma::vfio::VfioError;
use corelane_dma::{AddressSpace, Backing, DmaError, Mmio32, MmioRegion};

mod vfio;

pub use vfio::VfioBus;

/// A PCI function that is an NVMe controller (NVMe over PCIe transport specification, section 3).
///
/// Offsets of registers count from the start of BAR 0, those of the configuration space from its start. Multi-byte
/// values are the processor's; the bus does what byte swapping there is.
pub trait Bus: Send + Sync + 'static {
    /// What the function is called: `0000:01:00.0`, `vfio-user:/path/cntrl`, `model`.
    fn address(&self) -> &str;

    /// Reads the configuration space.
    ///
    /// # Errors
    /// [`BusError::Range`] outside of it, and those of the transport.
    fn config_read(&self, offset: u32, data: &mut [u8]) -> Result<(), BusError>;

    /// Writes the configuration space.
    ///
    /// # Errors
    /// As [`config_read`](Self::config_read).
    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), BusError>;

    /// The length of BAR 0 in bytes.
    fn registers_len(&self) -> u64;

    /// Reads a 32-bit register.
    ///
    /// # Errors
    /// [`BusError::Range`] outside of BAR 0 or unaligned, and those of the transport. All ones are not an error here,
    /// although they usually mean that the function is gone.
    fn read32(&self, offset: u64) -> Result<u32, BusError>;

    /// Reads a 64-bit register, in one access where the transport can.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn read64(&self, offset: u64) -> Result<u64, BusError>;

    /// Writes a 32-bit register.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError>;

    /// Writes a 64-bit register, in one access where the transport can.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn write64(&self, offset: u64, value: u64) -> Result<(), BusError>;

    /// The quick way to a 32-bit register that is written often. Asked for once per queue.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn doorbell(&self, offset: u64) -> Result<Doorbell, BusError>;

    /// How many MSI-X vectors the function has; 0 if there is none, so that completions are found by polling only.
    fn interrupts(&self) -> u32;

    /// Lets vector *i* signal `eventfds[i]`, instead of all that was set before. The bus keeps what it needs of the
    /// descriptors. With none, interrupts are off.
    ///
    /// # Errors
    /// [`BusError::Range`] for more than there are vectors, and those of the transport.
    fn set_interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), BusError>;

    /// Descriptors that become readable when the host has something to say about the function.
    fn notices(&self) -> Notices<'_>;

    /// Resets the function (a function-level reset where it has one). Afterwards the controller is disabled and uses no
    /// memory.
    ///
    /// # Errors
    /// [`BusError::Unsupported`] where there is no such reset, and those of the transport.
    fn reset(&self) -> Result<(), BusError>;

    /// The address space in which the function sees memory.
    fn dma(&self) -> &Arc<AddressSpace>;

    /// The memory that the function can reach best: what queues and pools are made of.
    fn backing(&self) -> Backing;

    /// `len_bytes` bytes of BAR `bar` at `offset`, both multiples of the page size, mapped, where that is possible; for controller
    /// memory.
    fn bar_memory(&self, bar: u32, offset: u64, len_bytes: u64) -> Option<MmioRegion>;
}

/// Eventfds of the host. What is not there never happens on this bus.
#[derive(Clone, Copy, Default)]
pub struct Notices<'bus> {
    /// An error of the device or its link (VFIO's error interrupt).
    pub error: Option<BorrowedFd<'bus>>,
    /// The host wants the device back, as before a removal (VFIO's request interrupt).
    pub removal: Option<BorrowedFd<'bus>>,
}

/// A register that is written on the hot path.
#[derive(Clone)]
pub enum Doorbell {
    /// Written as memory.
    Mapped(Mmio32),
    /// Written by a message to whoever provides the function.
    Message {
        /// Who carries the message.
        sender: Arc<dyn SendDoorbell>,
        /// Which register, in bytes from the start of BAR 0.
        offset: u64,
    },
}

/// A transport that writes doorbells by messages.
pub trait SendDoorbell: Send + Sync {
    /// Writes `value` to the register at `offset` of BAR 0. Everything stored before is visible to the device when it
    /// learns of the value.
    ///
    /// # Errors
    /// Those of the transport.
    fn send(&self, offset: u64, value: u32) -> Result<(), BusError>;
}

impl Doorbell {
    /// Writes the register. Everything that this thread stored before is visible to the device when it sees the value.
    ///
    /// # Errors
    /// Those of the transport; never for a register that is mapped.
    #[inline]
    pub fn ring(&self, value: u32) -> Result<(), BusError> {
        match self {
            Doorbell::Mapped(register) => {
                register.write(value);
                Ok(())
            }
            Doorbell::Message { sender, offset } => sender.send(*offset, value),
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doorbell::Mapped(_) => f.write_str("Doorbell::Mapped"),
            Doorbell::Message { offset, .. } => write!(f, "Doorbell::Message({offset:#x})"),
        }
    }
}

/// How a bus failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The function is not there any more.
    #[error("{address} is gone: {reason}")]
    Gone {
        /// Which function.
        address: String,
        /// How it was noticed.
        reason: String,
    },
    /// It cannot be used, or not in this way.
    #[error("cannot use {address}: {reason}")]
    Unusable {
        /// Which function.
        address: String,
        /// Why, and what would be right.
        reason: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, on which object.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An access outside the region, or one that is not aligned to its size.
    #[error(
        "{len_bytes} bytes at {offset:#x} of {region} are not accessible: it has {size_bytes:#x} bytes, and accesses are aligned"
    )]
    Range {
        /// Which region: "BAR 0", "the configuration space", "the MSI-X vectors".
        region: &'static str,
        /// Where, in bytes from its start.
        offset: u64,
        /// How much, in bytes.
        len_bytes: u64,
        /// How long the region is, in bytes.
        size_bytes: u64,
    },
    /// The other process answered something that the protocol does not allow, or refused.
    #[error("{address}: {what}: {reason}")]
    Message {
        /// Which function.
        address: String,
        /// Which message.
        what: &'static str,
        /// What was wrong with the answer.
        reason: String,
    },
    /// This bus or function has no such thing.
    #[error("{address} has no {what}")]
    Unsupported {
        /// Which function.
        address: String,
        /// What was asked for.
        what: &'static str,
    },
    /// VFIO cannot give the function to this process, or not do what was asked.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// A memory operation failed.
    #[error(transparent)]
    Memory(#[from] DmaError),
}
