//! The tree of fio's JSON as structures: a field is a key, in fio's order.

use std::time::UNIX_EPOCH;

use serde::{Serialize, Serializer};

use super::JsonKind;
use crate::report::disk::DiskUse;
use crate::report::model::{GroupReport, JobReport, RunReport};
use crate::stats::{Direction, Distribution, Latency, LatencyBands, RateStats, share_percent};

/// An object whose keys are known only at run time, in the order given.
struct Map<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

type Options<'a> = Map<&'a str, &'a str>;
type Shares = Map<&'static str, f64>;

fn options(pairs: &[(String, String)]) -> Options<'_> {
    Map(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())
}

/// The whole report.
#[derive(Serialize)]
pub struct Run<'a> {
    #[serde(rename = "fio version")]
    version: &'a str,
    timestamp: u64,
    timestamp_ms: u64,
    time: String,
    #[serde(rename = "global options", skip_serializing_if = "Option::is_none")]
    global_options: Option<Options<'a>>,
    jobs: Vec<Job<'a>>,
    disk_util: Vec<Disk<'a>>,
}

impl<'a> Run<'a> {
    /// Takes the figures out of `run`.
    pub fn new(run: &'a RunReport, kind: JsonKind) -> Self {
        let since_epoch = run.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let groups = run.groups();
        let jobs = run.jobs.iter().filter_map(|job| {
            let group = groups.iter().find(|group| group.id == job.group_id)?;
            Some(Job::new(job, group, kind))
        });
        Run {
            version: &run.version,
            timestamp: since_epoch.as_secs(),
            timestamp_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            time: run.time_text(),
            global_options: (!run.global_options.is_empty()).then(|| options(&run.global_options)),
            jobs: jobs.collect(),
            disk_util: run.disks.iter().map(Disk::new).collect(),
        }
    }
}

#[derive(Serialize)]
struct Job<'a> {
    jobname: &'a str,
    groupid: u32,
    error: i32,
    eta: u64,
    elapsed: u64,
    #[serde(rename = "job options")]
    options: Options<'a>,
    read: Transfer,
    write: Transfer,
    trim: Transfer,
    sync: Sync,
    job_runtime: u64,
    usr_cpu: f64,
    sys_cpu: f64,
    ctx: u64,
    majf: u64,
    minf: u64,
    iodepth_level: Shares,
    iodepth_submit: Shares,
    iodepth_complete: Shares,
    latency_ns: Shares,
    latency_us: Shares,
    latency_ms: Shares,
    #[serde(flatten)]
    errors: Option<Errors>,
    latency_depth: u32,
    latency_target: u64,
    latency_percentile: f64,
    latency_window: u64,
    #[serde(rename = "desc", skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

#[derive(Serialize)]
struct Errors {
    total_err: u64,
    first_error: i32,
}

impl<'a> Job<'a> {
    fn new(job: &'a JobReport, group: &GroupReport, kind: JsonKind) -> Self {
        let stats = &job.stats;
        let (usr_cpu, sys_cpu) = stats.cpu_percent();
        let bands = stats.latency_bands();
        let total = stats.total_ios();
        let target = &job.latency_target;
        Job {
            jobname: &job.name,
            groupid: job.group_id,
            error: job.error,
            eta: job.eta_s,
            elapsed: job.elapsed_s,
            options: options(&job.options),
            read: Transfer::new(job, group, Direction::Read, kind),
            write: Transfer::new(job, group, Direction::Write, kind),
            trim: Transfer::new(job, group, Direction::Trim, kind),
            sync: Sync::new(job, kind),
            job_runtime: stats.runtime_ms,
            usr_cpu,
            sys_cpu,
            ctx: stats.cpu.context_switches,
            majf: stats.cpu.major_faults,
            minf: stats.cpu.minor_faults,
            iodepth_level: shares(&stats.depths, Distribution::DEPTH_LABELS, total),
            iodepth_submit: shares(&stats.submits, Distribution::BATCH_LABELS, stats.submits.total()),
            iodepth_complete: shares(&stats.completes, Distribution::BATCH_LABELS, stats.completes.total()),
            latency_ns: band_shares(bands.ns(), total),
            latency_us: band_shares(bands.us(), total),
            latency_ms: band_shares(bands.ms(), total),
            errors: job
                .continue_on_error
                .then_some(Errors { total_err: stats.errors.total, first_error: stats.errors.first_errno }),
            latency_depth: target.depth,
            latency_target: target.target_ns,
            latency_percentile: target.percentile,
            latency_window: target.window_us,
            description: job.description.as_deref(),
        }
    }
}

