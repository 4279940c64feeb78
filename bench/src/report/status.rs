//! The line that shows how a run goes on: `Jobs: 1 (f=1): [r(1)][50.0%][r=1234MiB/s][r=316k IOPS][eta 00m:05s]`.
//!
//! Everything here is arithmetic and text. When to draw, and what the terminal is, the runner tells.

use super::number::{self, Scale, Unit};
use crate::stats::{Direction, PerDirection, RateWindow};

/// fio's `eta=`: when the status line is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EtaWhen {
    /// When the output is a terminal.
    #[default]
    Auto,
    /// Whatever the output is.
    Always,
    /// Not at all.
    Never,
}

impl EtaWhen {
    /// Whether to draw, given whether the output is a terminal.
    pub const fn draws(self, is_terminal: bool) -> bool {
        match self {
            EtaWhen::Auto => is_terminal,
            EtaWhen::Always => true,
            EtaWhen::Never => false,
        }
    }
}

/// What a job moves, for its letter in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Reads only.
    Read,
    /// Writes only.
    Write,
    /// Reads and writes.
    Both,
    /// Trims, alone or before writes.
    Trim,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for its turn.
    Pending,
    /// Its thread exists.
    Created,
    /// Its files and buffers are being made ready.
    Initialized,
    /// Running without being measured (`ramp_time`).
    Ramp,
    /// Running.
    Running,
    /// Reading back what it wrote.
    Verifying,
    /// Flushing at the end.
    Syncing,
    /// Collecting what is still in flight.
    Finishing,
    /// Its thread has ended.
    Exited,
    /// Its figures have been taken over.
    Reaped,
    /// As before, and it failed.
    Failed,
}

impl Phase {
    /// Whether the job does I/O now.
    const fn is_running(self) -> bool {
        matches!(self, Phase::Ramp | Phase::Running | Phase::Verifying | Phase::Syncing | Phase::Finishing)
    }
}

/// One job in the status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobState {
    /// Where it is in its life.
    pub phase: Phase,
    /// What it moves.
    pub mix: Mix,
    /// Whether its offsets are sequential: capital letter.
    pub sequential: bool,
}

impl JobState {
    /// fio's letter.
    pub const fn letter(self) -> char {
        match self.phase {
            Phase::Pending => 'P',
            Phase::Created => 'C',
            Phase::Initialized => 'I',
            Phase::Ramp => '/',
            Phase::Verifying => 'V',
            Phase::Syncing => 'F',
            Phase::Finishing => 'f',
            Phase::Exited => 'E',
            Phase::Reaped => '_',
            Phase::Failed => 'X',
            Phase::Running => match (self.mix, self.sequential) {
                (Mix::Read, true) => 'R',
                (Mix::Read, false) => 'r',
                (Mix::Write, true) => 'W',
                (Mix::Write, false) => 'w',
                (Mix::Both, true) => 'M',
                (Mix::Both, false) => 'm',
                (Mix::Trim, true) => 'D',
                (Mix::Trim, false) => 'd',
            },
        }
    }
}

/// Limits that running jobs have set themselves, summed: lowest rate wanted, rate aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// Bytes per second (`rate_min`, `rate`).
    Bytes(u64, u64),
    /// Requests per second (`rate_iops_min`, `rate_iops`).
    Iops(u64, u64),
}

/// All that the line shows.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusSnapshot {
    /// Jobs in order.
    pub jobs: Vec<JobState>,
    /// Files open in all jobs.
    pub open_files: u32,
    /// Limits, if any job has one.
    pub limit: Option<RateLimit>,
    /// Rates since the line before.
    pub rates: PerDirection<RateWindow>,
    /// Seconds since the run started.
    pub elapsed_s: u64,
    /// Seconds left, `None` while nobody can tell.
    pub eta_s: Option<u64>,
}

impl StatusSnapshot {
    /// The line, without line end.
    pub fn line(&self) -> String {
        let running = self.jobs.iter().filter(|job| job.phase.is_running()).count();
        let mut line = format!("Jobs: {running} (f={})", self.open_files);
        match self.limit {
            Some(RateLimit::Bytes(min, aim)) => {
                line += &format!(", {}-{}", number::bandwidth(min).0, number::bandwidth(aim).0);
            }
            Some(RateLimit::Iops(min, aim)) => {
                line += &format!(", {}-{} IOPS", number::count(min), number::count(aim));
            }
            None => {}
        }
        let (Some(eta_s), true) = (self.eta_s, running > 0) else {
            return line;
        };
        line += &format!(": [{}][{}]", self.letters(), self.percent(eta_s));
        line += &self.rate_text(|rate| {
            number::short(rate.bytes_per_s, number::SIGNIFICANT, Scale::Binary, Unit::BytesPerSecond)
        });
        // The unit stands once, within the bracket.
        let iops = self.rate_text(|rate| number::count(rate.iops));
        line += &iops.replace(']', " IOPS]");
        line += &format!("[eta {}]", duration_text(eta_s));
        line
    }

