//! What changes about a controller while hosts use it: namespaces are resized, formatted, detached and attached, and events
//! come up. Hosts that want to know are told by asynchronous events, as of changes that another host made.
//!
//! Invariant: a change has happened before hosts are told of it.

use std::sync::atomic::Ordering;

use crate::admin::events::Event;
use crate::config::NamespaceBacking;
use crate::device::DeviceError;
use crate::model::Model;
use crate::namespace::Namespace;
use crate::worker::Worker;

/// Namespace Attribute Notices, in Asynchronous Event Configuration.
const NAMESPACE_NOTICES: u32 = 8;

impl Model {
    /// Gives a namespace this size, at most the one that it was made with. What is no whole block is cut off.
    ///
    /// # Errors
    /// [`DeviceError::Config`] for another size, or a namespace that there is not or that is a node.
    pub fn resize_namespace(&self, nsid: u32, size_bytes: u64) -> Result<(), DeviceError> {
        let namespace = self.changeable(nsid)?;
        let shift = namespace.lba_shift();
        let most = namespace.config.size_bytes;
        if !(1 << shift..=most).contains(&size_bytes) {
            let expected = format!("from {} to {most}", 1_u64 << shift);
            return Err(DeviceError::Config {
                what: "the new size of a namespace",
                value: size_bytes,
                expected,
            });
        }
        namespace.live.blocks.store(size_bytes >> shift, Ordering::Relaxed);
        self.namespace_changed(nsid);
        Ok(())
    }

    /// Gives a namespace blocks of `1 << lba_shift` bytes, and all of its size. Its data stays, as bytes.
    ///
    /// # Errors
    /// As [`resize_namespace`](Self::resize_namespace); a block has 512 bytes to 64 KiB.
    pub fn format_namespace(&self, nsid: u32, lba_shift: u8) -> Result<(), DeviceError> {
        let namespace = self.changeable(nsid)?;
        if !(9..=16).contains(&lba_shift) || namespace.config.size_bytes >> lba_shift == 0 {
            let (what, expected) = ("the new block size shift of a namespace", "from 9 to 16".to_owned());
            return Err(DeviceError::Config { what, value: lba_shift.into(), expected });
        }
        namespace.live.lba_shift.store(lba_shift, Ordering::Relaxed);
        namespace.live.blocks.store(namespace.config.size_bytes >> lba_shift, Ordering::Relaxed);
        self.namespace_changed(nsid);
        Ok(())
    }

    /// Attaches a namespace to the controller, or detaches it.
    ///
    /// # Errors
    /// [`DeviceError::Config`] for a namespace that there is not or that is a node.
    pub fn set_attached(&self, nsid: u32, attached: bool) -> Result<(), DeviceError> {
        self.changeable(nsid)?.live.attached.store(attached, Ordering::Relaxed);
        self.namespace_changed(nsid);
        Ok(())
    }

    /// Sets the critical warnings of the health log (figure 207), with an event for each that was not set before.
    pub fn set_critical_warning(&self, warning: u8) {
        let mut control = self.shared().control();
        let new = warning & !std::mem::replace(&mut control.warning, warning);
        control.warned |= new;
        drop(control);
        self.shared().changed_and_seen();
    }

    /// Raises an asynchronous event of this type (0 error, 1 SMART, 2 notice, 6 I/O command set, 7 vendor), whether hosts
    /// want to know or not.
    pub fn raise_event(&self, kind: u8, info: u8, log_page: u8) {
        self.shared().control().raised.push(Event::new(kind, info, log_page));
        self.shared().changed_and_seen();
    }

    fn changeable(&self, nsid: u32) -> Result<&Namespace, DeviceError> {
        let namespace = (nsid as usize).checked_sub(1).and_then(|index| self.shared().namespaces.get(index));
        namespace.filter(|one| one.config.backing != NamespaceBacking::Node).ok_or_else(|| {
            let expected = "one in memory".to_owned();
            DeviceError::Config { what: "the namespace to change", value: nsid.into(), expected }
        })
    }

    fn namespace_changed(&self, nsid: u32) {
        self.shared().control().changed.push(nsid);
        self.shared().changed_and_seen();
    }
}

impl Worker {
    /// Takes over what has changed, and has hosts told that want to know.
    pub(crate) fn take_changes(&mut self) {
        let mut control = self.shared.control();
        let (changed, raised) = (std::mem::take(&mut control.changed), std::mem::take(&mut control.raised));
        let warned = std::mem::take(&mut control.warned);
        drop(control);
        if !changed.is_empty() && self.features.wants(NAMESPACE_NOTICES) {
            self.changed.extend(changed);
            self.events.raise(Event::NAMESPACES);
        }
        // Of a warning hosts are told by the bit that it has in the log page.
        for bit in (0..8).filter(|bit| warned >> bit & 1 != 0 && self.features.wants(*bit)) {
            self.events.raise(Event::of_warning(bit));
        }
        raised.into_iter().for_each(|event| self.events.raise(event));
    }
}
