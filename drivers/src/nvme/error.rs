//! How the control plane of a controller fails. A request fails with the block layer's `IoError` instead.

use std::io;

use corelane_dma::DmaError;
use corelane_engine::block::BlockError;

use super::bus::BusError;
use super::spec::status::Status;
use super::spec::{Nsid, Qid};

/// An error of a controller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmeError {
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Memory for the controller could not be had.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// Registers read as all ones: nobody answers.
    #[error("{address} is gone: {register} reads as all ones")]
    Gone {
        /// Which controller.
        address: String,
        /// The register that was read.
        register: &'static str,
    },
    /// The controller cannot be driven.
    #[error("{address} cannot be used: {what} is {value}, but must be {expected}")]
    Unusable {
        /// Which controller.
        address: String,
        /// Which of its properties.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: String,
    },
    /// It did not become what it was told to within the time that it asked for.
    #[error(
        "{address} did not become {what} within {timeout_ms} ms, which is what it asks for (CSTS {csts:#010x})"
    )]
    NotInTime {
        /// Which controller.
        address: String,
        /// What it should have become.
        what: &'static str,
        /// How long it was given, in milliseconds.
        timeout_ms: u64,
        /// Its status register at the end.
        csts: u32,
    },
    /// It reports a fatal error (CSTS.CFS).
    #[error("{address} reports a fatal error while {what} (CSTS {csts:#010x}); only a reset can end it")]
    Fatal {
        /// Which controller.
        address: String,
        /// What was being done.
        what: &'static str,
        /// Its status register.
        csts: u32,
    },
    /// An admin command was refused.
    #[error("{address}: {command} failed: {status}")]
    Refused {
        /// Which controller.
        address: String,
        /// The command.
        command: &'static str,
        /// What it answered.
        status: Status,
    },
    /// An I/O command was not completed in time, and its abort did not end it.
    #[error(
        "{address}: command {cid:#06x} of {qid} was not completed within {timeout_ms} ms, and not aborted"
    )]
    Overdue {
        /// Which controller.
        address: String,
        /// The queue.
        qid: Qid,
        /// The command.
        cid: u16,
        /// How long it was given, in milliseconds.
        timeout_ms: u64,
    },
    /// It is not enabled any more, and nobody here did that.
    #[error("{address} was reset behind the driver's back (CC {cc:#010x}, CSTS {csts:#010x})")]
    WasReset {
        /// Which controller.
        address: String,
        /// Its configuration register.
        cc: u32,
        /// Its status register.
        csts: u32,
    },
    /// The host wants the function back (VFIO's request notice).
    #[error("{address} is asked for by the host")]
    Wanted {
        /// Which controller.
        address: String,
    },
    /// The function or its link reported an error (VFIO's error notice).
    #[error("{address}: the function or its link reported an error")]
    Link {
        /// Which controller.
        address: String,
    },
    /// It came back from a reset as another, or with less than it had.
    #[error("{address} came back from a reset with {what} {value} instead of {expected}")]
    Changed {
        /// Which controller.
        address: String,
        /// Which of its properties.
        what: &'static str,
        /// What it is now.
        value: String,
        /// What it was.
        expected: String,
    },
    /// An admin command was not answered.
    #[error("{address}: {command} was not answered within {timeout_ms} ms")]
    Unanswered {
        /// Which controller.
        address: String,
        /// The command.
        command: &'static str,
        /// How long it was given, in milliseconds.
        timeout_ms: u64,
    },
    /// What it says of itself contradicts the specification.
    #[error("{address} says of {of}: {what} is {value}, but must be {expected}")]
    Absurd {
        /// Which controller.
        address: String,
        /// What it speaks of: itself, or a namespace.
        of: String,
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What the specification allows.
        expected: String,
    },
    /// There is no such namespace.
    #[error("{address} has no active {nsid}; active are: {active}")]
    NoNamespace {
        /// Which controller.
        address: String,
        /// The namespace asked for.
        nsid: Nsid,
        /// Those that there are.
        active: String,
    },
    /// A namespace whose controller cannot place data as it was asked to.
    #[error("{address}: {nsid} cannot place data: {reason}")]
    Placement {
        /// Which controller.
        address: String,
        /// The namespace.
        nsid: Nsid,
        /// What is in the way.
        reason: String,
    },
    /// The namespace has a format that this driver does not serve.
    #[error("{address}: {nsid} cannot be served: {reason}")]
    Format {
        /// Which controller.
        address: String,
        /// The namespace.
        nsid: Nsid,
        /// Why, and what would be right.
        reason: String,
    },
    /// A command of the user's that is not sent.
    #[error("{address}: no such command is sent: {what} is {value:#x}, but must be {expected}")]
    NotAllowed {
        /// Which controller.
        address: String,
        /// What of the command.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: String,
    },
    /// The controller was given up, and why.
    #[error("{address} was stopped: {reason}")]
    Stopped {
        /// Which controller.
        address: String,
        /// What made it unusable.
        reason: String,
        /// Whether it is not there any more.
        gone: bool,
    },
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl NvmeError {
    /// As the error of opening `name`.
    pub fn into_open(self, name: &str) -> BlockError {
        BlockError::Open { filename: name.to_owned(), reason: self.to_string() }
    }

    /// Whether the controller is not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            NvmeError::Gone { .. }
                | NvmeError::Wanted { .. }
                | NvmeError::Bus(BusError::Gone { .. })
                | NvmeError::Stopped { gone: true, .. }
        )
    }
}
