//! What a controller must not do to a queue: every request ends once, with an error that says so, and nothing else happens.

use std::rc::Rc;

use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{CommandTable, Errno, Op};

use super::rig::{Rig, results};
use super::*;
use crate::nvme::recovery::State;
use crate::nvme::spec::completion::Completion;
use crate::nvme::spec::opcode::io;

#[test]
fn commands_are_what_was_asked_for() {
    let mut rig = Rig::new(Script::default(), 8);
    let ops = [Op::Read, Op::Write, Op::Flush];
    for (tag, op) in ops.into_iter().enumerate() {
        rig.put(tag as u32, op);
    }
    assert_eq!(results(&rig.ended(3)), [Ok(()); 3]);
    let commands = rig.fake.commands();
    let opcodes: Vec<u8> = commands.iter().map(|command| command.opcode).collect();
    assert_eq!(opcodes, [io::READ, io::WRITE, io::FLUSH]);
    assert!(commands.iter().all(|command| command.nsid == 1));
    assert_eq!(commands[1].cdw10[..3], [1, 0, 0], "one block at block 1");
    assert_eq!(commands[1].data.prp1 - commands[0].data.prp1, 4096);
}

#[test]
fn a_status_is_the_errno_of_its_request_alone() {
    let script = Script {
        complete: |_, mut completion| {
            if completion.cid & 1 == 1 {
                completion.status_and_phase = (0x4000 | 0x281) << 1;
            }
            vec![completion]
        },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    rig.put(0, Op::Read);
    rig.put(1, Op::Read);
    let ended = rig.ended(2);
    assert_eq!(ended[0].result, Ok(()));
    let error = ended[1].result.expect_err("a media error");
    assert!(error.errno == Errno::EIO && error.device_status & 0xffff == 0x281 && error.do_not_retry());
    assert_eq!(rig.controller.state(), State::Running, "it goes on");
}

/// A controller whose every completion is that of `complete` resets, again and again, with each request ended once; its
/// reason names `what`.
fn absurd(what: &str, complete: fn(usize, Completion) -> Vec<Completion>) {
    let mut rig = Rig::new(Script { complete, ..Script::default() }, 3);
    // Not tag 1: its neighbour 0 must not be taken for it.
    rig.put(0, Op::Read);
    rig.put(2, Op::Write);
    for completion in rig.ended(2) {
        let memory = completion.payload.len_bytes();
        assert!(completion.result.is_ok_and(|()| what == "CID") || completion.result.is_err());
        assert_eq!(memory, 4096, "the memory comes back once the controller has stopped");
    }
    // It never does anything else, so it is given up in the end.
    while rig.controller.state() != State::Stopped {
        rig.put(1, Op::Read);
        rig.ended(1);
        rig.turn();
    }
    let reason = rig.controller.control().stopped().to_string();
    assert!(reason.contains(what), "'{reason}' should name {what}");
    // Whatever comes later fails at once.
    rig.put(1, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::EIO.into())]);
}

#[test]
fn a_completion_with_a_stale_command_id_resets_the_controller() {
    // Of another generation of the same tag.
    absurd("CID", |_, completion| vec![Completion { cid: completion.cid ^ 0x4000, ..completion }]);
}

#[test]
fn a_completion_with_an_unknown_command_id_resets_the_controller() {
    absurd("CID", |_, completion| vec![Completion { cid: completion.cid ^ 1, ..completion }]);
}

#[test]
fn a_completion_that_comes_twice_resets_the_controller() {
    absurd("CID", |_, completion| vec![completion, completion]);
}

#[test]
fn a_completion_of_another_queue_resets_the_controller() {
    absurd("SQID", |_, completion| vec![Completion { sq_id: 2, ..completion }]);
}

#[test]
fn a_completion_with_a_head_outside_of_the_queue_resets_the_controller() {
    absurd("SQHD", |_, completion| vec![Completion { sq_head: 4096, ..completion }]);
}

#[test]
fn a_controller_that_vanishes_fails_everything_with_one_error() {
    // It answers nothing, and the next look at its registers finds out.
    let script = Script { vanishes: true, complete: |_, _| Vec::new(), ..Script::default() };
    let mut rig = Rig::new(script, 4);
    rig.put(0, Op::Read);
    rig.put(1, Op::Write);
    assert_eq!(results(&rig.ended(2)), [Err(Errno::ENODEV.into()); 2]);
    rig.put(2, Op::Flush);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::ENODEV.into())]);
    assert_eq!(rig.controller.state(), State::Stopped);
}

#[test]
fn a_queue_dropped_with_commands_that_never_end_aborts_them() {
    let mut rig = Rig::new(Script { complete: |_, _| Vec::new(), ..Script::default() }, 4);
    rig.put(0, Op::Read);
    rig.queue.commit();
    let Rig { queue, table, region, controller, fake, .. } = rig;
    drop(queue);
    drop(table);
    assert_eq!(Rc::strong_count(&region), 1, "the queue was deleted, so the memory is free");
    assert_eq!(controller.state(), State::Running, "it goes on");
    controller.bus().dma().unregister(&region).unwrap();
    drop(controller);
    assert_eq!(fake.mappings(), 0);
}

#[test]
fn memory_that_a_controller_may_use_for_ever_is_never_given_back() {
    let script = Script {
        complete: |_, _| Vec::new(),
        never_disabled: true,
        no_reset: true,
        ignore: |command| command.opcode == admin::DELETE_SQ,
        ..Script::default()
    };
    let mut rig = Rig::new(script, 4);
    rig.put(0, Op::Read);
    rig.queue.commit();
    let mapped = rig.fake.mappings();
    let Rig { queue, table, region, controller, fake, .. } = rig;
    drop(queue);
    drop(table);
    assert_eq!(Rc::strong_count(&region), 2, "the command's lease is leaked");
    assert_eq!((controller.state(), fake.mappings()), (State::Lost, mapped), "so are rings and lists");
}

#[test]
fn requests_of_a_controller_that_nothing_stops_end_without_their_memory() {
    let script =
        Script { complete: |_, _| Vec::new(), never_disabled: true, no_reset: true, ..Script::default() };
    let mut rig = Rig::new(script, 4);
    rig.put(0, Op::Read);
    rig.put(1, Op::Flush);
    let ended = rig.ended(2);
    assert!(ended.iter().all(|completion| completion.result == Err(Errno::EIO.into())));
    assert_eq!((ended[0].payload.len_bytes(), Rc::strong_count(&rig.region)), (0, 2), "its lease is leaked");
    // One that was not sent has its memory back.
    rig.put(0, Op::Write);
    let ended = rig.ended(1);
    assert_eq!((results(&ended), ended[0].payload.len_bytes()), (vec![Err(Errno::EIO.into())], 4096));
    assert_eq!(rig.controller.state(), State::Lost);
}

#[test]
fn a_refused_queue_leaves_its_number_free() {
    let script = Script { refuse: Some((admin::CREATE_SQ, 0x101)), ..Script::default() };
    let (_fake, controller) = start(script);
    let controller = controller.unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    for _ in 0..3 {
        let (_table, leaf) = CommandTable::new(4);
        let error = driver.open_queue(&ctx, leaf).err().expect("a refusal").to_string();
        assert!(error.contains("Create I/O Submission Queue failed: Invalid Queue Identifier"), "{error}");
    }
    assert_eq!(controller.state(), State::Running, "it goes on");
}
