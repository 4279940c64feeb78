//! What host and guest say to each other: one JSON object a line, over a virtio-serial port.
//!
//! The guest says that it is [`Ready`](FromGuest::Ready), the host says what to run, the guest reports the beginning and
//! the end of each case, and that it has finished; then it powers off. While a case runs it may ask the host to do something
//! ([`Request`]), and waits for the answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The virtio-serial port's name.
pub const PORT: &str = "corelane";

/// From the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FromGuest {
    /// It has booted.
    Ready {
        /// The kernel's version.
        kernel: String,
    },
    /// A case begins.
    Begin {
        /// Its name.
        case: String,
    },
    /// A case has ended.
    End {
        /// Its name.
        case: String,
        /// What came of it.
        outcome: Outcome,
    },
    /// The running case asks the host for something, and waits for the answer.
    Ask {
        /// For what.
        request: Request,
    },
    /// The guest powers off.
    Finished,
}

/// What a case may ask the host to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Give QEMU a command of its control channel. The answer is what it returns.
    Qmp {
        /// The command's name.
        command: String,
        /// Its arguments, an object.
        arguments: Value,
    },
    /// Stop the guest's processors, give QEMU several commands, and have them go on: the guest sees what all of them did, and
    /// nothing between.
    Stopped {
        /// The commands' names and arguments.
        commands: Vec<(String, Value)>,
    },
    /// Wait for an event of that channel. The answer is the event.
    Event {
        /// Its name.
        name: String,
    },
    /// End the server of a served controller. An error, if it found that its client did what the specification forbids.
    EndServer {
        /// The controller's name.
        name: String,
    },
}

/// To the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum ToGuest {
    /// Run cases, one after the other.
    Run {
        /// Their names.
        cases: Vec<String>,
        /// Environment variables for them.
        environment: Vec<(String, String)>,
    },
    /// What came of what the running case asked for.
    Answer {
        /// What it gave, or why it failed.
        answer: Result<Value, String>,
    },
}

/// What came of a case.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether it passed.
    pub passed: bool,
    /// Why it did not, in one line.
    pub reason: String,
    /// What it printed.
    pub output: String,
    /// What the guest's kernel logged meanwhile.
    pub log: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Outcome {
    /// A case that failed without having printed anything.
    pub fn failed(reason: impl Into<String>) -> Outcome {
        Outcome {
            passed: false,
            reason: reason.into(),
            output: String::new(),
            log: String::new(),
            took_ms: 0,
        }
    }
}
