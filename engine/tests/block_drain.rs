//! Drained sections: nothing is in flight in one, and what is submitted meanwhile starts in order afterwards.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use corelane_dma::Payload;
use corelane_engine::aio::{AioConfig, AioContext, IoThread, Wait};
use corelane_engine::block::{
    BlockBackend, BlockLimits, Channel, DrainedSection, Errno, IoResult, Op, Request, ZoneLimits,
};
use support::{Behaviour, TestDevice, buffer, bytes_of, context, filled};

/// A device that takes some turns for each command.
fn slow_device() -> Arc<TestDevice> {
    let limits = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
    TestDevice::new(Behaviour { limits, delay: 3, ..Behaviour::default() })
}

fn submit(channel: &Channel, request: Request) {
    channel.submit(request).map_err(drop).expect("there is room");
}

/// Turns until so many have ended; their tokens and results in this order.
fn drain(ctx: &AioContext, channel: &Channel, count: usize) -> Vec<(u64, IoResult)> {
    let mut ended = Vec::new();
    for _ in 0..100_000 {
        channel.drain(|end| ended.push((end.token, end.result)));
        if ended.len() >= count {
            break;
        }
        ctx.turn(Wait::No);
    }
    assert_eq!(ended.len(), count, "{ended:?}");
    ended
}

/// Turns often enough for anything that may happen to happen.
fn turns(ctx: &AioContext) {
    for _ in 0..50 {
        ctx.turn(Wait::No);
    }
}

fn seen(device: &TestDevice) -> u64 {
    device.seen.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

fn first_byte(device: &TestDevice, offset: usize) -> u8 {
    device.data.lock().expect("the content")[offset]
}

#[test]
fn what_is_in_flight_ends_first_and_what_comes_later_waits() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 16).expect("a channel");
    // One by the fast path, one that reads, changes and writes back, and one that waits for that.
    submit(&channel, Request::write(0, filled(512, 0, 1)));
    submit(&channel, Request::write(600, filled(100, 0, 2)));
    submit(&channel, Request::write(700, filled(100, 0, 3)));
    let section = ctx.block_on(backend.drained_begin());
    assert_eq!(channel.completed(), 3);
    drain(&ctx, &channel, 3);

    let before = seen(&device);
    submit(&channel, Request::write(0, filled(512, 0, 4)));
    submit(&channel, Request::flush());
    let mut read = Box::pin(channel.read_at(4096, buffer(512, 0)));
    ctx.block_on(async {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(read.as_mut().poll(cx).is_pending()));
        assert!(polled.await);
    });
    turns(&ctx);
    assert_eq!((seen(&device), channel.completed(), channel.in_flight()), (before, 0, 3));
    assert_eq!(channel.stats().held, 3);
    drop(section);
    assert!(drain(&ctx, &channel, 2).iter().all(|(_, result)| result.is_ok()));
    let (result, buf) = ctx.block_on(read);
    assert_eq!((result, bytes_of(&Payload::One(buf))[0]), (Ok(()), (4096 % 251) as u8));
    assert_eq!(first_byte(&device, 0), 4);
    // The fast path is back.
    let fast = channel.stats().fast_of(Op::Write);
    submit(&channel, Request::write(0, filled(512, 0, 4)));
    drain(&ctx, &channel, 1);
    assert_eq!(channel.stats().fast_of(Op::Write), fast + 1);
}

#[test]
fn held_requests_start_in_order_and_before_what_comes_after_the_section() {
    let limits = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
    let device = TestDevice::new(Behaviour { limits, ..Behaviour::default() });
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 64).expect("a channel");
    let section = ctx.block_on(backend.drained_begin());
    for byte in 1..=40 {
        submit(&channel, Request::write(0, filled(512, 0, byte)).with_token(byte.into()));
    }
    drop(section);
    submit(&channel, Request::write(0, filled(512, 0, 41)).with_token(41));
    assert!(drain(&ctx, &channel, 41).iter().all(|(_, result)| result.is_ok()));
    // The device carries out one after the other.
    assert_eq!((first_byte(&device, 0), channel.stats().held), (41, 41));
}

