//! Each obstacle on a made-up sysfs, with the text that a person reads.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const DEVICE: &str = "0000:01:00.0";

struct Machine {
    _folder: tempfile::TempDir,
    roots: Roots,
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let roots = Roots { sys: at("sys"), dev: at("dev"), proc: at("proc") };
        Machine { roots, _folder: folder }
    }

    fn folder(&self, path: &str) -> PathBuf {
        let folder = self.roots.sys.join(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn device(&self, address: &str, group: Option<u32>, driver: Option<&str>) {
        let device = self.folder(&format!("bus/pci/devices/{address}"));
        if let Some(group) = group {
            let folder = self.folder(&format!("kernel/iommu_groups/{group}/devices"));
            symlink(folder.parent().unwrap(), device.join("iommu_group")).unwrap();
            symlink(&device, folder.join(address)).unwrap();
        }
        if let Some(driver) = driver {
            symlink(self.folder(&format!("bus/pci/drivers/{driver}")), device.join("driver")).unwrap();
        }
    }

    fn file(&self, root: &Path, path: &str, text: &str) -> PathBuf {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        file
    }
}

fn address() -> PciAddress {
    DEVICE.parse().unwrap()
}

fn text(result: Result<u32, VfioError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_device_that_is_not_there() {
    let machine = Machine::new();
    assert_eq!(
        text(machine.roots.check(address())),
        "there is no PCI device 0000:01:00.0; `lspci -D` lists those that there are"
    );
}

#[test]
fn a_machine_without_an_iommu() {
    let machine = Machine::new();
    machine.device(DEVICE, None, Some("nvme"));
    assert_eq!(
        text(machine.roots.check(address())),
        "PCI device 0000:01:00.0 is behind no IOMMU (it has no iommu_group), so it cannot be given to a process: switch on \
         VT-d or AMD-Vi in the firmware, and on Intel boot Linux with intel_iommu=on"
    );
}

#[test]
fn a_device_of_the_kernel() {
    let machine = Machine::new();
    machine.device(DEVICE, Some(7), Some("nvme"));
    assert_eq!(
        text(machine.roots.check(address())),
        "PCI device 0000:01:00.0 is bound to the driver nvme, not to vfio-pci; nothing may be using it (no mounted file \
         system), and then, as root: modprobe vfio-pci; echo 0000:01:00.0 > \
         /sys/bus/pci/devices/0000:01:00.0/driver/unbind; echo vfio-pci > \
         /sys/bus/pci/devices/0000:01:00.0/driver_override; echo 0000:01:00.0 > /sys/bus/pci/drivers_probe"
    );
}

#[test]
fn a_device_of_nobody() {
    let machine = Machine::new();
    machine.device(DEVICE, Some(7), None);
    machine.folder("bus/pci/drivers/vfio-pci");
    assert_eq!(
        text(machine.roots.check(address())),
        "PCI device 0000:01:00.0 is bound to no driver, not to vfio-pci; nothing may be using it (no mounted file system), \
         and then, as root: echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override; echo 0000:01:00.0 > \
         /sys/bus/pci/drivers_probe"
    );
}

#[test]
fn a_device_of_vfio() {
    for driver in ["vfio-pci", "mlx5_vfio_pci"] {
        let machine = Machine::new();
        machine.device(DEVICE, Some(7), Some(driver));
        assert_eq!(machine.roots.check(address()).unwrap(), 7);
    }
}

#[test]
fn a_kernel_without_vfio() {
    let machine = Machine::new();
    let vfio = machine.roots.dev.join("vfio/vfio");
    assert_eq!(
        machine.roots.check_container().unwrap_err().to_string(),
        format!("{} is not there: the kernel module vfio is missing; as root: modprobe vfio", vfio.display())
    );
    machine.file(&machine.roots.dev, "vfio/vfio", "");
    assert!(machine.roots.check_container().is_ok());
}

#[test]
fn a_group_that_the_kernel_uses_too() {
    let machine = Machine::new();
    machine.device(DEVICE, Some(7), Some("vfio-pci"));
    machine.device("0000:00:1c.0", Some(7), Some("pcieport"));
    machine.device("0000:01:00.3", Some(7), None);
    machine.device("0000:01:00.2", Some(7), Some("xhci_hcd"));
    machine.device("0000:01:00.1", Some(7), Some("snd_hda_intel"));
    machine.device("0000:02:00.0", Some(8), Some("nvme"));
    assert_eq!(
        machine.roots.not_viable(address(), 7).to_string(),
        "IOMMU group 7 of 0000:01:00.0 cannot be given to a process, since devices in it are in use by the kernel: \
         0000:01:00.1 (driver snd_hda_intel), 0000:01:00.2 (driver xhci_hcd); bind each to vfio-pci too, or to no driver (as \
         root: echo ADDRESS > /sys/bus/pci/devices/ADDRESS/driver/unbind), or move the device to another slot"
    );
    assert!(machine.roots.not_viable(address(), 9).to_string().contains("sysfs does not tell which"));
}

#[test]
fn a_group_of_somebody_else() {
    let machine = Machine::new();
    let file = machine.file(&machine.roots.dev, "vfio/7", "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let found = fs::metadata(&file).unwrap();
    assert_eq!(machine.roots.group_file(7), file);
    let path = file.display();
    assert_eq!(
        machine.roots.no_permission(address(), &file).to_string(),
        format!(
            "no permission to open {path} (user {}, group {}, mode 600), which stands for PCI device 0000:01:00.0; as root: \
             chown USER {path}, or lastingly a udev rule: SUBSYSTEM==\"vfio\", OWNER=\"USER\"",
            found.uid(),
            found.gid()
        )
    );
}

#[test]
fn iommufd_is_found_where_all_of_it_is() {
    let machine = Machine::new();
    machine.device(DEVICE, Some(7), Some("vfio-pci"));
    assert!(!machine.roots.has_iommufd(address()) && machine.roots.cdev(address()).is_none());
    machine.folder(&format!("bus/pci/devices/{DEVICE}/vfio-dev/vfio3"));
    let device = machine.roots.dev.join("vfio/devices/vfio3");
    assert_eq!(machine.roots.cdev(address()).as_ref(), Some(&device));
    assert!(!machine.roots.has_iommufd(address()));
    machine.file(&machine.roots.dev, "vfio/devices/vfio3", "");
    assert!(!machine.roots.has_iommufd(address()), "there is no /dev/iommu");
    machine.file(&machine.roots.dev, "iommu", "");
    assert!(machine.roots.has_iommufd(address()));
}

#[test]
fn numbers_of_the_kernel() {
    let machine = Machine::new();
    let limit = || machine.roots.module_parameter("vfio_iommu_type1", "dma_entry_limit");
    assert_eq!((limit(), machine.roots.locked_bytes()), (None, None));
    machine.file(&machine.roots.sys, "module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n");
    machine.file(&machine.roots.proc, "self/status", "Name:\tx\nVmLck:\t    1024 kB\nVmPin:\t 1024 kB\n");
    assert_eq!((limit(), machine.roots.locked_bytes()), (Some("65535".to_owned()), Some(2 << 20)));
}
