//! Zoned namespaces: what the controller says of them, reports, and commands to zones.

mod initiator;

use corelane_nvme_model::{DeviceError, Model, ModelConfig, NamespaceConfig, ZoneConfig};
use initiator::{Cmd, DATA, Initiator};

const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const ZEROES: u8 = 0x08;
const SEND: u8 = 0x79;
const RECEIVE: u8 = 0x7A;
const APPEND: u8 = 0x7D;
const IDENTIFY: u8 = 0x06;
const BLOCK: usize = 4096;
/// Blocks of a zone.
const ZONE: u64 = 16;

const CLOSE: u32 = 1;
const FINISH: u32 = 2;
const OPEN: u32 = 3;
const RESET: u32 = 4;
const ALL: u32 = 1 << 8;

fn config() -> ModelConfig {
    let zones = ZoneConfig {
        capacity_bytes: 12 * BLOCK as u64,
        max_open: 2,
        max_active: 3,
        extension_bytes: 64,
        read_only: 1,
        offline: 1,
        ..ZoneConfig::new(ZONE * BLOCK as u64)
    };
    // Eight zones, and a piece that is none.
    let zoned = NamespaceConfig { zones: Some(zones), ..NamespaceConfig::ram(8 * 16 * 4096 + 8192) };
    ModelConfig { zasl: 1, ..ModelConfig::new(vec![NamespaceConfig::ram(1 << 20), zoned]) }
}

fn started() -> Initiator {
    let mut host = Initiator::new(config());
    host.make_pair(1, 16);
    host
}

fn write(host: &mut Initiator, block: u64, count: u32, byte: u8) -> u16 {
    host.put(DATA, &vec![byte; count as usize * BLOCK]);
    host.put(DATA - 4096, &(1..16).flat_map(|page| (DATA + page * 4096).to_le_bytes()).collect::<Vec<u8>>());
    let second = if count == 2 { DATA + 4096 } else { DATA - 4096 };
    let second = if count == 1 { 0 } else { second };
    host.run(1, Cmd::new(WRITE, 2).prp(DATA, second).blocks(block, count)).status
}

fn read(host: &mut Initiator, block: u64) -> Result<u8, u16> {
    let done = host.run(1, Cmd::new(READ, 2).prp(DATA, 0).blocks(block, 1));
    if done.status == 0 { Ok(host.bytes(DATA, 1)[0]) } else { Err(done.status) }
}

fn append(host: &mut Initiator, start: u64, byte: u8) -> Result<u32, u16> {
    host.put(DATA, &[byte; BLOCK]);
    let done = host.run(1, Cmd::new(APPEND, 2).prp(DATA, 0).blocks(start, 1));
    if done.status == 0 { Ok(done.result) } else { Err(done.status) }
}

fn send(host: &mut Initiator, start: u64, action: u32) -> u16 {
    host.run(1, Cmd::new(SEND, 2).set(10, start as u32).set(13, action)).status
}

/// Number of zones, and the descriptors: state, capacity, start, pointer.
fn report(host: &mut Initiator, from: u64, options: u32, len: usize) -> (u64, Vec<(u8, u64, u64, u64)>) {
    let command = Cmd::new(RECEIVE, 2).prp(DATA, 0).set(10, from as u32);
    let done = host.run(1, command.set(12, len as u32 / 4 - 1).set(13, options));
    assert_eq!(done.status, 0);
    let bytes = host.bytes(DATA, len);
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let step = if options & 0xFF == 1 { 128 } else { 64 };
    let zones = (64..len - 63).step_by(step).filter(|at| bytes[*at] == 2);
    (word(0), zones.map(|at| (bytes[at + 1] >> 4, word(at + 8), word(at + 16), word(at + 24))).collect())
}

