//! A PCI function of the guest, and which driver it is bound to.

use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wait_for;

const DRIVERS_PROBE: &str = "/sys/bus/pci/drivers_probe";
/// An emulated controller may take a while to start.
const LIMIT: Duration = Duration::from_secs(30);

/// A PCI function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciFunction {
    address: String,
}

impl fmt::Display for PciFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl PciFunction {
    pub(super) fn at(address: String) -> PciFunction {
        PciFunction { address }
    }

    /// Its address, as `0000:00:04.0`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its folder in sysfs.
    pub fn sysfs(&self) -> PathBuf {
        Path::new("/sys/bus/pci/devices").join(&self.address)
    }

    /// The driver that it is bound to.
    pub fn driver(&self) -> Option<String> {
        let link = std::fs::read_link(self.sysfs().join("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// Binds it to vfio-pci, and gives the node of its IOMMU group.
    ///
    /// # Panics
    /// When that fails.
    pub fn bind_vfio(&self) -> PathBuf {
        self.bind("vfio-pci");
        let group = std::fs::read_link(self.sysfs().join("iommu_group")).expect("it is in an IOMMU group");
        let node = Path::new("/dev/vfio").join(group.file_name().expect("a group has a number"));
        wait_for("VFIO group node", LIMIT, || node.exists().then(|| node.clone()))
    }

    /// Binds it to the kernel's NVMe driver, and gives the block device of namespace `nsid`.
    ///
    /// # Panics
    /// When that fails.
    pub fn bind_kernel(&self, nsid: u32) -> PathBuf {
        self.bind("nvme");
        wait_for("block device of the namespace", LIMIT, || self.block_device(nsid))
    }

    /// The character device of the controller, when it is bound to the kernel's NVMe driver.
    pub fn controller_device(&self) -> Option<PathBuf> {
        let controller = std::fs::read_dir(self.sysfs().join("nvme")).ok()?.flatten().next()?;
        Some(Path::new("/dev").join(controller.file_name()))
    }

    /// Waits until the kernel has found a function that was put in, and bound it to its NVMe driver, as it does with all.
    ///
    /// # Panics
    /// When it has not after half a minute.
    pub fn wait_until_found(&self) {
        wait_for("PCI function", LIMIT, || (self.driver().as_deref() == Some("nvme")).then_some(()));
    }

    /// Unbinds it from any driver.
    pub fn unbind(&self) {
        let unbind = self.sysfs().join("driver/unbind");
        if unbind.exists() {
            write(&unbind, &self.address);
        }
    }

    fn bind(&self, driver: &str) {
        if self.driver().as_deref() == Some(driver) {
            return;
        }
        self.unbind();
        write(&self.sysfs().join("driver_override"), driver);
        write(Path::new(DRIVERS_PROBE), &self.address);
        assert_eq!(self.driver().as_deref(), Some(driver), "{self} is bound");
    }

    /// The node of a namespace's block device, once it is there.
    fn block_device(&self, nsid: u32) -> Option<PathBuf> {
        let controller = std::fs::read_dir(self.sysfs().join("nvme")).ok()?.flatten().next()?;
        let mut entries = std::fs::read_dir(controller.path()).ok()?.flatten();
        entries.find_map(|entry| {
            let found: u32 = std::fs::read_to_string(entry.path().join("nsid")).ok()?.trim().parse().ok()?;
            let node = Path::new("/dev").join(entry.file_name());
            let is_block = node.metadata().is_ok_and(|of| of.file_type().is_block_device());
            (found == nsid && is_block).then_some(node)
        })
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text)
        .unwrap_or_else(|err| panic!("cannot write {text} to {}: {err}", path.display()));
}
