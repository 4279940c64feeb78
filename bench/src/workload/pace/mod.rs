//! When the next I/O may start: rates, think time, and the search for the depth that keeps a latency.
//!
//! Arithmetic over the time that the caller gives, in nanoseconds of any monotonic clock; no clock is read here. A job
//! that asks for none of it does not consult these at all.

mod depth;
mod rate;
mod think;

pub use depth::{DepthVerdict, LatencyTarget, LatencyTargetConfig, LatencyTargetError};
pub use rate::{Pacer, RateConfig};
pub use think::{Pause, ThinkBy, ThinkTime, ThinkTimeConfig};
