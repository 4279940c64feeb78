//! The sums of a run.

use std::collections::BTreeMap;
use std::fmt;

/// What was done and what came of it.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    pub sequences: u64,
    pub requests: u64,
    /// Requests that ended with an error, by its name.
    pub errors: BTreeMap<String, u64>,
    /// Faults that the controller made, by name.
    pub faults: BTreeMap<&'static str, u64>,
    pub aborts: u64,
    pub resets: u64,
    /// How often the controller was opened; and how often it could not be, with faults while it was.
    pub opened: u64,
    pub not_opened: u64,
    /// How often it was given up, went away, or could not even be stopped.
    pub given_up: u64,
    pub lost: u64,
}

impl Tally {
    pub fn failed(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    pub fn add(&mut self, other: &Tally) {
        self.sequences += other.sequences;
        self.requests += other.requests;
        self.aborts += other.aborts;
        self.resets += other.resets;
        self.opened += other.opened;
        self.not_opened += other.not_opened;
        self.given_up += other.given_up;
        self.lost += other.lost;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: u64 = self.errors.values().sum();
        let faults: u64 = self.faults.values().sum();
        writeln!(f, "{} sequences, {} requests, of which {failed} failed", self.sequences, self.requests)?;
        for (error, count) in &self.errors {
            writeln!(f, "  {count:>9} {error}")?;
        }
        writeln!(f, "{faults} faults")?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {count:>9} {fault}")?;
        }
        writeln!(f, "{} commands aborted, {} resets", self.aborts, self.resets)?;
        write!(
            f,
            "opened {} times, {} times not; given up {} times, lost {} times",
            self.opened, self.not_opened, self.given_up, self.lost
        )
    }
}
