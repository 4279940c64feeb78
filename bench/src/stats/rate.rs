//! Bandwidth and IOPS over time: one sample per window (500 ms, fio's `bwavgtime`).
//!
//! Sampling is the reporting thread's work: it reads a lane's [`LiveTotals`] at each window's end. The lane itself
//! takes no part in it.

use super::live::LiveTotals;
use crate::direction::{Direction, PerDirection};

/// Summary of rate samples. Merging jobs adds their rates, for they ran side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateStats {
    min: u64,
    max: u64,
    mean: f64,
    squared_deviations: f64,
    samples: u64,
}

impl RateStats {
    /// Adds one sample.
    pub fn record(&mut self, value: u64) {
        self.min = if self.samples == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.samples += 1;
        let delta = value as f64 - self.mean;
        self.mean += delta / self.samples as f64;
        self.squared_deviations += delta * (value as f64 - self.mean);
    }

    /// Adds a job that ran at the same time: minima, maxima, means and squared deviations are summed, as fio does it
    /// for `group_reporting`.
    pub fn merge(&mut self, other: &RateStats) {
        self.min += other.min;
        self.max += other.max;
        self.mean += other.mean;
        self.squared_deviations += other.squared_deviations;
        self.samples += other.samples;
    }

    /// Smallest sample, 0 when there is none.
    pub fn min(&self) -> u64 {
        self.min
    }

    /// Largest sample.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Mean of the samples.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard deviation (divisor N - 1).
    pub fn stddev(&self) -> f64 {
        if self.samples < 2 { 0.0 } else { (self.squared_deviations / (self.samples - 1) as f64).sqrt() }
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

/// Rates of one direction in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateWindow {
    /// Bandwidth in bytes per second.
    pub bytes_per_s: u64,
    /// Requests per second.
    pub iops: u64,
}

/// Rates of all directions in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RatePoint {
    /// End of the window, milliseconds since the run started.
    pub time_ms: u64,
    /// Rates by direction.
    pub rates: PerDirection<RateWindow>,
}

/// Rates over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateSeries {
    /// Length of a window in milliseconds.
    pub window_ms: u64,
    /// Windows by rising time.
    pub points: Vec<RatePoint>,
}

impl RateSeries {
    /// Adds a job that ran at the same time: windows whose ends lie within half a window of each other are summed,
    /// others kept beside each other.
    pub fn merge(&mut self, other: &RateSeries) {
        let reach_ms = self.window_ms.max(other.window_ms) / 2;
        let mut merged = Vec::with_capacity(self.points.len().max(other.points.len()));
        let mut left = self.points.iter().copied().peekable();
        let mut right = other.points.iter().copied().peekable();
        loop {
            let point = match (left.peek(), right.peek()) {
                (Some(one), Some(two)) if one.time_ms.abs_diff(two.time_ms) <= reach_ms => {
                    let sum = one.plus(two);
                    left.next();
                    right.next();
                    Some(sum)
                }
                (Some(one), Some(two)) if one.time_ms < two.time_ms => left.next(),
                (_, Some(_)) => right.next(),
                (_, None) => left.next(),
            };
            match point {
                Some(point) => merged.push(point),
                None => break,
            }
        }
        self.window_ms = self.window_ms.max(other.window_ms);
        self.points = merged;
    }
}

impl RatePoint {
    fn plus(&self, other: &RatePoint) -> RatePoint {
        let rates = PerDirection::from_fn(|direction| {
            let (one, two) = (self.rates[direction], other.rates[direction]);
            RateWindow { bytes_per_s: one.bytes_per_s + two.bytes_per_s, iops: one.iops + two.iops }
        });
        RatePoint { time_ms: self.time_ms, rates }
    }
}

/// Bandwidth and IOPS samples of one job.
#[derive(Clone, Debug)]
pub struct RateSampler {
    window_ms: u64,
    last_ms: u64,
    last: LiveTotals,
    bandwidth_kib: PerDirection<RateStats>,
    iops: PerDirection<RateStats>,
    series: RateSeries,
}

impl RateSampler {
    /// fio's window.
    pub const DEFAULT_WINDOW_MS: u64 = 500;

    /// Samples of `window_ms` each, the first one starting at `start_ms` with the counters at `start`.
    pub fn new(window_ms: u64, start_ms: u64, start: LiveTotals) -> Self {
        let window_ms = window_ms.max(1);
        RateSampler {
            window_ms,
            last_ms: start_ms,
            last: start,
            bandwidth_kib: PerDirection::default(),
            iops: PerDirection::default(),
            series: RateSeries { window_ms, points: Vec::new() },
        }
    }

    /// When the window that runs now ends.
    pub fn due_ms(&self) -> u64 {
        self.last_ms + self.window_ms
    }

    /// Takes a sample if the window has ended by `now_ms` (same origin as `start_ms`); returns it. A direction in
    /// which nothing has moved yet gives no sample to the summaries, as fio leaves out what a job does not do.
    pub fn sample(&mut self, now_ms: u64, totals: &LiveTotals) -> Option<PerDirection<RateWindow>> {
        if now_ms < self.due_ms() {
            return None;
        }
        let spent_ms = now_ms - self.last_ms;
        let window = PerDirection::from_fn(|direction| RateWindow {
            bytes_per_s: per_second(totals.bytes[direction], self.last.bytes[direction], spent_ms),
            iops: per_second(totals.ios[direction], self.last.ios[direction], spent_ms),
        });
        for direction in Direction::ALL {
            if totals.ios[direction] > 0 {
                self.bandwidth_kib[direction].record(window[direction].bytes_per_s / 1024);
                self.iops[direction].record(window[direction].iops);
            }
        }
        self.last_ms = now_ms;
        self.last = *totals;
        self.series.points.push(RatePoint { time_ms: now_ms, rates: window });
        Some(window)
    }

    /// Forgets everything and starts again at `now_ms`: the end of `ramp_time`.
    pub fn restart(&mut self, now_ms: u64, totals: LiveTotals) {
        *self = RateSampler::new(self.window_ms, now_ms, totals);
    }

    /// Bandwidth samples in KiB/s.
    pub fn bandwidth_kib(&self) -> &PerDirection<RateStats> {
        &self.bandwidth_kib
    }

    /// IOPS samples.
    pub fn iops(&self) -> &PerDirection<RateStats> {
        &self.iops
    }

    /// All windows, for curves over time.
    pub fn series(&self) -> &RateSeries {
        &self.series
    }
}

/// Growth of a counter, per second.
fn per_second(now: u64, before: u64, spent_ms: u64) -> u64 {
    let growth = u128::from(now.saturating_sub(before)) * 1000 / u128::from(spent_ms.max(1));
    u64::try_from(growth).unwrap_or(u64::MAX)
}
