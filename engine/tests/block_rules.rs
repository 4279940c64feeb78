//! The block layer's rules on one lane, against a device that checks every command.

mod support;

use std::rc::Rc;

use corelane_dma::{IoVector, Payload};
use corelane_engine::block::{BackendOptions, BlockLimits, Errno, IoError, Op, ReqFlags, Request};
use support::{Behaviour, TestDevice, buffer, bytes_of, context, filled};

fn sectors(align: u32) -> BlockLimits {
    BlockLimits {
        request_alignment: align,
        min_mem_alignment: 512,
        opt_mem_alignment: 4096,
        max_transfer: align * 16,
        max_iov: 4,
        ..BlockLimits::default()
    }
}

fn errno(result: Result<(), IoError>) -> Option<Errno> {
    result.err().map(|error| error.errno)
}

#[test]
fn an_aligned_request_goes_down_as_it_is() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    let buf = filled(4096, 0, 7);
    let address = buf.addr();
    let (result, buf) = ctx.block_on(channel.write_at(8192, buf));
    assert_eq!((result, buf.addr()), (Ok(()), address));
    let (result, buf) = ctx.block_on(channel.read_at(8192, buf));
    assert_eq!((result, buf.addr()), (Ok(()), address));
    assert_eq!(bytes_of(&Payload::One(buf)), vec![7; 4096]);
    let stats = channel.stats();
    assert_eq!((stats.fast_of(Op::Read), stats.fast_of(Op::Write)), (1, 1));
    assert_eq!((stats.padded, stats.bounced, stats.split, stats.commands), (0, 0, 0, 0));
    assert_eq!((device.seen(Op::Read), device.seen(Op::Write)), (1, 1));
}

#[test]
fn an_unaligned_write_changes_its_bytes_only() {
    let device = TestDevice::new(Behaviour { limits: sectors(4096), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    for (offset, len) in [(1, 1), (4095, 2), (100, 4096), (0, 5000), (4096, 100), (3, 300_000), (8191, 4097)]
    {
        let mut expected = device.data.lock().expect("the content").clone();
        expected[offset as usize..offset as usize + len].fill(0xee);
        let (result, _) = ctx.block_on(channel.write_at(offset, filled(len, 3, 0xee)));
        assert_eq!(result, Ok(()));
        assert!(*device.data.lock().expect("the content") == expected, "write of {len} at {offset}");
        let (result, read) = ctx.block_on(channel.read_at(offset, buffer(len, 5)));
        assert_eq!((result, bytes_of(&Payload::One(read))), (Ok(()), vec![0xee; len]));
    }
    assert!(channel.stats().padded >= 14);
    assert_eq!(channel.stats().serialised, 7);
}

#[test]
fn memory_that_is_not_aligned_is_bounced() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    let (result, _) = ctx.block_on(channel.write_at(512, filled(1024, 1, 9)));
    assert_eq!(result, Ok(()));
    assert_eq!(&device.data.lock().expect("the content")[512..1536], &[9; 1024]);
    let stats = channel.stats();
    assert_eq!((stats.bounced, stats.padded, stats.serialised), (1, 0, 0));
}

#[test]
fn long_requests_and_long_vectors_are_split() {
    let device =
        TestDevice::new(Behaviour { limits: sectors(512), delay: 2, reverse: true, ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    let (result, buf) = ctx.block_on(channel.write_at(0, filled(100 * 512, 0, 1)));
    assert_eq!((result, channel.stats().split, device.seen(Op::Write)), (Ok(()), 1, 7));
    assert_eq!(channel.stats().bounced, 0);
    drop(buf);
    let vector = |lens: &[usize]| {
        let mut vector = Box::new(IoVector::default());
        lens.iter().enumerate().for_each(|(i, len)| vector.push(filled(*len, 0, i as u8)));
        vector
    };
    // Six segments through four: two commands without a copy. Odd segments: bounced.
    let (result, _) = ctx.block_on(channel.writev_at(0, vector(&[512; 6])));
    assert_eq!((result, device.seen(Op::Write), channel.stats().bounced), (Ok(()), 9, 0));
    let (result, _) = ctx.block_on(channel.writev_at(0, vector(&[100, 412, 512])));
    assert_eq!((result, channel.stats().bounced), (Ok(()), 1));
    let data = device.data.lock().expect("the content");
    assert_eq!(
        (&data[..100], &data[100..512], &data[512..1024]),
        (&[0; 100][..], &[1; 412][..], &[2; 512][..])
    );
}

#[test]
fn wrong_requests_get_qemus_errno() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), ..Behaviour::default() });
    let backend = device.backend();
    let read_only = device.backend_with(BackendOptions { read_only: true, ..BackendOptions::default() });
    let ctx = context();
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let length = backend.length();
    let read = |offset, len| errno(ctx.block_on(channel.read_at(offset, buffer(len, 0))).0);
    assert_eq!(read(length, 1), Some(Errno::EIO));
    assert_eq!(read(length - 1, 2), Some(Errno::EIO));
    assert_eq!(read(u64::MAX, 512), Some(Errno::EIO));
    assert_eq!(read(u64::MAX - 511, 512), Some(Errno::EIO));
    assert_eq!(errno(ctx.block_on(channel.discard(u64::MAX, 2))), Some(Errno::EIO));
    assert_eq!(errno(ctx.block_on(channel.write_zeroes(length - 1, 2, ReqFlags::empty()))), Some(Errno::EIO));
    let mut lying = Request::read(0, buffer(512, 0));
    lying.bytes = 1024;
    assert_eq!(errno(ctx.block_on(channel.start(lying)).0), Some(Errno::EINVAL));
    let on_ro = read_only.channel(&ctx, 8).expect("a channel");
    assert_eq!(errno(ctx.block_on(on_ro.write_at(0, buffer(512, 0))).0), Some(Errno::EPERM));
    assert_eq!(errno(ctx.block_on(on_ro.discard(0, 512))), Some(Errno::EPERM));
    assert_eq!(ctx.block_on(on_ro.read_at(0, buffer(512, 0))).0, Ok(()));
    assert_eq!(ctx.block_on(on_ro.flush()), Ok(()));
    ctx.block_on(backend.close());
    assert_eq!(read(0, 512), Some(Errno::ENOMEDIUM));
    assert_eq!(errno(ctx.block_on(channel.flush())), Some(Errno::ENOMEDIUM));
    assert_eq!(channel.stats().refused, 9);
    assert!(backend.channel(&ctx, 1).is_err());
}

