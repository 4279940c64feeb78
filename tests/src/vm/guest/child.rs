//! A case in a process of its own, so that it may crash, hang or leave things open.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use super::ask::Relay;
use super::port::Port;
use crate::vm::protocol::Outcome;
use crate::vm::{Case, Guest};

const OUTPUT: &str = "/tmp/output";
/// Is there when the case that ran makes a stray access.
const STRAY: &str = "/tmp/stray-access";
/// How much of a case's output is brought back, from its end.
const MOST_OUTPUT_BYTES: usize = 64 << 10;
/// How long a killed process may take to go: it may be in the middle of something in the kernel.
const KILLED_LIMIT: Duration = Duration::from_secs(10);

/// Runs a case in this process.
pub fn run(case: &Case) -> ExitCode {
    let filter = std::env::var("CORELANE_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    (case.run)(&Guest { machine: case.machine });
    ExitCode::SUCCESS
}

/// Runs a case in a process of its own, and waits for it.
pub fn spawn(case: &Case, environment: &[(String, String)], port: &mut Port) -> Outcome {
    let start = Instant::now();
    // The last one's.
    let _ = std::fs::remove_file(STRAY);
    let mut outcome = match run_child(case, environment, port) {
        Ok(()) => Outcome { passed: true, ..Outcome::failed("") },
        Err(reason) => Outcome::failed(reason),
    };
    outcome.took_ms = start.elapsed().as_millis() as u64;
    let output = std::fs::read(OUTPUT).unwrap_or_default();
    let skipped = output.len().saturating_sub(MOST_OUTPUT_BYTES);
    outcome.output = String::from_utf8_lossy(&output[skipped..]).into_owned();
    outcome
}

fn run_child(case: &Case, environment: &[(String, String)], port: &mut Port) -> Result<(), String> {
    let output =
        || File::options().create(true).append(true).open(OUTPUT).map_err(|err| format!("{OUTPUT}: {err}"));
    File::create(OUTPUT).map_err(|err| format!("{OUTPUT}: {err}"))?;
    let (mut relay, input) = Relay::new().map_err(|err| format!("no socket: {err}"))?;
    let mut child = Command::new("/proc/self/exe")
        .arg(case.name)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .envs([("RUST_BACKTRACE", "1"), ("PATH", "/bin")])
        .stdin(input)
        .stdout(output()?)
        .stderr(output()?)
        .spawn()
        .map_err(|err| format!("cannot start a process: {err}"))?;
    let start = Instant::now();
    let mut killed = false;
    loop {
        match child.try_wait() {
            Err(err) => return Err(format!("cannot wait for the process: {err}")),
            Ok(Some(_)) if killed => return Err(format!("hangs: killed after {:?}", case.limit)),
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("failed: {status}")),
            Ok(None) if !killed && start.elapsed() > case.limit => {
                killed = true;
                child.kill().map_err(|err| format!("hangs, and cannot be killed: {err}"))?;
            }
            Ok(None) if start.elapsed() > case.limit + KILLED_LIMIT => {
                return Err("hangs in the guest's kernel, and cannot be killed".to_owned());
            }
            Ok(None) => {
                relay.serve(port).map_err(|err| format!("cannot ask the host: {err}"))?;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Whether the last case said that it makes a device go astray.
pub fn expected_stray_access() -> bool {
    std::fs::exists(STRAY).unwrap_or(false)
}

/// The variable that says which part of a case to run.
const PART: &str = "CORELANE_VM_PART";

impl Guest {
    /// Says that this case makes a device go where the IOMMU does not let it. It has failed if no line of the kernel's log tells of
    /// that, as another case has if one does.
    ///
    /// # Panics
    /// When that cannot be noted.
    pub fn expect_stray_access(&self) {
        File::create(STRAY).expect("the folder is ours");
    }

    /// Runs a part of the running case in a process of an ordinary user, to the end. The case is called again there, and
    /// finds [`Guest::part`] to be `part`.
    ///
    /// # Panics
    /// When that process fails.
    pub fn run_as_user(&self, uid: u32, case: &str, part: &str) {
        let status = Command::new("/proc/self/exe").arg(case).env(PART, part).gid(uid).uid(uid).status();
        let status = status.unwrap_or_else(|err| panic!("cannot start a process of user {uid}: {err}"));
        assert!(status.success(), "{part} of {case} as user {uid}: {status}");
    }

    /// The part of the case that this process is to run, if it is not the case's first process.
    pub fn part(&self) -> Option<String> {
        std::env::var(PART).ok()
    }
}
