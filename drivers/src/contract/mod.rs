//! The contract of a leaf queue as a suite of checks, for every driver that claims to be one.
//!
//! A check drives a queue as a lane does: as a poller of an event loop. It holds the queue to what
//! [`LeafQueue`](corelane_engine::block::LeafQueue) promises: each command completes exactly once, with the very memory
//! that it came with; what was written is read back, whatever the tags and the shape of the memory; memory that is dropped
//! with the queue has been given up by the device.
//!
//! [`check`] is called from tests, but is no test itself: it returns what it found, and never panics.

mod data;
mod life;
mod rig;

use corelane_engine::block::{BlockDriver, BlockError};

pub use rig::Violation;

/// Opens the driver under test. Called once per check, after the last one was dropped.
pub type Factory<'a> = &'a dyn Fn() -> Result<Box<dyn BlockDriver>, BlockError>;

/// How to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContractOptions {
    /// Depth of the queue, from 2 up.
    pub tags: u32,
    /// Where the random choices start.
    pub seed: u64,
    /// Whether what is written can be read back; false for the null device.
    pub keeps_data: bool,
}

impl Default for ContractOptions {
    fn default() -> ContractOptions {
        ContractOptions { tags: 32, seed: 1, keeps_data: true }
    }
}

/// What was found besides that the contract is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ContractReport {
    /// Commands that completed.
    pub commands: u64,
    /// Operations that the driver answered with ENOTSUP, which it may.
    pub unsupported: Vec<&'static str>,
}

/// Bytes of the device that the checks use, from its start. It must be at least this long, and what it holds there is lost.
pub const SPAN_BYTES: u64 = 2 << 20;

type Check = fn(&mut rig::Rig) -> Result<(), Violation>;

/// The checks by name.
const CHECKS: &[(&str, Check)] = &[
    ("data written is read back across tags", data::read_back),
    ("scattered memory is gathered in order", data::vectors),
    ("the longest transfer", data::long),
    ("durable writes and flushes", data::durable),
    ("write zeroes", data::write_zeroes),
    ("discard", data::discard),
    ("the full depth, again and again", life::full_depth),
    ("a busy queue is dropped", life::drop_busy),
    ("registered memory", life::registered),
];

/// Runs every check on a driver of `factory`, whose device is at least [`SPAN_BYTES`] long. Blocks.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check(factory: Factory<'_>, options: &ContractOptions) -> Result<ContractReport, Violation> {
    let mut report = ContractReport::default();
    for (name, check) in CHECKS {
        let mut rig = rig::Rig::new(factory, options).map_err(|violation| violation.within(name))?;
        check(&mut rig).map_err(|violation| violation.within(name))?;
        report.commands += rig.commands();
        report.unsupported.extend(rig.unsupported());
    }
    report.unsupported.sort_unstable();
    report.unsupported.dedup();
    Ok(report)
}
