//! The `nvme` driver: NVMe controllers driven from user space, one queue pair per lane.
//!
//! [`bus`] is the seam to PCI; everything else is the same for every bus.

//pub mod bus;
pub mod spec;
