//! Containers: which functions share an address space, and the mapper behind it.
//!
//! Invariants:
//! - A container is made with its first function, and *dead* when its last has left: mapping fails, and no further function
//!   joins. The kernel forgets all of its mappings with the last group (type 1), unless registers of a function are still
//!   mapped, which keep the device and its group where they are; so unmapping is tried, and counts as done where the kernel
//!   knows of none.
//! - Locks are taken in this order: the list of containers, an address space's, a container's own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError as CrateError, VfioOps};
use zerocopy::IntoBytes;

use super::error::VfioError;
use super::info::IommuInfo;
use super::ioctl;
use super::pci::PciAddress;
use super::sysfs::Roots;
use crate::error::DmaError;
use crate::iova::Iova;
use crate::region::MemRegion;
use crate::space::{AddressSpace, DmaMapper, IovaConstraints};

/// All containers of the process that are in use.
static HOMES: Mutex<Vec<(Weak<Container>, Weak<AddressSpace>)>> = Mutex::new(Vec::new());

/// A container, and how many functions keep it alive.
pub(super) struct Container {
    inner: Arc<VfioContainer>,
    roots: Roots,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who keeps the container alive.
    functions: Vec<PciAddress>,
    /// How many mappings there are.
    mappings: u32,
    dead: bool,
}

/// A function that has joined a container.
pub(super) struct Member {
    address: PciAddress,
    /// `None` only while it is dropped.
    device: Option<VfioDevice>,
    container: Arc<Container>,
    space: Arc<AddressSpace>,
    sysfs_link: PathBuf,
}

/// Opens a function, in a container that is there if the kernel allows it, in a new one otherwise.
pub(super) fn open(roots: &Roots, address: PciAddress) -> Result<Member, VfioError> {
    let group = roots.check(address)?;
    roots.check_container()?;
    let folder = roots.device(address);
    let explain = |error| explain(roots, address, group, error);
    let mut homes = HOMES.lock().unwrap_or_else(PoisonError::into_inner);
    homes.retain(|(container, _)| container.upgrade().is_some_and(|container| !container.state().dead));
    if homes.iter().filter_map(|(container, _)| container.upgrade()).any(|container| container.has(address)) {
        return Err(VfioError::AlreadyOpen { address });
    }
    for (container, space) in homes.iter() {
        let (Some(container), Some(space)) = (container.upgrade(), space.upgrade()) else { continue };
        match container.attach(address, &folder) {
            Ok(Some(device)) => {
                let member = Member::new(address, device, container, space, &folder);
                // The group may have narrowed what can be used.
                member.space.refresh_constraints();
                return Ok(member);
            }
            // The IOMMUs do not go together (or the container has just died): one of its own.
            Ok(None) | Err(CrateError::GroupSetContainer) => {}
            Err(error) => return Err(explain(error)),
        }
    }
    let inner = Arc::new(VfioContainer::new(None).map_err(explain)?);
    let container = Arc::new(Container { inner, roots: roots.clone(), state: Mutex::default() });
    let Some(device) = container.attach(address, &folder).map_err(explain)? else {
        return Err(explain(CrateError::GroupSetContainer));
    };
    let space = match AddressSpace::new(Box::new(ContainerMapper(Arc::clone(&container)))) {
        Ok(space) => space,
        Err(error) => {
            container.leave(address, device, &folder);
            return Err(error.into());
        }
    };
    homes.push((Arc::downgrade(&container), Arc::downgrade(&space)));
    Ok(Member::new(address, device, container, space, &folder))
}

impl Container {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, address: PciAddress) -> bool {
        self.state().functions.contains(&address)
    }

    /// Opens the device, with its group in this container; `None` if the container is dead.
    fn attach(&self, address: PciAddress, folder: &Path) -> Result<Option<VfioDevice>, CrateError> {
        let mut state = self.state();
        if state.dead {
            return Ok(None);
        }
        let operations: Arc<dyn VfioOps> = self.inner.clone();
        let device = VfioDevice::new(folder, operations, false)?;
        state.functions.push(address);
        Ok(Some(device))
    }

    fn leave(&self, address: PciAddress, device: VfioDevice, sysfs_link: &Path) {
        let mut state = self.state();
        if sysfs_link.join("iommu_group").exists() {
            drop(device);
        } else {
            // vfio-ioctls 0.10 reads this link when a device is dropped, and panics without it. The kernel keeps it as
            // long as the device is open, so this never happens; if it does, a descriptor is lost.
            tracing::error!(device = %sysfs_link.display(), "a VFIO device left sysfs while it was open");
            std::mem::forget(device);
            return;
        }
        state.functions.retain(|known| *known != address);
        state.dead |= state.functions.is_empty();
    }
}

