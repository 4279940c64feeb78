//! How `corelane device` fails: what stands in the way, and what mends it.

use std::io;
use std::path::PathBuf;

use corelane_dma::vfio::PciAddress;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("there is no PCI device {address}; `corelane device list` names the NVMe controllers")]
    NoFunction { address: PciAddress },
    #[error("{address} is no NVMe controller: its class is {class:06x}, not 010802")]
    NotNvme { address: PciAddress, class: u32 },
    #[error("{address} is behind no IOMMU, so that VFIO cannot have it; `corelane device doctor` says more")]
    NoIommu { address: PciAddress },
    #[error("the kernel has no driver {driver}: modprobe {driver}")]
    NoDriver { driver: &'static str },
    #[error("{address} is in use: {reasons}; only with --force it is taken away nevertheless")]
    InUse { address: String, reasons: String },
    #[error("{address} belongs to the driver {driver}, which nobody took it away from")]
    NotOurs { address: PciAddress, driver: String },
    #[error("{address} is in use by a program: fuser -v {}", path.display())]
    Held { address: PciAddress, path: PathBuf },
    #[error("{address} did not go to {driver}; its driver is now {}", now.as_deref().unwrap_or("none"))]
    NotBound { address: String, driver: &'static str, now: Option<String> },
    #[error("cannot write '{text}' to {}: {source}{}", path.display(), hint(source))]
    Write { path: PathBuf, text: String, source: io::Error },
    #[error("cannot give {} to the group {gid}: {source}", path.display())]
    Give { path: PathBuf, gid: u32, source: io::Error },
    #[error("there are no huge pages at {}; `corelane device hugepages show` lists sizes and nodes", path.display())]
    NoPool { path: PathBuf },
    #[error(
        "the kernel found {got} of {wanted} pages of {page_kib} KiB; memory is too fragmented or too full. Try again after: echo \
         1 > /proc/sys/vm/compact_memory"
    )]
    TooFew { wanted: u64, got: u64, page_kib: u64 },
    #[error("{wanted} pages are to be given back, but only {free} are free")]
    NotFree { wanted: u64, free: u64 },
}

fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied { "; only root may" } else { "" }
}
