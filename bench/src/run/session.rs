//! What the loops of a lane work with, and what they leave behind.
//!
//! Invariant: `stats` covers the time since [`Session::begin_measuring`], which a change of the order from ramp to
//! measure calls.

use std::path::PathBuf;
use std::time::Instant;

use corelane_dma::BlockPool;
use corelane_engine::aio::{AioContext, Wait};
use corelane_engine::block::{Channel, IoError};

use super::control::{LaneControl, Order};
use super::token::Token;
use crate::options::{Access, JobSpec};
use crate::stats::{Clock, CpuUse, Direction, JobStats};
use crate::workload::{Generator, WorkloadConfig};

/// One file of a lane.
pub struct LaneFile {
    /// What it was opened by.
    pub path: PathBuf,
    /// The device in this lane.
    pub channel: Channel,
    /// Its part of the workload.
    pub workload: WorkloadConfig,
    /// Makes its I/Os.
    pub generator: Generator,
}

/// Why a job ended early, or failed at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// errno.
    pub errno: i32,
    /// What failed, where.
    pub text: String,
}

/// What the loops of a lane work with.
pub struct Session<'a> {
    /// The lane's event loop.
    pub ctx: &'a AioContext,
    /// The job's options.
    pub spec: &'a JobSpec,
    /// Orders, and counters for the conductor.
    pub control: &'a LaneControl,
    /// The clock of latencies.
    pub clock: &'a Clock,
    /// The lane's files, one at least.
    pub files: Vec<LaneFile>,
    /// A buffer for each request in flight.
    pub pool: &'a BlockPool,
    /// What was measured.
    pub stats: JobStats,
    /// The job's first failure.
    pub failure: Option<Failure>,
    /// The order that the lane follows.
    order: Order,
    began: Instant,
    cpu_before: CpuUse,
}

impl<'a> Session<'a> {
    /// A session that has yet to begin.
    pub fn new(
        ctx: &'a AioContext,
        spec: &'a JobSpec,
        (control, clock): (&'a LaneControl, &'a Clock),
        files: Vec<LaneFile>,
        pool: &'a BlockPool,
    ) -> Session<'a> {
        Session {
            ctx,
            spec,
            control,
            clock,
            files,
            pool,
            stats: JobStats::new(super::configs::stats(spec)),
            failure: None,
            order: Order::Hold,
            began: Instant::now(),
            cpu_before: CpuUse::default(),
        }
    }

    /// Waits, turning, for the order to start. The conductor's mail ends the sleep.
    pub fn wait_for_start(&mut self) {
        while self.control.order() == Order::Hold {
            self.ctx.turn(Wait::Yes);
        }
        self.order = self.control.order();
        self.begin_measuring();
    }

    /// Starts the clock, and forgets what was counted.
    pub fn begin_measuring(&mut self) {
        self.stats.clear();
        self.cpu_before = CpuUse::of_this_thread();
        self.began = Instant::now();
    }

    /// How long it has been measured.
    pub fn elapsed(&self) -> std::time::Duration {
        self.began.elapsed()
    }

    /// Looks for a new order and follows it. True while requests may be started.
    #[inline]
    pub fn may_go_on(&mut self) -> bool {
        let order = self.control.order();
        if order != self.order {
            self.follow(order);
        }
        order != Order::Stop
    }

    #[cold]
    fn follow(&mut self, order: Order) {
        // The ramp's requests in flight are measured when they end, as in fio.
        if self.order == Order::Ramp && order == Order::Measure {
            self.begin_measuring();
        }
        self.order = order;
    }

    /// Shows the conductor what has been counted.
    #[inline]
    pub fn publish(&self, depth: u32) {
        self.control.live.publish(&self.stats, depth);
    }

    /// Enters the run time so far for the directions of the workload; and the CPU time.
    pub fn end_measuring(&mut self) {
        if self.order == Order::Ramp {
            // It ended before the ramp did: nothing was to be measured.
            self.begin_measuring();
        }
        let ms = whole_ms(self.elapsed());
        let rw = self.spec.workload.rw;
        let only_checks = self.spec.verify.as_ref().is_some_and(|verify| verify.only);
        for (access, direction) in [
            (Access::Read, Direction::Read),
            (Access::Write, Direction::Write),
            (Access::Trim, Direction::Trim),
        ] {
            if rw.uses(access) && !only_checks {
                self.stats.directions[direction].runtime_ms = ms;
            }
        }
        self.take_times();
    }

    /// Brings CPU use and the whole run time up to date.
    pub fn take_times(&mut self) {
        self.stats.cpu = CpuUse::of_this_thread().since(&self.cpu_before);
        self.stats.runtime_ms = whole_ms(self.elapsed());
    }

    /// Counts a failed request. True if the job goes on.
    #[cold]
    pub fn request_failed(&mut self, file: usize, token: Token, offset: u64, error: IoError) -> bool {
        let errno = error.errno.raw();
        self.stats.errors.record(errno);
        let on = self.spec.continue_on;
        let (what, survives) = match token.direction() {
            Some(direction) => {
                (direction.name(), if direction.index() == 0 { on.read } else { on.write })
            }
            None => ("sync", on.write),
        };
        if self.failure.is_none() {
            let path = self.files.get(file).map(|file| file.path.display().to_string()).unwrap_or_default();
            let text = format!("{what} of {} bytes at offset {offset} of '{path}': {error}", token.bytes());
            self.note_failure(errno, text);
        }
        survives
    }

    /// Keeps the first failure, and says it at once.
    pub fn note_failure(&mut self, errno: i32, text: String) {
        if self.failure.is_none() {
            super::say(&format!("job {}: {text}", self.spec.name));
            self.failure = Some(Failure { errno, text });
        }
    }
}

/// At least 1, so that a direction that was busy has a run time; rounded, as fio does.
fn whole_ms(elapsed: std::time::Duration) -> u64 {
    u64::try_from((elapsed.as_micros() + 500) / 1000).unwrap_or(u64::MAX).max(1)
}
