//! How the polling thread waits: it looks all the time first, then lets others run between looks, then sleeps between
//! them.
//!
//! Invariant: doorbells are memory and wake nobody, so no sleep is longer than a millisecond.

use std::time::Duration;

use crate::config::Idle;

/// Looks without a pause. Some 20 us.
const SPINS: u32 = 2_000;
/// Looks with a yield between them. Some 10 ms if nobody else runs.
const YIELDS: u32 = 20_000;
/// The first sleeps are short ones.
const SHORT_SLEEPS: u32 = 1_000;

/// The state of waiting.
#[derive(Debug)]
pub(crate) struct BackOff {
    idle: Idle,
    looks: u32,
}

impl BackOff {
    pub(crate) fn new(idle: Idle) -> BackOff {
        BackOff { idle, looks: 0 }
    }

    /// There was something to do.
    #[inline]
    pub(crate) fn reset(&mut self) {
        self.looks = 0;
    }

    /// Waits a little. Returns true when the next wait will be a sleep for the first time since there was something to
    /// do.
    #[inline]
    pub(crate) fn wait(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        if self.looks <= SPINS || self.idle == Idle::Spin {
            std::hint::spin_loop();
            return self.idle == Idle::Spin && self.looks == SPINS;
        }
        self.wait_longer()
    }

    #[cold]
    fn wait_longer(&mut self) -> bool {
        if self.looks <= SPINS + YIELDS {
            std::thread::yield_now();
            return self.looks == SPINS + YIELDS;
        }
        let short = self.looks <= SPINS + YIELDS + SHORT_SLEEPS;
        std::thread::park_timeout(Duration::from_micros(if short { 100 } else { 1_000 }));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_announces_the_first_sleep_once() {
        for idle in [Idle::Spin, Idle::BackOff] {
            let mut back_off = BackOff::new(idle);
            for _ in 0..2 {
                let announced = (0..SPINS + YIELDS + 3).filter(|_| back_off.wait()).count();
                assert_eq!(announced, 1, "{idle:?}");
                back_off.reset();
            }
        }
    }
}
