//! Made-up runs for the writers' tests.

use std::time::{Duration, SystemTime};

use super::disk::{DiskCounters, DiskUse};
use super::model::{JobReport, RunReport};
use crate::stats::{CpuUse, Direction, JobStats, LiveTotals, RateSampler, StatsConfig};

/// A job that did `ios` requests of 4 KiB in each of `directions` in two seconds at depth 8; latencies cycle through
/// a fixed pattern from 5 us to 5 ms.
pub fn job(name: &str, directions: &[Direction], ios: u64, config: StatsConfig) -> JobReport {
    let mut stats = JobStats::new(config);
    let mut totals = LiveTotals::default();
    let mut sampler = RateSampler::new(500, 0, totals);
    for window in 1..=4 {
        for &direction in directions {
            for request in 0..ios / 4 {
                let clat = 5_000 + (request % 100) * (request % 100) * 500;
                stats.record_request(direction, 4096, 1_000 + request % 7 * 100, clat);
                stats.depths.record_depth((request % 8) as u32 + 1);
            }
            totals.ios[direction] = stats.directions[direction].ios;
            totals.bytes[direction] = stats.directions[direction].bytes;
        }
        sampler.sample(window * 500, &totals);
    }
    for &direction in directions {
        stats.directions[direction].runtime_ms = 2000;
    }
    stats.runtime_ms = 2000;
    stats.take_rates(&sampler);
    for _ in 0..ios / 8 {
        stats.submits.record_batch(8);
        stats.completes.record_batch(3);
    }
    stats.cpu = CpuUse {
        user_us: 250_000,
        system_us: 500_000,
        context_switches: 1234,
        major_faults: 1,
        minor_faults: 56,
    };
    let mut report = JobReport::new(name, 0, 8, stats);
    report.series = sampler.series().clone();
    report.pid = 4321;
    report.elapsed_s = 3;
    report
}

/// A run of the given jobs at a fixed time, on one disk.
pub fn run(jobs: Vec<JobReport>) -> RunReport {
    let mut run = RunReport::new(jobs);
    run.time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    run.disks = vec![DiskUse {
        name: "vdz".into(),
        counters: DiskCounters {
            ios: [89030, 43380],
            merges: [202, 2275],
            ticks_ms: [20381, 25580],
            in_queue_ms: 45966,
            busy_ms: 1500,
        },
        elapsed_ms: 2000,
        parts: Vec::new(),
    }];
    run
}
