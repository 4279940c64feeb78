//! The library behind `corelane-bench`, a fio-style measuring tool for block devices.

pub mod workload;
