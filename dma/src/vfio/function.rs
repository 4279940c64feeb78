//! [`VfioFunction`]: a PCI function that this process drives.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::container::{self, Member};
use super::error::VfioError;
use super::info::Region;
use super::ioctl;
use super::pci::PciAddress;
use super::sysfs::Roots;
use crate::mmio::MmioRegion;
use crate::space::AddressSpace;

/// How many regions a PCI device has in VFIO: six of base addresses, the ROM and the configuration space.
const REGIONS: u32 = super::region::CONFIG + 1;

/// An open PCI function. Dropping it gives it back to the kernel, which resets it and takes away its access to memory; but
/// while registers of it are mapped ([`MmioRegion`]) the kernel keeps it open, so they are to be dropped first.
pub struct VfioFunction {
    address: PciAddress,
    name: String,
    regions: Vec<Region>,
    member: Member,
}

impl VfioFunction {
    /// Opens a function that is bound to vfio-pci.
    ///
    /// # Errors
    /// [`VfioError`], with what a person can do.
    pub fn open(address: PciAddress) -> Result<VfioFunction, VfioError> {
        VfioFunction::open_in(&Roots::default(), address)
    }

    /// As [`open`](Self::open), with the kernel's file systems mounted elsewhere. The files of VFIO itself are always those in
    /// `/dev/vfio`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(roots: &Roots, address: PciAddress) -> Result<VfioFunction, VfioError> {
        let member = container::open(roots, address)?;
        let mut function = VfioFunction { address, name: address.to_string(), regions: Vec::new(), member };
        for index in 0..REGIONS {
            let answer = match ioctl::region_info(function.fd()?, index) {
                Ok(answer) => answer,
                // The device has no such region.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Vec::new(),
                Err(source) => return Err(function.io("ask about its regions", source)),
            };
            function.regions.push(Region::parse(answer.as_bytes()));
        }
        Ok(function)
    }

    /// Which function it is.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The same as text: `0000:01:00.0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address space in which the device sees memory; shared with other functions where the kernel allows it.
    pub fn space(&self) -> &Arc<AddressSpace> {
        self.member.space()
    }

    /// A region (see [`region`](super::region)), or `None` for a number that no PCI device has.
    pub fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    /// Reads from a region, as one access if the length is 1, 2, 4 or 8 and the offset a multiple of it.
    ///
    /// # Errors
    /// [`VfioError::Range`] outside the region or where it cannot be read, [`VfioError::Io`].
    pub fn read(&self, index: u32, offset_bytes: u64, data: &mut [u8]) -> Result<(), VfioError> {
        let at = self.place(index, "a read", offset_bytes, data.len(), |region| region.readable)?;
        let len_bytes = data.len();
        let done = rustix::io::pread(self.fd()?, data, at)
            .map_err(|errno| self.io("read a region", errno.into()))?;
        self.complete("read a region", done, len_bytes)
    }

    /// Writes to a region, as one access if the length is 1, 2, 4 or 8 and the offset a multiple of it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, index: u32, offset_bytes: u64, data: &[u8]) -> Result<(), VfioError> {
        let at = self.place(index, "a write", offset_bytes, data.len(), |region| region.writable)?;
        let done = rustix::io::pwrite(self.fd()?, data, at)
            .map_err(|errno| self.io("write a region", errno.into()))?;
        self.complete("write a region", done, data.len())
    }

    /// Maps part of a region. Offset and length are multiples of the page size.
    ///
    /// vfio-ioctls 0.10 has no such call: the device's file is mapped at the region's offset in it.
    ///
    /// # Errors
    /// [`VfioError::Range`] for what the kernel does not let be mapped, [`VfioError::Memory`].
    pub fn map(&self, index: u32, offset_bytes: u64, len_bytes: usize) -> Result<MmioRegion, VfioError> {
        let end = offset_bytes.saturating_add(len_bytes as u64);
        let allowed = |region: &Region| {
            region.mappable.iter().any(|part| part.start <= offset_bytes && end <= part.end)
        };
        let at = self.place(index, "a mapping", offset_bytes, len_bytes, allowed)?;
        Ok(MmioRegion::from_fd(self.fd()?, at, len_bytes)?)
    }

    /// How many vectors an interrupt has (see [`irq`](super::irq)); 0 for one that the device does not have.
    pub fn irq_count(&self, index: u32) -> u32 {
        self.fd().ok().and_then(|fd| ioctl::irq_count(fd, index).ok()).unwrap_or(0)
    }

    /// Lets vector *i* of an interrupt signal `eventfds[i]`, instead of all that was set before; none switches it off. The
    /// kernel keeps what it needs of the descriptors.
    ///
    /// # Errors
    /// [`VfioError::NoInterrupt`] for more than there are, [`VfioError::Io`].
    pub fn set_irqs(&self, index: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), VfioError> {
        let (address, count, asked) = (self.address, self.irq_count(index), eventfds.len());
        if asked > count as usize {
            return Err(VfioError::NoInterrupt { address, index, count, asked });
        }
        if count == 0 {
            return Ok(());
        }
        let fd = self.fd()?;
        let set =
            |eventfds| ioctl::set_irqs(fd, index, eventfds).map_err(|error| self.io("set interrupts", error));
        // Off first: kernels before 6.5 cannot have more vectors than they were first enabled with. One that is off already
        // is refused as invalid.
        match set(&[]) {
            Err(VfioError::Io { source, .. }) if Errno::from_io_error(&source) == Some(Errno::INVAL) => {}
            other => other?,
        }
        if asked == 0 { Ok(()) } else { set(eventfds) }
    }

    /// Resets the function, by whatever the kernel knows that affects no other.
    ///
    /// # Errors
    /// [`VfioError::NoReset`], [`VfioError::Io`].
    pub fn reset(&self) -> Result<(), VfioError> {
        ioctl::reset(self.fd()?).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::NOTTY) => VfioError::NoReset { address: self.address },
            _ => self.io("reset it", error),
        })
    }

    /// Where a range of a region is in the device's file.
    fn place(
        &self,
        index: u32,
        what: &'static str,
        offset_bytes: u64,
        len_bytes: usize,
        allowed: impl Fn(&Region) -> bool,
    ) -> Result<u64, VfioError> {
        let len_bytes = len_bytes as u64;
        let region = self.region(index);
        match region.filter(|region| region.holds(offset_bytes, len_bytes) && allowed(region)) {
            Some(region) => Ok(region.file_offset_bytes + offset_bytes),
            None => {
                let size_bytes = region.map_or(0, |region| region.size_bytes);
                let address = self.address;
                Err(VfioError::Range { address, index, what, offset_bytes, len_bytes, size_bytes })
            }
        }
    }

    fn complete(&self, what: &str, done: usize, wanted: usize) -> Result<(), VfioError> {
        if done == wanted {
            return Ok(());
        }
        Err(self.io(what, io::Error::other(format!("{done} of {wanted} bytes were transferred"))))
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, VfioError> {
        let closed = || self.io("use it", io::Error::other("it is closed"));
        self.member.fd().ok_or_else(closed)
    }

    fn io(&self, what: &str, source: io::Error) -> VfioError {
        VfioError::Io { address: self.address, what: what.to_owned(), source }
    }
}

impl fmt::Debug for VfioFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioFunction").field("name", &self.name).field("regions", &self.regions).finish()
    }
}
