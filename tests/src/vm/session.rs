//! Outcomes of cases, one boot for all cases of a machine.
//!
//! cargo-nextest runs each test in a process of its own. The first of a run that needs a machine boots it, runs all of its
//! cases, and leaves their outcomes in a folder of that run; the others wait for it and take theirs from there. Within one
//! process, as cargo alone runs tests, a session keeps them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::protocol::Outcome;
use super::{Boot, Case, Machine, System, cases, place};

/// A run's folder is of no use to anyone after this time.
const KEPT: Duration = Duration::from_secs(3600);

/// What came of the cases of a machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// By name.
    outcomes: BTreeMap<String, Outcome>,
}

/// A run of tests.
pub struct Session {
    system: System,
    folder: PathBuf,
    /// Cases with this in their names are run; all when it is empty.
    wanted: Box<dyn Fn(&Case) -> bool + Send + Sync>,
}

impl Session {
    /// The session that this process is part of: nextest's run, or one of its own.
    ///
    /// # Panics
    /// When its folder cannot be made.
    pub fn new(system: System, wanted: Box<dyn Fn(&Case) -> bool + Send + Sync>) -> Session {
        let runs = place::folder().join("runs");
        remove_old(&runs);
        let name =
            std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("process-{}", std::process::id()));
        let folder = runs.join(name);
        std::fs::create_dir_all(&folder)
            .unwrap_or_else(|err| panic!("cannot make {}: {err}", folder.display()));
        Session { system, folder, wanted }
    }

    /// What there is to boot with.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// What came of a case. Boots its machine when nobody did.
    ///
    /// # Panics
    /// When the session's files cannot be used.
    pub fn outcome(&self, case: &'static Case) -> Outcome {
        let machine = case.machine;
        let folder = self.folder.join(machine.name);
        std::fs::create_dir_all(&folder).expect("the run's folder is ours");
        // Held until the outcomes are there.
        let _lock = place::lock(&folder.join("lock")).expect("the run's folder can be locked");
        let path = folder.join("outcomes.json");
        let mut report = load(&path);
        if let Some(outcome) = report.outcomes.get(case.name) {
            return outcome.clone();
        }
        let mut cases: Vec<_> = cases::all()
            .filter(|other| std::ptr::eq(other.machine, machine) && (self.wanted)(other))
            .collect();
        if !cases.iter().any(|other| other.name == case.name) {
            cases.push(case);
        }
        self.run(machine, &folder, &cases, &mut report);
        std::fs::write(&path, serde_json::to_vec(&report).expect("outcomes are plain data"))
            .expect("it can be written");
        report.outcomes[case.name].clone()
    }

    /// Runs cases of one machine in as many boots as it takes: one, if no case brings the guest down.
    fn run(&self, machine: &'static Machine, folder: &Path, cases: &[&'static Case], report: &mut Report) {
        let boot = match Boot::new(machine, &self.system, folder) {
            Ok(boot) => boot,
            Err(err) => return fail_all(cases, &err.to_string(), report),
        };
        let mut left = cases.to_vec();
        while !left.is_empty() {
            let before = left.len();
            let mut done = Vec::new();
            let booted = boot.run(&left, &mut |case, outcome| {
                done.push(case.name);
                report.outcomes.insert(case.name.to_owned(), outcome);
            });
            left.retain(|case| !done.contains(&case.name));
            if let Err(err) = booted {
                return fail_all(&left, &err.to_string(), report);
            }
            assert!(left.len() < before, "a boot reports at least one case");
        }
    }
}

fn fail_all(cases: &[&'static Case], reason: &str, report: &mut Report) {
    for case in cases {
        report.outcomes.insert(case.name.to_owned(), Outcome::failed(reason));
    }
}

fn load(path: &Path) -> Report {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Removes the folders of runs that have ended long ago.
fn remove_old(runs: &Path) {
    let Ok(entries) = std::fs::read_dir(runs) else { return };
    for entry in entries.flatten() {
        let age =
            entry.metadata().and_then(|of| of.modified()).map(|at| SystemTime::now().duration_since(at));
        if matches!(age, Ok(Ok(age)) if age > KEPT) {
            // Another process may remove it at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
