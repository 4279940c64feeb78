//! iommufd, with a character device for each function: what VFIO's groups and containers are being replaced by (kernels from
//! 6.6 on that were built with it; Documentation/userspace-api/iommufd.rst).
//!
//! An I/O address space (IOAS) is an object of an open `/dev/iommu`. A device is bound to that file, then attached to the
//! IOAS; closing its file undoes both. Mappings belong to the IOAS and go with the last handle on the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::backend::{Backend, Device, Refusal};
use super::error::VfioError;
use super::info::{self, IommuInfo};
use super::ioctl::iommufd as calls;
use super::pci::PciAddress;
use super::sysfs::Roots;
use crate::iova::Iova;
use crate::region::MemRegion;

/// An I/O address space.
pub(super) struct Iommufd {
    file: File,
    ioas: u32,
}

impl Iommufd {
    /// An empty address space, for the device at `address` first.
    pub(super) fn new(roots: &Roots, address: PciAddress) -> Result<Iommufd, VfioError> {
        let file = open(roots, address, &roots.iommu_file())?;
        let ioas = calls::ioas_alloc(file.as_fd()).map_err(|source| {
            let what = "make an I/O address space".to_owned();
            VfioError::Io { address, what, source }
        })?;
        Ok(Iommufd { file, ioas })
    }
}

impl Backend for Iommufd {
    fn name(&self) -> &'static str {
        "the IOMMU (iommufd)"
    }

    fn attach(&self, roots: &Roots, address: PciAddress, group: u32) -> Result<Device, Refusal> {
        let failed = |what: &str, source| VfioError::Io { address, what: what.to_owned(), source };
        let Some(path) = roots.cdev(address) else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Refusal::Failed(failed("find its character device", source)));
        };
        let device = OwnedFd::from(open(roots, address, &path).map_err(Refusal::Failed)?);
        calls::bind(device.as_fd(), self.file.as_fd()).map_err(|source| {
            Refusal::Failed(match Errno::from_io_error(&source) {
                // The group's other devices are the kernel's, or it is open through the group.
                Some(Errno::BUSY | Errno::PERM) => match roots.not_viable(address, group) {
                    VfioError::NotViable { siblings, .. } if siblings.is_empty() => {
                        VfioError::Busy { address, path: path.display().to_string() }
                    }
                    not_viable => not_viable,
                },
                // A second opening, while another process has it.
                Some(Errno::INVAL) => VfioError::Busy { address, path: path.display().to_string() },
                _ => failed("bind it to an iommufd", source),
            })
        })?;
        match calls::attach(device.as_fd(), self.ioas) {
            Ok(()) => Ok(Device::Cdev(device)),
            Err(source) => {
                let reason = source.to_string();
                Err(Refusal::Incompatible(VfioError::IommuRefused { address, reason }))
            }
        }
    }

    fn detach(&self, _roots: &Roots, _address: PciAddress, device: Device) {
        // Closing it is all.
        drop(device);
    }

    fn info(&self) -> IommuInfo {
        match calls::iova_ranges(self.file.as_fd(), self.ioas) {
            Ok((ranges, alignment)) => IommuInfo {
                page_bytes: alignment.max(rustix::param::page_size() as u64),
                ranges,
                // Bounded by memory only.
                mappings_left: None,
            },
            Err(error) => {
                tracing::warn!(%error, "IOMMU_IOAS_IOVA_RANGES");
                info::unknown()
            }
        }
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> io::Result<()> {
        calls::map(self.file.as_fd(), self.ioas, iova, region)
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> io::Result<()> {
        calls::unmap(self.file.as_fd(), self.ioas, iova, len_bytes)
    }

    fn limit_advice(&self, _roots: &Roots) -> String {
        String::new()
    }
}

fn open(roots: &Roots, address: PciAddress, path: &Path) -> Result<File, VfioError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| roots.open_error(address, path, source))
}
