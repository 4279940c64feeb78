//! A lane: the thread of one clone of a job, from its start to the figures that it leaves.
//!
//! The lane owns everything that is not shared: event loop, channels, buffers, statistics. The conductor talks to it
//! through [`LaneControl`] and a mail that wakes it; it answers with [`Event`]s.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use corelane_dma::{Backing, BlockPool};
use corelane_engine::aio::{AioContext, AioHandle, Wait};
use corelane_engine::block::Channel;

use super::configs::{self, LaneIndex};
use super::control::{Doing, LaneControl};
use super::devices::Device;
use super::error::RunError;
use super::general::{self, GeneralOutcome};
use super::logs::LaneLogs;
use super::meter::{Meter, Timed, Untimed};
use super::session::{Failure, LaneFile, Session};
use super::zones::LaneZones;
use super::{bytes, files, plain, region};
use crate::options::{Access, DirectionMix, EngineKind, JobSpec};
use crate::stats::{Clock, JobStats};
use crate::workload::{Generator, Limit, WorkloadConfig};

/// Stack of a lane's thread. What a lane keeps is on the heap, sized once; 512 KiB of address space is what callbacks
/// and messages need at the most, and only touched pages count.
const STACK_BYTES: usize = 512 << 10;

/// Buffers are aligned to pages: no device asks for more, and O_DIRECT for no less on some.
const BUFFER_ALIGN_BYTES: usize = 4096;

/// What a lane is made from.
pub struct LanePlan {
    /// The job's options.
    pub spec: Arc<JobSpec>,
    /// Which lane it is.
    pub index: LaneIndex,
    /// Its devices, each with its part of the workload.
    pub files: Vec<(Device, WorkloadConfig)>,
    /// Orders and counters.
    pub control: Arc<LaneControl>,
    /// The clock of latencies, for jobs that take them.
    pub clock: Option<Clock>,
    /// Where it tells what happens.
    pub events: Sender<Event>,
}

impl LanePlan {
    /// How many bytes the lane is to move, where its options say that.
    pub fn bytes_total(&self) -> Option<u64> {
        let by_limit = self.files.iter().try_fold(0u64, |sum, (_, workload)| {
            let bytes = match workload.limit {
                Limit::Passes(passes) => workload.region.size_bytes.saturating_mul(passes),
                Limit::Bytes(bytes) => bytes,
                Limit::Endless => return None,
            };
            Some(sum.saturating_add(bytes))
        });
        let by_number =
            self.spec.end.number_ios.map(|ios| ios.saturating_mul(region::min_block_bytes(&self.spec)));
        match (by_limit, by_number) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

/// What a lane tells the conductor.
pub enum Event {
    /// It waits for the start; the handle wakes it.
    Ready(u32, AioHandle),
    /// Its figures so far, as it was asked for them.
    Snapshot(u32, Box<JobStats>),
    /// It has ended.
    Ended(u32, Box<LaneOutcome>),
    /// A signal came: to end the run early.
    Signal(i32),
}

/// What a lane leaves.
pub struct LaneOutcome {
    /// What it measured.
    pub stats: JobStats,
    /// What went wrong, if anything.
    pub failure: Option<Failure>,
    /// The queue depth: `iodepth`, or what the search for a latency target found.
    pub depth: u32,
    /// The logs that the lane kept.
    pub logs: LaneLogs,
    /// The thread's number in the kernel.
    pub tid: u32,
}

/// Starts the lane's thread.
///
/// # Errors
/// [`RunError::Thread`] when the system gives no thread.
pub fn spawn(plan: LanePlan) -> Result<JoinHandle<()>, RunError> {
    let name = format!("{}.{}", plan.spec.name, plan.index.clone);
    let what = format!("make a thread for '{name}'");
    let builder = std::thread::Builder::new().name(name.replace('\0', "")).stack_size(STACK_BYTES);
    builder.spawn(move || run(&plan)).map_err(|source| RunError::Thread { what, source })
}

/// Tells the conductor that the lane has ended, whatever way it ends: a panic must not leave it waiting.
struct Farewell<'a> {
    plan: &'a LanePlan,
    outcome: Option<Box<LaneOutcome>>,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let plan = self.plan;
        let outcome = self.outcome.take();
        let outcome = outcome.unwrap_or_else(|| failed(plan, libc::EIO, "its lane panicked".to_owned()));
        plan.control.set_doing(Doing::Ended);
        // Nobody to tell: then nobody waits for it either.
        let _ = plan.events.send(Event::Ended(plan.index.lane, outcome));
    }
}