impl Member {
    fn new(
        address: PciAddress,
        device: VfioDevice,
        container: Arc<Container>,
        space: Arc<AddressSpace>,
        folder: &Path,
    ) -> Member {
        Member { address, device: Some(device), container, space, sysfs_link: folder.to_owned() }
    }

    pub(super) fn device(&self) -> Option<&VfioDevice> {
        self.device.as_ref()
    }

    pub(super) fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            self.container.leave(self.address, device, &self.sysfs_link);
        }
    }
}

/// What the mapper is called in messages.
const MAPPER: &str = "the IOMMU (VFIO type 1)";

/// The mapper of a container's address space.
struct ContainerMapper(Arc<Container>);

impl DmaMapper for ContainerMapper {
    fn constraints(&self) -> IovaConstraints {
        let state = self.0.state();
        let answer = ioctl::iommu_info(ioctl::container_fd(&self.0.inner)).unwrap_or_else(|error| {
            tracing::warn!(%error, "VFIO_IOMMU_GET_INFO");
            Vec::new()
        });
        let info = IommuInfo::parse(answer.as_bytes());
        IovaConstraints {
            page_bytes: info.page_bytes,
            ranges: info.ranges,
            max_mappings: info.mappings_left.map(|left| left.saturating_add(state.mappings)),
            needs_fd: false,
        }
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
        let mut state = self.0.state();
        let result = if state.dead {
            Err(CrateError::GroupSetContainer)
        } else {
            ioctl::map(&self.0.inner, iova, region)
        };
        let source = match result {
            Ok(()) => {
                state.mappings += 1;
                return Ok(());
            }
            Err(CrateError::IommuDmaMap(errno)) => io::Error::from_raw_os_error(errno.errno()),
            Err(CrateError::GroupSetContainer) => io::Error::other("the last device has left the container"),
            Err(other) => io::Error::other(other),
        };
        let memlock = getrlimit(Resource::Memlock).current;
        Err(refusal(&self.0.roots, memlock, iova, region, source, state.mappings))
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError> {
        let mut state = self.0.state();
        let source = match self.0.inner.vfio_dma_unmap(iova.0, len_bytes as usize) {
            Ok(()) => {
                state.mappings = state.mappings.saturating_sub(1);
                return Ok(());
            }
            // Without a group a container has no IOMMU, and every call for one is invalid.
            Err(CrateError::IommuDmaUnmap(errno))
                if state.dead && errno.errno() == Errno::INVAL.raw_os_error() =>
            {
                return Ok(());
            }
            Err(CrateError::IommuDmaUnmap(errno)) => io::Error::from_raw_os_error(errno.errno()),
            Err(other) => io::Error::other(other),
        };
        Err(DmaError::UnmapDma { mapper: self.describe(), iova: iova.0, len_bytes, source })
    }

    fn describe(&self) -> String {
        MAPPER.to_owned()
    }

    fn limit_advice(&self) -> String {
        entry_limit_advice(&self.0.roots)
    }
}

/// What an errno of VFIO_IOMMU_MAP_DMA means: ENOSPC for too many mappings, ENOMEM for more locked memory than `memlock`
/// (RLIMIT_MEMLOCK, if there is a limit).
fn refusal(
    roots: &Roots,
    memlock: Option<u64>,
    iova: Iova,
    region: &MemRegion,
    source: io::Error,
    in_use: u32,
) -> DmaError {
    let (mapper, addr, len_bytes) = (MAPPER.to_owned(), region.addr(), region.len());
    match (Errno::from_io_error(&source), memlock) {
        (Some(Errno::NOSPC), _) => {
            let advice = entry_limit_advice(roots);
            DmaError::MappingsExhausted { mapper, in_use: in_use as usize, limit: None, advice }
        }
        (Some(Errno::NOMEM), Some(limit_bytes)) => {
            let locked_bytes = roots.locked_bytes().unwrap_or(0);
            DmaError::LockedMemory { len_bytes, limit_bytes, locked_bytes }
        }
        _ => DmaError::MapDma { mapper, addr, len_bytes, iova: iova.0, source },
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
        CrateError::OpenGroup(source, _) => open_error(roots, address, &roots.group_file(group), source),
        CrateError::OpenContainer(source) => open_error(roots, address, &roots.dev.join("vfio/vfio"), source),
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

fn open_error(roots: &Roots, address: PciAddress, path: &Path, source: io::Error) -> VfioError {
    match Errno::from_io_error(&source) {
        Some(Errno::ACCESS | Errno::PERM) => roots.no_permission(address, path),
        Some(Errno::BUSY) => VfioError::Busy { address, path: path.display().to_string() },
        _ => VfioError::Io { address, what: format!("open {}", path.display()), source },
    }
}

#[cfg(test)]
mod tests;
