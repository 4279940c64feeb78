//! What the workload costs per I/O: generating offsets, filling and checking blocks.

use corelane_bench::workload::{
    BlockSizes, BlockStamp, Distribution, Generator, Limit, Operations, Order, OverlapGuard, PerDirection,
    Region, Verifier, VerifyKind, WorkloadConfig, WriteCounter, WrittenLog,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const GIB: u64 = 1 << 30;

fn config(order: Order, operations: Operations) -> WorkloadConfig {
    let region = Region { offset_bytes: 0, size_bytes: 16 * GIB };
    WorkloadConfig { limit: Limit::Endless, ..WorkloadConfig::new(order, operations, region, 4096) }
}

fn generators() -> Vec<(&'static str, WorkloadConfig)> {
    let reads = config(Order::Random, Operations::Read);
    let mixed = PerDirection::all(BlockSizes::Range { min: 4096, max: 65_536, unaligned: false });
    vec![
        ("sequential", config(Order::Sequential, Operations::Read)),
        ("random_norandommap", WorkloadConfig { random_map: false, ..reads.clone() }),
        ("random_map_fixed", reads.clone()),
        ("random_map_mixed", WorkloadConfig { sizes: mixed.clone(), ..reads.clone() }),
        ("random_mixed_norandommap", WorkloadConfig { sizes: mixed, random_map: false, ..reads.clone() }),
        ("randrw_fixed", config(Order::Random, Operations::ReadWrite { read_percent: 70 })),
        ("zipf", WorkloadConfig { distribution: Distribution::Zipf { theta: 1.2, center: None }, ..reads }),
    ]
}

fn generate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("generator");
    group.throughput(Throughput::Elements(1));
    for (name, config) in generators() {
        let mut generator = Generator::new(&config).expect("the configurations above are right");
        group.bench_function(name, |bencher| bencher.iter(|| black_box(generator.next_io())));
    }
    group.finish();
}

fn verify(criterion: &mut Criterion) {
    const BLOCK: u32 = 65_536;
    let mut group = criterion.benchmark_group("verify");
    group.throughput(Throughput::Bytes(u64::from(BLOCK)));
    let mut buffer = vec![0; BLOCK as usize];
    let block = BlockStamp { offset: GIB, bytes: BLOCK, sequence: 7 };
    for kind in [VerifyKind::Crc32c, VerifyKind::Md5, VerifyKind::Sha256, VerifyKind::Xxhash] {
        let verifier = Verifier::new(kind, None, 1, 0, BLOCK).expect("the block holds a header");
        group.bench_function(format!("fill_{}", kind.name()), |bencher| {
            bencher.iter(|| verifier.fill(black_box(&mut buffer), &block));
        });
        group.bench_function(format!("check_{}", kind.name()), |bencher| {
            bencher.iter(|| verifier.check(black_box(&buffer), &block));
        });
    }
    let verifier = Verifier::new(VerifyKind::Crc32c, None, 1, 0, BLOCK).expect("the block holds a header");
    verifier.fill(&mut buffer, &block).expect("the buffer is as long as the block");
    group.bench_function("check_part", |bencher| {
        bencher.iter(|| verifier.check_part(black_box(&buffer[4096..]), &block, 4096));
    });
    group.finish();
}

fn book_keeping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1));
    let mut config = config(Order::Random, Operations::Write);
    config.region.size_bytes = GIB / 4;
    config.sizes = PerDirection::all(BlockSizes::Range { min: 512, max: 65_536, unaligned: false });
    config.align_bytes = PerDirection::all(Some(512));
    let mut generator = Generator::new(&config).expect("the configuration above is right");
    let (mut log, mut counter, mut guard) =
        (WrittenLog::new(), WriteCounter::new(), OverlapGuard::with_depth(16));
    generator.by_ref().take(15).for_each(|io| guard.enter(io));
    group.bench_function("record", |bencher| {
        bencher.iter(|| {
            if let Some(block) = generator.next_io().and_then(|io| counter.stamp(&io)) {
                log.record(block);
            }
        });
    });
    group.bench_function("overlap_guard_depth_16", |bencher| {
        bencher.iter(|| generator.next_io().map(|io| guard.conflicts(&io)));
    });
    group.finish();
}

criterion_group!(benches, generate, verify, book_keeping);
criterion_main!(benches);
