//! How commands of a namespace fail.

use corelane_dma::DmaError;
use corelane_engine::block::IoError;

use crate::nvme::error::NvmeError;
use crate::nvme::spec::Nsid;
use crate::nvme::spec::status::{Status, code_type};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The controller does not have it. Nothing was sent.
    #[error("{address}: {nsid} has no {command}: {field} says so")]
    Unsupported {
        /// Which controller.
        address: String,
        /// Which namespace.
        nsid: Nsid,
        /// The command.
        command: &'static str,
        /// Where the controller says so.
        field: &'static str,
    },
    /// An argument that no such command can have. Nothing was sent.
    #[error("{command}: {what} is {value}, but must be {expected}")]
    Argument {
        /// The command.
        command: &'static str,
        /// Which argument.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: String,
    },
    /// Memory for the controller to reach could not be had. Nothing was sent.
    #[error("{command}: {source}")]
    Memory {
        /// The command.
        command: &'static str,
        /// What was wrong.
        source: DmaError,
    },
    /// The controller refused it, or it was given up while the command was under way.
    #[error("{command} failed: {source}")]
    Failed {
        /// The command.
        command: &'static str,
        /// The errno and the status.
        source: IoError,
    },
    /// There is no queue for commands.
    #[error(transparent)]
    Controller(#[from] NvmeError),
}

impl CommandError {
    /// The controller's status, if it answered with one.
    pub fn status(&self) -> Option<Status> {
        match self {
            CommandError::Failed { source, .. } => {
                Some(Status((source.device_status & 0x7ff) as u16)).filter(|status| !status.is_success())
            }
            _ => None,
        }
    }

    /// Whether the controller answered that the data differs.
    pub(super) fn is_difference(&self) -> bool {
        self.status().is_some_and(|status| status.is(Status::of(code_type::MEDIA, 0x85)))
    }
}
