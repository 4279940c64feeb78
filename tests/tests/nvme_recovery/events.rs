//! What a controller tells by itself: namespaces that are resized, formatted, detached and attached while they are open, its
//! health, its errors. And that it is always able to tell.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, Payload};
use corelane_drivers::nvme::commands::CommandError;
use corelane_drivers::nvme::recovery::ControllerEvent;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::log::CriticalWarning;
use corelane_drivers::nvme::spec::opcode::io;
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_drivers::nvme::{NvmeCommands, Polling};
use corelane_engine::aio::Wait;
use corelane_engine::block::{
    BlockBackend, Channel, DeviceChange, Errno, IoError, IoResult, Op, ReqFlags, Request,
};
use corelane_nvme_model::ModelConfig;

use crate::rig::{BLOCK, Rig, SIZE, errno};

#[test]
fn a_namespace_that_is_resized_changes_the_length_of_its_backend() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let backend = rig.open(2);
    let changes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&changes);
    backend.on_change(move |change| told.lock().unwrap().push(change));
    let channel = backend.channel(&rig.ctx, 4).unwrap();
    assert_eq!((backend.length(), rig.write(&channel, SIZE - BLOCK as u64, 1)), (SIZE, Ok(())));

    rig.model.resize_namespace(2, SIZE / 2).unwrap();
    assert_eq!(rig.resized(2), SIZE / 2 / BLOCK as u64);
    assert_eq!(rig.namespaces_changed(), [2]);
    assert_eq!(backend.length(), SIZE / 2);
    assert_eq!(rig.read(&channel, SIZE / 2), errno(Errno::EIO));
    assert_eq!(rig.read(&channel, SIZE / 2 - BLOCK as u64), Ok(()));

    rig.model.resize_namespace(2, SIZE).unwrap();
    rig.resized(2);
    assert_eq!(backend.length(), SIZE);
    assert_eq!(rig.read(&channel, SIZE - BLOCK as u64), Ok(()));
    let resized = |length_bytes| DeviceChange::Resized { length_bytes };
    assert_eq!(*changes.lock().unwrap(), [resized(SIZE / 2), resized(SIZE)]);
    rig.assert_clean();
}

/// Keeps reads and writes going in both namespaces while `change` happens to the first, until the driver has heard of it and
/// a hundred requests have ended with ENODEV. How those of the first ended.
fn meanwhile(rig: &Rig, backends: &[BlockBackend; 2], change: impl FnOnce()) -> Vec<IoResult> {
    const DEPTH: u64 = 8;
    let channels =
        backends.each_ref().map(|backend| Rc::new(backend.channel(&rig.ctx, DEPTH as u32).unwrap()));
    let submit = |channel: &Channel, token: u64| {
        let op = if token.is_multiple_of(2) { Op::Read } else { Op::Write };
        let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
        let (offset, bytes) = (token % DEPTH * BLOCK as u64, BLOCK as u64);
        let request = Request { op, flags: ReqFlags::empty(), offset, bytes, payload: buf.into(), token };
        channel.submit(request).unwrap();
    };
    let (mut token, mut under_way, mut gone) = (0, [0; 2], 0);
    let (mut results, mut change) = (Vec::new(), Some(change));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let over = gone >= 100 || Instant::now() > deadline;
        for (channel, under_way) in channels.iter().zip(&mut under_way) {
            while *under_way < DEPTH && !over {
                (token, *under_way) = (token + 1, *under_way + 1);
                submit(channel, token);
            }
        }
        if results.len() > 100
            && let Some(change) = change.take()
        {
            change();
        }
        // Before the turn, which would wait for nothing.
        if over && under_way == [0, 0] {
            assert!(gone >= 100, "only {gone} of {} requests ended with ENODEV", results.len());
            return results;
        }
        rig.ctx.turn(Wait::Yes);
        let [first, second] = &mut under_way;
        channels[0].drain(|completion| {
            *first -= 1;
            gone += u32::from(completion.result == errno(Errno::ENODEV));
            results.push(completion.result);
        });
        channels[1].drain(|completion| {
            *second -= 1;
            assert_eq!(completion.result, Ok(()), "the other namespace works");
        });
    }
}

