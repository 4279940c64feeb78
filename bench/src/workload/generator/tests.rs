//! Coverage, bounds and statistics of the sequence.

use super::*;
use crate::workload::config::{PerDirection, Region};
use proptest::prelude::*;

fn region(offset_bytes: u64, size_bytes: u64) -> Region {
    Region { offset_bytes, size_bytes }
}

fn config(order: Order, operations: Operations, size: u64, bs: u32) -> WorkloadConfig {
    WorkloadConfig::new(order, operations, region(0, size), bs)
}

const MIX: Operations = Operations::ReadWrite { read_percent: 70 };

#[test]
fn fixed_blocks_are_covered_exactly_once_a_pass() {
    for order in [Order::Sequential, Order::Random] {
        for blocks in [1u64, 2, 3, 100, 1000] {
            let mut config = config(order, Operations::Write, blocks * 4096 + 100, 4096);
            config.region.offset_bytes = 8192;
            config.limit = Limit::Passes(3);
            let ios: Vec<Io> = Generator::new(&config).unwrap().collect();
            assert_eq!(ios.len() as u64, 3 * blocks);
            for pass in ios.chunks(blocks as usize) {
                let mut offsets: Vec<u64> = pass.iter().map(|io| io.offset).collect();
                offsets.sort_unstable();
                assert!(
                    offsets.iter().copied().eq((0..blocks).map(|b| 8192 + b * 4096)),
                    "{order:?} {blocks}"
                );
            }
        }
    }
}

#[test]
fn mixed_blocks_with_the_map_cover_each_unit_once_a_pass() {
    for order in [Order::Sequential, Order::Random] {
        let mut config = config(order, Operations::Write, 1 << 20, 0);
        config.sizes = PerDirection::all(BlockSizes::Range { min: 512, max: 65_536, unaligned: false });
        config.limit = Limit::Passes(4);
        let mut visits = vec![0u32; 2048];
        let mut total = 0;
        for io in Generator::new(&config).unwrap() {
            total += u64::from(io.bytes);
            visits[(io.offset / 512) as usize..(io.end() / 512) as usize].iter_mut().for_each(|n| *n += 1);
            let passes = total.div_ceil(1 << 20) as u32;
            assert!(visits.iter().all(|&n| n <= passes), "a unit came twice in pass {passes}");
        }
        assert!(visits.iter().all(|&n| n == 4));
    }
}

