//! Faults of a controller, one at a time: what becomes of the requests, and how it goes on.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf};
use corelane_drivers::nvme::recovery::{ControllerEvent, State};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{
    ControllerOptions, NvmeController, NvmeDriver, NvmeError, NvmeOptions, Polling,
};
use corelane_engine::aio::{AioConfig, AioContext, IoThread, Wait};
use corelane_engine::block::{
    BackendOptions, BlockBackend, Channel, Completion, Errno, Op, ReqFlags, Request,
};
use corelane_nvme_model::{Device, FaultScript, Model, ModelBus, ModelConfig, NamespaceConfig, Notice};

use crate::rig::{BLOCK, Rig, SIZE, errno};

fn config() -> ModelConfig {
    ModelConfig::new(Vec::new())
}

#[test]
fn a_completion_with_a_wrong_phase_is_never_seen_and_its_request_ends_in_time() {
    let rig = Rig::new(config());
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    rig.set_faults("read:1=phase");
    let start = Instant::now();
    assert_eq!(rig.read(&channel, 0), errno(Errno::ETIMEDOUT));
    // The deadline, and half of another for the abort.
    let took = start.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_millis(2400)).contains(&took), "it took {took:?}");
    assert_eq!((rig.read(&channel, 0), rig.controller.resets()), (Ok(()), 1));
    rig.assert_clean();
}

#[test]
fn an_interrupt_that_never_comes_is_missed_and_its_request_ends_all_the_same() {
    let rig = Rig::new(config());
    let channel = rig.open_polling(1, Polling::Off).channel(&rig.ctx, 4).unwrap();
    // From now on there is none. A tick is 50 ms, and what completes between two of them is found at the second.
    let none = (0..rig.model.interrupts()).map(|_| None).collect();
    rig.model.set_interrupts(0, none).unwrap();
    rig.set_faults("read:1=delay:120ms");
    assert_eq!(rig.read(&channel, 0), Ok(()));
    let qid = rig.event(|event| match event {
        ControllerEvent::MissedInterrupt { qid } => Some(qid.0),
        _ => None,
    });
    assert_eq!((qid, rig.read(&channel, 0), rig.controller.resets()), (1, Ok(()), 0));
    rig.assert_clean();
}

#[test]
fn a_doorbell_that_is_not_looked_at_any_more_ends_in_a_reset() {
    let rig = Rig::new(config());
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    rig.set_faults("read:1=stuck-doorbell");
    assert_eq!(rig.read(&channel, 0), Ok(()));
    assert_eq!(rig.read(&channel, 0), errno(Errno::ETIMEDOUT));
    assert_eq!((rig.read(&channel, 0), rig.controller.resets()), (Ok(()), 1));
    rig.assert_clean();
}

#[test]
fn an_admin_command_that_is_not_answered_has_a_running_controller_reset_and_is_asked_again() {
    let rig = Rig::new(config());
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    rig.set_faults("identify.0:1=lose");
    let start = Instant::now();
    let identify = rig.controller.identify_namespace(Nsid(1)).unwrap();
    assert_eq!(identify.nsze.get(), SIZE / BLOCK as u64);
    assert!(start.elapsed() >= Duration::from_secs(2), "not before its deadline");
    assert_eq!((rig.read(&channel, 0), rig.controller.resets()), (Ok(()), 1));
    rig.assert_clean();
}

#[test]
fn an_admin_command_is_repeated_after_a_status_that_may_pass_and_not_with_dnr() {
    let rig = Rig::new(config());
    rig.set_faults("identify.0:1-3=status:0/06");
    rig.controller.identify_namespace(Nsid(1)).unwrap();
    assert_eq!(rig.made("status"), 3);
    rig.set_faults("identify.0=status:0/06:dnr");
    let error = rig.controller.identify_namespace(Nsid(1)).err().unwrap().to_string();
    assert!(error.contains("Internal Error"), "{error}");
    assert_eq!(rig.made("status"), 4, "once");
    // And a bounded number of times: once, and five times again, after 0, 10, 40, 160 and 640 ms.
    rig.set_faults("identify.0=status:0/06");
    let start = Instant::now();
    rig.controller.identify_namespace(Nsid(1)).err().unwrap();
    assert_eq!((rig.made("status"), rig.controller.resets()), (10, 0));
    assert!(start.elapsed() >= Duration::from_millis(850), "it took {:?}", start.elapsed());
}

#[test]
fn an_admin_completion_for_nothing_has_the_controller_reset_and_the_command_sent_again() {
    for fault in ["cid", "sq-id", "sq-head"] {
        let rig = Rig::new(config());
        rig.set_faults(&format!("identify.0:1={fault}"));
        rig.controller.identify_namespace(Nsid(1)).unwrap();
        assert_eq!(rig.controller.resets(), 1, "{fault}");
    }
}

