//! Random requests against a byte array: unaligned, scattered, at once, from several lanes, over random limits.
//!
//! A [`Sequence`] opens a device with limits of its own and carries out steps; the requests of a step run at once and do
//! not overlap by a byte where that would leave the outcome open, though they share blocks.

mod limits;
mod plan;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corelane_dma::{IoBuf, Payload};
use corelane_engine::aio::{AioConfig, AioContext, IoThread};
use corelane_engine::block::{
    BackendOptions, BlockBackend, BlockDriver, BlockLimits, Channel, IoResult, Op, ReqFlags, Request,
};
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

use crate::limited::{Limited, Restrictions};
pub use limits::random_limits;
use plan::{Plan, payload_of, random_plan};

/// Requests of a sequence: 200 sequences make 100,000.
const REQUESTS: usize = 500;
const MOST_LANES: usize = 2;

/// What came of a plan: the outcome, and what was read.
type Outcome = (IoResult, Vec<u8>);

thread_local! {
    static CHANNEL: RefCell<Option<Rc<Channel>>> = const { RefCell::new(None) };
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

/// Drains the device for a moment, in which it gets no command.
async fn hold_still(backend: BlockBackend, still: Arc<AtomicBool>) {
    let ctx = AioContext::current().expect("a lane");
    let section = backend.drained_begin().await;
    still.store(true, Ordering::SeqCst);
    ctx.sleep(Duration::from_micros(200)).await;
    still.store(false, Ordering::SeqCst);
    drop(section);
}

/// One device, its model, and its lanes.
pub struct Sequence {
    rng: Rng,
    backend: BlockBackend,
    /// Set while the device may get no command.
    still: Arc<AtomicBool>,
    model: Vec<u8>,
    lanes: Vec<IoThread>,
    carried_out: usize,
}

impl Sequence {
    /// Opens `driver` with `limits` in random lanes. It holds what `model` holds.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn new(mut rng: Rng, driver: Arc<dyn BlockDriver>, limits: BlockLimits, model: Vec<u8>) -> Sequence {
        let restrictions = Restrictions {
            limits,
            no_zeroes: rng.random_bool(0.3),
            no_discard: rng.random_bool(0.3),
            no_fua: rng.random_bool(0.5),
        };
        let still = Arc::default();
        let driver = Arc::new(Limited::new(driver, restrictions, &still));
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
        Sequence { rng, backend, still, model, lanes, carried_out: 0 }
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

    /// Carries out the sequence's requests.
    ///
    /// # Panics
    /// When one fails, or reads something else than the model holds.
    pub fn run_all(&mut self) {
        while self.carried_out < REQUESTS {
            self.step();
        }
    }

    fn step(&mut self) {
        let dealt = self.plan_step();
        self.carried_out += dealt.iter().map(Vec::len).sum::<usize>();
        // Drained by a lane of its own choice, or not.
        let drained_by = self.rng.random_range(0..8);
        let outcomes = self.run(&dealt, drained_by);
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

    /// Carries out the plans of each lane, all lanes at once. If there is a lane `drained_by`, it drains the device meanwhile.
    fn run(&self, dealt: &[Vec<Plan>], drained_by: usize) -> Vec<Vec<Outcome>> {
        std::thread::scope(|scope| {
            if let Some(lane) = self.lanes.get(drained_by) {
                let (backend, still) = (self.backend.clone(), Arc::clone(&self.still));
                let call = lane.handle().run_on(move |_: &AioContext| hold_still(backend, still));
                scope.spawn(|| call.wait().expect("the lane runs"));
            }
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
    ///
    /// # Panics
    /// When something else is read.
    pub fn finish(mut self) -> Vec<u8> {
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
