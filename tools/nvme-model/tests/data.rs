//! Data through the controller: what is written is read, wherever it lies.

mod initiator;

use corelane_nvme_model::{ModelConfig, NamespaceConfig, Rule};
use initiator::{Cmd, DATA, Initiator};

const WRITE: u8 = 1;
const READ: u8 = 2;

fn ram(lba_shift: u8) -> ModelConfig {
    ModelConfig::new(vec![NamespaceConfig { lba_shift, ..NamespaceConfig::ram(4 << 20) }])
}

fn started(config: ModelConfig) -> Initiator {
    let mut initiator = Initiator::new(config);
    initiator.make_pair(1, 32);
    initiator
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8 ^ seed).collect()
}

#[test]
fn what_is_written_is_read_at_every_block_size() {
    for lba_shift in 9..=16 {
        let mut host = started(ram(lba_shift));
        let len = 1 << lba_shift;
        let data = pattern(len, lba_shift);
        host.put(DATA, &data);
        // A list for the blocks that need one, over pages in turned order.
        let pages = len.div_ceil(4096);
        let list: Vec<u8> =
            (1..pages as u64).rev().flat_map(|page| (DATA + 0x20_0000 + page * 4096).to_le_bytes()).collect();
        host.put(DATA + 0x10_0000, &list);
        let second = |base: u64| match pages {
            1 => 0,
            2 => base + 4096,
            _ => DATA + 0x10_0000,
        };
        let straight: Vec<u8> =
            (1..pages as u64).flat_map(|page| (DATA + page * 4096).to_le_bytes()).collect();
        host.put(DATA + 0x11_0000, &straight);
        let from = if pages > 2 { DATA + 0x11_0000 } else { second(DATA) };
        assert_eq!(host.run(1, Cmd::new(WRITE, 1).prp(DATA, from).blocks(3, 1)).status, 0);
        let into = DATA + 0x20_0000;
        assert_eq!(host.run(1, Cmd::new(READ, 1).prp(into, second(into)).blocks(3, 1)).status, 0);
        let mut expected = data.clone();
        if pages > 2 {
            let (head, tail) = data.split_at(4096);
            let turned = tail.chunks(4096).rev().flatten().copied().collect::<Vec<_>>();
            expected = [head, &turned].concat();
        }
        assert!(host.bytes(into, len) == expected, "blocks of {len}");
        assert_eq!(host.run(1, Cmd::new(READ, 1).prp(into, second(into)).blocks(2, 1)).status, 0);
        assert!(host.bytes(into, len).iter().all(|byte| *byte == 0), "the block before is untouched");
        host.assert_clean();
    }
}

#[test]
fn any_dword_aligned_start_will_do() {
    let mut host = started(ram(9));
    let data = pattern(8192, 7);
    host.put(DATA + 0xF04, &data);
    // 8,192 bytes from offset F04h: pages 0, 1 and 2.
    host.put(DATA + 0x10_0000, &[(DATA + 0x1000).to_le_bytes(), (DATA + 0x2000).to_le_bytes()].concat());
    let write = Cmd::new(WRITE, 1).prp(DATA + 0xF04, DATA + 0x10_0000).blocks(0, 16);
    assert_eq!(host.run(1, write).status, 0);
    for first in [0, 15] {
        assert_eq!(host.run(1, Cmd::new(READ, 1).prp(DATA + 0x30_0000, 0).blocks(first, 1)).status, 0);
        let at = first as usize * 512;
        assert!(host.bytes(DATA + 0x30_0000, 512) == data[at..at + 512]);
    }
    host.assert_clean();
}

#[test]
fn many_commands_at_once_complete_each_once() {
    let mut host = started(ram(12));
    for round in 0..50_u64 {
        let mut waiting: std::collections::BTreeSet<u16> = (0..31)
            .map(|slot| {
                let data = DATA + slot * 4096;
                host.put(data, &pattern(4096, (slot + round) as u8));
                host.push(1, Cmd::new(WRITE, 1).prp(data, 0).blocks(slot, 1))
            })
            .collect();
        host.ring(1);
        while !waiting.is_empty() {
            let done = host.wait(1);
            assert_eq!(done.status, 0);
            assert!(waiting.remove(&done.cid), "{done:?} was not waited for");
        }
    }
    for slot in 0..31_u64 {
        assert_eq!(host.run(1, Cmd::new(READ, 1).prp(DATA + (1 << 20), 0).blocks(slot, 1)).status, 0);
        assert!(host.bytes(DATA + (1 << 20), 4096) == pattern(4096, (slot + 49) as u8));
    }
    host.assert_clean();
}