#[test]
fn identify_data_that_is_cut_off_or_absurd_is_refused_and_leaves_nothing_behind() {
    let cases = [
        ("identify.1=truncate:0", "CQES and SQES"),
        ("identify.1=truncate:512", "CQES and SQES"),
        ("identify.1=truncate:516", "NN is 0"),
        ("identify.1=corrupt:512/ffff", "CQES and SQES"),
    ];
    for (script, what) in cases {
        let (model, controller) = start(script, 4);
        let error = controller.err().unwrap_or_else(|| panic!("{script} is refused")).to_string();
        assert!(error.contains(what), "{script}: '{error}' should name {what}");
        assert_eq!(model.dma_unmap(0, u64::MAX).unwrap(), 0, "{script}: memory stays mapped");
    }
    let cases = [
        ("identify.0=truncate:0", "LBADS"),
        ("identify.0=truncate:26", "LBADS"),
        ("identify.0=corrupt:130/08", "LBADS"),
        ("identify.0=corrupt:130/40", "LBADS"),
        ("identify.0=corrupt:26/0f", "FLBAS"),
        ("identify.0=corrupt:0/ffffffffffffffff", "NSZE"),
        ("identify.2=corrupt:0/ffffffff", "active namespaces"),
        ("identify.2=truncate:0", "no active namespace"),
    ];
    for (script, what) in cases {
        let (_model, controller) = start(script, 4);
        let options = NvmeOptions::default();
        let error = NvmeDriver::open(&controller.unwrap(), Nsid(1), &options);
        let error = error.err().unwrap_or_else(|| panic!("{script} is refused")).to_string();
        assert!(error.contains(what), "{script}: '{error}' should name {what}");
    }
}

/// Starts a controller with these faults, with as many resets.
fn start(script: &str, resets: u8) -> (Arc<Model>, Result<Arc<NvmeController>, NvmeError>) {
    let faults: FaultScript = script.parse().unwrap();
    let namespaces = vec![NamespaceConfig::ram(SIZE)];
    let model = Arc::new(
        Model::new(ModelConfig { faults, ready_timeout: 1, ..ModelConfig::new(namespaces) }).unwrap(),
    );
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let options = ControllerOptions { admin_timeout_ms: 2000, resets, ..ControllerOptions::default() };
    let controller = NvmeController::start(bus, &options);
    (model, controller)
}

#[test]
fn a_controller_that_never_becomes_ready_is_refused_at_first_and_given_up_after_its_resets() {
    let (_model, controller) = start("enable=never", 4);
    let error = controller.expect_err("it is not ready").to_string();
    assert!(error.contains("did not become ready (CSTS.RDY 1) within 500 ms"), "{error}");

    let options = ControllerOptions { io_timeout_ms: 400, resets: 2, ..ControllerOptions::default() };
    let rig = Rig::with(config(), options);
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    rig.set_faults("read:1=fatal;enable=never");
    assert_eq!(rig.read(&channel, 0), errno(Errno::EIO));
    let gone = rig.event(|event| match event {
        ControllerEvent::Failed { gone, .. } => Some(*gone),
        _ => None,
    });
    assert_eq!((gone, rig.controller.state(), rig.controller.resets()), (false, State::Stopped, 0));
    assert_eq!((rig.made("never"), rig.read(&channel, 0)), (2, errno(Errno::EIO)));
}

#[test]
fn a_controller_that_grants_no_queue_is_refused_by_name() {
    let (_model, controller) = start("create-cq=status:1/01:dnr", 4);
    let controller = controller.unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &Default::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), Default::default()).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let error = backend.channel(&ctx, 4).err().expect("there is no queue").to_string();
    assert!(error.contains("Create I/O Completion Queue failed: Invalid Queue Identifier"), "{error}");
    // As if it had granted 0 queues, or 65,536: what it then refuses to create is an error that says so.
    let (_model, controller) = start("set-queues=status:0/06:dnr", 4);
    let error = controller.expect_err("no queues").to_string();
    assert!(error.contains("Set Features (number of queues) failed"), "{error}");
}

