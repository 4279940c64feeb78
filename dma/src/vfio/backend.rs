//! [`Backend`]: what a container needs of the kernel, whichever of its two interfaces it goes through.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vfio_ioctls::VfioDevice;

use super::error::VfioError;
use super::info::IommuInfo;
use super::ioctl;
use super::pci::PciAddress;
use super::sysfs::Roots;
use crate::iova::Iova;
use crate::region::MemRegion;

/// One I/O address space of the kernel, and the devices in it.
pub(super) trait Backend: Send + Sync {
    /// What it is called in messages.
    fn name(&self) -> &'static str;

    /// Opens a device in this address space.
    fn attach(&self, roots: &Roots, address: PciAddress, group: u32) -> Result<Device, Refusal>;

    /// Closes it.
    fn detach(&self, roots: &Roots, address: PciAddress, device: Device);

    /// What can be mapped now.
    fn info(&self) -> IommuInfo;

    /// Maps whole pages, which the caller keeps until they are unmapped.
    fn map(&self, iova: Iova, region: &MemRegion) -> io::Result<()>;

    /// Undoes one `map`.
    fn unmap(&self, iova: Iova, len_bytes: u64) -> io::Result<()>;

    /// How to raise the limit of mappings (see `DmaMapper::limit_advice`).
    fn limit_advice(&self, roots: &Roots) -> String;
}

/// Why a device is not attached.
pub(super) enum Refusal {
    /// It cannot share an address space with the devices that are there; it might with others, or alone.
    Incompatible(VfioError),
    /// It cannot be opened at all.
    Failed(VfioError),
}

/// An open device.
pub(super) enum Device {
    /// Out of a group.
    Group(VfioDevice),
    /// A character device of its own.
    Cdev(OwnedFd),
}

impl Device {
    /// Its file.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Device::Group(device) => ioctl::device_fd(device),
            Device::Cdev(fd) => fd.as_fd(),
        }
    }
}
