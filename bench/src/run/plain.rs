//! The loop of jobs that only issue requests: one file, a full queue, nothing that slows down or is checked.
//!
//! A completion issues the next request at once with the same slot and the same buffer. Everything that is asked once a
//! batch or less (orders, counters for other threads) stays out of the way of a request.
//!
//! Invariant: a slot is one request in flight and one buffer; `in_flight` counts them.

use std::path::Path;

use corelane_dma::Payload;
use corelane_engine::aio::Wait;
use corelane_engine::block::{Channel, Completion, Errno, IoError, Op, Rejected, ReqFlags, Request};

use super::logs;
use super::meter::Meter;
use super::session::Session;
use super::token::Token;
use crate::options::{DirectionMix, JobSpec};
use crate::stats::Direction;
use crate::workload::{Generator, Io};

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
        && work.rw.mix != DirectionMix::TrimWrite
}

/// Counts of a batch, by direction.
#[derive(Default)]
struct Tally {
    // Four entries, so that the two bits of a token's kind need no bounds check.
    ios: [u64; 4],
    bytes: [u64; 4],
}

/// A request that failed, its slot and buffer put aside until it is decided whether the job goes on.
struct Failed {
    token: Token,
    error: IoError,
    payload: Payload,
}

/// What every request goes through.
struct Hot<'h, 's, M> {
    session: &'h mut Session<'s>,
    path: &'h Path,
    channel: &'h Channel,
    generator: &'h mut Generator,
    meter: &'h mut M,
    /// Requests that may still be issued.
    left: u64,
    in_flight: u32,
    /// Completions of this batch, and requests issued in it.
    done: u32,
    issued: u32,
    tally: Tally,
    /// Where each slot's request goes, for messages.
    offsets: Box<[u64]>,
    /// Of this batch; almost always empty.
    failed: Vec<Failed>,
}

/// Runs the job to its end, or to the conductor's order to stop.
pub fn run<M: Meter>(session: &mut Session<'_>, meter: &mut M) {
    let Some(mut file) = session.files.pop() else { return };
    let depth = session.spec.depth.iodepth;
    let mut hot = Hot {
        left: session.spec.end.number_ios.unwrap_or(u64::MAX),
        session,
        path: &file.path,
        channel: &file.channel,
        generator: &mut file.generator,
        meter,
        in_flight: 0,
        done: 0,
        issued: 0,
        tally: Tally::default(),
        offsets: vec![0; depth as usize].into_boxed_slice(),
        failed: Vec::new(),
    };
    hot.fill(depth);
    while hot.in_flight > 0 {
        hot.turn();
    }
    session.files.push(file);
}

impl<M: Meter> Hot<'_, '_, M> {
    /// Issues the first request of each slot.
    fn fill(&mut self, depth: u32) {
        let trims = self.session.spec.workload.rw.mix == DirectionMix::Trim;
        for slot in 0..depth {
            let payload = match self.session.pool.take() {
                Some(buf) if !trims => Payload::One(buf),
                _ => Payload::None,
            };
            self.in_flight += 1;
            self.issue(slot, payload);
        }
    }

    #[inline]
    fn turn(&mut self) {
        self.session.stats.submits.record_batch(self.issued);
        self.session.stats.depths.record_batch_at(self.in_flight, self.issued);
        (self.done, self.issued) = (0, 0);
        self.meter.hand_over();
        self.session.ctx.turn(Wait::Yes);
        self.meter.reap();
        let channel = self.channel;
        channel.drain(|completion| self.complete(completion));
        if self.done > 0 {
            self.session.stats.completes.record_batch(self.done);
            self.count();
        }
        if !self.failed.is_empty() {
            self.decide_on_failed();
        }
        if !self.session.may_go_on() {
            self.left = 0;
        }
    }

    #[inline(always)]
    fn complete(&mut self, completion: Completion) {
        let Completion { token, result, payload } = completion;
        let token = Token::from_raw(token);
        self.done += 1;
        if let Err(error) = result {
            self.put_aside(Failed { token, error, payload });
            return;
        }
        let kind = token.kind();
        self.tally.ios[kind] += 1;
        self.tally.bytes[kind] += token.bytes();
        self.meter.done(&mut self.session.stats, token);
        self.issue(token.slot() as u32, payload);
    }

    /// Issues the next request in `slot`, or retires the slot.
    #[inline(always)]
    fn issue(&mut self, slot: u32, mut payload: Payload) {
        let io = if self.left > 0 { self.generator.next_io() } else { None };
        let Some(io) = io else {
            self.left = 0;
            self.in_flight -= 1;
            return;
        };
        self.left -= 1;
        self.issued += 1;
        if let Some(offset) = self.offsets.get_mut(slot as usize) {
            *offset = io.offset;
        }
        fit(&mut payload, &io);
        self.meter.issue(slot);
        let op = OPS[io.direction.index()];
        let request = Request {
            op,
            flags: ReqFlags::empty(),
            offset: io.offset,
            bytes: u64::from(io.bytes),
            payload,
            token: Token::new(slot, &io).raw(),
        };
        if let Err(Rejected(request)) = self.channel.submit(request) {
            self.not_taken(request);
        }
    }

    #[cold]
    fn put_aside(&mut self, failed: Failed) {
        self.failed.push(failed);
    }

    /// The channel has a place for each slot, so this means that it does not keep its own rule.
    #[cold]
    fn not_taken(&mut self, request: Request) {
        let Request { token, payload, .. } = request;
        self.put_aside(Failed { token: Token::from_raw(token), error: Errno::EBUSY.into(), payload });
    }

    #[cold]
    fn decide_on_failed(&mut self) {
        for Failed { token, error, payload } in std::mem::take(&mut self.failed) {
            let offset = self.offsets.get(token.slot()).copied().unwrap_or(0);
            if !self.session.request_failed(self.path, token, offset, error) {
                self.left = 0;
            }
            self.issue(token.slot() as u32, payload);
        }
    }

    /// Brings the batch into the statistics and before the conductor's eyes.
    #[inline]
    fn count(&mut self) {
        let stats = &mut self.session.stats;
        for direction in Direction::ALL {
            let index = direction.index();
            stats.record_done_batch(direction, self.tally.ios[index], self.tally.bytes[index]);
        }
        self.tally = Tally::default();
        self.session.publish(self.in_flight);
    }
}

/// Makes the buffer as long as the I/O.
#[inline(always)]
fn fit(payload: &mut Payload, io: &Io) {
    if let Payload::One(buf) = payload
        && buf.len() != io.bytes as usize
    {
        // The pool's blocks are as long as the largest I/O; were they not, the block layer would refuse the request.
        let _ = buf.set_len(io.bytes as usize);
    }
}
