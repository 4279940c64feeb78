//! The zones of a namespace: their states, and which commands each state takes (Zoned Namespace Command Set 1.1, section 2.1).
//!
//! Invariants:
//! - `open` and `active` count the zones in the states that say so, and are never above their limits.
//! - What is refused changes nothing.
//! - A zone that is full has its write pointer at its capacity; an empty one at its start.

mod config;
mod state;

pub use config::ZoneConfig;
pub(crate) use state::{Action, State};

use crate::wire::status::Status;

/// A zone.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Zone {
    state: State,
    /// Blocks from the start up to the write pointer.
    written: u64,
    /// The descriptor extension, if one was set.
    extension: Option<Box<[u8]>>,
}

/// A zone as reports have it. In blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View<'a> {
    pub(crate) state: State,
    pub(crate) start: u64,
    pub(crate) capacity: u64,
    /// `None` in states where it means nothing: full, read-only, offline.
    pub(crate) pointer: Option<u64>,
    pub(crate) extension: Option<&'a [u8]>,
}

/// The zones of one namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Zones {
    size: u64,
    capacity: u64,
    max_open: u32,
    max_active: u32,
    cross_reads: bool,
    extension_bytes: usize,
    zones: Vec<Zone>,
    open: u32,
    active: u32,
}

impl Zones {
    /// The zones of a namespace with `blocks` blocks of `1 << lba_shift` bytes. The configuration was checked.
    pub(crate) fn new(config: &ZoneConfig, blocks: u64, lba_shift: u8) -> Zones {
        let size = config.zone_bytes >> lba_shift;
        let count = (blocks / size) as usize;
        let state = |index: usize| match (count - index) as u32 {
            left if left <= config.offline => State::Offline,
            left if left <= config.offline + config.read_only => State::ReadOnly,
            _ => State::Empty,
        };
        let zones =
            (0..count).map(|index| Zone { state: state(index), written: 0, extension: None }).collect();
        Zones {
            size,
            capacity: config.capacity_bytes >> lba_shift,
            max_open: config.max_open,
            max_active: config.max_active,
            cross_reads: config.cross_reads,
            extension_bytes: config.extension_bytes,
            zones,
            open: 0,
            active: 0,
        }
    }

    /// Blocks of all zones.
    pub(crate) fn blocks(&self) -> u64 {
        self.zones.len() as u64 * self.size
    }

    /// Blocks of a zone.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of a descriptor extension; 0 if there are none.
    pub(crate) fn extension_bytes(&self) -> usize {
        self.extension_bytes
    }

