//! An NVMe controller in software, written from the NVMe specifications: the device end of what `corelane-drivers` does at
//! the host's end, and on purpose without a line in common with it, so that a mistake in one cannot hide in the other.
//!
//! It is a test instrument (it checks its initiator and records what breaks the specification), a controller that other
//! processes can attach to, and what the bench tool runs on where there is no hardware.
//!
//! - [`Device`] is a PCI function as a server offers it to a client: registers by byte ranges, memory mapped and unmapped
//!   by I/O virtual address, interrupts as eventfds.
//! - [`Model`] is the controller behind it, with the thread that serves it; [`ModelConfig`] says what it is like, and
//!   [`Violation`] what an initiator did wrong.
//! - [`ModelBus`] joins it to the driver within one process; [`server`] offers it to other processes over vfio-user.
//!
//! One thread serves a controller: it polls the doorbells, which are memory shared with the host, fetches commands from the
//! host's memory and moves data between that and the namespaces in place. Everything else (registers, mappings, interrupt
//! eventfds) is changed by calls, which the thread takes over between two batches.

mod admin;
mod backoff;
mod bus;
mod change;
mod check;
mod config;
mod data;
pub mod device;
mod doorbells;
mod fault;
mod held;
mod interrupt;
mod io;
mod memory;
mod model;
mod namespace;
mod node;
mod pci;
mod protection;
mod queue;
mod queues;
mod registers;
pub mod server;
mod shared;
pub mod text;
mod violation;
pub mod wire;
mod worker;
mod zone;

pub use bus::ModelBus;
pub use config::{
    CopyLimits, HostMemoryWish, Idle, ModelConfig, NamespaceBacking, NamespaceConfig, PlacementConfig,
};
pub use device::{Device, DeviceError, DoorbellMemory, Region};
pub use fault::{Fault, FaultRule, FaultScript, FaultTextError, Notice, Span, What, When, WrongCid};
pub use model::Model;
pub use protection::{Guard, Protection};
pub use violation::{Rule, Violation};
pub use zone::ZoneConfig;
