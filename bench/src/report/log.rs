//! fio's log files: `write_bw_log`, `write_iops_log`, `write_lat_log`, with `log_avg_msec`.
//!
//! Invariants: adding a sample never allocates while averaging (but for one chunk in thousands of windows), and
//! otherwise once per chunk of samples. Samples come with rising times.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::stats::{Direction, PerDirection};

/// Samples that are allocated at once: 32768 of 40 bytes.
const CHUNK: usize = 32_768;

/// What a log's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Bandwidth in KiB/s.
    Bandwidth,
    /// Requests per second.
    Iops,
    /// Total latency in nanoseconds.
    Lat,
    /// Completion latency in nanoseconds.
    Clat,
    /// Submission latency in nanoseconds.
    Slat,
}

impl LogKind {
    const fn suffix(self) -> &'static str {
        match self {
            LogKind::Bandwidth => "bw",
            LogKind::Iops => "iops",
            LogKind::Lat => "lat",
            LogKind::Clat => "clat",
            LogKind::Slat => "slat",
        }
    }

    /// fio's file name: `<prefix>_bw.1.log` with `job` counted from 1, and without the number for a log that all jobs
    /// share (`per_job_logs=0`).
    pub fn file_name(self, prefix: &str, job: Option<u32>) -> PathBuf {
        let suffix = self.suffix();
        match job {
            Some(job) => format!("{prefix}_{suffix}.{job}.log").into(),
            None => format!("{prefix}_{suffix}.log").into(),
        }
    }
}

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSample {
    /// Milliseconds since the job started.
    pub time_ms: u64,
    /// The value, in the log's unit.
    pub value: u64,
    /// Which direction it is of.
    pub direction: Direction,
    /// Bytes of the request; 0 in averaged logs.
    pub block_bytes: u32,
    /// Offset of the request in bytes; 0 in averaged logs.
    pub offset_bytes: u64,
    /// I/O priority of the request (ioprio_set(2)'s encoding), 0 for none.
    pub priority: u16,
}

/// A log that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the log {path:?}: {source}; its directory must exist and be writable")]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Sum over a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Window {
    sum: u64,
    max: u64,
    count: u64,
}

/// How samples become lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Averaging {
    /// One line per sample.
    Off,
    /// One line per window of so many milliseconds and direction: the mean (`log_avg_msec`).
    Mean(u64),
    /// As before, but the largest value (`log_max_value=1`).
    Max(u64),
}

/// A log in memory, written to its file when the job has ended.
#[derive(Clone, Debug)]
pub struct SampleLog {
    averaging: Averaging,
    window_end_ms: u64,
    windows: PerDirection<Window>,
    full: Vec<Vec<LogSample>>,
    current: Vec<LogSample>,
}

impl SampleLog {
    /// Empty, with the first chunk allocated. A window of 0 ms counts as no averaging, as in fio.
    pub fn new(averaging: Averaging) -> Self {
        let averaging = match averaging {
            Averaging::Mean(0) | Averaging::Max(0) => Averaging::Off,
            other => other,
        };
        let window_end_ms = match averaging {
            Averaging::Off => u64::MAX,
            Averaging::Mean(ms) | Averaging::Max(ms) => ms,
        };
        SampleLog {
            averaging,
            window_end_ms,
            windows: PerDirection::default(),
            full: Vec::new(),
            current: Vec::with_capacity(CHUNK),
        }
    }

    /// Adds a sample.
    #[inline]
    pub fn add(&mut self, sample: LogSample) {
        if self.averaging == Averaging::Off {
            self.push(sample);
            return;
        }
        if sample.time_ms >= self.window_end_ms {
            self.close_windows(sample.time_ms);
        }
        let window = &mut self.windows[sample.direction];
        window.sum = window.sum.saturating_add(sample.value);
        window.max = window.max.max(sample.value);
        window.count += 1;
    }

    /// Adds a line as it is, whatever the averaging: for rates, which are means already.
    pub fn add_line(&mut self, time_ms: u64, value: u64, direction: Direction) {
        self.push(LogSample { time_ms, value, direction, block_bytes: 0, offset_bytes: 0, priority: 0 });
    }

    /// Closes the window that is open: at the job's end.
    pub fn finish(&mut self, now_ms: u64) {
        if self.averaging != Averaging::Off {
            self.close_windows(now_ms);
        }
    }

    /// Writes a line for each direction that had samples, and opens the window that `now_ms` is in. Empty windows
    /// leave no line.
    #[cold]
    fn close_windows(&mut self, now_ms: u64) {
        let (Averaging::Mean(length_ms) | Averaging::Max(length_ms)) = self.averaging else {
            return;
        };
        let time_ms = self.window_end_ms.min(now_ms);
        for direction in Direction::ALL {
            let window = std::mem::take(&mut self.windows[direction]);
            let Some(mean) = window.sum.checked_div(window.count) else {
                continue;
            };
            let value = if matches!(self.averaging, Averaging::Mean(_)) { mean } else { window.max };
            self.add_line(time_ms, value, direction);
        }
        self.window_end_ms = (now_ms / length_ms + 1) * length_ms;
    }

    #[inline]
    fn push(&mut self, sample: LogSample) {
        if self.current.len() == self.current.capacity() {
            self.next_chunk();
        }
        self.current.push(sample);
    }

