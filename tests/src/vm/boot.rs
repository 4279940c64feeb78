//! One boot of a machine: run cases in it until they are through, or one of them brings it down.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::host::Host;
use super::protocol::{FromGuest, Outcome, ToGuest};
use super::qemu::{self, Files, Qemu, Silence};
use super::servers::Servers;
use super::{Case, Machine, System, binaries, image};

/// How long a boot may take. An emulated processor on a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How much longer than the guest itself the host waits for the end of a case.
const GRACE: Duration = Duration::from_secs(30);
/// Variables that cases see as the host does.
const ENVIRONMENT: [&str; 5] =
    ["CORELANE_SEED", "CORELANE_SEQUENCES", "CORELANE_LOG", "CORELANE_VM_ROUNDS", "CORELANE_VM_SECONDS"];
/// How much of a log is shown.
const SHOWN_LINES: usize = 60;

/// Why there was no boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Our own programs.
    #[error("{0}")]
    Build(String),
    /// Files, or starting QEMU.
    #[error("cannot make ready the machine {machine}: {source}")]
    Files {
        /// Its name.
        machine: &'static str,
        /// What failed.
        source: io::Error,
    },
    /// QEMU or the guest.
    #[error("the machine {machine} {what}\n{logs}")]
    Machine {
        /// Its name.
        machine: &'static str,
        /// What it did.
        what: String,
        /// What QEMU and the guest's kernel printed last.
        logs: String,
    },
}

/// A machine that has been made ready in a folder, to be booted. Dropping it removes what is large; the logs stay.
pub struct Boot<'a> {
    machine: &'static Machine,
    system: &'a System,
    files: Files,
    /// Where our programs are.
    binaries: PathBuf,
}

impl<'a> Boot<'a> {
    /// Builds our programs and writes the initramfs into `folder`.
    ///
    /// # Errors
    /// When something does not build or cannot be written.
    pub fn new(machine: &'static Machine, system: &'a System, folder: &Path) -> Result<Boot<'a>, BootError> {
        let binaries = binaries::built().map_err(BootError::Build)?;
        let files = Files::within(folder);
        image::write(&files.initramfs, machine, system, &binaries)
            .map_err(|source| BootError::Files { machine: machine.name, source })?;
        Ok(Boot { machine, system, files, binaries })
    }

    /// A boot with a shell of the guest at the terminal, to its end.
    ///
    /// # Errors
    /// When the disks' files cannot be made, or something cannot be started.
    pub fn shell(&self) -> io::Result<ExitStatus> {
        qemu::make_disks(self.machine, &self.files)?;
        let servers = self.servers()?;
        qemu::shell_command(self.system, self.machine, &self.files, servers.sockets())?.status()
    }

    fn servers(&self) -> io::Result<Servers> {
        Servers::start(self.machine, &self.binaries, &self.files.disks)
    }

    fn start(&self) -> io::Result<Host> {
        let servers = self.servers()?;
        let qemu = Qemu::start(self.system, self.machine, &self.files, servers.sockets())?;
        Ok(Host::new(qemu, servers))
    }

    /// Boots and runs `cases` in turn, each reported by `report`. When one of them brings the guest down or hangs, it has
    /// failed, and those after it are not reported: boot again for them.
    ///
    /// # Errors
    /// When the guest does not come up.
    pub fn run(
        &self,
        cases: &[&'static Case],
        report: &mut dyn FnMut(&'static Case, Outcome),
    ) -> Result<(), BootError> {
        let mut host =
            self.start().map_err(|source| BootError::Files { machine: self.machine.name, source })?;
        match host.qemu.next(BOOT_LIMIT) {
            Ok(FromGuest::Ready { .. }) => {}
            other => return Err(self.fault(format!("does not come up: {other:?}"))),
        }
        let environment = ENVIRONMENT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        let names = cases.iter().map(|case| case.name.to_owned()).collect();
        host.qemu
            .order(&ToGuest::Run { cases: names, environment })
            .map_err(|err| self.fault(format!("takes no orders: {err}")))?;
        for case in cases {
            match self.one(&mut host, case) {
                Ok(outcome) => report(case, outcome),
                Err(outcome) => {
                    report(case, outcome);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of a case. An error ends the boot.
    fn one(&self, host: &mut Host, case: &Case) -> Result<Outcome, Outcome> {
        let mut begun = false;
        loop {
            let reason = match host.qemu.next(case.limit + GRACE) {
                Ok(FromGuest::Begin { case: name }) if name == case.name => {
                    begun = true;
                    continue;
                }
                Ok(FromGuest::Ask { request }) if begun => {
                    // When QEMU has gone, that is seen next.
                    let _ = host.answer(&request);
                    continue;
                }
                Ok(FromGuest::End { case: name, outcome }) if name == case.name && begun => {
                    return Ok(outcome);
                }
                Ok(other) => format!("the guest said {other:?}"),
                Err(Silence::Timeout) => "the guest hangs".to_owned(),
                Err(Silence::Ended) => "the guest went down".to_owned(),
            };
            let mut outcome = Outcome::failed(reason);
            outcome.log = self.logs();
            return Err(outcome);
        }
    }

    fn fault(&self, what: String) -> BootError {
        BootError::Machine { machine: self.machine.name, what, logs: self.logs() }
    }

    /// The ends of what QEMU and the guest's kernel printed.
    fn logs(&self) -> String {
        let end = |path: &Path| {
            let text = std::fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\r', "");
            let skipped = text.lines().count().saturating_sub(SHOWN_LINES);
            text.lines().skip(skipped).collect::<Vec<_>>().join("\n")
        };
        format!("QEMU:\n{}\nserial line:\n{}", end(&self.files.complaints), end(&self.files.serial))
    }
}

impl Drop for Boot<'_> {
    fn drop(&mut self) {
        let disks = self.machine.files().map(|(name, _)| self.files.disks.join(name));
        for path in disks.chain([self.files.initramfs.clone()]) {
            // A boot that failed early has not made all of them.
            let _ = std::fs::remove_file(path);
        }
    }
}
