//! Placement by hand, and against a device that knows its pointers.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const ZONE: u64 = 64;
const CAPACITY: u64 = 48;

fn rules(zones: u64, most_open: usize, resets: bool, order: Order) -> ZoneRules {
    let region = Region { offset_bytes: 2 * ZONE, size_bytes: zones * ZONE };
    ZoneRules { zone_bytes: ZONE, region, most_open, resets, order, align_bytes: 4 }
}

fn empty(count: usize) -> Vec<ZoneStart> {
    vec![ZoneStart { capacity_bytes: CAPACITY, written_bytes: 0 }; count]
}

fn io(direction: Direction, zone: u64, within: u64, bytes: u32) -> Io {
    Io { offset: (2 + zone) * ZONE + within, bytes, direction }
}

fn write(zone: u64, within: u64, bytes: u32) -> Io {
    io(Direction::Write, zone, within, bytes)
}

/// Where an I/O was placed: zone, place within, length.
fn spot(placed: Placed) -> (u64, u64, u32) {
    let Placed::At(io) = placed else { panic!("{placed:?}") };
    (io.offset / ZONE - 2, io.offset % ZONE, io.bytes)
}

#[test]
fn sequential_writes_fill_the_capacity_and_go_on_in_the_next_zone() {
    let mut plan = ZonePlan::new(rules(2, usize::MAX, true, Order::Sequential), &empty(2));
    let mut places = Vec::new();
    for zone in 0..2 {
        for within in (0..ZONE).step_by(16) {
            match plan.place(write(zone, within, 16)) {
                Placed::Beyond => assert!(within >= CAPACITY),
                placed => places.push(spot(placed)),
            }
        }
    }
    assert_eq!(places, [(0, 0, 16), (0, 16, 16), (0, 32, 16), (1, 0, 16), (1, 16, 16), (1, 32, 16)]);
    // And again: only after all of the zone has ended.
    assert_eq!(plan.place(write(0, 0, 16)), Placed::Wait);
    for within in [0, 16, 32] {
        plan.ended(&write(0, within, 16), true);
    }
    assert_eq!(plan.place(write(0, 0, 16)), Placed::Reset(0));
    plan.reset(0);
    assert_eq!(spot(plan.place(write(0, 0, 16))), (0, 0, 16));
}

#[test]
fn random_writes_go_to_the_pointer_and_no_more_zones_are_open_than_may_be() {
    let mut plan = ZonePlan::new(rules(4, 2, true, Order::Random), &empty(4));
    assert_eq!(spot(plan.place(write(3, 20, 8))), (3, 0, 8));
    assert_eq!(spot(plan.place(write(1, 60, 8))), (1, 0, 8));
    let (zone, within, _) = spot(plan.place(write(0, 4, 8)));
    assert!([1, 3].contains(&zone) && within == 8, "a third zone may not be opened: {zone} {within}");
    // One that is nearly full takes what fits.
    assert_eq!(spot(plan.place(write(zone, 0, 24))), (zone, 16, 24));
    assert_eq!(spot(plan.place(write(zone, 0, 24))), (zone, 40, 8));
    assert_ne!(spot(plan.place(write(0, 4, 8))).0, 0, "it is full when its writes have ended");
    for (within, bytes) in [(0, 8), (8, 8), (16, 24), (40, 8)] {
        plan.ended(&write(zone, within, bytes), true);
    }
    assert_eq!(spot(plan.place(write(0, 4, 8))), (0, 0, 8), "now there is room for another");
}

#[test]
fn what_must_not_be_lost_is_not_reset() {
    let started = [(CAPACITY, CAPACITY), (CAPACITY, 40), (0, 0)]
        .map(|(capacity_bytes, written_bytes)| ZoneStart { capacity_bytes, written_bytes });
    let mut plan = ZonePlan::new(rules(3, usize::MAX, false, Order::Random), &started);
    assert_eq!(plan.used(), [0, 1]);
    assert_eq!(spot(plan.place(write(0, 0, 8))), (1, 40, 8));
    assert_eq!(plan.place(write(0, 0, 8)), Placed::Full);
    assert_eq!(plan.place(write(2, 0, 8)), Placed::Full, "one that is of no use");
}

