//! Reports of a run in fio's formats: normal text, terse version 3, JSON and JSON+, the status line, logs and plots.
//!
//! fio 3.33 is the reference for names, order, units and columns, so that what reads fio's output reads ours. Writers
//! return text; where it goes is the caller's matter.

pub mod disk;
mod json;
pub mod log;
mod model;
mod normal;
pub mod number;
mod output;
pub mod plot;
pub mod status;
mod terse;

pub use disk::{DiskCounters, DiskUse, DiskWatch};
pub use json::{JsonKind, json};
pub use model::{
    DEFAULT_PERCENTILES, GroupDirection, GroupReport, JobReport, LatencyTarget, MAX_PERCENTILES, RunReport,
    VERSION,
};
pub use normal::{BannerJob, banner, normal};
pub use output::{OutputFormat, render};
pub use terse::terse;

#[cfg(test)]
mod fio_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
