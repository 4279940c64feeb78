//! What the loops of a lane work with, and what they leave behind.
//!
//! Invariant: `stats` covers the time since [`Session::begin_measuring`], which a change of the order from ramp to any
//! other calls.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corelane_dma::BlockPool;
use corelane_engine::aio::{AioContext, Wait};
use corelane_engine::block::{Channel, IoError};

use super::control::{LaneControl, Order};
use super::token::Token;
use super::zones::LaneZones;
use crate::options::{Access, JobSpec};
use crate::stats::{self, CpuUse, JobStats, StatsConfig};
use crate::workload::{Direction, Generator, WorkloadConfig};

/// How often a lane that waits for its start looks whether other lanes ask something of it.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

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
    /// Its zones, for a job that keeps to them.
    pub zones: Option<LaneZones>,
}

/// Why a job ended early, or failed at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// errno.
    pub errno: i32,
    /// What failed, where.
    pub text: String,
}

/// Takes a lane's figures so far to whoever asked.
pub type Teller = Box<dyn Fn(JobStats)>;

/// What the loops of a lane work with.
pub struct Session<'a> {
    /// The lane's event loop.
    pub ctx: &'a AioContext,
    /// The job's options.
    pub spec: &'a JobSpec,
    /// Orders, and counters for the conductor.
    pub control: &'a LaneControl,
    /// The lane's files, one at least.
    pub files: Vec<LaneFile>,
    /// A buffer for each request in flight.
    pub pool: &'a BlockPool,
    /// What was measured.
    pub stats: JobStats,
    /// The job's first failure.
    pub failure: Option<Failure>,
    /// The order that the lane follows, and the board as it was seen last.
    order: Order,
    seen: u8,
    /// Who gets the figures so far when they are asked for.
    teller: Teller,
    /// Whether the workload is done, and its run times entered.
    has_worked: bool,
    began: Instant,
    cpu_before: CpuUse,
}

impl<'a> Session<'a> {
    /// A session that has yet to begin.
    pub fn new(
        ctx: &'a AioContext,
        spec: &'a JobSpec,
        control: &'a LaneControl,
        files: Vec<LaneFile>,
        (pool, teller): (&'a BlockPool, Teller),
    ) -> Session<'a> {
        Session {
            ctx,
            spec,
            control,
            files,
            pool,
            stats: JobStats::new(super::configs::stats(spec)),
            failure: None,
            order: Order::Hold,
            seen: 0,
            teller,
            has_worked: false,
            began: Instant::now(),
            cpu_before: CpuUse::default(),
        }
    }

