//! Lanes and other threads: mailbox, back-pressure, calls, offloading, orderly ends, sleep.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use corelane_engine::aio::{
    AioConfig, AioContext, AioError, CoreChoice, IoThread, PollMode, PostError, Wait, allowed_cores, offload,
};

fn lane(name: &str) -> IoThread {
    IoThread::spawn(&AioConfig::named(name)).unwrap()
}

#[test]
fn a_lane_has_its_name_and_its_core() {
    let core = *allowed_cores().last().unwrap();
    let config = AioConfig { core: Some(CoreChoice::Given(core)), ..AioConfig::named("pinned") };
    let lane = IoThread::spawn(&config).unwrap();
    let (name, here, current) = lane
        .run_on(|context| {
            let id = context.id();
            async move {
                let name = thread::current().name().map(str::to_owned);
                (name, rustix::thread::sched_getcpu(), AioContext::current().unwrap().id() == id)
            }
        })
        .unwrap();
    assert_eq!(name.as_deref(), Some("pinned"));
    assert_eq!(here, core);
    assert!(current);
    assert!(!lane.handle().is_current());
    lane.join().unwrap();
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let config = AioConfig { core: Some(CoreChoice::Given(4096)), ..AioConfig::named("nowhere") };
    let error = IoThread::spawn(&config).unwrap_err();
    assert!(matches!(error, AioError::Core { core: 4096, .. }), "{error}");
}

#[test]
fn a_lane_that_cannot_be_made_says_why() {
    let error = IoThread::spawn(&AioConfig { ring_entries: 0, ..AioConfig::default() }).unwrap_err();
    assert!(matches!(error, AioError::BadConfig { field: "ring entries", .. }), "{error}");
}

#[test]
fn a_full_mailbox_gives_the_closure_back() {
    let context = AioContext::new(&AioConfig { mailbox_capacity: 2, ..AioConfig::named("small") }).unwrap();
    let handle = context.handle();
    let ran = Arc::new(AtomicUsize::new(0));
    let mail = |add: usize| {
        let ran = Arc::clone(&ran);
        Box::new(move |_: &AioContext| {
            ran.fetch_add(add, Ordering::Relaxed);
        })
    };
    handle.try_post(mail(1)).unwrap();
    handle.try_post(mail(10)).unwrap();
    let refused = handle.try_post(mail(100)).unwrap_err();
    assert!(matches!(refused, PostError::Full(_)), "{refused}");
    assert!(context.turn(Wait::Yes));
    assert_eq!(ran.load(Ordering::Relaxed), 11);
    handle.try_post(refused.into_mail()).unwrap();
    context.turn(Wait::Yes);
    assert_eq!(ran.load(Ordering::Relaxed), 111);
    context.shutdown();
    assert!(matches!(handle.try_post(mail(1000)).unwrap_err(), PostError::Closed(_)));
}

#[test]
fn posts_wait_for_space_and_keep_their_order() {
    let target = IoThread::spawn(&AioConfig { mailbox_capacity: 4, ..AioConfig::named("target") }).unwrap();
    let source = lane("source");
    let (sender, receiver) = mpsc::channel();
    let handle = target.handle().clone();
    source
        .run_on(move |_| async move {
            for number in 0..5000u32 {
                let sender = sender.clone();
                let mail = Box::new(move |_: &AioContext| sender.send(number).unwrap());
                handle.post(mail).await.unwrap();
            }
        })
        .unwrap();
    let received: Vec<u32> = receiver.iter().collect();
    assert_eq!(received, (0..5000).collect::<Vec<_>>());
    source.join().unwrap();
    target.join().unwrap();
}

#[test]
fn lanes_call_each_other() {
    let (one, two) = (lane("one"), lane("two"));
    let (to_one, to_two) = (one.handle().clone(), two.handle().clone());
    let sum = one
        .run_on(move |_| async move {
            let mut sum = 0u64;
            for number in 0..500u64 {
                let back = to_one.clone();
                sum += to_two
                    .run_on(move |_| async move { back.call(move |_| number * 2).await.unwrap() + 1 })
                    .await
                    .unwrap();
            }
            sum
        })
        .unwrap();
    assert_eq!(sum, 500 * 499 + 500);
    one.join().unwrap();
    two.join().unwrap();
}

