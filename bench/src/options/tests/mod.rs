//! Command lines and job files, good and bad, read as a whole.

mod bad;
mod docs;
mod good;
mod inherit;
mod jobfiles;

use std::ffi::OsString;

use super::{JobSpec, OptionError, Parsed, Plan, parse_args};

/// Splits at blanks: no argument in the tests has one.
fn args(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn parsed(line: &str) -> Result<Parsed, OptionError> {
    parse_args(args(line))
}

#[track_caller]
fn plan(line: &str) -> Plan {
    match parsed(line) {
        Ok(Parsed::Run(plan)) => plan,
        other => panic!("{line}: {other:?}"),
    }
}

/// The only job of a command line; `--name=j` is put in front.
#[track_caller]
fn job(line: &str) -> JobSpec {
    let mut plan = plan(&format!("--name=j {line}"));
    assert_eq!(plan.jobs.len(), 1);
    plan.jobs.remove(0)
}

/// The message of a command line that is refused; `--name=j` is put in front.
#[track_caller]
fn refusal(line: &str) -> String {
    match parsed(&format!("--name=j {line}")) {
        Err(error) => error.to_string(),
        Ok(parsed) => panic!("{line} was taken: {parsed:?}"),
    }
}
