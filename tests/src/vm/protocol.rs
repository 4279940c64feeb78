//! What host and guest say to each other: one JSON object a line, over a virtio-serial port.
//!
//! The guest says that it is [`Ready`](FromGuest::Ready), the host says what to run, the guest reports the beginning and
//! the end of each case, and that it has finished; then it powers off.

use serde::{Deserialize, Serialize};

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
    /// The guest powers off.
    Finished,
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
