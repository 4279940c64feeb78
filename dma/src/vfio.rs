//! VFIO: PCI devices that this process drives by itself, with an IOMMU between them and memory
//! (Documentation/driver-api/vfio.rst of the kernel).
//!
//! - [`PciAddress`] names a device, [`VfioFunction`] is one that is open: its regions, interrupts and reset.
//! - All functions of the process share one address space where the kernel allows it: one container of type 1 version 2
//!   with all their groups, or one I/O address space of iommufd with all their character devices, where the kernel has that.
//!   A function that cannot join gets an address space of its own.
//! - [`VfioError`] says what stands in the way, on which device, and the command that removes it.
//!
//! What the kernel tells as bytes is taken apart in `info`, without trust in its lengths; all system calls that have no
//! wrapper elsewhere stand in `ioctl`.

mod backend;
mod container;
mod error;
mod function;
mod info;
mod ioctl;
mod iommufd;
mod pci;
mod sysfs;
mod type1;

pub use error::VfioError;
pub use function::VfioFunction;
pub use info::Region;
pub use pci::{BadPciAddress, PciAddress};
pub use sysfs::Roots;

/// The regions of a VFIO PCI device (linux/vfio.h, `VFIO_PCI_*_REGION_INDEX`).
pub mod region {
    use vfio_bindings::bindings::vfio;

    /// Base address register 0; the others follow by number.
    pub const BAR0: u32 = vfio::VFIO_PCI_BAR0_REGION_INDEX;
    /// The configuration space.
    pub const CONFIG: u32 = vfio::VFIO_PCI_CONFIG_REGION_INDEX;
}

/// The interrupts of a VFIO PCI device (linux/vfio.h, `VFIO_PCI_*_IRQ_INDEX`).
pub mod irq {
    use vfio_bindings::bindings::vfio;

    /// The MSI-X vectors.
    pub const MSIX: u32 = vfio::VFIO_PCI_MSIX_IRQ_INDEX;
    /// An error of the device or its link.
    pub const ERROR: u32 = vfio::VFIO_PCI_ERR_IRQ_INDEX;
    /// The host wants the device back.
    pub const REQUEST: u32 = vfio::VFIO_PCI_REQ_IRQ_INDEX;
}