#[test]
fn sections_nest() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 4).expect("a channel");
    let (outer, inner) =
        ctx.block_on(async { (backend.drained_begin().await, backend.drained_begin().await) });
    submit(&channel, Request::write(0, filled(512, 0, 9)));
    drop(outer);
    turns(&ctx);
    assert_eq!(seen(&device), 0);
    // The next begins before the last ends.
    let next = ctx.block_on(backend.drained_begin());
    drop(inner);
    turns(&ctx);
    assert_eq!(seen(&device), 0);
    drop(next);
    drain(&ctx, &channel, 1);
    assert_eq!(first_byte(&device, 0), 9);
}

#[test]
fn a_section_that_is_given_up_while_it_begins_holds_nothing_back() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 4).expect("a channel");
    submit(&channel, Request::write(0, filled(512, 0, 1)));
    let mut begin = Box::pin(backend.drained_begin());
    ctx.block_on(async {
        let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(begin.as_mut().poll(cx).is_pending()));
        assert!(pending.await);
    });
    submit(&channel, Request::write(0, filled(512, 0, 2)));
    drain(&ctx, &channel, 1);
    drop(begin);
    drain(&ctx, &channel, 1);
    assert_eq!(first_byte(&device, 0), 2);
}

#[test]
fn a_handler_that_opens_a_section_holds_back_what_has_not_started() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let section = ctx.block_on(backend.drained_begin());
    let opened: Rc<RefCell<Option<DrainedSection>>> = Rc::default();
    let ended = Rc::new(RefCell::new(0));
    let handler = (backend.clone(), ctx.clone(), Rc::clone(&opened), Rc::clone(&ended));
    channel.set_handler(move |end| {
        let (backend, ctx, opened, ended) = &handler;
        *ended.borrow_mut() += 1;
        // The first is refused as it is started, the second waits behind it.
        if end.result.is_err() {
            let (backend, opened) = (backend.clone(), Rc::clone(opened));
            drop(ctx.spawn(async move { *opened.borrow_mut() = Some(backend.drained_begin().await) }));
        }
    });
    submit(&channel, Request::write(2 << 20, filled(512, 0, 1)));
    submit(&channel, Request::write(0, filled(512, 0, 2)));
    drop(section);
    turns(&ctx);
    assert!(opened.borrow().is_some());
    let (before, count) = (seen(&device), *ended.borrow());
    submit(&channel, Request::write(0, filled(512, 0, 3)));
    turns(&ctx);
    assert_eq!((seen(&device), *ended.borrow()), (before, count));
    opened.borrow_mut().take();
    turns(&ctx);
    assert_eq!((first_byte(&device, 0), *ended.borrow()), (3, 3));
}

#[test]
fn closing_ends_what_a_section_holds_back() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let _section = ctx.block_on(backend.drained_begin());
    (0..3).for_each(|token| submit(&channel, Request::write(0, filled(512, 0, 1)).with_token(token)));
    turns(&ctx);
    ctx.block_on(backend.close());
    assert_eq!(channel.completed(), 3, "closing waits for them");
    let gone = |token| (token, Err(Errno::ENOMEDIUM.into()));
    assert_eq!(drain(&ctx, &channel, 3), (0..3).map(gone).collect::<Vec<_>>());
    assert_eq!(seen(&device), 0);
    // And what comes later is refused at once.
    submit(&channel, Request::read(0, buffer(512, 0)));
    assert_eq!(channel.completed(), 1);
}

#[test]
fn what_is_held_back_sees_the_length_of_the_time_when_it_starts() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let section = ctx.block_on(backend.drained_begin());
    submit(&channel, Request::write(1 << 20, filled(512, 0, 5)).with_token(1));
    submit(&channel, Request::write(3 << 20, filled(512, 0, 5)).with_token(2));
    submit(&channel, Request::discard(0, 0).with_token(3));
    ctx.block_on(backend.truncate(2 << 20)).expect("a longer device");
    drop(section);
    let mut ended = drain(&ctx, &channel, 3);
    ended.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(ended, [(1, Ok(())), (2, Err(Errno::EIO.into())), (3, Ok(()))]);
    assert_eq!(first_byte(&device, 1 << 20), 5);
}

