//! What a job counts while it runs: requests, bytes, latencies, depths and CPU use.
//!
//! A [`JobStats`] belongs to one lane and is written by that lane alone, so recording takes no atomic, no lock
//! and no allocation: every table is made when the job starts. Other threads look at a running job through
//! [`LiveCounters`], which the lane stores to once per batch. When jobs have ended their figures are added with
//! [`JobStats::merge`], with fio's rules for what is summed, averaged and maximised.
//!
//! Units are in the names: `_ns`, `_ms`, `_bytes`. Bandwidth samples are in KiB/s, as fio has them.

mod bands;
mod clock;
mod config;
mod cpu;
mod depth;
mod histogram;
mod job;
mod latency;
mod live;
mod moments;
mod rate;

pub use crate::direction::{Direction, PerDirection};
pub use bands::{BAND_COUNT, LatencyBands};
pub use clock::Clock;
pub use config::StatsConfig;
pub use cpu::CpuUse;
pub(crate) use depth::share_percent;
pub use depth::{DEPTH_BUCKETS, Distribution};
pub use histogram::{LatencyHistogram, MAX_LATENCY_NS};
pub(crate) use job::per_second;
pub use job::{DirectionStats, ErrorCount, JobStats, SyncStats};
pub use latency::{Latency, LatencyBin};
pub use live::{LiveCounters, LiveTotals};
pub use moments::Moments;
pub use rate::{RatePoint, RateSampler, RateSeries, RateStats, RateWindow};

#[cfg(test)]
mod tests;
