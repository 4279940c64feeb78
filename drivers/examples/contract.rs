//! Checks the file driver on a file or device of yours, in every way that it can be opened. **Its first 2 MiB are lost.**
//!
//!     cargo run --release -p corelane-drivers --example contract -- /dev/nvme9n9
//!
//! The tests do the same on scratch files and loop devices; this is for devices that they do not have, such as one
//! with polled queues.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use corelane_drivers::contract::{ContractOptions, check};
use corelane_drivers::file::{CacheMode, DiscardMode, FileDriver, FileOptions, SqPoll};
use corelane_engine::block::BlockDriver;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: contract FILE-OR-DEVICE (its first 2 MiB are lost)");
        return ExitCode::from(2);
    };
    let base = FileOptions::new(path).discard(DiscardMode::Unmap);
    let mut ways: Vec<(String, FileOptions)> =
        CacheMode::ALL.map(|cache| (format!("cache={cache}"), base.clone().cache(cache))).into();
    let direct = base.cache(CacheMode::None);
    let sqpoll = Some(SqPoll::default());
    ways.push(("cache=none, sqpoll".to_owned(), direct.clone().sqpoll(sqpoll)));
    ways.push(("cache=none, iopoll".to_owned(), direct.clone().iopoll(true)));
    ways.push(("cache=none, iopoll, sqpoll".to_owned(), direct.iopoll(true).sqpoll(sqpoll)));
    let mut sound = true;
    for (name, options) in &ways {
        sound &= check_one(name, options);
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the contract is kept.
fn check_one(name: &str, options: &FileOptions) -> bool {
    match FileDriver::open(options) {
        Ok(driver) => println!("{name}: {:?}", driver.limits()),
        Err(error) => println!("{name}: {error}"),
    }
    let factory = || FileDriver::open(options).map(|driver| Box::new(driver) as _);
    match check(&factory, &ContractOptions::default()) {
        Ok(report) => {
            println!("{name}: kept, {report:?}");
            true
        }
        Err(violation) => {
            println!("{name}: not kept: {violation}");
            false
        }
    }
}
