//! A controller that is driven at random, by the rules and against them, stays a controller: it neither ends nor hangs, and
//! after a reset it works as on the first day.

mod initiator;

use std::time::Duration;

use corelane_nvme_model::{Device, ModelConfig, NamespaceConfig, Region};
use initiator::{Cmd, DATA, IOVA, Initiator, MEMORY_BYTES};

/// xorshift64*, so that a printed seed is all there is to a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// `CORELANE_SEED`, or a new one.
#[allow(clippy::print_stdout)] // For whoever looks into a failure.
fn seed() -> u64 {
    let given = std::env::var("CORELANE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64 | 1));
    println!("CORELANE_SEED={seed}");
    seed
}

fn config(random: &mut Random) -> ModelConfig {
    let lba_shift = random.of(&[9, 12, 16]);
    let ram = NamespaceConfig { lba_shift, ..NamespaceConfig::ram(1 << 20) };
    let metadata = NamespaceConfig { metadata_bytes: 8, ..NamespaceConfig::null(1 << 20) };
    ModelConfig {
        max_queue_entries: random.of(&[2, 3, 64, 4096]),
        max_queue_pairs: 4,
        vectors: random.of(&[1, 4]),
        doorbell_stride: random.of(&[0, 1, 4]),
        mdts: random.of(&[0, 1, 5]),
        sgls: random.one_in(2),
        shadow_doorbells: random.one_in(2),
        wzsl: random.of(&[0, 1]),
        dmrl: random.of(&[0, 2]),
        ..ModelConfig::new(vec![ram, metadata, NamespaceConfig::null(1 << 30)])
    }
}

fn address(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => random.next(),
        1 => u64::MAX - random.below(8192),
        2 => IOVA + MEMORY_BYTES as u64 - random.below(8192),
        3 => DATA + random.below(1 << 20),
        4 => 0,
        _ => DATA + (random.below(1 << 20) & !0xFFF),
    }
}

fn command(random: &mut Random, admin: bool) -> Cmd {
    const ADMIN: [u8; 11] = [0, 1, 2, 4, 5, 6, 8, 9, 0x0A, 0x0C, 0x7C];
    const IO: [u8; 7] = [0, 1, 2, 5, 8, 9, 0x0C];
    let opcode = match random.below(20) {
        0 => random.next() as u8,
        _ if admin => random.of(&ADMIN),
        _ => random.of(&IO),
    };
    let mut command = Cmd::new(opcode, random.of(&[0, 1, 1, 1, 2, 3, 4, 0xFFFF_FFFF]));
    if random.one_in(8) {
        command = command.set(0, u32::from(opcode) | (random.next() as u32 & 0xFF00));
    }
    command = command.prp(address(random), if random.one_in(2) { 0 } else { address(random) });
    for dword in 10..16 {
        let value = match random.below(6) {
            0 => random.next() as u32,
            1 => random.below(4) as u32 | (random.below(8) as u32) << 16,
            2 => random.below(256) as u32,
            _ => 0,
        };
        command = command.set(dword, value);
    }
    if random.one_in(10) { command.set(random.of(&[2, 3, 4, 5]), 1) } else { command }
}

/// One step: mostly commands, now and then something that no driver does.
fn step(host: &mut Initiator, random: &mut Random, queues: u16) {
    match random.below(100) {
        0..80 => {
            let queue = random.below(u64::from(queues) + 1) as u16;
            for _ in 0..=random.below(3) {
                let command = command(random, queue == 0);
                if random.one_in(20) {
                    host.push_as(queue, command, random.below(4) as u16);
                } else {
                    host.push(queue, command);
                }
            }
            host.ring(queue);
            if random.one_in(2) {
                host.model.violations();
            }
            while host.poll(queue).is_some() {}
        }
        80..88 => host.write_doorbell(random.below(12) as usize, random.of(&[0, 1, 7, 65535, u32::MAX])),
        88..92 => {
            let (at, len) = (random.below(0x80), random.of(&[1, 2, 4, 8]));
            let bytes = random.next().to_le_bytes();
            host.model.write(Region::Bar0, at, &bytes[..len]).unwrap();
        }
        92..95 => {
            let mut bytes = [0; 8];
            let region = random.of(&[Region::Bar0, Region::Bar4, Region::Config]);
            let at = random.below(host.model.region_len(region) - 8);
            host.model.read(region, at, &mut bytes).unwrap();
            if region != Region::Bar0 {
                host.model.write(region, at, &random.next().to_le_bytes()).unwrap();
            }
        }
        95..97 => {
            host.model.dma_unmap_all();
            host.model.dma_map(IOVA, host.memory.clone()).unwrap();
        }
        97..99 => {
            // What a list or an SGL may be made of.
            let words: Vec<u8> = (0..64).flat_map(|_| address(random).to_le_bytes()).collect();
            host.put(DATA + (random.below(1 << 20) & !0xFFF), &words);
        }
        _ => host.model.reset(),
    }
}

/// Brings the controller up again and checks that it does what it did before.
fn works(host: &mut Initiator) {
    host.model.reset();
    host.model.dma_unmap_all();
    host.model.dma_map(IOVA, host.memory.clone()).unwrap();
    host.enable();
    host.model.take_violations();
    host.make_pair(1, 2);
    let block = host.identify(0, 1)[130];
    let data: Vec<u8> = (0..1 << block).map(|at| at as u8 ^ block).collect();
    host.put(DATA, &data);
    let list: Vec<u8> = (1..16_u64).flat_map(|page| (DATA + page * 4096).to_le_bytes()).collect();
    host.put(DATA + (1 << 20), &list);
    let pointers = |command: Cmd| command.prp(DATA, if block > 12 { DATA + (1 << 20) } else { 0 });
    assert_eq!(host.run(1, pointers(Cmd::new(1, 1)).blocks(1, 1)).status, 0);
    host.put(DATA, &vec![0; data.len()]);
    assert_eq!(host.run(1, pointers(Cmd::new(2, 1)).blocks(1, 1)).status, 0);
    assert!(host.bytes(DATA, data.len()) == data);
    host.assert_clean();
}

#[test]
fn it_survives_any_initiator() {
    let mut random = Random(seed());
    let started = std::time::Instant::now();
    let mut rounds = 0;
    while started.elapsed() < Duration::from_secs(3) || rounds < 5 {
        rounds += 1;
        let config = config(&mut random);
        if config.validate().is_err() {
            continue;
        }
        let entries = config.max_queue_entries.min(64) as usize;
        let mut host = Initiator::new(config);
        let queues = random.below(4) as u16;
        (1..=queues).for_each(|id| host.make_pair(id, entries));
        for _ in 0..random.below(400) {
            step(&mut host, &mut random, queues);
        }
        works(&mut host);
    }
}
