//! What a job does, without doing it: which I/O comes next, what a write holds and a read must find, when the next I/O
//! may start. Pure computation over plain data; the runner does the I/O and reads the clock.
//!
//! - [`Generator`] makes the sequence of I/Os of a job from a [`WorkloadConfig`].
//! - [`Verifier`] fills the blocks of a verified job and checks them; [`WrittenLog`] knows which are where,
//!   [`OverlapGuard`] and [`partition`] keep that defined, [`replay`] finds it again for `verify_only`.
//! - [`ZonePlan`] moves I/Os to where a zoned device takes them.
//! - [`Pacer`], [`ThinkTime`] and [`LatencyTarget`] say when, and how many at once.

mod config;
mod free_map;
mod generator;
mod overlap;
mod pace;
mod permutation;
mod replay;
mod rng;
mod sizes;
mod skew;
mod verify;
mod written;
mod zones;

pub use config::{
    BlockSizes, DEFAULT_SEED, Direction, Distribution, Limit, Operations, Order, PerDirection, Region,
    WorkloadConfig, WorkloadError,
};
pub use generator::{Generator, Io};
pub use overlap::{OverlapGuard, partition};
pub use pace::{
    DepthVerdict, LatencyTarget, LatencyTargetConfig, LatencyTargetError, Pacer, Pause, RateConfig, ThinkBy,
    ThinkTime, ThinkTimeConfig,
};
pub use replay::{ReplayError, VerifyState, VerifyStateError, replay};
pub use rng::job_seed;
pub use verify::{
    BlockStamp, Difference, Fault, HEADER_BYTES, Header, HeaderFault, HeaderScan, MAX_PATTERN_BYTES, Pattern,
    PatternError, Scanned, Verifier, VerifierError, VerifyError, VerifyKind,
};
pub use written::{Backlog, Extent, WriteCounter, WrittenLog};
pub use zones::{Placed, ZonePlan, ZoneRules, ZoneStart};