#[test]
fn a_request_of_no_bytes_succeeds_without_a_command() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), ..Behaviour::default() });
    let ctx = context();
    let channel = device.backend().channel(&ctx, 1).expect("a channel");
    assert_eq!(ctx.block_on(channel.discard(5, 0)), Ok(()));
    assert_eq!(ctx.block_on(channel.write_zeroes(5, 0, ReqFlags::empty())), Ok(()));
    assert_eq!((device.seen(Op::Discard), device.seen(Op::WriteZeroes)), (0, 0));
}

#[test]
fn fua_goes_down_or_is_a_flush() {
    for (flags, flushes, fua) in [(ReqFlags::empty(), 3, 0), (ReqFlags::FUA, 0, 3)] {
        let behaviour = Behaviour { limits: sectors(512), write_flags: flags, ..Behaviour::default() };
        let device = TestDevice::new(behaviour);
        let ctx = context();
        let channel = device.backend().channel(&ctx, 4).expect("a channel");
        for offset in [0, 512, 1000] {
            let request = Request::write(offset, filled(512, 0, 1)).with_flags(ReqFlags::FUA);
            assert_eq!(ctx.block_on(channel.start(request)).0, Ok(()));
        }
        let seen = device.fua_seen.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!((device.seen(Op::Flush), seen), (flushes, fua));
    }
}

#[test]
fn without_a_write_cache_every_write_is_durable() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), ..Behaviour::default() });
    let options = BackendOptions { write_cache: false, ..BackendOptions::default() };
    let ctx = context();
    let channel = device.backend_with(options).channel(&ctx, 4).expect("a channel");
    assert_eq!(ctx.block_on(channel.write_at(0, filled(512, 0, 1))).0, Ok(()));
    assert_eq!(ctx.block_on(channel.write_zeroes(0, 512, ReqFlags::empty())), Ok(()));
    assert_eq!((device.seen(Op::Flush), channel.stats().fua_flushes), (2, 2));
}