    /// The zones from the one that `block` is in.
    pub(crate) fn from(&self, block: u64) -> impl Iterator<Item = View<'_>> {
        let first = usize::try_from(block / self.size).unwrap_or(usize::MAX).min(self.zones.len());
        self.zones[first..].iter().zip(first as u64..).map(|(zone, index)| {
            let start = index * self.size;
            let pointer = zone.state.has_pointer().then_some(start + zone.written);
            let extension = zone.extension.as_deref();
            View { state: zone.state, start, capacity: self.capacity, pointer, extension }
        })
    }

    fn index(&self, block: u64) -> usize {
        (block / self.size) as usize
    }

    /// Whether `count` blocks from `first` on, which the namespace has, may be read.
    pub(crate) fn check_read(&self, first: u64, count: u64) -> Result<(), Status> {
        let (from, to) = (self.index(first), self.index(first + count - 1));
        if self.zones[from].state == State::Offline {
            return Err(Status::ZONE_OFFLINE.dnr());
        }
        if from != to && !self.cross_reads {
            return Err(Status::ZONE_BOUNDARY.dnr());
        }
        let offline = self.zones[from..=to].iter().any(|zone| zone.state == State::Offline);
        if offline { Err(Status::ZONE_OFFLINE.dnr()) } else { Ok(()) }
    }

    /// Whether `count` blocks from `first` on, which the namespace has, may be written.
    pub(crate) fn check_write(&self, first: u64, count: u64) -> Result<(), Status> {
        let zone = &self.zones[self.index(first)];
        zone.state.check_write()?;
        let at = first % self.size;
        if at != zone.written {
            return Err(Status::ZONE_INVALID_WRITE.dnr());
        }
        if at + count > self.capacity {
            return Err(Status::ZONE_BOUNDARY.dnr());
        }
        self.room_for(zone.state, State::ImplicitlyOpen).map(drop)
    }

    /// What [`check_write`](Self::check_write) allowed was written.
    pub(crate) fn written(&mut self, first: u64, count: u64) {
        let index = self.index(first);
        let full = self.zones[index].written + count == self.capacity;
        self.zones[index].written += count;
        let opened = match self.zones[index].state {
            State::ExplicitlyOpen => State::ExplicitlyOpen,
            _ => State::ImplicitlyOpen,
        };
        self.become_open(index, opened);
        if full {
            self.become_state(index, State::Full);
        }
    }

    /// Where `count` blocks would go that are appended to the zone that starts at `start`.
    pub(crate) fn append_at(&self, start: u64, count: u64) -> Result<u64, Status> {
        let zone = &self.zones[self.index(start)];
        zone.state.check_write()?;
        if zone.written + count > self.capacity {
            return Err(Status::ZONE_BOUNDARY.dnr());
        }
        self.room_for(zone.state, State::ImplicitlyOpen)?;
        Ok(start + zone.written)
    }

    /// Whether a zone may go from one state to another as far as the limits are concerned. Whether an implicitly open zone is
    /// to be closed to make room.
    fn room_for(&self, from: State, to: State) -> Result<bool, Status> {
        if to.is_active() && !from.is_active() && self.max_active != 0 && self.active >= self.max_active {
            return Err(Status::TOO_MANY_ACTIVE.dnr());
        }
        if to.is_open() && !from.is_open() && self.max_open != 0 && self.open >= self.max_open {
            let implicit = self.zones.iter().any(|zone| zone.state == State::ImplicitlyOpen);
            return if implicit { Ok(true) } else { Err(Status::TOO_MANY_OPEN.dnr()) };
        }
        Ok(false)
    }

    fn become_open(&mut self, index: usize, to: State) {
        if self.room_for(self.zones[index].state, to) == Ok(true)
            && let Some(other) = self.zones.iter().position(|zone| zone.state == State::ImplicitlyOpen)
        {
            self.become_state(other, State::Closed);
        }
        self.become_state(index, to);
    }

    fn become_state(&mut self, index: usize, to: State) {
        let from = std::mem::replace(&mut self.zones[index].state, to);
        self.open = self.open + u32::from(to.is_open()) - u32::from(from.is_open());
        self.active = self.active + u32::from(to.is_active()) - u32::from(from.is_active());
        match to {
            State::Full => self.zones[index].written = self.capacity,
            State::Empty => (self.zones[index].written, self.zones[index].extension) = (0, None),
            _ => {}
        }
    }

    /// Carries an action out on the zone that starts at `start`. Whether its data is gone.
    pub(crate) fn act(&mut self, start: u64, action: Action) -> Result<bool, Status> {
        let index = self.index(start);
        let from = self.zones[index].state;
        let Some(to) = action.leads(from) else { return Err(Status::ZONE_INVALID_TRANSITION.dnr()) };
        self.room_for(from, to)?;
        if to.is_open() {
            self.become_open(index, to);
        } else {
            self.become_state(index, to);
        }
        Ok(to.has_no_data() && !from.has_no_data())
    }

    /// Carries an action out on all zones that it makes sense for, or on none. The zones whose data is gone, by their starts.
    pub(crate) fn act_on_all(&mut self, action: Action) -> Result<Vec<u64>, Status> {
        let chosen = |zone: &Zone| action.chooses(zone.state);
        let count = self.zones.iter().filter(|zone| chosen(zone)).count() as u32;
        if action == Action::Open && self.max_open != 0 && self.open + count > self.max_open {
            return Err(Status::TOO_MANY_OPEN.dnr());
        }
        let mut gone = Vec::new();
        for index in 0..self.zones.len() {
            let start = index as u64 * self.size;
            if chosen(&self.zones[index]) && self.act(start, action)? {
                gone.push(start);
            }
        }
        Ok(gone)
    }

    /// Sets the descriptor extension of the zone that starts at `start`, which becomes closed.
    pub(crate) fn set_extension(&mut self, start: u64, bytes: &[u8]) -> Result<(), Status> {
        let index = self.index(start);
        if self.zones[index].state != State::Empty {
            return Err(Status::ZONE_INVALID_TRANSITION.dnr());
        }
        self.room_for(State::Empty, State::Closed)?;
        self.become_state(index, State::Closed);
        self.zones[index].extension = Some(bytes.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