#[test]
fn zeroes_deallocation_and_comparison() {
    let mut host = started(ram(12));
    let ones = vec![1; 4096];
    host.put(DATA, &ones);
    for block in 0..4 {
        assert_eq!(host.run(1, Cmd::new(WRITE, 1).prp(DATA, 0).blocks(block, 1)).status, 0);
    }
    const COMPARE: u8 = 5;
    const WRITE_ZEROES: u8 = 8;
    const DATASET_MANAGEMENT: u8 = 9;
    const DEALLOCATE_ZEROES: u32 = 1 << 25;
    let compare = |block| Cmd::new(COMPARE, 1).prp(DATA, 0).blocks(block, 1);
    assert_eq!(host.run(1, compare(1)).status, 0);
    assert_eq!(host.run(1, Cmd::new(WRITE_ZEROES, 1).blocks(1, 1)).status, 0);
    let zeroes = Cmd::new(WRITE_ZEROES, 1).blocks(2, 1);
    assert_eq!(host.run(1, zeroes.set(12, zeroes.0[12] | DEALLOCATE_ZEROES)).status, 0);
    let ranges = [[0_u32, 1, 0, 0], [0, 1, 3, 0]].concat();
    let bytes: Vec<u8> = ranges.iter().flat_map(|dword| dword.to_le_bytes()).collect();
    host.put(DATA + 0x1000, &bytes);
    let trim = Cmd::new(DATASET_MANAGEMENT, 1).prp(DATA + 0x1000, 0).set(10, 1).set(11, 4);
    assert_eq!(host.run(1, trim).status, 0);
    for block in 0..4 {
        let done = host.run(1, compare(block));
        assert_eq!((done.status, done.dnr), (0x285, true), "block {block} is zero now");
        assert_eq!(host.run(1, Cmd::new(READ, 1).prp(DATA + 0x2000, 0).blocks(block, 1)).status, 0);
        assert!(host.bytes(DATA + 0x2000, 4096).iter().all(|byte| *byte == 0));
    }
    host.assert_clean();
}

#[test]
fn sgls_where_they_are_offered() {
    const SGL: u32 = 1 << 14;
    let mut host = started(ModelConfig { sgls: true, ..ram(9) });
    let data = pattern(512, 9);
    host.put(DATA + 1, &data);
    let write = Cmd::new(WRITE, 1).prp(DATA + 1, 512).blocks(0, 1);
    assert_eq!(host.run(1, write.set(0, u32::from(WRITE) | SGL)).status, 0);
    assert_eq!(host.run(1, Cmd::new(READ, 1).prp(DATA + 0x1000, 0).blocks(0, 1)).status, 0);
    assert!(host.bytes(DATA + 0x1000, 512) == data);
    host.assert_clean();
    let mut host = started(ram(9));
    let done = host.run(1, write.set(0, u32::from(WRITE) | SGL));
    assert_eq!(done.status, 0x02);
    assert_eq!(host.rules(), [Rule::InvalidField]);
}

#[test]
fn ranges_and_memory_are_checked() {
    let mut host = started(ModelConfig { mdts: 1, ..ram(12) });
    let cases = [
        (Cmd::new(READ, 1).prp(DATA, 0).blocks(1024, 1), 0x80, Rule::Range),
        (Cmd::new(READ, 1).prp(DATA, 0).blocks(u64::MAX, 1), 0x80, Rule::Range),
        (Cmd::new(READ, 1).prp(DATA, DATA + 4096).blocks(0, 3), 0x02, Rule::Range),
        (Cmd::new(READ, 2).prp(DATA, 0).blocks(0, 1), 0x0B, Rule::Namespace),
        (Cmd::new(READ, 0).prp(DATA, 0).blocks(0, 1), 0x0B, Rule::Namespace),
        (Cmd::new(READ, 1).prp(0x1000, 0).blocks(0, 1), 0x04, Rule::DmaFault),
        (Cmd::new(WRITE, 1).prp(u64::MAX - 3, DATA).blocks(0, 1), 0x04, Rule::DmaFault),
        (Cmd::new(READ, 1).prp(DATA + 1, 0).blocks(0, 1), 0x13, Rule::PrpOffset),
        (Cmd::new(READ, 1).prp(DATA, DATA + 4).blocks(0, 2), 0x13, Rule::PrpOffset),
        (Cmd::new(READ, 1).prp(DATA, 0).blocks(0, 1).set(0, 0x102), 0x02, Rule::ReservedField),
        (Cmd::new(0x7F, 1), 0x01, Rule::Opcode),
    ];
    for (command, status, rule) in cases {
        let done = host.run(1, command);
        assert_eq!((done.status, done.dnr), (status, true), "{:x?}", command.0);
        assert_eq!(host.rules(), [rule], "{:x?}", command.0);
    }
    // What is reserved is noted; the command works.
    let noted = [
        Cmd::new(READ, 1).prp(DATA, DATA).blocks(0, 1),
        Cmd::new(READ, 1).prp(DATA, 0).blocks(0, 1).set(2, 1),
        Cmd::new(READ, 1).prp(DATA, 0).blocks(0, 1).set(4, 1),
        Cmd::new(READ, 1).prp(DATA, 0).blocks(0, 1).set(13, 0x100),
    ];
    for command in noted {
        assert_eq!(host.run(1, command).status, 0);
        assert_eq!(host.rules(), [Rule::ReservedField], "{:x?}", command.0);
    }
}

#[test]
fn sixty_four_deep_queue_pairs_at_once() {
    let mut host = Initiator::new(ram(12));
    (1..=64).for_each(|id| host.make_pair(id, 1024));
    for id in 1..=64_u16 {
        let block = u64::from(id);
        host.put(DATA + block * 4096, &pattern(4096, id as u8));
        host.push(id, Cmd::new(WRITE, 1).prp(DATA + block * 4096, 0).blocks(block, 1));
        for _ in 1..1023 {
            host.push(id, Cmd::new(READ, 1).prp(DATA + (1 << 20) + block * 4096, 0).blocks(block, 1));
        }
    }
    (1..=64).for_each(|id| host.ring(id));
    for id in 1..=64_u16 {
        for nth in 0..1023_u16 {
            let done = host.wait(id);
            assert_eq!((done.status, done.sq_id), (0, id), "completion {nth}");
        }
        assert!(host.bytes(DATA + (1 << 20) + u64::from(id) * 4096, 4096) == pattern(4096, id as u8));
    }
    host.assert_clean();
}
