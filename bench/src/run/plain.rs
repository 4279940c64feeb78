//! The loop of jobs that only issue requests: one file, a full queue, nothing that slows down or is checked.
//!
//! A completion issues the next request at once with the same slot and the same buffer. Everything that is asked once a
//! batch or less (orders, counters for other threads) stays out of the way of a request.
//!
//! Invariant: a slot is one request in flight and one buffer; `in_flight` counts them.

use std::path::Path;

use corelane_dma::Payload;
use corelane_engine::aio::Wait;
use corelane_engine::block::{Channel, Ended, Errno, IoError, Op, Rejected, ReqFlags, Request};

use super::logs;
use super::meter::Meter;
use super::session::{LaneFile, Session};
use super::token::Token;
use crate::options::{DirectionMix, JobSpec};
use crate::stats;
use crate::workload::{Direction, Generator, Io};

/// What to do in each direction.
const OPS: [Op; 3] = [Op::Read, Op::Write, Op::Discard];

/// Whether this loop does all that the job asks for.
pub fn suffices(spec: &JobSpec, files: usize) -> bool {
    let depth = &spec.depth;
    let pace = &spec.pace;
    let unpaced = pace.think_time.is_none()
        && pace.latency_target.is_none()
        && pace.rate_bytes_per_s == Default::default()
        && pace.rate_iops == Default::default();
    let unbatched = depth.batch_submit.is_none_or(|batch| batch >= depth.iodepth)
        && depth.batch_complete_min == 1
        && depth.batch_complete_max.is_none_or(|max| max >= depth.iodepth)
        && depth.low >= depth.iodepth;
    let work = &spec.workload;
    let unflushed = work.fsync_every_writes == 0 && work.fdatasync_every_writes == 0 && !work.end_fsync;
    files == 1
        && unpaced
        && unbatched
        && unflushed
        && !logs::wants_requests(spec)
        && spec.verify.is_none()
        && work.zones.is_none()
        && work.rw.mix != DirectionMix::TrimWrite
}

/// Counts of a batch, by direction.
#[derive(Default)]
struct Tally {
    // Four entries, so that the two bits of a token's kind need no bounds check.
    ios: [u64; 4],
    bytes: [u64; 4],
}

/// What a turn did: requests done well, all that ended, those issued, and how many were in flight after it.
#[derive(Clone, Copy, Default)]
struct Batch {
    done: u32,
    ended: u32,
    issued: u32,
    left: u32,
}

impl Batch {
    /// How many requests such a batch ends and issues again, if that is all that it does.
    fn turned_over(self) -> u32 {
        if self.ended == self.done && self.issued == self.done { self.done } else { u32::MAX }
    }
}

/// Most batches that are counted before they are entered, so that a slow device's figures are not late.
const MAX_REPEATS: u32 = 16;

/// How many batches may come without a turn of the lane's loop, which nobody else needs here.
const POLLS_PER_TURN: u32 = 16;
/// How often to look for the completions of one batch before the loop turns.
const LOOKS: u32 = 256;

/// A request that failed, its slot and buffer put aside until it is decided whether the job goes on.
struct Failed {
    token: Token,
    error: IoError,
    offset: u64,
    payload: Payload,
}

/// What every request goes through. `ALIKE`: all requests have one direction and one length, so that neither is looked
/// at request by request, and the generator counts what may still be issued.
struct Hot<'h, 's, M, const ALIKE: bool> {
    session: &'h mut Session<'s>,
    path: &'h Path,
    channel: &'h Channel,
    generator: &'h mut Generator,
    meter: &'h mut M,
    /// Of alike requests: what each does, its length, and its token but for the slot.
    op: Op,
    direction: stats::Direction,
    bytes: u64,
    token: Token,
    /// Of others: requests that may still be issued.
    left: u64,
    in_flight: u32,
    /// Requests of the batch at hand that were done well, once it is through, and those that were not.
    done: u32,
    bad: u32,
    /// Batches that are not in the statistics yet: what each did, and how many there were.
    last: Batch,
    /// What the last one [turned over](Batch::turned_over).
    turned_over: u32,
    repeats: u32,
    /// Batches that may still come before the next turn.
    polls: u32,
    /// Of those that are not alike.
    tally: Tally,
    /// Of this batch; almost always empty.
    failed: Vec<Failed>,
}

/// Runs the job to its end, or to the conductor's order to stop.
pub fn run<M: Meter>(session: &mut Session<'_>, meter: &mut M) {
    let Some(mut file) = session.files.pop() else { return };
    match file.generator.alike() {
        Some((direction, bytes)) => {
            let io = Io { offset: 0, bytes, direction };
            drive::<M, true>(session, &mut file, meter, io);
        }
        None => drive::<M, false>(
            session,
            &mut file,
            meter,
            Io { offset: 0, bytes: 0, direction: Direction::Read },
        ),
    }
    session.files.push(file);
}