#[test]
fn a_zone_whose_write_failed_is_full() {
    let mut plan = ZonePlan::new(rules(1, 1, true, Order::Random), &empty(1));
    let first = write(0, 0, 8);
    spot(plan.place(first));
    plan.ended(&first, false);
    assert_eq!(plan.place(first), Placed::Reset(0));
}

#[test]
fn reads_are_kept_to_what_was_written() {
    let started =
        [0, 20, CAPACITY].map(|written_bytes| ZoneStart { capacity_bytes: CAPACITY, written_bytes });
    let read = |zone, within, bytes| io(Direction::Read, zone, within, bytes);
    let mut random = ZonePlan::new(rules(3, 1, true, Order::Random), &started);
    assert_eq!(random.most_written(), CAPACITY);
    assert_eq!(spot(random.place(read(1, 8, 8))), (1, 8, 8));
    let (zone, within, _) = spot(random.place(read(0, 40, 8)));
    assert!(zone == 1 && within <= 12 && within.is_multiple_of(4));
    assert_eq!(spot(random.place(read(1, 0, 24))).0, 2, "the next that has as much");
    let mut sequential = ZonePlan::new(rules(3, 1, true, Order::Sequential), &started);
    assert_eq!(sequential.place(read(0, 0, 8)), Placed::Beyond);
    assert_eq!(sequential.place(read(1, 16, 8)), Placed::Beyond);
    assert_eq!(spot(sequential.place(read(1, 8, 8))), (1, 8, 8));
}

/// A zoned device: it knows the pointers, and how many zones are partly written.
#[derive(Clone)]
struct Device {
    written: Vec<u64>,
}

impl Device {
    fn take(&mut self, io: Io) {
        let (zone, within) = ((io.offset / ZONE - 2) as usize, io.offset % ZONE);
        match io.direction {
            Direction::Write => {
                assert_eq!(self.written[zone], within, "not at the pointer: {io:?}");
                self.written[zone] += u64::from(io.bytes);
                assert!(self.written[zone] <= CAPACITY);
            }
            _ => assert!(within + u64::from(io.bytes) <= self.written[zone], "not written: {io:?}"),
        }
    }
}

proptest! {
    #[test]
    fn a_device_takes_what_is_placed(
        ios in prop::collection::vec((any::<bool>(), 0u64..5, 0u64..16, 1u32..5), 1..300),
        most_open in 1usize..4,
        resets: bool,
        depth in 1usize..6,
    ) {
        let mut plan = ZonePlan::new(rules(5, most_open, resets, Order::Random), &empty(5));
        let mut device = Device { written: vec![0; 5] };
        let mut flying: VecDeque<Io> = VecDeque::new();
        for (reads, zone, slot, units) in ios {
            let direction = if reads { Direction::Read } else { Direction::Write };
            let mut placed = plan.place(io(direction, zone, slot * 4, units * 4));
            loop {
                match placed {
                    Placed::At(placed) => {
                        device.take(placed);
                        flying.push_back(placed);
                    }
                    Placed::Wait => {
                        let ended = flying.pop_front().expect("something is in flight");
                        plan.ended(&ended, true);
                        placed = plan.place(io(direction, zone, slot * 4, units * 4));
                        continue;
                    }
                    Placed::Reset(zone) => {
                        prop_assert!(resets);
                        prop_assert!(flying.iter().all(|io| (io.offset / ZONE - 2) as usize != zone));
                        device.written[zone] = 0;
                        plan.reset(zone);
                        placed = plan.place(io(direction, zone as u64, slot * 4, units * 4));
                        continue;
                    }
                    Placed::Beyond => prop_assert!(reads && device.written.iter().all(|&of| of < u64::from(units) * 4)),
                    Placed::Full => prop_assert!(!resets && device.written.iter().all(|&of| of == CAPACITY)),
                }
                break;
            }
            // A write that has not ended may not have been done either.
            let writing = |zone: usize| {
                let is_there = |io: &&Io| (io.offset / ZONE - 2) as usize == zone && io.direction == Direction::Write;
                flying.iter().any(|io| is_there(&io))
            };
            let open = (0..5).filter(|&zone| {
                let written = device.written[zone];
                written > 0 && written < CAPACITY || writing(zone)
            });
            prop_assert!(open.count() <= most_open);
            if flying.len() >= depth {
                let ended = flying.pop_front().expect("there are some");
                plan.ended(&ended, true);
            }
        }
    }
}
