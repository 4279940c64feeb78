//! `latency_target`: the highest queue depth at which enough I/Os are fast enough.
//!
//! The job runs at a depth for a window; the depth passes when at least `latency_percentile` of the window's I/Os took
//! `latency_target` at most. The search doubles the depth from 1 while depths pass, then halves the distance between
//! the highest that passed and the lowest that did not. As in fio the job ends when they meet, or with `latency_run`
//! keeps to that depth, going down when it no longer passes and trying a higher one from time to time.
//!
//! Invariant: `1 <= depth <= max_depth`, and every depth that passed is below every one that failed.

use thiserror::Error;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyTargetConfig {
    /// An I/O is fast enough up to this, in ns.
    pub target_ns: u64,
    /// How long each depth is tried, in ns.
    pub window_ns: u64,
    /// How many of 100 I/Os must be fast enough; above 0, at most 100 (the default).
    pub percentile: f64,
    /// fio's `latency_run`: go on at the depth found instead of ending.
    pub keep_running: bool,
    /// The job's `iodepth`.
    pub max_depth: u32,
}

/// A target that cannot be.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum LatencyTargetError {
    /// A percentile beyond its range.
    #[error("latency_percentile={percentile}, but it must be above 0 and at most 100")]
    Percentile {
        /// What was given.
        percentile: f64,
    },
    /// Zero where there must be something.
    #[error(
        "latency_target, latency_window and iodepth must be above 0; they are {target_ns} ns, {window_ns} ns and {max_depth}"
    )]
    Zero {
        /// The target.
        target_ns: u64,
        /// The window.
        window_ns: u64,
        /// The depth.
        max_depth: u32,
    },
}

/// What a look at the clock brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepthVerdict {
    /// The window is not over.
    Running,
    /// From now on keep so many in flight.
    Depth(u32),
    /// The search is over: this depth meets the target, the next does not (or is beyond `iodepth`). The job ends.
    Found(u32),
    /// Not even one I/O at a time meets the target. The job ends.
    Missed,
}

/// After so many windows at the depth it found, a job that keeps running tries a higher one.
const PATIENCE_WINDOWS: u32 = 8;

/// The search.
#[derive(Clone, Debug)]
pub struct LatencyTarget {
    config: LatencyTargetConfig,
    depth: u32,
    /// The highest that passed; 0 when none did.
    passed: u32,
    /// The lowest that failed; `max_depth + 1` when none did.
    failed: u32,
    window_start_ns: u64,
    /// Completions still to come that were issued at the depth before.
    skip: u32,
    total: u64,
    slow: u64,
    stable_windows: u32,
}

impl LatencyTarget {
    /// For a job that starts at `start_ns`, at depth 1.
    ///
    /// # Errors
    /// [`LatencyTargetError`] when a value is out of range.
    pub fn new(config: LatencyTargetConfig, start_ns: u64) -> Result<Self, LatencyTargetError> {
        let LatencyTargetConfig { target_ns, window_ns, percentile, max_depth, .. } = config;
        if !(percentile > 0.0 && percentile <= 100.0) {
            return Err(LatencyTargetError::Percentile { percentile });
        }
        if target_ns == 0 || window_ns == 0 || max_depth == 0 {
            return Err(LatencyTargetError::Zero { target_ns, window_ns, max_depth });
        }
        Ok(Self {
            config,
            depth: 1,
            passed: 0,
            failed: max_depth.saturating_add(1),
            window_start_ns: start_ns,
            skip: 0,
            total: 0,
            slow: 0,
            stable_windows: 0,
        })
    }

