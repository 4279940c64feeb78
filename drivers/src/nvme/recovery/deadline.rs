//! [`Deadline`]: how long a command may take, counted in ticks.
//!
//! There is no clock read and no timer for a command. A thread of the controller's counts ticks, a few in the time that a
//! command may take; at each tick a lane makes all its commands in flight one tick older, where they stand in its queue
//! pair. A command is as old as the ticks that it has seen, so it was in flight at least one tick less.

use std::time::Duration;

/// The shortest and the longest tick, in milliseconds.
const TICK_MS: (u64, u64) = (5, 500);
/// How many ticks there are in the time that a command may take, within these bounds.
const TICKS: u64 = 8;
/// The most that an abort is waited for, in milliseconds.
const GRACE_MS: u64 = 1000;

/// See the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    timeout_ms: u64,
    tick_ms: u64,
    late: u32,
    overdue: u32,
}

impl Deadline {
    /// The greatest time that can be counted, in milliseconds: an hour.
    pub const MAX_MS: u64 = 3_600_000;

    /// For commands that may take `timeout_ms` milliseconds, from 1 to [`MAX_MS`](Self::MAX_MS); what is outside is the
    /// nearest that is not.
    pub fn new(timeout_ms: u64) -> Deadline {
        let timeout_ms = timeout_ms.clamp(1, Deadline::MAX_MS);
        let tick_ms = (timeout_ms / TICKS).clamp(TICK_MS.0, TICK_MS.1);
        let late = timeout_ms.div_ceil(tick_ms) + 1;
        let overdue = late + timeout_ms.min(GRACE_MS).div_ceil(tick_ms);
        // An hour has 7200 ticks.
        Deadline { timeout_ms, tick_ms, late: late as u32, overdue: overdue as u32 }
    }

    /// The time that a command may take, in milliseconds.
    pub fn timeout_ms(self) -> u64 {
        self.timeout_ms
    }

    /// From one tick to the next.
    pub fn tick(self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    /// Whether a command so many ticks old is just beyond its deadline, and is to be aborted.
    pub fn is_just_late(self, age: u32) -> bool {
        age == self.late
    }

    /// Whether a command so many ticks old is beyond its deadline.
    pub fn is_late(self, age: u32) -> bool {
        age >= self.late
    }

    /// Whether its abort should have ended it by now.
    pub fn is_overdue(self, age: u32) -> bool {
        age >= self.overdue
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_time_has_two_ticks_a_second() {
        let deadline = Deadline::new(30_000);
        assert_eq!(deadline.tick(), Duration::from_millis(500));
        assert!(deadline.is_just_late(61) && !deadline.is_late(60) && deadline.is_late(62));
        assert!(deadline.is_overdue(63) && !deadline.is_overdue(62));
    }

    proptest! {
        #[test]
        fn nothing_is_late_too_early_nor_much_too_late(timeout_ms in 1u64..=Deadline::MAX_MS) {
            let deadline = Deadline::new(timeout_ms);
            let tick_ms = deadline.tick().as_millis() as u64;
            let late = (0..).find(|age| deadline.is_late(*age)).unwrap_or(0);
            prop_assert!(deadline.is_just_late(late));
            // So old, it has been in flight for this long at least and at most.
            let (least, most) = (u64::from(late - 1) * tick_ms, u64::from(late) * tick_ms);
            prop_assert!(least >= timeout_ms, "{least} ms");
            prop_assert!(most <= timeout_ms + 2 * tick_ms, "{most} ms");
            let overdue = (late..).find(|age| deadline.is_overdue(*age)).unwrap_or(0);
            prop_assert!(overdue > late && u64::from(overdue - late) * tick_ms <= 1000 + tick_ms);
            prop_assert!(overdue < 1 << 15, "an age has 15 bits");
        }
    }
}
