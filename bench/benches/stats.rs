//! What recording costs per request: `cargo bench -p corelane-bench --bench stats`.

use std::hint::black_box;

use corelane_bench::stats::{Clock, Direction, JobStats, LiveCounters, StatsConfig};
use criterion::{Criterion, criterion_group, criterion_main};

/// Latencies around 10 us with a tail, in no order a branch predictor could learn.
fn latencies() -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..4096)
        .map(|_| 3_000 + next() % 15_000 + if next() % 64 == 0 { next() % 2_000_000 } else { 0 })
        .collect()
}

fn recording(criterion: &mut Criterion) {
    let values = latencies();
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) & 4095;
        values[at]
    };
    let mut stats = JobStats::new(StatsConfig::default());
    criterion.bench_function("a number from the table", |bencher| bencher.iter(&mut next));
    criterion.bench_function("count a request", |bencher| {
        bencher.iter(|| black_box(&mut stats).record_done(black_box(Direction::Read), black_box(4096)));
    });
    criterion.bench_function("record a completion latency", |bencher| {
        bencher.iter(|| black_box(&mut stats).record_clat(Direction::Read, next()));
    });
    criterion.bench_function("record a submission latency", |bencher| {
        bencher.iter(|| black_box(&mut stats).record_slat(Direction::Read, next()));
    });
    criterion.bench_function("record a request with all its latencies", |bencher| {
        bencher.iter(|| black_box(&mut stats).record_request(Direction::Read, 4096, 700, next()));
    });
    criterion.bench_function("record a depth", |bencher| {
        let mut depth = 0;
        bencher.iter(|| {
            depth = (depth + 1) & 127;
            black_box(&mut stats).depths.record_depth(depth);
        });
    });
    criterion.bench_function("record the depths of a batch of 16", |bencher| {
        bencher.iter(|| black_box(&mut stats).depths.record_depths(black_box(16), black_box(16)));
    });
    let live = LiveCounters::default();
    criterion.bench_function("publish to the reporting thread", |bencher| {
        bencher.iter(|| live.publish(black_box(&stats), 32));
    });
}

fn clock(criterion: &mut Criterion) {
    let clock = Clock::new();
    criterion.bench_function("read the clock", |bencher| bencher.iter(|| clock.raw()));
    criterion.bench_function("ticks to nanoseconds", |bencher| {
        bencher.iter(|| clock.ns(black_box(123_456)));
    });
    criterion.bench_function("std's Instant::now, for comparison", |bencher| {
        bencher.iter(std::time::Instant::now);
    });
}

criterion_group!(benches, recording, clock);
criterion_main!(benches);