    /// Waits for the order to start. It turns meanwhile, for other lanes may ask something of this one, but does not
    /// sleep in the ring: valgrind knows `io_uring_enter(2)` as a call that does not block, so that the conductor would
    /// not get to run under it.
    pub fn wait_for_start(&mut self) {
        while self.control.order() == Order::Hold {
            self.ctx.turn(Wait::No);
            std::thread::park_timeout(LOOK_AGAIN);
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
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The same in milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether what happens now is not measured.
    pub fn is_ramp(&self) -> bool {
        self.order == Order::Ramp
    }

    /// Looks for a new order and follows it. True while requests may be started.
    #[inline]
    pub fn may_go_on(&mut self) -> bool {
        let word = self.control.word();
        if word != self.seen {
            self.follow();
        }
        self.order < Order::Stop
    }

    /// Whether there are orders that [`may_go_on`](Self::may_go_on) has yet to follow.
    #[inline]
    pub fn is_called(&self) -> bool {
        self.control.word() != self.seen
    }

    #[cold]
    fn follow(&mut self) {
        if self.control.was_asked() {
            self.tell();
        }
        let order = self.control.order();
        // The ramp's requests in flight are measured when they end, as in fio.
        // A lane that was slow to look may find the ramp over and the time too; what it did in the ramp is no figure then.
        if self.order == Order::Ramp && order > Order::Ramp {
            self.begin_measuring();
        }
        self.order = order;
        self.seen = self.control.word();
    }

    /// Sends the figures so far.
    fn tell(&self) {
        let mut stats = self.stats.clone();
        self.set_run_times(&mut stats);
        (self.teller)(stats);
    }

    /// Whether the run ends early.
    pub fn is_aborted(&self) -> bool {
        self.control.order() == Order::Abort
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
        let mut stats = std::mem::replace(&mut self.stats, JobStats::new(StatsConfig::reduced()));
        self.set_run_times(&mut stats);
        self.stats = stats;
        self.has_worked = true;
    }

    /// Enters the run time so far for each direction that is worked in.
    fn set_run_times(&self, stats: &mut JobStats) {
        let ms = whole_ms(self.elapsed());
        let rw = self.spec.workload.rw;
        let only_checks = self.spec.verify.as_ref().is_some_and(|verify| verify.only);
        for (access, direction) in [
            (Access::Read, stats::Direction::Read),
            (Access::Write, stats::Direction::Write),
            (Access::Trim, stats::Direction::Trim),
        ] {
            let worked = rw.uses(access) && !only_checks;
            if !self.has_worked && (worked || stats.directions[direction].ios > 0) {
                stats.directions[direction].runtime_ms = ms;
            }
        }
        stats.cpu = CpuUse::of_this_thread().since(&self.cpu_before);
        stats.runtime_ms = ms;
    }

    /// Adds a phase of reading back to the run time of reads.
    pub fn add_read_time(&mut self, spent: Duration) {
        if self.stats.directions[stats::Direction::Read].ios > 0 {
            self.stats.directions[stats::Direction::Read].runtime_ms += whole_ms(spent);
        }
    }

    /// Brings CPU use and the whole run time up to date.
    pub fn take_times(&mut self) {
        self.stats.cpu = CpuUse::of_this_thread().since(&self.cpu_before);
        self.stats.runtime_ms = whole_ms(self.elapsed());
    }

    /// Counts a failed request, and says the first. True if the job goes on.
    #[cold]
    pub fn request_failed(&mut self, path: &Path, token: Token, offset: u64, error: IoError) -> bool {
        let errno = error.errno.raw();
        let first = self.stats.errors.total == 0;
        self.stats.errors.record(errno);
        let on = self.spec.continue_on;
        let (what, survives) = match token.direction() {
            Some(direction) => {
                (direction.name(), if direction == Direction::Read { on.read } else { on.write })
            }
            None => ("sync", on.write),
        };
        let text =
            format!("{what} of {} bytes at offset {offset} of '{}': {error}", token.bytes(), path.display());
        if !survives {
            self.note_failure(errno, text);
        } else if first {
            super::say(&format!("job {}: {text}; going on (continue_on_error)", self.spec.name));
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
fn whole_ms(elapsed: Duration) -> u64 {
    u64::try_from((elapsed.as_micros() + 500) / 1000).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use corelane_dma::Backing;
    use corelane_engine::aio::AioConfig;

    use super::*;
    use crate::options::{GlobalSpec, parse_job_text};

    /// Reads that are counted after `orders` were given one after another, the lane looking after the first and the last.
    fn counted_after(orders: &[Order]) -> u64 {
        let plan = parse_job_text(Path::new("test"), "[j]\nsize=64k\n", &GlobalSpec::default()).unwrap();
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let pool = BlockPool::new(4096, 1, 4096, Backing::Pages).unwrap();
        let control = LaneControl::default();
        control.give(orders[0]);
        let mut session = Session::new(&ctx, &plan.jobs[0], &control, Vec::new(), (&pool, Box::new(|_| ())));
        session.wait_for_start();
        assert!(session.may_go_on());
        session.stats.record_done_batch(stats::Direction::Read, 3, 3 * 4096);
        orders[1..].iter().for_each(|&order| control.give(order));
        let last = orders[orders.len() - 1];
        assert_eq!(session.may_go_on(), last < Order::Stop);
        session.end_measuring();
        session.stats.directions[stats::Direction::Read].ios
    }

    #[test]
    fn a_ramp_is_forgotten_whichever_order_ends_it() {
        for end in [Order::Measure, Order::Stop, Order::Abort] {
            assert_eq!(counted_after(&[Order::Ramp, end]), 0, "{end:?}");
            assert_eq!(counted_after(&[Order::Ramp, Order::Measure, end]), 0, "{end:?}");
        }
        assert_eq!(counted_after(&[Order::Ramp]), 0, "it ended before the ramp did");
        assert_eq!(counted_after(&[Order::Measure, Order::Stop]), 3);
    }
}
