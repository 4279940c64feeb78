//! Latencies of one kind (submission, completion, total, sync) in one direction: moments, and a histogram for
//! percentiles where asked.
//!
//! Invariant: the histogram's range is fixed when it is made, so recording never allocates; a latency above
//! [`MAX_LATENCY_NS`] counts as that in the histogram, while minimum, maximum and mean stay exact.

use hdrhistogram::Histogram;

use super::bands::LatencyBands;
use super::moments::Moments;

/// Largest latency that a histogram tells apart, in nanoseconds: 1000 s.
pub const MAX_LATENCY_NS: u64 = 1_000_000_000_000;

/// Decimal digits that a histogram keeps: a percentile is within 0.1 % of the latency that was recorded, and exact
/// below 2048 ns.
const SIGNIFICANT_DIGITS: u8 = 3;

/// One bar of a histogram: how many latencies fell into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyBin {
    /// Middle of the latencies that this bar holds, in nanoseconds.
    pub value_ns: u64,
    /// How many were recorded.
    pub count: u64,
}

/// Latencies in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    moments: Moments,
    histogram: Option<Histogram<u64>>,
}

impl Latency {
    /// Empty; with `histogram` percentiles and bins are kept (about 250 KiB of address space, of which only the
    /// pages that latencies fall into are ever touched).
    pub fn new(histogram: bool) -> Self {
        let histogram = histogram.then(|| {
            Histogram::new_with_bounds(1, MAX_LATENCY_NS, SIGNIFICANT_DIGITS).expect(
                "bounds are constants within the library's limits: 1 <= low, 2 * low <= high, digits <= 5",
            )
        });
        Latency { moments: Moments::default(), histogram }
    }

    /// Records one latency.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.moments.record(ns);
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(ns);
        }
    }

    /// Adds what another recorded. Without a histogram on both sides the result keeps what this side has.
    pub fn merge(&mut self, other: &Latency) {
        self.moments.merge(&other.moments);
        match (&mut self.histogram, &other.histogram) {
            (Some(own), Some(others)) => {
                own.add(others).expect("every histogram here is made with the same bounds, so the sum fits");
            }
            (own @ None, Some(others)) => *own = Some(others.clone()),
            (_, None) => {}
        }
    }

    /// Minimum, maximum, mean, deviation and count.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Whether percentiles and bins are kept.
    pub fn has_histogram(&self) -> bool {
        self.histogram.is_some()
    }

    /// Latency in nanoseconds that `percent` (0 to 100) of the requests did not exceed; `None` without histogram or
    /// without samples.
    pub fn percentile_ns(&self, percent: f64) -> Option<u64> {
        let histogram = self.histogram.as_ref().filter(|histogram| !histogram.is_empty())?;
        // The bar's upper edge may lie above the largest latency there was.
        Some(histogram.value_at_percentile(percent).min(self.moments.max()))
    }

    /// Bars that are not empty, by rising latency.
    pub fn bins(&self) -> impl Iterator<Item = LatencyBin> + '_ {
        self.histogram.iter().flat_map(|histogram| {
            histogram.iter_recorded().map(|step| LatencyBin {
                value_ns: histogram.median_equivalent(step.value_iterated_to()),
                count: step.count_at_value(),
            })
        })
    }

    /// Adds the bars to fio's latency bands.
    pub fn add_to_bands(&self, bands: &mut LatencyBands) {
        for bin in self.bins() {
            bands.add(bin.value_ns, bin.count);
        }
    }
}
