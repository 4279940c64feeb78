//! An NVMe controller in software, written from the NVMe specifications: the device end of what `corelane-drivers` does at
//! the host's end, and on purpose without a line in common with it, so that a mistake in one cannot hide in the other.
//!
//! It is a test instrument (it checks its initiator and records what breaks the specification), a controller that other
//! processes can attach to, and what the bench tool runs on where there is no hardware.
//!
//! - [`Device`] is a PCI function as a server offers it to a client: registers by byte ranges, memory mapped and unmapped
//!   by I/O virtual address, interrupts as eventfds.

pub mod device;

pub use device::{Device, DeviceError, DoorbellMemory, Region};
