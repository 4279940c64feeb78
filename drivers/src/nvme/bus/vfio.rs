//! [`VfioBus`]: a real PCI function, through VFIO.
//!
//! Invariants:
//! - From open to drop the function decodes memory accesses and may master the bus; without the first, an access to a mapped
//!   register would end the process (SIGBUS).
//! - Registers are used where they are mapped; those that the kernel keeps to itself, as it may the table of MSI-X vectors,
//!   go through the function's file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use corelane_dma::vfio::{PciAddress, VfioError, VfioFunction, irq, region};
use corelane_dma::{AddressSpace, Backing, MmioRegion};
use rustix::event::{EventfdFlags, eventfd};

use super::{Bus, BusError, Doorbell, Notices, SendDoorbell};

/// The command register of the configuration space (PCI Local Bus specification 3.0, section 6.2.2), and what it needs:
/// memory decoding and bus mastering.
const COMMAND: u64 = 0x04;
const COMMAND_MEMORY_AND_MASTER: u16 = 0b110;

/// Base class, sub-class and programming interface of an NVMe I/O controller (NVMe over PCIe transport specification,
/// section 3.1.1: class code 010802h), in the upper three bytes of the register at 08h.
const CLASS: u64 = 0x08;
const CLASS_NVME: u32 = 0x01_0802;

/// The regions of the function's BARs begin with that of BAR 0 (VFIO_PCI_BAR5_REGION_INDEX).
const LAST_BAR: u32 = region::BAR0 + 5;

/// A PCI function that is bound to vfio-pci.
pub struct VfioBus {
    inner: Arc<Inner>,
}

struct Inner {
    // Before the function: the kernel keeps a device open as long as its registers are mapped.
    /// The mapped parts of BAR 0, each with its offset there.
    mapped: Vec<(u64, MmioRegion)>,
    error: Option<OwnedFd>,
    removal: Option<OwnedFd>,
    interrupts: u32,
    registers_len: u64,
    function: VfioFunction,
}

impl VfioBus {
    /// Opens the NVMe controller at this address.
    ///
    /// # Errors
    /// [`BusError::Vfio`] with what a person can do, [`BusError::Unusable`] for a function that is no NVMe controller.
    pub fn open(address: PciAddress) -> Result<VfioBus, BusError> {
        VfioBus::of(VfioFunction::open(address)?)
    }

    /// A bus to a function that is open already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(function: VfioFunction) -> Result<VfioBus, BusError> {
        let mut class = [0; 4];
        function.read(region::CONFIG, CLASS, &mut class)?;
        let class = u32::from_le_bytes(class) >> 8;
        if class != CLASS_NVME {
            let reason = format!("it is no NVMe controller: its class is {class:06x}, not {CLASS_NVME:06x}");
            return Err(BusError::Unusable { address: function.name().to_owned(), reason });
        }
        enable(&function)?;
        let registers_len = function.region(region::BAR0).map_or(0, |bar| bar.size_bytes);
        let mapped = map_registers(&function);
        let error = notice(&function, irq::ERROR)?;
        let removal = notice(&function, irq::REQUEST)?;
        let interrupts = function.irq_count(irq::MSIX);
        let inner = Inner { mapped, error, removal, interrupts, registers_len, function };
        Ok(VfioBus { inner: Arc::new(inner) })
    }
}

/// Switches on memory decoding and bus mastering.
fn enable(function: &VfioFunction) -> Result<(), VfioError> {
    let mut command = [0; 2];
    function.read(region::CONFIG, COMMAND, &mut command)?;
    let wanted = u16::from_le_bytes(command) | COMMAND_MEMORY_AND_MASTER;
    function.write(region::CONFIG, COMMAND, &wanted.to_le_bytes())
}

/// Maps what the kernel lets be mapped of BAR 0. What it refuses after all goes through the file.
fn map_registers(function: &VfioFunction) -> Vec<(u64, MmioRegion)> {
    let parts = function.region(region::BAR0).map_or(&[][..], |bar| &bar.mappable);
    let map =
        |start: u64, end: u64| function.map(region::BAR0, start, usize::try_from(end - start).ok()?).ok();
    parts.iter().filter_map(|part| Some((part.start, map(part.start, part.end)?))).collect()
}

/// An eventfd that an interrupt of the host signals; `None` where the function has none of the kind.
fn notice(function: &VfioFunction, index: u32) -> Result<Option<OwnedFd>, BusError> {
    if function.irq_count(index) == 0 {
        return Ok(None);
    }
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| BusError::Io {
        what: "cannot make an eventfd".to_owned(),
        source: io::Error::from(errno),
    })?;
    function.set_irqs(index, &[fd.as_fd()])?;
    Ok(Some(fd))
}

