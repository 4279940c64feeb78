//! Containers: which functions share an address space, and the mapper behind it.
//!
//! Invariants:
//! - A container is made with its first function, and *dead* when its last has left: mapping fails, and no further function
//!   joins. The kernel forgets all of its mappings with the last group (type 1), unless registers of a function are still
//!   mapped, which keep the device and its group where they are; so unmapping is tried, and counts as done where the kernel
//!   knows of none.
//! - Locks are taken in this order: the list of containers, an address space's, a container's own.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::backend::{Backend, Device, Refusal};
use super::error::VfioError;
use super::iommufd::Iommufd;
use super::pci::PciAddress;
use super::sysfs::Roots;
use super::type1::Type1;
use crate::error::DmaError;
use crate::iova::Iova;
use crate::region::MemRegion;
use crate::space::{AddressSpace, DmaMapper, IovaConstraints};

/// All containers of the process that are in use.
static HOMES: Mutex<Vec<Home>> = Mutex::new(Vec::new());

/// A container and its address space, so long as somebody has them.
struct Home {
    kind: Kind,
    container: Weak<Container>,
    space: Weak<AddressSpace>,
}

/// What containers are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Iommufd,
    Type1,
}

/// A container, and who keeps it alive.
struct Container {
    backend: Box<dyn Backend>,
    roots: Roots,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    functions: Vec<PciAddress>,
    /// How many mappings there are.
    mappings: u32,
    dead: bool,
}

/// A function that has joined a container.
pub(super) struct Member {
    address: PciAddress,
    /// `None` only while it is dropped.
    device: Option<Device>,
    container: Arc<Container>,
    space: Arc<AddressSpace>,
}

/// Opens a function, in a container that is there if the kernel allows it, in a new one otherwise: through iommufd where the
/// kernel has it for this device and we may use it, through its group otherwise.
pub(super) fn open(roots: &Roots, address: PciAddress) -> Result<Member, VfioError> {
    let group = roots.check(address)?;
    let mut homes = HOMES.lock().unwrap_or_else(PoisonError::into_inner);
    homes.retain(|home| home.container.upgrade().is_some_and(|container| !container.state().dead));
    if homes.iter().filter_map(|home| home.container.upgrade()).any(|container| container.has(address)) {
        return Err(VfioError::AlreadyOpen { address });
    }
    if roots.has_iommufd(address) {
        match open_as(Kind::Iommufd, &mut homes, roots, address, group) {
            // Whoever was given the group only has not been given this.
            Err(VfioError::NoPermission { .. }) => {}
            other => return other,
        }
    }
    open_as(Kind::Type1, &mut homes, roots, address, group)
}

fn open_as(
    kind: Kind,
    homes: &mut Vec<Home>,
    roots: &Roots,
    address: PciAddress,
    group: u32,
) -> Result<Member, VfioError> {
    for home in homes.iter().filter(|home| home.kind == kind) {
        let (Some(container), Some(space)) = (home.container.upgrade(), home.space.upgrade()) else {
            continue;
        };
        match container.attach(address, group) {
            Ok(Some(device)) => {
                // The function may have narrowed what can be used.
                space.refresh_constraints();
                return Ok(Member { address, device: Some(device), container, space });
            }
            // The IOMMUs do not go together (or the container has just died): one of its own.
            Ok(None) | Err(Refusal::Incompatible(_)) => {}
            Err(Refusal::Failed(error)) => return Err(error),
        }
    }
    let backend: Box<dyn Backend> = match kind {
        Kind::Iommufd => Box::new(Iommufd::new(roots, address)?),
        Kind::Type1 => Box::new(Type1::new(roots, address, group)?),
    };
    let container = Arc::new(Container { backend, roots: roots.clone(), state: Mutex::default() });
    let device = match container.attach(address, group) {
        Ok(device) => device,
        Err(Refusal::Incompatible(error) | Refusal::Failed(error)) => return Err(error),
    };
    let space = match AddressSpace::new(Box::new(ContainerMapper(Arc::clone(&container)))) {
        Ok(space) => space,
        Err(error) => {
            container.leave(address, device);
            return Err(error.into());
        }
    };
    homes.push(Home { kind, container: Arc::downgrade(&container), space: Arc::downgrade(&space) });
    Ok(Member { address, device, container, space })
}

