//! Random requests against a byte array: unaligned, scattered, at once, from several lanes, over random limits.
//!
//! `CORELANE_SEQUENCES` says how many sequences run, `CORELANE_SEED` where they start. A sequence opens a device with
//! limits of its own and carries out steps; the requests of a step run at once and do not overlap by a byte where that
//! would leave the outcome open, though they share blocks.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, Payload};
use corelane_drivers::file::{CacheMode, FileDriver, FileOptions};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_engine::aio::{AioConfig, AioContext, IoThread};
use corelane_engine::block::{
    BackendOptions, BlockBackend, BlockDriver, BlockLimits, Channel, IoResult, Op, ReqFlags, Request,
};
use corelane_tests::limited::{Limited, Restrictions};
use corelane_tests::{Scratch, Seed, foreign_program, run};
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

/// Requests of a sequence: 200 sequences make 100,000.
const REQUESTS: usize = 500;
const MOST_LANES: usize = 2;

/// A request as plain data, to be sent to a lane.
#[derive(Clone, Debug)]
struct Plan {
    op: Op,
    flags: ReqFlags,
    offset: u64,
    bytes: u64,
    /// For writes.
    data: Vec<u8>,
    /// Lengths of the memory's segments, and how far each starts behind an aligned address.
    segments: Vec<(usize, usize)>,
}

impl Plan {
    fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    /// Whether the outcome depends on which of the two is carried out first.
    fn conflicts(&self, other: &Plan) -> bool {
        (self.op.modifies() || other.op.modifies()) && self.offset < other.end() && other.offset < self.end()
    }
}

/// What came of a plan: the outcome, and what was read.
type Outcome = (IoResult, Vec<u8>);

thread_local! {
    static CHANNEL: RefCell<Option<Rc<Channel>>> = const { RefCell::new(None) };
}

fn random_limits(rng: &mut Rng, floor: &BlockLimits) -> BlockLimits {
    let align = (1u32 << rng.random_range(0..=16)).max(floor.request_alignment);
    let max_transfer = if rng.random_bool(0.3) { 0 } else { align * rng.random_range(1..=24) };
    let mem = (1u32 << rng.random_range(0..=12)).max(floor.min_mem_alignment);
    let zeroes = align * rng.random_range(1..=4);
    let discard = align * rng.random_range(1..=4);
    BlockLimits {
        request_alignment: align,
        max_transfer,
        opt_transfer: 0,
        max_iov: rng.random_range(1..=16),
        min_mem_alignment: mem,
        opt_mem_alignment: mem.max(4096),
        max_pdiscard: if rng.random_bool(0.5) { 0 } else { u64::from(discard) * rng.random_range(1..=8) },
        pdiscard_alignment: discard,
        max_pwrite_zeroes: if rng.random_bool(0.5) { 0 } else { u64::from(zeroes) * rng.random_range(1..=8) },
        pwrite_zeroes_alignment: zeroes,
        max_hw_transfer: 0,
        max_hw_iov: 0,
    }
}

fn random_plan(rng: &mut Rng, length: u64) -> Plan {
    let most = *[1, 100, 5000, 70_000, 300_000].choose(rng).expect("not empty");
    let offset = rng.random_range(0..length);
    let bytes = rng.random_range(1..=most).min(length - offset);
    let op = *[Op::Read, Op::Read, Op::Write, Op::Write, Op::Write, Op::WriteZeroes, Op::Discard, Op::Flush]
        .choose(rng)
        .expect("not empty");
    let mut flags = ReqFlags::empty();
    flags.set(ReqFlags::FUA, op == Op::Write && rng.random_bool(0.02));
    flags.set(ReqFlags::MAY_UNMAP, op == Op::WriteZeroes && rng.random_bool(0.5));
    let mut data = Vec::new();
    if op == Op::Write {
        data.resize(bytes as usize, 0);
        rng.fill(&mut data[..]);
    }
    let (offset, bytes) = if op == Op::Flush { (0, 0) } else { (offset, bytes) };
    let segments =
        if matches!(op, Op::Read | Op::Write) { random_segments(rng, bytes as usize) } else { vec![] };
    Plan { op, flags, offset, bytes, data, segments }
}

fn random_segments(rng: &mut Rng, bytes: usize) -> Vec<(usize, usize)> {
    let skew = |rng: &mut Rng| if rng.random_bool(0.5) { 0 } else { rng.random_range(0..4096) };
    let mut segments = Vec::new();
    let mut left = bytes;
    let many = rng.random_bool(0.3);
    while many && left > 1 && segments.len() < 20 {
        let unit = if rng.random_bool(0.5) { 512.min(left) } else { 1 };
        let len = (rng.random_range(1..=left) / unit * unit).max(1);
        segments.push((len, skew(rng)));
        left -= len;
    }
    if left > 0 {
        segments.push((left, skew(rng)));
    }
    segments
}

fn segment(len: usize, skew: usize) -> IoBuf {
    let mut whole = IoBuf::from(DmaBuffer::new(len + skew, 4096, Backing::Pages).expect("memory"));
    if skew == 0 { whole } else { whole.split_off(skew).expect("within the buffer") }
}

