//! Requests as futures in every order that a caller can come up with: dropped, polled too often, outliving their channel.

mod support;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use corelane_engine::aio::{AioContext, Wait};
use corelane_engine::block::{BlockLimits, Errno, ReadAt, Request};
use support::{Behaviour, TestDevice, buffer, context, filled};

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A future with a waker of its own.
struct Polled {
    future: Pin<Box<ReadAt>>,
    count: Arc<Count>,
}

impl Polled {
    fn new(future: ReadAt) -> Polled {
        Polled { future: Box::pin(future), count: Arc::default() }
    }

    fn poll(&mut self) -> Option<Result<(), Errno>> {
        let waker = Waker::from(Arc::clone(&self.count));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready((result, _)) => Some(result.map_err(|error| error.errno)),
            Poll::Pending => None,
        }
    }

    fn woken(&self) -> bool {
        self.count.0.load(Ordering::Relaxed) > 0
    }
}

/// Turns until the future is woken, then polls it. It must be woken: nobody polls on a guess.
fn finish(ctx: &AioContext, polled: &mut Polled) -> Result<(), Errno> {
    for _ in 0..100 {
        if polled.woken() {
            polled.count.0.store(0, Ordering::Relaxed);
            if let Some(result) = polled.poll() {
                return result;
            }
        }
        ctx.turn(Wait::No);
    }
    panic!("the future was never woken");
}

fn slow_device() -> Arc<TestDevice> {
    TestDevice::new(Behaviour { delay: 2, ..Behaviour::default() })
}

#[test]
fn a_future_that_gives_up_waiting_does_not_take_anothers_turn() {
    let (device, ctx) = (slow_device(), context());
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    let read = || Polled::new(channel.read_at(0, buffer(512, 0)));
    let (mut first, mut second, mut third) = (read(), read(), read());
    assert!(first.poll().is_none() && second.poll().is_none() && third.poll().is_none());
    drop(third);
    assert_eq!(finish(&ctx, &mut first), Ok(()));
    assert_eq!(finish(&ctx, &mut second), Ok(()));
}

#[test]
fn a_future_that_was_called_and_dropped_passes_its_turn_on() {
    let (device, ctx) = (slow_device(), context());
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    let read = || Polled::new(channel.read_at(0, buffer(512, 0)));
    let (mut first, mut second, mut third) = (read(), read(), read());
    assert!(first.poll().is_none() && second.poll().is_none() && third.poll().is_none());
    assert_eq!(finish(&ctx, &mut first), Ok(()));
    assert!(second.woken());
    drop(second);
    assert_eq!(finish(&ctx, &mut third), Ok(()));
}

#[test]
fn polling_too_often_does_not_use_up_wake_ups() {
    let (device, ctx) = (slow_device(), context());
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    let read = || Polled::new(channel.read_at(0, buffer(512, 0)));
    let (mut first, mut second, mut third) = (read(), read(), read());
    assert!(first.poll().is_none());
    for _ in 0..5 {
        assert!(second.poll().is_none());
    }
    assert!(third.poll().is_none());
    for polled in [&mut first, &mut second, &mut third] {
        assert_eq!(finish(&ctx, polled), Ok(()));
    }
}

#[test]
fn a_future_that_outlives_its_channel_is_told_so() {
    let (device, ctx) = (slow_device(), context());
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    let mut sent = Polled::new(channel.read_at(0, buffer(512, 0)));
    let mut waiting = Polled::new(channel.read_at(0, buffer(512, 0)));
    let mut unsent = Polled::new(channel.read_at(0, buffer(512, 0)));
    assert!(sent.poll().is_none() && waiting.poll().is_none());
    drop(channel);
    assert_eq!(unsent.poll(), Some(Err(Errno::ENOMEDIUM)));
    assert_eq!(finish(&ctx, &mut waiting), Err(Errno::ENOMEDIUM));
    assert_eq!(finish(&ctx, &mut sent), Ok(()), "what was sent is finished");
}

#[test]
fn a_write_that_waits_for_a_truncation_does_not_land_behind_the_end() {
    let limits = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
    let device = TestDevice::new(Behaviour { limits, delay: 3, ..Behaviour::default() });
    let (backend, ctx) = (device.backend(), context());
    let channel = Rc::new(backend.channel(&ctx, 4).expect("a channel"));
    // Something in flight, so that the truncation has to wait, and with it the write behind it.
    channel.submit(Request::write(900_000, filled(512, 0, 1))).expect("room");
    let truncation = ctx.spawn(async move { backend.truncate(4096).await });
    ctx.turn(Wait::No);
    let late = ctx.block_on(channel.write_at(512 << 10, filled(512, 0, 2)));
    assert_eq!(late.0.map_err(|error| error.errno), Err(Errno::EIO));
    ctx.block_on(truncation).expect("truncated");
    assert_eq!(device.data.lock().expect("the content").len(), 4096);
}

#[test]
fn a_drain_within_a_drain_leaves_the_channel_working() {
    let (device, ctx) = (slow_device(), context());
    let channel = device.backend().channel(&ctx, 2).expect("a channel");
    for round in 0..5 {
        channel.submit(Request::write(0, filled(512, 0, round))).expect("room");
        let mut seen = 0;
        while seen == 0 {
            ctx.turn(Wait::No);
            channel.drain(|completion| {
                assert_eq!(completion.result, Ok(()));
                seen += 1;
                channel.drain(|_| panic!("there was one completion only"));
            });
        }
    }
}
