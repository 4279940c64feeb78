//! Where the reads and writes of a job go on a zoned device: fio's `zonemode=zbd`. Pure computation; the runner resets zones.
//!
//! A write goes where its zone's pointer is; the pointer moves when the write is placed, so that any number of them can be in
//! flight. No more zones than may be open are partly written at once: while so many are, a write that would begin another goes to
//! one of them. A full zone is reset when a write comes to it again, unless nothing may be lost. A read is kept to what was
//! written of its zone.
//!
//! Invariants: no byte behind a zone's capacity is touched; a zone is reset only while nothing is in flight in it; `open` has
//! exactly the zones that are partly written on the device, or may be: also a full one, until the last write to it has ended.

use super::config::{Direction, Order, Region};
use super::generator::Io;

/// A zone when the job starts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ZoneStart {
    /// How much of it can be written, in bytes; 0 of one that can be neither written nor reset.
    pub capacity_bytes: u64,
    /// How much of it is written.
    pub written_bytes: u64,
}

/// How a job uses its zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneRules {
    /// The size of a zone.
    pub zone_bytes: u64,
    /// What the job works in: whole zones.
    pub region: Region,
    /// How many zones may be partly written at once, at least 1.
    pub most_open: usize,
    /// Whether a full zone is reset when a write comes to it; otherwise nothing is lost, and the job ends when all are full.
    pub resets: bool,
    /// The order of the job's offsets.
    pub order: Order,
    /// What the length of an I/O is a multiple of, so that a read that is moved stays aligned.
    pub align_bytes: u64,
}

/// What becomes of an I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// It is done there. [`ZonePlan::ended`] is owed for it.
    At(Io),
    /// Something in flight has to end first.
    Wait,
    /// The zone of this number in the region has to be reset first: [`ZonePlan::reset`].
    Reset(usize),
    /// There is nothing to do for it: no data to be read, no room in its zone.
    Beyond,
    /// All zones are full, and none is to be reset.
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    capacity: u64,
    written: u64,
    in_flight: u32,
    /// The writes among them.
    writing: u32,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct ZonePlan {
    rules: ZoneRules,
    zones: Vec<Zone>,
    /// The oldest first.
    open: Vec<usize>,
    /// Whose turn it is among the open ones.
    turn: usize,
}

impl ZonePlan {
    /// For a job on these zones, which are all of its region.
    pub fn new(rules: ZoneRules, zones: &[ZoneStart]) -> ZonePlan {
        let zone = |zone: &ZoneStart| Zone {
            capacity: zone.capacity_bytes,
            written: zone.written_bytes.min(zone.capacity_bytes),
            in_flight: 0,
            writing: 0,
        };
        let zones: Vec<Zone> = zones.iter().map(zone).collect();
        let partly = |zone: &Zone| zone.written > 0 && zone.written < zone.capacity;
        let open = (0..zones.len()).filter(|&at| partly(&zones[at])).collect();
        ZonePlan { rules, zones, open, turn: 0 }
    }

    /// The longest run of written bytes in a zone.
    pub fn most_written(&self) -> u64 {
        self.zones.iter().map(|zone| zone.written).max().unwrap_or(0)
    }

    /// The zones that something is written in.
    pub fn used(&self) -> Vec<usize> {
        (0..self.zones.len()).filter(|&at| self.zones[at].written > 0).collect()
    }

    /// Where a zone begins, in bytes from the start of the device.
    pub fn start_of(&self, zone: usize) -> u64 {
        self.rules.region.offset_bytes + zone as u64 * self.rules.zone_bytes
    }

    /// Places an I/O of the generator.
    pub fn place(&mut self, io: Io) -> Placed {
        let within_region = io.offset.saturating_sub(self.rules.region.offset_bytes);
        let zone = (within_region / self.rules.zone_bytes) as usize;
        let within = within_region % self.rules.zone_bytes;
        if zone >= self.zones.len() {
            return Placed::Beyond;
        }
        match io.direction {
            Direction::Read => self.place_read(io, zone, within),
            Direction::Write => self.place_write(io, zone, within),
            // A reset in fio; refused with the job's options.
            Direction::Trim => Placed::Beyond,
        }
    }

