//! The block layer: what a request may look like, and how it reaches a device without a copy.
//!
//! Invariants that the modules below keep between them:
//!
//! - A request is a linear token: `submit` moves its memory in, exactly one completion gives it back.
//! - A leaf queue sees only commands that satisfy its driver's [`BlockLimits`]; it never has to check them again.
//! - Nothing on the fast path allocates, locks, reads a clock, enters the kernel or logs.

mod backend;
mod channel;
mod command;
mod counters;
mod drained;
mod driver;
mod errno;
mod future;
mod limits;
mod node;
mod plan;
mod request;
mod slow;
mod table;
mod transfer;
mod zoned;

pub use backend::{BackendOptions, BlockBackend};
pub use channel::{Channel, Ended, MAX_DEPTH};
pub use counters::ChannelStats;
pub use drained::DrainedSection;
pub use driver::{
    BlockDriver, BlockStatus, ChangeHook, DeviceChange, LeafCommand, LeafCompletion, LeafQueue, StatusFlags,
    Tag,
};
pub use errno::{BlockError, Errno, IoError, IoResult};
pub use future::{Control, IoFuture, Outcome, ReadAt, VectorAt, WriteAt};
pub use limits::{BlockLimits, LimitsError, MAX_ALIGNMENT, MAX_LENGTH_BYTES, MAX_REQUEST_BYTES};
pub use request::{Completion, Op, Rejected, ReqFlags, Request};
pub use table::{Command, CommandTable, LeafSlots, LeafTable, TableView};
pub use zoned::ZoneLimits;
