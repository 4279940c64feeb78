//! How a case asks the host for something: its standard input is a socket to init, which has the port to the host.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Mutex;

use serde_json::Value;

use super::Guest;
use super::port::Port;
use crate::vm::protocol::{FromGuest, Request, ToGuest};

impl Guest {
    /// Asks the host for something, and gives what came of it: an error is what the host, or QEMU, has against it.
    ///
    /// # Panics
    /// When the host does not answer.
    pub fn try_ask(&self, request: &Request) -> Result<Value, String> {
        // One question at a time, whichever thread asks.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        let socket = io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
        let mut socket = UnixStream::from(socket);
        let mut line = serde_json::to_string(request).expect("requests are plain data");
        line.push('\n');
        socket.write_all(line.as_bytes()).expect("init listens");
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer).expect("init speaks");
        serde_json::from_str(&answer).unwrap_or_else(|err| panic!("{err} in {answer:?}"))
    }

    /// Asks the host for something that must succeed, and gives what it gave.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&self, request: &Request) -> Value {
        self.try_ask(request).unwrap_or_else(|err| panic!("{err}"))
    }

    /// Gives QEMU a command of its control channel, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn qmp(&self, command: &str, arguments: Value) -> Value {
        self.ask(&Request::Qmp { command: command.to_owned(), arguments })
    }
}

/// Init's end of the socket.
pub struct Relay {
    socket: BufReader<UnixStream>,
    /// What has come of a line.
    line: String,
}

impl Relay {
    /// The end of init, and the standard input of the case.
    pub fn new() -> io::Result<(Relay, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Relay { socket: BufReader::new(ours), line: String::new() }, OwnedFd::from(theirs).into()))
    }

    /// Takes the case's question to the host and brings the answer back, if it has one.
    pub fn serve(&mut self, port: &mut Port) -> io::Result<()> {
        match self.socket.read_line(&mut self.line) {
            // Without its end, since the case has ended.
            Ok(_) if !self.line.ends_with('\n') => return Ok(()),
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(err) => return Err(err),
        }
        let request: Request = serde_json::from_str(&std::mem::take(&mut self.line))?;
        port.send(&FromGuest::Ask { request });
        let ToGuest::Answer { answer } = port.receive() else {
            return Err(io::Error::other("the host gives orders instead of an answer"));
        };
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        self.socket.get_mut().write_all(line.as_bytes())
    }
}
