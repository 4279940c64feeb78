//! Which latencies a job records.

/// What a job measures. fio's options behind each field are in its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsConfig {
    /// Submission latencies (off with `disable_slat` or `gtod_reduce`).
    pub slat: bool,
    /// Completion latencies (off with `disable_clat` or `gtod_reduce`).
    pub clat: bool,
    /// Total latencies (off with `disable_lat` or `gtod_reduce`).
    pub lat: bool,
    /// Percentiles of submission latencies (`slat_percentiles`).
    pub slat_percentiles: bool,
    /// Percentiles of completion latencies (`clat_percentiles`).
    pub clat_percentiles: bool,
    /// Percentiles of total latencies (`lat_percentiles`).
    pub lat_percentiles: bool,
}

impl Default for StatsConfig {
    /// fio's defaults: all three latencies, percentiles of completion latencies.
    fn default() -> Self {
        StatsConfig {
            slat: true,
            clat: true,
            lat: true,
            slat_percentiles: false,
            clat_percentiles: true,
            lat_percentiles: false,
        }
    }
}

impl StatsConfig {
    /// Nothing that needs a clock per request: `gtod_reduce=1`.
    pub const fn reduced() -> Self {
        StatsConfig {
            slat: false,
            clat: false,
            lat: false,
            slat_percentiles: false,
            clat_percentiles: false,
            lat_percentiles: false,
        }
    }

    /// Whether any latency is recorded, and so a clock is read per batch or per request.
    pub const fn wants_clock(&self) -> bool {
        self.slat || self.clat || self.lat
    }
}