#[test]
fn a_namespace_that_is_detached_ends_its_requests_with_one_error_and_can_be_opened_again() {
    for poll in [Polling::On, Polling::Off] {
        let rig = Rig::new(ModelConfig::new(Vec::new()));
        let backends = [rig.open_polling(1, poll), rig.open_polling(2, poll)];
        let results = meanwhile(&rig, &backends, || rig.model.set_attached(1, false).unwrap());
        let reason = rig.namespace_failed(1);
        assert!(reason.contains("detached"), "{reason}");
        // Until the driver has heard of it, the controller says by its status that there is no such namespace.
        let gone = |result: &IoResult| {
            result.is_err_and(|error| error.errno == Errno::ENODEV || error.device_status & 0xffff == 0x0b)
        };
        assert!(results.iter().all(|result| result.is_ok() || gone(result)));
        assert_eq!(results.last(), Some(&errno(Errno::ENODEV)), "and soon nothing is sent any more");
        rig.namespaces_changed();

        rig.model.set_attached(1, true).unwrap();
        assert_eq!(rig.namespaces_changed(), [1]);
        let channel = backends[0].channel(&rig.ctx, 4).unwrap();
        assert_eq!(rig.read(&channel, 0), errno(Errno::ENODEV), "what was opened before stays failed");
        drop((channel, backends));
        let backend = rig.open(1);
        let channel = backend.channel(&rig.ctx, 4).unwrap();
        assert_eq!(rig.read(&channel, 0), Ok(()));
        rig.assert_clean();
    }
}

#[test]
fn a_namespace_with_other_blocks_fails_and_nothing_is_written_where_it_was_not_meant() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let backends = [rig.open(1), rig.open(2)];
    let channel = backends[0].channel(&rig.ctx, 4).unwrap();
    // What a write to block 8 of 4 KiB would hit as block 8 of 512 bytes.
    assert_eq!(rig.write(&channel, 0, 0x11), Ok(()));
    drop(channel);
    let changes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&changes);
    backends[0].on_change(move |change| told.lock().unwrap().push(change));
    rig.model.format_namespace(1, 9).unwrap();
    let reason = rig.namespace_failed(1);
    assert!(
        reason.contains("blocks of 2^9 bytes") && reason.contains("opened with blocks of 2^12"),
        "{reason}"
    );
    let channel = backends[0].channel(&rig.ctx, 4).unwrap();
    for offset in [0, 8 * BLOCK as u64] {
        assert_eq!(rig.write(&channel, offset, 0xEE), errno(Errno::ENODEV));
        // Less than a block, so that the block layer itself would read and write.
        let buf = IoBuf::from(DmaBuffer::new(512, 512, Backing::Pages).unwrap());
        assert_eq!(rig.ctx.block_on(channel.write_at(offset, buf)).0, errno(Errno::ENODEV));
    }
    let error = IoError::from(Errno::ENODEV);
    assert_eq!(*changes.lock().unwrap(), [DeviceChange::Failed { error }]);
    drop((channel, backends));
    let backend = rig.open(1);
    assert_eq!((backend.limits().request_alignment, backend.length()), (512, SIZE));
    let channel = backend.channel(&rig.ctx, 4).unwrap();
    let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
    let (result, buf) = rig.ctx.block_on(channel.read_at(0, buf));
    let mut bytes = [0; BLOCK];
    buf.copy_to(0, &mut bytes).unwrap();
    assert_eq!((result, bytes), (Ok(()), [0x11; BLOCK]));
    rig.assert_clean();
}

#[test]
fn requests_in_flight_end_when_their_namespace_is_formatted_in_another_way() {
    // With one queue the other namespace is a guest of this one's.
    for max_queue_pairs in [4, 1] {
        let rig = Rig::new(ModelConfig { mdts: 3, max_queue_pairs, ..ModelConfig::new(Vec::new()) });
        let backends = [rig.open(1), rig.open(2)];
        let results = meanwhile(&rig, &backends, || rig.model.format_namespace(1, 9).unwrap());
        assert_eq!(results.last(), Some(&errno(Errno::ENODEV)), "and soon nothing is sent any more");
        rig.namespace_failed(1);
        assert_eq!(rig.write(&backends[1].channel(&rig.ctx, 1).unwrap(), 0, 1), Ok(()));
        rig.assert_clean();
    }
}