#[test]
fn zeroes_reach_every_byte_whatever_the_device_can() {
    let full = BlockLimits { max_pwrite_zeroes: 8192, pwrite_zeroes_alignment: 2048, ..sectors(512) };
    let cases = [
        Behaviour { limits: full, ..Behaviour::default() },
        Behaviour { limits: full, zero_flags: None, ..Behaviour::default() },
        Behaviour { limits: full, rejects_ranges: true, ..Behaviour::default() },
    ];
    for behaviour in cases {
        let device = TestDevice::new(behaviour);
        let ctx = context();
        let channel = device.backend().channel(&ctx, 4).expect("a channel");
        for (offset, len) in [(0, 2048), (512, 512), (1, 1), (511, 2), (3, 509), (1000, 100_000), (512, 600)]
        {
            let before = device.data.lock().expect("the content").clone();
            let result = ctx.block_on(channel.write_zeroes(offset, len, ReqFlags::MAY_UNMAP));
            assert_eq!(result, Ok(()), "zeroes of {len} at {offset}");
            let mut expected = before;
            expected[offset as usize..(offset + len) as usize].fill(0);
            assert!(*device.data.lock().expect("the content") == expected, "zeroes of {len} at {offset}");
            let refill = filled(200_000, 0, 0x55);
            assert_eq!(ctx.block_on(channel.write_at(0, refill)).0, Ok(()));
        }
    }
}

#[test]
fn no_fallback_means_no_fallback() {
    let limits = sectors(512);
    for (zero_flags, rejects_ranges) in [(None, false), (Some(ReqFlags::empty()), true)] {
        let device =
            TestDevice::new(Behaviour { limits, zero_flags, rejects_ranges, ..Behaviour::default() });
        let ctx = context();
        let channel = device.backend().channel(&ctx, 4).expect("a channel");
        for _ in 0..2 {
            let result = ctx.block_on(channel.write_zeroes(0, 512, ReqFlags::NO_FALLBACK));
            assert_eq!(errno(result), Some(Errno::ENOTSUP));
        }
        assert_eq!(device.seen(Op::Write), 0);
    }
}

#[test]
fn a_discard_touches_whole_blocks_only_and_never_fails_for_lack_of_support() {
    for (discard, rejects_ranges) in [(true, false), (true, true), (false, false)] {
        let behaviour = Behaviour { limits: sectors(4096), discard, rejects_ranges, ..Behaviour::default() };
        let device = TestDevice::new(behaviour);
        let ctx = context();
        let channel = device.backend().channel(&ctx, 4).expect("a channel");
        assert_eq!(ctx.block_on(channel.discard(100, 3000)), Ok(()));
        assert_eq!(device.seen(Op::Discard), 0);
        assert_eq!(ctx.block_on(channel.discard(100, 8192)), Ok(()));
        assert_eq!(ctx.block_on(channel.discard(4096, 4096)), Ok(()));
        assert_eq!(device.seen(Op::Discard) > 0, discard);
    }
}

#[test]
fn an_error_reaches_the_caller_with_his_memory() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), delay: 1, ..Behaviour::default() });
    *device.bad.lock().expect("the bad range") = Some((5000, 5001, libc::ENOSPC));
    let ctx = context();
    let channel = device.backend().channel(&ctx, 4).expect("a channel");
    for (offset, len) in [(4608, 512), (0, 65_536), (4999, 3), (4609, 511)] {
        let (result, buf) = ctx.block_on(channel.write_at(offset, filled(len, 0, 1)));
        assert_eq!((errno(result), buf.len()), (Some(Errno::ENOSPC), len));
    }
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_full_channel_gives_the_request_back_and_futures_wait() {
    let device = TestDevice::new(Behaviour { delay: 3, room: 1, ..Behaviour::default() });
    let ctx = context();
    let channel = Rc::new(device.backend().channel(&ctx, 2).expect("a channel"));
    for token in [1, 2] {
        channel.submit(Request::write(0, filled(512, 0, 1)).with_token(token)).expect("room");
    }
    let rejected = channel.submit(Request::write(512, filled(512, 0, 2)).with_token(3)).expect_err("no room");
    assert_eq!((rejected.0.token, rejected.0.offset, rejected.0.payload.len_bytes()), (3, 512, 512));
    let waiting = {
        let channel = Rc::clone(&channel);
        ctx.spawn(async move { channel.read_at(0, buffer(512, 0)).await.0 })
    };
    let mut tokens = Vec::new();
    while tokens.len() < 2 {
        ctx.turn(corelane_engine::aio::Wait::Yes);
        channel.drain(|completion| tokens.push(completion.token));
    }
    assert_eq!(tokens, [1, 2]);
    assert_eq!(ctx.block_on(waiting), Ok(()));
}

