//! fio's latency bands: how many requests took less than 2, 4, 10, 20, 50, ... nanoseconds, microseconds,
//! milliseconds.
//!
//! The bands are filled from the completion histograms when a report is made, not per request. An upper edge above
//! 2 us may therefore be off by the histogram's precision, one part in a thousand.

/// Number of bands: ten of nanoseconds, ten of microseconds, twelve of milliseconds.
pub const BAND_COUNT: usize = 32;

/// Labels of the bands in one unit; the microsecond and millisecond tables repeat them.
const LABELS: [&str; 12] = ["2", "4", "10", "20", "50", "100", "250", "500", "750", "1000", "2000", ">=2000"];

/// Upper edges in one unit, exclusive.
const EDGES: [u64; 12] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1000, 2000, u64::MAX];

/// Bands in the nanosecond and in the microsecond table each.
const SHORT: usize = 10;

/// Counts per latency band.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyBands {
    counts: [u64; BAND_COUNT],
}

impl Default for LatencyBands {
    fn default() -> Self {
        LatencyBands { counts: [0; BAND_COUNT] }
    }
}

impl LatencyBands {
    /// Adds `count` requests that took `ns`.
    pub fn add(&mut self, ns: u64, count: u64) {
        self.counts[band_of(ns)] += count;
    }

    /// Counts of the bands below 1 us.
    pub fn ns(&self) -> &[u64] {
        &self.counts[..SHORT]
    }

    /// Counts of the bands from 1 us to 1 ms.
    pub fn us(&self) -> &[u64] {
        &self.counts[SHORT..2 * SHORT]
    }

    /// Counts of the bands from 1 ms on.
    pub fn ms(&self) -> &[u64] {
        &self.counts[2 * SHORT..]
    }

    /// Label of the band at `index` within its unit's table.
    pub fn label(index: usize) -> &'static str {
        LABELS[index.min(LABELS.len() - 1)]
    }
}

/// Index of the band that holds `ns`.
fn band_of(ns: u64) -> usize {
    let (value, base) = match ns {
        0..1_000 => (ns, 0),
        1_000..1_000_000 => (ns / 1_000, SHORT),
        _ => (ns / 1_000_000, 2 * SHORT),
    };
    base + EDGES.iter().position(|&edge| value < edge).unwrap_or(EDGES.len() - 1)
}