#[test]
fn all_namespaces_are_looked_at_where_the_controller_does_not_say_which_have_changed() {
    // More than the list holds; none.
    for first in ["ffffffff", "00000000"] {
        let rig = Rig::new(ModelConfig::new(Vec::new()));
        let backend = rig.open(1);
        rig.set_faults(&format!("get-log.4=corrupt:0/{first}"));
        rig.model.resize_namespace(1, SIZE / 2).unwrap();
        rig.resized(1);
        assert_eq!((backend.length(), rig.namespaces_changed()), (SIZE / 2, vec![]));
    }
}

#[test]
fn health_and_errors_are_told_with_what_the_log_pages_say() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    rig.model.set_critical_warning(0b10);
    let (info, warning, kelvins) = rig.event(|event| match event {
        ControllerEvent::Health { info, warning, log } => Some((*info, *warning, log.temperature.get())),
        _ => None,
    });
    assert_eq!((info, warning, kelvins), (1, CriticalWarning::TEMPERATURE, 313));
    // Reading the page cleared it: the next one comes.
    rig.model.set_critical_warning(0b11);
    let (info, warning) = rig.event(|event| match event {
        ControllerEvent::Health { info, warning, .. } => Some((*info, *warning)),
        _ => None,
    });
    assert_eq!((info, warning), (2, CriticalWarning::TEMPERATURE | CriticalWarning::SPARE));

    let error = |event: &ControllerEvent| match event {
        ControllerEvent::Error { info, entry } => Some((*info, entry.map(|entry| entry.sq_id.get()))),
        _ => None,
    };
    rig.model.raise_event(0, 4, 1);
    let (info, _) = rig.event(error);
    assert_eq!(info, 4, "a transient internal error");
    // A command that fails leaves an entry in the error log.
    let backend = rig.open(1);
    let channel = backend.channel(&rig.ctx, 1).unwrap();
    rig.set_faults("read=status:2/81:dnr");
    assert!(rig.read(&channel, 0).is_err());
    rig.model.raise_event(0, 3, 1);
    assert_eq!(rig.event(error), (3, Some(1)));

    rig.model.raise_event(7, 0xff, 0xc0);
    let notice = rig.event(|event| match event {
        ControllerEvent::Notice { kind, info, page } => Some((*kind, *info, *page)),
        _ => None,
    });
    assert_eq!(notice, (7, 0xff, 0xc0));
}

#[test]
fn event_requests_are_kept_with_the_controller_within_its_limit_and_after_each_reset() {
    for aerl in [0, 3, 255] {
        let rig = Rig::new(ModelConfig { aerl, ..ModelConfig::new(Vec::new()) });
        let backend = rig.open(1);
        let channel = backend.channel(&rig.ctx, 4).unwrap();
        let mut size = SIZE;
        for round in 0..3 {
            for _ in 0..10 {
                size -= BLOCK as u64;
                rig.model.resize_namespace(1, size).unwrap();
                assert_eq!(rig.resized(1), size / BLOCK as u64);
            }
            rig.set_faults("read:1=fatal");
            assert_eq!((rig.read(&channel, 0), rig.controller.resets()), (Ok(()), round + 1));
        }
        rig.assert_clean();
    }
}

#[test]
fn a_controller_that_takes_no_event_requests_is_not_asked_again_and_works() {
    let faults = "event-request=status:1/05:dnr".parse().unwrap();
    let rig = Rig::new(ModelConfig { faults, ..ModelConfig::new(Vec::new()) });
    let backend = rig.open(1);
    let channel = backend.channel(&rig.ctx, 4).unwrap();
    for _ in 0..100 {
        assert_eq!(rig.read(&channel, 0), Ok(()));
        std::thread::sleep(Duration::from_millis(3));
    }
    let refused: u64 = rig.model.faults_made().into_iter().map(|(_, count)| count).sum();
    assert!((1..=4).contains(&refused), "{refused} requests were refused");
    // After a reset it is asked anew, and as often as it answers.
    rig.set_faults("read:1=fatal");
    assert_eq!((rig.read(&channel, 0), rig.controller.resets()), (Ok(()), 1));
    for blocks in (100..110).rev() {
        rig.model.resize_namespace(1, blocks * BLOCK as u64).unwrap();
        assert_eq!(rig.resized(1), blocks);
    }
}

