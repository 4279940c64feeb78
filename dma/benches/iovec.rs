//! What the memory of a request costs: vectors sliced, split and copied, blocks taken and given back, look-ups.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{
    Backing, BlockPool, DmaBuffer, IoBuf, IoVector, LookupCache, MemRegion, Payload, RegisteredTable,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const SEGMENT_BYTES: usize = 4096;
const SEGMENTS: usize = 16;
const WHOLE_BYTES: usize = SEGMENT_BYTES * SEGMENTS;

fn region() -> Rc<MemRegion> {
    let buffer = DmaBuffer::new(WHOLE_BYTES, 4096, Backing::Pages).expect("a small buffer");
    Rc::new(MemRegion::from_buffer(buffer))
}

fn vector(region: &Rc<MemRegion>) -> IoVector {
    let lease = |i| IoBuf::lease(region, i * SEGMENT_BYTES, SEGMENT_BYTES).expect("within the region");
    (0..SEGMENTS).map(lease).collect()
}

fn vectors(c: &mut Criterion) {
    let region = region();
    let mut group = c.benchmark_group("iovec");
    group.bench_function("build 16 segments", |b| {
        let mut vector = IoVector::with_capacity(SEGMENTS);
        b.iter(|| {
            for i in 0..SEGMENTS {
                vector.push(
                    IoBuf::lease(&region, i * SEGMENT_BYTES, SEGMENT_BYTES).expect("within the region"),
                );
            }
            black_box(vector.len_bytes());
            vector.clear();
        });
    });
    group.bench_function("is_aligned", |b| {
        let vector = vector(&region);
        b.iter(|| black_box(&vector).is_aligned(511, 511));
    });
    group.bench_function("slice across 3 segments", |b| {
        let mut vector = vector(&region);
        b.iter(|| vector.slice(black_box(SEGMENT_BYTES * 7 + 512), SEGMENT_BYTES * 2).expect("within"));
    });
    group.bench_function("slice of a shared payload across 3 segments", |b| {
        let shared = Payload::from(vector(&region)).share();
        b.iter(|| shared.slice(black_box(SEGMENT_BYTES * 7 + 512), SEGMENT_BYTES * 2).expect("within"));
    });
    group.bench_function("split within a segment", |b| {
        let split = |vector: IoVector| vector.split_at(black_box(SEGMENT_BYTES * 7 + 512));
        b.iter_batched(|| vector(&region), split, BatchSize::SmallInput);
    });
    group.finish();
}

fn copies(c: &mut Criterion) {
    let region = region();
    let mut group = c.benchmark_group("iovec copy");
    for len in [512, SEGMENT_BYTES, WHOLE_BYTES - 512] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut bytes = vec![1; len];
        let mut vector = vector(&region);
        group.bench_function(format!("to {len} bytes"), |b| {
            b.iter(|| vector.copy_to(black_box(256), &mut bytes).expect("within"));
        });
        group.bench_function(format!("from {len} bytes"), |b| {
            b.iter(|| vector.copy_from(black_box(256), &bytes).expect("within"));
        });
        group.bench_function(format!("fill {len} bytes"), |b| {
            b.iter(|| vector.fill(black_box(256), len, 0).expect("within"));
        });
    }
    group.finish();
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("request memory");
    let pool = BlockPool::new(SEGMENT_BYTES, 64, 4096, Backing::Pages).expect("a small pool");
    group.bench_function("take a block and give it back", |b| {
        b.iter(|| black_box(pool.take()));
    });
    group.bench_function("lease a block", |b| {
        let region = region();
        b.iter(|| black_box(IoBuf::lease(&region, black_box(SEGMENT_BYTES), SEGMENT_BYTES)));
    });
    group.bench_function("move a payload through a table", |b| {
        let mut slots: Vec<Payload> = (0..32).map(|_| Payload::None).collect();
        let mut payload = Payload::from(pool.take().expect("a block"));
        let mut i = 0;
        b.iter(|| {
            i = (i + 1) % 32;
            slots[i] = std::mem::take(&mut payload);
            payload = std::mem::take(black_box(&mut slots[i]));
        });
    });
    group.bench_function("look registered memory up", |b| {
        let table = Arc::new(RegisteredTable::<()>::new());
        table.register(&pool.region(), ()).expect("an empty table");
        let mut cache = LookupCache::new(table);
        let block = pool.take().expect("a block");
        b.iter(|| black_box(cache.lookup(black_box(block.addr()), block.len())).is_some());
    });
    group.finish();
}

criterion_group!(benches, vectors, copies, requests);
criterion_main!(benches);
