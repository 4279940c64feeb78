//! `corelane-bench`: the fio-style bench tool. Options in, report out; everything else is the library's.
//!
//! Exit codes: 0 when every job did its work; 1 when one failed or nothing could be run; 2 for options that cannot be
//! carried out; 128 and the signal's number when a signal ended the run early and no job failed.

use std::io::{self, Write};
use std::process::ExitCode;

use corelane_bench::options::{Parsed, parse_args};
use corelane_bench::run::{self, Ended, RunError};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const EXIT_FAILED: u8 = 1;
const EXIT_BAD_OPTIONS: u8 = 2;
const EXIT_SIGNAL: u8 = 128;

fn main() -> ExitCode {
    init_log();
    let code = match parse_args(std::env::args_os().skip(1)) {
        Err(error) => complain(&error, EXIT_BAD_OPTIONS),
        Ok(Parsed::Help(text)) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            0
        }
        Ok(Parsed::Default(global)) => exit_code(run::run_builtin(&global)),
        Ok(Parsed::Run(plan)) => {
            for job in &plan.jobs {
                for note in &job.notes {
                    let _ = writeln!(io::stderr(), "corelane-bench: job {}: {note}", job.name);
                }
            }
            exit_code(run::run(&plan))
        }
    };
    ExitCode::from(code)
}

/// Warnings go to standard error, beside the report; `RUST_LOG` asks for more or less.
fn init_log() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
}

fn exit_code(ended: Result<Ended, RunError>) -> u8 {
    match ended {
        Err(error) => complain(&error, EXIT_FAILED),
        Ok(Ended { failed: true, .. }) => EXIT_FAILED,
        Ok(Ended { signal: Some(signal), .. }) => {
            EXIT_SIGNAL.saturating_add(u8::try_from(signal).unwrap_or(0))
        }
        Ok(_) => 0,
    }
}

fn complain(error: &dyn std::error::Error, code: u8) -> u8 {
    let _ = writeln!(io::stderr(), "corelane-bench: {error}");
    code
}
