//! A zoned node: writes in order and within their zone, reads cut at boundaries.

mod support;

use std::sync::Arc;

use corelane_dma::Payload;
use corelane_engine::aio::{AioContext, Wait};
use corelane_engine::block::{BlockBackend, BlockLimits, Channel, Errno, Op, Request, ZoneLimits};
use support::{Behaviour, TestDevice, buffer, bytes_of, context, filled};

const ZONE: u64 = 64 << 10;

fn zoned(cross_reads: bool, behaviour: &Behaviour) -> Arc<TestDevice> {
    let zones = ZoneLimits {
        zone_size: ZONE,
        zone_capacity: 0,
        max_open: 0,
        max_active: 0,
        max_append: 4096,
        cross_reads,
    };
    let limits = BlockLimits {
        request_alignment: 4096,
        min_mem_alignment: 512,
        max_transfer: 16 << 10,
        max_iov: 4,
        zoned: Some(zones),
        ..BlockLimits::default()
    };
    TestDevice::new(Behaviour { limits, discard: false, ..behaviour.clone() })
}

fn late() -> Behaviour {
    Behaviour { delay: 2, reverse: true, ..Behaviour::default() }
}

fn open(device: &Arc<TestDevice>) -> (AioContext, Channel) {
    let ctx = context();
    let channel = device.backend().channel(&ctx, 16).expect("a channel");
    (ctx, channel)
}

fn errno(result: Result<(), corelane_engine::block::IoError>) -> Option<Errno> {
    result.err().map(|error| error.errno)
}

/// The device completes in any order; what it gets is in order all the same.
#[test]
fn writes_to_a_zone_arrive_as_they_were_submitted() {
    let device = zoned(false, &late());
    let (ctx, channel) = open(&device);
    for block in 0..8 {
        for zone in 0..2 {
            let data = filled(8192, usize::from(block == 3), block as u8 + 1);
            let request = match block {
                5 => Request::write_zeroes(zone * ZONE + block * 8192, 8192),
                _ => Request::write(zone * ZONE + block * 8192, data),
            };
            channel.submit(request.with_token(zone * 8 + block)).map_err(drop).expect("there is room");
        }
    }
    let mut ended = Vec::new();
    while ended.len() < 16 {
        ctx.turn(Wait::No);
        channel.drain(|end| ended.push((end.token, end.result)));
    }
    let mut order: Vec<u64> = ended.iter().map(|(token, _)| *token).filter(|token| *token < 8).collect();
    assert!(ended.iter().all(|(_, result)| result.is_ok()), "{ended:?}");
    assert_eq!(order, (0..8).collect::<Vec<_>>());
    order.clear();
    let data = device.data.lock().expect("the content");
    for block in 0..8usize {
        let written = if block == 5 { 0 } else { block as u8 + 1 };
        assert_eq!(data[ZONE as usize + block * 8192], written);
    }
}

#[test]
fn a_long_write_goes_in_pieces_one_after_the_other() {
    let device = zoned(false, &late());
    let (ctx, channel) = open(&device);
    let (result, _) = ctx.block_on(channel.write_at(ZONE, filled(ZONE as usize, 0, 9)));
    assert_eq!(result, Ok(()));
    assert_eq!(device.seen(Op::Write), 4);
    let zeroes = Request::write_zeroes(0, ZONE);
    assert_eq!(ctx.block_on(channel.start(zeroes)).0, Ok(()));
    let (result, _) = ctx.block_on(channel.write_at(0, filled(4096, 0, 1)));
    assert_eq!(errno(result), Some(Errno::EIO), "the device's own word: it is full");
}

#[test]
fn zeroes_that_the_device_has_not_are_written_in_order() {
    let device = zoned(false, &Behaviour { zero_flags: None, ..late() });
    let (ctx, channel) = open(&device);
    let zeroes = Request::write_zeroes(0, ZONE);
    assert_eq!(ctx.block_on(channel.start(zeroes)).0, Ok(()));
    assert_eq!(device.pointers.lock().expect("the pointers")[&0], ZONE);
}

#[test]
fn what_no_zone_takes_is_refused_and_not_sent() {
    let device = zoned(false, &Behaviour::default());
    let (ctx, channel) = open(&device);
    for (offset, len) in [(ZONE - 4096, 8192), (0, 2 * ZONE as usize), (100, 4096), (0, 100)] {
        let (result, _) = ctx.block_on(channel.write_at(offset, filled(len, 0, 1)));
        assert_eq!(errno(result), Some(Errno::EINVAL), "{len} bytes at {offset}");
        let zeroes = Request::write_zeroes(offset, len as u64);
        assert_eq!(errno(ctx.block_on(channel.start(zeroes)).0), Some(Errno::EINVAL));
    }
    assert_eq!((device.seen(Op::Write), device.seen(Op::WriteZeroes)), (0, 0));
    assert_eq!(channel.stats().refused, 8);
    let discard = Request::discard(0, 2 * ZONE);
    assert_eq!(ctx.block_on(channel.start(discard)).0, Ok(()), "a wish that is not granted");
}

#[test]
fn reads_are_cut_at_boundaries_and_else_take_the_fast_path() {
    for cross_reads in [false, true] {
        let device = zoned(cross_reads, &late());
        let (ctx, channel) = open(&device);
        for (offset, len, skew) in [
            (0, 8192, 0),
            (ZONE - 4096, 8192, 0),
            (ZONE - 10, 20, 0),
            (ZONE - 5000, 9000, 3),
            (5, 2 * ZONE as usize + 7, 0),
        ] {
            let (result, read) = ctx.block_on(channel.read_at(offset, buffer(len, skew)));
            assert_eq!(result, Ok(()), "{len} bytes at {offset}");
            let expected = device.data.lock().expect("the content")[offset as usize..][..len].to_vec();
            assert!(bytes_of(&Payload::One(read)) == expected, "{len} bytes at {offset}");
        }
        assert_eq!(channel.stats().fast_of(Op::Read), if cross_reads { 2 } else { 1 });
    }
}