fn run(plan: &LanePlan) {
    let mut farewell = Farewell { plan, outcome: None };
    let outcome = work(plan).map(Box::new);
    farewell.outcome = Some(outcome.unwrap_or_else(|error| failed(plan, error.errno(), error.to_string())));
}

/// What a lane leaves that did not get to work.
fn failed(plan: &LanePlan, errno: i32, text: String) -> Box<LaneOutcome> {
    super::say(&format!("job {}: {text}", plan.spec.name));
    Box::new(LaneOutcome {
        stats: JobStats::new(configs::stats(&plan.spec)),
        failure: Some(Failure { errno, text }),
        depth: plan.spec.depth.iodepth,
        logs: LaneLogs::default(),
        tid: thread_number(),
    })
}

fn thread_number() -> u32 {
    u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or(0)
}

fn work(plan: &LanePlan) -> Result<LaneOutcome, RunError> {
    let spec = &*plan.spec;
    pin(spec)?;
    let ctx = AioContext::new(&configs::aio(spec, format!("{}.{}", spec.name, plan.index.clone)))?;
    in_context(&ctx, || work_in(plan, &ctx))
}

/// Works, and ends the context whatever way the work ends: another lane that waits for an answer of this one gets a
/// refusal then, where it would wait for ever.
fn in_context<T>(ctx: &AioContext, work: impl FnOnce() -> T) -> T {
    let done = catch_unwind(AssertUnwindSafe(work));
    match done {
        Ok(done) => {
            ctx.shutdown();
            done
        }
        Err(panic) => {
            // A context that panicked inside its turn refuses to be ended, by another panic; the first is what counts.
            let _ = catch_unwind(AssertUnwindSafe(|| ctx.shutdown()));
            resume_unwind(panic)
        }
    }
}

fn work_in(plan: &LanePlan, ctx: &AioContext) -> Result<LaneOutcome, RunError> {
    let spec = &*plan.spec;
    let _current = ctx.enter();
    let files = open_files(plan, ctx)?;
    let pool = buffers(spec, memory(&plan.files))?;
    for (device, _) in &plan.files {
        if spec.target.fixed_buffers || device.memory.is_some() {
            ctx.block_on(device.backend.register_buf(&pool.region()))?;
        }
    }
    let (events, lane) = (plan.events.clone(), plan.index.lane);
    let teller = Box::new(move |stats| {
        let _ = events.send(Event::Snapshot(lane, Box::new(stats)));
    });
    let mut session = Session::new(ctx, spec, &plan.control, files, (&pool, teller));
    let _ = plan.events.send(Event::Ready(plan.index.lane, ctx.handle()));
    session.wait_for_start();
    plan.control.set_doing(Doing::Io);
    let done = match &plan.clock {
        Some(clock) if session.stats.config.wants_clock() => {
            let mut meter = Timed::new(clock, spec.depth.iodepth, &session.stats);
            run_loop(&mut session, &mut meter)
        }
        _ => run_loop(&mut session, &mut Untimed),
    }?;
    session.take_times();
    let Session { stats, failure, files, .. } = session;
    close(ctx, files);
    Ok(LaneOutcome { stats, failure, depth: done.depth, logs: done.logs, tid: thread_number() })
}

/// Runs the job in the plain loop where that does all it asks for, otherwise in the general one.
fn run_loop<M: Meter>(session: &mut Session<'_>, meter: &mut M) -> Result<GeneralOutcome, RunError> {
    let spec = session.spec;
    if !plain::suffices(spec, session.files.len()) {
        return general::run(session, meter);
    }
    plain::run(session, meter);
    session.end_measuring();
    session.publish(0);
    Ok(GeneralOutcome { depth: spec.depth.iodepth, logs: LaneLogs::default() })
}

