//! The logs over time that a lane writes (`write_bw_log`, `write_iops_log`, `write_lat_log`).
//!
//! Latencies are logged by the lane, request by request or as means. Rates are logged from the conductor's samples where
//! they are means, and by the lane where each request is to have a line.

use super::configs::LaneIndex;
use super::error::RunError;
use super::meter::Latencies;
use crate::options::JobSpec;
use crate::report::log::{Averaging, LogKind, LogSample, SampleLog, request_bandwidth_kib};
use crate::stats::{Direction, RateSampler};
use crate::workload::Io;

/// One log, and what it is of.
struct Log {
    kind: LogKind,
    prefix: String,
    lines: SampleLog,
}

/// The logs of a lane.
#[derive(Default)]
pub struct LaneLogs {
    logs: Vec<Log>,
}

/// Whether rates get a line a request: they are not averaged, and there is a latency to tell a request's rate from.
fn logs_each_rate(spec: &JobSpec) -> bool {
    let measure = &spec.measure;
    spec.logs.average_ms == 0 && (measure.slat || measure.clat || measure.lat)
}

/// Whether the lane has to log each request.
pub fn wants_requests(spec: &JobSpec) -> bool {
    let rates = spec.logs.bandwidth.is_some() || spec.logs.iops.is_some();
    spec.logs.latency.is_some() || (rates && logs_each_rate(spec))
}

impl LaneLogs {
    /// The logs that the lane writes itself.
    pub fn of_lane(spec: &JobSpec) -> LaneLogs {
        let (wanted, measure) = (&spec.logs, &spec.measure);
        let each_rate = logs_each_rate(spec);
        let kinds = [
            (LogKind::Bandwidth, &wanted.bandwidth, each_rate),
            (LogKind::Iops, &wanted.iops, each_rate),
            (LogKind::Slat, &wanted.latency, measure.slat),
            (LogKind::Clat, &wanted.latency, measure.clat),
            (LogKind::Lat, &wanted.latency, measure.lat),
        ];
        let logs = kinds.into_iter().filter_map(|(kind, prefix, taken)| {
            let prefix = prefix.clone().filter(|_| taken)?;
            Some(Log { kind, prefix, lines: SampleLog::new(Averaging::Mean(spec.logs.average_ms.into())) })
        });
        LaneLogs { logs: logs.collect() }
    }

    /// The logs of rates that come from samples.
    pub fn of_samples(spec: &JobSpec, sampler: &RateSampler) -> LaneLogs {
        if logs_each_rate(spec) {
            return LaneLogs::default();
        }
        let wanted = [(LogKind::Bandwidth, &spec.logs.bandwidth), (LogKind::Iops, &spec.logs.iops)];
        let logs = wanted.into_iter().filter_map(|(kind, prefix)| {
            let mut lines = SampleLog::new(Averaging::Off);
            for point in &sampler.series().points {
                for (direction, rate) in point.rates.iter() {
                    if rate.iops > 0 {
                        let kib = rate.bytes_per_s / 1024;
                        let value = if kind == LogKind::Bandwidth { kib } else { rate.iops };
                        lines.add_line(point.time_ms, value, direction);
                    }
                }
            }
            Some(Log { kind, prefix: prefix.clone()?, lines })
        });
        LaneLogs { logs: logs.collect() }
    }

    /// Whether there is nothing to log.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Logs a request that has completed.
    pub fn add(&mut self, time_ms: u64, io: &Io, latencies: Latencies) {
        for log in &mut self.logs {
            let value = match log.kind {
                LogKind::Bandwidth => request_bandwidth_kib(io.bytes.into(), latencies.total_ns()),
                LogKind::Iops => 1,
                LogKind::Slat => latencies.slat_ns,
                LogKind::Clat => latencies.clat_ns,
                LogKind::Lat => latencies.total_ns(),
            };
            log.lines.add(LogSample {
                time_ms,
                value,
                direction: Direction::ALL[io.direction.index()],
                block_bytes: io.bytes,
                offset_bytes: io.offset,
                priority: 0,
            });
        }
    }

    /// Forgets what was logged: the end of `ramp_time`.
    pub fn restart(&mut self, spec: &JobSpec) {
        *self = LaneLogs::of_lane(spec);
    }

    /// Closes the windows that are open.
    pub fn finish(&mut self, now_ms: u64) {
        for log in &mut self.logs {
            log.lines.finish(now_ms);
        }
    }

    /// Writes the files.
    ///
    /// # Errors
    /// [`RunError::Log`] with the name of the file.
    pub fn save(&self, index: LaneIndex) -> Result<(), RunError> {
        for log in &self.logs {
            log.lines.save(&log.kind.file_name(&log.prefix, Some(index.lane + 1)), false)?;
        }
        Ok(())
    }
}
