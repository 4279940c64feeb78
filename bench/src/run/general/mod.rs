//! The loop of jobs that do more than issue requests: several files, batches, rates, pauses, flushes, trims before
//! writes, logs, verification.
//!
//! A round issues what may be issued now ([`issue`]), hands the batch over and waits as long as the reason for stopping
//! says, and then looks at what has completed ([`complete`]).
//!
//! Invariants: a slot is free, or has one request in flight; its buffer is in the slot exactly when it is not with the
//! block layer. I/Os go out in the order in which the generator made them.

mod checks;
mod complete;
mod extent_of_run;
mod issue;
mod pacing;

use std::collections::VecDeque;
use std::time::Instant;

use corelane_dma::IoBuf;
use corelane_engine::aio::Wait;
use corelane_engine::block::Completion;

use super::configs;
use super::control::Doing;
use super::error::RunError;
use super::logs::LaneLogs;
use super::meter::Meter;
use super::session::{Failure, Session};
use super::zones::LaneZones;
use crate::workload::{BlockStamp, Extent, Io, Operations};
use checks::{Checks, Complaints};
use extent_of_run::writes_done;
use issue::Stall;
use pacing::Pacing;

/// A wait that is shorter than this is not worth a sleep, which takes about as long itself.
const SHORT_WAIT_NS: u64 = 20_000;

/// What a slot's request is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// The slot is free.
    Nothing,
    /// An I/O of the workload.
    Work,
    /// A flush.
    Sync,
    /// Reading back.
    Check(Extent),
}

/// A request's place.
struct Slot {
    purpose: Purpose,
    file: usize,
    io: Io,
    stamp: Option<BlockStamp>,
    /// What follows in the same slot: the write after its trim.
    then: Option<(Io, Option<BlockStamp>)>,
    buf: Option<IoBuf>,
}

/// An I/O that is to go out next.
#[derive(Clone, Copy)]
struct Pending {
    file: usize,
    io: Io,
    stamp: Option<BlockStamp>,
    then: Option<(Io, Option<BlockStamp>)>,
}

/// What the rounds are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The workload.
    Work,
    /// The flush at the end, of each file.
    Flush,
    /// Reading back everything that was not read back yet.
    Verify,
}

/// See the module's documentation.
pub struct General<'g, 's, M> {
    session: &'g mut Session<'s>,
    meter: &'g mut M,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Taken from the channels, not looked at yet.
    reaped: VecDeque<Completion>,
    /// By file; empty for a job that does not verify.
    checks: Vec<Checks>,
    complaints: Complaints,
    pacing: Pacing,
    logs: LaneLogs,
    operations: Operations,
    stage: Stage,
    /// Requests of the workload that may still be issued.
    left: u64,
    writes_issued: u64,
    /// Whether each file's generator has come to its end.
    exhausted: Vec<bool>,
    next_file: usize,
    held: Option<Pending>,
    /// Files that are to be flushed now.
    owed_syncs: VecDeque<usize>,
    in_flight: u32,
    /// Requests since the last batch was handed over.
    issued: u32,
    /// The queue was full, and has not drained to `iodepth_low` yet.
    draining: bool,
    /// Nothing more is issued: an order, an error, or the end of a search.
    stopped: bool,
}

/// What the general loop leaves beside the session's statistics.
pub struct GeneralOutcome {
    /// The depth that was found, or `iodepth`.
    pub depth: u32,
    /// The logs, finished.
    pub logs: LaneLogs,
}

/// Runs all stages of the job.
///
/// # Errors
/// When the job's verification is impossible.
pub fn run<M: Meter>(session: &mut Session<'_>, meter: &mut M) -> Result<GeneralOutcome, RunError> {
    let spec = session.spec;
    let mut general = General::new(session, meter)?;
    let only_checks = spec.verify.as_ref().is_some_and(|verify| verify.only);
    if only_checks {
        general.assume_written()?;
        general.session.begin_measuring();
    } else {
        general.work();
    }
    if spec.verify.as_ref().is_some_and(|verify| verify.do_verify) {
        general.verify();
    }
    Ok(general.finish())
}

