//! What the conductor tells a lane, and what it sees of it: a few atomics, so that neither ever waits for the other.
//!
//! Invariants: only the conductor gives orders and only the lane reports its state; both are single bytes that mean
//! nothing to other memory, so relaxed order is enough.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::report::status::Phase;
use crate::stats::LiveCounters;

/// What a lane is to do. Orders only ever rise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Order {
    /// Wait for the start.
    Hold = 0,
    /// Run, but forget what was measured when the order changes (`ramp_time`).
    Ramp = 1,
    /// Run.
    Measure = 2,
    /// The time is over: start no further request; what was written is still verified.
    Stop = 3,
    /// The run ends early: do nothing more than let what is in flight end.
    Abort = 4,
}

/// Set beside an order: the lane is to send its figures so far.
const SNAPSHOT: u8 = 1 << 7;

/// What a lane is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Doing {
    /// Getting ready, or waiting for the start.
    Ready = 0,
    /// Its requests.
    Io = 1,
    /// Reading back what it wrote.
    Verify = 2,
    /// The flush at the end.
    Sync = 3,
    /// Nothing more.
    Ended = 4,
}

/// The two sides' board. Aligned, so that lanes do not share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct LaneControl {
    order: AtomicU8,
    doing: AtomicU8,
    /// What the lane has done so far.
    pub live: LiveCounters,
}

impl Default for LaneControl {
    fn default() -> Self {
        LaneControl {
            order: AtomicU8::new(Order::Hold as u8),
            doing: AtomicU8::new(Doing::Ready as u8),
            live: LiveCounters::default(),
        }
    }
}

impl LaneControl {
    /// The board as it stands, for a lane to see at a glance whether anything changed.
    #[inline]
    pub fn word(&self) -> u8 {
        self.order.load(Relaxed)
    }

    /// The order that holds.
    #[inline]
    pub fn order(&self) -> Order {
        match self.word() & !SNAPSHOT {
            0 => Order::Hold,
            1 => Order::Ramp,
            2 => Order::Measure,
            3 => Order::Stop,
            _ => Order::Abort,
        }
    }

    /// Gives an order; one that is lower than that which holds changes nothing.
    pub fn give(&self, order: Order) {
        let raised = |word: u8| (word & !SNAPSHOT).max(order as u8) | word & SNAPSHOT;
        let _ = self.order.fetch_update(Relaxed, Relaxed, |word| Some(raised(word)));
    }

    /// Asks the lane for its figures so far.
    pub fn ask(&self) {
        self.order.fetch_or(SNAPSHOT, Relaxed);
    }

    /// The lane sees whether it was asked; it answers once.
    pub fn was_asked(&self) -> bool {
        self.order.fetch_and(!SNAPSHOT, Relaxed) & SNAPSHOT != 0
    }

    /// What the lane is doing.
    pub fn doing(&self) -> Doing {
        match self.doing.load(Relaxed) {
            0 => Doing::Ready,
            1 => Doing::Io,
            2 => Doing::Verify,
            3 => Doing::Sync,
            _ => Doing::Ended,
        }
    }

    /// The lane says what it is doing.
    pub fn set_doing(&self, doing: Doing) {
        self.doing.store(doing as u8, Relaxed);
    }

    /// As the status line has it.
    pub fn phase(&self) -> Phase {
        match (self.doing(), self.order()) {
            (Doing::Ready, _) => Phase::Initialized,
            (Doing::Io, Order::Ramp) => Phase::Ramp,
            (Doing::Io, Order::Stop | Order::Abort) => Phase::Finishing,
            (Doing::Io, _) => Phase::Running,
            (Doing::Verify, _) => Phase::Verifying,
            (Doing::Sync, _) => Phase::Syncing,
            (Doing::Ended, _) => Phase::Exited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_only_rise() {
        let control = LaneControl::default();
        assert_eq!(control.order(), Order::Hold);
        for (given, holds) in [
            (Order::Ramp, Order::Ramp),
            (Order::Stop, Order::Stop),
            (Order::Measure, Order::Stop),
            (Order::Hold, Order::Stop),
            (Order::Abort, Order::Abort),
        ] {
            control.give(given);
            assert_eq!(control.order(), holds);
        }
    }

    #[test]
    fn a_question_leaves_the_order_alone() {
        let control = LaneControl::default();
        control.give(Order::Measure);
        control.ask();
        assert_eq!(control.order(), Order::Measure);
        control.give(Order::Stop);
        assert!(control.was_asked());
        assert!(!control.was_asked());
        assert_eq!(control.order(), Order::Stop);
    }

    #[test]
    fn the_status_line_sees_what_the_lane_does() {
        let control = LaneControl::default();
        assert_eq!(control.phase(), Phase::Initialized);
        control.give(Order::Ramp);
        control.set_doing(Doing::Io);
        assert_eq!(control.phase(), Phase::Ramp);
        control.give(Order::Measure);
        assert_eq!(control.phase(), Phase::Running);
        control.give(Order::Stop);
        assert_eq!(control.phase(), Phase::Finishing);
        control.set_doing(Doing::Verify);
        assert_eq!(control.phase(), Phase::Verifying);
    }
}
