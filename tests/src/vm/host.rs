//! The host's side of a running machine: QEMU, its servers, and what cases ask for ([`Request`]).

use std::time::Duration;

use serde_json::{Value, json};

use super::protocol::{Request, ToGuest};
use super::qemu::Qemu;
use super::qmp::Qmp;
use super::servers::Servers;

/// How long an event may take that a case waits for.
const EVENT_LIMIT: Duration = Duration::from_secs(30);

/// See the module's documentation. Dropping it ends QEMU, and then the servers.
pub struct Host {
    /// QEMU.
    pub qemu: Qemu,
    servers: Servers,
    /// Connected when a case first needs it.
    qmp: Option<Qmp>,
}

impl Host {
    /// Of what runs.
    pub fn new(qemu: Qemu, servers: Servers) -> Host {
        Host { qemu, servers, qmp: None }
    }

    /// Does what a case asks for, and tells the guest what came of it.
    ///
    /// # Errors
    /// When QEMU has gone.
    pub fn answer(&mut self, request: &Request) -> std::io::Result<()> {
        let answer = self.fulfil(request);
        self.qemu.order(&ToGuest::Answer { answer })
    }

    fn fulfil(&mut self, request: &Request) -> Result<Value, String> {
        match request {
            Request::Qmp { command, arguments } => self.qmp()?.execute(command, arguments),
            Request::Stopped { commands } => self.stopped(commands),
            Request::Event { name } => self.qmp()?.event(name, EVENT_LIMIT),
            Request::EndServer { name } => self.servers.end(name).map(|()| Value::Null),
        }
    }

    fn stopped(&mut self, commands: &[(String, Value)]) -> Result<Value, String> {
        let qmp = self.qmp()?;
        qmp.execute("stop", &json!({}))?;
        let mut run = || commands.iter().try_for_each(|(name, of)| qmp.execute(name, of).map(drop));
        let done = run();
        // Also after a failure, or the case would never hear of it.
        qmp.execute("cont", &json!({}))?;
        done.map(|()| Value::Null)
    }

    fn qmp(&mut self) -> Result<&mut Qmp, String> {
        if self.qmp.is_none() {
            let path = Qemu::control_socket(self.servers.sockets());
            let connected = Qmp::connect(&path).map_err(|err| format!("cannot control QEMU: {err}"))?;
            self.qmp = Some(connected);
        }
        Ok(self.qmp.as_mut().expect("it was connected just now"))
    }
}
