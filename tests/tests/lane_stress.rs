//! Lanes that post to each other at random: nothing is lost, nothing runs twice, and order is kept.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_engine::aio::{AioConfig, AioContext, AioHandle, IoThread, PollMode, PostError, offload};
use corelane_tests::Seed;
use rand::{Rng, RngExt};

/// What one lane saw of each sender: the number of the last message, per way by which messages come.
#[derive(Default)]
struct Seen {
    last: [u64; 8],
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Messages from one sender to one lane come in the order in which they were posted.
fn arrive(sender: usize, number: u64, total: &AtomicU64) {
    SEEN.with_borrow_mut(|seen| {
        assert_eq!(number, seen.last[sender] + 1, "from sender {sender}");
        seen.last[sender] = number;
    });
    total.fetch_add(1, Ordering::Relaxed);
}

/// Sends `count` messages to lanes drawn at random, by ways drawn at random.
async fn send(me: usize, lanes: Vec<AioHandle>, mut rng: impl Rng, count: u64, total: Arc<AtomicU64>) {
    let mut numbers = vec![0; lanes.len()];
    let context = AioContext::current().expect("a sender runs in a lane");
    for _ in 0..count {
        let to = rng.random_range(0..lanes.len());
        numbers[to] += 1;
        let (number, sum) = (numbers[to], Arc::clone(&total));
        let message = move |_: &AioContext| arrive(me, number, &sum);
        match rng.random_range(0..8) {
            0 => lanes[to].call(message).await.expect("the lane lives"),
            1 => {
                let later = move |context: &AioContext| {
                    message(context);
                    async { offload(|| 7).await }
                };
                assert_eq!(lanes[to].run_on(later).await.expect("the lane lives"), 7);
            }
            2 => {
                let mut mail: Box<dyn FnOnce(&AioContext) + Send> = Box::new(message);
                while let Err(PostError::Full(back)) = lanes[to].try_post(mail) {
                    mail = back;
                    context.sleep(Duration::from_micros(rng.random_range(0..50))).await;
                }
            }
            _ => lanes[to].post(Box::new(message)).await.expect("the lane lives"),
        }
        if rng.random_bool(0.02) {
            context.sleep(Duration::from_micros(rng.random_range(0..300))).await;
        }
    }
}

fn lane(rng: &mut impl Rng) -> IoThread {
    let poll = match rng.random_range(0..3) {
        0 => PollMode::Interrupt,
        1 => PollMode::adaptive(),
        _ => PollMode::Adaptive { poll_max_ns: 1_000_000, grow: 4, shrink: 2 },
    };
    let mailbox_capacity = rng.random_range(1..20);
    IoThread::spawn(&AioConfig { poll, mailbox_capacity, ..AioConfig::named("stress") }).expect("a lane")
}

#[test]
fn posts_between_lanes_arrive_once_and_in_order() {
    for seed in Seed::sequences(10) {
        let mut rng = seed.rng();
        let count = rng.random_range(100..2000);
        let lanes: Vec<_> = (0..rng.random_range(2..5)).map(|_| lane(&mut rng)).collect();
        let handles: Vec<_> = lanes.iter().map(|lane| lane.handle().clone()).collect();
        let total = Arc::new(AtomicU64::new(0));
        let senders: Vec<_> = (0..lanes.len())
            .map(|me| {
                let (handles, total) = (handles.clone(), Arc::clone(&total));
                let own = fork(&mut rng);
                let call = lanes[me].handle().run_on(move |_| send(me, handles, own, count, total));
                std::thread::spawn(move || call.wait())
            })
            .collect();
        for sender in senders {
            sender.join().expect("no panic").expect("a lane that lives");
        }
        let expected = count * lanes.len() as u64;
        for lane in lanes {
            lane.join().expect("no panic in the lane");
        }
        assert_eq!(total.load(Ordering::Relaxed), expected);
    }
}

fn fork(rng: &mut rand_xoshiro::Xoshiro256PlusPlus) -> rand_xoshiro::Xoshiro256PlusPlus {
    let now = rng.clone();
    rng.jump();
    now
}