fn payload_of(plan: &Plan) -> Payload {
    let mut payload = match plan.segments[..] {
        [] => Payload::None,
        [(len, skew)] => Payload::One(segment(len, skew)),
        _ => {
            let mut vector = Box::new(IoVector::default());
            plan.segments.iter().for_each(|(len, skew)| vector.push(segment(*len, *skew)));
            Payload::Many(vector)
        }
    };
    if plan.op == Op::Write {
        payload.copy_from(0, &plan.data).expect("the payload is as long as the data");
    }
    payload
}

/// Carries plans out, all at once, in the lane that this runs in.
async fn carry_out(plans: Vec<Plan>) -> Vec<Outcome> {
    let ctx = AioContext::current().expect("a lane");
    let channel = CHANNEL.with_borrow(|channel| channel.clone()).expect("the sequence's channel");
    let tasks: Vec<_> = plans
        .into_iter()
        .map(|plan| {
            let channel = Rc::clone(&channel);
            ctx.spawn(async move {
                let (op, flags, offset, bytes) = (plan.op, plan.flags, plan.offset, plan.bytes);
                let addresses =
                    |payload: &Payload| payload.as_bufs().iter().map(IoBuf::addr).collect::<Vec<_>>();
                let payload = payload_of(&plan);
                let before = addresses(&payload);
                let request = Request { op, flags, offset, bytes, payload, token: 0 };
                let (result, payload) = channel.start(request).await;
                assert_eq!(addresses(&payload), before, "the caller's own memory comes back");
                let mut data = vec![0; payload.len_bytes()];
                payload.copy_to(0, &mut data).expect("within the payload");
                (result, data)
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await);
    }
    outcomes
}

/// One device, its model, and its lanes.
struct Sequence {
    rng: Rng,
    backend: BlockBackend,
    model: Vec<u8>,
    lanes: Vec<IoThread>,
    carried_out: usize,
}

impl Sequence {
    fn new(mut rng: Rng, driver: Arc<dyn BlockDriver>, limits: BlockLimits, model: Vec<u8>) -> Sequence {
        let restrictions = Restrictions {
            limits,
            no_zeroes: rng.random_bool(0.3),
            no_discard: rng.random_bool(0.3),
            no_fua: rng.random_bool(0.5),
        };
        let driver = Arc::new(Limited::new(driver, restrictions));
        let backend = BlockBackend::new(driver, BackendOptions::default()).expect("a backend");
        let count = rng.random_range(1..=MOST_LANES);
        let depth = rng.random_range(1..=16);
        let lanes: Vec<_> =
            (0..count).map(|_| IoThread::spawn(&AioConfig::default()).expect("a lane")).collect();
        for lane in &lanes {
            let backend = backend.clone();
            let open = move |ctx: &AioContext| {
                let channel = Rc::new(backend.channel(ctx, depth).expect("a channel"));
                CHANNEL.set(Some(channel));
                std::future::ready(())
            };
            lane.handle().run_on(open).wait().expect("the lane runs");
        }
        Sequence { rng, backend, model, lanes, carried_out: 0 }
    }

    /// Plans that may run at once, dealt to the lanes.
    fn plan_step(&mut self) -> Vec<Vec<Plan>> {
        let length = self.model.len() as u64;
        let mut plans: Vec<Plan> = Vec::new();
        for _ in 0..self.rng.random_range(1..=10) {
            let plan = random_plan(&mut self.rng, length);
            if !plans.iter().any(|other| plan.conflicts(other)) {
                plans.push(plan);
            }
        }
        let mut dealt = vec![Vec::new(); self.lanes.len()];
        for plan in plans {
            let lane = self.rng.random_range(0..self.lanes.len());
            dealt[lane].push(plan);
        }
        dealt
    }

    fn run_all(&mut self) {
        while self.carried_out < REQUESTS {
            self.step();
        }
    }

    fn step(&mut self) {
        let dealt = self.plan_step();
        self.carried_out += dealt.iter().map(Vec::len).sum::<usize>();
        let outcomes = self.run(&dealt);
        let mut discards = Vec::new();
        for (outcomes, plans) in outcomes.into_iter().zip(dealt) {
            for (plan, (result, read)) in plans.into_iter().zip(outcomes) {
                assert_eq!(result, Ok(()), "{:?} {}+{}", plan.op, plan.offset, plan.bytes);
                let range = plan.offset as usize..plan.end() as usize;
                match plan.op {
                    Op::Read => assert_same(&read, &self.model[range], plan.offset),
                    Op::Write => self.model[range].copy_from_slice(&plan.data),
                    Op::WriteZeroes => self.model[range].fill(0),
                    Op::Discard => discards.push(plan),
                    Op::Flush => {}
                }
            }
        }
        for plan in discards {
            self.adopt_discarded(&plan);
        }
    }

    /// Carries out the plans of each lane, all lanes at once.
    fn run(&self, dealt: &[Vec<Plan>]) -> Vec<Vec<Outcome>> {
        std::thread::scope(|scope| {
            let waiting: Vec<_> = self
                .lanes
                .iter()
                .zip(dealt)
                .map(|(lane, plans)| {
                    let plans = plans.clone();
                    let call = lane.handle().run_on(move |_: &AioContext| carry_out(plans));
                    scope.spawn(|| call.wait().expect("the lane runs"))
                })
                .collect();
            waiting.into_iter().map(|thread| thread.join().expect("the lane's outcomes")).collect()
        })
    }

    /// What was discarded may read as before or as zeroes, each byte for itself.
    fn adopt_discarded(&mut self, plan: &Plan) {
        let segments = vec![(plan.bytes as usize, 0)];
        let read = Plan { op: Op::Read, flags: ReqFlags::empty(), segments, ..plan.clone() };
        let call = self.lanes[0].handle().run_on(move |_: &AioContext| carry_out(vec![read]));
        let (result, data) = call.wait().expect("the lane runs").remove(0);
        assert_eq!(result, Ok(()));
        for (index, (old, new)) in self.model[plan.offset as usize..].iter_mut().zip(data).enumerate() {
            assert!(new == 0 || new == *old, "byte {index} of a discard at {} became {new}", plan.offset);
            *old = new;
        }
    }

    /// Reads everything once more, then ends the lanes. Returns what the device must hold.
    fn finish(mut self) -> Vec<u8> {
        let length = self.model.len();
        for start in (0..length).step_by(100_000) {
            let bytes = (length - start).min(100_000);
            let (op, flags, offset) = (Op::Read, ReqFlags::empty(), start as u64);
            let plan =
                Plan { op, flags, offset, bytes: bytes as u64, data: vec![], segments: vec![(bytes, 0)] };
            let call = self.lanes[0].handle().run_on(move |_: &AioContext| carry_out(vec![plan]));
            let (result, data) = call.wait().expect("the lane runs").remove(0);
            assert_eq!(result, Ok(()));
            assert_same(&data, &self.model[start..start + bytes], offset);
        }
        for lane in self.lanes.drain(..) {
            let close = |_: &AioContext| {
                CHANNEL.set(None);
                std::future::ready(())
            };
            lane.handle().run_on(close).wait().expect("the lane runs");
            lane.join().expect("the lane ended well");
        }
        assert_eq!(self.backend.length(), length as u64);
        self.model
    }
}

fn assert_same(got: &[u8], expected: &[u8], offset: u64) {
    if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("byte {} reads as {:#x}, but {:#x} was written", offset + at as u64, got[at], expected[at]);
    }
    assert_eq!(got.len(), expected.len());
}

fn random_content(rng: &mut Rng) -> Vec<u8> {
    let mut content = vec![0; rng.random_range(1..=1 << 20)];
    rng.fill(&mut content[..]);
    content
}

fn open_file(path: &Path, cache: CacheMode) -> Arc<dyn BlockDriver> {
    Arc::new(FileDriver::open(&FileOptions::new(path).cache(cache)).expect("the file opens"))
}

/// A file may be longer than the device by less than a block, since its last block was written whole.
fn check_with_cmp(path: &Path, model: &Path, length: usize) {
    let Some(mut cmp) = foreign_program("cmp") else { return };
    run(cmp.arg("-n").arg(length.to_string()).arg(path).arg(model));
}

#[test]
fn files_hold_what_a_byte_array_holds() {
    let Some(scratch) = Scratch::new() else { return };
    for seed in Seed::sequences(200) {
        let mut rng = seed.rng();
        let mut content = random_content(&mut rng);
        let mut path = scratch.file("device", &content);
        let cache = *[CacheMode::Writeback, CacheMode::None].choose(&mut rng).expect("not empty");
        let floor = *open_file(&path, cache).limits();
        let limits = random_limits(&mut rng, &floor);
        if limits.request_alignment > floor.request_alignment {
            // Only the driver itself can stand a last block of its own that is not whole.
            content.resize(content.len().next_multiple_of(limits.request_alignment as usize), 0x5a);
            std::fs::remove_file(path).expect("removed");
            path = scratch.file("device", &content);
        }
        let length = content.len();
        let mut sequence = Sequence::new(rng, open_file(&path, cache), limits, content);
        sequence.run_all();
        let model = scratch.file("model", &sequence.finish());
        check_with_cmp(&path, &model, length);
        std::fs::remove_file(path).expect("removed");
        std::fs::remove_file(model).expect("removed");
    }
}

#[test]
fn memory_holds_what_a_byte_array_holds() {
    for seed in Seed::sequences(60) {
        let mut rng = seed.rng();
        // The last block of a RAM disk has to be whole: there is nothing behind it.
        let length = rng.random_range(1..=16) * (1 << 16);
        let driver = MemDriver::open(&MemOptions::new(length)).expect("a RAM disk");
        let limits = random_limits(&mut rng, driver.limits());
        let mut sequence = Sequence::new(rng, Arc::new(driver), limits, vec![0; length]);
        sequence.run_all();
        sequence.finish();
    }
}
