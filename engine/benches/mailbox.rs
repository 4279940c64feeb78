//! What it costs to reach a lane from elsewhere.

use corelane_engine::aio::{AioConfig, AioContext, IoThread, PollMode, Wait};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn config(poll: PollMode) -> AioConfig {
    AioConfig { poll, mailbox_capacity: 1024, ..AioConfig::named("bench") }
}

/// Without a second thread: what the queue, the gate and the flags cost.
fn alone(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox");
    let lane = AioContext::new(&config(PollMode::Busy)).expect("io_uring");
    let handle = lane.handle();
    group.bench_function("post and run", |bencher| {
        bencher.iter(|| {
            handle.try_post(Box::new(|_| ())).expect("room");
            lane.turn(Wait::No)
        });
    });
    group.throughput(Throughput::Elements(256));
    group.bench_function("post 256 and run them", |bencher| {
        bencher.iter(|| {
            for _ in 0..256 {
                handle.try_post(Box::new(|_| ())).expect("room");
            }
            lane.turn(Wait::No)
        });
    });
    group.finish();
}

/// There and back between two threads, with the other one asleep or polling.
fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    let near = AioContext::new(&config(PollMode::Interrupt)).expect("io_uring");
    for (name, poll) in [("a sleeping lane", PollMode::Interrupt), ("a polling lane", PollMode::Busy)] {
        let far = IoThread::spawn(&config(poll)).expect("a lane");
        let handle = far.handle().clone();
        group.bench_function(name, |bencher| {
            bencher.iter(|| near.block_on(handle.call(|_| 1)).expect("the lane lives"));
        });
        far.join().expect("no panic");
    }
    group.finish();
}

criterion_group!(benches, alone, call);
criterion_main!(benches);
