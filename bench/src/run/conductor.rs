//! Starts the lanes of a run in their order, tells them when to measure and when to stop, watches them, and gathers
//! what they leave. One thread: the program's main thread, asleep nearly always.
//!
//! Jobs up to one with `wait_for_previous` form a wave. All lanes of a wave that have no `start_delay` are made ready
//! first and start together; a delayed one starts when it is ready after its time has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corelane_engine::aio::AioHandle;

use super::configs::{self, LaneIndex};
use super::control::{LaneControl, Order};
use super::error::RunError;
use super::files;
use super::lane::{self, Event, LaneOutcome};
use super::logs::LaneLogs;
use super::session::Failure;
use super::setup::Setup;
use crate::options::{JobSpec, Plan};
use crate::stats::{Clock, JobStats, LiveTotals, RateSampler};

/// How long the conductor sleeps when nothing is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Thirty years.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Where a lane is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Its wave has not begun, or its start is delayed.
    Pending,
    /// Its thread gets ready.
    Starting,
    /// It waits for the others.
    Ready,
    /// It works.
    Running,
    /// Its outcome is there.
    Ended,
}

/// A lane as the conductor sees it.
pub struct LaneView {
    /// Which one.
    pub index: LaneIndex,
    /// The job's options.
    pub spec: Arc<JobSpec>,
    /// Orders and counters.
    pub control: Arc<LaneControl>,
    /// Where it is.
    pub stage: Stage,
    /// Bandwidth and IOPS over time, from the start on.
    pub sampler: Option<RateSampler>,
    /// When its requests started.
    pub started: Option<Instant>,
    /// Its figures when it was last asked for them.
    pub snapshot: Option<Box<JobStats>>,
    /// How often it has answered.
    pub answers: u64,
    /// What it left.
    pub outcome: Option<Box<LaneOutcome>>,
    /// Its seed, if that was drawn.
    pub drawn_seed: Option<u64>,
    /// How much it is to move, where that is known.
    pub bytes_total: Option<u64>,
    due: Instant,
    handle: Option<AioHandle>,
    thread: Option<JoinHandle<()>>,
    ramping: bool,
}

/// What the conductor calls now and then, to show how far the run is.
pub trait Watcher {
    /// Looks at the run; says when it wants to look again at the latest.
    fn watch(&mut self, lanes: &[LaneView], now: Instant) -> Option<Instant>;

    /// A signal came, which ends the run.
    fn interrupted(&mut self, signal: i32);
}

/// See the module's documentation.
pub struct Conductor<'a> {
    setup: &'a Setup,
    /// Calibrated only if a job takes latencies.
    clock: Option<Clock>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// All lanes of the run, in order.
    pub lanes: Vec<LaneView>,
    /// Set when the run is to end early; file preparation looks at it.
    stop: Arc<AtomicBool>,
    /// The signal that ended the run.
    pub signal: Option<i32>,
}