fn drive<M: Meter, const ALIKE: bool>(
    session: &mut Session<'_>,
    file: &mut LaneFile,
    meter: &mut M,
    like: Io,
) {
    let depth = session.spec.depth.iodepth;
    let left = session.spec.end.number_ios.unwrap_or(u64::MAX);
    file.generator.end_after(left);
    let mut hot: Hot<'_, '_, M, ALIKE> = Hot {
        session,
        path: &file.path,
        channel: &file.channel,
        generator: &mut file.generator,
        meter,
        op: OPS[like.direction.index()],
        direction: like.direction,
        bytes: u64::from(like.bytes),
        token: Token::new(0, &like),
        left,
        in_flight: 0,
        done: 0,
        bad: 0,
        last: Batch::default(),
        turned_over: u32::MAX,
        repeats: 0,
        polls: 0,
        tally: Tally::default(),
        failed: Vec::new(),
    };
    // The run may have ended before this lane began.
    if hot.session.may_go_on() {
        hot.fill(depth);
    }
    while hot.in_flight > 0 {
        hot.turn();
    }
    hot.enter_batches();
}

impl<M: Meter, const ALIKE: bool> Hot<'_, '_, M, ALIKE> {
    /// Issues the first request of each slot.
    fn fill(&mut self, depth: u32) {
        let trims = self.session.spec.workload.rw.mix == DirectionMix::Trim;
        for slot in 0..depth {
            let mut payload = match self.session.pool.take() {
                Some(buf) if !trims => Payload::One(buf),
                _ => Payload::None,
            };
            if ALIKE {
                fit(&mut payload, self.bytes);
            }
            self.in_flight += 1;
            self.issue(slot, payload);
        }
        self.last = Batch { issued: self.in_flight, left: self.in_flight, ..Batch::default() };
        self.repeats = 1;
        self.enter_batches();
    }

    /// Invariant: the last batch's `left` is what is in flight.
    #[inline]
    fn turn(&mut self) {
        self.meter.hand_over();
        self.wait();
        self.meter.reap();
        self.bad = 0;
        let channel = self.channel;
        let ended = channel.drain_in_place(|ended| self.complete(ended));
        // A channel has at most 65,536 requests.
        self.done = ended as u32 - self.bad;
        // The device works while the books are kept.
        channel.send();
        self.keep_books();
    }

    /// Sends what was issued and waits for completions: by looking for them where that finds them, which spares the lane
    /// most turns of its loop, else by a turn.
    #[inline(always)]
    fn wait(&mut self) {
        if self.polls > 0 {
            self.polls -= 1;
            if self.channel.poll(LOOKS) {
                return;
            }
        }
        self.polls = POLLS_PER_TURN;
        self.session.ctx.turn(Wait::Yes);
    }

    /// Brings the batch into the books, and looks for orders. Batches that are all alike, as they are at a queue depth of 1,
    /// are only counted until there are some, or somebody wants to see the figures.
    #[inline(always)]
    fn keep_books(&mut self) {
        let alike = ALIKE
            && self.done == self.turned_over
            && self.in_flight == self.last.left
            && self.failed.is_empty()
            && self.repeats < MAX_REPEATS;
        if alike && !self.session.is_called() {
            self.repeats += 1;
        } else {
            self.enter();
        }
    }

    #[inline(never)]
    fn enter(&mut self) {
        let before = self.last.left;
        let mut ended = self.done;
        if !self.failed.is_empty() {
            ended += self.failed.len() as u32;
            self.decide_on_failed();
        }
        if self.repeats > 0 {
            self.enter_batches();
        }
        // Each completion issues a request, or takes one off what is in flight.
        let issued = ended - (before - self.in_flight);
        (self.last, self.repeats) = (Batch { done: self.done, ended, issued, left: self.in_flight }, 1);
        self.turned_over = self.last.turned_over();
        if !ALIKE || self.session.is_called() {
            self.enter_batches();
        }
        if !self.session.may_go_on() {
            self.stop();
        }
    }

    /// Enters the last batches into the statistics, and shows them to the conductor.
    fn enter_batches(&mut self) {
        let stats = &mut self.session.stats;
        let (Batch { done, ended, issued, left }, times) = (self.last, std::mem::take(&mut self.repeats));
        if issued > 0 {
            stats.submits.record_batches(issued, times);
            stats.depths.record_batch_at(left, issued * times);
        }
        if ended > 0 {
            stats.completes.record_batches(ended, times);
        }
        if ALIKE {
            let done = u64::from(done * times);
            stats.record_done_batch(self.direction, done, done * self.bytes);
        } else {
            for direction in stats::Direction::ALL {
                let index = direction.index();
                stats.record_done_batch(direction, self.tally.ios[index], self.tally.bytes[index]);
            }
            self.tally = Tally::default();
        }
        self.session.publish(left);
    }

