//! Several lanes on one device: unaligned writes that share blocks all survive, and nothing deadlocks.

mod support;

use corelane_dma::Payload;
use corelane_engine::aio::{AioConfig, IoThread};
use corelane_engine::block::{BlockBackend, BlockLimits, Request};
use support::{Behaviour, TestDevice, buffer, bytes_of, filled};

/// Each lane writes, unaligned, the bytes whose index is its own modulo the number of lanes.
async fn write_own_bytes(backend: BlockBackend, lane: usize, lanes: usize, rounds: usize) {
    let ctx = corelane_engine::aio::AioContext::current().expect("a lane");
    let channel = backend.channel(&ctx, 16).expect("a channel");
    for round in 0..rounds {
        let byte = (round * lanes + lane) as u8;
        let writes: Vec<_> = (0..16)
            .map(|i| Box::pin(channel.write_at((i * lanes + lane) as u64 * 100, filled(100, 0, byte))))
            .collect();
        for write in writes {
            assert_eq!(write.await.0, Ok(()));
        }
        for i in 0..16 {
            let (result, buf) = channel.read_at((i * lanes + lane) as u64 * 100, buffer(100, 0)).await;
            assert_eq!(result, Ok(()));
            assert_eq!(
                bytes_of(&Payload::One(buf)),
                vec![byte; 100],
                "lane {lane}, round {round}, piece {i}"
            );
        }
    }
}

fn run(delay: u32, reverse: bool) {
    let limits = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
    let device = TestDevice::new(Behaviour { limits, delay, reverse, ..Behaviour::default() });
    let backend = device.backend();
    let lanes = 3;
    let threads: Vec<_> =
        (0..lanes).map(|_| IoThread::spawn(&AioConfig::default()).expect("a lane")).collect();
    std::thread::scope(|scope| {
        for (lane, thread) in threads.iter().enumerate() {
            let backend = backend.clone();
            let work = thread.handle().run_on(move |_: &_| write_own_bytes(backend, lane, lanes, 20));
            scope.spawn(|| work.wait().expect("a lane that ended well"));
        }
    });
    threads.into_iter().for_each(|thread| thread.join().expect("a lane that ended well"));
}

#[test]
fn writes_that_share_a_block_survive_from_different_lanes() {
    run(0, false);
}

#[test]
fn writes_that_share_a_block_survive_on_a_slow_device() {
    run(3, true);
}

#[test]
fn aligned_requests_wait_for_a_read_modify_write_and_the_other_way_round() {
    let limits = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
    let device = TestDevice::new(Behaviour { limits, delay: 4, ..Behaviour::default() });
    let (backend, ctx) = (device.backend(), support::context());
    let channel = backend.channel(&ctx, 8).expect("a channel");
    // A whole-block write in flight, then one byte of the block, then the block again, then a byte.
    let requests = [(0, 512, 1), (100, 1, 2), (512, 512, 3), (600, 1, 4)];
    for (offset, len, byte) in requests {
        channel.submit(Request::write(offset, filled(len, 0, byte))).expect("room");
    }
    let mut ended = 0;
    while ended < requests.len() {
        ctx.turn(corelane_engine::aio::Wait::Yes);
        channel.drain(|completion| {
            assert_eq!(completion.result, Ok(()));
            ended += 1;
        });
    }
    let data = device.data.lock().expect("the content");
    assert_eq!((data[99], data[100], data[101]), (1, 2, 1));
    assert_eq!((data[599], data[600], data[601]), (3, 4, 3));
}

/// One lane writes whole blocks, another single bytes of them, at once: the bytes around the single one are the block's.
#[test]
fn a_read_modify_write_waits_for_whole_blocks_of_other_lanes() {
    let limits = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
    // Long enough for the two lanes' requests to be in flight together.
    let device = TestDevice::new(Behaviour { limits, delay: 2000, ..Behaviour::default() });
    let backend = device.backend();
    let threads: Vec<_> = (0..2).map(|_| IoThread::spawn(&AioConfig::default()).expect("a lane")).collect();
    let write = |thread: &IoThread, offset: u64, len: usize, byte: u8| {
        let backend = backend.clone();
        thread.handle().run_on(move |ctx: &corelane_engine::aio::AioContext| {
            let channel = backend.channel(ctx, 4).expect("a channel");
            async move { assert_eq!(channel.write_at(offset, filled(len, 0, byte)).await.0, Ok(())) }
        })
    };
    for round in 0..60u32 {
        let byte = round as u8;
        let (whole, single) = (write(&threads[0], 0, 512, byte), write(&threads[1], 100, 1, !byte));
        std::thread::scope(|scope| {
            scope.spawn(|| whole.wait().expect("the lane runs"));
            scope.spawn(|| single.wait().expect("the lane runs"));
        });
        let data = device.data.lock().expect("the content");
        let others = data[..100].iter().chain(&data[101..512]);
        assert!(others.copied().all(|other| other == byte), "round {round}: an older block came back");
    }
    threads.into_iter().for_each(|thread| thread.join().expect("a lane that ended well"));
}