#[test]
fn a_channel_that_is_dropped_with_held_requests_carries_them_out() {
    let device = slow_device();
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let section = ctx.block_on(backend.drained_begin());
    submit(&channel, Request::write(0, filled(512, 0, 7)));
    drop(channel);
    turns(&ctx);
    assert_eq!(seen(&device), 0);
    drop(section);
    turns(&ctx);
    assert_eq!(first_byte(&device, 0), 7);
    // The lane has nothing of the node any more, so that nobody waits for it.
    ctx.block_on(backend.drain());
}

#[test]
fn writes_that_wait_for_their_zone_end_before_a_section_begins() {
    let zones = ZoneLimits {
        zone_size: 64 << 10,
        zone_capacity: 0,
        max_open: 0,
        max_active: 0,
        max_append: 4096,
        cross_reads: false,
    };
    let limits = BlockLimits { request_alignment: 4096, zoned: Some(zones), ..BlockLimits::default() };
    let device = TestDevice::new(Behaviour { limits, delay: 2, ..Behaviour::default() });
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 16).expect("a channel");
    let write = |block: u64| Request::write(block * 4096, filled(4096, 0, block as u8 + 1)).with_token(block);
    (0..6).for_each(|block| submit(&channel, write(block)));
    let section = ctx.block_on(backend.drained_begin());
    assert_eq!(seen(&device), 6);
    (6..12).for_each(|block| submit(&channel, write(block)));
    drop(section);
    let ended = drain(&ctx, &channel, 12);
    assert_eq!(ended, (0..12).map(|token| (token, Ok(()))).collect::<Vec<_>>());
}

/// Ends the load even if a check fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes without a pause until it is told to stop; how many have ended.
async fn load(backend: BlockBackend, base: u64, stop: Arc<AtomicBool>, ended: Arc<AtomicU64>) {
    let ctx = AioContext::current().expect("a lane");
    let channel = backend.channel(&ctx, 8).expect("a channel");
    while !stop.load(Ordering::Relaxed) {
        // One that shares its block with the other lanes' among them.
        let writes = [(base, 512), (base + 512, 1024), (40_000 + base / 4096, 1), (base + 2048, 512)];
        let writes = writes.map(|(at, len)| Box::pin(channel.write_at(at, filled(len, 0, 1))));
        for write in writes {
            assert_eq!(write.await.0, Ok(()));
            ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn all_lanes_stand_still_in_a_section_of_another_lane() {
    let device = slow_device();
    let backend = device.backend();
    let spawn = || IoThread::spawn(&AioConfig::default()).expect("a lane");
    let (workers, owner) = ([spawn(), spawn()], spawn());
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        let _stop = Stop(Arc::clone(&stop));
        for (worker, lane) in workers.iter().zip(0..) {
            let (backend, stop, ended) = (backend.clone(), Arc::clone(&stop), Arc::clone(&ended));
            let work = worker.handle().run_on(move |_: &_| load(backend, lane * 4096, stop, ended));
            scope.spawn(|| work.wait().expect("a lane that ended well"));
        }
        for round in 1..=100 {
            let backend = backend.clone();
            let section = owner.handle().run_on(move |_: &_| async move { backend.drained_begin().await });
            let section = section.wait().expect("a lane that ended well");
            let before = seen(&device);
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(seen(&device), before, "round {round}");
            let before = ended.load(Ordering::Relaxed);
            // In a thread that has no lane.
            drop(section);
            while ended.load(Ordering::Relaxed) < before + 8 {
                std::thread::yield_now();
            }
        }
    });
    workers.into_iter().chain([owner]).for_each(|lane| lane.join().expect("a lane that ended well"));
}