#[test]
fn a_controller_that_grants_fewer_queues_after_a_reset_is_given_up() {
    let rig = Rig::with(config(), ControllerOptions { resets: 2, ..ControllerOptions::default() });
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    rig.set_faults("read:1=fatal;set-queues=queues:1");
    assert_eq!(rig.read(&channel, 0), errno(Errno::EIO));
    let reason = rig.event(|event| match event {
        ControllerEvent::Failed { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.contains("came back from a reset with a number of queues of 1"), "{reason}");
}

#[test]
fn a_controller_that_is_another_after_a_reset_is_given_up() {
    // Its serial number and model, and what commands rely on: MDTS, ONCS, VWC, SGLS.
    for (bytes, what) in [
        ("4/58", "the name"),
        ("24/58", "the name"),
        ("77/06", "MDTS"),
        ("520/00", "ONCS"),
        ("525/00", "VWC"),
        ("536/01", "SGLS"),
    ] {
        let rig = Rig::with(config(), ControllerOptions { resets: 2, ..ControllerOptions::default() });
        let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
        rig.set_faults(&format!("read:1=fatal;identify.1=corrupt:{bytes}"));
        assert_eq!(rig.read(&channel, 0), errno(Errno::EIO), "{bytes}");
        let reason = rig.event(|event| match event {
            ControllerEvent::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        assert!(reason.contains("came back from a reset with") && reason.contains(what), "{reason}");
    }
}

#[test]
fn a_function_that_vanishes_under_load_is_gone_and_the_same_address_can_be_opened_again() {
    let rig = Rig::new(config());
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    assert_eq!(rig.write(&channel, 0, 7), Ok(()));
    rig.model.set_plugged(false);
    for _ in 0..3 {
        assert_eq!(rig.write(&channel, 0, 8), errno(Errno::ENODEV));
    }
    assert_eq!((rig.controller.state(), rig.controller.resets()), (State::Stopped, 0));
    let Rig { model, controller, ctx, .. } = rig;
    drop((channel, controller));
    assert_eq!(model.dma_unmap(0, u64::MAX).unwrap(), 0, "nothing stays mapped");
    model.set_plugged(true);
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &Default::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), Default::default()).unwrap();
    let channel = backend.channel(&ctx, 4).unwrap();
    let buf = DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap();
    let (result, buf) = ctx.block_on(channel.read_at(0, IoBuf::from(buf)));
    let mut bytes = [0; BLOCK];
    buf.copy_to(0, &mut bytes).unwrap();
    assert_eq!((result, bytes), (Ok(()), [7; BLOCK]));
    assert_eq!(model.take_violations(), []);
}

#[test]
fn what_one_host_was_told_of_the_function_does_not_concern_the_next() {
    let rig = Rig::new(config());
    let model = Arc::clone(&rig.model);
    drop(rig);
    model.give_notice(Notice::Removal);
    model.give_notice(Notice::Error);
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = backend.channel(&ctx, 4).unwrap();
    for _ in 0..200 {
        assert_eq!(ctx.block_on(channel.flush()), Ok(()));
        std::thread::sleep(Duration::from_micros(100));
    }
    assert_eq!(controller.resets(), 0);
}

#[test]
fn shadow_doorbells_are_set_up_again_after_a_reset() {
    let rig = Rig::new(ModelConfig { shadow_doorbells: true, doorbell_stride: 0, ..config() });
    assert!(rig.controller.has_shadow_doorbells());
    let channel = rig.open(1).channel(&rig.ctx, 4).unwrap();
    for reset in 1..=3 {
        for _ in 0..200 {
            assert_eq!(rig.read(&channel, 0), Ok(()));
        }
        rig.set_faults("read:1=fatal;shadow-doorbells=delay:1ms");
        assert_eq!((rig.read(&channel, 0), rig.controller.resets()), (Ok(()), reset));
        assert_eq!(rig.made("delay"), reset, "it was told of them again");
        rig.set_faults("");
    }
    rig.assert_clean();
}

#[test]
fn what_a_guest_has_in_flight_at_a_reset_of_its_host_is_sent_again() {
    let rig = Rig::new(ModelConfig { max_queue_pairs: 1, ..config() });
    let [_host, guest] = [1, 2].map(|nsid| rig.open(nsid).channel(&rig.ctx, 1).unwrap());
    for (fault, end) in [("read:1=fatal", Ok(())), ("read:1=lose", errno(Errno::ETIMEDOUT))] {
        rig.set_faults(fault);
        assert_eq!(rig.read(&guest, 0), end, "{fault}");
        assert_eq!(rig.read(&guest, 0), Ok(()), "{fault}");
    }
    assert_eq!(rig.controller.resets(), 2);
    rig.assert_clean();
}

#[test]
fn a_lane_without_a_queue_of_its_own_gets_through_a_reset_of_its_host() {
    let rig = Rig::new(ModelConfig { max_queue_pairs: 1, ..config() });
    let backends = [rig.open(1), rig.open(2)];
    rig.set_faults("io:*400=fatal;io:*333=drop");
    let threads: Vec<IoThread> =
        (0..3).map(|_| IoThread::spawn(&AioConfig::named("guest")).unwrap()).collect();
    let timed_out: u64 = std::thread::scope(|scope| {
        let lanes: Vec<_> = threads
            .iter()
            .enumerate()
            .map(|(index, thread)| {
                let backend = backends[index % 2].clone();
                scope.spawn(move || thread.run_on(|ctx: &AioContext| reads(ctx.clone(), backend, 700)))
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap().unwrap()).sum()
    });
    assert!(rig.controller.resets() >= 3, "{} resets", rig.controller.resets());
    assert!(timed_out <= rig.made("drop"), "only what was never completed is late");
    assert_eq!(rig.controller.queue_count(), 1);
    rig.assert_clean();
}

#[test]
fn memory_of_a_request_that_ended_without_a_queue_is_not_written_by_the_next_one() {
    let rig = Rig::new(ModelConfig { max_queue_pairs: 1, ..config() });
    let backend = rig.open(1);
    let (opened, is_open) = channel();
    let (close, may_close) = channel::<()>();
    let host = backend.clone();
    let thread = std::thread::spawn(move || {
        let ctx = AioContext::new(&AioConfig::named("host")).unwrap();
        let channel = host.channel(&ctx, 4).unwrap();
        opened.send(()).unwrap();
        // It does not turn, so what its guest leaves is never sent.
        may_close.recv().unwrap();
        drop(channel);
        ctx.shutdown();
    });
    is_open.recv().unwrap();
    let channel = backend.channel(&rig.ctx, 1).unwrap();
    channel.submit(large(Op::Read, 1)).unwrap();
    rig.ctx.turn(Wait::No);
    rig.set_faults("create-sq:1=status:1/01:dnr");
    close.send(()).unwrap();
    let first = end(&rig, &channel);
    assert_eq!(first.result, errno(Errno::EIO), "its host has gone, and it gets no queue");
    thread.join().unwrap();
    the_next_one_leaves_its_memory_alone(&rig, &channel, &first);
}

#[test]
fn memory_of_a_request_that_was_late_is_not_written_by_the_next_one() {
    let rig = Rig::new(config());
    let channel = rig.open(1).channel(&rig.ctx, 1).unwrap();
    rig.set_faults("read:1=lose");
    channel.submit(large(Op::Read, 1)).unwrap();
    let first = end(&rig, &channel);
    assert_eq!(first.result, errno(Errno::ETIMEDOUT));
    the_next_one_leaves_its_memory_alone(&rig, &channel, &first);
}

/// Large enough to be mapped for the request, and its own.
const LARGE: usize = 96 << 10;

fn large(op: Op, byte: u8) -> Request {
    let mut buf = IoBuf::from(DmaBuffer::new(LARGE, BLOCK, Backing::Pages).unwrap());
    buf.copy_from(0, &[byte; LARGE]).unwrap();
    let (offset, bytes) = (0, LARGE as u64);
    Request { op, flags: ReqFlags::empty(), offset, bytes, payload: buf.into(), token: 0 }
}

fn end(rig: &Rig, channel: &Channel) -> Completion {
    let mut ended = None;
    while ended.is_none() {
        rig.ctx.turn(Wait::Yes);
        channel.drain(|completion| ended = Some(completion));
    }
    ended.unwrap()
}

/// After a read that failed, whose memory holds ones: the same slot, with other memory, while that still has its own.
fn the_next_one_leaves_its_memory_alone(rig: &Rig, channel: &Channel, first: &Completion) {
    let bytes = |completion: &Completion| {
        let mut bytes = vec![0; LARGE];
        completion.payload.copy_to(0, &mut bytes).unwrap();
        bytes
    };
    channel.submit(large(Op::Write, 7)).unwrap();
    assert_eq!(end(rig, channel).result, Ok(()));
    channel.submit(large(Op::Read, 2)).unwrap();
    let second = end(rig, channel);
    assert!(second.result.is_ok() && bytes(&second) == [7; LARGE], "what was written is read");
    assert!(bytes(first) == [1; LARGE], "and the first request's memory is as it was");
    rig.assert_clean();
}

/// Reads again and again, and says how often it took too long.
async fn reads(ctx: AioContext, backend: BlockBackend, count: u32) -> u64 {
    let channel = backend.channel(&ctx, 8).unwrap();
    let mut buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
    let mut timed_out = 0;
    for _ in 0..count {
        let (result, same) = channel.read_at(0, buf).await;
        buf = same;
        match result {
            Ok(()) => {}
            Err(error) if error.errno == Errno::ETIMEDOUT => timed_out += 1,
            Err(error) => panic!("{error}"),
        }
    }
    timed_out
}