/// Restricts the thread to the CPUs that the job allows.
fn pin(spec: &JobSpec) -> Result<(), RunError> {
    let Some(cpus) = &spec.cpus_allowed else { return Ok(()) };
    let failed = |cpus: &[u32], source| {
        let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
        RunError::Thread { what: format!("run on cpus_allowed={}", list.join(",")), source }
    };
    let limit = rustix::thread::CpuSet::MAX_CPU;
    let (small, large): (Vec<u32>, Vec<u32>) = cpus.0.iter().partition(|&&cpu| (cpu as usize) < limit);
    if !large.is_empty() {
        let text = format!("a thread can be bound to CPUs 0 to {} (cpu_set_t)", limit - 1);
        return Err(failed(&large, io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    let mut set = rustix::thread::CpuSet::new();
    small.iter().for_each(|&cpu| set.set(cpu as usize));
    rustix::thread::sched_setaffinity(None, &set).map_err(|errno| failed(&small, errno.into()))
}

fn open_files(plan: &LanePlan, ctx: &AioContext) -> Result<Vec<LaneFile>, RunError> {
    let spec = &*plan.spec;
    plan.files
        .iter()
        .map(|(device, workload)| {
            if spec.target.invalidate && !spec.target.direct && spec.target.engine == EngineKind::IoUring {
                files::drop_cached_pages(&device.path);
            }
            Ok(LaneFile {
                path: device.path.clone(),
                channel: device.backend.channel(ctx, spec.depth.iodepth)?,
                workload: workload.clone(),
                generator: Generator::new(workload)?,
                zones: LaneZones::open(spec, device, workload, ctx)?,
            })
        })
        .collect()
}

/// The kind of memory that all devices of the lane can reach. A descriptor is what the choosiest need.
fn memory(files: &[(Device, WorkloadConfig)]) -> Backing {
    let mut asked = files.iter().filter_map(|(device, _)| device.memory);
    let shared = asked.clone().find(|memory| matches!(memory, Backing::Memfd | Backing::MemfdHuge));
    shared.or_else(|| asked.next_back()).unwrap_or(Backing::Pages)
}

/// A buffer for each request in flight, filled with what is written unless that is made for each write.
fn buffers(spec: &JobSpec, memory: Backing) -> Result<BlockPool, RunError> {
    // Trims carry no data.
    let trims_only = spec.workload.rw.mix == DirectionMix::Trim;
    let block_bytes = if trims_only { 1 } else { region::max_block_bytes(spec) };
    let block_bytes = usize::try_from(block_bytes).unwrap_or(usize::MAX);
    let blocks = if trims_only { 1 } else { spec.depth.iodepth };
    let pool = BlockPool::new_or_fallback(block_bytes, blocks as usize, BUFFER_ALIGN_BYTES, memory)
        .map_err(|source| RunError::Buffers { blocks, block_bytes, source })?;
    if spec.workload.rw.uses(Access::Write) && spec.verify.is_none() {
        let mut taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        for (index, buf) in taken.iter_mut().enumerate() {
            bytes::make(buf, |bytes| files::fill_random(bytes, index as u64));
        }
    }
    Ok(pool)
}

/// Lets go of the channels, and turns until nothing of them is left: other lanes may be asking this one.
fn close(ctx: &AioContext, files: Vec<LaneFile>) {
    let busy = |channels: &[Channel]| channels.iter().any(|channel| channel.in_flight() > 0);
    let channels: Vec<Channel> = files.into_iter().map(|file| file.channel).collect();
    while busy(&channels) {
        ctx.turn(Wait::Yes);
    }
    drop(channels);
    ctx.turn(Wait::No);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use corelane_engine::aio::AioConfig;

    use super::*;
    use crate::options::{CpuSet, GlobalSpec, parse_job_text};

    #[test]
    fn a_lane_that_panics_takes_no_more_mail() {
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let handle = ctx.handle();
        let worked = catch_unwind(AssertUnwindSafe(|| {
            in_context(&ctx, || {
                handle.try_post(Box::new(|_| ())).unwrap();
                panic!("on purpose");
            });
        }));
        let text = worked.unwrap_err().downcast_ref::<&str>().copied();
        assert_eq!(text, Some("on purpose"));
        assert!(handle.try_post(Box::new(|_| ())).is_err(), "nobody would ever look at it");
    }

    #[test]
    fn cpus_that_cannot_be_had_are_named() {
        let plan = parse_job_text(Path::new("test"), "[j]\nsize=64k\n", &GlobalSpec::default()).unwrap();
        let mut spec = plan.jobs[0].clone();
        spec.cpus_allowed = Some(CpuSet(vec![0, 1024, 2000]));
        let error = pin(&spec).unwrap_err().to_string();
        assert!(error.contains("cpus_allowed=1024,2000:") && error.contains("0 to 1023"), "{error}");
    }
}