#[test]
fn a_dropped_future_leaves_its_request_to_finish() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), delay: 3, ..Behaviour::default() });
    let ctx = context();
    let backend = device.backend();
    let channel = backend.channel(&ctx, 1).expect("a channel");
    for offset in [0, 77] {
        let mut future = Box::pin(channel.write_at(offset, filled(512, 0, 0xaa)));
        let waker = std::task::Waker::noop();
        let mut cx = std::task::Context::from_waker(waker);
        assert!(future.as_mut().poll(&mut cx).is_pending());
        drop(future);
        assert_eq!(channel.in_flight(), 1);
        ctx.block_on(backend.drain());
        assert_eq!(channel.in_flight(), 0);
        assert_eq!(device.data.lock().expect("the content")[offset as usize..][..512], [0xaa; 512]);
    }
}

#[test]
fn a_handler_gets_completions_and_may_submit_again() {
    let device = TestDevice::new(Behaviour { delay: 1, ..Behaviour::default() });
    let ctx = context();
    let channel = Rc::new(device.backend().channel(&ctx, 1).expect("a channel"));
    let (count, again) = (Rc::new(std::cell::Cell::new(0)), Rc::downgrade(&channel));
    let counter = Rc::clone(&count);
    channel.set_handler(move |completion| {
        counter.set(counter.get() + 1);
        let Payload::One(buf) = completion.payload else { return };
        if let (Some(channel), true) = (again.upgrade(), counter.get() < 10) {
            channel.submit(Request::read(0, buf)).expect("room for one");
        }
    });
    channel.submit(Request::read(0, buffer(512, 0))).expect("room");
    while count.get() < 10 {
        ctx.turn(corelane_engine::aio::Wait::Yes);
    }
    assert_eq!(device.seen(Op::Read), 10);
}

#[test]
fn registrations_reach_every_channel_and_are_counted() {
    let device = TestDevice::new(Behaviour::default());
    let ctx = context();
    let backend = device.backend();
    let first = backend.channel(&ctx, 1).expect("a channel");
    let region = support::pool(4096, 4).region();
    let registered = || device.registered.load(std::sync::atomic::Ordering::Relaxed);
    ctx.block_on(backend.register_buf(&region)).expect("registered");
    assert_eq!(registered(), 1);
    let second = backend.channel(&ctx, 1).expect("a channel");
    assert_eq!(registered(), 2);
    ctx.block_on(backend.register_buf(&region)).expect("counted");
    assert_eq!(registered(), 2);
    ctx.block_on(backend.unregister_buf(&region)).expect("counted down");
    assert_eq!(registered(), 2);
    ctx.block_on(backend.unregister_buf(&region)).expect("gone");
    assert_eq!(registered(), 0);
    assert!(ctx.block_on(backend.unregister_buf(&region)).is_err());
    drop((first, second));
}

#[test]
fn truncate_moves_the_end() {
    let device = TestDevice::new(Behaviour { limits: sectors(512), ..Behaviour::default() });
    let ctx = context();
    let backend = device.backend();
    let channel = backend.channel(&ctx, 1).expect("a channel");
    ctx.block_on(backend.truncate(4096)).expect("truncated");
    assert_eq!(backend.length(), 4096);
    assert_eq!(errno(ctx.block_on(channel.read_at(4096, buffer(512, 0))).0), Some(Errno::EIO));
    ctx.block_on(backend.truncate(8192)).expect("grown");
    assert_eq!(ctx.block_on(channel.read_at(4096, buffer(512, 0))).0, Ok(()));
    assert!(ctx.block_on(backend.truncate(u64::MAX)).is_err());
}
