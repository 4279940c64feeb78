//! The vfio-user servers of a machine: our `nvme-model`, a process for each controller that is served.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::Machine;
use super::binaries::SERVER;

/// How long a server that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Running servers. Dropping it ends them.
pub struct Servers {
    /// Below the folder for temporary files, since the path of a socket has 107 bytes at most.
    sockets: TempDir,
    running: BTreeMap<&'static str, Server>,
}

struct Server {
    child: Child,
    log: PathBuf,
}

impl Servers {
    /// Starts those of a machine. Their logs go to `logs`, our programs are in `binaries`.
    ///
    /// # Errors
    /// When one of them does not listen.
    pub fn start(machine: &Machine, binaries: &Path, logs: &Path) -> io::Result<Servers> {
        let mut servers = Servers { sockets: TempDir::new()?, running: BTreeMap::new() };
        for served in machine.served {
            let log = logs.join(format!("{}.log", served.name));
            let mut command = Command::new(binaries.join(SERVER));
            command.arg("--socket").arg(servers.sockets.path().join(served.name));
            command.args(["--strict", "--serial", served.name]).args(served.options);
            let child = command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(File::create(&log)?)
                .spawn()
                .map_err(|err| io::Error::other(format!("{SERVER}: {err}")))?;
            let server = servers.running.entry(served.name).or_insert(Server { child, log });
            server.wait_until_it_listens()?;
        }
        Ok(servers)
    }

    /// The folder of the sockets.
    pub fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    /// Ends the server of a controller.
    ///
    /// # Errors
    /// What it logged, when it has something against its client, or did not end well.
    pub fn end(&mut self, name: &str) -> Result<(), String> {
        let mut server = self.running.remove(name).ok_or_else(|| format!("no server {name} runs"))?;
        let status = server.end().map_err(|err| format!("cannot end the server {name}: {err}"))?;
        let log = std::fs::read_to_string(&server.log).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(format!("the server {name} ended with {status}:\n{log}")) }
    }
}

impl Server {
    fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let output = self.child.stdout.take().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.starts_with("listening") {
            return Ok(());
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Err(io::Error::other(format!("the server does not listen:\n{log}")))
    }

    /// Asks it to end, and waits.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < END_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other(format!("it runs on after {END_LIMIT:?}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing more to do with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