#[test]
fn a_log_page_that_cannot_be_read_at_first_is_asked_for_again() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let backend = rig.open(1);
    rig.set_faults("get-log:1-2=status:0/06");
    rig.model.resize_namespace(1, SIZE / 2).unwrap();
    rig.resized(1);
    assert_eq!(backend.length(), SIZE / 2);
}

#[test]
fn what_changes_during_a_reset_is_found_after_it() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let backend = rig.open(1);
    let channel = backend.channel(&rig.ctx, 4).unwrap();
    rig.set_faults("read:1=fatal;enable:1=delay:400ms");
    let model = Arc::clone(&rig.model);
    let reset = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(250));
        // While it is being enabled: it has forgotten who wants to be told.
        model.resize_namespace(1, SIZE / 2).unwrap();
    });
    assert_eq!(rig.read(&channel, 0), Ok(()));
    reset.join().unwrap();
    assert_eq!(rig.resized(1), SIZE / 2 / BLOCK as u64);
    assert_eq!((backend.length(), rig.controller.resets()), (SIZE / 2, 1));
}

#[test]
fn ticks_go_on_while_a_log_page_is_not_answered() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let backend = rig.open(1);
    let channel = backend.channel(&rig.ctx, 4).unwrap();
    rig.set_faults("get-log=lose; read:1=lose; abort=delay:1ms");
    rig.model.raise_event(1, 1, 2);
    let start = Instant::now();
    // Its deadline is 400 ms, and half of another until it is overdue; an admin command may take 2 s.
    assert_eq!(rig.read(&channel, 0), errno(Errno::ETIMEDOUT));
    assert!(start.elapsed() < Duration::from_millis(1900), "it took {:?}", start.elapsed());
}

#[test]
fn what_becomes_of_a_namespace_is_told_once_however_often_it_is_open() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let backends = [rig.open(1), rig.open(1)];
    let _commands = NvmeCommands::open(&rig.controller, Nsid(1), &Default::default(), &rig.ctx).unwrap();
    rig.model.resize_namespace(1, SIZE / 2).unwrap();
    let told = Cell::new(0);
    rig.event(|event| match event {
        ControllerEvent::Resized { .. } => {
            told.set(told.get() + 1);
            None
        }
        ControllerEvent::NamespacesChanged { .. } => Some(()),
        _ => None,
    });
    assert_eq!((told.get(), backends.map(|backend| backend.length())), (1, [SIZE / 2; 2]));
}

#[test]
fn commands_for_a_namespace_with_other_blocks_are_not_sent_and_those_under_way_fail() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let commands = NvmeCommands::open(&rig.controller, Nsid(1), &Default::default(), &rig.ctx).unwrap();
    let zeroes = |len| Payload::from(IoBuf::from(DmaBuffer::new(len, BLOCK, Backing::Pages).unwrap()));
    let mut first = Box::pin(commands.compare(Lba(0), zeroes(BLOCK)));
    rig.ctx.block_on(poll_fn(|cx| {
        assert!(first.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    }));
    // It completes, but the lane does not look before the namespace is known to be another.
    rig.model.format_namespace(1, 9).unwrap();
    rig.namespace_failed(1);
    rig.set_faults("io=status");
    let is_gone = |error: CommandError| {
        let CommandError::Failed { source, .. } = &error else { panic!("{error}") };
        assert_eq!(*source, Errno::ENODEV.into(), "{error}");
    };
    let (result, data) = rig.ctx.block_on(first);
    is_gone(result.unwrap_err());
    assert_eq!(data.len_bytes(), BLOCK);
    is_gone(rig.ctx.block_on(commands.compare(Lba(0), zeroes(BLOCK))).0.unwrap_err());
    is_gone(rig.ctx.block_on(commands.verify(Lba(0), 1)).unwrap_err());
    let read = Command::transfer(io::READ, Nsid(1), Lba(0), 1, 0);
    let answer = rig.ctx.block_on(commands.submit(read, zeroes(BLOCK), Payload::None));
    is_gone(answer.result.unwrap_err());
    assert_eq!((answer.data.len_bytes(), rig.made("status")), (BLOCK, 0), "nothing was sent");
    rig.set_faults("");
    let again = NvmeCommands::open(&rig.controller, Nsid(1), &Default::default(), &rig.ctx).unwrap();
    assert!(rig.ctx.block_on(again.compare(Lba(0), zeroes(BLOCK))).0.unwrap());
    rig.assert_clean();
}

