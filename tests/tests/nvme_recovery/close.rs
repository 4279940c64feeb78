//! A backend that is drained, closed or dropped ends in bounded time, whatever its controller does. `docs/nvme.md` says what
//! the bound is; here it is some seconds, since the controller's times are short.

use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf};
use corelane_drivers::nvme::ControllerOptions;
use corelane_drivers::nvme::recovery::State;
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{BlockBackend, Channel, Errno, IoResult, Op, ReqFlags, Request};
use corelane_nvme_model::{Device, ModelConfig};

use crate::rig::{BLOCK, Rig, errno};

/// Beyond the sum of what is waited for, since other programs run as well.
const SLACK: Duration = Duration::from_secs(3);
/// How long a queue waits for what is in flight when it is dropped.
const DRAIN: Duration = Duration::from_secs(5);

fn rig() -> Rig {
    let options = ControllerOptions {
        io_timeout_ms: 400,
        admin_timeout_ms: 500,
        io_retries: 2,
        resets: 1,
        ..ControllerOptions::default()
    };
    Rig::with(ModelConfig::new(Vec::new()), options)
}

fn submit(channel: &Channel, count: u64) {
    for token in 0..count {
        let op = if token.is_multiple_of(2) { Op::Read } else { Op::Write };
        let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
        let (offset, bytes) = (token * BLOCK as u64, BLOCK as u64);
        let request = Request { op, flags: ReqFlags::empty(), offset, bytes, payload: buf.into(), token };
        channel.submit(request).unwrap();
    }
}

/// Closes the backend with requests in flight. How they ended.
fn close(rig: &Rig, backend: &BlockBackend, channel: &Channel) -> Vec<IoResult> {
    submit(channel, 8);
    rig.ctx.turn(Wait::No);
    rig.ctx.block_on(backend.close());
    let mut results = Vec::new();
    channel.drain(|completion| results.push(completion.result));
    results
}

#[test]
fn a_backend_closes_in_bounded_time_when_no_request_is_ever_completed() {
    let rig = rig();
    let backend = rig.open(1);
    let channel = backend.channel(&rig.ctx, 16).unwrap();
    rig.set_faults("io=lose");
    let start = Instant::now();
    assert_eq!(close(&rig, &backend, &channel), [errno(Errno::ETIMEDOUT); 8]);
    // Deadline, abort, a reset; the model needs no time for that.
    assert!(start.elapsed() < Duration::from_millis(400 + 50 + 400) + SLACK, "it took {:?}", start.elapsed());
    rig.assert_clean();
}

#[test]
fn a_backend_closes_in_bounded_time_when_nothing_is_ever_answered() {
    for (script, end) in [
        ("io=lose;admin=lose", State::Stopped),
        ("io=lose;admin=lose;disable=never", State::Stopped),
        ("io=lose;admin=lose;disable=never;reset=never", State::Lost),
    ] {
        let rig = rig();
        let backend = rig.open(1);
        let channel = backend.channel(&rig.ctx, 16).unwrap();
        rig.set_faults(script);
        let start = Instant::now();
        let results = close(&rig, &backend, &channel);
        assert_eq!(results.len(), 8, "{script}");
        let given_up = |result: &IoResult| [errno(Errno::ETIMEDOUT), errno(Errno::EIO)].contains(result);
        assert!(results.iter().all(given_up), "{script}: {results:?}");
        // As above; then it cannot be disabled (its time for that is 1 s, as often as there are attempts), and the restart
        // asks in vain.
        let most = Duration::from_millis(400 + 50 + 400 + 2 * (2 * 1000 + 500)) + SLACK;
        assert!(start.elapsed() < most, "{script}: it took {:?}", start.elapsed());
        let start = Instant::now();
        drop((channel, backend));
        let Rig { model, controller, .. } = rig;
        while !matches!(controller.state(), State::Stopped | State::Lost) && start.elapsed() < most {
            std::thread::sleep(Duration::from_millis(1));
        }
        let state = controller.state();
        drop(controller);
        assert!(start.elapsed() < most, "{script}: dropping it took {:?}", start.elapsed());
        assert_eq!(state, end, "{script}");
        let left_bytes = model.dma_unmap(0, u64::MAX).unwrap();
        assert_eq!(left_bytes == 0, end == State::Stopped, "{script}: {left_bytes} bytes are mapped");
    }
}

#[test]
fn a_channel_is_dropped_in_bounded_time_with_requests_that_are_never_completed() {
    for script in ["io=lose", "io=lose;admin=lose", "io=lose;admin=lose;disable=never;reset=never"] {
        let rig = rig();
        let backend = rig.open(1);
        let channel = backend.channel(&rig.ctx, 16).unwrap();
        rig.set_faults(script);
        submit(&channel, 8);
        rig.ctx.turn(Wait::No);
        let start = Instant::now();
        drop(channel);
        let Rig { controller, ctx, .. } = rig;
        ctx.shutdown();
        drop((backend, controller));
        // The drain, the deletion of the queue, stopping the controller twice.
        let most = DRAIN + Duration::from_millis(500 + 2 * 2 * 1000) + SLACK;
        assert!(start.elapsed() < most, "{script}: it took {:?}", start.elapsed());
    }
}

#[test]
fn a_channel_that_is_dropped_lets_the_controller_end_what_it_has() {
    let rig = rig();
    let backend = rig.open(1);
    let channel = backend.channel(&rig.ctx, 4).unwrap();
    // Carried out later as well, so not at all if its queue is deleted before.
    rig.set_faults("write:1=late:200ms");
    let mut buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
    buf.fill(0, BLOCK, 7).unwrap();
    channel.submit(Request::write(0, buf)).unwrap();
    rig.ctx.turn(Wait::No);
    drop(channel);
    rig.ctx.shutdown();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = backend.channel(&ctx, 4).unwrap();
    let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
    let (result, buf) = ctx.block_on(channel.read_at(0, buf));
    let mut bytes = [0; BLOCK];
    buf.copy_to(0, &mut bytes).unwrap();
    assert_eq!((result, bytes), (Ok(()), [7; BLOCK]));
    rig.assert_clean();
}

#[test]
fn closing_does_not_wait_for_a_controller_that_is_just_brought_back() {
    let options = ControllerOptions { io_timeout_ms: 400, ..ControllerOptions::default() };
    let rig = Rig::with(ModelConfig::new(Vec::new()), options);
    let channel = rig.open(1).channel(&rig.ctx, 16).unwrap();
    // Its reset is noticed, and then it does not say who it is, for which it has 30 s.
    rig.set_faults("read:1=fatal;admin=lose");
    submit(&channel, 1);
    let start = Instant::now();
    while rig.controller.state() == State::Running {
        rig.ctx.turn(Wait::No);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    while rig.controller.state() != State::Starting {
        std::thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(15), "it is {:?}", rig.controller.state());
    }
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    drop(channel);
    let Rig { model, controller, ctx, .. } = rig;
    ctx.shutdown();
    drop(controller);
    assert!(start.elapsed() < DRAIN + SLACK, "it took {:?}", start.elapsed());
    assert_eq!(model.dma_unmap(0, u64::MAX).unwrap(), 0);
}
