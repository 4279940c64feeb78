//! What a lane does about waiting: adaptive polling, by QEMU's rule, and the guess whether there is anything to wait for.

use std::cell::Cell;
use std::time::Instant;

use super::PollMode;

/// Where polling starts once it seems worth it (QEMU: 4 microseconds).
const START_NS: u64 = 4000;

/// QEMU's rule for one change of the polling time. `block_ns` is how long the lane was idle before the last event.
fn adjust(poll_ns: u64, block_ns: u64, poll_max_ns: u64, grow: u32, shrink: u32) -> u64 {
    if block_ns <= poll_ns {
        // It was found by polling, or could have been.
        poll_ns
    } else if block_ns > poll_max_ns {
        // It would have taken too long to poll for.
        poll_ns.checked_div(shrink.into()).unwrap_or(0)
    } else if poll_ns < poll_max_ns && block_ns < poll_max_ns {
        let factor = if grow == 0 { 2 } else { u64::from(grow) };
        let longer = if poll_ns == 0 { START_NS } else { poll_ns.saturating_mul(factor) };
        longer.min(poll_max_ns)
    } else {
        poll_ns
    }
}

/// What the lane knows of its idleness.
pub(super) struct Idle {
    mode: PollMode,
    poll_ns: Cell<u64>,
    /// When the lane ran out of work. Kept in adaptive mode only.
    since: Cell<Option<Instant>>,
}

impl Idle {
    pub fn new(mode: PollMode) -> Self {
        Self { mode, poll_ns: Cell::new(0), since: Cell::new(None) }
    }

    /// Whether the lane, which has nothing to do, may sleep now. Reads the clock in adaptive mode only.
    #[inline]
    pub fn may_sleep(&self) -> bool {
        match self.mode {
            PollMode::Interrupt => true,
            PollMode::Busy => false,
            PollMode::Adaptive { poll_max_ns: 0, .. } => true,
            PollMode::Adaptive { .. } => self.polled_enough(),
        }
    }

    fn polled_enough(&self) -> bool {
        let now = Instant::now();
        let since = self.since.get().unwrap_or_else(|| {
            self.since.set(Some(now));
            now
        });
        nanos_between(since, now) >= self.poll_ns.get()
    }

    /// Something happened. Reads the clock only if the lane was idle before, in adaptive mode.
    #[inline]
    pub fn busy(&self) {
        if let Some(since) = self.since.take() {
            self.learn(nanos_between(since, Instant::now()));
        }
    }

    #[inline(never)]
    fn learn(&self, block_ns: u64) {
        if let PollMode::Adaptive { poll_max_ns, grow, shrink } = self.mode {
            self.poll_ns.set(adjust(self.poll_ns.get(), block_ns, poll_max_ns, grow, shrink));
        }
    }

    /// The polling time now, in nanoseconds.
    pub fn poll_ns(&self) -> u64 {
        self.poll_ns.get()
    }
}

fn nanos_between(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// Guesses whether what is submitted now completes within the system call that submits it, as reads from the page cache
/// do. Then not to wait in that call saves the kernel the way to sleep and the lane the announcement of it; where the
/// guess is wrong, a second call waits. Each wrong one doubles the number of waits until the next try.
pub(super) struct AtOnce {
    waits_to_skip: Cell<u16>,
    price: Cell<u16>,
}

impl AtOnce {
    const LEAST: u16 = 16;
    const MOST: u16 = 4096;

    pub fn new() -> Self {
        Self { waits_to_skip: Cell::new(0), price: Cell::new(Self::LEAST) }
    }

    /// Whether to submit without waiting. Counts one wait.
    #[inline]
    pub fn guess(&self) -> bool {
        let skip = self.waits_to_skip.get();
        self.waits_to_skip.set(skip.saturating_sub(1));
        skip == 0
    }

    /// Whether the guess was right.
    #[inline]
    pub fn learn(&self, right: bool) {
        let price = self.price.get();
        if right {
            self.price.set(Self::LEAST);
        } else {
            self.waits_to_skip.set(price);
            self.price.set(price.saturating_mul(2).min(Self::MOST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_guesses_become_rare_and_a_right_one_is_trusted() {
        let at_once = AtOnce::new();
        let mut wrong = 0;
        for _ in 0..100_000 {
            if at_once.guess() {
                wrong += 1;
                at_once.learn(false);
            }
        }
        assert!((8..40).contains(&wrong), "{wrong} wrong guesses in 100,000 waits");
        while !at_once.guess() {}
        at_once.learn(true);
        assert!((0..1000).all(|_| at_once.guess()));
        at_once.learn(false);
        assert_eq!((0..1000).position(|_| at_once.guess()), Some(16));
    }

    #[test]
    fn starts_at_four_microseconds_and_doubles_to_the_maximum() {
        let mut poll_ns = 0;
        let mut seen = Vec::new();
        for _ in 0..6 {
            poll_ns = adjust(poll_ns, 32_000, 32_768, 0, 0);
            seen.push(poll_ns);
        }
        assert_eq!(seen, [4000, 8000, 16_000, 32_000, 32_000, 32_000]);
        assert_eq!(adjust(30_000, 32_000, 32_768, 0, 0), 32_768);
        assert_eq!(adjust(4000, 5000, 100_000, 3, 0), 12_000);
    }

    #[test]
    fn leaves_a_time_that_suffices() {
        assert_eq!(adjust(8000, 8000, 32_768, 2, 2), 8000);
        assert_eq!(adjust(0, 0, 32_768, 2, 2), 0);
        assert_eq!(adjust(8000, 32_768, 32_768, 2, 2), 8000, "neither too long nor short enough to grow for");
    }

    #[test]
    fn shrinks_when_events_are_too_far_apart() {
        assert_eq!(adjust(16_000, 40_000, 32_768, 2, 2), 8000);
        assert_eq!(adjust(16_000, 40_000, 32_768, 2, 0), 0);
        assert_eq!(adjust(0, 40_000, 32_768, 2, 2), 0);
        assert_eq!(adjust(1, u64::MAX, 32_768, 2, u32::MAX), 0);
    }

    #[test]
    fn grows_without_overflow() {
        assert_eq!(adjust(u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX, u32::MAX, 0), u64::MAX);
    }

    #[test]
    fn modes_without_learning_never_set_the_clock() {
        for (mode, sleeps) in [(PollMode::Interrupt, true), (PollMode::Busy, false)] {
            let idle = Idle::new(mode);
            assert_eq!(idle.may_sleep(), sleeps);
            assert_eq!(idle.since.get(), None);
        }
        let idle = Idle::new(PollMode::adaptive());
        assert!(idle.may_sleep(), "with nothing learned it sleeps at once");
        assert!(idle.since.get().is_some());
        idle.busy();
        assert_eq!(idle.since.get(), None);
    }
}
