//! Everything that one job counts, and how the figures of several jobs become those of a group.

use super::bands::LatencyBands;
use super::config::StatsConfig;
use super::cpu::CpuUse;
use super::depth::Distribution;
use super::latency::Latency;
use super::rate::{RateSampler, RateStats};
use crate::direction::{Direction, PerDirection};

/// Figures of one direction.
#[derive(Clone, Debug, Default)]
pub struct DirectionStats {
    /// Requests done.
    pub ios: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Requests that moved fewer bytes than asked.
    pub short_ios: u64,
    /// Requests left out because the job was behind.
    pub dropped_ios: u64,
    /// How long the job worked in this direction, milliseconds. Reports leave out a direction where this is 0.
    pub runtime_ms: u64,
    /// From the request being ready to the device having taken it.
    pub slat: Latency,
    /// From the device having taken it to its completion.
    pub clat: Latency,
    /// From the request being ready to its completion.
    pub lat: Latency,
    /// Bandwidth samples, KiB/s.
    pub bandwidth_kib: RateStats,
    /// IOPS samples.
    pub iops: RateStats,
}

/// Figures of fsync and fdatasync.
#[derive(Clone, Debug, Default)]
pub struct SyncStats {
    /// Flushes done.
    pub ios: u64,
    /// How long each took.
    pub latency: Latency,
}

/// Failed requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCount {
    /// How many failed.
    pub total: u64,
    /// errno of the first failure, 0 when there was none.
    pub first_errno: i32,
}

impl ErrorCount {
    /// Counts one failure.
    #[cold]
    pub fn record(&mut self, errno: i32) {
        if self.total == 0 {
            self.first_errno = errno;
        }
        self.total += 1;
    }
}

/// Figures of one job, or of several merged.
///
/// All tables are allocated by [`JobStats::new`]; recording allocates nothing. `clat` keeps a histogram whenever it
/// is recorded, since fio's latency bands come from it, whether or not percentiles are printed.
#[derive(Clone, Debug)]
pub struct JobStats {
    /// What is recorded.
    pub config: StatsConfig,
    /// Reads, writes, trims.
    pub directions: PerDirection<DirectionStats>,
    /// Flushes.
    pub sync: SyncStats,
    /// Queue depth seen by each request.
    pub depths: Distribution,
    /// Requests per submission call.
    pub submits: Distribution,
    /// Requests per completion call.
    pub completes: Distribution,
    /// CPU use of the job's thread.
    pub cpu: CpuUse,
    /// How long the job ran, milliseconds; of merged jobs the sum.
    pub runtime_ms: u64,
    /// Failed requests.
    pub errors: ErrorCount,
    /// Zones reset, of jobs that keep to a device's zones.
    pub zone_resets: Option<u64>,
}

impl JobStats {
    /// Zeroes, with the histograms that `config` asks for.
    pub fn new(config: StatsConfig) -> Self {
        let directions = PerDirection::from_fn(|_| DirectionStats {
            slat: Latency::new(config.slat && config.slat_percentiles),
            clat: Latency::new(config.clat),
            lat: Latency::new(config.lat && config.lat_percentiles),
            ..DirectionStats::default()
        });
        let sync = SyncStats { ios: 0, latency: Latency::new(config.clat || config.lat) };
        JobStats {
            config,
            directions,
            sync,
            depths: Distribution::default(),
            submits: Distribution::default(),
            completes: Distribution::default(),
            cpu: CpuUse::default(),
            runtime_ms: 0,
            errors: ErrorCount::default(),
            zone_resets: None,
        }
    }

    /// Counts a request that moved `bytes`.
    #[inline]
    pub fn record_done(&mut self, direction: Direction, bytes: u64) {
        let stats = &mut self.directions[direction];
        stats.ios += 1;
        stats.bytes += bytes;
    }

    /// Counts `ios` requests that moved `bytes` together: a whole batch in one direction.
    #[inline]
    pub fn record_done_batch(&mut self, direction: Direction, ios: u64, bytes: u64) {
        let stats = &mut self.directions[direction];
        stats.ios += ios;
        stats.bytes += bytes;
    }

    /// Records a submission latency. The caller asks [`StatsConfig`] first; it is not asked again here.
    #[inline]
    pub fn record_slat(&mut self, direction: Direction, ns: u64) {
        self.directions[direction].slat.record(ns);
    }

    /// Records a completion latency.
    #[inline]
    pub fn record_clat(&mut self, direction: Direction, ns: u64) {
        self.directions[direction].clat.record(ns);
    }

    /// Records a total latency.
    #[inline]
    pub fn record_lat(&mut self, direction: Direction, ns: u64) {
        self.directions[direction].lat.record(ns);
    }

