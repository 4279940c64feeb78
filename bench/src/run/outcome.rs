//! From what the lanes left to the report.

use std::time::Instant;

use super::conductor::{LaneView, Stage};
use super::configs;
use crate::options::{Access, JobSpec, Plan};
use crate::report::{BannerJob, JobReport, RunReport};
use crate::stats::{Direction, JobStats};

/// The report of a run, or of its state at this moment: lanes that still run count with what they have shown so far.
pub fn report(plan: &Plan, lanes: &[LaneView], began: Instant) -> RunReport {
    let jobs = lanes.iter().filter(|lane| lane.stage != Stage::Pending).map(|lane| job_report(lane, began));
    let mut report = RunReport::new(jobs);
    report.global_options = plan.global.given.clone();
    report
}

fn job_report(lane: &LaneView, began: Instant) -> JobReport {
    let spec = &*lane.spec;
    let (stats, depth) = match &lane.outcome {
        Some(outcome) => (outcome.stats.clone(), outcome.depth),
        None => (so_far(lane), spec.depth.iodepth),
    };
    let mut report = JobReport::new(spec.name.clone(), spec.group_id, depth, stats);
    report.description.clone_from(&spec.description);
    report.group_reporting = spec.group_reporting;
    report.options.clone_from(&spec.given);
    report.options.extend(lane.drawn_seed.map(|seed| ("randseed".to_owned(), seed.to_string())));
    report.continue_on_error = spec.continue_on != Default::default();
    report.latency_target = configs::latency_target(spec, depth);
    report.percentiles.clone_from(&spec.measure.percentiles);
    report.elapsed_s = began.elapsed().as_secs();
    if let Some(outcome) = &lane.outcome {
        report.pid = outcome.tid;
        if let Some(failure) = &outcome.failure {
            report.error = failure.errno;
            report.error_text.clone_from(&failure.text);
        }
    }
    report
}

/// Figures of a running lane: those that it sent when it was asked, otherwise its counters, since the rest belongs to
/// the lane alone until it has ended.
fn so_far(lane: &LaneView) -> JobStats {
    let mut stats = match &lane.snapshot {
        Some(snapshot) => JobStats::clone(snapshot),
        None => counted(lane),
    };
    if let Some(sampler) = &lane.sampler {
        stats.take_rates(sampler);
    }
    stats
}

fn counted(lane: &LaneView) -> JobStats {
    let mut stats = JobStats::new(configs::stats(&lane.spec));
    let totals = lane.control.live.totals();
    let ms =
        lane.started.map_or(0, |started| u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    for direction in Direction::ALL {
        stats.record_done_batch(direction, totals.ios[direction], totals.bytes[direction]);
        if totals.ios[direction] > 0 {
            stats.directions[direction].runtime_ms = ms.max(1);
        }
    }
    stats.runtime_ms = ms;
    stats
}

/// What the lines at the start say of a job.
pub fn banner_job(spec: &JobSpec) -> BannerJob {
    let blocks = &spec.workload.blocks;
    let of = |access: Access| {
        let sizes = match access {
            Access::Read => &blocks.read,
            Access::Write => &blocks.write,
            Access::Trim => &blocks.trim,
        };
        (sizes.min_bytes(), sizes.max_bytes())
    };
    BannerJob {
        name: spec.name.clone(),
        group_id: spec.group_id,
        rw: spec.workload.rw.name().to_owned(),
        block_bytes: [of(Access::Read), of(Access::Write), of(Access::Trim)],
        ioengine: spec.target.engine.name().to_owned(),
        iodepth: spec.depth.iodepth,
        numjobs: spec.num_jobs,
    }
}