impl<'g, 's, M: Meter> General<'g, 's, M> {
    fn new(session: &'g mut Session<'s>, meter: &'g mut M) -> Result<Self, RunError> {
        let spec = session.spec;
        let depth = spec.depth.iodepth;
        let checks = match &spec.verify {
            Some(verify) => session
                .files
                .iter()
                .map(|file| Checks::new(spec, verify, &file.workload))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let nothing = Io { offset: 0, bytes: 0, direction: crate::workload::Direction::Read };
        let slot = |_| Slot {
            purpose: Purpose::Nothing,
            file: 0,
            io: nothing,
            stamp: None,
            then: None,
            buf: session.pool.take(),
        };
        Ok(General {
            slots: (0..depth).map(slot).collect(),
            free: (0..depth).rev().collect(),
            reaped: VecDeque::with_capacity(depth as usize),
            checks,
            complaints: Complaints::default(),
            pacing: Pacing::new(spec),
            logs: LaneLogs::of_lane(spec),
            operations: configs::operations(spec),
            stage: Stage::Work,
            left: spec.end.number_ios.unwrap_or(u64::MAX),
            writes_issued: 0,
            exhausted: vec![false; session.files.len()],
            next_file: 0,
            held: None,
            owed_syncs: VecDeque::new(),
            in_flight: 0,
            issued: 0,
            draining: false,
            stopped: false,
            session,
            meter,
        })
    }

    fn work(&mut self) {
        self.rounds(Stage::Work);
        self.owed_syncs.clear();
        let sound = self.session.failure.is_none() && !self.session.is_aborted();
        if self.session.spec.workload.end_fsync && sound {
            self.session.control.set_doing(Doing::Sync);
            self.owed_syncs.extend(0..self.session.files.len());
            self.rounds(Stage::Flush);
        }
        self.session.end_measuring();
    }

    /// Reads back what was written. After a job that ended with an error there is nothing to be learned.
    fn verify(&mut self) {
        let failed = self.session.failure.is_some();
        if failed || self.session.is_aborted() {
            return;
        }
        self.session.control.set_doing(Doing::Verify);
        self.checks.iter_mut().for_each(Checks::begin_final);
        let began = Instant::now();
        self.rounds(Stage::Verify);
        self.session.add_read_time(began.elapsed());
    }

    /// What an earlier run wrote is what the same options write, as far as that run went.
    fn assume_written(&mut self) -> Result<(), RunError> {
        // The slots' buffers are all out; the scan needs one.
        self.slots.iter_mut().for_each(|slot| slot.buf = None);
        let (spec, ctx, pool) = (self.session.spec, self.session.ctx, self.session.pool);
        for (file, checks) in self.session.files.iter().zip(&mut self.checks) {
            let writes = writes_done(spec, file, checks.verifier(), ctx, pool)?;
            checks.assume_written(&file.workload, writes)?;
        }
        self.slots.iter_mut().for_each(|slot| slot.buf = pool.take());
        Ok(())
    }

    fn finish(mut self) -> GeneralOutcome {
        let bad = self.complaints.count();
        if bad > 0 && !self.session.spec.continue_on.verify {
            let text = format!("verify: {bad} bad block{}", if bad == 1 { "" } else { "s" });
            self.session.note_failure(libc::EILSEQ, text);
        }
        let zones = self.session.files.iter().filter_map(|file| file.zones.as_ref());
        self.session.stats.zone_resets = zones.map(LaneZones::resets).reduce(|sum, resets| sum + resets);
        self.logs.finish(self.session.elapsed_ms());
        self.session.publish(0);
        GeneralOutcome { depth: self.pacing.depth(), logs: self.logs }
    }

    fn rounds(&mut self, stage: Stage) {
        self.stage = stage;
        self.next_file = 0;
        self.stopped = false;
        self.draining = false;
        loop {
            self.look_for_orders();
            let stall = if self.stopped && stage != Stage::Flush { Stall::Done } else { self.issue() };
            let issued = std::mem::take(&mut self.issued);
            if issued > 0 {
                let stats = &mut self.session.stats;
                stats.submits.record_batch(issued);
                stats.depths.record_batch_at(self.in_flight, issued);
            }
            if self.in_flight == 0 && matches!(stall, Stall::Done | Stall::Blocked) {
                break;
            }
            self.meter.hand_over();
            self.wait(stall);
            self.meter.reap();
            self.take_completions();
        }
        self.held = None;
    }

    fn look_for_orders(&mut self) {
        let was_ramp = self.session.is_ramp();
        let may_go_on = self.session.may_go_on();
        if self.session.is_aborted() || (self.stage == Stage::Work && !may_go_on) {
            self.stopped = true;
        }
        if was_ramp && !self.session.is_ramp() {
            self.logs.restart(self.session.spec);
        }
    }

    /// Hands the batch to the kernel, and waits for what is worth waiting for.
    fn wait(&mut self, stall: Stall) {
        let depth = &self.session.spec.depth;
        let ctx = self.session.ctx;
        match stall {
            Stall::Batch => {
                ctx.turn(Wait::No);
            }
            Stall::Until(at_ns, spin) => self.wait_until(at_ns, spin),
            Stall::Full | Stall::Blocked | Stall::Done => {
                let waiting = self.reaped.len() as u32;
                let flying = self.in_flight - waiting;
                // A queue that drains, or has nothing to add, gains nothing from looking without waiting.
                let least = if stall == Stall::Full {
                    depth.batch_complete_min
                } else {
                    depth.batch_complete_min.max(1)
                };
                let want = least.saturating_sub(waiting).min(flying);
                if want == 0 {
                    ctx.turn(Wait::No);
                }
                while self.completed() < want as usize {
                    ctx.turn(Wait::Yes);
                    if self.session.is_aborted() {
                        break;
                    }
                }
            }
        }
    }

    fn wait_until(&mut self, at_ns: u64, spin: bool) {
        let ctx = self.session.ctx;
        let far = at_ns.saturating_sub(self.pacing.now_ns()) > SHORT_WAIT_NS;
        match self.pacing.moment(at_ns).filter(|_| far && !spin) {
            None => {
                ctx.turn(Wait::No);
            }
            Some(moment) => {
                let timer = ctx.add_timer(moment, || ());
                ctx.turn(Wait::Yes);
                ctx.cancel_timer(timer);
            }
        }
    }

    /// Completions that wait in the channels.
    fn completed(&self) -> usize {
        self.session.files.iter().map(|file| file.channel.completed()).sum()
    }

    fn take_completions(&mut self) {
        let reaped = &mut self.reaped;
        for file in &self.session.files {
            file.channel.drain(|completion| reaped.push_back(completion));
        }
        let most = self.session.spec.depth.batch_complete_max.map_or(usize::MAX, |max| max as usize);
        let now_ns = if self.pacing.is_needed() { self.pacing.now_ns() } else { 0 };
        let mut count = 0;
        while count < most
            && let Some(completion) = self.reaped.pop_front()
        {
            count += 1;
            self.complete(completion, now_ns);
        }
        if count > 0 {
            self.session.stats.completes.record_batch(u32::try_from(count).unwrap_or(u32::MAX));
            self.session.publish(self.in_flight);
        }
        if let Err(Failure { errno, text }) = self.pacing.tick(now_ns) {
            self.session.note_failure(errno, text);
        }
        if self.pacing.has_ended() {
            self.stopped = true;
        }
    }
}