#[test]
fn the_controller_says_which_namespaces_are_zoned() {
    let mut host = started();
    let mut identify = |nsid: u32, cns: u32, csi: u32| {
        let done = host.run(0, Cmd::new(IDENTIFY, nsid).prp(DATA, 0).set(10, cns).set(11, csi << 24));
        (done.status, host.bytes(DATA, 4096))
    };
    let (_, zoned) = identify(2, 0x05, 2);
    assert_eq!(zoned[2..12], [0, 0, 2, 0, 0, 0, 1, 0, 0, 0], "no crossing, 3 active, 2 open");
    assert_eq!(zoned[2816..2825], [16, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(identify(1, 0x05, 2).0, 0x12C);
    assert_eq!(identify(2, 0x05, 0).0, 0x12C);
    assert_eq!(identify(0, 0x06, 2).1[0], 1, "ZASL");
    assert_eq!(identify(0, 0x07, 2).1[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(identify(0, 0x07, 0).1[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(identify(0, 0x02, 0).1[..8], [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(identify(2, 0x03, 0).1[12..17], [4, 1, 0, 0, 2]);
    assert_eq!(identify(1, 0x03, 0).1[12..17], [4, 1, 0, 0, 0]);
    assert_eq!(identify(0, 0x1C, 0).1[..16], [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(identify(2, 0x00, 0).1[..8], 128u64.to_le_bytes(), "whole zones");
    host.assert_clean();
}

#[test]
fn writes_go_to_the_pointer_and_nowhere_else() {
    let mut host = started();
    assert_eq!(write(&mut host, 0, 2, 7), 0);
    assert_eq!((read(&mut host, 1), read(&mut host, 2)), (Ok(7), Ok(0)));
    assert_eq!(write(&mut host, 0, 1, 8), 0x1BC, "invalid write");
    assert_eq!(write(&mut host, 3, 1, 8), 0x1BC);
    assert_eq!(write(&mut host, 2, 11, 8), 0x1B8, "beyond the capacity");
    assert_eq!(write(&mut host, 2, 10, 9), 0);
    assert_eq!(write(&mut host, 12, 1, 9), 0x1B9, "full");
    assert_eq!(write(&mut host, 6 * ZONE, 1, 9), 0x1BA, "read-only");
    assert_eq!(write(&mut host, 7 * ZONE, 1, 9), 0x1BB, "offline");
    assert_eq!(read(&mut host, 7 * ZONE), Err(0x1BB));
    assert_eq!(host.run(1, Cmd::new(ZEROES, 2).blocks(ZONE, 3)).status, 0);
    assert_eq!(write(&mut host, ZONE + 3, 1, 4), 0, "behind the zeroes");
    assert_eq!(read(&mut host, ZONE + 3), Ok(4));
    assert_eq!(host.run(1, Cmd::new(READ, 2).prp(DATA, DATA + 4096).blocks(ZONE - 1, 2)).status, 0x1B8);
    assert_eq!(
        host.run(1, Cmd::new(0x04, 2).blocks(ZONE + 4, 1)).status,
        0x001,
        "no Write Uncorrectable in zones"
    );
    assert_eq!(send(&mut host, 0, RESET), 0);
    assert_eq!(read(&mut host, 1), Ok(0), "its data is gone");
    assert_eq!(write(&mut host, 0, 1, 3), 0);
    host.assert_clean();
}

#[test]
fn appends_say_where_the_data_went() {
    let mut host = started();
    let places: Vec<_> = (0..12).map(|byte| append(&mut host, 2 * ZONE, byte)).collect();
    assert_eq!(places, (32..44).map(Ok).collect::<Vec<_>>());
    assert_eq!(append(&mut host, 2 * ZONE, 1), Err(0x1B9));
    assert_eq!(read(&mut host, 43), Ok(11));
    host.assert_clean();
    assert_eq!(append(&mut host, 1, 1), Err(0x002), "not a zone's first block");
    let three = Cmd::new(APPEND, 2).prp(DATA, DATA - 4096).blocks(0, 3);
    assert_eq!(host.run(1, three).status, 0x002, "ZASL is two pages");
    assert_eq!(host.run(1, Cmd::new(APPEND, 1).prp(DATA, 0).blocks(0, 1)).status, 0x001);
    assert_eq!(host.model.take_violations().len(), 3);
}

#[test]
fn zones_are_opened_closed_finished_and_reported() {
    let mut host = started();
    assert_eq!((send(&mut host, 0, OPEN), send(&mut host, ZONE, OPEN)), (0, 0));
    assert_eq!(send(&mut host, 2 * ZONE, OPEN), 0x1BE, "two are open");
    assert_eq!(send(&mut host, 0, CLOSE), 0);
    assert_eq!(write(&mut host, 2 * ZONE, 1, 1), 0, "opened by writing");
    assert_eq!(write(&mut host, 3 * ZONE, 1, 1), 0x1BD, "three are active");
    assert_eq!(send(&mut host, 0, OPEN), 0, "the one opened by writing is closed for it");
    assert_eq!(send(&mut host, 4 * ZONE, FINISH), 0);
    assert_eq!(send(&mut host, 6 * ZONE, RESET), 0x1BF, "it is read-only");
    let all = [
        (3, 12, 0, 0),
        (3, 12, 16, 16),
        (4, 12, 32, 33),
        (1, 12, 48, 48),
        (14, 12, 64, u64::MAX),
        (1, 12, 80, 80),
        (13, 12, 96, u64::MAX),
        (15, 12, 112, u64::MAX),
    ];
    assert_eq!(report(&mut host, 0, 0, 4096), (8, all.to_vec()));
    assert_eq!(report(&mut host, 33, 0, 64 + 128), (6, all[2..4].to_vec()), "all are counted");
    assert_eq!(
        report(&mut host, 33, 1 << 16, 64 + 130),
        (2, all[2..4].to_vec()),
        "those that fit are counted"
    );
    assert_eq!(report(&mut host, 0, 1 << 8, 4096), (2, vec![all[3], all[5]]), "empty ones");
    assert_eq!(report(&mut host, 0, 7 << 8, 4096), (1, vec![all[7]]), "offline ones");
    assert_eq!(send(&mut host, 0, RESET | ALL), 0);
    assert_eq!(report(&mut host, 0, 1 << 8, 4096).0, 6);
    host.assert_clean();
}

#[test]
fn descriptor_extensions_are_kept() {
    let mut host = started();
    host.put(DATA, &[0xAB; 64]);
    let set = Cmd::new(SEND, 2).prp(DATA, 0).set(10, ZONE as u32).set(13, 0x10);
    assert_eq!(host.run(1, set).status, 0);
    assert_eq!(host.run(1, set).status, 0x1BF, "it is not empty any more");
    let (count, zones) = report(&mut host, 0, 1, 4096);
    assert_eq!((count, zones.len(), zones[1]), (8, 8, (4, 12, 16, 16)));
    let bytes = host.bytes(DATA, 4096);
    assert_eq!(bytes[64 + 128 + 2], 0x80, "it is valid");
    assert_eq!(bytes[64 + 128 + 64..64 + 256], [0xAB; 64]);
    host.assert_clean();
}

#[test]
fn what_cannot_be_zoned_is_refused() {
    let zoned = |namespace| NamespaceConfig { zones: Some(ZoneConfig::new(1 << 20)), ..namespace };
    let error = Model::new(ModelConfig::new(vec![zoned(NamespaceConfig::ram(4096))])).unwrap_err();
    assert!(error.to_string().contains("the size of a zone"), "{error}");
    let mut host = started();
    let short = Cmd::new(RECEIVE, 2).prp(DATA, 0).set(12, 14);
    assert_eq!(host.run(1, short).status, 0x002, "less than a header");
    assert_eq!(host.run(1, short.set(12, 1023).set(13, 8 << 8)).status, 0x002, "there is no such state");
    assert_eq!(host.run(1, short.set(12, 1023).set(10, 128)).status, 0x080, "beyond the end");
    assert_eq!(send(&mut host, 0, 9), 0x002);
    assert_eq!(host.run(1, Cmd::new(RECEIVE, 1).prp(DATA, 0).set(12, 1023)).status, 0x001);
    assert_eq!(host.model.take_violations().len(), 5);
    assert!(matches!(error, DeviceError::Config { .. }));
}
