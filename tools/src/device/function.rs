//! NVMe controllers as PCI functions: what sysfs says of them, and the block devices of their namespaces.

use std::path::PathBuf;

use corelane_dma::vfio::PciAddress;
use serde::Serialize;

use super::DeviceError;
use super::host::{Host, hex, link_name, names, number, text};

/// The class code of NVMe I/O controllers (NVMe over PCIe transport specification, section 3.1.1: 010802h).
const CLASS_NVME: u32 = 0x01_0802;

/// A PCI function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Function {
    /// Its address, as `0000:01:00.0`.
    pub address: String,
    /// PCI vendor and device, as `1b36:0010`.
    pub id: String,
    /// The controller's model number; only the kernel's own driver tells.
    pub model: Option<String>,
    /// Its serial number; only the kernel's own driver tells.
    pub serial: Option<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The driver that it is kept for.
    pub driver_override: Option<String>,
    /// The group that the IOMMU cannot take apart.
    pub iommu_group: Option<u32>,
    /// The NUMA node that it is on; -1 where the machine does not say.
    pub numa_node: i32,
    /// The other functions of the group, and their drivers.
    pub group: Vec<Sibling>,
    /// The kernel's name of the controller, as `nvme0`.
    pub controller: Option<String>,
    /// The block devices of its namespaces.
    #[serde(skip)]
    pub disks: Vec<Disk>,
}

/// Another function of the same IOMMU group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Sibling {
    /// Its address.
    pub address: String,
    /// The driver that has it.
    pub driver: Option<String>,
}

/// The block device of a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Disk {
    /// The kernel's name of it, as `nvme0n1`.
    pub name: String,
    /// The namespace's number.
    pub nsid: Option<u32>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The kernel's names of its partitions.
    pub partitions: Vec<String>,
}

/// All NVMe controllers on the PCI bus, by address.
pub fn all(host: &Host) -> Vec<Function> {
    let addresses = names(host.sys("bus/pci/devices"));
    let nvme = addresses.into_iter().filter(|address| is_nvme(host, address));
    nvme.map(|address| read(host, address)).collect()
}

/// The NVMe controller at an address.
///
/// # Errors
/// [`DeviceError::NoFunction`] and [`DeviceError::NotNvme`].
pub fn find(host: &Host, address: PciAddress) -> Result<Function, DeviceError> {
    let folder = host.sys("bus/pci/devices").join(address.to_string());
    if !folder.exists() {
        return Err(DeviceError::NoFunction { address });
    }
    if !is_nvme(host, &address.to_string()) {
        let class = hex(folder.join("class")).unwrap_or(0);
        return Err(DeviceError::NotNvme { address, class });
    }
    Ok(read(host, address.to_string()))
}

fn is_nvme(host: &Host, address: &str) -> bool {
    hex(host.sys("bus/pci/devices").join(address).join("class")) == Some(CLASS_NVME)
}

fn read(host: &Host, address: String) -> Function {
    let folder = host.sys("bus/pci/devices").join(&address);
    let id = |name: &str| hex(folder.join(name)).unwrap_or(0);
    let controller = names(folder.join("nvme")).into_iter().next();
    let of_controller = |name: &str| text(folder.join("nvme").join(controller.as_ref()?).join(name));
    // The kernel writes this where there is none.
    let driver_override = text(folder.join("driver_override")).filter(|name| name != "(null)");
    Function {
        id: format!("{:04x}:{:04x}", id("vendor"), id("device")),
        model: of_controller("model"),
        serial: of_controller("serial"),
        driver: link_name(folder.join("driver")),
        driver_override,
        iommu_group: link_name(folder.join("iommu_group")).and_then(|name| name.parse().ok()),
        numa_node: number(folder.join("numa_node")).unwrap_or(-1),
        group: siblings(host, &address),
        disks: controller.as_ref().map_or_else(Vec::new, |name| disks(host, &address, name)),
        controller,
        address,
    }
}

fn siblings(host: &Host, address: &str) -> Vec<Sibling> {
    let folder = host.sys("bus/pci/devices").join(address).join("iommu_group/devices");
    let others = names(folder).into_iter().filter(|name| name != address);
    let sibling = |address: String| Sibling {
        driver: link_name(host.sys("bus/pci/devices").join(&address).join("driver")),
        address,
    };
    others.map(sibling).collect()
}

fn disks(host: &Host, address: &str, controller: &str) -> Vec<Disk> {
    let folder = host.sys("bus/pci/devices").join(address).join("nvme").join(controller);
    let mut found: Vec<Disk> = names(&folder).iter().filter_map(|name| disk(host, &folder, name)).collect();
    found.sort_by_key(|disk| disk.nsid);
    found
}

fn disk(host: &Host, controller: &std::path::Path, entry: &str) -> Option<Disk> {
    let name = disk_name(entry)?;
    let folder = host.sys("block").join(&name);
    let partitions = names(&folder).into_iter().filter(|part| folder.join(part).join("partition").exists());
    Some(Disk {
        nsid: number(controller.join(entry).join("nsid")).or_else(|| number(folder.join("nsid"))),
        // sysfs counts in sectors of 512 bytes, whatever a block is.
        size_bytes: number::<u64>(folder.join("size")).unwrap_or(0).saturating_mul(512),
        partitions: partitions.collect(),
        name,
    })
}

/// The block device that belongs to an entry of a controller's folder. `nvme0n1` is one itself; `nvme0c1n1` is the path
/// of one controller to the namespace that all see as `nvme0n1` (the kernel's NVMe multipath).
pub fn disk_name(entry: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (before, namespace) = entry.strip_prefix("nvme")?.rsplit_once('n')?;
    let (instance, path) = before.split_once('c').map_or((before, None), |(a, b)| (a, Some(b)));
    let good = digits(instance) && digits(namespace) && path.is_none_or(digits);
    good.then(|| format!("nvme{instance}n{namespace}"))
}

impl Function {
    /// The file of its IOMMU group.
    pub fn group_file(&self, host: &Host) -> Option<PathBuf> {
        Some(host.dev("vfio").join(self.iommu_group?.to_string()))
    }

    /// Whether VFIO has it: vfio-pci or one of its variants.
    pub fn is_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| driver.contains("vfio"))
    }

    /// Functions of its group that the kernel uses, so that VFIO does not give the group away. Ports count for nothing.
    pub fn in_the_way(&self) -> impl Iterator<Item = &Sibling> {
        let harmless = |driver: &str| driver.contains("vfio") || ["pcieport", "pci-stub"].contains(&driver);
        self.group.iter().filter(move |of| of.driver.as_deref().is_some_and(|driver| !harmless(driver)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_multipath_belong_to_the_device_that_all_share() {
        for (entry, name) in [
            ("nvme0n1", Some("nvme0n1")),
            ("nvme10c2n13", Some("nvme10n13")),
            ("nvme0", None),
            ("ng0n1", None),
            ("hwmon1", None),
            ("nvme0n1p2", None),
            ("nvme0cn1", None),
            ("numa_node", None),
        ] {
            assert_eq!(disk_name(entry).as_deref(), name, "{entry}");
        }
    }
}
