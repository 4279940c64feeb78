//! The cases of the virtual machines as ordinary tests, by name.

use std::sync::OnceLock;

use corelane_tests::vm::{Case, Session, System, cases};
use corelane_tests::{Lack, foreign_program, skip};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let trials = cases::all().map(|case| {
        let arguments = arguments.clone();
        Trial::test(format!("vm::{}", case.name), move || run(case, &arguments))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// Runs a case, with the others that its machine's boot is shared with.
#[allow(clippy::print_stdout)] // What a test prints.
fn run(case: &'static Case, arguments: &Arguments) -> Result<(), Failed> {
    static SESSION: OnceLock<Result<Session, String>> = OnceLock::new();
    let session = SESSION.get_or_init(|| match System::find() {
        Ok(system) => Ok(Session::new(system, wanted(arguments))),
        Err(lacking) => Err(lacking.to_string()),
    });
    let session = match session {
        Ok(session) => session,
        Err(lacking) => {
            skip(Lack::VirtualMachine, lacking);
            return Ok(());
        }
    };
    if let Err(lacking) = session.system().can_run(case.machine) {
        skip(Lack::VirtualMachine, lacking);
        return Ok(());
    }
    // A machine of a later QEMU has its programs from elsewhere.
    if !case.machine.is_later()
        && case.machine.programs.iter().any(|program| foreign_program(program).is_none())
    {
        return Ok(());
    }
    let outcome = session.outcome(case);
    if outcome.passed {
        print!("{}", outcome.output);
        return Ok(());
    }
    Err(format!("{}\n{}-- the guest's log\n{}", outcome.reason, outcome.output, outcome.log).into())
}

/// Which cases a boot runs. cargo-nextest names one case only, in each of its processes, and all are wanted there but for
/// what `tests/run` was told.
fn wanted(arguments: &Arguments) -> Box<dyn Fn(&Case) -> bool + Send + Sync> {
    let part = match std::env::var_os("NEXTEST_RUN_ID") {
        Some(_) => std::env::var("CORELANE_FILTER").ok(),
        None => arguments.filter.clone(),
    };
    Box::new(move |case| {
        part.as_ref().is_none_or(|part| format!("vm::{}", case.name).contains(part.as_str()))
    })
}
