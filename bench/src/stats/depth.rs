//! How deep the queue was, and how many requests a submission and a completion call handled, in fio's seven buckets.

/// Number of buckets in each distribution.
pub const DEPTH_BUCKETS: usize = 7;

/// Counts in fio's seven buckets of doubling size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; DEPTH_BUCKETS],
}

impl Distribution {
    /// Labels of the buckets when they hold depths: a bucket starts at its label.
    pub const DEPTH_LABELS: [&'static str; DEPTH_BUCKETS] = ["1", "2", "4", "8", "16", "32", ">=64"];

    /// Labels of the buckets when they hold batch sizes: a bucket ends at its label.
    pub const BATCH_LABELS: [&'static str; DEPTH_BUCKETS] = ["0", "4", "8", "16", "32", "64", ">=64"];

    /// Counts one request that brought the queue to `depth` (1 or more; 0 counts as 1).
    #[inline]
    pub fn record_depth(&mut self, depth: u32) {
        self.counts[depth_bucket(depth)] += 1;
    }

    /// Counts `requests` requests that raised the queue one by one from `before` to `before + requests`, as a batch
    /// submission does.
    #[inline]
    pub fn record_depths(&mut self, before: u32, requests: u32) {
        let mut depth = before.saturating_add(1);
        let mut left = requests;
        while left > 0 {
            let bucket = depth_bucket(depth);
            let room = match bucket {
                6 => left,
                _ => ((2u32 << bucket) - depth).min(left),
            };
            self.counts[bucket] += u64::from(room);
            depth = depth.saturating_add(room);
            left -= room;
        }
    }

    /// Counts `requests` requests that were handed over together, `depth` being in flight then, themselves included:
    /// what fio counts for engines that take batches.
    #[inline]
    pub fn record_batch_at(&mut self, depth: u32, requests: u32) {
        self.counts[depth_bucket(depth)] += u64::from(requests);
    }

    /// Counts one call that submitted, or found completed, `requests` requests.
    #[inline]
    pub fn record_batch(&mut self, requests: u32) {
        self.record_batches(requests, 1);
    }

    /// Counts `calls` calls that submitted, or found completed, `requests` requests each.
    #[inline]
    pub fn record_batches(&mut self, requests: u32, calls: u32) {
        self.counts[batch_bucket(requests)] += u64::from(calls);
    }

    /// Adds another distribution.
    pub fn merge(&mut self, other: &Distribution) {
        for (own, others) in self.counts.iter_mut().zip(other.counts) {
            *own += others;
        }
    }

    /// The counts, by bucket.
    pub fn counts(&self) -> &[u64; DEPTH_BUCKETS] {
        &self.counts
    }

    /// Sum of the counts.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Shares of `total` in per cent. A bucket that is not empty shows at least 0.1, as fio does it, so that rare
    /// events stay visible.
    pub fn shares_percent(&self, total: u64) -> [f64; DEPTH_BUCKETS] {
        self.counts.map(|count| share_percent(count, total, 0.1))
    }
}

/// `count` in per cent of `total`, at least `least` when there is any.
pub(crate) fn share_percent(count: u64, total: u64, least: f64) -> f64 {
    if total == 0 || count == 0 {
        return 0.0;
    }
    (count as f64 / total as f64 * 100.0).max(least)
}

/// 1, 2-3, 4-7, 8-15, 16-31, 32-63, 64 and more.
#[inline]
fn depth_bucket(depth: u32) -> usize {
    (depth.max(1).ilog2() as usize).min(DEPTH_BUCKETS - 1)
}

/// 0, 1-4, 5-8, 9-16, 17-32, 33-64, more.
#[inline]
fn batch_bucket(requests: u32) -> usize {
    match requests {
        0 => 0,
        1..=4 => 1,
        5..=8 => 2,
        9..=16 => 3,
        17..=32 => 4,
        33..=64 => 5,
        _ => 6,
    }
}
