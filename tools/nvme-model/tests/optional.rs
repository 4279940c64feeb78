//! Optional commands: Write Uncorrectable, Copy, and Compare and Write as one.

mod initiator;

use std::sync::Arc;

use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_engine::block::{BackendOptions, BlockBackend};
use corelane_nvme_model::{CopyLimits, DeviceError, Model, ModelConfig, NamespaceConfig, Rule};
use initiator::{Cmd, DATA, Initiator};

const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const UNCORRECTABLE: u8 = 0x04;
const COMPARE: u8 = 0x05;
const VERIFY: u8 = 0x0C;
const COPY: u8 = 0x19;
const BLOCK: usize = 4096;

const FIRST: u32 = 1 << 8;
const SECOND: u32 = 2 << 8;

fn fused(command: Cmd, half: u32) -> Cmd {
    command.set(0, command.0[0] | half)
}

fn started(config: ModelConfig) -> Initiator {
    let mut host = Initiator::new(config);
    host.make_pair(1, 16);
    host
}

fn ram() -> ModelConfig {
    ModelConfig::new(vec![NamespaceConfig::ram(1 << 20); 2])
}

fn write(host: &mut Initiator, block: u64, byte: u8) {
    host.put(DATA, &[byte; BLOCK]);
    assert_eq!(host.run(1, Cmd::new(WRITE, 1).prp(DATA, 0).blocks(block, 1)).status, 0);
}

fn read(host: &mut Initiator, block: u64) -> Result<u8, u16> {
    let done = host.run(1, Cmd::new(READ, 1).prp(DATA, 0).blocks(block, 1));
    let bytes = host.bytes(DATA, BLOCK);
    assert!(done.status != 0 || bytes.iter().all(|byte| *byte == bytes[0]));
    if done.status == 0 { Ok(bytes[0]) } else { Err(done.status) }
}

/// Source ranges of Copy: first block and number of blocks.
fn ranges(host: &Initiator, list: &[(u64, u16)]) {
    let bytes: Vec<u8> = list
        .iter()
        .flat_map(|(first, blocks)| {
            let words = [0, *first, u64::from(blocks - 1), 0];
            words.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
        })
        .collect();
    host.put(DATA + 0x1000, &bytes);
}

fn copy(count: u32, to: u64) -> Cmd {
    Cmd::new(COPY, 1).prp(DATA + 0x1000, 0).blocks(to, count)
}

#[test]
fn bad_blocks_stay_bad_until_they_are_written() {
    let mut host = started(ram());
    write(&mut host, 3, 7);
    assert_eq!(host.run(1, Cmd::new(UNCORRECTABLE, 1).blocks(3, 2)).status, 0);
    assert_eq!(read(&mut host, 3), Err(0x281));
    assert_eq!(host.run(1, Cmd::new(VERIFY, 1).blocks(0, 8)).status, 0x281);
    assert_eq!(host.run(1, Cmd::new(COMPARE, 1).prp(DATA, 0).blocks(4, 1)).status, 0x281);
    assert_eq!(read(&mut host, 2), Ok(0), "neighbours are as they were");
    assert_eq!(host.run(1, Cmd::new(READ, 2).prp(DATA, 0).blocks(3, 1)).status, 0, "another namespace");
    write(&mut host, 3, 9);
    assert_eq!(read(&mut host, 3), Ok(9));
    assert_eq!(host.run(1, Cmd::new(0x08, 1).blocks(4, 1)).status, 0);
    assert_eq!(read(&mut host, 4), Ok(0));
    assert_eq!(host.run(1, Cmd::new(VERIFY, 1).blocks(0, 8)).status, 0);
    host.assert_clean();
    assert_eq!(host.run(1, Cmd::new(UNCORRECTABLE, 1).blocks(255, 2)).status, 0x80);
    assert_eq!(host.rules(), [Rule::Range]);
}

fn check_copies(host: &mut Initiator) {
    for block in 0..4 {
        write(host, block, 10 + block as u8);
    }
    ranges(host, &[(2, 2), (0, 1)]);
    assert_eq!(host.run(1, copy(2, 100)).status, 0);
    assert_eq!([100, 101, 102, 103].map(|block| read(host, block)), [Ok(12), Ok(13), Ok(10), Ok(0)]);
    host.assert_clean();
}

#[test]
fn ranges_are_copied_one_after_the_other() {
    check_copies(&mut started(ram()));
    let node = MemDriver::open(&MemOptions::new(1 << 20)).unwrap();
    let node = BlockBackend::new(Arc::new(node), BackendOptions::default()).unwrap();
    let mut host = Initiator::with_nodes(
        ModelConfig::new(vec![NamespaceConfig { lba_shift: 12, ..NamespaceConfig::node() }]),
        vec![node],
    );
    host.enable();
    host.make_pair(1, 16);
    check_copies(&mut host);
}

