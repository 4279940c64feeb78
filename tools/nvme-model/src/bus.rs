//! [`ModelBus`]: a model in this process as a bus for the driver.
//!
//! Invariants: doorbells are stores to memory that the model's thread polls; registers are calls that return when the thread
//! works with what was written; memory goes by the model's own I/O address table, so that an address that is not mapped is
//! found as it would be behind an IOMMU.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use corelane_dma::{
    AddressSpace, Backing, DeviceMemory, DmaError, DmaMapper, Iova, IovaConstraints, MemRegion, MmioRegion,
};
use corelane_drivers::nvme::bus::{Bus, BusError, Doorbell, Notices};

use crate::device::{Device, DeviceError, Region};
use crate::model::Model;
use crate::wire::register::DOORBELLS;

/// What driver and model have between them. See the module.
pub struct ModelBus {
    address: String,
    model: Arc<Model>,
    doorbells: MmioRegion,
    dma: Arc<AddressSpace>,
}

/// The model as whoever translates addresses.
struct Mapper(Arc<Model>);

impl DmaMapper for Mapper {
    /// What an IOMMU of 39 bits gives, without the addresses that interrupts have (Intel VT-d, section 3.14).
    fn constraints(&self) -> IovaConstraints {
        let ranges = vec![0x1_0000..=0xFEDF_FFFF, 0xFEF0_0000..=0x7F_FFFF_FFFF];
        IovaConstraints { page_bytes: 4096, ranges, max_mappings: None, needs_fd: false }
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
        let (addr, len_bytes) = (region.addr(), region.len());
        let refused = |error: DeviceError| DmaError::MapDma {
            mapper: self.describe(),
            addr,
            len_bytes,
            iova: iova.0,
            source: std::io::Error::other(error),
        };
        self.0.dma_map(iova.0, DeviceMemory::of(region)).map_err(refused)
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError> {
        let refused =
            |source| DmaError::UnmapDma { iova: iova.0, len_bytes, mapper: self.describe(), source };
        match self.0.dma_unmap(iova.0, len_bytes) {
            Ok(unmapped) if unmapped == len_bytes => Ok(()),
            Ok(_) => Err(refused(std::io::ErrorKind::NotFound.into())),
            Err(error) => Err(refused(std::io::Error::other(error))),
        }
    }

    fn describe(&self) -> String {
        "controller model".to_owned()
    }
}

impl ModelBus {
    /// A bus to `model`, called `address` in messages. There may be several to one model, as a function may be behind
    /// several IOMMU domains; but their addresses must not collide, so one is the rule.
    ///
    /// # Errors
    /// [`DmaError`] where the doorbells cannot be shared; no case is known.
    pub fn new(address: &str, model: Arc<Model>) -> Result<Arc<ModelBus>, DmaError> {
        let doorbells = MmioRegion::from_region(model.doorbell_region().clone())?;
        let dma = AddressSpace::new(Box::new(Mapper(Arc::clone(&model))))?;
        model.shared().notices.forget();
        Ok(Arc::new(ModelBus { address: address.to_owned(), model, doorbells, dma }))
    }

    /// The model behind it.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Checks that a register of `len_bytes` may be accessed at `offset`.
    fn check(&self, offset: u64, len_bytes: u64) -> Result<(), BusError> {
        let size_bytes = self.registers_len();
        if offset.is_multiple_of(len_bytes) && offset < size_bytes {
            return Ok(());
        }
        Err(BusError::Range { region: "BAR 0", offset, len_bytes, size_bytes })
    }

    fn read<const LEN: usize>(&self, offset: u64) -> Result<[u8; LEN], BusError> {
        self.check(offset, LEN as u64)?;
        let mut bytes = [0; LEN];
        self.model.read(Region::Bar0, offset, &mut bytes).map_err(|error| self.refused(error))?;
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        self.check(offset, bytes.len() as u64)?;
        self.model.write(Region::Bar0, offset, bytes).map_err(|error| self.refused(error))
    }

    fn refused(&self, error: DeviceError) -> BusError {
        match error {
            DeviceError::Range { region: Region::Config, offset_bytes, len_bytes, region_bytes } => {
                BusError::Range {
                    region: "the configuration space",
                    offset: offset_bytes,
                    len_bytes,
                    size_bytes: region_bytes,
                }
            }
            DeviceError::Vectors { first, count, vectors } => BusError::Range {
                region: "the MSI-X vectors",
                offset: first.into(),
                len_bytes: count as u64,
                size_bytes: vectors.into(),
            },
            other => BusError::Unusable { address: self.address.clone(), reason: other.to_string() },
        }
    }
}

impl Bus for ModelBus {
    fn address(&self) -> &str {
        &self.address
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) -> Result<(), BusError> {
        self.model.read(Region::Config, offset.into(), data).map_err(|error| self.refused(error))
    }

    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), BusError> {
        self.model.write(Region::Config, offset.into(), data).map_err(|error| self.refused(error))
    }

    fn registers_len(&self) -> u64 {
        self.model.region_len(Region::Bar0)
    }

    fn read32(&self, offset: u64) -> Result<u32, BusError> {
        self.read(offset).map(u32::from_le_bytes)
    }

    fn read64(&self, offset: u64) -> Result<u64, BusError> {
        self.read(offset).map(u64::from_le_bytes)
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn write64(&self, offset: u64, value: u64) -> Result<(), BusError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn doorbell(&self, offset: u64) -> Result<Doorbell, BusError> {
        self.check(offset, 4)?;
        let Some(at) = offset.checked_sub(DOORBELLS) else {
            let reason = format!("the register at {offset:#x} is not a doorbell");
            return Err(BusError::Unusable { address: self.address.clone(), reason });
        };
        Ok(Doorbell::Mapped(self.doorbells.register32(at)?))
    }

    fn interrupts(&self) -> u32 {
        Device::interrupts(&*self.model)
    }

    fn set_interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        let io = |source| BusError::Io { what: "keep an interrupt's eventfd".to_owned(), source };
        let mut all = eventfds
            .iter()
            .map(|fd| fd.try_clone_to_owned().map(Some).map_err(io))
            .collect::<Result<Vec<_>, _>>()?;
        // What was set before goes.
        let count = all.len().max(self.interrupts() as usize);
        all.resize_with(count, || None);
        self.model.set_interrupts(0, all).map_err(|error| self.refused(error))
    }

    fn notices(&self) -> Notices<'_> {
        let (error, removal) = self.model.notices();
        Notices { error: Some(error), removal: Some(removal) }
    }

    fn reset(&self) -> Result<(), BusError> {
        if self.model.try_reset() {
            return Ok(());
        }
        let source = std::io::ErrorKind::TimedOut.into();
        Err(BusError::Io { what: format!("reset {}", self.address), source })
    }

    fn dma(&self) -> &Arc<AddressSpace> {
        &self.dma
    }

    fn backing(&self) -> Backing {
        Backing::Pages
    }

    fn bar_memory(&self, bar: u32, offset: u64, len_bytes: u64) -> Option<MmioRegion> {
        let buffer = self.model.memory_buffer().filter(|_| bar == 2)?;
        MmioRegion::from_region(buffer.clone()).ok()?.part(offset, len_bytes).ok()
    }
}

impl std::fmt::Debug for ModelBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelBus").field("address", &self.address).finish_non_exhaustive()
    }
}
