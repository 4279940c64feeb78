//! Runs jobs: from a [`Plan`] to the report of what was done.
//!
//! [`run`] prepares the files and hands the jobs to the conductor, which starts a lane (a thread with an event loop of its
//! own) for each clone of each job. A lane opens a channel on the device that it shares with others and drives one of
//! two loops: the plain one, which only issues requests, or the general one, which knows of everything that slows down,
//! orders or checks. Both count into statistics of their lane; the conductor gathers them for the report.
//!
//! Invariants: a lane never blocks but in its event loop; the conductor never touches what belongs to a lane.

mod builtin;
mod bytes;
mod conductor;
mod configs;
mod control;
mod devices;
mod error;
mod files;
mod general;
mod lane;
mod logs;
mod meter;
mod nvme;
mod outcome;
mod output;
mod plain;
mod region;
mod session;
mod setup;
mod signals;
mod token;
mod watch;
mod zones;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Instant;

pub use error::RunError;

use crate::options::{EngineKind, GlobalSpec, JobSpec, Plan};
use crate::report::{self, DiskWatch};
use conductor::Conductor;
use output::Output;
use setup::Setup;
use signals::Catcher;
use watch::Display;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether any job failed.
    pub failed: bool,
    /// The signal that ended it early.
    pub signal: Option<i32>,
}

/// Runs the built-in job set: a few seconds of reads and writes on a scratch file which is gone afterwards.
///
/// # Errors
/// As [`run`], and when no scratch file can be made.
pub fn run_builtin(global: &GlobalSpec) -> Result<Ended, RunError> {
    let builtin = builtin::jobs(global)?;
    run(&builtin.plan)
}

/// Runs the jobs of `plan` and writes the report to where it asks for.
///
/// # Errors
/// When the run cannot start, or the report cannot be written.
pub fn run(plan: &Plan) -> Result<Ended, RunError> {
    let began = Instant::now();
    let mut output = Output::open(&plan.global)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, events) = mpsc::channel();
    let catcher = Catcher::new(Arc::clone(&stop), sender.clone())?;
    let setup = Setup::new(plan, Arc::clone(&stop));
    if output.is_normal() {
        let jobs: Vec<_> = plan.jobs.iter().map(outcome::banner_job).collect();
        output.text(&report::banner(&jobs))?;
    }
    for job in &plan.jobs {
        setup.prepare_files(job).map_err(|error| error.of_job(&job.name))?;
    }
    let paths: Vec<_> = plan.jobs.iter().filter(|job| job.target.engine == EngineKind::IoUring).collect();
    let all_clones =
        |job: &JobSpec| -> Vec<_> { (0..job.num_jobs).flat_map(|clone| job.file_paths(clone)).collect() };
    let paths: Vec<_> = paths.iter().flat_map(|job| all_clones(job)).collect();
    let disks = DiskWatch::new(paths.iter().map(AsRef::<Path>::as_ref));
    let mut conductor = Conductor::new(plan, &setup, (sender, events), stop);
    let mut display = Display::new(plan, &mut output, began);
    let worked = conductor.run(&mut display);
    display.clear();
    drop(catcher);
    worked?;
    let mut report = outcome::report(plan, &conductor.lanes, began);
    report.disks = disks.report();
    output.report(&report)?;
    if let Some(path) = &plan.global.plot {
        report::plot::save(&report, path)?;
    }
    let failed = report.jobs.iter().any(|job| job.error != 0 || job.stats.errors.total > 0);
    Ok(Ended { failed, signal: conductor.signal })
}

/// Says something to the user while the run goes on: on standard error, so that a report on standard output stays
/// whole.
fn say(text: &str) {
    // With nobody to read it there is nothing to be done.
    let _ = writeln!(io::stderr(), "corelane-bench: {text}");
}
