//! The `nvme` driver: NVMe controllers driven from user space, one queue pair per lane.
//!
//! Namespaces that the kernel drives are served by [`uring`].
//!
//! [`bus`] is the seam to PCI; everything else is the same for every bus. [`spec`] has the specification's words. From the
//! bottom up: `queue` (rings, doorbells, PRP entries), `controller` (start, admin commands, queue numbers), `namespace`
//! (limits), `leaf` (the queue of a namespace in a lane), `driver` (what the block layer opens).

mod atomics;
pub mod bus;
pub mod commands;
mod controller;
mod driver;
mod error;
mod extent;
pub mod fuzz;
mod interrupt;
mod leaf;
mod name;
mod namespace;
mod options;
mod placement;
mod queue;
pub mod recovery;
pub mod spec;
#[cfg(test)]
mod tests;
pub mod uring;
mod zones;

pub use atomics::AtomicWrites;
pub use commands::NvmeCommands;
pub use controller::NvmeController;
pub use controller::passthrough::{PassthroughAnswer, PassthroughQueue, Transfer};
pub use driver::NvmeDriver;
pub use error::NvmeError;
pub use name::{BadName, ControllerName, NamespaceName};
pub use options::{ControllerOptions, NvmeOptions, Polling, default_namespace};
pub use placement::Placement;
pub use recovery::ControllerEvent;
pub use zones::Zones;
