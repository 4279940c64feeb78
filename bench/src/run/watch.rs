//! What is shown while a run goes on: the progress line, and the report so far at intervals (`status-interval`).

use std::time::{Duration, Instant};

use super::conductor::{LaneView, Stage, Watcher};
use super::outcome;
use super::output::{Output, Screen};
use crate::options::{Access, DirectionMix, EtaMode, JobSpec, Plan};
use crate::report::status::{JobProgress, JobState, Mix, Phase, RateLimit, StatusPen, StatusSnapshot};
use crate::stats::{Direction, LiveTotals, PerDirection, RateWindow};

/// How long the report so far waits for lanes to send their figures. One that is in the middle of a slow request is
/// shown by its counters alone.
const PATIENCE: Duration = Duration::from_millis(200);

/// The progress line.
struct Progress {
    screen: Screen,
    pen: StatusPen,
    interval: Duration,
    due: Instant,
    last: LiveTotals,
    last_at: Instant,
}

/// The report so far.
struct Interim {
    interval: Duration,
    due: Instant,
    /// Lanes were asked: how often each had answered by then, and until when they are waited for.
    asked: Option<(Vec<u64>, Instant)>,
}

/// See the module's documentation.
pub struct Display<'a> {
    plan: &'a Plan,
    output: &'a mut Output,
    began: Instant,
    progress: Option<Progress>,
    interim: Option<Interim>,
}

impl<'a> Display<'a> {
    /// As the options of the run ask for.
    pub fn new(plan: &'a Plan, output: &'a mut Output, began: Instant) -> Display<'a> {
        let global = &plan.global;
        let screen = Screen::choose();
        let shown = match global.eta {
            EtaMode::Always => true,
            EtaMode::Never => false,
            EtaMode::Auto => screen == Screen::Terminal && output.is_normal(),
        };
        let interval = global.eta_interval;
        let progress = shown.then(|| Progress {
            screen,
            pen: StatusPen::default(),
            interval,
            due: began + interval,
            last: LiveTotals::default(),
            last_at: began,
        });
        let interim = global.status_interval.filter(|interval| !interval.is_zero());
        let interim = interim.map(|interval| Interim { interval, due: began + interval, asked: None });
        Display { plan, output, began, progress, interim }
    }

    /// Takes the progress line away, for what is written next.
    pub fn clear(&mut self) {
        if let Some(progress) = &mut self.progress {
            let erased = progress.pen.erase();
            if !erased.is_empty() && progress.screen == Screen::Terminal {
                progress.screen.write(&erased);
            }
        }
    }

    fn show_progress(&mut self, lanes: &[LaneView], now: Instant) {
        let elapsed_s = self.began.elapsed().as_secs();
        let Some(progress) = self.progress.as_mut().filter(|progress| now >= progress.due) else { return };
        progress.due = now + progress.interval;
        let totals = sum(lanes);
        let rates = rates(&progress.last, &totals, now - progress.last_at);
        (progress.last, progress.last_at) = (totals, now);
        let done: Vec<JobProgress> = lanes.iter().map(|lane| job_progress(lane, now)).collect();
        let snapshot = StatusSnapshot {
            jobs: lanes.iter().map(job_state).collect(),
            open_files: lanes.iter().filter(|lane| is_open(lane)).map(|lane| files(&lane.spec)).sum(),
            limit: limit(lanes),
            rates,
            elapsed_s,
            eta_s: JobProgress::eta_of_all_s(&done, elapsed_s),
        };
        let drawn = progress.pen.draw(&snapshot.line());
        progress.screen.write(&drawn);
    }

    fn show_interim(&mut self, lanes: &[LaneView], now: Instant) {
        let Some(interim) = &mut self.interim else { return };
        if let Some((before, until)) = &interim.asked {
            let waits =
                |(lane, before): (&LaneView, &u64)| lane.stage == Stage::Running && lane.answers == *before;
            if now < *until && lanes.iter().zip(before).any(waits) {
                return;
            }
            interim.asked = None;
            interim.due = (interim.due + interim.interval).max(now);
            self.clear();
            let report = outcome::report(self.plan, lanes, self.began);
            if let Err(error) = self.output.report(&report) {
                super::say(&error.to_string());
            }
            return;
        }
        if now >= interim.due {
            let running = lanes.iter().filter(|lane| lane.stage == Stage::Running);
            running.for_each(LaneView::ask);
            interim.asked = Some((lanes.iter().map(|lane| lane.answers).collect(), now + PATIENCE));
        }
    }
}

