//! Requests that are sent again from where they lie.

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corelane_engine::aio::{AioContext, Wait};
use corelane_engine::block::{BlockLimits, Channel, Completion, Errno, Op, ReqFlags, Request};
use support::{Behaviour, TestDevice, buffer, bytes_of, context, filled};

fn limits() -> BlockLimits {
    BlockLimits {
        request_alignment: 512,
        min_mem_alignment: 512,
        opt_mem_alignment: 4096,
        ..BlockLimits::default()
    }
}

/// Turns until something has completed.
fn wait(ctx: &AioContext, channel: &Channel) {
    while channel.completed() == 0 {
        ctx.turn(Wait::No);
    }
}

/// Submits `request`, sends it again at `offset`, and gives its end.
fn twice(ctx: &AioContext, channel: &Channel, request: Request, offset: u64) -> Completion {
    channel.submit(request).map_err(drop).expect("there is room");
    wait(ctx, channel);
    channel.drain_in_place(|ended| {
        assert_eq!(ended.token(), 5);
        ended.again(offset);
    });
    assert_eq!(channel.completed() + channel.in_flight(), 1);
    wait(ctx, channel);
    let mut end = None;
    channel.drain_in_place(|ended| end = Some(ended.take()));
    end.expect("one completion")
}

#[test]
fn a_read_goes_on_elsewhere_with_the_same_memory() {
    let device = TestDevice::new(Behaviour { limits: limits(), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    let buf = buffer(1024, 0);
    let address = buf.addr();
    let end = twice(&ctx, &channel, Request::read(0, buf).with_token(5), 8192);
    assert_eq!((end.token, end.result), (5, Ok(())));
    let expected = device.data.lock().expect("the content")[8192..9216].to_vec();
    assert_eq!(bytes_of(&end.payload), expected);
    assert_eq!(end.payload.as_bufs()[0].addr(), address);
    let stats = channel.stats();
    assert_eq!((stats.fast_of(Op::Read), stats.bounced, stats.commands), (2, 0, 0));
}

/// What does not fit the device where it goes next takes the slow path; what is wrong there is refused.
#[test]
fn the_rules_hold_for_the_next_place_too() {
    let device = TestDevice::new(Behaviour { limits: limits(), ..Behaviour::default() });
    let ctx = context();
    let backend = device.backend();
    let channel = backend.channel(&ctx, 1).expect("a channel");
    let end = twice(&ctx, &channel, Request::write(0, filled(1024, 0, 9)).with_token(5), 1000);
    assert_eq!(end.result, Ok(()));
    let data = device.data.lock().expect("the content")[..3000].to_vec();
    assert!(data[1000..2024].iter().all(|byte| *byte == 9));
    assert_eq!(data[2024], (2024 % 251) as u8, "no more than that");
    assert_eq!(channel.stats().padded, 1);
    for offset in [backend.length() - 512, backend.length(), u64::MAX - 511, u64::MAX] {
        let end = twice(&ctx, &channel, Request::read(0, buffer(1024, 0)).with_token(5), offset);
        assert_eq!(end.result.map_err(|error| error.errno), Err(Errno::EIO), "at {offset}");
        assert_eq!(end.payload.len_bytes(), 1024);
    }
}

#[test]
fn what_is_no_transfer_goes_on_too() {
    let device = TestDevice::new(Behaviour { limits: limits(), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    let zeroes = Request::write_zeroes(0, 512).with_flags(ReqFlags::MAY_UNMAP).with_token(5);
    assert_eq!(twice(&ctx, &channel, zeroes, 4096).result, Ok(()));
    let data = device.data.lock().expect("the content");
    assert!(data[..512].iter().chain(&data[4096..4608]).all(|byte| *byte == 0));
}

#[test]
fn a_request_that_is_dropped_gives_its_place_and_its_memory_back() {
    let device = TestDevice::new(Behaviour::default());
    let ctx = context();
    let channel = device.backend().channel(&ctx, 2).expect("a channel");
    let pool = support::pool(4096, 2);
    for _ in 0..3 {
        while let Some(buf) = pool.take() {
            channel.submit(Request::read(0, buf)).map_err(drop).expect("there is room");
        }
        wait(&ctx, &channel);
        channel.drain_in_place(|ended| drop(ended));
        assert_eq!((pool.free_blocks(), channel.in_flight()), (2, 0));
    }
}

#[test]
fn a_drain_says_how_many_it_handed_out() {
    let device = TestDevice::new(Behaviour::default());
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    for count in [1, 4, 3] {
        for token in 0..count {
            channel.submit(Request::read(token * 512, buffer(512, 0))).map_err(drop).expect("there is room");
        }
        wait(&ctx, &channel);
        // What is submitted by the way is not among them, and what another drain takes is not either.
        let inner = Cell::new(0);
        let outer = channel.drain_in_place(|ended| {
            drop(ended);
            if count == 3 {
                inner.set(inner.get() + channel.drain_in_place(|ended| drop(ended)));
            }
        });
        assert_eq!((outer, inner.get()), if count == 3 { (1, 2) } else { (count as usize, 0) });
        assert_eq!((channel.drain_in_place(|ended| drop(ended)), channel.in_flight()), (0, 0));
    }
}

#[test]
fn a_panic_in_the_middle_leaves_the_rest_to_be_drained() {
    let device = TestDevice::new(Behaviour::default());
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    for token in 0..4 {
        let request = Request::read(token * 512, buffer(512, 0)).with_token(token);
        channel.submit(request).map_err(drop).expect("there is room");
    }
    wait(&ctx, &channel);
    let seen = Cell::new(0);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        channel.drain_in_place(|ended| {
            seen.set(seen.get() + 1);
            assert!(ended.token() != 1, "on purpose");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!((seen.get(), channel.completed()), (2, 2));
    let mut rest = Vec::new();
    channel.drain(|completion| rest.push(completion.token));
    assert_eq!((rest, channel.completed(), channel.in_flight()), (vec![2, 3], 0, 0));
    assert!(channel.submit(Request::read(0, buffer(512, 0))).is_ok());
}

#[test]
fn a_failed_read_may_be_tried_again() {
    let device = TestDevice::new(Behaviour { limits: limits(), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    *device.bad.lock().expect("the bad range") = Some((0, 512, Errno::EIO.raw()));
    channel.submit(Request::read(0, buffer(512, 0))).map_err(drop).expect("there is room");
    wait(&ctx, &channel);
    channel.drain_in_place(|ended| {
        assert_eq!(ended.result().map_err(|error| error.errno), Err(Errno::EIO));
        ended.again(512);
    });
    wait(&ctx, &channel);
    let mut results = Vec::new();
    channel.drain(|completion| results.push((completion.result, bytes_of(&completion.payload).len())));
    assert_eq!(results, [(Ok(()), 512)]);
}
