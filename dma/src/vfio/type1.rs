//! Containers of type 1 version 2, with groups: what every kernel with VFIO has. Through vfio-ioctls.

use std::io;
use std::sync::Arc;

use vfio_ioctls::{VfioContainer, VfioDevice, VfioError as CrateError, VfioOps};
use zerocopy::IntoBytes;

use super::backend::{Backend, Device, Refusal};
use super::error::VfioError;
use super::info::IommuInfo;
use super::ioctl;
use super::pci::PciAddress;
use super::sysfs::Roots;
use crate::iova::Iova;
use crate::region::MemRegion;

/// A container.
pub(super) struct Type1(Arc<VfioContainer>);

impl Type1 {
    /// A container without groups.
    pub(super) fn new(roots: &Roots, address: PciAddress, group: u32) -> Result<Type1, VfioError> {
        roots.check_container()?;
        let container = VfioContainer::new(None).map_err(|error| explain(roots, address, group, error))?;
        Ok(Type1(Arc::new(container)))
    }
}

impl Backend for Type1 {
    fn name(&self) -> &'static str {
        "the IOMMU (VFIO type 1)"
    }

    fn attach(&self, roots: &Roots, address: PciAddress, group: u32) -> Result<Device, Refusal> {
        let operations: Arc<dyn VfioOps> = self.0.clone();
        match VfioDevice::new(&roots.device(address), operations, false) {
            Ok(device) => Ok(Device::Group(device)),
            Err(error) => {
                let incompatible = matches!(error, CrateError::GroupSetContainer);
                let error = explain(roots, address, group, error);
                Err(if incompatible { Refusal::Incompatible(error) } else { Refusal::Failed(error) })
            }
        }
    }

    fn detach(&self, roots: &Roots, address: PciAddress, device: Device) {
        let folder = roots.device(address);
        if !folder.join("iommu_group").exists() {
            // vfio-ioctls 0.10 reads this link when a device is dropped, and panics without it. The kernel keeps it as long
            // as the device is open, so this never happens; if it does, a descriptor is lost.
            tracing::error!(device = %folder.display(), "a VFIO device left sysfs while it was open");
            std::mem::forget(device);
        }
    }

    fn info(&self) -> IommuInfo {
        let answer = ioctl::iommu_info(ioctl::container_fd(&self.0)).unwrap_or_else(|error| {
            tracing::warn!(%error, "VFIO_IOMMU_GET_INFO");
            Vec::new()
        });
        IommuInfo::parse(answer.as_bytes())
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> io::Result<()> {
        ioctl::map(&self.0, iova, region).map_err(|error| match error {
            CrateError::IommuDmaMap(errno) => io::Error::from_raw_os_error(errno.errno()),
            other => io::Error::other(other),
        })
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> io::Result<()> {
        self.0.vfio_dma_unmap(iova.0, len_bytes as usize).map_err(|error| match error {
            CrateError::IommuDmaUnmap(errno) => io::Error::from_raw_os_error(errno.errno()),
            other => io::Error::other(other),
        })
    }

    fn limit_advice(&self, roots: &Roots) -> String {
        entry_limit_advice(roots)
    }
}

/// How to raise the number of mappings.
fn entry_limit_advice(roots: &Roots) -> String {
    let now = roots.module_parameter("vfio_iommu_type1", "dma_entry_limit");
    let double = now.as_ref().and_then(|now| now.parse::<u64>().ok()).unwrap_or(65_535).saturating_mul(2) + 1;
    let now = now.unwrap_or_else(|| "unknown".to_owned());
    format!(
        "; the limit is the parameter dma_entry_limit of vfio_iommu_type1, now {now}: as root, before the program starts, \
         echo {double} > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    )
}

/// What went wrong when a function was opened.
fn explain(roots: &Roots, address: PciAddress, group: u32, error: CrateError) -> VfioError {
    let io = |what: &str, source: io::Error| VfioError::Io { address, what: what.to_owned(), source };
    let raw = |errno: i32| io::Error::from_raw_os_error(errno);
    match error {
        CrateError::GroupViable => roots.not_viable(address, group),
        CrateError::OpenGroup(source, _) => roots.open_error(address, &roots.group_file(group), source),
        CrateError::OpenContainer(source) => roots.open_error(address, &roots.dev.join("vfio/vfio"), source),
        CrateError::VfioExtension => VfioError::ModuleMissing {
            missing: "type 1 of VFIO's containers".to_owned(),
            module: "vfio_iommu_type1",
        },
        CrateError::GroupSetContainer => VfioError::IommuRefused {
            address,
            reason: "the group cannot be attached to a container".to_owned(),
        },
        CrateError::ContainerSetIOMMU(errno) => {
            VfioError::IommuRefused { address, reason: raw(errno.errno()).to_string() }
        }
        CrateError::GroupGetDeviceFD(errno) => io("get the device from its group", raw(errno.errno())),
        CrateError::VfioDeviceGetInfo(errno) => io("ask what the device is", raw(errno.errno())),
        other => io("open it through VFIO", io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests;
