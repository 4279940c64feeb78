//! The event loop in one lane: tasks, wakers, timers, bottom halves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use corelane_engine::aio::{AioConfig, AioContext, PollMode, Wait};

fn context() -> AioContext {
    AioContext::new(&AioConfig::named("test")).unwrap()
}

/// Pending once per waker that it hands out.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn block_on_gives_the_value_and_may_borrow() {
    let context = context();
    let text = String::from("borrowed");
    assert_eq!(context.block_on(async { text.len() }), 8);
    context.block_on(async {
        yield_now().await;
        yield_now().await;
    });
}

#[test]
fn tasks_run_in_the_order_in_which_they_became_ready() {
    let context = context();
    let log = Rc::new(RefCell::new(Vec::new()));
    let handles: Vec<_> = (0..3)
        .map(|number| {
            let log = Rc::clone(&log);
            context.spawn(async move {
                for step in 0..2 {
                    log.borrow_mut().push((step, number));
                    yield_now().await;
                }
                number * 10
            })
        })
        .collect();
    let mut sum = 0;
    context.block_on(async {
        for handle in handles {
            sum += handle.await;
        }
    });
    assert_eq!(sum, 30);
    assert_eq!(*log.borrow(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    assert_eq!(context.task_count(), 0);
}

#[test]
fn a_task_woken_many_times_is_polled_once() {
    let context = context();
    let polls = Rc::new(Cell::new(0));
    let stored: Rc<RefCell<Option<Waker>>> = Rc::default();
    let (count, slot) = (Rc::clone(&polls), Rc::clone(&stored));
    drop(context.spawn(std::future::poll_fn(move |cx| {
        count.set(count.get() + 1);
        *slot.borrow_mut() = Some(cx.waker().clone());
        Poll::<()>::Pending
    })));
    context.turn(Wait::No);
    assert_eq!(polls.get(), 1);
    let waker = stored.borrow().clone().unwrap();
    for _ in 0..5 {
        waker.wake_by_ref();
    }
    let elsewhere = waker.clone();
    thread::spawn(move || (0..5).for_each(|_| elsewhere.wake_by_ref())).join().unwrap();
    while context.turn(Wait::No) {}
    assert_eq!(polls.get(), 2, "ten wake-ups before the poll are one");
    context.shutdown();
    assert_eq!(context.task_count(), 0);
    waker.wake();
}

#[test]
fn a_waker_from_another_thread_ends_the_sleep() {
    for mode in [PollMode::Interrupt, PollMode::adaptive(), PollMode::Busy] {
        let context = AioContext::new(&AioConfig { poll: mode, ..AioConfig::named("wakers") }).unwrap();
        let (sender, receiver) = mpsc::channel::<Waker>();
        let waker_thread = thread::spawn(move || {
            for (round, waker) in receiver.iter().enumerate() {
                if round % 3 == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
                waker.wake();
            }
        });
        context.block_on(async {
            for _ in 0..200 {
                let mut sent = false;
                std::future::poll_fn(|cx| {
                    if std::mem::replace(&mut sent, true) {
                        return Poll::Ready(());
                    }
                    sender.send(cx.waker().clone()).unwrap();
                    Poll::Pending
                })
                .await;
            }
        });
        drop(sender);
        waker_thread.join().unwrap();
    }
}

#[test]
fn timers_run_in_the_order_of_their_deadlines() {
    let context = context();
    let log = Rc::new(RefCell::new(Vec::new()));
    let now = Instant::now();
    let mut timers = Vec::new();
    for (name, after_ms) in [("c", 30), ("a", 10), ("cancelled", 15), ("b1", 20), ("b2", 20), ("past", 0)] {
        let log = Rc::clone(&log);
        let deadline = now + Duration::from_millis(after_ms);
        timers.push(context.add_timer(deadline, move || log.borrow_mut().push(name)));
    }
    assert!(context.cancel_timer(timers[2]));
    assert!(!context.cancel_timer(timers[2]), "a timer is cancelled once");
    context.block_on(context.sleep_until(now + Duration::from_millis(40)));
    assert!(now.elapsed() >= Duration::from_millis(40));
    assert_eq!(*log.borrow(), ["past", "a", "b1", "b2", "c"]);
    assert!(!context.cancel_timer(timers[0]), "it has run");
}

#[test]
fn a_dropped_sleep_wakes_nobody() {
    let context = context();
    let start = Instant::now();
    context.block_on(async {
        let mut long = Box::pin(context.sleep(Duration::from_secs(3600)));
        let polled = std::future::poll_fn(|cx| Poll::Ready(long.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        drop(long);
        context.sleep(Duration::from_millis(5)).await;
        let for_ever = context.sleep(Duration::MAX);
        drop(for_ever);
    });
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_timer_that_sets_a_timer_does_not_keep_the_turn() {
    fn again(context: &AioContext, count: Rc<Cell<u32>>) {
        count.set(count.get() + 1);
        let next = context.clone();
        context.add_timer(Instant::now(), move || again(&next, count));
    }
    let context = context();
    let count = Rc::new(Cell::new(0));
    again(&context, Rc::clone(&count));
    context.turn(Wait::Yes);
    assert_eq!(count.get(), 2);
    context.shutdown();
}

#[test]
fn bottom_halves_run_once_per_scheduling() {
    let context = context();
    let runs = Rc::new(Cell::new(0));
    let count = Rc::clone(&runs);
    let bottom_half = context.new_bh(move || count.set(count.get() + 1));
    context.turn(Wait::No);
    assert_eq!(runs.get(), 0);
    bottom_half.schedule();
    bottom_half.schedule();
    let handle = bottom_half.handle();
    let elsewhere = handle.clone();
    thread::spawn(move || elsewhere.schedule()).join().unwrap();
    while context.turn(Wait::No) {}
    assert_eq!(runs.get(), 1);
    let elsewhere = handle.clone();
    thread::spawn(move || (0..3).for_each(|_| elsewhere.schedule())).join().unwrap();
    bottom_half.schedule();
    while context.turn(Wait::No) {}
    assert_eq!(runs.get(), 2, "scheduled here and there before it ran");
    bottom_half.schedule();
    drop(bottom_half);
    handle.schedule();
    while context.turn(Wait::No) {}
    assert_eq!(runs.get(), 2, "a deleted bottom half does not run");
}

#[test]
fn a_bottom_half_may_schedule_itself_and_new_ones() {
    let context = context();
    let log = Rc::new(RefCell::new(Vec::new()));
    let (inner, outer_log) = (context.clone(), Rc::clone(&log));
    context.schedule_bh(move || {
        outer_log.borrow_mut().push(1);
        let inner_log = Rc::clone(&outer_log);
        inner.schedule_bh(move || inner_log.borrow_mut().push(2));
    });
    assert!(context.turn(Wait::No));
    assert_eq!(*log.borrow(), [1], "what becomes ready in a turn runs in the next");
    assert!(context.turn(Wait::Yes));
    assert_eq!(*log.borrow(), [1, 2]);
    assert!(!context.turn(Wait::No));
}

#[test]
#[should_panic(expected = "a turn of this AioContext is under way")]
fn a_turn_within_a_turn_is_refused() {
    let context = context();
    let again = context.clone();
    context.schedule_bh(move || {
        again.turn(Wait::No);
    });
    context.turn(Wait::No);
}

#[test]
fn current_is_set_inside_the_turn_only() {
    let context = context();
    assert!(AioContext::current().is_none());
    let id = context.id();
    context.block_on(async {
        assert_eq!(AioContext::current().unwrap().id(), id);
        let other = AioContext::new(&AioConfig::named("other")).unwrap();
        let other_id = other.id();
        assert_ne!(other_id, id);
        other.block_on(async { assert_eq!(AioContext::current().unwrap().id(), other_id) });
        assert_eq!(AioContext::current().unwrap().id(), id);
    });
    assert!(AioContext::current().is_none());
}
