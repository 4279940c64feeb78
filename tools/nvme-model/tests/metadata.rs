//! Blocks with metadata, and protection information in it.

mod initiator;

use corelane_nvme_model::{Guard, ModelConfig, NamespaceConfig, Protection, Rule};
use initiator::{Cmd, DATA, Initiator};

const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE_ZEROES: u8 = 0x08;
const VERIFY: u8 = 0x0C;
const BLOCK: usize = 512;
/// Where tests put metadata.
const META: u64 = DATA + 0x10_0000;

const PRACT: u32 = 1 << 29;
const CHECK_GUARD: u32 = 1 << 28;
const CHECK_REFERENCE: u32 = 1 << 26;

fn started(metadata_bytes: u16, metadata_extended: bool, protection: Option<Protection>) -> Initiator {
    let namespace = NamespaceConfig {
        lba_shift: 9,
        metadata_bytes,
        metadata_extended,
        protection,
        ..NamespaceConfig::ram(1 << 20)
    };
    let mut host = Initiator::new(ModelConfig::new(vec![namespace]));
    host.make_pair(1, 16);
    assert_eq!(know_formats(&mut host, 1), 0);
    host
}

/// Tells the controller that the host knows formats with long guards, or not (Host Behavior Support, LBAFEE). The status.
fn know_formats(host: &mut Initiator, lbafee: u8) -> u16 {
    let mut behavior = [0; 512];
    behavior[2] = lbafee;
    host.put(DATA, &behavior);
    host.admin(Cmd::new(0x09, 0).prp(DATA, 0).set(10, 0x16)).status
}

/// A read or write of up to two pages, with a metadata pointer.
fn transfer(opcode: u8, first: u64, count: u32, mptr: u64) -> Cmd {
    let command = Cmd::new(opcode, 1).prp(DATA, 0).blocks(first, count);
    command.set(4, mptr as u32).set(5, (mptr >> 32) as u32)
}

/// The same with PRINFO, and the reference tag that the first block has to have.
fn tagged(command: Cmd, prinfo: u32, reference: u64) -> Cmd {
    let command = command.set(12, command.0[12] | prinfo);
    command.set(14, reference as u32).set(3, (reference >> 32) as u32)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8 ^ seed).collect()
}

#[test]
fn metadata_lies_beside_the_data_or_behind_it() {
    let mut host = started(8, false, None);
    let (data, tags) = (pattern(4 * BLOCK, 1), pattern(32, 2));
    host.put(DATA, &data);
    host.put(META, &tags);
    assert_eq!(host.run(1, transfer(WRITE, 5, 4, META)).status, 0);
    assert_eq!(host.run(1, transfer(READ, 6, 2, META + 0x1000)).status, 0);
    assert_eq!(host.bytes(DATA, 2 * BLOCK), data[BLOCK..3 * BLOCK]);
    assert_eq!(host.bytes(META + 0x1000, 16), tags[8..24]);
    host.assert_clean();

    let mut host = started(8, true, None);
    let all = pattern(4 * (BLOCK + 8), 3);
    host.put(DATA, &all);
    assert_eq!(host.run(1, transfer(WRITE, 5, 4, 0)).status, 0);
    assert_eq!(host.run(1, transfer(READ, 6, 2, 0)).status, 0);
    assert_eq!(host.bytes(DATA, 2 * (BLOCK + 8)), all[BLOCK + 8..3 * (BLOCK + 8)]);
    host.assert_clean();
}