    #[inline(always)]
    fn complete(&mut self, ended: Ended<'_>) {
        let token = Token::from_raw(ended.token());
        if let Err(error) = ended.result() {
            let offset = ended.offset();
            self.bad += 1;
            self.put_aside(Failed { token, error, offset, payload: ended.take().payload });
            return;
        }
        if !ALIKE {
            let kind = token.kind();
            self.tally.ios[kind] += 1;
            self.tally.bytes[kind] += token.bytes();
        }
        self.meter.done(&mut self.session.stats, token);
        if !ALIKE {
            return self.issue(token.slot() as u32, ended.take().payload);
        }
        match self.generator.next_io() {
            Some(io) => {
                self.meter.issue(token.slot() as u32);
                ended.again(io.offset);
            }
            None => {
                drop(ended);
                self.retire();
            }
        }
    }

    /// Issues the next request in `slot`, or retires the slot.
    #[inline(always)]
    fn issue(&mut self, slot: u32, mut payload: Payload) {
        let io = if ALIKE || self.left > 0 { self.generator.next_io() } else { None };
        let Some(io) = io else { return self.retire() };
        let (op, bytes, token) = if ALIKE {
            (self.op, self.bytes, self.token.in_slot(slot))
        } else {
            self.left -= 1;
            fit(&mut payload, u64::from(io.bytes));
            (OPS[io.direction.index()], u64::from(io.bytes), Token::new(slot, &io))
        };
        self.meter.issue(slot);
        let offset = io.offset;
        let request = Request { op, flags: ReqFlags::empty(), offset, bytes, payload, token: token.raw() };
        if let Err(Rejected(request)) = self.channel.submit(request) {
            self.not_taken(request);
        }
    }

    /// A slot has nothing more to do.
    fn retire(&mut self) {
        self.left = 0;
        self.in_flight -= 1;
    }

    /// Nothing more is issued.
    #[cold]
    fn stop(&mut self) {
        self.left = 0;
        self.generator.end_after(0);
    }

    #[cold]
    fn put_aside(&mut self, failed: Failed) {
        self.failed.push(failed);
    }

    /// The channel has a place for each slot, so this means that it does not keep its own rule.
    #[cold]
    fn not_taken(&mut self, request: Request) {
        let Request { token, offset, payload, .. } = request;
        self.put_aside(Failed { token: Token::from_raw(token), error: Errno::EBUSY.into(), offset, payload });
    }

    #[cold]
    fn decide_on_failed(&mut self) {
        for Failed { token, error, offset, payload } in std::mem::take(&mut self.failed) {
            if !self.session.request_failed(self.path, token, offset, error) {
                self.stop();
            }
            self.issue(token.slot() as u32, payload);
        }
    }
}

/// Makes the buffer as long as the I/O.
#[inline(always)]
fn fit(payload: &mut Payload, bytes: u64) {
    if let Payload::One(buf) = payload
        && buf.len() as u64 != bytes
    {
        // The pool's blocks are as long as the largest I/O; were they not, the block layer would refuse the request.
        let _ = buf.set_len(bytes as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use corelane_dma::{Backing, BlockPool};
    use corelane_drivers::null::{NullDriver, NullOptions};
    use corelane_engine::aio::{AioConfig, AioContext};
    use corelane_engine::block::{BackendOptions, BlockBackend};

    use super::*;
    use crate::options::{GlobalSpec, parse_job_text};
    use crate::run::configs::{self, LaneIndex};
    use crate::run::control::{LaneControl, Order};
    use crate::run::meter::Untimed;
    use crate::workload::Region;

    /// Requests that a job of 64 does, eight in flight, when `order` is the first that its lane sees.
    fn done_under(order: Order) -> u64 {
        let text = "[j]\nioengine=null\nsize=256k\nbs=4k\niodepth=8\n";
        let plan = parse_job_text(Path::new("test"), text, &GlobalSpec::default()).unwrap();
        let spec = &plan.jobs[0];
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let _current = ctx.enter();
        let pool = BlockPool::new(4096, 8, 4096, Backing::Pages).unwrap();
        let options = NullOptions { size_bytes: 256 << 10, ..NullOptions::default() };
        let driver = Arc::new(NullDriver::open(&options).unwrap());
        let backend = BlockBackend::new(driver, BackendOptions::default()).unwrap();
        let region = Region { offset_bytes: 0, size_bytes: 256 << 10 };
        let index = LaneIndex { job: 0, clone: 0, lane: 0 };
        let workload = configs::workload(spec, index, region, 256 << 10, (0, 1), 1);
        let file = LaneFile {
            path: PathBuf::from("null"),
            channel: backend.channel(&ctx, 8).unwrap(),
            generator: Generator::new(&workload).unwrap(),
            zones: None,
            workload,
        };
        assert!(suffices(spec, 1));
        let control = LaneControl::default();
        control.give(order);
        let mut session = Session::new(&ctx, spec, &control, vec![file], (&pool, Box::new(|_| ())));
        session.wait_for_start();
        run(&mut session, &mut Untimed);
        session.stats.directions[stats::Direction::Read].ios
    }

    #[test]
    fn a_lane_that_comes_too_late_does_nothing() {
        assert_eq!(done_under(Order::Stop), 0);
        assert_eq!(done_under(Order::Abort), 0);
        assert_eq!(done_under(Order::Measure), 64);
    }
}
