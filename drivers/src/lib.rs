//! Corelane's block drivers, one folder or file each: [`mod@file`] (regular files and block devices through io_uring),
//! [`null`] (a device that does nothing, for measuring everything above it), [`mem`] (a RAM disk) and [`nvme`] (NVMe
//! controllers driven from user space).
//!
//! A driver implements [`corelane_engine::block::BlockDriver`]; nothing here knows of the graph above. [`contract`] is the
//! suite of checks that every leaf passes.

pub mod contract;
pub mod file;
pub mod mem;
pub mod null;
pub mod nvme;
