//! What a run is made of, as plain data: [`Plan`], [`GlobalSpec`] and [`JobSpec`].
//!
//! Invariants: every value is within the range that its documentation states, every default is filled in, and the
//! combinations were checked; a runner may rely on all of it. Times are [`Duration`]s, sizes are bytes. A size which
//! was given as a percentage stays an [`Extent`], because only the runner knows the length that it is a share of.

mod measure;
mod target;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

pub use measure::{DEFAULT_PERCENTILES, EtaMode, GlobalSpec, LogSpec, MeasureSpec, OutputFormat};
pub use target::{CacheMode, CompletionPolling, EngineKind, LockingMode, SqThread, SyncMode, TargetSpec};
pub use workload::{
    Access, BlockSizes, DepthSpec, DirectionMix, Distribution, EndSpec, LatencyTarget, PaceSpec, Pattern,
    PerDirection, RwMode, ThinkTime, VerifyMethod, VerifySpec, WorkloadSpec, ZoneSpec,
};

/// Everything one invocation is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What holds for the whole run: output, progress, plot.
    pub global: GlobalSpec,
    /// The jobs in the order in which they were given; never empty.
    pub jobs: Vec<JobSpec>,
}

/// One job section, resolved: its own options over those of the `[global]` sections above it over the defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSpec {
    /// The name from `--name=`, the section's title, or a `name=` inside the section. Not empty.
    pub name: String,
    /// Free text for the report (`description`).
    pub description: Option<String>,
    /// The options of this section (not those inherited from `[global]`), canonical name and value, in the order
    /// given; a bare flag has the value `1`. This is what fio's JSON shows as `"job options"`.
    pub given: Vec<(String, String)>,
    /// What the user should know of his options: which of them do nothing in this job and what they need, and which do
    /// less than in fio.
    pub notes: Vec<String>,
    /// How k, m, g and ki, mi, gi were read in this job (`kb_base`). The report has its units whatever this is.
    pub kb_base: KbBase,

    /// Reporting group, from 0: a job with `stonewall` or `new_group` (and the first job of every further job file)
    /// opens a new one, unless it is the very first job. Clones share their job's group.
    pub group_id: u32,
    /// Report the group's jobs as one (`group_reporting`).
    pub group_reporting: bool,
    /// Start only when every earlier job has ended (`stonewall`, `wait_for_previous`; also set on the first job of
    /// every job file after the first).
    pub wait_for_previous: bool,
    /// How many clones of the job run at once, each in a lane of its own (`numjobs`), 1 to 4096. Clone `i` has the
    /// offset `offset + i * offset_increment`.
    pub num_jobs: u32,
    /// Wait this long after the job could start (`startdelay`).
    pub start_delay: Duration,
    /// The CPUs the lanes may run on (`cpus_allowed`); `None`: anywhere. With one CPU a lane is pinned to it.
    pub cpus_allowed: Option<CpuSet>,
    /// Which errors are counted and survived instead of ending the job (`continue_on_error`).
    pub continue_on: ContinueOn,
    /// End every other job when this one ends with an error (`exitall_on_error`).
    pub exit_all_on_error: bool,

    /// Which device and how it is opened.
    pub target: TargetSpec,
    /// Which requests are issued, where, and of what size.
    pub workload: WorkloadSpec,
    /// How many requests are in flight, and how they are batched.
    pub depth: DepthSpec,
    /// When the job ends and what of it is measured.
    pub end: EndSpec,
    /// What slows the job down: rates, think time, the search for a latency target.
    pub pace: PaceSpec,
    /// Verification of data; `None`: nothing is verified.
    pub verify: Option<VerifySpec>,
    /// Which latencies are taken and which percentiles are shown.
    pub measure: MeasureSpec,
    /// The logs over time that are written.
    pub logs: LogSpec,
}

/// How unit prefixes are read (fio's `kb_base`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KbBase {
    /// `kb_base=1024`, the default: `k` is 1024 and `ki` is 1000, fio's compatibility rule.
    #[default]
    Binary,
    /// `kb_base=1000`: `k` is 1000 and `ki` is 1024, as SI and IEC 80000-13 have it.
    Decimal,
}

/// Numbers of CPUs, ascending, without repeats, never empty (`cpus_allowed=0,2-3`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSet(pub Vec<u32>);

/// Which errors a job survives (`continue_on_error`); all false: the first error ends the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContinueOn {
    /// Errors of reads.
    pub read: bool,
    /// Errors of writes, trims and flushes.
    pub write: bool,
    /// Data that did not verify.
    pub verify: bool,
}

/// A length or position: absolute, or a share of a length which the runner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bytes.
    Bytes(u64),
    /// Per cent: of the file's length for `size`, `offset` and `offset_increment` (1 to 100, an offset also 0), of
    /// `size` for `io_size` (at least 1, may exceed 100).
    Percent(u32),
}

impl Extent {
    /// The length in bytes, where `whole_bytes` is what a percentage is a share of; rounds down, saturates at
    /// `u64::MAX`.
    pub fn resolve_bytes(self, whole_bytes: u64) -> u64 {
        match self {
            Extent::Bytes(bytes) => bytes,
            Extent::Percent(percent) => {
                let share = u128::from(whole_bytes) * u128::from(percent) / 100;
                u64::try_from(share).unwrap_or(u64::MAX)
            }
        }
    }
}

impl JobSpec {
    /// The paths that clone `clone` (from 0, less than `num_jobs`) of this job works on, never empty.
    ///
    /// fio's rules: relative names of `filename` lie in the first directory, so that all clones share them; without
    /// `filename` one name is made from `filename_format`, in directory number `clone` of `directory`, round robin.
    pub fn file_paths(&self, clone: u32) -> Vec<PathBuf> {
        let directories = &self.target.directories;
        if !self.target.filenames.is_empty() {
            if self.target.engine == EngineKind::Nvme {
                return self.target.filenames.iter().map(PathBuf::from).collect();
            }
            let base = directories.first().cloned().unwrap_or_default();
            return self.target.filenames.iter().map(|name| base.join(name)).collect();
        }
        let made = self.target.filename_format.replace("$jobname", &self.name.replace('/', "."));
        let made = made.replace("$jobnum", &clone.to_string()).replace("$filenum", "0");
        let index = (clone as usize).checked_rem(directories.len());
        let base = index.map(|index| directories[index].clone()).unwrap_or_default();
        vec![base.join(made)]
    }
}
