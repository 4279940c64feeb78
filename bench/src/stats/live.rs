//! Counters of a running job that other threads may look at.
//!
//! Invariants: one lane stores, any thread loads, all with relaxed order. Each counter is right by itself; two of
//! them may be one batch apart. The structure has cache lines of its own, so that a reader never slows another
//! lane's stores.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::job::JobStats;
use crate::direction::PerDirection;

/// What a running job has done so far. Shared as an `Arc` between the lane and the reporting thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LiveCounters {
    ios: [AtomicU64; 3],
    bytes: [AtomicU64; 3],
    syncs: AtomicU64,
    depth: AtomicU32,
}

/// A reading of [`LiveCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LiveTotals {
    /// Requests done.
    pub ios: PerDirection<u64>,
    /// Bytes moved.
    pub bytes: PerDirection<u64>,
    /// Flushes done.
    pub syncs: u64,
    /// Requests in flight.
    pub depth: u32,
}

impl LiveCounters {
    /// Stores the job's totals and its present queue depth: plain stores, once per batch, by the lane that owns
    /// `stats`.
    #[inline]
    pub fn publish(&self, stats: &JobStats, depth: u32) {
        for ((ios, bytes), direction) in self.ios.iter().zip(&self.bytes).zip(&stats.directions.0) {
            ios.store(direction.ios, Relaxed);
            bytes.store(direction.bytes, Relaxed);
        }
        self.syncs.store(stats.sync.ios, Relaxed);
        self.depth.store(depth, Relaxed);
    }

    /// Reads the counters.
    pub fn totals(&self) -> LiveTotals {
        LiveTotals {
            ios: PerDirection(self.ios.each_ref().map(|counter| counter.load(Relaxed))),
            bytes: PerDirection(self.bytes.each_ref().map(|counter| counter.load(Relaxed))),
            syncs: self.syncs.load(Relaxed),
            depth: self.depth.load(Relaxed),
        }
    }
}
