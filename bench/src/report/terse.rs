//! fio's terse output, version 3: one line per job, fields apart by semicolons.
//!
//! Times are in microseconds, sizes in KiB. The line has reads and writes only; trims are in versions that fio does
//! not print by default.

use std::fmt::Write;

use super::disk::{DiskCounters, DiskUse};
use super::model::{GroupReport, JobReport, MAX_PERCENTILES, RunReport};
use crate::stats::{Direction, Latency, share_percent};

/// Version of the format, the first field.
const TERSE_VERSION: u32 = 3;

/// One line per job.
pub fn terse(run: &RunReport) -> String {
    let groups = run.groups();
    let mut out = String::new();
    for job in &run.jobs {
        if let Some(group) = groups.iter().find(|group| group.id == job.group_id) {
            out.push_str(&job_line(run, job, group));
            out.push('\n');
        }
    }
    out
}

fn job_line(run: &RunReport, job: &JobReport, group: &GroupReport) -> String {
    let mut line = Line(TERSE_VERSION.to_string());
    line.field(&run.version).field(&job.name).field(job.group_id).field(job.error);
    for direction in [Direction::Read, Direction::Write] {
        write_direction(&mut line, job, group, direction);
    }
    write_cpu_and_depths(&mut line, job);
    write_bands(&mut line, job);
    for disk in &run.disks {
        write_disk(&mut line, disk);
    }
    if job.continue_on_error {
        line.field(job.stats.errors.total).field(job.stats.errors.first_errno);
    }
    if let Some(description) = &job.description {
        line.field(description);
    }
    line.0
}

/// 41 fields: totals, the three latencies, the percentiles, bandwidth.
fn write_direction(line: &mut Line, job: &JobReport, group: &GroupReport, direction: Direction) {
    let stats = &job.stats.directions[direction];
    line.field(stats.bytes >> 10)
        .field(stats.bytes_per_s() / 1024)
        .field(stats.ios_per_s())
        .field(stats.runtime_ms);
    write_latency(line, &stats.slat);
    write_latency(line, &stats.clat);
    let config = &job.stats.config;
    let percentiles_of = match (config.lat_percentiles, config.clat_percentiles) {
        (true, _) => Some(&stats.lat),
        (false, true) => Some(&stats.clat),
        (false, false) => None,
    };
    let list = job.percentile_list();
    // A direction without requests has its percentiles at 0; without percentiles, nameless fields keep the places.
    let mut values = match percentiles_of {
        Some(latency) if latency.moments().samples() > 0 => latency.percentiles_ns(&list),
        Some(_) => list.iter().map(|&percent| (percent, 0)).collect(),
        None => Vec::new(),
    }
    .into_iter();
    for _ in 0..MAX_PERCENTILES {
        match values.next() {
            Some((percent, ns)) => line.field(format_args!("{percent:.6}%={}", ns / 1000)),
            None => line.field("0%=0"),
        };
    }
    write_latency(line, &stats.lat);
    let rate = &stats.bandwidth_kib;
    let share = if rate.samples() == 0 { 0.0 } else { group.share_percent(direction, rate.mean()) };
    line.field(rate.min())
        .field(rate.max())
        .field(format_args!("{share:.6}%"))
        .float(rate.mean())
        .float(rate.stddev());
}

/// Four fields: minimum, maximum, mean, deviation, microseconds.
fn write_latency(line: &mut Line, latency: &Latency) {
    let moments = latency.moments();
    line.field(moments.min() / 1000)
        .field(moments.max() / 1000)
        .float(moments.mean() / 1000.0)
        .float(moments.stddev() / 1000.0);
}

fn write_cpu_and_depths(line: &mut Line, job: &JobReport) {
    let stats = &job.stats;
    let (user, system) = stats.cpu_percent();
    line.field(format_args!("{user:.6}%"))
        .field(format_args!("{system:.6}%"))
        .field(stats.cpu.context_switches)
        .field(stats.cpu.major_faults)
        .field(stats.cpu.minor_faults);
    for share in stats.depths.shares_percent(stats.total_ios()) {
        line.field(format_args!("{share:3.1}%"));
    }
}

/// 22 fields: bands of microseconds, of which the first takes in everything below, then bands of milliseconds.
fn write_bands(line: &mut Line, job: &JobReport) {
    let bands = job.stats.latency_bands();
    let total = job.stats.total_ios();
    let below_us: u64 = bands.ns().iter().sum();
    for (index, &count) in bands.us().iter().enumerate() {
        let mut share = share_percent(count, total, 0.01);
        if index == 0 {
            share += share_percent(below_us, total, 0.0);
        }
        line.field(format_args!("{share:3.2}%"));
    }
    for &count in bands.ms() {
        line.field(format_args!("{:3.2}%", share_percent(count, total, 0.01)));
    }
}

/// Nine fields, and nine more for the mean of the disk's parts if it has any.
fn write_disk(line: &mut Line, disk: &DiskUse) {
    write_counters(line, &disk.name, &disk.counters, disk.busy_percent());
    if let Some((mean, busiest)) = disk.parts_mean() {
        write_counters(line, "slaves", &mean, busiest);
    }
}

fn write_counters(line: &mut Line, name: &str, counters: &DiskCounters, busy_percent: f64) {
    line.field(name);
    for [reads, writes] in [counters.ios, counters.merges, counters.ticks_ms] {
        line.field(reads).field(writes);
    }
    line.field(counters.in_queue_ms).field(format_args!("{busy_percent:3.2}%"));
}

/// A line under construction.
struct Line(String);

impl Line {
    fn field(&mut self, value: impl std::fmt::Display) -> &mut Self {
        write!(self.0, ";{value}").expect("writing to a String cannot fail");
        self
    }

    fn float(&mut self, value: f64) -> &mut Self {
        self.field(format_args!("{value:.6}"))
    }
}
