//! What can keep a run from starting or a job from working, in words that say what to do.

use std::io;
use std::path::PathBuf;

use corelane_dma::DmaError;
use corelane_drivers::nvme::commands::CommandError;
use corelane_engine::aio::AioError;
use corelane_engine::block::BlockError;

use crate::report::log::LogError;
use crate::report::plot::PlotError;
use crate::workload::{PatternError, ReplayError, VerifierError, WorkloadError};

/// Why a run did not start, or a job could not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A file could not be made ready.
    #[error("cannot {what} '{}': {source}{hint}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What would help; empty or starting with `; `.
        hint: &'static str,
    },
    /// The file's length and the job's region do not fit.
    #[error("'{}': {what}; {right}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// What would be right.
        right: String,
    },
    /// The job does not fit the device's zones.
    #[error("'{}': {what}; {right}", path.display())]
    Zones {
        /// The device.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// What would be right.
        right: String,
    },
    /// A command for zones failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The workload is impossible.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The verification is impossible.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// The fill pattern is impossible.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// `verify_only` cannot know what was written.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The device could not be opened or used.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The lane could not be made.
    #[error(transparent)]
    Aio(#[from] AioError),
    /// No memory for buffers.
    #[error(
        "no memory for {blocks} buffers of {block_bytes} bytes (iodepth times the largest block): {source}"
    )]
    Buffers {
        /// How many.
        blocks: u32,
        /// Of what size.
        block_bytes: usize,
        /// Why not.
        source: DmaError,
    },
    /// A lane's thread could not be made or pinned.
    #[error("cannot {what}: {source}")]
    Thread {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something of a job; every error that reaches the user names its job.
    #[error("job {job}: {source}")]
    Job {
        /// The job's name.
        job: String,
        /// What is wrong.
        source: Box<RunError>,
    },
    /// A log could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The plot could not be made.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The report could not be written.
    #[error("cannot write {what} to {}: {source}", to.display())]
    Output {
        /// What.
        what: &'static str,
        /// Where to.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RunError {
    /// The same, naming the job.
    pub fn of_job(self, job: &str) -> RunError {
        match self {
            already @ RunError::Job { .. } => already,
            source => RunError::Job { job: job.to_owned(), source: Box::new(source) },
        }
    }

    /// The errno behind it, for the report; `EIO` where there is none.
    pub fn errno(&self) -> i32 {
        match self {
            RunError::File { source, .. } | RunError::Thread { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            RunError::Block(BlockError::Io { source, .. }) => source.raw_os_error().unwrap_or(libc::EIO),
            RunError::Job { source, .. } => source.errno(),
            RunError::Size { .. } | RunError::Zones { .. } | RunError::Workload(_) => libc::EINVAL,
            _ => libc::EIO,
        }
    }
}
