//! How a conversation with a server fails.

use std::io;

use super::socket::SocketError;
use super::wire::Command;
use crate::nvme::bus::BusError;

/// Why a command had no effect that can be relied on.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server said no.
    #[error("{command}: the server refused: {}", refusal(*.errno))]
    Refused {
        /// Which command.
        command: Command,
        /// The errno that it gave, 0 for none.
        errno: i32,
    },
    /// The server answered what the protocol does not allow.
    #[error("{command}: the server's answer makes no sense: {reason}")]
    Nonsense {
        /// Which command.
        command: Command,
        /// What was wrong.
        reason: String,
    },
    /// The connection is of no use any more.
    #[error("{command}: the connection to the server is lost: {reason}")]
    Lost {
        /// Which command was to be sent or answered.
        command: Command,
        /// What happened first.
        reason: String,
    },
}

fn refusal(errno: i32) -> String {
    match errno {
        0 => "no reason given".into(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

impl CallError {
    pub(super) fn nonsense(command: Command, reason: impl Into<String>) -> CallError {
        CallError::Nonsense { command, reason: reason.into() }
    }

    /// The same as an error of the bus at `address`.
    pub(super) fn at(self, address: &str) -> BusError {
        let address = address.to_owned();
        match self {
            CallError::Refused { command, errno } => BusError::Message {
                address,
                what: command.name(),
                reason: format!("the server refused: {}", refusal(errno)),
            },
            CallError::Nonsense { command, reason } => BusError::Message {
                address,
                what: command.name(),
                reason: format!("the server's answer makes no sense: {reason}"),
            },
            CallError::Lost { command, reason } => {
                BusError::Gone { address, reason: format!("{reason} (at {command})") }
            }
        }
    }
}

/// What a person is told of a broken connection.
pub(super) fn lost_reason(error: &SocketError) -> String {
    match error {
        SocketError::Closed { partly: false } => "the server closed the connection".into(),
        SocketError::Closed { partly: true } => {
            "the server closed the connection in the middle of a message".into()
        }
        SocketError::TimedOut { waited_ms } => format!("the server did not answer in {waited_ms} ms"),
        other => format!("the server sent nonsense: {other}"),
    }
}
