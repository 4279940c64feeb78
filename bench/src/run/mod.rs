//! Runs jobs: from a [`Plan`] to the report of what was done.
//!
//! [`run`] prepares the files and hands the jobs to the conductor, which starts a lane (a thread with an event loop of its
//! own) for each clone of each job. A lane opens a channel on the device that it shares with others and drives one of
//! two loops: the plain one, which only issues requests, or the general one, which knows of everything that slows down,
//! orders or checks. Both count into statistics of their lane; the conductor gathers them for the report.
//!
//! Invariants: a lane never blocks but in its event loop; the conductor never touches what belongs to a lane.

mod conductor;
mod configs;
mod control;
mod devices;
mod error;
mod files;
mod lane;
mod meter;
mod outcome;
mod plain;
mod region;
mod session;
mod setup;
mod token;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Instant;

pub use error::RunError;

use crate::options::{OutputFormat, Plan};
use crate::report::{self, DiskWatch, JsonKind, RunReport};
use conductor::{Conductor, LaneView, Watcher};
use setup::Setup;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether any job failed.
    pub failed: bool,
    /// The signal that ended it early.
    pub signal: Option<i32>,
}

struct Quiet;

impl Watcher for Quiet {
    fn watch(&mut self, _lanes: &[LaneView], _now: Instant) -> Option<Instant> {
        None
    }
}

/// Runs the jobs of `plan` and writes the report to where it asks for.
///
/// # Errors
/// When the run cannot start, or the report cannot be written.
pub fn run(plan: &Plan) -> Result<Ended, RunError> {
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let setup = Setup::new(plan, Arc::clone(&stop));
    for job in &plan.jobs {
        setup.prepare_files(job).map_err(|error| error.of_job(&job.name))?;
    }
    let paths: Vec<_> = plan.jobs.iter().flat_map(|job| job.file_paths(0)).collect();
    let disks = DiskWatch::new(paths.iter().map(AsRef::<Path>::as_ref));
    let mut conductor = Conductor::new(plan, &setup, mpsc::channel(), stop);
    conductor.run(&mut Quiet)?;
    let mut report = outcome::report(plan, &conductor.lanes, began);
    report.disks = disks.report();
    let text = written(&report, &plan.global.formats);
    io::stdout().write_all(text.as_bytes()).map_err(|source| RunError::Output {
        what: "the report",
        to: "standard output".into(),
        source,
    })?;
    let failed = report.jobs.iter().any(|job| job.error != 0);
    Ok(Ended { failed, signal: conductor.signal })
}

/// The report in each of the formats, one after the other.
fn written(report: &RunReport, formats: &[OutputFormat]) -> String {
    formats
        .iter()
        .map(|format| match format {
            OutputFormat::Normal => report::normal(report),
            OutputFormat::Terse => report::terse(report),
            OutputFormat::Json => report::json(report, JsonKind::Plain),
            OutputFormat::JsonPlus => report::json(report, JsonKind::Plus),
        })
        .collect()
}

/// Says something to the user while the run goes on: on standard error, so that a report on standard output stays
/// whole.
fn say(text: &str) {
    // With nobody to read it there is nothing to be done.
    let _ = writeln!(io::stderr(), "corelane-bench: {text}");
}
