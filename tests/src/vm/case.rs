//! A test that runs in the guest.

use std::time::Duration;

use super::{Guest, Machine, cases};

/// A test that runs in the guest. It is written as other tests are: it panics when something is wrong.
#[derive(Debug)]
pub struct Case {
    /// `group::what_is_so`.
    pub name: &'static str,
    /// Where it runs.
    pub machine: &'static Machine,
    /// Runs it, in a process of its own.
    pub run: fn(&Guest),
    /// When it counts as hung.
    pub limit: Duration,
}

/// The case that is called `name`.
pub fn find_case(name: &str) -> Option<&'static Case> {
    cases::all().find(|case| case.name == name)
}
