//! System calls: a busy lane enters the kernel at most once per batch, whether its operations end at once or later.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use corelane_engine::aio::{
    AioConfig, AioContext, CqeSink, Interest, PlainOp, PollMode, Poller, Readiness, Ring, SinkId, Wait,
};
use rustix::event::{EventfdFlags, eventfd};

/// Sends a batch of operations that end at once, and the next batch when it is done.
struct Batches {
    ring: Rc<Ring>,
    sink: Cell<Option<SinkId>>,
    size: u64,
    in_flight: Cell<u64>,
    batches: Cell<u64>,
}

impl Poller for Batches {
    fn commit(&self) -> Readiness {
        if self.in_flight.get() == 0 {
            self.in_flight.set(self.size);
            self.batches.set(self.batches.get() + 1);
            (0..self.size).for_each(|key| self.ring.push_plain(self.sink.get().unwrap(), key, PlainOp::Nop));
        }
        Readiness::Idle
    }

    fn reap(&self) -> bool {
        self.in_flight.get() == 0
    }
}

impl CqeSink for Batches {
    fn complete(&self, _key: u64, _result: i32, _flags: u32) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

#[test]
fn one_enter_sends_a_batch_and_finds_its_completions() {
    for poll in [PollMode::Interrupt, PollMode::adaptive(), PollMode::Busy] {
        for size in [1, 32] {
            let context = AioContext::new(&AioConfig { poll, ..AioConfig::named("batches") }).unwrap();
            let batches = Rc::new(Batches {
                ring: Rc::clone(context.ring()),
                sink: Cell::new(None),
                size,
                in_flight: Cell::new(0),
                batches: Cell::new(0),
            });
            batches.sink.set(Some(context.ring().add_sink(Rc::clone(&batches) as Rc<dyn CqeSink>)));
            context.add_poller(Rc::clone(&batches) as Rc<dyn Poller>);
            while batches.batches.get() < 1000 {
                context.turn(Wait::Yes);
            }
            assert!(context.ring().enters() <= 1000, "{poll:?}: {:?}", context.ring());
        }
    }
}

#[test]
fn one_enter_sends_what_ends_later_and_waits_for_it() {
    const ROUNDS: u64 = 300;
    let context = AioContext::new(&AioConfig::named("later")).unwrap();
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let writer = fd.try_clone().unwrap();
    let (go, wait) = mpsc::channel();
    let writing = thread::spawn(move || {
        for () in wait {
            thread::sleep(Duration::from_micros(50));
            rustix::io::write(&writer, &1u64.to_ne_bytes()).unwrap();
        }
    });
    context.block_on(async {
        for _ in 0..ROUNDS {
            go.send(()).unwrap();
            context.readiness(fd.as_fd(), Interest::READ).await.unwrap();
            rustix::io::read(&fd, &mut [0; 8]).unwrap();
        }
    });
    drop(go);
    writing.join().unwrap();
    let enters = context.ring().enters();
    // Now and then the lane tries whether they have come to end at once, never more often than every 17th time.
    assert!((ROUNDS..=ROUNDS + ROUNDS / 17 + 1).contains(&enters), "{enters} enters for {ROUNDS} operations");
}

#[test]
fn an_empty_turn_does_not_enter() {
    let context = AioContext::new(&AioConfig::named("empty")).unwrap();
    for _ in 0..1000 {
        assert!(!context.turn(Wait::No));
    }
    assert_eq!(context.ring().enters(), 0);
}
