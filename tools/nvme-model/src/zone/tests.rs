use proptest::prelude::*;

use super::*;

const SIZE: u64 = 8;
const COUNT: u64 = 6;

/// The plain reference: each zone by itself, limits found by counting, every rule of the specification written out.
struct Plain {
    capacity: u64,
    max_open: usize,
    max_active: usize,
    zones: Vec<(State, u64)>,
}

impl Plain {
    fn count(&self, states: &[State]) -> usize {
        self.zones.iter().filter(|zone| states.contains(&zone.0)).count()
    }

    /// Makes room for one more open zone, and one more active one if it is not active yet.
    fn open(&mut self, index: usize, to: State) -> Result<(), Status> {
        use State::*;
        let from = self.zones[index].0;
        if from == Empty
            && self.max_active > 0
            && self.count(&[ImplicitlyOpen, ExplicitlyOpen, Closed]) >= self.max_active
        {
            return Err(Status::TOO_MANY_ACTIVE);
        }
        let is_new = from == Empty || from == Closed;
        if is_new && self.max_open > 0 && self.count(&[ImplicitlyOpen, ExplicitlyOpen]) >= self.max_open {
            let Some(other) = self.zones.iter().position(|zone| zone.0 == ImplicitlyOpen) else {
                return Err(Status::TOO_MANY_OPEN);
            };
            self.zones[other].0 = Closed;
        }
        self.zones[index].0 = to;
        Ok(())
    }

    fn write(&mut self, first: u64, count: u64) -> Result<(), Status> {
        let (index, at) = ((first / SIZE) as usize, first % SIZE);
        let (state, written) = self.zones[index];
        match state {
            State::Full => return Err(Status::ZONE_FULL),
            State::ReadOnly => return Err(Status::ZONE_READ_ONLY),
            State::Offline => return Err(Status::ZONE_OFFLINE),
            _ if at != written => return Err(Status::ZONE_INVALID_WRITE),
            _ if at + count > self.capacity => return Err(Status::ZONE_BOUNDARY),
            State::ExplicitlyOpen => {}
            _ => self.open(index, State::ImplicitlyOpen)?,
        }
        self.zones[index].1 = written + count;
        if written + count == self.capacity {
            self.zones[index].0 = State::Full;
        }
        Ok(())
    }

    fn act(&mut self, index: usize, action: Action) -> Result<(), Status> {
        use State::*;
        match (action, self.zones[index].0) {
            (Action::Open, Empty | Closed | ImplicitlyOpen | ExplicitlyOpen) => {
                self.open(index, ExplicitlyOpen)?
            }
            (Action::Close, ImplicitlyOpen | ExplicitlyOpen | Closed) => self.zones[index].0 = Closed,
            (Action::Finish, Empty | ImplicitlyOpen | ExplicitlyOpen | Closed | Full) => {
                self.zones[index] = (Full, self.capacity);
            }
            (Action::Reset, Empty | ImplicitlyOpen | ExplicitlyOpen | Closed | Full) => {
                self.zones[index] = (Empty, 0);
            }
            (Action::Offline, ReadOnly | Offline) => self.zones[index].0 = Offline,
            _ => return Err(Status::ZONE_INVALID_TRANSITION),
        }
        Ok(())
    }

