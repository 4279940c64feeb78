//! `rate` and `rate_iops`.
//!
//! A meter per direction and unit keeps the time at which all that was started so far would have been done at the rate;
//! the next I/O starts then at the earliest. A job that falls behind catches up, as in fio, but only what it missed in
//! the last [`RateConfig::burst_ns`].
//!
//! Invariant: over any window of `w` ns, what is started is at most `rate * (w + burst)` and one I/O more.

use crate::workload::config::{Direction, PerDirection};

const NS_PER_S: u128 = 1_000_000_000;

/// The limits of a job. `None` (and 0, as in fio) is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// fio's `rate`, in bytes per second.
    pub bytes_per_s: PerDirection<Option<u64>>,
    /// fio's `rate_iops`, in I/Os per second.
    pub iops: PerDirection<Option<u64>>,
    /// How much missed time a job may catch up, in ns.
    pub burst_ns: u64,
}

impl RateConfig {
    /// Catch up at most a tenth of a second: more than any scheduling delay, less than a report's interval.
    pub const DEFAULT_BURST_NS: u64 = 100_000_000;
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            bytes_per_s: PerDirection::default(),
            iops: PerDirection::default(),
            burst_ns: Self::DEFAULT_BURST_NS,
        }
    }
}

/// One limit.
#[derive(Clone, Copy, Debug)]
struct Meter {
    per_s: u64,
    anchor_ns: u64,
    /// Started since the anchor.
    amount: u64,
}

impl Meter {
    fn new(per_s: Option<u64>, start_ns: u64) -> Option<Self> {
        let per_s = per_s.filter(|rate| *rate > 0)?;
        Some(Self { per_s, anchor_ns: start_ns, amount: 0 })
    }

    /// When what was started is paid for, rounded up.
    fn due_ns(&self) -> u64 {
        let took = (u128::from(self.amount) * NS_PER_S).div_ceil(u128::from(self.per_s));
        self.anchor_ns.saturating_add(u64::try_from(took).unwrap_or(u64::MAX))
    }

    fn charge(&mut self, amount: u64, now_ns: u64, burst_ns: u64) {
        let oldest = now_ns.saturating_sub(burst_ns);
        if self.due_ns() < oldest {
            (self.anchor_ns, self.amount) = (oldest, 0);
        }
        match self.amount.checked_add(amount) {
            Some(sum) => self.amount = sum,
            None => (self.anchor_ns, self.amount) = (self.due_ns(), amount),
        }
    }
}

/// Holds the I/Os of a job to its rates.
#[derive(Clone, Debug)]
pub struct Pacer {
    meters: [[Option<Meter>; 2]; 3],
    burst_ns: u64,
}

impl Pacer {
    /// For a job that starts at `start_ns`.
    pub fn new(config: &RateConfig, start_ns: u64) -> Self {
        let meters = Direction::ALL.map(|direction| {
            let rates = [*config.bytes_per_s.get(direction), *config.iops.get(direction)];
            rates.map(|rate| Meter::new(rate, start_ns))
        });
        Self { meters, burst_ns: config.burst_ns }
    }

    /// Whether any direction has a limit; if not, there is no need to ask.
    pub fn is_limited(&self) -> bool {
        self.meters.iter().flatten().any(Option::is_some)
    }

    /// The earliest time at which an I/O of this direction may start; not later than now when it may start now.
    pub fn ready_at_ns(&self, direction: Direction) -> u64 {
        self.meters[direction.index()].iter().flatten().map(Meter::due_ns).max().unwrap_or(0)
    }