#[test]
fn a_copy_has_limits() {
    let copy_limits = CopyLimits { range_blocks: 4, blocks: 6, ranges_less_one: 1 };
    let namespaces = vec![NamespaceConfig { copy: copy_limits, ..NamespaceConfig::ram(1 << 20) }];
    let mut host = started(ModelConfig::new(namespaces));
    let identify = host.identify(0, 1);
    assert_eq!(identify[74..81], [4, 0, 6, 0, 0, 0, 1]);
    // Source ranges, destination, status.
    type Case = (&'static [(u64, u16)], u64, u16);
    let cases: [Case; 6] = [
        (&[(0, 4), (8, 2)], 100, 0),
        (&[(0, 5)], 100, 0x183),
        (&[(0, 4), (8, 3)], 100, 0x183),
        (&[(0, 1), (1, 1), (2, 1)], 100, 0x183),
        (&[(254, 3)], 100, 0x80),
        (&[(0, 2)], 255, 0x80),
    ];
    for (list, to, status) in cases {
        ranges(&host, list);
        assert_eq!(host.run(1, copy(list.len() as u32, to)).status, status, "{list:?} to {to}");
    }
    assert_eq!(host.rules(), [Rule::Range; 5]);
    ranges(&host, &[(0, 1)]);
    let format_1 = copy(1, 100);
    assert_eq!(host.run(1, format_1.set(12, 1 << 8)).status, 0x02);
    assert_eq!(host.rules(), [Rule::InvalidField]);
}

/// Both halves, with what is compared and what is written; the two statuses.
fn compare_and_write(host: &mut Initiator, expected: u8, new: u8, halves: [u32; 2]) -> [u16; 2] {
    host.put(DATA, &[expected; BLOCK]);
    host.put(DATA + 0x2000, &[new; BLOCK]);
    let first = host.push(1, fused(Cmd::new(COMPARE, 1).prp(DATA, 0).blocks(5, 1), halves[0]));
    let second = host.push(1, fused(Cmd::new(WRITE, 1).prp(DATA + 0x2000, 0).blocks(5, 1), halves[1]));
    host.ring(1);
    let mut done = [host.wait(1), host.wait(1)];
    done.sort_by_key(|done| done.cid);
    assert_eq!(done.map(|done| done.cid), [first, second]);
    done.map(|done| done.status)
}

#[test]
fn a_block_is_written_only_if_it_holds_what_is_expected() {
    let mut host = started(ModelConfig { fused: true, ..ram() });
    assert_eq!(compare_and_write(&mut host, 0, 1, [FIRST, SECOND]), [0, 0]);
    assert_eq!(read(&mut host, 5), Ok(1));
    assert_eq!(compare_and_write(&mut host, 0, 2, [FIRST, SECOND]), [0x285, 0x09]);
    assert_eq!(read(&mut host, 5), Ok(1));
    assert_eq!(compare_and_write(&mut host, 1, 2, [FIRST, SECOND]), [0, 0]);
    assert_eq!(read(&mut host, 5), Ok(2));
    host.assert_clean();
}

#[test]
fn halves_of_a_fused_operation_stay_together() {
    let mut host = started(ModelConfig { fused: true, ..ram() });
    // A whole command after a first half, a second half without a first.
    assert_eq!(compare_and_write(&mut host, 0, 1, [FIRST, 0]), [0x0A, 0]);
    assert_eq!(read(&mut host, 5), Ok(1));
    assert_eq!(compare_and_write(&mut host, 1, 2, [0, SECOND]), [0, 0x0A]);
    assert_eq!(compare_and_write(&mut host, 1, 3, [FIRST, FIRST]), [0x0A, 0x02]);
    // Nothing after a first half.
    host.put(DATA, &[1; BLOCK]);
    assert_eq!(host.run(1, fused(Cmd::new(COMPARE, 1).prp(DATA, 0).blocks(5, 1), FIRST)).status, 0x0A);
    assert_eq!(read(&mut host, 5), Ok(1));
    assert!(host.rules().iter().all(|rule| *rule == Rule::Fused));
    // Different blocks.
    let first = fused(Cmd::new(COMPARE, 1).prp(DATA, 0).blocks(5, 1), FIRST);
    let second = fused(Cmd::new(WRITE, 1).prp(DATA, 0).blocks(6, 1), SECOND);
    host.push(1, first);
    host.push(1, second);
    host.ring(1);
    assert_eq!([host.wait(1).status, host.wait(1).status], [0x02; 2]);
    assert_eq!(host.rules(), [Rule::Fused]);
    let mut host = started(ram());
    assert_eq!(compare_and_write(&mut host, 0, 1, [FIRST, SECOND]), [0x02; 2], "not offered");
}

#[test]
fn what_cannot_be_fused_is_refused_by_the_configuration() {
    let config = ModelConfig { fused: true, ..ModelConfig::new(vec![NamespaceConfig::node()]) };
    let node = MemDriver::open(&MemOptions::new(1 << 20)).unwrap();
    let node = BlockBackend::new(Arc::new(node), BackendOptions::default()).unwrap();
    let error = Model::with_nodes(config, vec![node]).map(|_| ()).unwrap_err();
    assert!(matches!(error, DeviceError::Config { .. }) && error.to_string().contains("fused"), "{error}");
}
