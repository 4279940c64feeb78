//! What is measured, shown and written down.

use std::path::PathBuf;
use std::time::Duration;

/// fio's default `percentile_list`.
pub const DEFAULT_PERCENTILES: [f64; 17] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];

/// What holds for the whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalSpec {
    /// Where the report goes (`output`); `None`: standard output.
    pub output: Option<PathBuf>,
    /// The formats of the report, in the order given, without repeats, never empty (`output-format`).
    pub formats: Vec<OutputFormat>,
    /// When the progress line is shown (`eta`).
    pub eta: EtaMode,
    /// How often the progress line is renewed (`eta-interval`), at least 250 ms.
    pub eta_interval: Duration,
    /// Print the whole report so far this often (`status-interval`); `None`: only at the end.
    pub status_interval: Option<Duration>,
    /// Draw latency percentiles and IOPS over time into this file (`plot`): `.svg` or `.html`.
    pub plot: Option<PathBuf>,
    /// The job options which were given for all jobs: before the first `--name` and in `[global]` sections, canonical
    /// name and value, in the order given. fio's JSON shows them as `"global options"`.
    pub given: Vec<(String, String)>,
}

impl Default for GlobalSpec {
    fn default() -> Self {
        GlobalSpec {
            output: None,
            formats: vec![OutputFormat::Normal],
            eta: EtaMode::Auto,
            eta_interval: Duration::from_secs(1),
            status_interval: None,
            plot: None,
            given: Vec::new(),
        }
    }
}

/// A format of the report (`output-format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Normal,
    /// fio's terse version 3, semicolons between the fields.
    Terse,
    /// fio's JSON.
    Json,
    /// The same with every latency bucket.
    JsonPlus,
}

/// When the progress line is shown (`eta`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EtaMode {
    /// When standard output is a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which latencies of a job are taken and shown.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasureSpec {
    /// Take submission latencies (off with `disable_slat` or `gtod_reduce`).
    pub slat: bool,
    /// Take completion latencies (off with `disable_clat` or `gtod_reduce`).
    pub clat: bool,
    /// Take total latencies (off with `disable_lat` or `gtod_reduce`).
    pub lat: bool,
    /// `gtod_reduce`: no clock read per request at all; bandwidth samples and time limits get coarser.
    pub gtod_reduce: bool,
    /// Show percentiles of submission latencies (`slat_percentiles`).
    pub slat_percentiles: bool,
    /// Show percentiles of completion latencies (`clat_percentiles`).
    pub clat_percentiles: bool,
    /// Show percentiles of total latencies (`lat_percentiles`).
    pub lat_percentiles: bool,
    /// Which percentiles, ascending, each above 0 up to 100, 1 to 20 of them (`percentile_list`).
    pub percentiles: Vec<f64>,
}

/// The logs over time that a job writes. The names are prefixes: clone `i` (counted over all jobs, from 1) writes
/// `PREFIX_bw.i.log`, `PREFIX_iops.i.log`, and `PREFIX_slat.i.log`, `PREFIX_clat.i.log` and `PREFIX_lat.i.log`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSpec {
    /// Bandwidth (`write_bw_log`); the job's name when the option was given without one.
    pub bandwidth: Option<String>,
    /// Requests per second (`write_iops_log`).
    pub iops: Option<String>,
    /// Latencies (`write_lat_log`), those of the three that are taken.
    pub latency: Option<String>,
    /// Average over this many milliseconds (`log_avg_msec`); 0: an entry a request.
    pub average_ms: u32,
}