    fn act_on_all(&mut self, action: Action) -> Result<(), Status> {
        use State::*;
        let chosen: &[State] = match action {
            Action::Open => &[Closed],
            Action::Close => &[ImplicitlyOpen, ExplicitlyOpen],
            Action::Finish => &[ImplicitlyOpen, ExplicitlyOpen, Closed],
            Action::Reset => &[ImplicitlyOpen, ExplicitlyOpen, Closed, Full],
            Action::Offline => &[ReadOnly],
        };
        let open = self.count(&[ImplicitlyOpen, ExplicitlyOpen]);
        if action == Action::Open && self.max_open > 0 && open + self.count(&[Closed]) > self.max_open {
            return Err(Status::TOO_MANY_OPEN);
        }
        for index in 0..self.zones.len() {
            if chosen.contains(&self.zones[index].0) {
                self.act(index, action)?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Do {
    Write(u64, u64),
    WriteAtPointer(usize, u64),
    Append(usize, u64),
    Act(usize, u8),
    ActOnAll(u8),
}

fn anything() -> impl Strategy<Value = Do> {
    let zone = 0..COUNT as usize;
    prop_oneof![
        (0..SIZE * COUNT, 1..SIZE).prop_map(|(first, count)| Do::Write(first, count)),
        (zone.clone(), 1..SIZE).prop_map(|(zone, count)| Do::WriteAtPointer(zone, count)),
        (zone.clone(), 1..SIZE).prop_map(|(zone, count)| Do::Append(zone, count)),
        (zone, 1..6u8).prop_map(|(zone, action)| Do::Act(zone, action)),
        (1..6u8).prop_map(Do::ActOnAll),
    ]
}

fn bare<T>(result: Result<T, Status>) -> Result<(), Status> {
    result.map(drop).map_err(|status| Status(status.0 & 0x7FF))
}

proptest! {
    #[test]
    fn zones_do_what_the_reference_does(
        capacity in 1..=SIZE, (max_open, more) in (0..4u32, 0..3u32),
        (read_only, offline) in (0..2u32, 0..2u32),
        steps in proptest::collection::vec(anything(), 1..120),
    ) {
        // Without a limit on open zones there is none on active ones either.
        let max_active = if max_open == 0 || more == 2 { 0 } else { max_open + more };
        let config = ZoneConfig {
            capacity_bytes: capacity << 9, max_open, max_active, read_only, offline, ..ZoneConfig::new(SIZE << 9)
        };
        config.validate((SIZE * COUNT) << 9, 9).unwrap();
        let mut zones = Zones::new(&config, SIZE * COUNT, 9);
        let states = zones.from(0).map(|zone| (zone.state, 0)).collect();
        let mut plain =
            Plain { capacity, max_open: max_open as usize, max_active: max_active as usize, zones: states };
        for step in steps {
            let start = |zone: usize| zone as u64 * SIZE;
            let mut write = |first: u64, count: u64| {
                zones.check_write(first, count).map(|()| zones.written(first, count))
            };
            let (got, wanted) = match step {
                Do::Write(first, count) => (bare(write(first, count)), plain.write(first, count)),
                Do::WriteAtPointer(zone, count) => {
                    let first = start(zone) + plain.zones[zone].1.min(SIZE - 1);
                    (bare(write(first, count)), plain.write(first, count))
                }
                Do::Append(zone, count) => {
                    let pointer = start(zone) + plain.zones[zone].1;
                    let at = zones.append_at(start(zone), count);
                    if let Ok(at) = at {
                        prop_assert_eq!(at, pointer);
                        zones.written(at, count);
                    }
                    // At the pointer there is no other refusal than of the zone itself.
                    (bare(at), plain.write(pointer.min(start(zone) + SIZE - 1), count))
                }
                Do::Act(zone, number) => {
                    let action = Action::of(number).unwrap();
                    let had_data = !matches!(plain.zones[zone].0, State::Empty | State::Offline);
                    let got = zones.act(start(zone), action);
                    let wanted = plain.act(zone, action);
                    let loses = had_data && matches!(plain.zones[zone].0, State::Empty | State::Offline);
                    prop_assert!(got.is_err() || got == Ok(loses));
                    (bare(got), wanted)
                }
                Do::ActOnAll(number) => {
                    let action = Action::of(number).unwrap();
                    (bare(zones.act_on_all(action)), plain.act_on_all(action))
                }
            };
            prop_assert_eq!(got, wanted, "{:?}", step);
            let shown: Vec<_> = zones.from(0).map(|zone| (zone.state, zone.pointer)).collect();
            let expected: Vec<_> = plain.zones.iter().enumerate().map(|(index, (state, written))| {
                let none = matches!(state, State::Full | State::ReadOnly | State::Offline);
                (*state, (!none).then_some(start(index) + written))
            }).collect();
            prop_assert_eq!(shown, expected, "{:?}", step);
            prop_assert_eq!(zones.open as usize, plain.count(&[State::ImplicitlyOpen, State::ExplicitlyOpen]));
        }
    }
}

#[test]
fn reads_stay_in_their_zone_and_off_dead_ones() {
    let config = ZoneConfig { offline: 1, read_only: 1, ..ZoneConfig::new(SIZE << 9) };
    let zones = Zones::new(&config, SIZE * COUNT, 9);
    assert_eq!(zones.check_read(0, SIZE), Ok(()));
    assert_eq!(bare(zones.check_read(7, 2)), Err(Status::ZONE_BOUNDARY));
    assert_eq!(zones.check_read(4 * SIZE, 1), Ok(()), "it is read-only");
    assert_eq!(bare(zones.check_read(5 * SIZE, 1)), Err(Status::ZONE_OFFLINE));
    let crossing = Zones::new(&ZoneConfig { cross_reads: true, ..config }, SIZE * COUNT, 9);
    assert_eq!(crossing.check_read(7, 2), Ok(()));
    assert_eq!(bare(crossing.check_read(5 * SIZE - 1, 2)), Err(Status::ZONE_OFFLINE));
}

#[test]
fn an_extension_goes_with_a_reset() {
    let config = ZoneConfig { extension_bytes: 64, max_open: 1, max_active: 1, ..ZoneConfig::new(SIZE << 9) };
    let mut zones = Zones::new(&config, SIZE * COUNT, 9);
    zones.set_extension(0, &[7; 64]).unwrap();
    assert_eq!(bare(zones.set_extension(0, &[7; 64])), Err(Status::ZONE_INVALID_TRANSITION));
    assert_eq!(bare(zones.set_extension(SIZE, &[7; 64])), Err(Status::TOO_MANY_ACTIVE));
    assert_eq!(zones.from(0).next().unwrap().extension, Some(&[7; 64][..]));
    assert_eq!(zones.from(0).next().unwrap().state, State::Closed);
    zones.act(0, Action::Reset).unwrap();
    assert_eq!(zones.from(0).next().unwrap().extension, None);
}

#[test]
fn every_wrong_value_is_named() {
    let good = ZoneConfig::new(1 << 20);
    let cases = [
        (ZoneConfig { zone_bytes: 0, ..good }, "size"),
        (ZoneConfig { zone_bytes: 1 << 40, ..good }, "size"),
        (ZoneConfig { zone_bytes: 4096, ..good }, "number of zones"),
        (ZoneConfig { capacity_bytes: 2 << 20, ..good }, "capacity"),
        (ZoneConfig { capacity_bytes: 100, ..good }, "capacity"),
        (ZoneConfig { max_active: 2, max_open: 3, ..good }, "open zones"),
        (ZoneConfig { max_active: 2, ..good }, "open zones"),
        (ZoneConfig { extension_bytes: 63, ..good }, "extension"),
        (ZoneConfig { offline: 1 << 16, ..good }, "offline"),
    ];
    for (config, word) in cases {
        let error = config.validate(16 << 30, 12).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    good.validate(16 << 30, 12).unwrap();
}