    fn place_read(&mut self, io: Io, zone: usize, within: u64) -> Placed {
        let bytes = u64::from(io.bytes);
        if within + bytes <= self.zones[zone].written {
            return self.at(io, zone, within);
        }
        if self.rules.order == Order::Sequential {
            return Placed::Beyond;
        }
        let count = self.zones.len();
        let found = (zone..count).chain(0..zone).find(|&zone| self.zones[zone].written >= bytes);
        let Some(zone) = found else { return Placed::Beyond };
        let align = self.rules.align_bytes.max(1);
        let places = (self.zones[zone].written - bytes) / align + 1;
        self.at(io, zone, within / align % places * align)
    }

    fn place_write(&mut self, io: Io, zone: usize, within: u64) -> Placed {
        let Zone { capacity, written, in_flight, .. } = self.zones[zone];
        if self.rules.order == Order::Sequential && within >= capacity {
            return Placed::Beyond;
        }
        let crowded = self.open.len() >= self.rules.most_open;
        let target = if written > 0 && written < capacity || written == 0 && capacity > 0 && !crowded {
            zone
        } else if crowded {
            // Whether it is full or empty, it would be one too many.
            match self.next_open() {
                Some(zone) => zone,
                None => return Placed::Wait,
            }
        } else if self.rules.resets && capacity > 0 {
            return if in_flight > 0 { Placed::Wait } else { Placed::Reset(zone) };
        } else {
            match self.with_room(zone) {
                Some(zone) => zone,
                None => return Placed::Full,
            }
        };
        let Zone { capacity, written, .. } = self.zones[target];
        let bytes = u64::from(io.bytes).min(capacity - written);
        if written == 0 {
            self.open.push(target);
        }
        self.zones[target].written += bytes;
        self.zones[target].writing += 1;
        self.at(Io { bytes: bytes as u32, ..io }, target, written)
    }

    /// The open zone with room whose turn it is.
    fn next_open(&mut self) -> Option<usize> {
        let count = self.open.len();
        let next =
            (1..=count).map(|step| (self.turn + step) % count).find(|&at| self.has_room(self.open[at]))?;
        self.turn = next;
        Some(self.open[next])
    }

    fn has_room(&self, zone: usize) -> bool {
        self.zones[zone].written < self.zones[zone].capacity
    }

    /// A zone with room: one that is partly written, else the next that is empty.
    fn with_room(&self, from: usize) -> Option<usize> {
        let partly = self.open.iter().copied().find(|&zone| self.has_room(zone));
        partly.or_else(|| (from..self.zones.len()).chain(0..from).find(|&zone| self.has_room(zone)))
    }

    fn at(&mut self, io: Io, zone: usize, within: u64) -> Placed {
        self.zones[zone].in_flight += 1;
        Placed::At(Io { offset: self.start_of(zone) + within, ..io })
    }

    /// An I/O that was placed has ended. After a write that failed nobody knows how far its zone is written: it counts as full.
    pub fn ended(&mut self, io: &Io, ok: bool) {
        let zone =
            (io.offset.saturating_sub(self.rules.region.offset_bytes) / self.rules.zone_bytes) as usize;
        let Some(state) = self.zones.get_mut(zone) else { return };
        state.in_flight = state.in_flight.saturating_sub(1);
        if io.direction != Direction::Write {
            return;
        }
        state.writing = state.writing.saturating_sub(1);
        if !ok {
            state.written = state.capacity;
        }
        if state.writing == 0 && state.written == state.capacity {
            self.open.retain(|&open| open != zone);
        }
    }

    /// A zone was reset: it is empty.
    pub fn reset(&mut self, zone: usize) {
        self.zones[zone].written = 0;
        self.open.retain(|&open| open != zone);
    }
}

#[cfg(test)]
mod tests;
