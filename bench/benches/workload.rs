//! What the workload costs per I/O: generating offsets, filling and checking blocks.

use corelane_bench::workload::{
    BlockSizes, Distribution, Generator, Limit, Operations, Order, PerDirection, Region, WorkloadConfig,
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

criterion_group!(benches, generate);
criterion_main!(benches);