    #[cold]
    fn next_chunk(&mut self) {
        let full = std::mem::replace(&mut self.current, Vec::with_capacity(CHUNK));
        self.full.push(full);
    }

    /// All lines, in order.
    pub fn samples(&self) -> impl Iterator<Item = &LogSample> {
        self.full.iter().flatten().chain(&self.current)
    }

    /// Writes fio's columns: time, value, direction, block size, offset (with `log_offset=1` only), priority.
    pub fn write_to(&self, out: &mut impl Write, with_offset: bool) -> io::Result<()> {
        for sample in self.samples() {
            let direction = sample.direction.index();
            write!(out, "{}, {}, {direction}, {}, ", sample.time_ms, sample.value, sample.block_bytes)?;
            if with_offset {
                write!(out, "{}, ", sample.offset_bytes)?;
            }
            writeln!(out, "{}", sample.priority)?;
        }
        Ok(())
    }

    /// Writes the log to a file, which is created or emptied.
    ///
    /// # Errors
    /// [`LogError`] with the path when the file cannot be created or written.
    pub fn save(&self, path: &Path, with_offset: bool) -> Result<(), LogError> {
        let write = || {
            let mut out = BufWriter::new(File::create(path)?);
            self.write_to(&mut out, with_offset)?;
            out.flush()
        };
        write().map_err(|source| LogError { path: path.to_owned(), source })
    }
}

/// Bandwidth of a single request in KiB/s, for an unaveraged bandwidth log.
pub fn request_bandwidth_kib(bytes: u64, ns: u64) -> u64 {
    let per_second = u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1));
    u64::try_from(per_second / 1024).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(time_ms: u64, value: u64, direction: Direction) -> LogSample {
        LogSample { time_ms, value, direction, block_bytes: 4096, offset_bytes: 8192, priority: 0 }
    }

    fn text(log: &SampleLog, with_offset: bool) -> String {
        let mut out = Vec::new();
        log.write_to(&mut out, with_offset).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_sample_is_a_line_without_averaging() {
        let mut log = SampleLog::new(Averaging::Mean(0));
        log.add(sample(0, 83054, Direction::Read));
        log.add(sample(1, 75833, Direction::Write));
        log.finish(5);
        assert_eq!(text(&log, false), "0, 83054, 0, 4096, 0\n1, 75833, 1, 4096, 0\n");
        assert_eq!(text(&log, true), "0, 83054, 0, 4096, 8192, 0\n1, 75833, 1, 4096, 8192, 0\n");
    }

    #[test]
    fn averages_are_written_at_the_end_of_their_window() {
        let run = |averaging| {
            let mut log = SampleLog::new(averaging);
            for (time, value) in [(0, 10), (400, 30), (499, 20), (500, 7), (1700, 9)] {
                log.add(sample(time, value, Direction::Read));
            }
            log.add(sample(1701, 100, Direction::Trim));
            log.finish(1800);
            text(&log, false)
        };
        let mean = "500, 20, 0, 0, 0\n1000, 7, 0, 0, 0\n1800, 9, 0, 0, 0\n1800, 100, 2, 0, 0\n";
        assert_eq!(run(Averaging::Mean(500)), mean);
        assert_eq!(run(Averaging::Max(500)), mean.replace("500, 20", "500, 30"));
    }

    #[test]
    fn logs_have_fios_names() {
        assert_eq!(LogKind::Bandwidth.file_name("out/x", Some(1)), Path::new("out/x_bw.1.log"));
        assert_eq!(LogKind::Clat.file_name("x", None), Path::new("x_clat.log"));
    }

    #[test]
    fn a_log_that_cannot_be_written_says_where() {
        let error = SampleLog::new(Averaging::Off).save(Path::new("/nowhere/x_bw.1.log"), false).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x_bw.1.log"), "{error}");
    }

    #[test]
    fn a_request_has_the_bandwidth_of_its_latency() {
        assert_eq!(request_bandwidth_kib(4096, 4_000_000), 1000);
        assert_eq!(request_bandwidth_kib(4096, 0), 4_000_000_000);
    }

    proptest! {
        #[test]
        fn chunks_keep_samples_in_order(count in 0usize..3 * CHUNK) {
            let mut log = SampleLog::new(Averaging::Off);
            (0..count as u64).for_each(|index| log.add(sample(index, index, Direction::Read)));
            prop_assert!(log.samples().map(|sample| sample.value).eq(0..count as u64));
        }

        #[test]
        fn means_lie_within_their_samples(
            samples in proptest::collection::vec((0u64..50, 0u64..1_000_000), 1..200)
        ) {
            let mut log = SampleLog::new(Averaging::Mean(100));
            let mut time = 0;
            for &(step, value) in &samples {
                time += step;
                log.add(sample(time, value, Direction::Write));
            }
            log.finish(time + 1);
            let values = samples.iter().map(|sample| sample.1);
            let (low, high) = (values.clone().min().unwrap(), values.max().unwrap());
            prop_assert!(log.samples().count() >= 1);
            prop_assert!(log.samples().all(|line| (low..=high).contains(&line.value)));
            prop_assert!(log.samples().is_sorted_by(|a, b| a.time_ms < b.time_ms));
        }
    }
}