/// The reference tag at the end of protection information of this length.
fn reference(pi: &[u8]) -> u64 {
    let tag = if pi.len() == 8 { &pi[4..8] } else { &pi[10..16] };
    tag.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[test]
fn the_controller_makes_checks_and_removes_what_the_host_leaves_to_it() {
    for (guard, bytes) in [(Guard::Crc16, 8_u16), (Guard::Crc32, 16), (Guard::Crc64, 16)] {
        for (kind, extended) in [(1, false), (2, true), (3, false)] {
            let mut host = started(bytes, extended, Some(Protection { kind, guard, first: false }));
            let checks = CHECK_GUARD | if kind == 3 { 0 } else { CHECK_REFERENCE };
            let data = pattern(4 * BLOCK, kind);
            host.put(DATA, &data);
            let tag = |block| if kind == 3 { 0 } else { block };
            assert_eq!(host.run(1, tagged(transfer(WRITE, 9, 4, 0), PRACT | checks, tag(9))).status, 0);
            assert_eq!(host.run(1, tagged(transfer(READ, 10, 2, 0), PRACT | checks, tag(10))).status, 0);
            assert_eq!(host.bytes(DATA, 2 * BLOCK), data[BLOCK..3 * BLOCK]);
            // Blocks that were not written are not checked.
            assert_eq!(host.run(1, tagged(transfer(READ, 100, 2, 0), PRACT | checks, tag(100))).status, 0);
            assert_eq!(host.run(1, tagged(Cmd::new(VERIFY, 1).blocks(0, 64), checks, 0)).status, 0);
            // As it is stored.
            let mptr = if extended { 0 } else { META };
            assert_eq!(host.run(1, tagged(transfer(READ, 10, 1, mptr), 0, 0)).status, 0);
            let pi = host.bytes(if extended { DATA + BLOCK as u64 } else { META }, bytes.into());
            assert_eq!(reference(&pi), tag(10), "{pi:x?}");
            assert_ne!(pi[..2], [0, 0], "a guard");
            // Zeroes, with their guard.
            assert_eq!(
                host.run(1, tagged(Cmd::new(WRITE_ZEROES, 1).blocks(10, 1), PRACT, tag(10))).status,
                0
            );
            assert_eq!(host.run(1, tagged(transfer(READ, 9, 3, 0), PRACT | checks, tag(9))).status, 0);
            assert_eq!(host.bytes(DATA + BLOCK as u64, BLOCK), [0; BLOCK]);
            host.assert_clean();
        }
    }
}

#[test]
fn what_does_not_fit_together_is_found() {
    let mut host = started(8, false, Some(Protection { kind: 1, guard: Guard::Crc16, first: true }));
    host.put(DATA, &pattern(BLOCK, 4));
    assert_eq!(host.run(1, tagged(transfer(WRITE, 20, 1, 0), PRACT, 20)).status, 0);
    assert_eq!(host.run(1, tagged(transfer(READ, 20, 1, META), 0, 0)).status, 0);
    let good = host.bytes(META, 8);
    // The host's own protection information is checked as it asks for.
    let write = |checks| tagged(transfer(WRITE, 20, 1, META), checks, 20);
    assert_eq!(host.run(1, write(CHECK_GUARD | CHECK_REFERENCE)).status, 0);
    for (at, status) in [(0, 0x282), (7, 0x284)] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        host.put(META, &bad);
        assert_eq!(host.run(1, write(CHECK_GUARD | CHECK_REFERENCE)).status, status);
        // Unchecked it is stored, and found later.
        assert_eq!(host.run(1, write(0)).status, 0);
        let read = tagged(transfer(READ, 20, 1, 0), PRACT | CHECK_GUARD | CHECK_REFERENCE, 20);
        assert_eq!(host.run(1, read).status, status);
        let verify = tagged(Cmd::new(VERIFY, 1).blocks(16, 8), CHECK_GUARD | CHECK_REFERENCE, 16);
        assert_eq!(host.run(1, verify).status, status);
    }
    // A deallocated block is not checked.
    host.put(DATA + 0x2000, &[0_u64.to_le_bytes(), 20_u64.to_le_bytes()].concat());
    host.put(DATA + 0x2004, &1_u32.to_le_bytes());
    assert_eq!(host.run(1, Cmd::new(9, 1).prp(DATA + 0x2000, 0).set(11, 4)).status, 0);
    let read = tagged(transfer(READ, 20, 1, 0), PRACT | CHECK_GUARD | CHECK_REFERENCE, 20);
    assert_eq!(host.run(1, read).status, 0);
    host.assert_clean();
    // Type 1 knows the first tag itself.
    assert_eq!(host.run(1, tagged(transfer(READ, 20, 1, 0), PRACT | CHECK_REFERENCE, 21)).status, 0x181);
    assert_eq!(host.rules(), [Rule::InvalidField]);
}

#[test]
fn long_guards_are_for_hosts_that_know_them() {
    for (guard, bytes, status) in [(Guard::Crc16, 8, 0), (Guard::Crc32, 16, 0x0b), (Guard::Crc64, 16, 0x0b)] {
        let mut host = started(bytes, false, Some(Protection { kind: 1, guard, first: false }));
        assert_eq!(host.admin(Cmd::new(0x0a, 0).prp(DATA + 0x1000, 0).set(10, 0x16)).status, 0);
        assert_eq!(host.bytes(DATA + 0x1000, 4), [0, 0, 1, 0], "what was told");
        let read = tagged(transfer(READ, 0, 1, 0), PRACT, 0);
        assert_eq!(host.run(1, read).status, 0);
        assert_eq!(know_formats(&mut host, 0), 0);
        assert_eq!(host.run(1, read).status, status);
        assert_eq!(host.rules(), []);
    }
}

#[test]
fn formats_are_told_of() {
    let protection = Some(Protection { kind: 2, guard: Guard::Crc64, first: true });
    let mut host = started(16, true, protection);
    let identify = host.identify(0, 1);
    assert_eq!((identify[26], identify[27], identify[29]), (0x10, 1, 0b1010));
    assert_eq!(identify[128..132], [16, 0, 9, 0]);
    assert_eq!(host.identify(5, 1)[12..16], (2_u32 << 7).to_le_bytes());
    assert_eq!(host.identify(1, 0)[97] >> 7, 1, "ELBAS");
    let config = NamespaceConfig { metadata_bytes: 8, protection, ..NamespaceConfig::ram(1 << 20) };
    assert!(ModelConfig::new(vec![config]).validate().is_err(), "8 bytes are too few for this guard");
}
