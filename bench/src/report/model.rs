//! What the reports are made from: a run, its jobs, and the groups that the jobs form.
//!
//! Plain data; the job runner fills it, the writers in this module's siblings only read it.

use std::time::SystemTime;

use chrono::{DateTime, Local};

use super::disk::DiskUse;
use crate::stats::{Direction, JobStats, PerDirection, RateSeries};

/// Name and version that reports give.
pub const VERSION: &str = concat!("corelane-", env!("CARGO_PKG_VERSION"));

/// fio's default `percentile_list`.
pub const DEFAULT_PERCENTILES: [f64; 17] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];

/// Most percentiles that a list may hold (fio's limit, and the number of fields in terse output).
pub const MAX_PERCENTILES: usize = 20;

/// `latency_target` and what became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyTarget {
    /// Wanted latency in nanoseconds, 0 for none.
    pub target_ns: u64,
    /// Window in microseconds.
    pub window_us: u64,
    /// Share of requests in per cent that must be within the target.
    pub percentile: f64,
    /// Queue depth that was found, or the job's `iodepth`.
    pub depth: u32,
}

impl LatencyTarget {
    /// No target: only the depth is reported.
    pub const fn none(depth: u32) -> Self {
        LatencyTarget { target_ns: 0, window_us: 0, percentile: 100.0, depth }
    }
}

/// One job, or several merged by `group_reporting`.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// `name`.
    pub name: String,
    /// `description`.
    pub description: Option<String>,
    /// Group number, from 0.
    pub group_id: u32,
    /// Whether the job asked for `group_reporting`.
    pub group_reporting: bool,
    /// Number of jobs merged in here.
    pub members: u32,
    /// errno that ended the job, 0 for none.
    pub error: i32,
    /// What failed, shown behind the number.
    pub error_text: String,
    /// Process or thread number.
    pub pid: u32,
    /// Options that the job set, as fio's `job options`.
    pub options: Vec<(String, String)>,
    /// Seconds left, 0 when it has ended.
    pub eta_s: u64,
    /// Seconds since the run started.
    pub elapsed_s: u64,
    /// Whether the job goes on after errors, and so reports their count.
    pub continue_on_error: bool,
    /// `latency_target`.
    pub latency_target: LatencyTarget,
    /// `percentile_list`, per cent, rising; at most [`MAX_PERCENTILES`] are shown.
    pub percentiles: Vec<f64>,
    /// The figures.
    pub stats: JobStats,
    /// Rates over time, for plots; may be empty.
    pub series: RateSeries,
}

impl JobReport {
    /// A job without options and errors, as group member number `group_id`.
    pub fn new(name: impl Into<String>, group_id: u32, depth: u32, stats: JobStats) -> Self {
        JobReport {
            name: name.into(),
            description: None,
            group_id,
            group_reporting: false,
            members: 1,
            error: 0,
            error_text: String::new(),
            pid: std::process::id(),
            options: Vec::new(),
            eta_s: 0,
            elapsed_s: 0,
            continue_on_error: false,
            latency_target: LatencyTarget::none(depth),
            percentiles: DEFAULT_PERCENTILES.to_vec(),
            stats,
            series: RateSeries::default(),
        }
    }

    /// Percentiles to show, rising, at most [`MAX_PERCENTILES`].
    pub(super) fn percentile_list(&self) -> Vec<f64> {
        let mut list = self.percentiles.clone();
        list.sort_by(f64::total_cmp);
        list.truncate(MAX_PERCENTILES);
        list
    }

    /// Adds a job of the same group. Names and options stay those of the first, as fio has it.
    fn absorb(&mut self, other: &JobReport) {
        self.members += other.members;
        if self.error == 0 {
            self.error = other.error;
            self.error_text.clone_from(&other.error_text);
        }
        self.eta_s = self.eta_s.max(other.eta_s);
        self.elapsed_s = self.elapsed_s.max(other.elapsed_s);
        self.stats.merge(&other.stats);
        self.series.merge(&other.series);
    }
}

