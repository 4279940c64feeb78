//! What the commands of a client do.
//!
//! Invariant: a command is checked whole before it has an effect. Refusals are errnos, as the protocol wants.

use std::os::fd::OwnedFd;

use corelane_drivers::nvme::bus::vfio_user::socket::Message;
use corelane_drivers::nvme::bus::vfio_user::wire::{
    CAP_SPARSE_MMAP, CapHeader, Command, DEVICE_PCI, DEVICE_RESETS, DeviceInfo, IrqInfo, NUM_IRQS,
    NUM_REGIONS, REGION_BAR0, REGION_CAPS, REGION_CONFIG, REGION_MMAP, REGION_READ, REGION_WRITE,
    RegionAccess, RegionInfo, SparseArea, SparseHeader,
};
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::session::{MOST_DATA_BYTES, Reply, Session};
use crate::device::{DeviceError, DoorbellMemory, Region};

/// The configuration space of a PCI Express function (PCI Express base specification, section 7.2).
const CONFIG_BYTES: u64 = 4096;

/// The region of BAR 4 (`VFIO_PCI_BAR4_REGION_INDEX`).
const REGION_BAR4: u32 = 4;

impl Session {
    pub(super) fn execute(&mut self, message: Message) -> Result<Reply, Errno> {
        let Message { header, payload, fds } = message;
        let command = header.command();
        if !fds.is_empty() && !matches!(command, Command::DMA_MAP | Command::DEVICE_SET_IRQS) {
            return Err(Errno::INVAL);
        }
        match command {
            Command::DMA_MAP => {
                self.mappings.map(&*self.device, exact(&payload)?, &fds).map(|()| Reply::default())
            }
            Command::DMA_UNMAP => self.mappings.unmap(&*self.device, exact(&payload)?),
            Command::DEVICE_GET_INFO => device_info(exact(&payload)?),
            Command::DEVICE_GET_REGION_INFO => self.region_info(exact(&payload)?),
            Command::DEVICE_GET_IRQ_INFO => self.irq_info(exact(&payload)?),
            Command::DEVICE_SET_IRQS => {
                self.interrupts.set(&*self.device, &payload, fds).map(|()| Reply::default())
            }
            Command::REGION_READ => self.read(exact(&payload)?),
            Command::REGION_WRITE => self.write(&payload),
            Command::DEVICE_RESET if payload.is_empty() => {
                if self.device.try_reset() {
                    Ok(Reply::default())
                } else {
                    Err(Errno::IO)
                }
            }
            Command::VERSION | Command::DEVICE_RESET => Err(Errno::INVAL),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn region_len(&self, index: u32) -> u64 {
        match index {
            REGION_BAR0 => self.device.region_len(Region::Bar0),
            REGION_BAR4 => self.device.region_len(Region::Bar4),
            REGION_CONFIG => CONFIG_BYTES,
            _ => 0,
        }
    }

    fn region_info(&self, asked: RegionInfo) -> Result<Reply, Errno> {
        if (asked.argsz as usize) < size_of::<RegionInfo>() || asked.index >= NUM_REGIONS {
            return Err(Errno::INVAL);
        }
        let size = self.region_len(asked.index);
        let flags = if size > 0 { REGION_READ | REGION_WRITE } else { 0 };
        let argsz = size_of::<RegionInfo>() as u32;
        let mut info = RegionInfo { argsz, flags, index: asked.index, cap_offset: 0, size, offset: 0 };
        let Some((area, offset, fd)) = self.mappable(asked.index)? else {
            return Ok(info.as_bytes().to_vec().into());
        };
        let cap = CapHeader { id: CAP_SPARSE_MMAP, version: 1, next: 0 };
        let sparse = SparseHeader { nr_areas: 1, reserved: 0 };
        let caps = [cap.as_bytes(), sparse.as_bytes(), area.as_bytes()].concat();
        // The place of the capability is told even where it does not fit; QEMU minds otherwise.
        info.cap_offset = argsz;
        info.argsz += caps.len() as u32;
        info.flags |= REGION_MMAP | REGION_CAPS;
        info.offset = offset;
        let mut reply = Reply::from(info.as_bytes().to_vec());
        if asked.argsz >= info.argsz {
            reply.payload.extend(caps);
            reply.fd = Some(fd);
        }
        Ok(reply)
    }

    /// What of a region can be mapped, what is added to its offsets to get those of the file, and the file.
    fn mappable(&self, index: u32) -> Result<Option<(SparseArea, u64, OwnedFd)>, Errno> {
        let takes_fds = self.client.is_some_and(|client| client.max_msg_fds > 0);
        if index != REGION_BAR0 || !self.options.map_doorbells || !takes_fds {
            return Ok(None);
        }
        let DoorbellMemory { fd, fd_offset_bytes, bar_offset_bytes, len_bytes } =
            self.device.doorbell_memory();
        // The protocol has one offset for the whole region, and it is not negative.
        let Some(offset) = fd_offset_bytes.checked_sub(bar_offset_bytes) else { return Ok(None) };
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        Ok(Some((SparseArea { offset: bar_offset_bytes, size: len_bytes }, offset, fd)))
    }

    fn irq_info(&self, asked: IrqInfo) -> Result<Reply, Errno> {
        let argsz = size_of::<IrqInfo>() as u32;
        if asked.argsz < argsz {
            return Err(Errno::INVAL);
        }
        let (flags, count) = self.interrupts.info(asked.index)?;
        Ok(IrqInfo { argsz, flags, index: asked.index, count }.as_bytes().to_vec().into())
    }

    fn read(&self, access: RegionAccess) -> Result<Reply, Errno> {
        self.check(access)?;
        let mut payload = access.as_bytes().to_vec();
        let at = payload.len();
        payload.resize(at + access.count as usize, 0);
        let data = &mut payload[at..];
        match access.region {
            REGION_CONFIG => {
                // Behind what the device has, there are no extended capabilities: zeroes.
                let there = self.config_bytes(access);
                self.device.read(Region::Config, access.offset, &mut data[..there])
            }
            REGION_BAR4 => self.device.read(Region::Bar4, access.offset, data),
            _ => self.device.read(Region::Bar0, access.offset, data),
        }
        .map_err(|error| errno_of(&error))?;
        Ok(payload.into())
    }

    fn write(&self, payload: &[u8]) -> Result<Reply, Errno> {
        let (access, data) = RegionAccess::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        self.check(access)?;
        if data.len() != access.count as usize {
            return Err(Errno::INVAL);
        }
        match access.region {
            REGION_CONFIG => {
                let there = self.config_bytes(access);
                self.device.write(Region::Config, access.offset, &data[..there])
            }
            REGION_BAR4 => self.device.write(Region::Bar4, access.offset, data),
            _ => self.device.write(Region::Bar0, access.offset, data),
        }
        .map_err(|error| errno_of(&error))?;
        Ok(access.as_bytes().to_vec().into())
    }

    /// How many bytes of an access to the configuration space the device itself has.
    fn config_bytes(&self, access: RegionAccess) -> usize {
        let left = self.device.region_len(Region::Config).saturating_sub(access.offset);
        usize::try_from(left).unwrap_or(usize::MAX).min(access.count as usize)
    }

    fn check(&self, access: RegionAccess) -> Result<(), Errno> {
        let end = access.offset.checked_add(access.count.into()).ok_or(Errno::INVAL)?;
        let fits = access.count > 0 && access.count <= MOST_DATA_BYTES;
        if fits && end <= self.region_len(access.region) { Ok(()) } else { Err(Errno::INVAL) }
    }
}

fn device_info(asked: DeviceInfo) -> Result<Reply, Errno> {
    let argsz = size_of::<DeviceInfo>() as u32;
    if asked.argsz < argsz {
        return Err(Errno::INVAL);
    }
    let flags = DEVICE_PCI | DEVICE_RESETS;
    let info = DeviceInfo { argsz, flags, num_regions: NUM_REGIONS, num_irqs: NUM_IRQS };
    Ok(info.as_bytes().to_vec().into())
}

/// The payload as a structure of exactly its length.
fn exact<T: FromBytes + KnownLayout + Immutable>(payload: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(payload).map_err(|_| Errno::INVAL)
}

/// What a client is told of a refusal of the device's.
pub(super) fn errno_of(error: &DeviceError) -> Errno {
    match error {
        DeviceError::Memory { .. } => Errno::NOMEM,
        DeviceError::System { source, .. } => {
            source.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
        }
        _ => Errno::INVAL,
    }
}
