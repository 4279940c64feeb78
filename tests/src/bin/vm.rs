//! Runs one case in a virtual machine by hand, or gives a shell in one.
//!
//!     cargo run -p corelane-tests --bin vm -- list
//!     cargo run -p corelane-tests --bin vm -- run guest_driver
//!     cargo run -p corelane-tests --bin vm -- shell nvme
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use corelane_tests::vm::{Boot, Case, System, build, cases};

const USAGE: &str = "usage: vm list | ready | build | run PART-OF-A-NAME | shell MACHINE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["list"] => {
            cases::all().for_each(|case| println!("{:<8} vm::{}", case.machine.name, case.name));
            Ok(true)
        }
        ["ready"] => ready().map(|_| true),
        ["build"] => build().map(|_| true).map_err(Error::from),
        ["run", part] => run(part),
        ["shell", machine] => shell(machine),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::from(2)
        }
    }
}

/// What the machines need of the host.
fn ready() -> Result<System, Error> {
    System::find().map_err(|lacking| lacking.to_string().into())
}

type Error = Box<dyn std::error::Error>;

/// Runs the cases with `part` in their names, a boot for each machine, and shows all that they print. Whether all passed.
fn run(part: &str) -> Result<bool, Error> {
    let system = ready()?;
    let mut left: Vec<&'static Case> =
        cases::all().filter(|case| format!("vm::{}", case.name).contains(part)).collect();
    if left.is_empty() {
        return Err(format!("no case has {part} in its name; `vm list` lists them").into());
    }
    let mut passed = true;
    while let Some(first) = left.first() {
        let machine = first.machine;
        let cases: Vec<_> = left.iter().copied().filter(|case| std::ptr::eq(case.machine, machine)).collect();
        let folder = tempfile::tempdir_in(corelane_tests::vm::folder())?;
        let mut done = Vec::new();
        Boot::new(machine, &system, folder.path())?.run(&cases, &mut |case, outcome| {
            let word = if outcome.passed { "passed" } else { "FAILED" };
            println!("== {} {word} after {} ms {}", case.name, outcome.took_ms, outcome.reason);
            println!("{}-- guest's log\n{}", outcome.output, outcome.log);
            passed &= outcome.passed;
            done.push(case.name);
        })?;
        left.retain(|case| !done.contains(&case.name));
    }
    Ok(passed)
}

/// Boots a machine to a shell.
fn shell(name: &str) -> Result<bool, Error> {
    let system = ready()?;
    let machine = cases::all().map(|case| case.machine).find(|machine| machine.name == name);
    let machine = machine.ok_or("no such machine; `vm list` lists them in its first column")?;
    let folder = tempfile::tempdir_in(corelane_tests::vm::folder())?;
    system.can_run(machine).map_err(|lacking| lacking.to_string())?;
    let boot = Boot::new(machine, &system, folder.path())?;
    println!("Ctrl-a x ends QEMU; the cases are `/init NAME`");
    Ok(boot.shell()?.success())
}