/// A whole run, or its state at one moment.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// Name and version of the tool.
    pub version: String,
    /// When the report was made.
    pub time: SystemTime,
    /// Options of the `[global]` sections.
    pub global_options: Vec<(String, String)>,
    /// Jobs in order, merged where asked.
    pub jobs: Vec<JobReport>,
    /// Disks that the jobs' files are on.
    pub disks: Vec<DiskUse>,
}

impl RunReport {
    /// Takes the jobs of a run in their order and merges those of a group that asked for `group_reporting`.
    pub fn new(jobs: impl IntoIterator<Item = JobReport>) -> Self {
        let mut merged: Vec<JobReport> = Vec::new();
        for job in jobs {
            let into = merged
                .iter_mut()
                .find(|first| job.group_reporting && first.group_reporting && first.group_id == job.group_id);
            match into {
                Some(first) => first.absorb(&job),
                None => merged.push(job),
            }
        }
        RunReport {
            version: VERSION.to_owned(),
            time: SystemTime::now(),
            global_options: Vec::new(),
            jobs: merged,
            disks: Vec::new(),
        }
    }

    /// The groups, by rising number.
    pub fn groups(&self) -> Vec<GroupReport> {
        let mut groups: Vec<GroupReport> = Vec::new();
        for job in &self.jobs {
            match groups.iter_mut().find(|group| group.id == job.group_id) {
                Some(group) => group.add(&job.stats),
                None => {
                    let mut group = GroupReport { id: job.group_id, directions: PerDirection::default() };
                    group.add(&job.stats);
                    groups.push(group);
                }
            }
        }
        groups.sort_by_key(|group| group.id);
        groups
    }

    /// Time of the report in ctime(3)'s form, local time.
    pub(super) fn time_text(&self) -> String {
        DateTime::<Local>::from(self.time).format("%a %b %e %H:%M:%S %Y").to_string()
    }
}

/// Rates of a group in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupDirection {
    /// Bytes of all jobs.
    pub bytes: u64,
    /// Those bytes over the longest run time, per second.
    pub bytes_per_s: u64,
    /// Slowest job, bytes per second.
    pub min_bytes_per_s: u64,
    /// Fastest job.
    pub max_bytes_per_s: u64,
    /// Shortest run time, milliseconds.
    pub min_runtime_ms: u64,
    /// Longest run time; 0 when no job went in this direction.
    pub max_runtime_ms: u64,
}

/// Rates of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupReport {
    /// Group number.
    pub id: u32,
    /// By direction.
    pub directions: PerDirection<GroupDirection>,
}

impl GroupReport {
    fn add(&mut self, stats: &JobStats) {
        for direction in Direction::ALL {
            let job = &stats.directions[direction];
            if job.runtime_ms == 0 {
                continue;
            }
            let group = &mut self.directions[direction];
            let first = group.max_runtime_ms == 0;
            let rate = job.bytes_per_s();
            group.min_bytes_per_s = if first { rate } else { group.min_bytes_per_s.min(rate) };
            group.max_bytes_per_s = group.max_bytes_per_s.max(rate);
            group.min_runtime_ms =
                if first { job.runtime_ms } else { group.min_runtime_ms.min(job.runtime_ms) };
            group.max_runtime_ms = group.max_runtime_ms.max(job.runtime_ms);
            group.bytes += job.bytes;
            group.bytes_per_s = crate::stats::per_second(group.bytes, group.max_runtime_ms);
        }
    }

    /// Share of a job's mean bandwidth sample in the group's bandwidth, per cent, at most 100. fio takes the mean
    /// without its fraction here.
    pub(super) fn share_percent(&self, direction: Direction, mean_kib_per_s: f64) -> f64 {
        let group = self.directions[direction].bytes_per_s;
        if group <= 1024 {
            return 100.0;
        }
        (mean_kib_per_s.trunc() * 100.0 / (group as f64 / 1024.0)).min(100.0)
    }
}