impl Inner {
    /// The mapped part that holds the bytes, and their offset in it.
    fn mapped(&self, offset: u64, len_bytes: u64) -> Option<(&MmioRegion, u64)> {
        let end = offset.checked_add(len_bytes)?;
        self.mapped.iter().find_map(|(start, part)| {
            let holds = *start <= offset && end <= start + part.len_bytes();
            holds.then(|| (part, offset - start))
        })
    }

    fn check(&self, offset: u64, len_bytes: u64) -> Result<(), BusError> {
        let size_bytes = self.registers_len;
        if offset.is_multiple_of(len_bytes)
            && offset.checked_add(len_bytes).is_some_and(|end| end <= size_bytes)
        {
            return Ok(());
        }
        Err(BusError::Range { region: "BAR 0", offset, len_bytes, size_bytes })
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        self.check(offset, 4)?;
        match self.mapped(offset, 4) {
            Some((part, offset)) => Ok(part.write32(offset, value)?),
            None => Ok(self.function.write(region::BAR0, offset, &value.to_le_bytes())?),
        }
    }
}

/// For a doorbell in a page that is not mapped. The system call orders what was stored before.
impl SendDoorbell for Inner {
    fn send(&self, offset: u64, value: u32) -> Result<(), BusError> {
        self.write32(offset, value)
    }
}

impl Bus for VfioBus {
    fn address(&self) -> &str {
        self.inner.function.name()
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) -> Result<(), BusError> {
        Ok(self.inner.function.read(region::CONFIG, u64::from(offset), data)?)
    }

    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), BusError> {
        Ok(self.inner.function.write(region::CONFIG, u64::from(offset), data)?)
    }

    fn registers_len(&self) -> u64 {
        self.inner.registers_len
    }

    fn read32(&self, offset: u64) -> Result<u32, BusError> {
        self.inner.check(offset, 4)?;
        if let Some((part, offset)) = self.inner.mapped(offset, 4) {
            return Ok(part.read32(offset)?);
        }
        let mut bytes = [0; 4];
        self.inner.function.read(region::BAR0, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read64(&self, offset: u64) -> Result<u64, BusError> {
        self.inner.check(offset, 8)?;
        if let Some((part, offset)) = self.inner.mapped(offset, 8) {
            return Ok(part.read64(offset)?);
        }
        let mut bytes = [0; 8];
        self.inner.function.read(region::BAR0, offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        self.inner.write32(offset, value)
    }

    fn write64(&self, offset: u64, value: u64) -> Result<(), BusError> {
        self.inner.check(offset, 8)?;
        match self.inner.mapped(offset, 8) {
            Some((part, offset)) => Ok(part.write64(offset, value)?),
            None => Ok(self.inner.function.write(region::BAR0, offset, &value.to_le_bytes())?),
        }
    }

    fn doorbell(&self, offset: u64) -> Result<Doorbell, BusError> {
        self.inner.check(offset, 4)?;
        match self.inner.mapped(offset, 4) {
            Some((part, offset)) => Ok(Doorbell::Mapped(part.register32(offset)?)),
            None => Ok(Doorbell::Message { sender: Arc::<Inner>::clone(&self.inner), offset }),
        }
    }

    fn interrupts(&self) -> u32 {
        self.inner.interrupts
    }

    fn set_interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        if eventfds.len() > self.inner.interrupts as usize {
            let (len_bytes, size_bytes) = (eventfds.len() as u64, u64::from(self.inner.interrupts));
            return Err(BusError::Range { region: "the MSI-X vectors", offset: 0, len_bytes, size_bytes });
        }
        Ok(self.inner.function.set_irqs(irq::MSIX, eventfds)?)
    }

    fn notices(&self) -> Notices<'_> {
        let (error, removal) = (self.inner.error.as_ref(), self.inner.removal.as_ref());
        Notices { error: error.map(AsFd::as_fd), removal: removal.map(AsFd::as_fd) }
    }

    fn reset(&self) -> Result<(), BusError> {
        match self.inner.function.reset() {
            // The kernel restores the configuration space, but a device may come back without what it needs.
            Ok(()) => Ok(enable(&self.inner.function)?),
            Err(VfioError::NoReset { .. }) => {
                Err(BusError::Unsupported { address: self.address().to_owned(), what: "reset of its own" })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn dma(&self) -> &Arc<AddressSpace> {
        self.inner.function.space()
    }

    fn backing(&self) -> Backing {
        Backing::HugePages
    }

    fn bar_memory(&self, bar: u32, offset: u64, len_bytes: u64) -> Option<MmioRegion> {
        if bar != region::BAR0 {
            let is_bar = bar <= LAST_BAR;
            let len_bytes = usize::try_from(len_bytes).ok().filter(|_| is_bar)?;
            return self.inner.function.map(bar, offset, len_bytes).ok();
        }
        let (part, offset) = self.inner.mapped(offset, len_bytes)?;
        part.part(offset, len_bytes).ok()
    }
}
