//! A zone's states, and where actions lead (Zoned Namespace Command Set 1.1, figures 5 and 41).

use crate::wire::status::Status;

/// The state of a zone, with its number in reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    Empty = 0x1,
    ImplicitlyOpen = 0x2,
    ExplicitlyOpen = 0x3,
    Closed = 0x4,
    ReadOnly = 0xD,
    Full = 0xE,
    Offline = 0xF,
}

/// What Zone Management Send can do to a zone's state, with its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Action {
    Close = 1,
    Finish = 2,
    Open = 3,
    Reset = 4,
    Offline = 5,
}

impl State {
    /// Whether it counts as open.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, State::ImplicitlyOpen | State::ExplicitlyOpen)
    }

    /// Whether it counts as active.
    pub(crate) fn is_active(self) -> bool {
        self.is_open() || self == State::Closed
    }

    /// Whether there is a write pointer.
    pub(crate) fn has_pointer(self) -> bool {
        self.is_active() || self == State::Empty
    }

    /// Whether there is nothing to be read.
    pub(crate) fn has_no_data(self) -> bool {
        matches!(self, State::Empty | State::Offline)
    }

    /// Whether a zone in this state can be written at all.
    pub(crate) fn check_write(self) -> Result<(), Status> {
        match self {
            State::Full => Err(Status::ZONE_FULL.dnr()),
            State::ReadOnly => Err(Status::ZONE_READ_ONLY.dnr()),
            State::Offline => Err(Status::ZONE_OFFLINE.dnr()),
            _ => Ok(()),
        }
    }
}

impl Action {
    /// By its number.
    pub(crate) fn of(number: u8) -> Option<Action> {
        [Action::Close, Action::Finish, Action::Open, Action::Reset, Action::Offline]
            .into_iter()
            .find(|action| *action as u8 == number)
    }

    /// Where it leads from a state; `None` where it leads nowhere.
    pub(crate) fn leads(self, from: State) -> Option<State> {
        match (self, from) {
            (Action::Close, state) if state.is_active() => Some(State::Closed),
            (Action::Open, state) if state.is_active() || state == State::Empty => {
                Some(State::ExplicitlyOpen)
            }
            (Action::Finish, state) if state.has_pointer() || state == State::Full => Some(State::Full),
            (Action::Reset, state) if state.has_pointer() || state == State::Full => Some(State::Empty),
            (Action::Offline, State::ReadOnly | State::Offline) => Some(State::Offline),
            _ => None,
        }
    }

    /// Whether it concerns a zone in this state when all zones are meant.
    pub(crate) fn chooses(self, state: State) -> bool {
        match self {
            Action::Close => state.is_open(),
            Action::Open => state == State::Closed,
            Action::Finish => state.is_active(),
            Action::Reset => state.is_active() || state == State::Full,
            Action::Offline => state == State::ReadOnly,
        }
    }
}
