//! What the event loop costs by itself: turns, tasks, timers, and io_uring operations that do nothing.

use std::cell::Cell;
use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use corelane_engine::aio::{
    AioConfig, AioContext, CqeSink, PlainOp, PollMode, Poller, Readiness, Ring, SinkId, Wait,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn context(poll: PollMode) -> AioContext {
    AioContext::new(&AioConfig { poll, ..AioConfig::named("bench") }).expect("io_uring")
}

/// Sends a fixed number of operations that do nothing, a new one for each that completed.
struct Nops {
    ring: Rc<Ring>,
    sink: Cell<Option<SinkId>>,
    to_send: Cell<u64>,
    completed: Cell<u64>,
}

impl Nops {
    fn new(context: &AioContext, depth: u64) -> Rc<Self> {
        let nops = Rc::new(Self {
            ring: Rc::clone(context.ring()),
            sink: Cell::new(None),
            to_send: Cell::new(depth),
            completed: Cell::new(0),
        });
        nops.sink.set(Some(context.ring().add_sink(Rc::clone(&nops) as Rc<dyn CqeSink>)));
        context.add_poller(Rc::clone(&nops) as Rc<dyn Poller>);
        nops
    }
}

impl Poller for Nops {
    fn commit(&self) -> Readiness {
        let Some(sink) = self.sink.get() else { return Readiness::Idle };
        for key in 0..self.to_send.take() {
            self.ring.push_plain(sink, key, PlainOp::Nop);
        }
        Readiness::Idle
    }

    fn reap(&self) -> bool {
        self.to_send.get() > 0
    }
}

impl CqeSink for Nops {
    fn complete(&self, key: u64, _result: i32, _flags: u32) {
        black_box(key);
        self.completed.set(self.completed.get() + 1);
        self.to_send.set(self.to_send.get() + 1);
    }
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    let idle = context(PollMode::Busy);
    group.bench_function("empty", |bencher| bencher.iter(|| idle.turn(Wait::Yes)));
    let timed = context(PollMode::Busy);
    timed.add_timer(Instant::now() + Duration::from_secs(86_400), || ());
    group.bench_function("with a timer far away", |bencher| bencher.iter(|| timed.turn(Wait::Yes)));
    group.finish();
}

fn nops(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nop");
    for depth in [1, 32] {
        let context = context(PollMode::Interrupt);
        let nops = Nops::new(&context, depth);
        group.throughput(Throughput::Elements(depth));
        group.bench_function(format!("depth {depth}"), |bencher| {
            bencher.iter(|| {
                let until = nops.completed.get() + depth;
                while nops.completed.get() < until {
                    context.turn(Wait::Yes);
                }
            });
        });
    }
    group.finish();
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn tasks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("task");
    let lane = context(PollMode::Busy);
    group.bench_function("spawn and join", |bencher| {
        bencher.iter(|| lane.block_on(async { lane.spawn(async { black_box(1) }).await }));
    });
    group.throughput(Throughput::Elements(1000));
    group.bench_function("a thousand wake-ups of one task", |bencher| {
        bencher.iter(|| {
            let task = lane.spawn(async {
                for _ in 0..1000 {
                    yield_now().await;
                }
            });
            lane.block_on(task);
        });
    });
    group.bench_function("a wake-up of each of a thousand tasks", |bencher| {
        bencher.iter(|| {
            lane.block_on(async {
                let tasks: Vec<_> = (0..1000).map(|_| lane.spawn(yield_now())).collect();
                for task in tasks {
                    task.await;
                }
            });
        });
    });
    group.finish();
}

fn timers(criterion: &mut Criterion) {
    let lane = context(PollMode::Busy);
    let far = Instant::now() + Duration::from_secs(86_400);
    for number in 0..1000 {
        lane.add_timer(far + Duration::from_secs(number), || ());
    }
    criterion.bench_function("timer set and cancelled among a thousand", |bencher| {
        bencher.iter(|| {
            let timer = lane.add_timer(black_box(far + Duration::from_millis(500_500)), || ());
            lane.cancel_timer(timer)
        });
    });
}

criterion_group!(benches, turns, nops, tasks, timers);
criterion_main!(benches);
