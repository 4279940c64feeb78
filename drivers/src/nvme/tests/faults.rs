//! What a controller must not do to a queue: every request ends once, with an error that says so, and nothing else happens.

use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{
    CommandTable, Errno, IoResult, LeafCommand, LeafCompletion, LeafQueue, Op, ReqFlags, Tag,
};

use super::*;
use crate::nvme::spec::completion::Completion;
use crate::nvme::spec::opcode::io;

/// A queue of one lane, and what drives it.
struct Rig {
    // First: it lets go of the table.
    queue: Box<dyn LeafQueue>,
    table: CommandTable,
    ctx: AioContext,
    region: Rc<MemRegion>,
    controller: Arc<NvmeController>,
    fake: Arc<Fake>,
}

impl Rig {
    fn new(script: Script, tags: u32) -> Rig {
        let (fake, controller) = start(script);
        let controller = controller.unwrap();
        let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let (table, leaf) = CommandTable::new(tags);
        let mut queue = driver.open_queue(&ctx, leaf).unwrap();
        let buffer = DmaBuffer::new(tags as usize * 4096, 4096, Backing::Pages).unwrap();
        let region = Rc::new(MemRegion::from_buffer(buffer));
        queue.register_buf(&region).unwrap();
        Rig { queue, table, ctx, region, controller, fake }
    }

    fn put(&self, tag: u32, op: Op) {
        let buf = IoBuf::lease(&self.region, tag as usize * 4096, 4096).unwrap();
        let payload = if matches!(op, Op::Read | Op::Write) { Payload::One(buf) } else { Payload::None };
        let (offset, bytes) = (u64::from(tag) * 4096, 4096);
        let command = LeafCommand { op, flags: ReqFlags::empty(), offset, bytes, payload };
        self.table.put(Tag(tag), command).unwrap();
    }

    /// Turns until `count` commands have ended.
    fn ended(&mut self, count: usize) -> Vec<LeafCompletion> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut ended = Vec::new();
        while ended.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} commands ended", ended.len());
            self.queue.commit();
            self.queue.reap();
            ended.extend(self.table.take_ended());
            self.ctx.turn(Wait::No);
        }
        self.queue.commit();
        self.queue.reap();
        ended.extend(self.table.take_ended());
        assert_eq!((ended.len(), self.table.bogus()), (count, 0));
        ended.sort_by_key(|completion| completion.tag);
        ended
    }
}

fn results(ended: &[LeafCompletion]) -> Vec<IoResult> {
    ended.iter().map(|completion| completion.result).collect()
}

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
        complete: |mut completion| {
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
    rig.controller.control().check().expect("it goes on");
}

#[test]
fn completions_for_nothing_end_the_controller_and_every_request_once() {
    type Complete = fn(Completion) -> Vec<Completion>;
    let cases: [(&str, Complete); 5] = [
        ("CID", |completion| vec![Completion { cid: completion.cid ^ 0x4000, ..completion }]),
        ("CID", |completion| vec![Completion { cid: completion.cid ^ 1, ..completion }]),
        ("CID", |completion| vec![completion, completion]),
        ("SQID", |completion| vec![Completion { sq_id: 2, ..completion }]),
        ("SQHD", |completion| vec![Completion { sq_head: 4096, ..completion }]),
    ];
    for (what, complete) in cases {
        let mut rig = Rig::new(Script { complete, ..Script::default() }, 3);
        // Not tag 1: its neighbour 0 must not be taken for it.
        rig.put(0, Op::Read);
        rig.put(2, Op::Write);
        for completion in rig.ended(2) {
            let memory = completion.payload.len_bytes();
            assert!(completion.result.is_ok_and(|()| what == "CID") || completion.result.is_err());
            assert_eq!(memory, 4096, "the memory comes back once the controller has stopped");
        }
        let reason = rig.controller.control().check().expect_err("it is stopped").to_string();
        assert!(reason.contains(what), "'{reason}' should name {what}");
        // Whatever comes later fails at once.
        rig.put(1, Op::Read);
        assert_eq!(results(&rig.ended(1)), [Err(Errno::EIO.into())]);
    }
}

#[test]
fn a_controller_that_vanishes_fails_everything_with_one_error() {
    // It answers nothing, and the next admin command finds out.
    let script = Script { vanishes: true, complete: |_| Vec::new(), ..Script::default() };
    let mut rig = Rig::new(script, 4);
    rig.put(0, Op::Read);
    rig.put(1, Op::Write);
    rig.queue.commit();
    let error = rig.controller.control().registers().status().expect_err("gone");
    rig.controller.control().fail(&error);
    assert_eq!(results(&rig.ended(2)), [Err(Errno::ENODEV.into()); 2]);
}

#[test]
fn a_queue_dropped_with_commands_that_never_end_aborts_them() {
    let mut rig = Rig::new(Script { complete: |_| Vec::new(), ..Script::default() }, 4);
    rig.put(0, Op::Read);
    rig.queue.commit();
    let Rig { queue, table, region, controller, fake, .. } = rig;
    drop(queue);
    drop(table);
    assert_eq!(Rc::strong_count(&region), 1, "the queue was deleted, so the memory is free");
    controller.control().check().expect("it goes on");
    controller.bus().dma().unregister(&region).unwrap();
    drop(controller);
    assert_eq!(fake.mappings(), 0);
}

#[test]
fn memory_that_a_controller_may_use_for_ever_is_never_given_back() {
    let script = Script {
        complete: |_| Vec::new(),
        never_disabled: true,
        no_reset: true,
        ignore: Some(admin::DELETE_SQ),
        ..Script::default()
    };
    let mut rig = Rig::new(script, 4);
    rig.put(0, Op::Read);
    rig.queue.commit();
    let Rig { queue, table, region, controller, .. } = rig;
    let error = NvmeError::Gone { address: "fake".to_owned(), register: "CSTS" };
    drop(queue);
    drop(table);
    assert_eq!(Rc::strong_count(&region), 2, "the command's lease is leaked");
    controller.control().fail(&error);
    assert!(controller.control().check().is_err());
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
    controller.control().check().expect("it goes on");
}
