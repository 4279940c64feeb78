//! `corelane-bench`: measures block devices the way fio does, through Corelane's lanes.

mod direction;
pub mod options;
pub mod report;
pub mod run;
pub mod stats;
pub mod workload;