    /// How many I/Os to keep in flight now.
    #[inline]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Notes the latency of a completed I/O.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.total += 1;
        self.slow += u64::from(latency_ns > self.config.target_ns);
    }

    /// Looks at the time: judges the window when it is over, or when it is already lost.
    pub fn tick(&mut self, now_ns: u64) -> DepthVerdict {
        let over = now_ns.saturating_sub(self.window_start_ns) >= self.config.window_ns;
        // With every I/O to be fast enough, one slow one decides.
        let lost = self.slow > 0 && self.config.percentile >= 100.0;
        if self.total == 0 || !(over || lost) {
            return DepthVerdict::Running;
        }
        let fast_percent = (self.total - self.slow) as f64 * 100.0 / self.total as f64;
        let good = self.slow == 0 || fast_percent >= self.config.percentile;
        (self.total, self.slow, self.window_start_ns) = (0, 0, now_ns);
        if good {
            self.passed = self.depth;
        } else {
            if self.depth == 1 && !self.config.keep_running {
                return DepthVerdict::Missed;
            }
            self.failed = self.depth.max(2);
            // A depth that once passed no longer does: the search goes on below it.
            if self.passed >= self.failed {
                self.passed = 0;
            }
        }
        self.next()
    }

    fn next(&mut self) -> DepthVerdict {
        let beyond = self.config.max_depth.saturating_add(1);
        if self.passed.max(1) + 1 >= self.failed {
            let found = self.passed.max(1);
            if !self.config.keep_running {
                return if self.passed == found { DepthVerdict::Found(found) } else { self.go(found) };
            }
            self.stable_windows += 1;
            if self.stable_windows >= PATIENCE_WINDOWS && found < self.config.max_depth {
                self.stable_windows = 0;
                self.failed = beyond;
                return self.go(found + 1);
            }
            return self.go(found);
        }
        self.stable_windows = 0;
        let next = if self.failed == beyond {
            self.passed.saturating_mul(2).clamp(1, self.config.max_depth)
        } else {
            self.passed + (self.failed - self.passed) / 2
        };
        self.go(next)
    }

    fn go(&mut self, depth: u32) -> DepthVerdict {
        if depth == self.depth {
            return DepthVerdict::Running;
        }
        self.skip = self.depth;
        self.depth = depth;
        DepthVerdict::Depth(depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(max_depth: u32, percentile: f64) -> LatencyTargetConfig {
        LatencyTargetConfig { target_ns: 1000, window_ns: 100, percentile, keep_running: false, max_depth }
    }

    /// A window at the current depth on a device whose latency is `per_depth` times the depth.
    fn window(search: &mut LatencyTarget, now: &mut u64, per_depth: u64) -> DepthVerdict {
        for _ in 0..search.depth() + 100 {
            search.record(u64::from(search.depth()) * per_depth);
        }
        *now += 100;
        search.tick(*now)
    }

    proptest! {
        #[test]
        fn the_highest_good_depth_is_found_in_few_windows(max_depth in 1u32..2000, best in 0u32..2500) {
            let per_depth = if best == 0 { 1001 } else { 1000 / u64::from(best).min(1000) };
            let best = (1000 / per_depth) as u32;
            let mut search = LatencyTarget::new(config(max_depth, 99.0), 0).unwrap();
            let mut now = 0;
            for _ in 0..30 {
                match window(&mut search, &mut now, per_depth) {
                    DepthVerdict::Found(depth) => {
                        prop_assert_eq!(depth, best.min(max_depth));
                        return Ok(());
                    }
                    DepthVerdict::Missed => {
                        prop_assert_eq!(best, 0);
                        return Ok(());
                    }
                    _ => prop_assert!((1..=max_depth).contains(&search.depth())),
                }
            }
            prop_assert!(false, "no end after 30 windows");
        }

        #[test]
        fn a_running_job_follows_the_device(speeds in proptest::collection::vec(1u64..1200, 1..6)) {
            let config = LatencyTargetConfig { keep_running: true, ..config(64, 100.0) };
            let mut search = LatencyTarget::new(config, 0).unwrap();
            let mut now = 0;
            for per_depth in speeds {
                let best = (1000 / per_depth).clamp(1, 64) as u32;
                let mut seen = Vec::new();
                for _ in 0..200 {
                    prop_assert!(!matches!(
                        window(&mut search, &mut now, per_depth),
                        DepthVerdict::Found(_) | DepthVerdict::Missed
                    ));
                    seen.push(search.depth());
                }
                // It settles at the best depth and leaves it only to try the next ones now and then.
                let there = seen[100..].iter().filter(|depth| **depth == best).count();
                prop_assert!(there > 50, "{there} of 100 windows at {best}: {seen:?}");
            }
        }
    }

    #[test]
    fn one_slow_io_ends_a_window_that_allows_none() {
        let mut search = LatencyTarget::new(config(8, 100.0), 0).unwrap();
        search.record(1000);
        assert_eq!(search.tick(50), DepthVerdict::Running);
        search.record(1001);
        assert_eq!(search.tick(51), DepthVerdict::Missed);
    }

    #[test]
    fn a_percentile_allows_some_slow_ones() {
        for (slow, verdict) in [(10, DepthVerdict::Depth(2)), (11, DepthVerdict::Missed)] {
            let mut search = LatencyTarget::new(config(8, 90.0), 0).unwrap();
            (0..100).for_each(|i| search.record(if i < slow { 5000 } else { 10 }));
            assert_eq!(search.tick(99), DepthVerdict::Running);
            assert_eq!(search.tick(100), verdict);
        }
    }

    #[test]
    fn a_window_without_io_says_nothing() {
        let mut search = LatencyTarget::new(config(8, 90.0), 0).unwrap();
        assert_eq!(search.tick(1_000_000), DepthVerdict::Running);
    }

    #[test]
    fn impossible_targets_are_refused() {
        assert!(LatencyTarget::new(config(8, 0.0), 0).is_err());
        assert!(LatencyTarget::new(config(8, f64::NAN), 0).is_err());
        assert!(LatencyTarget::new(config(8, 100.1), 0).is_err());
        assert!(LatencyTarget::new(config(0, 50.0), 0).is_err());
    }
}
