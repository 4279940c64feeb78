//! How many faults were made, by name.
//!
//! Invariant: written by the polling thread, read by anybody; each number by itself is right, together they are of about
//! the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Fault;

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Fault::NAMES.len()]);

impl Counts {
    pub(crate) fn add(&self, fault: &Fault) {
        self.0[fault.number()].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that are not 0.
    pub(crate) fn all(&self) -> Vec<(&'static str, u64)> {
        let numbers = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Fault::NAMES.into_iter().zip(numbers).filter(|(_, count)| *count > 0).collect()
    }
}