    /// Letters of the jobs with how often each follows itself: `r(2),_(1)`.
    fn letters(&self) -> String {
        let letters: Vec<char> = self.jobs.iter().map(|job| job.letter()).collect();
        let runs = letters.chunk_by(|one, next| one == next);
        runs.map(|run| format!("{}({})", run[0], run.len())).collect::<Vec<_>>().join(",")
    }

    fn percent(&self, eta_s: u64) -> String {
        let ramping =
            self.jobs.iter().filter(|job| job.phase.is_running()).all(|job| job.phase == Phase::Ramp);
        let total = self.elapsed_s + eta_s;
        if ramping || total == 0 {
            return "-.-%".to_owned();
        }
        format!("{:3.1}%", self.elapsed_s as f64 * 100.0 / total as f64)
    }

    /// `[r=..,w=..]` for the directions that move; nothing when none does.
    fn rate_text(&self, text: impl Fn(&RateWindow) -> String) -> String {
        let moving = self.rates.iter().filter(|(_, rate)| rate.bytes_per_s > 0 || rate.iops > 0);
        let parts: Vec<String> =
            moving.map(|(direction, rate)| format!("{}={}", direction.letter(), text(rate))).collect();
        if parts.is_empty() { String::new() } else { format!("[{}]", parts.join(",")) }
    }
}

/// How far a job is, for the guess of when it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobProgress {
    /// Where it is in its life.
    pub phase: Phase,
    /// Bytes to move in all, those to verify included; `None` when only time ends the job.
    pub bytes_total: Option<u64>,
    /// Bytes moved so far.
    pub bytes_done: u64,
    /// `runtime` and `ramp_time` together, seconds.
    pub time_limit_s: Option<u64>,
    /// Seconds since the job started; 0 when it has not.
    pub elapsed_s: u64,
    /// Seconds that it waits before it starts (`startdelay`).
    pub start_delay_s: u64,
}

impl JobProgress {
    /// Seconds until the job ends, at the pace so far; `None` when nothing tells.
    pub fn eta_s(&self) -> Option<u64> {
        match self.phase {
            Phase::Ramp | Phase::Running | Phase::Verifying => {
                let by_time = self.time_limit_s.map(|limit| limit.saturating_sub(self.elapsed_s));
                match (by_time, self.eta_by_bytes()) {
                    (Some(time), Some(bytes)) => Some(time.min(bytes)),
                    (time, bytes) => time.or(bytes),
                }
            }
            Phase::Pending | Phase::Created | Phase::Initialized => {
                self.time_limit_s.map(|limit| limit + self.start_delay_s)
            }
            Phase::Syncing | Phase::Finishing | Phase::Exited | Phase::Reaped | Phase::Failed => Some(0),
        }
    }

    fn eta_by_bytes(&self) -> Option<u64> {
        let total = self.bytes_total?;
        if self.bytes_done == 0 {
            return None;
        }
        let left = total.saturating_sub(self.bytes_done);
        Some((left as f64 * self.elapsed_s as f64 / self.bytes_done as f64) as u64)
    }

    /// Seconds until all of `jobs`, which run side by side, have ended. fio does not guess in the first two seconds of
    /// a run (`run_elapsed_s`), and neither do we; after that a job that nothing is known of counts as done.
    pub fn eta_of_all_s(jobs: &[JobProgress], run_elapsed_s: u64) -> Option<u64> {
        if run_elapsed_s < 2 {
            return None;
        }
        jobs.iter().filter_map(JobProgress::eta_s).max()
    }
}

/// `05m:03s`, with hours and days where there are any.
fn duration_text(seconds: u64) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let (days, hours) = (hours / 24, hours % 24);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}m:{seconds:02}s"),
        (0, _) => format!("{hours:02}h:{minutes:02}m:{seconds:02}s"),
        _ => format!("{days:02}d:{hours:02}h:{minutes:02}m:{seconds:02}s"),
    }
}

/// Puts one line over the other on a terminal.
#[derive(Clone, Debug, Default)]
pub struct StatusPen {
    last_length: usize,
}

impl StatusPen {
    /// What to write so that `line` stands where the line before stood, with nothing of that left over.
    pub fn draw(&mut self, line: &str) -> String {
        let padded = format!("{line:<width$}\r", width = self.last_length);
        self.last_length = line.chars().count();
        padded
    }

    /// What to write so that the line is gone; empty when there is none.
    pub fn erase(&mut self) -> String {
        match std::mem::take(&mut self.last_length) {
            0 => String::new(),
            length => format!("{:length$}\r", ""),
        }
    }
}

/// Sums of the directions' rates over several jobs.
pub fn sum_rates<'a>(
    jobs: impl IntoIterator<Item = &'a PerDirection<RateWindow>>,
) -> PerDirection<RateWindow> {
    let mut sum = PerDirection::<RateWindow>::default();
    for job in jobs {
        for direction in Direction::ALL {
            sum[direction].bytes_per_s += job[direction].bytes_per_s;
            sum[direction].iops += job[direction].iops;
        }
    }
    sum
}

#[cfg(test)]
mod tests;