/// What was accepted before the namespace became another, with the lane not turning meanwhile.
fn becomes_another(rig: &Rig, channel: &Channel) -> Vec<IoResult> {
    rig.model.format_namespace(1, 9).unwrap();
    rig.namespace_failed(1);
    let mut results = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while channel.in_flight() > 0 && Instant::now() < deadline {
        rig.ctx.turn(Wait::No);
        channel.drain(|completion| results.push(completion.result));
    }
    rig.assert_clean();
    results
}

#[test]
fn requests_that_were_accepted_are_not_sent_to_a_namespace_that_is_another() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let channel = rig.open(1).channel(&rig.ctx, 8).unwrap();
    assert_eq!(rig.read(&channel, 0), Ok(()));
    rig.set_faults("io=status");
    for token in 0..8 {
        let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
        let request = if token < 4 { Request::read(0, buf) } else { Request::write(0, buf) };
        channel.submit(request.with_token(token)).map_err(drop).unwrap();
    }
    assert_eq!(becomes_another(&rig, &channel), [errno(Errno::ENODEV); 8]);
    assert_eq!(rig.made("status"), 0, "nothing was sent");
}

#[test]
fn a_request_in_parts_ends_with_the_part_that_was_sent_when_its_namespace_is_another() {
    let rig = Rig::new(ModelConfig { mdts: 8, ..ModelConfig::new(Vec::new()) });
    // Pieces that meet in the middle of pages: no PRP entry expresses that, so they are copied, 128 KiB at a time.
    let read = || {
        let mut vector = Box::new(IoVector::new());
        for _ in 0..64 {
            let mut piece = IoBuf::from(DmaBuffer::new(2 * BLOCK, BLOCK, Backing::Pages).unwrap());
            piece = piece.split_off(BLOCK / 2).unwrap();
            drop(piece.split_off(BLOCK).unwrap());
            vector.push(piece);
        }
        Request::readv(0, vector)
    };
    let [channel, other] = [1, 2].map(|nsid| rig.open(nsid).channel(&rig.ctx, 1).unwrap());
    rig.set_faults("read@n2=delay:1ms");
    assert_eq!(rig.ctx.block_on(other.start(read())).0, Ok(()));
    assert_eq!(rig.made("delay"), 2, "there are two parts, if nothing comes between");
    rig.set_faults("read:2+=status");
    channel.submit(read()).map_err(drop).unwrap();
    rig.ctx.turn(Wait::No);
    assert_eq!(becomes_another(&rig, &channel), [errno(Errno::ENODEV)]);
    assert_eq!(rig.made("status"), 0, "no second part was sent");
}

#[test]
fn a_block_that_was_read_to_be_changed_is_not_written_to_a_namespace_that_is_another() {
    let rig = Rig::new(ModelConfig::new(Vec::new()));
    let channel = rig.open(1).channel(&rig.ctx, 1).unwrap();
    rig.set_faults("read=delay:300ms; write=status");
    let buf = IoBuf::from(DmaBuffer::new(512, 512, Backing::Pages).unwrap());
    channel.submit(Request::write(512, buf)).map_err(drop).unwrap();
    while rig.made("delay") == 0 {
        rig.ctx.turn(Wait::No);
    }
    assert_eq!(becomes_another(&rig, &channel), [errno(Errno::ENODEV)]);
    assert_eq!(rig.made("status"), 0, "it was not written back");
}
