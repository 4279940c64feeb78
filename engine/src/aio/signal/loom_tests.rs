//! The protocols between lanes under every interleaving that loom finds, with the very code that the lanes run.
//!
//! They run with the other tests: `cargo test -p corelane-engine loom_tests`. `LOOM_MAX_PREEMPTIONS` bounds the search,
//! 3 by default here; `LOOM_LOG=trace` with `LOOM_CHECKPOINT_FILE` shows a failure again.

use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Counter, Flag, Gate, Queued, Signal, Waiting};

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        Self::new(value)
    }
    fn load(&self, order: Ordering) -> bool {
        self.load(order)
    }
    fn store(&self, value: bool, order: Ordering) {
        self.store(value, order);
    }
    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.swap(value, order)
    }
    fn clear(&self, order: Ordering) -> bool {
        self.compare_exchange(true, false, order, Ordering::Relaxed).is_ok()
    }
}

impl Counter for AtomicUsize {
    fn new(value: usize) -> Self {
        Self::new(value)
    }
    fn load(&self, order: Ordering) -> usize {
        self.load(order)
    }
    fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        self.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        self.fetch_sub(value, order)
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(check);
}

/// The lane's eventfd: a sleep ends only when it was written.
#[derive(Default)]
struct EventFd {
    count: Mutex<u32>,
    written: Condvar,
}

impl EventFd {
    fn write(&self) {
        *self.count.lock().unwrap() += 1;
        self.written.notify_one();
    }

    fn read(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.written.wait(count).unwrap();
        }
        *count = 0;
    }
}

/// A queue whose operations order nothing by themselves, so that what the lane sees it sees by the protocol alone.
/// Each sender has a place of its own, and puts one thing there.
struct Places([AtomicUsize; 2]);

impl Places {
    fn new() -> Self {
        Self([AtomicUsize::new(0), AtomicUsize::new(0)])
    }

    fn put(&self, place: usize) {
        self.0[place].store(1, Ordering::Relaxed);
    }

    /// How many things the lane can see.
    fn seen(&self) -> usize {
        self.0.iter().map(|place| place.load(Ordering::Relaxed)).sum()
    }
}

/// A lane that sleeps whenever it may receives everything from two senders, or loom reports a deadlock.
#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let shared = Arc::new((Signal::<AtomicBool>::new(), Places::new(), EventFd::default()));
        let senders: Vec<_> = (0..2)
            .map(|place| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (signal, places, eventfd) = &*shared;
                    places.put(place);
                    if signal.notify() {
                        eventfd.write();
                    }
                })
            })
            .collect();
        let (signal, places, eventfd) = &*shared;
        let mut received = 0;
        while received < 2 {
            if signal.take() {
                received = places.seen();
            } else if signal.try_sleep() {
                eventfd.read();
                signal.wake();
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// A lane that is woken by something else (a completion) while a sender acts loses nothing either.
#[test]
fn a_wake_up_by_something_else_loses_nothing() {
    model(|| {
        let shared = Arc::new((Signal::<AtomicBool>::new(), Places::new(), EventFd::default()));
        let sender = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (signal, places, eventfd) = &*shared;
                places.put(0);
                if signal.notify() {
                    eventfd.write();
                }
            })
        };
        let (signal, places, eventfd) = &*shared;
        let mut received = 0;
        // The first sleep ends at once, by a completion.
        if signal.try_sleep() {
            signal.wake();
        }
        while received < 1 {
            if signal.take() {
                received = places.seen();
            } else if signal.try_sleep() {
                eventfd.read();
                signal.wake();
            }
        }
        sender.join().unwrap();
    });
}

/// Two wakers and a lane that polls the task whenever it is queued: it sees both events, and the task never stands in
/// the queue twice. A missed event would leave the lane polling for ever, which loom reports.
#[test]
fn a_task_is_queued_once_and_sees_every_event() {
    model(|| {
        let shared = Arc::new((Queued::<AtomicBool>::new(), Mutex::new(0), Places::new()));
        let wakers: Vec<_> = (0..2)
            .map(|place| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (queued, queue, events) = &*shared;
                    events.put(place);
                    if queued.enter() {
                        *queue.lock().unwrap() += 1;
                    }
                })
            })
            .collect();
        let (queued, queue, events) = &*shared;
        let mut seen = 0;
        while seen < 2 {
            let found = std::mem::take(&mut *queue.lock().unwrap());
            assert!(found <= 1, "queued twice");
            if found == 0 {
                thread::yield_now();
                continue;
            }
            queued.leave();
            seen = events.seen();
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

/// A poster that finds the mailbox full waits, and is woken once there is space; loom would report a deadlock.
#[test]
fn a_poster_that_waits_for_space_is_woken() {
    model(|| {
        struct Mailbox {
            waiting: Waiting<AtomicBool>,
            full: AtomicBool,
            registered: Mutex<bool>,
            woken: EventFd,
        }
        let shared = Arc::new(Mailbox {
            waiting: Waiting::new(),
            full: AtomicBool::new(true),
            registered: Mutex::new(false),
            woken: EventFd::default(),
        });
        let poster = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                loop {
                    if !shared.full.load(Ordering::Relaxed) {
                        break;
                    }
                    *shared.registered.lock().unwrap() = true;
                    shared.waiting.announce();
                    if !shared.full.load(Ordering::Relaxed) {
                        break;
                    }
                    shared.woken.read();
                }
            })
        };
        shared.full.store(false, Ordering::Relaxed);
        if shared.waiting.take() {
            assert!(*shared.registered.lock().unwrap(), "announced before registering");
            shared.woken.write();
        }
        poster.join().unwrap();
    });
}

/// What a poster was told is accepted is there when the lane takes its last look; what was refused is not.
#[test]
fn nothing_accepted_is_lost_when_the_gate_closes() {
    model(|| {
        let shared = Arc::new((Gate::<AtomicUsize>::new(), Places::new()));
        let posters: Vec<_> = (0..2)
            .map(|place| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.0.pass(|| shared.1.put(place)).is_some())
            })
            .collect();
        let (gate, places) = &*shared;
        gate.close();
        while !gate.is_empty() {
            thread::yield_now();
        }
        let found = places.seen();
        let accepted = posters.into_iter().map(|poster| poster.join().unwrap());
        assert_eq!(found, accepted.filter(|accepted| *accepted).count());
        assert_eq!(places.seen(), found, "something came in after the end");
        assert!(gate.pass(|| ()).is_none() && gate.is_closed());
    });
}
