//! The `nvme` driver: NVMe controllers driven from user space, one queue pair per lane.
//!
//! [`bus`] is the seam to PCI; everything else is the same for every bus. [`spec`] has the specification's words.

pub mod bus;
mod error;
pub mod spec;

pub use error::NvmeError;
