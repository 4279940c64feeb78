//! `corelane-bench`: measures block devices the way fio does, through Corelane's lanes.

pub mod options;
pub mod report;
pub mod stats;
//! The library behind `corelane-bench`, a fio-style measuring tool for block devices.

pub mod workload;
