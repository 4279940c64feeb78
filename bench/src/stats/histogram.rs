//! The counting half of a latency histogram: a fixed table that a lane increments.
//!
//! The buckets are those of an hdrhistogram of three significant digits over 1 ns to [`MAX_LATENCY_NS`], so
//! [`LatencyHistogram::to_hdr`] loses nothing. Recording straight into an hdrhistogram costs 67 instructions, which
//! look up at run time what is constant here, and keep its own total, minimum and maximum beside ours; this table
//! needs 10.
//!
//! Invariant: for latencies below 2048 ns the bucket's index is the latency; above, each doubling has 1024 buckets.
//! So a bucket is at most 1/1024 of its latency wide.

use hdrhistogram::Histogram;

use super::latency::LatencyBin;

/// Bits of a latency that pick the bucket within a doubling, and the doubling's top bit.
const KEPT_BITS: u32 = 11;

/// Bits of the largest latency told apart: 2^40 ns are 1100 s.
const MAX_BITS: u32 = 40;

/// Largest latency that is told apart, nanoseconds: about 1100 s. Longer ones count as this.
pub const MAX_LATENCY_NS: u64 = (1 << MAX_BITS) - 1;

const BUCKETS: usize = ((MAX_BITS - KEPT_BITS) as usize + 2) << (KEPT_BITS - 1);

/// Decimal digits that an hdrhistogram of the same buckets keeps.
const SIGNIFICANT_DIGITS: u8 = 3;

/// How many latencies fell into each bucket.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    counts: Box<[u64; BUCKETS]>,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyHistogram {
    /// Empty. Takes 248 KiB of address space; memory is used only where latencies fall.
    pub fn new() -> Self {
        let counts = vec![0; BUCKETS].into_boxed_slice().try_into();
        LatencyHistogram { counts: counts.expect("the slice was made with this very length") }
    }

    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        let bucket = &mut self.counts[bucket_of(ns)];
        *bucket = bucket.wrapping_add(1);
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &LatencyHistogram) {
        for (own, others) in self.counts.iter_mut().zip(other.counts.iter()) {
            *own = own.wrapping_add(*others);
        }
    }

    /// Buckets that are not empty, by rising latency, with the latency in their middle.
    pub fn bins(&self) -> impl Iterator<Item = LatencyBin> + '_ {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(bucket, &count)| LatencyBin { value_ns: middle_of(bucket), count })
    }

    /// The same counts as an hdrhistogram, for percentiles.
    pub fn to_hdr(&self) -> Histogram<u64> {
        let mut hdr = Histogram::new_with_bounds(1, MAX_LATENCY_NS, SIGNIFICANT_DIGITS).expect(
            "bounds are constants within the library's limits: 1 <= low, 2 * low <= high, digits <= 5",
        );
        for bin in self.bins() {
            hdr.saturating_record_n(bin.value_ns, bin.count);
        }
        hdr
    }
}

/// Index of the bucket that holds `ns`.
#[inline]
fn bucket_of(ns: u64) -> usize {
    let ns = ns.min(MAX_LATENCY_NS);
    let shift = (ns | ((1 << KEPT_BITS) - 1)).ilog2() + 1 - KEPT_BITS;
    ((shift as usize) << (KEPT_BITS - 1)) + (ns >> shift) as usize
}

/// Latency in the middle of a bucket, rounded as hdrhistogram rounds it.
fn middle_of(bucket: usize) -> u64 {
    let half = 1 << (KEPT_BITS - 1);
    let shift = (bucket / half).saturating_sub(1);
    let lowest = ((bucket - shift * half) as u64) << shift;
    lowest + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_those_of_hdrhistogram() {
        let mut hdr = Histogram::<u64>::new_with_bounds(1, MAX_LATENCY_NS, SIGNIFICANT_DIGITS).unwrap();
        hdr.record(1).unwrap();
        for bucket in 0..BUCKETS {
            let middle = middle_of(bucket);
            assert_eq!(bucket_of(middle), bucket);
            assert_eq!(hdr.median_equivalent(middle), middle, "bucket {bucket}");
            assert_eq!(bucket_of(hdr.lowest_equivalent(middle)), bucket);
            assert_eq!(bucket_of(hdr.highest_equivalent(middle)), bucket);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(0), 0);
    }

    proptest! {
        #[test]
        fn conversion_equals_recording_into_hdrhistogram(
            values in proptest::collection::vec((0u32..41, any::<u64>()), 0..300)
        ) {
            let mut own = LatencyHistogram::new();
            let mut hdr = Histogram::<u64>::new_with_bounds(1, MAX_LATENCY_NS, SIGNIFICANT_DIGITS).unwrap();
            for value in values.iter().map(|(bits, value)| value % (1 << bits)) {
                own.record(value);
                hdr.saturating_record(value);
            }
            let converted = own.to_hdr();
            prop_assert_eq!(converted.len(), hdr.len());
            for percent in [0.0, 1.0, 50.0, 99.0, 99.9, 100.0] {
                prop_assert_eq!(converted.value_at_percentile(percent), hdr.value_at_percentile(percent));
            }
        }
    }
}
