//! How `corelane nvme` fails.

use std::io;
use std::path::PathBuf;

use corelane_drivers::nvme::NvmeError;
use corelane_drivers::nvme::bus::BusError;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::status::Status;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum NvmeToolError {
    #[error(transparent)]
    Nvme(#[from] NvmeError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("NVMe status: {0}")]
    Status(Status),
    #[error("cannot open {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: {what} failed in the kernel: {source}", path.display())]
    Kernel { path: PathBuf, what: &'static str, source: io::Error },
    #[error(
        "'{name}' names no NVMe controller: {what}; right are 0000:01:00.0, vfio-user:/path/of/socket, model:64m and \
         /dev/nvme0, with /N behind the first two for namespace N"
    )]
    Name { name: String, what: String },
    #[error("{device} has no {nsid}")]
    NoNamespace { device: String, nsid: Nsid },
    #[error("which namespace? Say -n NSID")]
    WhichNamespace,
    #[error("{} is in use; only with --force it is done nevertheless", path.display())]
    InUse { path: PathBuf },
    #[error("nothing was done; --force does it without asking")]
    NotConfirmed,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{what} is {value}, but must be {expected}")]
    Value { what: &'static str, value: u64, expected: &'static str },
    #[error("the model cannot be made: {0}")]
    Model(String),
}
