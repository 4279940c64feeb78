//! `verify_only`: what an earlier run with the same options wrote, found again without doing it.
//!
//! The generator makes the same sequence from the same options, so playing it into a [`WrittenLog`] gives the log that
//! the run ended with, for any order of writes, sizes and overlaps. That takes the run's order of writes to be the
//! generator's where they overlap, which [`OverlapGuard`](super::OverlapGuard) makes true.
//!
//! A run that was cut short (by `runtime`, Ctrl-C) issued the first so many writes of the sequence and finished all of
//! them. How many, its [`VerifyState`] says if it was saved; otherwise
//! [`HeaderScan::highest_sequence`](super::HeaderScan::highest_sequence) plus 1 of the file. Without either the whole
//! sequence is expected, as in fio, and what is missing is reported as [`Fault::NotWritten`](super::Fault::NotWritten).
//!
//! `time_based` runs have no end to play to, so they need a number of writes; fio does not support them at all.

use super::config::{Direction, Limit, WorkloadConfig, WorkloadError};
use super::generator::Generator;
use super::rng::job_seed;
use super::written::{WriteCounter, WrittenLog};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Why a run cannot be played again.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ReplayError {
    /// The options are wrong in themselves.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A time-based run of unknown length.
    #[error(
        "verify_only cannot know how far a time_based run came; give io_size or loops instead of time_based, in the run and in verify_only"
    )]
    Endless,
}

/// The log that a run with `config` ended with, after its first `writes` writes, or after all when `None`. Costs one
/// generated I/O for each that the run did.
///
/// # Errors
/// [`ReplayError`] when the configuration is wrong or has no end.
pub fn replay(config: &WorkloadConfig, writes: Option<u64>) -> Result<WrittenLog, ReplayError> {
    if writes.is_none() && config.limit == Limit::Endless {
        return Err(ReplayError::Endless);
    }
    let writes = writes.unwrap_or(u64::MAX);
    let mut log = WrittenLog::new();
    let mut counter = WriteCounter::new();
    if !config.operations.writes() {
        Generator::new(config)?;
        return Ok(log);
    }
    let mut generator = Generator::new(config)?;
    while let Some(io) = generator.next_io() {
        // Trims between the last write and the next may have been done or not: they are taken as done, which leaves
        // their bytes unchecked.
        if io.direction == Direction::Write && counter.writes() >= writes {
            break;
        }
        match counter.stamp(&io) {
            Some(block) => log.record(block),
            None if io.direction == Direction::Trim => log.forget(io.offset, u64::from(io.bytes)),
            None => {}
        }
    }
    Ok(log)
}

/// How far a job came, to be kept beside its file for a later `verify_only` (fio's `verify_state_save`).
///
/// Its text is lines of `name=value`; [`FromStr`] reads what [`Display`](fmt::Display) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyState {
    /// The job's [`job_seed`], to recognize the state of other options.
    pub seed: u64,
    /// Index of the job among its clones.
    pub job_index: u32,
    /// How many writes, from the first on, it issued and finished.
    pub writes: u64,
}

/// A state file that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VerifyStateError {
    /// Not one of ours.
    #[error("no verify state: its first line is {found:?}, not {FIRST_LINE:?}")]
    FirstLine {
        /// The first line.
        found: String,
    },
    /// A line that is no `name=number`, or whose name is unknown.
    #[error("verify state, line {line}: {text:?} is not seed=, job= or writes= and a number")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// Something is missing.
    #[error("verify state without {name}=")]
    Missing {
        /// What.
        name: &'static str,
    },
    /// It belongs to another job.
    #[error(
        "the verify state is of another job (seed {found_seed:#x}, job {found_job}); this is seed {seed:#x}, job {job}: give the options of the run that wrote it"
    )]
    OtherJob {
        /// Seed in the state.
        found_seed: u64,
        /// Job index in the state.
        found_job: u32,
        /// Seed of this job.
        seed: u64,
        /// Index of this job.
        job: u32,
    },
}

const FIRST_LINE: &str = "corelane-verify-state 1";

impl VerifyState {
    /// Of a job that finished its first `writes` writes.
    pub fn new(config: &WorkloadConfig, writes: u64) -> Self {
        Self { seed: job_seed(config.seed, config.job_index), job_index: config.job_index, writes }
    }

    /// The number of writes, if this is the state of a job with this configuration's seed and index.
    ///
    /// # Errors
    /// [`VerifyStateError::OtherJob`] when it is not.
    pub fn writes_of(&self, config: &WorkloadConfig) -> Result<u64, VerifyStateError> {
        let own = Self::new(config, self.writes);
        if *self == own {
            return Ok(self.writes);
        }
        Err(VerifyStateError::OtherJob {
            found_seed: self.seed,
            found_job: self.job_index,
            seed: own.seed,
            job: own.job_index,
        })
    }
}

impl fmt::Display for VerifyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nseed={}\njob={}\nwrites={}", self.seed, self.job_index, self.writes)
    }
}

impl FromStr for VerifyState {
    type Err = VerifyStateError;

    fn from_str(text: &str) -> Result<Self, VerifyStateError> {
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, FIRST_LINE)) => {}
            other => {
                let found = other.map_or("", |(_, line)| line).chars().take(80).collect();
                return Err(VerifyStateError::FirstLine { found });
            }
        }
        let (mut seed, mut job_index, mut writes) = (None, None, None);
        for (at, line) in lines {
            let bad = || VerifyStateError::Line { line: at + 1, text: line.chars().take(80).collect() };
            let (name, value) = line.split_once('=').ok_or_else(bad)?;
            let value: u64 = value.parse().map_err(|_| bad())?;
            match name {
                "seed" => seed = Some(value),
                "job" => job_index = Some(u32::try_from(value).map_err(|_| bad())?),
                "writes" => writes = Some(value),
                _ => return Err(bad()),
            }
        }
        let missing = |name| VerifyStateError::Missing { name };
        Ok(Self {
            seed: seed.ok_or(missing("seed"))?,
            job_index: job_index.ok_or(missing("job"))?,
            writes: writes.ok_or(missing("writes"))?,
        })
    }
}

#[cfg(test)]
mod tests;
