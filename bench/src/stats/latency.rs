//! Latencies of one kind (submission, completion, total, sync) in one direction: moments, and a histogram for
//! percentiles where asked.
//!
//! Invariant: the histogram's range is fixed when it is made, so recording never allocates; a latency above
//! [`MAX_LATENCY_NS`](super::MAX_LATENCY_NS) counts as that in the histogram, while minimum, maximum and mean stay
//! exact.

use super::bands::LatencyBands;
use super::histogram::LatencyHistogram;
use super::moments::Moments;

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
    histogram: Option<LatencyHistogram>,
}

impl Latency {
    /// Empty; with `histogram` percentiles and bins are kept.
    pub fn new(histogram: bool) -> Self {
        Latency { moments: Moments::default(), histogram: histogram.then(LatencyHistogram::new) }
    }

    /// Records one latency.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.moments.record(ns);
        if let Some(histogram) = &mut self.histogram {
            histogram.record(ns);
        }
    }

    /// Adds what another recorded. Percentiles are kept where either side kept them, over what it recorded.
    pub fn merge(&mut self, other: &Latency) {
        self.moments.merge(&other.moments);
        match (&mut self.histogram, &other.histogram) {
            (Some(own), Some(others)) => own.merge(others),
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

    /// For each entry of `list` (per cent, 0 to 100) the latency in nanoseconds that so many requests did not exceed,
    /// within one part in a thousand. Empty without histogram or without samples.
    pub fn percentiles_ns(&self, list: &[f64]) -> Vec<(f64, u64)> {
        let Some(histogram) = self.histogram.as_ref().filter(|_| self.moments.samples() > 0) else {
            return Vec::new();
        };
        let hdr = histogram.to_hdr();
        // The bar's upper edge may lie above the largest latency there was.
        let value = |percent| hdr.value_at_percentile(percent).min(self.moments.max());
        list.iter().map(|&percent| (percent, value(percent))).collect()
    }

    /// A single percentile, as [`Latency::percentiles_ns`]; `None` without histogram or without samples.
    pub fn percentile_ns(&self, percent: f64) -> Option<u64> {
        self.percentiles_ns(&[percent]).first().map(|&(_, ns)| ns)
    }

    /// Bars that are not empty, by rising latency.
    pub fn bins(&self) -> impl Iterator<Item = LatencyBin> + '_ {
        self.histogram.iter().flat_map(LatencyHistogram::bins)
    }

    /// Adds the bars to fio's latency bands.
    pub fn add_to_bands(&self, bands: &mut LatencyBands) {
        for bin in self.bins() {
            bands.add(bin.value_ns, bin.count);
        }
    }
}
