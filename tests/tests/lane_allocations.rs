//! A lane in steady state allocates nothing: not per turn, not per completion, not per wake-up of a task.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use corelane_engine::aio::{
    AioConfig, AioContext, CqeSink, PlainOp, PollMode, Poller, Readiness, Ring, SinkId, Wait,
};
use corelane_tests::alloc::{CountingAllocator, Counts};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn context(poll: PollMode) -> AioContext {
    AioContext::new(&AioConfig { poll, ..AioConfig::named("steady") }).unwrap()
}

/// Runs `round` often enough to reach the steady state, and then checks that it allocates nothing more.
fn assert_steady(what: &str, mut round: impl FnMut()) {
    (0..200).for_each(|_| round());
    let mark = Counts::of_this_thread();
    (0..10_000).for_each(|_| round());
    let counts = mark.until_now();
    assert!(counts.is_zero(), "{what}: {counts:?} in 10,000 rounds");
}

/// Keeps `depth` operations in flight, and wakes a task for each that completes.
struct Device {
    ring: Rc<Ring>,
    sink: Cell<Option<SinkId>>,
    to_send: Cell<u64>,
    completed: Cell<u64>,
    waiter: Cell<Option<Waker>>,
}

impl Device {
    fn new(context: &AioContext, depth: u64) -> Rc<Self> {
        let device = Rc::new(Self {
            ring: Rc::clone(context.ring()),
            sink: Cell::new(None),
            to_send: Cell::new(depth),
            completed: Cell::new(0),
            waiter: Cell::new(None),
        });
        device.sink.set(Some(context.ring().add_sink(Rc::clone(&device) as Rc<dyn CqeSink>)));
        context.add_poller(Rc::clone(&device) as Rc<dyn Poller>);
        device
    }
}

impl Poller for Device {
    fn commit(&self) -> Readiness {
        for key in 0..self.to_send.take() {
            self.ring.push_plain(self.sink.get().unwrap(), key, PlainOp::Nop);
        }
        Readiness::Idle
    }

    fn reap(&self) -> bool {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake_by_ref();
            self.waiter.set(Some(waiter));
        }
        self.to_send.get() > 0
    }
}

impl CqeSink for Device {
    fn complete(&self, _key: u64, result: i32, _flags: u32) {
        assert_eq!(result, 0);
        self.completed.set(self.completed.get() + 1);
        self.to_send.set(self.to_send.get() + 1);
    }
}

#[test]
fn turns_without_work() {
    for poll in [PollMode::Interrupt, PollMode::adaptive(), PollMode::Busy] {
        let context = context(poll);
        assert_steady("empty turns", || {
            context.turn(Wait::No);
        });
    }
}

#[test]
fn completions_of_a_device() {
    for (poll, depth) in [(PollMode::Interrupt, 1), (PollMode::Interrupt, 32), (PollMode::adaptive(), 32)] {
        let context = context(poll);
        let device = Device::new(&context, depth);
        assert_steady("completions", || {
            context.turn(Wait::Yes);
        });
        assert!(device.completed.get() >= 10_000 * depth);
    }
}

#[test]
fn a_task_that_is_woken_by_each_completion() {
    let context = context(PollMode::Interrupt);
    let device = Device::new(&context, 1);
    let polls = Rc::new(Cell::new(0));
    let (task_device, task_polls) = (Rc::clone(&device), Rc::clone(&polls));
    drop(context.spawn(poll_fn(move |cx| {
        task_polls.set(task_polls.get() + 1);
        let waiter = task_device.waiter.take().filter(|waiter| waiter.will_wake(cx.waker()));
        task_device.waiter.set(Some(waiter.unwrap_or_else(|| cx.waker().clone())));
        Poll::<()>::Pending
    })));
    assert_steady("wake-ups", || {
        context.turn(Wait::Yes);
    });
    assert!(polls.get() >= 10_000);
    context.shutdown();
}

#[test]
fn a_bottom_half_that_schedules_itself() {
    let context = context(PollMode::Interrupt);
    let runs = Rc::new(Cell::new(0));
    let again: Rc<Cell<Option<corelane_engine::aio::BottomHalf>>> = Rc::default();
    let (count, inner) = (Rc::clone(&runs), Rc::clone(&again));
    let bottom_half = context.new_bh(move || {
        count.set(count.get() + 1);
        if let Some(bottom_half) = inner.take() {
            bottom_half.schedule();
            inner.set(Some(bottom_half));
        }
    });
    bottom_half.schedule();
    again.set(Some(bottom_half));
    assert_steady("bottom halves", || {
        context.turn(Wait::Yes);
    });
    assert!(runs.get() >= 10_000);
    drop(again.take());
}
