//! What sysfs and /dev tell of a device, before it is opened (to say what stands in the way) and after that failed (to say
//! why). The folders are parameters, so that tests make their own.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::VfioError;
use super::pci::PciAddress;

/// Where the kernel's file systems are mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roots {
    /// sysfs.
    pub sys: PathBuf,
    /// devtmpfs.
    pub dev: PathBuf,
    /// procfs.
    pub proc: PathBuf,
}

impl Default for Roots {
    /// `/sys`, `/dev` and `/proc`.
    fn default() -> Roots {
        Roots { sys: PathBuf::from("/sys"), dev: PathBuf::from("/dev"), proc: PathBuf::from("/proc") }
    }
}

/// Drivers with which a device does not keep its group from being given away: the kernel's own ports and stubs
/// (`driver_managed_dma` in the kernel), and those of VFIO.
const HARMLESS: [&str; 3] = ["pcieport", "pci-stub", "vfio-pci"];

fn name_of(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name().and_then(OsStr::to_str).map(str::to_owned)
}

/// Whether a driver gives its devices to VFIO: vfio-pci, or one of its variants for particular devices, as mlx5_vfio_pci.
fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}

impl Roots {
    /// The folder of a device.
    pub(super) fn device(&self, address: PciAddress) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address.to_string())
    }

    /// The file that stands for a group.
    pub(super) fn group_file(&self, group: u32) -> PathBuf {
        self.dev.join("vfio").join(group.to_string())
    }

    /// The file that stands for iommufd.
    pub(super) fn iommu_file(&self) -> PathBuf {
        self.dev.join("iommu")
    }

    /// The character device of a device, where the kernel makes one (`vfio-dev/vfioN` in sysfs).
    pub(super) fn cdev(&self, address: PciAddress) -> Option<PathBuf> {
        let mut names = fs::read_dir(self.device(address).join("vfio-dev")).ok()?.flatten();
        let name = names.find_map(|entry| entry.file_name().into_string().ok())?;
        Some(self.dev.join("vfio/devices").join(name))
    }

    /// Whether the kernel offers iommufd for a device.
    pub(super) fn has_iommufd(&self, address: PciAddress) -> bool {
        self.iommu_file().exists() && self.cdev(address).is_some_and(|path| path.exists())
    }

    /// Checks that VFIO can open a device, as far as that shows without trying. Returns its IOMMU group.
    pub(super) fn check(&self, address: PciAddress) -> Result<u32, VfioError> {
        let device = self.device(address);
        if !device.exists() {
            return Err(VfioError::NoDevice { address });
        }
        let group = name_of(&device.join("iommu_group")).and_then(|name| name.parse().ok());
        let Some(group) = group else { return Err(VfioError::NoIommu { address }) };
        let driver = name_of(&device.join("driver"));
        if !driver.as_deref().is_some_and(is_vfio) {
            let module_missing = !self.sys.join("bus/pci/drivers/vfio-pci").exists();
            return Err(VfioError::OtherDriver { address, driver, module_missing });
        }
        Ok(group)
    }

    /// Checks that the container of type 1 is there.
    pub(super) fn check_container(&self) -> Result<(), VfioError> {
        let file = self.dev.join("vfio/vfio");
        if file.exists() {
            return Ok(());
        }
        Err(VfioError::ModuleMissing { missing: file.display().to_string(), module: "vfio" })
    }

    /// The error for a group that is not viable.
    pub(super) fn not_viable(&self, address: PciAddress, group: u32) -> VfioError {
        let folder = self.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let bound = names.filter_map(|device| {
            let name = device.file_name()?.to_str()?.to_owned();
            let driver = name_of(&device.join("driver"))?;
            let harmless = HARMLESS.contains(&driver.as_str()) || is_vfio(&driver);
            (name != address.to_string() && !harmless).then_some((name, driver))
        });
        let mut siblings: Vec<(String, String)> = bound.collect();
        siblings.sort();
        VfioError::NotViable { address, group, siblings }
    }

    /// The error for a file that could not be opened for lack of permission.
    pub(super) fn no_permission(&self, address: PciAddress, path: &Path) -> VfioError {
        let (owner, mode) = match fs::metadata(path) {
            Ok(found) => (format!("user {}, group {}", found.uid(), found.gid()), found.mode() & 0o777),
            Err(_) => ("owner unknown".to_owned(), 0),
        };
        VfioError::NoPermission { address, path: path.display().to_string(), owner, mode }
    }

    /// The error for a file that could not be opened.
    pub(super) fn open_error(&self, address: PciAddress, path: &Path, source: io::Error) -> VfioError {
        match Errno::from_io_error(&source) {
            Some(Errno::ACCESS | Errno::PERM) => self.no_permission(address, path),
            Some(Errno::BUSY) => VfioError::Busy { address, path: path.display().to_string() },
            // The file of a module that the kernel would load now, and does not find.
            Some(Errno::NODEV | Errno::NXIO) => {
                let module = if path == self.iommu_file() { "iommufd" } else { "vfio" };
                VfioError::ModuleMissing { missing: format!("what {} stands for", path.display()), module }
            }
            _ => VfioError::Io { address, what: format!("open {}", path.display()), source },
        }
    }

    /// A module's parameter, as text.
    pub(super) fn module_parameter(&self, module: &str, parameter: &str) -> Option<String> {
        let path = self.sys.join("module").join(module).join("parameters").join(parameter);
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    }

    /// How many bytes of memory the process has locked or pinned (`VmLck` and `VmPin` of proc_pid_status(5): VFIO's
    /// containers add to the one, iommufd to the other).
    pub(super) fn locked_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join("self/status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(field("VmLck:")?.saturating_add(field("VmPin:").unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests;