fn shares(distribution: &Distribution, labels: [&'static str; 7], total: u64) -> Shares {
    Map(labels.into_iter().zip(distribution.shares_percent(total)).collect())
}

fn band_shares(counts: &[u64], total: u64) -> Shares {
    let share = |(index, &count)| (LatencyBands::label(index), share_percent(count, total, 0.01));
    Map(counts.iter().enumerate().map(share).collect())
}

/// Figures of one direction.
#[derive(Serialize)]
struct Transfer {
    io_bytes: u64,
    io_kbytes: u64,
    bw_bytes: u64,
    bw: u64,
    iops: f64,
    runtime: u64,
    total_ios: u64,
    short_ios: u64,
    drop_ios: u64,
    slat_ns: LatencyTree,
    clat_ns: LatencyTree,
    lat_ns: LatencyTree,
    bw_min: u64,
    bw_max: u64,
    bw_agg: f64,
    bw_mean: f64,
    bw_dev: f64,
    bw_samples: u64,
    iops_min: u64,
    iops_max: u64,
    iops_mean: f64,
    iops_stddev: f64,
    iops_samples: u64,
}

impl Transfer {
    fn new(job: &JobReport, group: &GroupReport, direction: Direction, kind: JsonKind) -> Self {
        let stats = &job.stats.directions[direction];
        let config = &job.stats.config;
        let list = job.percentile_list();
        let rate: &RateStats = &stats.bandwidth_kib;
        Transfer {
            io_bytes: stats.bytes,
            io_kbytes: stats.bytes >> 10,
            bw_bytes: stats.bytes_per_s(),
            bw: stats.bytes_per_s() / 1024,
            iops: stats.ios_per_s_exact(),
            runtime: stats.runtime_ms,
            total_ios: stats.ios,
            short_ios: stats.short_ios,
            drop_ios: stats.dropped_ios,
            slat_ns: LatencyTree::new(&stats.slat, config.slat_percentiles, &list, kind),
            clat_ns: LatencyTree::new(&stats.clat, config.clat_percentiles, &list, kind),
            lat_ns: LatencyTree::new(&stats.lat, config.lat_percentiles, &list, kind),
            bw_min: rate.min(),
            bw_max: rate.max(),
            bw_agg: if rate.samples() == 0 { 0.0 } else { group.share_percent(direction, rate.mean()) },
            bw_mean: rate.mean(),
            bw_dev: rate.stddev(),
            bw_samples: rate.samples(),
            iops_min: stats.iops.min(),
            iops_max: stats.iops.max(),
            iops_mean: stats.iops.mean(),
            iops_stddev: stats.iops.stddev(),
            iops_samples: stats.iops.samples(),
        }
    }
}

/// Figures of fsync and fdatasync.
#[derive(Serialize)]
struct Sync {
    total_ios: u64,
    lat_ns: LatencyTree,
}

impl Sync {
    fn new(job: &JobReport, kind: JsonKind) -> Self {
        let config = &job.stats.config;
        let percentiles = config.clat_percentiles || config.lat_percentiles;
        let sync = &job.stats.sync;
        Sync {
            total_ios: sync.ios,
            lat_ns: LatencyTree::new(&sync.latency, percentiles, &job.percentile_list(), kind),
        }
    }
}

/// Figures of one kind of latency, nanoseconds.
#[derive(Serialize)]
struct LatencyTree {
    min: u64,
    max: u64,
    mean: f64,
    stddev: f64,
    #[serde(rename = "N")]
    samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    percentile: Option<Map<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bins: Option<Map<u64, u64>>,
}

impl LatencyTree {
    fn new(latency: &Latency, percentiles: bool, list: &[f64], kind: JsonKind) -> Self {
        let moments = latency.moments();
        let shown = percentiles && moments.samples() > 0 && latency.has_histogram();
        LatencyTree {
            min: moments.min(),
            max: moments.max(),
            mean: moments.mean(),
            stddev: moments.stddev(),
            samples: moments.samples(),
            percentile: shown.then(|| {
                let named = latency.percentiles_ns(list).into_iter();
                Map(named.map(|(percent, ns)| (format!("{percent:.6}"), ns)).collect())
            }),
            bins: (shown && kind == JsonKind::Plus)
                .then(|| Map(latency.bins().map(|bin| (bin.value_ns, bin.count)).collect())),
        }
    }
}

/// One disk's use.
#[derive(Serialize)]
struct Disk<'a> {
    name: &'a str,
    read_ios: u64,
    write_ios: u64,
    read_merges: u64,
    write_merges: u64,
    read_ticks: u64,
    write_ticks: u64,
    in_queue: u64,
    util: f64,
    #[serde(flatten)]
    parts: Option<DiskParts>,
}

/// Means over the disks that a disk is made of. The odd `aggr_write_merge` is fio's.
#[derive(Serialize)]
struct DiskParts {
    aggr_read_ios: u64,
    aggr_write_ios: u64,
    aggr_read_merges: u64,
    aggr_write_merge: u64,
    aggr_read_ticks: u64,
    aggr_write_ticks: u64,
    aggr_in_queue: u64,
    aggr_util: f64,
}

impl<'a> Disk<'a> {
    fn new(disk: &'a DiskUse) -> Self {
        let counters = &disk.counters;
        Disk {
            name: &disk.name,
            read_ios: counters.ios[0],
            write_ios: counters.ios[1],
            read_merges: counters.merges[0],
            write_merges: counters.merges[1],
            read_ticks: counters.ticks_ms[0],
            write_ticks: counters.ticks_ms[1],
            in_queue: counters.in_queue_ms,
            util: disk.busy_percent(),
            parts: disk.parts_mean().map(|(mean, busiest)| DiskParts {
                aggr_read_ios: mean.ios[0],
                aggr_write_ios: mean.ios[1],
                aggr_read_merges: mean.merges[0],
                aggr_write_merge: mean.merges[1],
                aggr_read_ticks: mean.ticks_ms[0],
                aggr_write_ticks: mean.ticks_ms[1],
                aggr_in_queue: mean.in_queue_ms,
                aggr_util: busiest,
            }),
        }
    }
}
