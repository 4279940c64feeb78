//! [`State`]: what becomes of a controller, and [`Word`]: the state with what lanes have to compare, in one atomic word.
//!
//! ```text
//!    ┌────────────────────────────────────────────────────┐
//!    │            it is ready, identified, set up again   │
//!    ▼                                                    │
//! Running ──a fault──► Stopping ──it uses no memory──► Quiet ──► Starting
//!                         │  ▲                           │          │
//!                         │  └───────── a fault ─────────┼──────────┘
//!     nothing stops it    │  gone, or too often           │ closed
//!   Lost ◄────────────────┴──────────────────► Stopped ◄──┘
//! ```
//!
//! Invariants:
//! - No other change happens: [`Word::with_state`] refuses it.
//! - In `Starting`, `Running`, `Stopping` and `Lost` the controller may use memory that it was told of; in `Quiet` and
//!   `Stopped` it provably uses none. From `Quiet` on it is told of no request's memory until its lane has joined again.
//! - Each `Stopping` has a number of its own, the *epoch*: whoever joined in an earlier one has nothing with the controller
//!   once the state is none of `Stopping` and `Lost`.

/// What becomes of a controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum State {
    /// It is being enabled and set up: for the first time, or again.
    Starting,
    /// It is driven.
    Running,
    /// It failed and is being stopped.
    Stopping,
    /// It uses no memory, and is to be started again.
    Quiet,
    /// It uses no memory any more, and is given up.
    Stopped,
    /// It is given up, and may use memory for ever.
    Lost,
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] =
        [State::Starting, State::Running, State::Stopping, State::Quiet, State::Stopped, State::Lost];

    /// Whether `next` may follow.
    pub const fn may_become(self, next: State) -> bool {
        matches!(
            (self, next),
            (State::Starting, State::Running | State::Stopping)
                | (State::Running, State::Stopping)
                | (State::Stopping, State::Quiet | State::Stopped | State::Lost)
                | (State::Quiet, State::Starting | State::Stopped)
        )
    }

    /// Whether nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, State::Stopped | State::Lost)
    }

    const fn of(raw: u8) -> State {
        match raw {
            0 => State::Starting,
            1 => State::Running,
            2 => State::Stopping,
            3 => State::Quiet,
            4 => State::Stopped,
            _ => State::Lost,
        }
    }
}

/// The state, the epoch, the tick of the deadlines, and whether there is something else to look at. A lane compares it with the one that it acted on last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word(u64);

const STATE_MASK: u64 = 0b111;
/// Counts what lanes are to look at beyond state and tick, wrapping around.
const NOTICE_SHIFT: u32 = 3;
const TICK_SHIFT: u32 = 8;
const EPOCH_SHIFT: u32 = 32;

impl Word {
    /// In this state, in epoch 0, at tick 0.
    pub const fn new(state: State) -> Word {
        Word(state as u64)
    }

    /// As it is stored.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// As it was stored.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Word {
        Word(raw)
    }

    /// The state.
    pub const fn state(self) -> State {
        State::of((self.0 & STATE_MASK) as u8)
    }

    /// The tick, which wraps around.
    pub const fn tick(self) -> u32 {
        self.0 as u32 >> TICK_SHIFT
    }

    /// How often it was stopped.
    pub const fn epoch(self) -> u32 {
        (self.0 >> EPOCH_SHIFT) as u32
    }

    /// In `next` instead; `None` if that may not follow. A new `Stopping` begins an epoch.
    pub const fn with_state(self, next: State) -> Option<Word> {
        if !self.state().may_become(next) {
            return None;
        }
        let word = self.0 & !STATE_MASK | next as u64;
        Some(Word(if matches!(next, State::Stopping) { word.wrapping_add(1 << EPOCH_SHIFT) } else { word }))
    }

    /// One tick later.
    pub const fn ticked(self) -> Word {
        self.counted(TICK_SHIFT, EPOCH_SHIFT)
    }

    /// With something new to look at.
    pub const fn noticed(self) -> Word {
        self.counted(NOTICE_SHIFT, TICK_SHIFT)
    }

    /// With one more in the bits from `from` up to `to`, which wraps around.
    const fn counted(self, from: u32, to: u32) -> Word {
        let mask = (1 << to) - (1 << from);
        Word(self.0 & !mask | self.0.wrapping_add(1 << from) & mask)
    }
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} in epoch {}", self.state(), self.epoch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_one_another_as_drawn_and_not_otherwise() {
        use State::{Lost, Quiet, Running, Starting, Stopped, Stopping};
        let drawn = [
            (Starting, Running),
            (Starting, Stopping),
            (Running, Stopping),
            (Stopping, Quiet),
            (Stopping, Stopped),
            (Stopping, Lost),
            (Quiet, Starting),
            (Quiet, Stopped),
        ];
        for from in State::ALL {
            for to in State::ALL {
                let allowed = drawn.contains(&(from, to));
                assert_eq!(from.may_become(to), allowed, "{from:?} to {to:?}");
                assert_eq!(Word::new(from).with_state(to).is_some(), allowed, "{from:?} to {to:?}");
            }
            assert_eq!(from.is_final(), !drawn.iter().any(|(before, _)| *before == from));
            assert_eq!(State::of(from as u8), from);
        }
    }

    #[test]
    fn a_word_keeps_its_parts_apart() {
        let mut word = Word::new(State::Running);
        for _ in 0..(1 << 24) + 3 {
            word = word.ticked();
        }
        assert_eq!((word.state(), word.epoch()), (State::Running, 0), "ticks wrap around by themselves");
        let stopped = word.with_state(State::Stopping).unwrap();
        assert_eq!((stopped.state(), stopped.epoch()), (State::Stopping, 1));
        let quiet = stopped.with_state(State::Quiet).unwrap();
        let again = quiet.with_state(State::Starting).unwrap().with_state(State::Stopping).unwrap();
        assert_eq!((quiet.epoch(), again.epoch()), (1, 2));
        assert_ne!(quiet.ticked(), quiet);
        assert_eq!((quiet.ticked().tick(), quiet.noticed().tick()), (quiet.tick() + 1, quiet.tick()));
        let mut noticed = quiet;
        for _ in 0..31 {
            noticed = noticed.noticed();
            assert_ne!(noticed, quiet);
            assert_eq!((noticed.state(), noticed.epoch()), (State::Quiet, 1));
        }
        assert_eq!(noticed.noticed(), quiet, "it wraps around by itself");
        assert_eq!(Word::from_raw(quiet.raw()), quiet);
    }
}