impl Watcher for Display<'_> {
    fn watch(&mut self, lanes: &[LaneView], now: Instant) -> Option<Instant> {
        self.show_interim(lanes, now);
        self.show_progress(lanes, now);
        let interim = self.interim.as_ref();
        let interim = interim.map(|interim| interim.asked.as_ref().map_or(interim.due, |(_, until)| *until));
        let progress = self.progress.as_ref().map(|progress| progress.due);
        [interim, progress].into_iter().flatten().min()
    }

    fn interrupted(&mut self, signal: i32) {
        self.clear();
        super::say(&format!("ending on signal {signal}; once more kills"));
    }
}

fn sum(lanes: &[LaneView]) -> LiveTotals {
    let mut sum = LiveTotals::default();
    for totals in lanes.iter().map(|lane| lane.control.live.totals()) {
        for direction in Direction::ALL {
            sum.ios[direction] += totals.ios[direction];
            sum.bytes[direction] += totals.bytes[direction];
        }
    }
    sum
}

/// Growth per second. Counters that went back (the end of a ramp) have not grown.
fn rates(last: &LiveTotals, now: &LiveTotals, spent: Duration) -> PerDirection<RateWindow> {
    let spent_ms = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX).max(1);
    let per_second = |now: u64, last: u64| {
        let growth = u128::from(now.saturating_sub(last)) * 1000 / u128::from(spent_ms);
        u64::try_from(growth).unwrap_or(u64::MAX)
    };
    PerDirection::from_fn(|direction| RateWindow {
        bytes_per_s: per_second(now.bytes[direction], last.bytes[direction]),
        iops: per_second(now.ios[direction], last.ios[direction]),
    })
}

fn is_open(lane: &LaneView) -> bool {
    matches!(lane.stage, Stage::Ready | Stage::Running)
}

fn files(spec: &JobSpec) -> u32 {
    u32::try_from(spec.target.filenames.len().max(1)).unwrap_or(u32::MAX)
}

fn phase(lane: &LaneView) -> Phase {
    let failed = lane.outcome.as_ref().is_some_and(|outcome| outcome.failure.is_some());
    match lane.stage {
        Stage::Pending => Phase::Pending,
        Stage::Starting => Phase::Created,
        Stage::Ready => Phase::Initialized,
        Stage::Running => lane.control.phase(),
        Stage::Ended if failed => Phase::Failed,
        Stage::Ended => Phase::Reaped,
    }
}

fn job_state(lane: &LaneView) -> JobState {
    let rw = lane.spec.workload.rw;
    let mix = match rw.mix {
        DirectionMix::Read => Mix::Read,
        DirectionMix::Write => Mix::Write,
        DirectionMix::ReadWrite => Mix::Both,
        DirectionMix::Trim | DirectionMix::TrimWrite => Mix::Trim,
    };
    JobState { phase: phase(lane), mix, sequential: !rw.random }
}

fn job_progress(lane: &LaneView, now: Instant) -> JobProgress {
    let totals = lane.control.live.totals();
    let rw = lane.spec.workload.rw;
    // Of a pair of trim and write only the write is work.
    let counts = |direction: Direction| direction != Direction::Trim || !rw.uses(Access::Write);
    let bytes_done =
        Direction::ALL.into_iter().filter(|direction| counts(*direction)).map(|d| totals.bytes[d]).sum();
    let end = &lane.spec.end;
    JobProgress {
        phase: phase(lane),
        bytes_total: lane.bytes_total,
        bytes_done,
        time_limit_s: end.runtime.map(|runtime| (runtime + end.ramp_time).as_secs()),
        elapsed_s: lane.started.map_or(0, |started| (now - started).as_secs()),
        start_delay_s: lane.spec.start_delay.as_secs(),
    }
}

/// The rates that running jobs are held to, summed.
fn limit(lanes: &[LaneView]) -> Option<RateLimit> {
    let running = || lanes.iter().filter(|lane| lane.stage == Stage::Running).map(|lane| &lane.spec.pace);
    let bytes =
        running().map(|pace| pace.rate_bytes_per_s).flat_map(|rate| [rate.read, rate.write, rate.trim]);
    let bytes: u64 = bytes.flatten().sum();
    let iops = running().map(|pace| pace.rate_iops).flat_map(|rate| [rate.read, rate.write, rate.trim]);
    let iops: u64 = iops.flatten().sum();
    match (bytes, iops) {
        (0, 0) => None,
        (0, iops) => Some(RateLimit::Iops(0, iops)),
        (bytes, _) => Some(RateLimit::Bytes(0, bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_growth_per_second_and_never_negative() {
        let mut last = LiveTotals::default();
        let mut now = LiveTotals::default();
        last.ios[Direction::Read] = 100;
        now.ios[Direction::Read] = 350;
        now.bytes[Direction::Read] = 4096;
        last.bytes[Direction::Write] = 5000;
        let rates = rates(&last, &now, Duration::from_millis(500));
        assert_eq!(rates[Direction::Read], RateWindow { bytes_per_s: 8192, iops: 500 });
        assert_eq!(rates[Direction::Write], RateWindow::default());
    }
}
