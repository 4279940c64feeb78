//! `corelane-bench`: the fio-style bench tool. Options in, report out; everything else is the library's.

use std::io::{self, Write};
use std::process::ExitCode;

use corelane_bench::options::{Parsed, parse_args};
use corelane_bench::run;

/// What is wrong with the options.
const EXIT_BAD_OPTIONS: u8 = 2;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match parse_args(std::env::args_os().skip(1)) {
        Err(error) => {
            let _ = writeln!(io::stderr(), "corelane-bench: {error}");
            ExitCode::from(EXIT_BAD_OPTIONS)
        }
        Ok(Parsed::Help(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Parsed::Default(_)) => ExitCode::SUCCESS,
        Ok(Parsed::Run(plan)) => match run::run(&plan) {
            Ok(ended) if ended.failed => ExitCode::FAILURE,
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "corelane-bench: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
