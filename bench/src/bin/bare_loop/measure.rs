//! What `bare-loop` counts with: its latency histogram and its random offsets.
//!
//! Invariants: recording a latency writes one bucket and two counters, with no branch on its size; offsets are
//! block-aligned and lie within the blocks given.

/// Log-linear histogram: exact below 2048 ticks, 1024 buckets per power of two above (0.1 %), up to 2^40 ticks.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    sum: u64,
    pub(crate) count: u64,
}

impl Histogram {
    const SUB_BITS: u32 = 10;
    const MAX_TICKS: u64 = (1 << 40) - 1;

    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; Self::bucket(Self::MAX_TICKS) + 1], sum: 0, count: 0 }
    }

    #[inline(always)]
    const fn bucket(ticks: u64) -> usize {
        let shift = (ticks | (1 << Self::SUB_BITS)).ilog2() - Self::SUB_BITS;
        ((shift as usize) << Self::SUB_BITS) + (ticks >> shift) as usize
    }

    #[inline(always)]
    pub(crate) fn record(&mut self, ticks: u64) {
        let ticks = ticks.min(Self::MAX_TICKS);
        self.buckets[Self::bucket(ticks)] += 1;
        self.sum += ticks;
        self.count += 1;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }

    /// The middle of the bucket that holds the nearest-rank percentile (`percent` in 0..=100).
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let shift = (index >> Self::SUB_BITS).saturating_sub(1);
                let low = (index - (shift << Self::SUB_BITS)) << shift;
                return low as f64 + ((1_u64 << shift) - 1) as f64 / 2.0;
            }
        }
        0.0
    }
}

/// Uniform block-aligned offsets: xorshift64, reduced by multiply and shift.
pub(crate) struct Offsets {
    /// Any number but 0.
    pub(crate) state: u64,
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u64,
}

impl Offsets {
    #[inline(always)]
    pub(crate) fn next_offset(&mut self) -> u64 {
        let mut x = self.state;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.state = x;
        ((u128::from(x) * u128::from(self.blocks)) >> 64) as u64 * self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_aligned_in_range_and_reach_every_block() {
        let mut offsets = Offsets { state: 1, blocks: 7, block_bytes: 4096 };
        let mut hits = [0_u32; 7];
        for _ in 0..7000 {
            let offset = offsets.next_offset();
            assert_eq!(offset % 4096, 0);
            hits[(offset / 4096) as usize] += 1;
        }
        assert!(hits.iter().all(|&count| (800..1200).contains(&count)), "not uniform: {hits:?}");
    }

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::new();
        for ticks in 1..=100_000 {
            histogram.record(ticks);
        }
        assert!((histogram.mean() - 50_000.5).abs() < 1e-6);
        for percent in [0.1, 1.0, 50.0, 99.0, 100.0] {
            let truth = percent * 1000.0;
            let found = histogram.percentile(percent);
            assert!((found - truth).abs() <= truth / 1024.0, "p{percent}: {found} for {truth}");
        }
    }

    #[test]
    fn the_longest_latencies_stay_in_the_table() {
        let mut histogram = Histogram::new();
        histogram.record(u64::MAX);
        assert!(histogram.percentile(100.0) > 1.09e12);
    }
}
