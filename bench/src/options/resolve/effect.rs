//! Options in a job's own section that could do nothing there: a note says so, because none is ignored in silence, and
//! the job runs, because fio's users and job files have such options and it would run there.
//!
//! Options for all jobs are not looked at: they may be meant for some of the jobs. Nor is an option that says what
//! holds anyway. An option that does less than in fio is noted wherever it stands.

use super::super::spec::{Access, CompletionPolling, DirectionMix, EngineKind, JobSpec, SyncMode};
use super::view::{View, default_of};

/// Options, whether they can have an effect in this job, and what would give them one.
type Need = (&'static [&'static str], fn(&JobSpec) -> bool, &'static str);

const NEEDS: &[Need] = &[
    (
        &[
            "direct",
            "buffered",
            "sync",
            "cache",
            "locking",
            "unlink",
            "registerfiles",
            "sqthread_poll",
            "sqthread_poll_cpu",
        ],
        |job| job.target.engine == EngineKind::IoUring,
        "it concerns files and needs ioengine=io_uring",
    ),
    (
        &["fixedbufs", "hipri"],
        |job| matches!(job.target.engine, EngineKind::IoUring | EngineKind::NvmeUring),
        "it concerns io_uring and needs ioengine=io_uring or nvme_uring",
    ),
    (
        &["model_cpu"],
        |job| job.target.engine == EngineKind::Nvme,
        "it needs ioengine=nvme and filename=model:SIZE",
    ),
    (
        &["nvme_io_timeout", "nvme_admin_timeout", "nvme_host_memory", "nvme_cmb"],
        |job| job.target.engine == EngineKind::Nvme,
        "it needs ioengine=nvme",
    ),
    (
        &["dataplacement", "fdp"],
        |job| matches!(job.target.engine, EngineKind::Nvme | EngineKind::NvmeUring),
        "it needs ioengine=nvme or nvme_uring",
    ),
    (
        &["plids", "plid_select"],
        |job| job.target.placement.is_some(),
        "it needs fdp=1, and an engine that has it",
    ),
    (
        &["directory", "filesize"],
        |job| !matches!(job.target.engine, EngineKind::Nvme | EngineKind::NvmeUring),
        "a namespace is no file",
    ),
    (&["zonesize", "max_open_zones"], |job| job.workload.zones.is_some(), "it needs zonemode=zbd"),
    (&["sqthread_poll_cpu"], |job| job.target.sq_thread.is_some(), "it needs sqthread_poll=1"),
    (
        &["poll_max_ns"],
        |job| matches!(job.target.polling, CompletionPolling::Adaptive { .. }),
        "it needs poll=adaptive",
    ),
    (
        &["rwmixread", "rwmixwrite"],
        |job| job.workload.rw.mix == DirectionMix::ReadWrite,
        "it needs rw=rw or rw=randrw",
    ),
    (
        &["ba", "random_distribution", "norandommap"],
        |job| job.workload.rw.random,
        "it needs random offsets, such as rw=randread",
    ),
    (
        &["sync", "fsync", "fdatasync", "end_fsync"],
        |job| job.workload.rw.uses(Access::Write) || job.workload.rw.uses(Access::Trim),
        "it needs an rw that writes",
    ),
    (&["thinktime_spin", "thinktime_blocks"], |job| job.pace.think_time.is_some(), "it needs thinktime=TIME"),
    (
        &["latency_window", "latency_percentile"],
        |job| job.pace.latency_target.is_some(),
        "it needs latency_target=TIME",
    ),
    (
        &["do_verify", "verify_only", "verify_pattern", "verify_fatal", "verify_backlog"],
        |job| job.verify.is_some(),
        "it needs verify=METHOD, such as verify=crc32c",
    ),
    (
        &["verify_fatal", "verify_backlog"],
        |job| job.verify.as_ref().is_none_or(|verify| verify.do_verify),
        "it needs do_verify=1",
    ),
    (
        &["verify_backlog"],
        |job| job.verify.as_ref().is_none_or(|verify| !verify.only),
        "nothing is written with verify_only",
    ),
    (
        &["slat_percentiles"],
        |job| job.measure.slat,
        "it needs submission latencies: no disable_slat, no gtod_reduce",
    ),
    (
        &["clat_percentiles"],
        |job| job.measure.clat,
        "it needs completion latencies: no disable_clat, no gtod_reduce",
    ),
    (&["lat_percentiles"], |job| job.measure.lat, "it needs total latencies: no disable_lat, no gtod_reduce"),
    (
        &["percentile_list", "write_lat_log"],
        takes_latencies,
        "it needs latencies: no gtod_reduce, not all disabled",
    ),
    (
        &["log_avg_msec"],
        |job| job.logs.bandwidth.is_some() || job.logs.iops.is_some() || job.logs.latency.is_some(),
        "it needs write_bw_log, write_iops_log or write_lat_log",
    ),
];

fn takes_latencies(job: &JobSpec) -> bool {
    job.measure.slat || job.measure.clat || job.measure.lat
}

/// A note for `sync=sync`, which waits for less than in fio.
pub fn less_than_fio(view: &View, job: &JobSpec) -> Option<String> {
    let waits = job.target.engine == EngineKind::IoUring && job.workload.rw.uses(Access::Write);
    let is_less = waits && job.target.sync == SyncMode::Sync;
    is_less.then(|| {
        format!(
            "{} makes each write wait as sync=dsync does (O_DSYNC): for its data and what reading it back needs, not for \
             all metadata",
            view.shown("sync")
        )
    })
}

/// A note for each option of the job's own section that does nothing.
pub fn own_options(view: &View, job: &JobSpec) -> Vec<String> {
    let mut notes = Vec::new();
    for (names, can_matter, right) in NEEDS {
        if can_matter(job) {
            continue;
        }
        let own = names
            .iter()
            .filter_map(|name| view.last(name))
            .filter(|given| given.own && default_of(given.name).as_ref() != Some(&given.value));
        notes.extend(own.map(|given| format!("{}={} has no effect here; {right}", given.name, given.text)));
    }
    notes
}