    /// Starts an I/O now, if its rates allow.
    ///
    /// # Errors
    /// The earliest time at which it may start, in ns, when that is not now; nothing is charged then.
    pub fn try_start(&mut self, direction: Direction, bytes: u32, now_ns: u64) -> Result<(), u64> {
        let ready = self.ready_at_ns(direction);
        if ready > now_ns {
            return Err(ready);
        }
        let [by_bytes, by_count] = &mut self.meters[direction.index()];
        if let Some(meter) = by_bytes {
            meter.charge(u64::from(bytes), now_ns, self.burst_ns);
        }
        if let Some(meter) = by_count {
            meter.charge(1, now_ns, self.burst_ns);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(bytes_per_s: Option<u64>, iops: Option<u64>, burst_ns: u64) -> RateConfig {
        RateConfig { bytes_per_s: PerDirection::all(bytes_per_s), iops: PerDirection::all(iops), burst_ns }
    }

    /// Starts and sizes of I/Os by a job that asks again after each delay at the earliest.
    fn play(config: &RateConfig, ios: &[(u32, u64)]) -> Vec<(u64, u32)> {
        let mut now = 1_000;
        let mut pacer = Pacer::new(config, now);
        let mut started = Vec::new();
        for &(bytes, delay_ns) in ios {
            now += delay_ns;
            if let Err(ready) = pacer.try_start(Direction::Write, bytes, now) {
                assert!(ready > now);
                assert_eq!(pacer.try_start(Direction::Write, bytes, ready - 1), Err(ready));
                now = ready;
                pacer.try_start(Direction::Write, bytes, now).unwrap();
            }
            started.push((now, bytes));
        }
        started
    }

    proptest! {
        #[test]
        fn no_window_exceeds_the_rate_by_more_than_the_burst(
            bytes_per_s in 1u64..10_000_000_000,
            iops in 1u64..2_000_000,
            burst_ns in 0u64..1_000_000_000,
            ios in proptest::collection::vec((1u32..1 << 20, prop_oneof![Just(0u64), 0u64..1_000_000_000]), 1..80),
        ) {
            let config = config(Some(bytes_per_s), Some(iops), burst_ns);
            let started = play(&config, &ios);
            for (first, &(from, _)) in started.iter().enumerate() {
                let mut bytes = 0u128;
                for (count, &(to, last)) in started[first..].iter().enumerate() {
                    // Before the last one; it is the I/O that may come on top.
                    let allowed_ns = u128::from(to - from + burst_ns);
                    prop_assert!(bytes * NS_PER_S <= u128::from(bytes_per_s) * allowed_ns);
                    prop_assert!(count as u128 * NS_PER_S <= u128::from(iops) * allowed_ns);
                    bytes += u128::from(last);
                }
            }
        }

        #[test]
        fn a_job_that_is_always_ready_reaches_the_rate(
            bytes_per_s in 1u64..10_000_000_000,
            bytes in 1u32..1 << 20,
        ) {
            let started = play(&config(Some(bytes_per_s), None, 0), &[(bytes, 0); 100]);
            let took = u128::from(started[99].0 - started[0].0);
            let exact = 99 * u128::from(bytes) * NS_PER_S;
            let slack = u128::from(bytes_per_s);
            prop_assert!((exact..exact + slack).contains(&(took * slack)), "{took} ns");
        }

        #[test]
        fn extreme_values_do_not_overflow(
            rate in prop_oneof![Just(1u64), Just(u64::MAX), any::<u64>()],
            start in any::<u64>(),
            bytes in any::<u32>(),
        ) {
            let mut pacer = Pacer::new(&config(Some(rate), Some(rate), u64::MAX), start);
            for _ in 0..4 {
                let now = pacer.ready_at_ns(Direction::Read);
                prop_assert_eq!(pacer.try_start(Direction::Read, bytes, now), Ok(()));
            }
        }
    }

    #[test]
    fn a_late_job_catches_up_within_the_burst_only() {
        let mut pacer = Pacer::new(&config(None, Some(1000), 5_000_000), 0);
        pacer.try_start(Direction::Read, 512, 0).unwrap();
        // A second late: at 1000 per second, 5 ms are worth five I/Os, and the one now due.
        let now = 1_000_000_000;
        let count = (0..100).take_while(|_| pacer.try_start(Direction::Read, 512, now).is_ok()).count();
        assert_eq!(count, 6);
        assert_eq!(pacer.ready_at_ns(Direction::Read), now + 1_000_000);
    }

    #[test]
    fn directions_have_their_own_limits_and_zero_is_none() {
        let mut limits = RateConfig::default();
        assert!(!Pacer::new(&limits, 0).is_limited());
        limits.bytes_per_s = PerDirection([Some(1_000_000), Some(0), None]);
        let mut pacer = Pacer::new(&limits, 0);
        assert!(pacer.is_limited());
        assert_eq!(pacer.try_start(Direction::Read, 1000, 0), Ok(()));
        assert_eq!(pacer.try_start(Direction::Read, 1000, 0), Err(1_000_000));
        for direction in [Direction::Write, Direction::Trim] {
            assert_eq!(pacer.try_start(direction, u32::MAX, 0), Ok(()));
            assert_eq!(pacer.try_start(direction, u32::MAX, 0), Ok(()));
        }
    }
}
