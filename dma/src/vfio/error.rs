//! [`VfioError`]: what keeps a device from being driven by this process, and what a person can do about it.

use std::io;

use super::pci::{BadPciAddress, PciAddress};
use crate::error::DmaError;

/// Why a device cannot be opened or used through VFIO.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// The text names no PCI device.
    #[error(transparent)]
    Address(#[from] BadPciAddress),
    /// There is no such device.
    #[error("there is no PCI device {address}; `lspci -D` lists those that there are")]
    NoDevice {
        /// Which device.
        address: PciAddress,
    },
    /// The device is behind no IOMMU.
    #[error(
        "PCI device {address} is behind no IOMMU (it has no iommu_group), so it cannot be given to a process: switch on VT-d \
         or AMD-Vi in the firmware, and on Intel boot Linux with intel_iommu=on"
    )]
    NoIommu {
        /// Which device.
        address: PciAddress,
    },
    /// The kernel, or another driver, has the device.
    #[error(
        "PCI device {address} is bound to {}, not to vfio-pci; nothing may be using it (no mounted file system), and then, as \
         root: {}", driver_text(.driver), bind_commands(.address, .driver, *.module_missing)
    )]
    OtherDriver {
        /// Which device.
        address: PciAddress,
        /// The driver that it is bound to, if any.
        driver: Option<String>,
        /// Whether vfio-pci is not there either.
        module_missing: bool,
    },
    /// The kernel lacks a part of VFIO.
    #[error("{missing} is not there: the kernel module {module} is missing; as root: modprobe {module}")]
    ModuleMissing {
        /// What shows it.
        missing: String,
        /// Which module.
        module: &'static str,
    },
    /// A device that shares the IOMMU group is in use by the kernel.
    #[error(
        "IOMMU group {group} of {address} cannot be given to a process, since devices in it are in use by the kernel: {}; \
         bind each to vfio-pci too, or to no driver (as root: echo ADDRESS > /sys/bus/pci/devices/ADDRESS/driver/unbind), or \
         move the device to another slot", siblings_text(.siblings)
    )]
    NotViable {
        /// Which device was to be opened.
        address: PciAddress,
        /// The number of its group.
        group: u32,
        /// The devices that are in the way, with their drivers.
        siblings: Vec<(String, String)>,
    },
    /// The process may not use the group.
    #[error(
        "no permission to open {path} ({owner}, mode {mode:03o}), which stands for PCI device {address}; as root: chown USER \
         {path}, or lastingly a udev rule: SUBSYSTEM==\"vfio\", OWNER=\"USER\""
    )]
    NoPermission {
        /// Which device.
        address: PciAddress,
        /// The file that could not be opened.
        path: String,
        /// Whose it is: "user 0, group 0".
        owner: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The process has the device already.
    #[error("PCI device {address} is open already, in this process; share that, or close it first")]
    AlreadyOpen {
        /// Which device.
        address: PciAddress,
    },
    /// Another process has the group.
    #[error(
        "{path}, which stands for PCI device {address}, is in use by another process (`fuser -v {path}` names it), or by what \
         this one has kept of a device that it closed"
    )]
    Busy {
        /// Which device.
        address: PciAddress,
        /// The file that could not be opened.
        path: String,
    },
    /// The kernel's IOMMU driver refuses the group.
    #[error(
        "the IOMMU does not take the group of PCI device {address}: {reason}; where the machine cannot isolate interrupts, \
         vfio_iommu_type1's parameter allow_unsafe_interrupts=1 accepts that"
    )]
    IommuRefused {
        /// Which device.
        address: PciAddress,
        /// What the kernel said.
        reason: String,
    },
    /// A system call failed.
    #[error("PCI device {address}: cannot {what}: {source}")]
    Io {
        /// Which device.
        address: PciAddress,
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An access outside of a region, or to one that does not allow it.
    #[error(
        "PCI device {address}: region {index} of {size_bytes:#x} bytes does not allow {what} of {len_bytes:#x} bytes at \
         {offset_bytes:#x}"
    )]
    Range {
        /// Which device.
        address: PciAddress,
        /// The number of the region.
        index: u32,
        /// "a read", "a write", "a mapping".
        what: &'static str,
        /// Where, in bytes from the start of the region.
        offset_bytes: u64,
        /// How much, in bytes.
        len_bytes: u64,
        /// How long the region is, in bytes; 0 if there is none.
        size_bytes: u64,
    },
    /// More interrupts than the device has.
    #[error("PCI device {address} has {count} vectors of interrupt kind {index}, not {asked}")]
    NoInterrupt {
        /// Which device.
        address: PciAddress,
        /// The kind (`VFIO_PCI_*_IRQ_INDEX`).
        index: u32,
        /// How many there are.
        count: u32,
        /// How many were asked for.
        asked: usize,
    },
    /// The device has no reset.
    #[error("PCI device {address} has no reset that affects it alone")]
    NoReset {
        /// Which device.
        address: PciAddress,
    },
    /// Memory could not be mapped.
    #[error(transparent)]
    Memory(#[from] DmaError),
}

fn driver_text(driver: &Option<String>) -> String {
    driver.as_ref().map_or_else(|| "no driver".to_owned(), |driver| format!("the driver {driver}"))
}

fn bind_commands(address: &PciAddress, driver: &Option<String>, module_missing: bool) -> String {
    let device = format!("/sys/bus/pci/devices/{address}");
    let modprobe = if module_missing { "modprobe vfio-pci; " } else { "" };
    let unbind =
        driver.as_ref().map_or_else(String::new, |_| format!("echo {address} > {device}/driver/unbind; "));
    format!(
        "{modprobe}{unbind}echo vfio-pci > {device}/driver_override; echo {address} > /sys/bus/pci/drivers_probe"
    )
}

fn siblings_text(siblings: &[(String, String)]) -> String {
    if siblings.is_empty() {
        return "sysfs does not tell which".to_owned();
    }
    let texts: Vec<String> =
        siblings.iter().map(|(device, driver)| format!("{device} (driver {driver})")).collect();
    texts.join(", ")
}