impl<'a> Conductor<'a> {
    /// For the jobs of `plan`.
    pub fn new(
        plan: &Plan,
        setup: &'a Setup,
        (sender, events): (Sender<Event>, Receiver<Event>),
        stop: Arc<AtomicBool>,
    ) -> Conductor<'a> {
        let now = Instant::now();
        let mut lanes = Vec::new();
        for (job, spec) in plan.jobs.iter().enumerate() {
            let spec = Arc::new(spec.clone());
            for clone in 0..spec.num_jobs {
                lanes.push(LaneView {
                    index: LaneIndex { job, clone, lane: lanes.len() as u32 },
                    spec: Arc::clone(&spec),
                    control: Arc::default(),
                    stage: Stage::Pending,
                    sampler: None,
                    started: None,
                    snapshot: None,
                    answers: 0,
                    outcome: None,
                    drawn_seed: setup.drawn_seed(job),
                    bytes_total: None,
                    due: now,
                    handle: None,
                    thread: None,
                    ramping: false,
                });
            }
        }
        let wants_clock = plan.jobs.iter().any(|job| configs::stats(job).wants_clock());
        let clock = wants_clock.then(Clock::new);
        Conductor { setup, clock, events, sender, lanes, stop, signal: None }
    }

    /// Runs all jobs.
    ///
    /// # Errors
    /// When a lane cannot be made at all; the lanes that run already are stopped first.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<(), RunError> {
        for wave in waves(&self.lanes) {
            let now = Instant::now();
            for lane in &mut self.lanes[wave.clone()] {
                // A delay that the clock cannot tell never ends.
                lane.due = now.checked_add(lane.spec.start_delay).unwrap_or(now + FOR_EVER);
            }
            let result = self.run_wave(&wave, watcher);
            if let Err(error) = result {
                self.stop_all();
                self.finish(&wave, watcher);
                return Err(error);
            }
            if self.stop.load(Relaxed) {
                break;
            }
        }
        // One that came before the first lane, or with the last.
        for event in self.events.try_iter() {
            if let Event::Signal(signal) = event {
                self.signal.get_or_insert(signal);
            }
        }
        Ok(())
    }

    fn run_wave(&mut self, wave: &std::ops::Range<usize>, watcher: &mut dyn Watcher) -> Result<(), RunError> {
        loop {
            self.start_due(wave)?;
            self.let_go(wave);
            self.give_orders(wave);
            if self.is_over(wave) {
                return Ok(());
            }
            self.step(wave, watcher);
        }
    }

    /// Waits for lanes that run after something failed.
    fn finish(&mut self, wave: &std::ops::Range<usize>, watcher: &mut dyn Watcher) {
        while !self.is_over(wave) {
            self.let_go(wave);
            self.step(wave, watcher);
        }
    }

    /// Whether nothing of the wave runs and nothing is to be started any more.
    fn is_over(&self, wave: &std::ops::Range<usize>) -> bool {
        let stopped = self.stop.load(Relaxed);
        self.lanes[wave.clone()]
            .iter()
            .all(|lane| lane.stage == Stage::Ended || (stopped && lane.stage == Stage::Pending))
    }

    /// Makes the lanes whose time has come.
    fn start_due(&mut self, wave: &std::ops::Range<usize>) -> Result<(), RunError> {
        let now = Instant::now();
        for at in wave.clone() {
            let lane = &self.lanes[at];
            if lane.stage != Stage::Pending || lane.due > now || self.stop.load(Relaxed) {
                continue;
            }
            let plan = self.setup.lane(
                &lane.spec,
                lane.index,
                (Arc::clone(&lane.control), self.clock.clone(), self.sender.clone()),
            );
            let plan = plan.map_err(|error| error.of_job(&lane.spec.name))?;
            let total = plan.bytes_total();
            let thread = lane::spawn(plan).map_err(|error| error.of_job(&lane.spec.name))?;
            let lane = &mut self.lanes[at];
            lane.thread = Some(thread);
            lane.stage = Stage::Starting;
            lane.bytes_total = total;
        }
        Ok(())
    }

    /// Lets the lanes start that are ready, unless others of the wave that are due are still getting ready.
    fn let_go(&mut self, wave: &std::ops::Range<usize>) {
        let lanes = &mut self.lanes[wave.clone()];
        if lanes.iter().any(|lane| lane.stage == Stage::Starting) {
            return;
        }
        for lane in lanes.iter_mut().filter(|lane| lane.stage == Stage::Ready) {
            lane.start();
        }
    }

    /// Ends ramps and run times that are over.
    fn give_orders(&mut self, wave: &std::ops::Range<usize>) {
        let now = Instant::now();
        for lane in self.lanes[wave.clone()].iter_mut().filter(|lane| lane.stage == Stage::Running) {
            lane.give_orders(now);
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    fn step(&mut self, wave: &std::ops::Range<usize>, watcher: &mut dyn Watcher) {
        let now = Instant::now();
        let mut next = now + LONGEST_SLEEP;
        for lane in &mut self.lanes[wave.clone()] {
            next = lane.sample(now).into_iter().chain(lane.next_order()).fold(next, Instant::min);
        }
        if let Some(look) = watcher.watch(&self.lanes, now) {
            next = next.min(look);
        }
        match self.events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(event) => {
                if let Event::Signal(signal) = event {
                    watcher.interrupted(signal);
                }
                self.take(event);
            }
            // Disconnected cannot be: we hold a sender ourselves.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Signal(signal) => {
                self.signal.get_or_insert(signal);
                self.stop_all();
            }
            Event::Ready(lane, handle) => {
                let stopped = self.stop.load(Relaxed);
                if let Some(lane) = self.lanes.get_mut(lane as usize) {
                    lane.handle = Some(handle);
                    lane.stage = Stage::Ready;
                    if stopped {
                        lane.order(Order::Abort);
                    }
                }
            }
            Event::Snapshot(lane, stats) => {
                if let Some(lane) = self.lanes.get_mut(lane as usize) {
                    lane.snapshot = Some(stats);
                    lane.answers += 1;
                }
            }
            Event::Ended(lane, outcome) => self.take_outcome(lane as usize, outcome),
        }
    }

    fn take_outcome(&mut self, at: usize, mut outcome: Box<LaneOutcome>) {
        let Some(lane) = self.lanes.get_mut(at) else { return };
        if let Some(sampler) = &lane.sampler {
            outcome.stats.take_rates(sampler);
        }
        if let Some(sampler) = &lane.sampler {
            let rates = LaneLogs::of_samples(&lane.spec, sampler);
            for logs in [&outcome.logs, &rates] {
                if let Err(error) = logs.save(lane.index) {
                    let text = error.to_string();
                    super::say(&format!("job {}: {text}", lane.spec.name));
                    outcome.failure.get_or_insert(Failure { errno: error.errno(), text });
                }
            }
        }
        let (failed, spec, job) = (outcome.failure.is_some(), Arc::clone(&lane.spec), lane.index.job);
        lane.outcome = Some(outcome);
        lane.stage = Stage::Ended;
        if let Some(thread) = lane.thread.take() {
            // It has sent its last event; a panic after that would only be a lost message.
            let _ = thread.join();
        }
        if spec.target.unlink {
            self.unlink_files(&spec, job);
        }
        if failed && spec.exit_all_on_error {
            self.stop_all();
        }
    }

    /// Deletes a job's files when its last lane has ended.
    fn unlink_files(&self, spec: &JobSpec, job: usize) {
        let of_job = |lane: &&LaneView| lane.index.job == job;
        if self.lanes.iter().filter(of_job).any(|lane| lane.stage != Stage::Ended) {
            return;
        }
        for path in (0..spec.num_jobs).flat_map(|clone| spec.file_paths(clone)) {
            if let Err(error) = files::unlink(&path) {
                super::say(&format!("job {}: {error}", spec.name));
            }
        }
    }

    /// Ends the run early.
    fn stop_all(&mut self) {
        self.stop.store(true, Relaxed);
        for lane in &self.lanes {
            lane.order(Order::Abort);
        }
    }
}

