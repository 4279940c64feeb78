//! When the clock is read and which latencies come of it, chosen once for a job: a loop is compiled for each [`Meter`].
//!
//! The times are fio's, as far as one system call for submitting and waiting has them: a request is *ready* when it is
//! made, *handed over* when the batch that it is in goes to the device, *done* when its batch of completions is taken.
//! Submission latency is from ready to handed over, completion latency from there to done, total latency is the whole.
//! So the clock is read once a request and twice a batch, like fio's engines with batches do it.

use crate::stats::{Clock, Direction, JobStats};

use super::token::Token;

/// How a job measures its requests.
pub trait Meter {
    /// A request is ready in `slot`.
    fn issue(&mut self, slot: u32);
    /// The requests made since the last call go to the device now.
    fn hand_over(&mut self);
    /// Completions are taken now.
    fn reap(&mut self);
    /// A read, write or trim has completed, as one of those just taken.
    fn done(&mut self, stats: &mut JobStats, token: Token);
    /// A flush has completed.
    fn synced(&mut self, stats: &mut JobStats, token: Token);
    /// Latencies of the last request that was done or synced; `None` where none are taken.
    fn last(&self) -> Option<Latencies>;
}

/// Latencies of one request, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// From ready to handed over.
    pub slat_ns: u64,
    /// From handed over to done.
    pub clat_ns: u64,
}

impl Latencies {
    /// The whole.
    pub fn total_ns(self) -> u64 {
        self.slat_ns + self.clat_ns
    }
}

/// Counts only; no clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untimed;

impl Meter for Untimed {
    #[inline(always)]
    fn issue(&mut self, _slot: u32) {}

    #[inline(always)]
    fn hand_over(&mut self) {}

    #[inline(always)]
    fn reap(&mut self) {}

    #[inline(always)]
    fn done(&mut self, _stats: &mut JobStats, _token: Token) {}

    #[inline(always)]
    fn synced(&mut self, stats: &mut JobStats, _token: Token) {
        stats.record_sync(None);
    }

    #[inline(always)]
    fn last(&self) -> Option<Latencies> {
        None
    }
}

/// Times of one request, in ticks of the clock.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    ready: u64,
    handed_over: u64,
}

/// Latencies of every request.
#[derive(Debug)]
pub struct Timed {
    clock: Clock,
    times: Box<[Times]>,
    /// Slots of the requests that were not handed over yet.
    fresh: Vec<u32>,
    now: u64,
    /// Whether the two parts of a latency are told apart; a total alone needs one clock read less.
    split: bool,
    slat: bool,
    clat: bool,
    lat: bool,
    last: Latencies,
}

impl Timed {
    /// For slots below `slots`; `stats` says which latencies are recorded.
    pub fn new(clock: &Clock, slots: u32, stats: &JobStats) -> Timed {
        let slots = slots as usize;
        let config = stats.config;
        Timed {
            clock: clock.clone(),
            times: vec![Times::default(); slots].into_boxed_slice(),
            fresh: Vec::with_capacity(slots),
            now: clock.raw(),
            split: config.slat || config.clat,
            slat: config.slat,
            clat: config.clat,
            lat: config.lat,
            last: Latencies::default(),
        }
    }

    #[inline]
    fn latencies(&self, token: Token) -> Latencies {
        let times = self.times[token.slot()];
        Latencies {
            slat_ns: self.clock.ns_between(times.ready, times.handed_over),
            clat_ns: self.clock.ns_between(times.handed_over, self.now),
        }
    }
}

impl Meter for Timed {
    #[inline(always)]
    fn issue(&mut self, slot: u32) {
        let now = self.clock.raw();
        self.times[slot as usize] = Times { ready: now, handed_over: now };
        if self.split {
            self.fresh.push(slot);
        }
    }

    #[inline(always)]
    fn hand_over(&mut self) {
        if !self.split {
            return;
        }
        let now = self.clock.raw();
        for slot in self.fresh.drain(..) {
            self.times[slot as usize].handed_over = now;
        }
    }

    #[inline(always)]
    fn reap(&mut self) {
        self.now = self.clock.raw();
    }

    #[inline(always)]
    fn done(&mut self, stats: &mut JobStats, token: Token) {
        let latencies = self.latencies(token);
        let direction = Direction::ALL[token.kind() % 3];
        if self.slat {
            stats.record_slat(direction, latencies.slat_ns);
        }
        if self.clat {
            stats.record_clat(direction, latencies.clat_ns);
        }
        if self.lat {
            stats.record_lat(direction, latencies.slat_ns + latencies.clat_ns);
        }
        self.last = latencies;
    }

    #[inline(always)]
    fn synced(&mut self, stats: &mut JobStats, token: Token) {
        let latencies = self.latencies(token);
        stats.record_sync(Some(latencies.slat_ns + latencies.clat_ns));
        self.last = latencies;
    }

    #[inline(always)]
    fn last(&self) -> Option<Latencies> {
        Some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::StatsConfig;
    use crate::workload::{self, Io};

    #[test]
    fn latencies_add_up_and_go_to_their_direction() {
        let clock = Clock::new();
        let mut stats = JobStats::new(StatsConfig::default());
        let mut meter = Timed::new(&clock, 4, &stats);
        let io = Io { offset: 0, bytes: 512, direction: workload::Direction::Write };
        for slot in 0..4 {
            meter.issue(slot);
        }
        meter.hand_over();
        meter.reap();
        for slot in 0..4 {
            meter.done(&mut stats, Token::new(slot, &io));
        }
        let write = &stats.directions[Direction::Write];
        assert_eq!(write.lat.moments().samples(), 4);
        assert_eq!(stats.directions[Direction::Read].lat.moments().samples(), 0);
        let parts = write.slat.moments().sum() + write.clat.moments().sum();
        assert_eq!(write.lat.moments().sum(), parts);
        // The first request waited for the others to be made.
        assert!(write.slat.moments().max() >= write.slat.moments().min());
    }

    #[test]
    fn what_is_disabled_is_not_recorded() {
        let clock = Clock::new();
        let config = StatsConfig { slat: false, lat: false, ..StatsConfig::default() };
        let mut stats = JobStats::new(config);
        let mut meter = Timed::new(&clock, 1, &stats);
        meter.issue(0);
        meter.hand_over();
        meter.reap();
        meter.done(
            &mut stats,
            Token::new(0, &Io { offset: 0, bytes: 1, direction: workload::Direction::Read }),
        );
        meter.synced(&mut stats, Token::sync(0));
        let read = &stats.directions[Direction::Read];
        assert_eq!(read.clat.moments().samples(), 1);
        assert_eq!(read.slat.moments().samples() + read.lat.moments().samples(), 0);
        assert_eq!(stats.sync.latency.moments().samples(), 1);
    }
}