#[test]
fn what_was_accepted_before_the_stop_is_run() {
    for _ in 0..50 {
        let lane = lane("ending");
        let ran = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let posters: Vec<_> = (0..3)
            .map(|_| {
                let (handle, ran, accepted) =
                    (lane.handle().clone(), Arc::clone(&ran), Arc::clone(&accepted));
                thread::spawn(move || {
                    loop {
                        let ran = Arc::clone(&ran);
                        let mail = Box::new(move |_: &AioContext| {
                            ran.fetch_add(1, Ordering::Relaxed);
                        });
                        match handle.try_post(mail) {
                            Ok(()) => {
                                accepted.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(PostError::Closed(_)) => break,
                            Err(_) => thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_micros(300));
        lane.join().unwrap();
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        assert_eq!(ran.load(Ordering::Relaxed), accepted.load(Ordering::Relaxed));
    }
}

#[test]
fn what_another_thread_awaits_is_finished_before_the_end() {
    let lane = lane("slow");
    let (started, wait) = mpsc::channel();
    let call = lane.handle().run_on(move |context| {
        let context = context.clone();
        started.send(()).unwrap();
        async move {
            context.sleep(Duration::from_millis(30)).await;
            offload(|| 5).await
        }
    });
    let caller = thread::spawn(move || call.wait());
    wait.recv().unwrap();
    lane.join().unwrap();
    assert_eq!(caller.join().unwrap().unwrap(), 5);
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(AioContext::current().is_some(), Ordering::Relaxed);
    }
}

#[test]
fn tasks_left_at_the_end_are_dropped_in_the_lane() {
    let lane = lane("left");
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = SetOnDrop(Arc::clone(&dropped));
    lane.run_on(move |context| {
        let inner = context.clone();
        drop(context.spawn(async move {
            let _guard = guard;
            // Holds its own context, which must not keep it alive.
            inner.sleep(Duration::from_secs(3600)).await;
        }));
        async {}
    })
    .unwrap();
    let handle = lane.handle().clone();
    lane.join().unwrap();
    assert!(dropped.load(Ordering::Relaxed));
    assert!(matches!(handle.call(|_| ()).wait(), Err(AioError::LaneGone)));
    handle.stop();
}

#[test]
fn a_panic_in_a_lane_is_reported_and_leaves_nobody_waiting() {
    let lane = lane("doomed");
    let handle = lane.handle().clone();
    // Awaited by another thread when the panic comes.
    let (started, wait) = mpsc::channel();
    let waiting = handle.run_on(move |context| {
        let context = context.clone();
        started.send(()).unwrap();
        async move { context.sleep(Duration::from_secs(3600)).await }
    });
    let waiter = thread::spawn(move || waiting.wait());
    wait.recv().unwrap();
    handle.try_post(Box::new(|_| panic!("on purpose: {}", 7))).unwrap();
    assert!(matches!(waiter.join().unwrap(), Err(AioError::LaneGone)));
    let error = lane.join().unwrap_err();
    assert_eq!(error.to_string(), "the lane \"doomed\" panicked: on purpose: 7");
    assert!(matches!(handle.call(|_| ()).wait(), Err(AioError::LaneGone)));
}

#[test]
fn offloaded_operations_run_elsewhere_and_the_lane_goes_on() {
    let context = AioContext::new(&AioConfig::named("front")).unwrap();
    let here = thread::current().id();
    let ticks = Rc::new(Cell::new(0));
    let (count, inner) = (Rc::clone(&ticks), context.clone());
    drop(context.spawn(async move {
        loop {
            inner.sleep(Duration::from_millis(1)).await;
            count.set(count.get() + 1);
        }
    }));
    let sum = context.block_on(async {
        let blocking = |number: u64| {
            offload(move || {
                thread::sleep(Duration::from_millis(40));
                assert_ne!(thread::current().id(), here);
                number
            })
        };
        // More than there are threads: the rest waits its turn.
        let all: Vec<_> = (1..=20).map(blocking).collect();
        let mut sum = 0;
        for one in all {
            sum += one.await;
        }
        sum
    });
    assert_eq!(sum, 210);
    assert!(ticks.get() > 0, "the lane ran its timer while the operations blocked");
    context.shutdown();
}

#[test]
fn a_panic_in_an_offloaded_operation_reaches_who_awaits_it() {
    let lane = lane("caller");
    let called = lane.run_on(|_| async { offload(|| panic!("blocked badly")).await });
    assert!(matches!(called, Err(AioError::LaneGone)));
    let error = lane.join().unwrap_err();
    assert!(error.to_string().ends_with("panicked: blocked badly"), "{error}");
}

/// The CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn an_idle_lane_sleeps() {
    for poll in [PollMode::Interrupt, PollMode::adaptive()] {
        let lane = IoThread::spawn(&AioConfig { poll, ..AioConfig::named("idle") }).unwrap();
        let enters = |context: &AioContext| (cpu_time(), context.ring().enters());
        let (before, enters_before) = lane.handle().call(enters).wait().unwrap();
        thread::sleep(Duration::from_secs(1));
        let (after, enters_after) = lane.handle().call(enters).wait().unwrap();
        let used = after - before;
        assert!(used < Duration::from_millis(10), "{poll:?}: {used:?} of a second");
        assert!(enters_after - enters_before <= 4, "{poll:?}: woke {} times", enters_after - enters_before);
        lane.join().unwrap();
    }
}

#[test]
fn a_busy_polling_lane_answers_without_sleeping() {
    let lane = IoThread::spawn(&AioConfig { poll: PollMode::Busy, ..AioConfig::named("busy") }).unwrap();
    let start = Instant::now();
    for number in 0..1000 {
        assert_eq!(lane.handle().call(move |_| number).wait().unwrap(), number);
    }
    let enters = lane.handle().call(|context| context.ring().enters()).wait().unwrap();
    assert_eq!(enters, 0, "in {:?}", start.elapsed());
    lane.join().unwrap();
}