impl LaneView {
    fn start(&mut self) {
        let now = Instant::now();
        self.stage = Stage::Running;
        self.started = Some(now);
        self.ramping = !self.spec.end.ramp_time.is_zero();
        self.sampler = Some(self.new_sampler());
        self.order(if self.ramping { Order::Ramp } else { Order::Measure });
    }

    /// The log's window where rates are logged as means; fio's otherwise.
    fn new_sampler(&self) -> RateSampler {
        let logs = &self.spec.logs;
        let logged = (logs.bandwidth.is_some() || logs.iops.is_some()) && logs.average_ms > 0;
        let window_ms = if logged { u64::from(logs.average_ms) } else { RateSampler::DEFAULT_WINDOW_MS };
        RateSampler::new(window_ms, 0, LiveTotals::default())
    }

    /// Asks the lane for its figures so far.
    pub fn ask(&self) {
        self.control.ask();
        self.wake();
    }

    /// Gives an order, and wakes the lane to see it.
    fn order(&self, order: Order) {
        self.control.give(order);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            // It may be parked, before its start.
            thread.thread().unpark();
        }
        if let Some(handle) = &self.handle {
            // A full mailbox wakes it as well; a closed one needs no waking.
            let _ = handle.try_post(Box::new(|_| ()));
        }
    }

    fn give_orders(&mut self, now: Instant) {
        let Some(started) = self.started else { return };
        let end = &self.spec.end;
        let ran = now - started;
        if self.ramping && ran >= end.ramp_time {
            self.ramping = false;
            self.order(Order::Measure);
            // The lane counts from zero as soon as it sees the order.
            self.sampler = Some(self.new_sampler());
            self.started = Some(now);
            return;
        }
        if !self.ramping
            && end.runtime.is_some_and(|runtime| ran >= runtime)
            && self.control.order() < Order::Stop
        {
            self.order(Order::Stop);
        }
    }

    /// When the next order is to be given, or the lane is to be started.
    fn next_order(&self) -> Option<Instant> {
        if self.stage == Stage::Pending {
            return Some(self.due);
        }
        let end = &self.spec.end;
        let started = self.started.filter(|_| self.stage == Stage::Running)?;
        if self.ramping {
            return started.checked_add(end.ramp_time);
        }
        let running = self.control.order() < Order::Stop;
        end.runtime.filter(|_| running).and_then(|runtime| started.checked_add(runtime))
    }

    /// Takes a sample if one is due; says when the next one is.
    fn sample(&mut self, now: Instant) -> Option<Instant> {
        let started = self.started.filter(|_| self.stage == Stage::Running)?;
        let sampler = self.sampler.as_mut()?;
        let now_ms = u64::try_from((now - started).as_millis()).unwrap_or(u64::MAX);
        sampler.sample(now_ms, &self.control.live.totals());
        Some(started + Duration::from_millis(sampler.due_ms()))
    }
}

/// Ranges of lanes that run side by side.
fn waves(lanes: &[LaneView]) -> Vec<std::ops::Range<usize>> {
    let first_of_wave = |at: usize| {
        let lane = &lanes[at];
        at == 0 || (lane.spec.wait_for_previous && lane.index.clone == 0)
    };
    let starts: Vec<usize> = (0..lanes.len()).filter(|&at| first_of_wave(at)).collect();
    let ends = starts.iter().skip(1).copied().chain([lanes.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::options::{GlobalSpec, parse_job_text};

    #[test]
    fn a_wave_ends_where_a_job_waits_for_the_ones_before() {
        let text = "[global]\nioengine=null\nrw=read\nsize=1m\n[a]\nnumjobs=2\n[b]\n[c]\nstonewall\nnumjobs=2\n[d]\n[e]\nstonewall\n";
        let plan = parse_job_text(Path::new("test"), text, &GlobalSpec::default()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let setup = Setup::new(&plan, Arc::clone(&stop));
        let conductor = Conductor::new(&plan, &setup, std::sync::mpsc::channel(), stop);
        assert_eq!(waves(&conductor.lanes), [0..3, 3..6, 6..7]);
        let lanes: Vec<u32> = conductor.lanes.iter().map(|lane| lane.index.lane).collect();
        assert_eq!(lanes, [0, 1, 2, 3, 4, 5, 6]);
    }
}