#[test]
fn a_read_that_is_sent_again_elsewhere_keeps_to_zones() {
    let device = zoned(false, &Behaviour::default());
    let (ctx, channel) = open(&device);
    channel.submit(Request::read(0, buffer(8192, 0))).map_err(drop).expect("there is room");
    while channel.completed() == 0 {
        ctx.turn(Wait::No);
    }
    channel.drain_in_place(|ended| ended.again(ZONE - 4096));
    while channel.completed() == 0 {
        ctx.turn(Wait::No);
    }
    channel.drain(|end| assert_eq!(end.result, Ok(())));
    assert_eq!(device.seen(Op::Read), 3, "the second in two pieces");
}

/// What the writes of [`eight_writes`] write.
const PIECE: u64 = ZONE / 8;

/// A whole zone in eight writes, of which only the first is with the device, and that for a while.
fn eight_writes(behaviour: &Behaviour) -> (Arc<TestDevice>, BlockBackend, AioContext, Channel) {
    let device = zoned(false, &Behaviour { delay: 5, ..behaviour.clone() });
    let (backend, ctx) = (device.backend(), context());
    let channel = backend.channel(&ctx, 8).expect("a channel");
    for token in 0..8 {
        let data = filled(PIECE as usize, 0, token as u8 + 1);
        channel.submit(Request::write(token * PIECE, data).with_token(token)).expect("there is room");
    }
    ctx.turn(Wait::No);
    assert_eq!((channel.completed(), device.seen(Op::Write)), (0, 0));
    (device, backend, ctx, channel)
}

/// The ends that are there: each request's once, in order.
fn ends_in_order(channel: &Channel) -> Vec<Option<Errno>> {
    let mut ends = Vec::new();
    channel.drain(|end| ends.push((end.token, errno(end.result))));
    let (tokens, results): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    assert_eq!((tokens, channel.in_flight()), ((0..8).collect(), 0));
    results
}

#[test]
fn a_drain_waits_for_the_writes_that_wait_for_their_turn() {
    let (device, backend, ctx, channel) = eight_writes(&Behaviour::default());
    ctx.block_on(backend.drain());
    assert_eq!(ends_in_order(&channel), [None; 8]);
    assert_eq!(device.pointers.lock().expect("the pointers")[&0], ZONE);
}

#[test]
fn a_close_lets_the_writes_end_that_wait_for_their_turn_and_no_more_in() {
    let (device, backend, ctx, channel) = eight_writes(&Behaviour::default());
    ctx.block_on(backend.close());
    assert_eq!(ends_in_order(&channel), [None; 8]);
    let (result, _) = ctx.block_on(channel.write_at(ZONE, filled(4096, 0, 1)));
    assert_eq!((errno(result), device.seen(Op::Write)), (Some(Errno::ENOMEDIUM), 8));
}

#[test]
fn a_channel_that_is_dropped_lets_the_writes_end_that_wait_for_their_turn() {
    let (device, backend, ctx, channel) = eight_writes(&Behaviour::default());
    drop(channel);
    ctx.block_on(backend.drain());
    assert_eq!((device.seen(Op::Write), device.pointers.lock().expect("the pointers")[&0]), (8, ZONE));
    // Its slots are free, and so is the zone.
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let (result, _) = ctx.block_on(channel.write_at(ZONE, filled(4096, 0, 1)));
    assert_eq!(result, Ok(()));
}

#[test]
fn a_write_that_fails_leaves_its_turn_to_those_that_wait() {
    let (device, _backend, ctx, channel) = eight_writes(&Behaviour::default());
    *device.bad.lock().expect("the bad range") = Some((2 * PIECE, 3 * PIECE, Errno::EIO.raw()));
    while channel.completed() < 8 {
        ctx.turn(Wait::Yes);
    }
    // Those behind it do not lie at the write pointer any more: the device's own word.
    let results = ends_in_order(&channel);
    assert_eq!((&results[..2], &results[2..]), (&[None; 2][..], &[Some(Errno::EIO); 6][..]));
    *device.bad.lock().expect("the bad range") = None;
    let (result, _) = ctx.block_on(channel.write_at(2 * PIECE, filled(4096, 0, 1)));
    assert_eq!((result, device.seen(Op::Write)), (Ok(()), 9), "where the zone was left");
}

#[test]
fn a_lane_that_ends_leaves_its_turn_to_other_lanes() {
    let device = zoned(false, &Behaviour { delay: 100, ..Behaviour::default() });
    let (backend, ending, ctx) = (device.backend(), context(), context());
    let first = backend.channel(&ending, 4).expect("a channel");
    first.submit(Request::write(0, filled(4096, 0, 1))).expect("there is room");
    ending.turn(Wait::No);
    let second = backend.channel(&ctx, 4).expect("a channel");
    for token in 0..2 {
        let request = Request::write(token * 4096, filled(4096, 0, 2)).with_token(token);
        second.submit(request).expect("there is room");
    }
    for _ in 0..300 {
        ctx.turn(Wait::No);
    }
    assert_eq!(second.completed(), 0, "it is not their turn, however long that takes");
    drop(first);
    ending.shutdown();
    while second.completed() < 2 {
        ctx.turn(Wait::Yes);
    }
    second.drain(|end| assert_eq!(end.result, Ok(()), "write {}", end.token));
    assert_eq!(
        device.data.lock().expect("the content")[..8192],
        [2; 8192],
        "the first was never carried out"
    );
}