impl Container {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, address: PciAddress) -> bool {
        self.state().functions.contains(&address)
    }

    /// Opens the device, in this container; `None` if the container is dead.
    fn attach(&self, address: PciAddress, group: u32) -> Result<Option<Device>, Refusal> {
        let mut state = self.state();
        if state.dead {
            return Ok(None);
        }
        let device = self.backend.attach(&self.roots, address, group)?;
        state.functions.push(address);
        Ok(Some(device))
    }

    fn leave(&self, address: PciAddress, device: Option<Device>) {
        let mut state = self.state();
        if let Some(device) = device {
            self.backend.detach(&self.roots, address, device);
        }
        state.functions.retain(|known| *known != address);
        state.dead |= state.functions.is_empty();
    }
}

impl Member {
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(Device::fd)
    }

    pub(super) fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.container.leave(self.address, self.device.take());
    }
}

/// The mapper of a container's address space.
struct ContainerMapper(Arc<Container>);

impl DmaMapper for ContainerMapper {
    fn constraints(&self) -> IovaConstraints {
        let state = self.0.state();
        let info = self.0.backend.info();
        IovaConstraints {
            page_bytes: info.page_bytes,
            ranges: info.ranges,
            max_mappings: info.mappings_left.map(|left| left.saturating_add(state.mappings)),
            needs_fd: false,
        }
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
        let mut state = self.0.state();
        let dead = || Err(io::Error::other("the last device has left the container"));
        let result = if state.dead { dead() } else { self.0.backend.map(iova, region) };
        let Err(source) = result else {
            state.mappings += 1;
            return Ok(());
        };
        let memlock = getrlimit(Resource::Memlock).current;
        Err(refusal(&self.0, memlock, iova, region, source, state.mappings))
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError> {
        let mut state = self.0.state();
        let Err(source) = self.0.backend.unmap(iova, len_bytes) else {
            state.mappings = state.mappings.saturating_sub(1);
            return Ok(());
        };
        // Without a group a container of type 1 has no IOMMU, and every call for one is invalid.
        if state.dead && Errno::from_io_error(&source) == Some(Errno::INVAL) {
            return Ok(());
        }
        Err(DmaError::UnmapDma { mapper: self.describe(), iova: iova.0, len_bytes, source })
    }

    fn describe(&self) -> String {
        self.0.backend.name().to_owned()
    }

    fn limit_advice(&self) -> String {
        self.0.backend.limit_advice(&self.0.roots)
    }
}

/// What the errno of a refused mapping means: ENOSPC for too many mappings, ENOMEM for more locked memory than `memlock`
/// (RLIMIT_MEMLOCK, if there is a limit).
fn refusal(
    container: &Container,
    memlock: Option<u64>,
    iova: Iova,
    region: &MemRegion,
    source: io::Error,
    in_use: u32,
) -> DmaError {
    let (backend, roots) = (&container.backend, &container.roots);
    let (mapper, addr, len_bytes) = (backend.name().to_owned(), region.addr(), region.len());
    match (Errno::from_io_error(&source), memlock) {
        (Some(Errno::NOSPC), _) => {
            let advice = backend.limit_advice(roots);
            DmaError::MappingsExhausted { mapper, in_use: in_use as usize, limit: None, advice }
        }
        (Some(Errno::NOMEM), Some(limit_bytes)) => {
            let locked_bytes = roots.locked_bytes().unwrap_or(0);
            DmaError::LockedMemory { len_bytes, limit_bytes, locked_bytes }
        }
        _ => DmaError::MapDma { mapper, addr, len_bytes, iova: iova.0, source },
    }
}

#[cfg(test)]
mod tests;