    /// Counts a request with all its latencies: submission, completion, and their sum as the total.
    #[inline]
    pub fn record_request(&mut self, direction: Direction, bytes: u64, slat_ns: u64, clat_ns: u64) {
        let stats = &mut self.directions[direction];
        stats.ios += 1;
        stats.bytes += bytes;
        stats.slat.record(slat_ns);
        stats.clat.record(clat_ns);
        stats.lat.record(slat_ns + clat_ns);
    }

    /// Counts a flush that took `ns`, `None` where latencies are off.
    #[inline]
    pub fn record_sync(&mut self, ns: Option<u64>) {
        self.sync.ios += 1;
        if let Some(ns) = ns {
            self.sync.latency.record(ns);
        }
    }

    /// Counts a request that moved fewer bytes than asked.
    #[cold]
    pub fn record_short(&mut self, direction: Direction) {
        self.directions[direction].short_ios += 1;
    }

    /// Takes over the rate samples that the reporting thread collected.
    pub fn take_rates(&mut self, sampler: &RateSampler) {
        for direction in Direction::ALL {
            self.directions[direction].bandwidth_kib = sampler.bandwidth_kib()[direction];
            self.directions[direction].iops = sampler.iops()[direction];
        }
    }

    /// Sets all counts back to zero: the end of `ramp_time`. Takes new tables, whose untouched pages cost less than
    /// clearing the old ones; so it allocates, once.
    pub fn clear(&mut self) {
        *self = JobStats::new(self.config);
    }

    /// Requests of all directions, flushes left out.
    pub fn total_ios(&self) -> u64 {
        self.directions.0.iter().map(|stats| stats.ios).sum()
    }

    /// Bytes of all directions.
    pub fn total_bytes(&self) -> u64 {
        self.directions.0.iter().map(|stats| stats.bytes).sum()
    }

    /// fio's latency bands, over the completion latencies of all directions.
    pub fn latency_bands(&self) -> LatencyBands {
        let mut bands = LatencyBands::default();
        for stats in &self.directions.0 {
            stats.clat.add_to_bands(&mut bands);
        }
        bands
    }

    /// CPU time in per cent of the run time: user, system.
    pub fn cpu_percent(&self) -> (f64, f64) {
        if self.runtime_ms == 0 {
            return (0.0, 0.0);
        }
        // us / ms * 100 / 1000
        let share = |us: u64| us as f64 / self.runtime_ms as f64 / 10.0;
        (share(self.cpu.user_us), share(self.cpu.system_us))
    }

    /// Adds the figures of a job that ran beside this one, with fio's rules for `group_reporting`: counts, latencies,
    /// CPU use and run times add up; a direction's run time is the longest; rates add up, since the jobs ran at the
    /// same time.
    pub fn merge(&mut self, other: &JobStats) {
        for (own, others) in self.directions.0.iter_mut().zip(&other.directions.0) {
            own.merge(others);
        }
        self.sync.ios += other.sync.ios;
        self.sync.latency.merge(&other.sync.latency);
        self.depths.merge(&other.depths);
        self.submits.merge(&other.submits);
        self.completes.merge(&other.completes);
        self.cpu.merge(&other.cpu);
        self.runtime_ms += other.runtime_ms;
        if self.errors.total == 0 {
            self.errors.first_errno = other.errors.first_errno;
        }
        self.errors.total += other.errors.total;
        if let Some(resets) = other.zone_resets {
            *self.zone_resets.get_or_insert_default() += resets;
        }
    }
}

impl DirectionStats {
    /// Adds a job's figures in the same direction.
    fn merge(&mut self, other: &DirectionStats) {
        self.ios += other.ios;
        self.bytes += other.bytes;
        self.short_ios += other.short_ios;
        self.dropped_ios += other.dropped_ios;
        self.runtime_ms = self.runtime_ms.max(other.runtime_ms);
        self.slat.merge(&other.slat);
        self.clat.merge(&other.clat);
        self.lat.merge(&other.lat);
        self.bandwidth_kib.merge(&other.bandwidth_kib);
        self.iops.merge(&other.iops);
    }

    /// Bytes per second over the run time, rounded down; 0 when it did not run.
    pub fn bytes_per_s(&self) -> u64 {
        per_second(self.bytes, self.runtime_ms)
    }

    /// Requests per second over the run time, rounded down.
    pub fn ios_per_s(&self) -> u64 {
        per_second(self.ios, self.runtime_ms)
    }

    /// Requests per second over the run time.
    pub fn ios_per_s_exact(&self) -> f64 {
        if self.runtime_ms == 0 { 0.0 } else { self.ios as f64 * 1000.0 / self.runtime_ms as f64 }
    }
}

/// `count` over `ms` milliseconds, per second, rounded down.
pub(crate) fn per_second(count: u64, ms: u64) -> u64 {
    if ms == 0 {
        return 0;
    }
    u64::try_from(u128::from(count) * 1000 / u128::from(ms)).unwrap_or(u64::MAX)
}