#[test]
fn a_mixed_workload_with_the_map_shares_it() {
    let ios: Vec<Io> = Generator::new(&config(Order::Random, MIX, 1 << 20, 4096)).unwrap().collect();
    let mut offsets: Vec<u64> = ios.iter().map(|io| io.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    assert_eq!((ios.len(), offsets.len()), (256, 256));
}

#[test]
fn the_mix_keeps_its_percentage() {
    for percent in [0u8, 1, 30, 70, 99, 100] {
        let mut config =
            config(Order::Random, Operations::ReadWrite { read_percent: percent }, 1 << 30, 4096);
        config.limit = Limit::Endless;
        let reads = Generator::new(&config)
            .unwrap()
            .take(100_000)
            .filter(|io| io.direction == Direction::Read)
            .count();
        let expected = f64::from(percent) * 1000.0;
        assert!((reads as f64 - expected).abs() < 800.0, "{reads} reads of 100000 at {percent} %");
        if matches!(percent, 0 | 100) {
            assert_eq!(reads, usize::from(percent) * 1000);
        }
    }
    let error =
        Generator::new(&config(Order::Random, Operations::ReadWrite { read_percent: 101 }, 4096, 512));
    assert_eq!(error.unwrap_err(), WorkloadError::BadMix { percent: 101 });
}

#[test]
fn uniform_is_uniform() {
    let mut config = config(Order::Random, Operations::Read, 100 * 4096, 4096);
    config.random_map = false;
    config.limit = Limit::Endless;
    let mut hits = [0u32; 100];
    for io in Generator::new(&config).unwrap().take(100_000) {
        hits[(io.offset / 4096) as usize] += 1;
    }
    let chi2: f64 = hits.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
    assert!((50.0..160.0).contains(&chi2), "chi-square {chi2} of 99 degrees of freedom");
}

#[test]
fn clones_of_a_job_differ_and_repeat_themselves() {
    let sequence = |job_index| {
        let config = WorkloadConfig { job_index, ..config(Order::Random, MIX, 1 << 30, 4096) };
        Generator::new(&config).unwrap().take(100).collect::<Vec<Io>>()
    };
    assert_eq!(sequence(0), sequence(0));
    assert_ne!(sequence(0), sequence(1));
}

#[test]
fn trimwrite_trims_each_block_then_writes_it() {
    for order in [Order::Sequential, Order::Random] {
        let ios: Vec<Io> =
            Generator::new(&config(order, Operations::TrimWrite, 1 << 20, 8192)).unwrap().collect();
        assert_eq!(ios.len(), 256);
        for pair in ios.chunks(2) {
            assert_eq!(pair[0].direction, Direction::Trim);
            assert_eq!(pair[1], Io { direction: Direction::Write, ..pair[0] });
        }
    }
}

#[test]
fn directions_of_a_sequential_mix_keep_their_own_positions() {
    let mut next = [0u64; 3];
    for io in Generator::new(&config(Order::Sequential, MIX, 1 << 20, 4096)).unwrap() {
        assert_eq!(io.offset, next[io.direction.index()]);
        next[io.direction.index()] += 4096;
    }
    assert_eq!(next.iter().sum::<u64>(), 1 << 20);
}

#[test]
fn io_size_ends_a_job_early_or_late() {
    let count = |bytes| {
        let config = WorkloadConfig {
            limit: Limit::Bytes(bytes),
            ..config(Order::Random, Operations::Write, 100 * 4096 + 1, 4096)
        };
        Generator::new(&config).unwrap().count()
    };
    assert_eq!(count(0), 0);
    assert_eq!(count(1), 1);
    assert_eq!(count(40 * 4096), 40);
    assert_eq!(count(3 * (100 * 4096 + 1)), 300);
    assert_eq!(count(150 * 4096), 150);
}

#[test]
fn the_asked_direction_comes() {
    let mut generator = Generator::new(&config(Order::Random, MIX, 1 << 20, 4096)).unwrap();
    for direction in [Direction::Read, Direction::Write, Direction::Write, Direction::Read] {
        assert_eq!(generator.next_in(direction).unwrap().direction, direction);
    }
    assert_eq!(generator.left_bytes(), Some((1 << 20) - 4 * 4096));
    assert_eq!(generator.by_ref().count(), 252);
    assert_eq!(generator.next_in(Direction::Read), None);
}

#[test]
fn impossible_workloads_are_refused_with_what_would_be_right() {
    let small = Generator::new(&config(Order::Random, Operations::Read, 4095, 4096)).unwrap_err();
    assert!(small.to_string().contains("size=4096 at least, or bs=4095 at most"), "{small}");
    let empty = Generator::new(&config(Order::Random, Operations::Read, 0, 4096)).unwrap_err();
    assert!(matches!(empty, WorkloadError::RegionTooSmall { .. }));
    let mut far = config(Order::Random, Operations::Read, 8192, 4096);
    far.region.offset_bytes = u64::MAX - 4096;
    assert!(matches!(Generator::new(&far), Err(WorkloadError::RegionOverflow { .. })));
    far.region.offset_bytes = i64::MAX as u64 - 8191;
    assert!(matches!(Generator::new(&far), Err(WorkloadError::RegionOverflow { .. })));
    far.region.offset_bytes -= 1;
    assert!(Generator::new(&far).is_ok());
    let mut unaligned = config(Order::Random, Operations::Write, 8192, 4096);
    unaligned.align_bytes = PerDirection::all(Some(0));
    assert_eq!(
        Generator::new(&unaligned).unwrap_err(),
        WorkloadError::ZeroAlign { direction: Direction::Write }
    );
}

fn sizes() -> impl Strategy<Value = BlockSizes> {
    prop_oneof![
        (1u32..20_000).prop_map(BlockSizes::Fixed),
        (1u32..5000, 0u32..60_000, any::<bool>()).prop_map(|(min, more, unaligned)| BlockSizes::Range {
            min,
            max: min + more,
            unaligned
        }),
        proptest::collection::vec((1u32..70_000, 0u32..5), 1..5).prop_map(|mut table| {
            table[0].1 += 1;
            BlockSizes::Split(table)
        }),
    ]
}

fn distributions() -> impl Strategy<Value = Distribution> {
    prop_oneof![
        3 => Just(Distribution::Uniform),
        1 => (0.1f64..3.0, proptest::option::of(0.0f64..=1.0))
            .prop_map(|(theta, center)| Distribution::Zipf { theta, center }),
        1 => (0.05f64..0.95, proptest::option::of(0.0f64..=1.0))
            .prop_map(|(h, center)| Distribution::Pareto { h, center }),
        1 => (0.1f64..100.0, 0.0f64..=1.0)
            .prop_map(|(deviation_percent, center)| Distribution::Normal { deviation_percent, center }),
    ]
}

fn operations() -> impl Strategy<Value = Operations> {
    prop_oneof![
        Just(Operations::Read),
        Just(Operations::Write),
        Just(Operations::Trim),
        Just(Operations::TrimWrite),
        (0u8..=100).prop_map(|read_percent| Operations::ReadWrite { read_percent }),
    ]
}

proptest! {
    #[test]
    fn every_io_lies_in_the_region_aligned_and_sized_as_asked(
        (random, random_map, operations) in (any::<bool>(), any::<bool>(), operations()),
        (sizes, align) in (sizes(), proptest::option::of(1u32..9000)),
        (offset, slack, seed) in (0u64..1 << 62, 0u64..500_000, any::<u64>()),
        distribution in distributions(),
    ) {
        let size = u64::from(sizes.min_bytes()) + slack;
        let order = if random { Order::Random } else { Order::Sequential };
        let mut config = WorkloadConfig::new(order, operations, region(offset, size), 0);
        config.sizes = PerDirection::all(sizes.clone());
        config.align_bytes = PerDirection::all(align);
        config.distribution = distribution;
        config.random_map = random_map;
        config.limit = Limit::Endless;
        config.seed = seed;
        if let BlockSizes::Split(table) = &sizes {
            // The smallest size with a weight decides what fits.
            let smallest = table.iter().filter(|entry| entry.1 > 0).map(|entry| u64::from(entry.0)).min().unwrap();
            config.region.size_bytes = config.region.size_bytes.max(smallest);
        }
        let end = offset + config.region.size_bytes;
        let aligned = u64::from(align.unwrap_or(match &sizes {
            BlockSizes::Split(table) => table.iter().filter(|e| e.1 > 0).map(|e| e.0).min().unwrap(),
            other => other.min_bytes(),
        }));
        for io in Generator::new(&config).unwrap().take(300) {
            prop_assert!(io.offset >= offset && io.end() <= end, "{io:?} outside {offset}..{end}");
            prop_assert!(io.bytes >= sizes.min_bytes() && io.bytes <= sizes.max_bytes(), "{io:?}");
            if random {
                prop_assert_eq!((io.offset - offset) % aligned, 0, "{:?} not at a multiple of {}", io, aligned);
            }
        }
    }

    #[test]
    fn a_pass_with_the_map_never_visits_a_byte_twice(
        sizes in sizes(),
        slack in 0u64..100_000,
        seed in any::<u64>(),
    ) {
        let mut config = config(Order::Random, Operations::Write, u64::from(sizes.max_bytes()) + slack, 0);
        config.sizes = PerDirection::all(sizes);
        config.seed = seed;
        prop_assume!(config.uses_map());
        let mut ios: Vec<Io> = Generator::new(&config).unwrap().collect();
        ios.sort_unstable_by_key(|io| io.offset);
        for pair in ios.windows(2) {
            prop_assert!(pair[0].end() <= pair[1].offset, "{:?} and {:?} overlap", pair[0], pair[1]);
        }
    }
}
