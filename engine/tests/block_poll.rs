//! Channels that are polled between turns of the loop.

mod support;

use corelane_dma::{IoBuf, Payload};
use corelane_engine::aio::Wait;
use corelane_engine::block::{Channel, Op, Request};
use support::{Behaviour, TestDevice, buffer, context};

/// Tokens of what can be drained.
fn drained(channel: &Channel) -> Vec<u64> {
    let mut tokens = Vec::new();
    channel.drain(|completion| {
        assert_eq!(completion.result, Ok(()));
        assert!(matches!(completion.payload, Payload::One(_)));
        tokens.push(completion.token);
    });
    tokens
}

fn read(token: u64, buf: IoBuf) -> Request {
    Request { token, ..Request::read(512 * token, buf) }
}

#[test]
fn a_poll_sends_and_takes_what_completes_at_once() {
    let ctx = context();
    let device = TestDevice::new(Behaviour::default());
    let backend = device.backend();
    let channel = backend.channel(&ctx, 4).unwrap();
    assert!(!channel.poll(3), "nothing was submitted");
    for token in 0..3 {
        channel.submit(read(token, buffer(512, 0))).map_err(drop).unwrap();
    }
    assert_eq!(channel.completed(), 0);
    assert!(channel.poll(1));
    assert_eq!(drained(&channel), [0, 1, 2]);
    assert!(!channel.poll(1), "all was drained");
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_send_reaches_the_device_before_the_turn() {
    let ctx = context();
    let device = TestDevice::new(Behaviour::default());
    let backend = device.backend();
    let channel = backend.channel(&ctx, 4).unwrap();
    channel.submit(read(1, buffer(512, 0))).map_err(drop).unwrap();
    assert_eq!(device.seen(Op::Read), 0, "it waits for the end of the turn");
    channel.send();
    assert_eq!((device.seen(Op::Read), channel.completed()), (1, 0), "it was sent, and nothing was reaped");
    channel.send();
    assert_eq!(device.seen(Op::Read), 1);
    assert!(channel.poll(1));
    assert_eq!(drained(&channel), [1]);
}

#[test]
fn what_takes_longer_comes_with_a_turn() {
    let ctx = context();
    let device = TestDevice::new(Behaviour { delay: 2, ..Behaviour::default() });
    let backend = device.backend();
    let channel = backend.channel(&ctx, 4).unwrap();
    channel.submit(read(1, buffer(512, 0))).map_err(drop).unwrap();
    assert!(!channel.poll(5), "the device looks at its clock once a turn");
    assert_eq!((channel.in_flight(), channel.completed()), (1, 0));
    for _ in 0..5 {
        ctx.turn(Wait::No);
    }
    assert!(channel.poll(1), "it was taken by a turn, and waits to be drained");
    assert_eq!(drained(&channel), [1]);
}

#[test]
fn a_poll_runs_the_handler_and_wakes_futures() {
    let ctx = context();
    let device = TestDevice::new(Behaviour::default());
    let backend = device.backend();
    let channel = backend.channel(&ctx, 4).unwrap();
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = std::rc::Rc::clone(&seen);
    channel.set_handler(move |_| counter.set(counter.get() + 1));
    channel.submit(read(1, buffer(512, 0))).map_err(drop).unwrap();
    assert!(!channel.poll(1) || channel.completed() == 0, "the handler has drained it");
    assert_eq!(seen.get(), 1);
    let (result, _) = ctx.block_on(channel.read_at(0, buffer(512, 0)));
    assert_eq!(result, Ok(()));
}
