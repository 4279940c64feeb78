//! Where a client wants its interrupts: MSI-X vectors go to the device, the two notices are kept here.
//!
//! Invariant: a command changes all that it names or nothing. Eventfds are held by the device (vectors) or here (notices)
//! until they are replaced, taken away, or the client is gone.

use std::os::fd::OwnedFd;

use corelane_drivers::nvme::bus::vfio_user::wire::{
    IRQ_ACTION_MASK, IRQ_ACTION_TRIGGER, IRQ_ACTION_UNMASK, IRQ_DATA_BOOL, IRQ_DATA_EVENTFD, IRQ_DATA_NONE,
    IRQ_ERR, IRQ_EVENTFD, IRQ_MSIX, IRQ_REQ, IrqSet, NUM_IRQS,
};
use rustix::io::Errno;
use zerocopy::FromBytes;

use super::commands::errno_of;
use crate::device::Device;

/// A client's interrupts.
#[derive(Debug)]
pub(super) struct Interrupts {
    vectors: u32,
    /// Never signalled: this device has no errors of its link.
    error: Option<OwnedFd>,
    release: Option<OwnedFd>,
}

impl Interrupts {
    pub(super) fn new(vectors: u32) -> Interrupts {
        Interrupts { vectors, error: None, release: None }
    }

    /// Flags and number of the interrupts of a kind.
    pub(super) fn info(&self, index: u32) -> Result<(u32, u32), Errno> {
        match self.count(index)? {
            0 => Ok((0, 0)),
            count => Ok((IRQ_EVENTFD, count)),
        }
    }

    fn count(&self, index: u32) -> Result<u32, Errno> {
        match index {
            IRQ_MSIX => Ok(self.vectors),
            IRQ_ERR | IRQ_REQ => Ok(1),
            0..NUM_IRQS => Ok(0),
            _ => Err(Errno::INVAL),
        }
    }

    /// `DEVICE_SET_IRQS`.
    pub(super) fn set(
        &mut self,
        device: &dyn Device,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        let (set, booleans) = IrqSet::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        let IrqSet { argsz, flags, index, start, count } = set;
        if (argsz as usize) < size_of::<IrqSet>() {
            return Err(Errno::INVAL);
        }
        let there = self.count(index)?;
        let end = start.checked_add(count).filter(|&end| end <= there).ok_or(Errno::INVAL)?;
        let expected = if flags & IRQ_DATA_BOOL != 0 { count as usize } else { 0 };
        if booleans.len() != expected || (!fds.is_empty() && flags & IRQ_DATA_EVENTFD == 0) {
            return Err(Errno::INVAL);
        }
        match (flags & !IRQ_ACTIONS, flags & IRQ_ACTIONS) {
            // All of the kind, off.
            (IRQ_DATA_NONE, IRQ_ACTION_TRIGGER) if count == 0 && start == 0 => {
                self.route(device, index, 0, none(there))
            }
            (IRQ_DATA_EVENTFD, IRQ_ACTION_TRIGGER) if count > 0 => match fds.len() {
                0 => self.route(device, index, start, none(end - start)),
                given if given == count as usize => {
                    self.route(device, index, start, fds.into_iter().map(Some).collect())
                }
                _ => Err(Errno::INVAL),
            },
            // MSI-X vectors are masked in their table, by the client itself.
            (IRQ_DATA_NONE | IRQ_DATA_BOOL, IRQ_ACTION_MASK | IRQ_ACTION_UNMASK) => Ok(()),
            (IRQ_DATA_NONE | IRQ_DATA_BOOL, IRQ_ACTION_TRIGGER) => Err(Errno::OPNOTSUPP),
            _ => Err(Errno::INVAL),
        }
    }

    fn route(
        &mut self,
        device: &dyn Device,
        index: u32,
        start: u32,
        mut eventfds: Vec<Option<OwnedFd>>,
    ) -> Result<(), Errno> {
        match index {
            IRQ_MSIX => device.set_interrupts(start, eventfds).map_err(|error| errno_of(&error))?,
            IRQ_ERR => self.error = eventfds.pop().flatten(),
            IRQ_REQ => self.release = eventfds.pop().flatten(),
            // The other kinds have no interrupts, so that there is nothing to switch off.
            _ => {}
        }
        Ok(())
    }

    /// Tells the client that the device goes.
    pub(super) fn request_release(&self) {
        if let Some(eventfd) = &self.release {
            // The client may have given something that takes no 8 bytes; it does not hear of it then.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    /// Closes all eventfds.
    pub(super) fn clear(&mut self, device: &dyn Device) {
        (self.error, self.release) = (None, None);
        if let Err(error) = device.set_interrupts(0, none(self.vectors)) {
            tracing::warn!("{error}");
        }
    }
}

/// The bits of [`IrqSet::flags`] that say what is to be done.
const IRQ_ACTIONS: u32 = IRQ_ACTION_MASK | IRQ_ACTION_UNMASK | IRQ_ACTION_TRIGGER;

fn none(count: u32) -> Vec<Option<OwnedFd>> {
    (0..count).map(|_| None).collect()
}
