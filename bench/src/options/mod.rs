//! The options of `corelane-bench`: fio's names, units and job files, checked and resolved into plain data.
//!
//! [`parse_args`] makes a [`Plan`] of the command line and the job files that it names; the plan is what the job runner
//! works from: one [`JobSpec`] a job section, every option typed, every default filled in, every contradiction already
//! refused. The runner reads no option string.
//!
//! Everything derives from one table of options: the command line, the job file reader, `--help`, `--cmdhelp` and the
//! list in `docs/bench.md`. No option is ignored in silence: one that only fio has is refused with the nearest that
//! there is, an unknown one with the most similar, and one that has no effect in its job is noted with what it needs.

mod cmdline;
mod error;
mod fio_names;
mod help;
mod jobfile;
mod lists;
mod pattern;
mod resolve;
mod section;
mod spec;
mod table;
#[cfg(test)]
mod tests;
mod units;
mod value;

use std::ffi::OsString;
use std::path::Path;

use cmdline::Taken;
use resolve::RunOptions;
use section::Section;

pub use cmdline::command;
pub use error::{OptionError, Place};
pub use spec::{
    Access, BlockSizes, CacheMode, CompletionPolling, ContinueOn, CpuSet, DEFAULT_PERCENTILES, DepthSpec,
    DirectionMix, Distribution, EndSpec, EngineKind, EtaMode, Extent, GlobalSpec, JobSpec, KbBase,
    LatencyTarget, LockingMode, LogSpec, MeasureSpec, OutputFormat, PaceSpec, Pattern, PerDirection, Plan,
    RwMode, SqThread, SyncMode, TargetSpec, ThinkTime, VerifyMethod, VerifySpec, WorkloadSpec, ZoneSpec,
};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Run these jobs.
    Run(Plan),
    /// Print this text (`--help`, `--version`, `--cmdhelp`, `--parse-only`) and end with success.
    Help(String),
    /// Neither jobs nor options of jobs were given: run the built-in job set, with these options of the run.
    Default(GlobalSpec),
}

/// Reads the command line, without the program's name, and the job files that it names.
///
/// # Errors
/// Whatever is wrong, with its place, its value, and what would be right.
pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, OptionError> {
    let (run, mut sections, files) = match cmdline::take(args)? {
        Taken::Text(text) => return Ok(Parsed::Help(text)),
        Taken::Options { run, sections, files } => (run, sections, files),
    };
    let run = RunOptions::new(&run)?;
    if files.is_empty()
        && sections.iter().all(|section| section.title.is_none() && section.settings.is_empty())
    {
        return Ok(Parsed::Default(run.global));
    }
    for (index, file) in files.iter().enumerate() {
        jobfile::read(file, index + 1, &mut sections)?;
    }
    let plan = resolve::plan(&run, &sections)?;
    if run.parse_only {
        let names: Vec<_> = plan.jobs.iter().map(|job| job.name.as_str()).collect();
        return Ok(Parsed::Help(format!("{} jobs: {}\n", names.len(), names.join(", "))));
    }
    Ok(Parsed::Run(plan))
}

/// Reads the text of a job file, as for a job set that is built in. `name` stands for the file in messages, and
/// relative includes start from where it would lie; `global` is taken over into the plan.
///
/// # Errors
/// As [`parse_args`].
pub fn parse_job_text(name: &Path, text: &str, global: &GlobalSpec) -> Result<Plan, OptionError> {
    let mut sections: Vec<Section> = Vec::new();
    jobfile::parse(name, text, 1, &mut sections)?;
    resolve::plan(&RunOptions { global: global.clone(), ..RunOptions::default() }, &sections)
}

/// The list of all options as `docs/bench.md` has it.
pub fn options_markdown() -> String {
    help::markdown()
}
