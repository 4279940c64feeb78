//! Interrupts as eventfds, one a vector.
//!
//! Invariant: the polling thread signals through a snapshot of the table, so that setting a vector never waits for it, nor
//! it for that.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::EventfdFlags;

use crate::device::DeviceError;
use crate::fault::Notice;

/// The vectors' eventfds.
pub(crate) type Vectors = Arc<[Option<Arc<OwnedFd>>]>;

/// The table of them.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vectors: Mutex<Vectors>,
    count: u32,
}

impl Interrupts {
    pub(crate) fn new(count: u32) -> Interrupts {
        let none: Vec<Option<Arc<OwnedFd>>> = vec![None; count as usize];
        Interrupts { vectors: Mutex::new(none.into()), count }
    }

    /// How many vectors there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The table as it is now.
    pub(crate) fn snapshot(&self) -> Vectors {
        Arc::clone(&self.vectors.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the vectors from `first` on; false, with nothing set, if there are not so many.
    pub(crate) fn set(&self, first: u32, eventfds: Vec<Option<OwnedFd>>) -> bool {
        let first = first as usize;
        let end = first.saturating_add(eventfds.len());
        if end > self.count as usize {
            return false;
        }
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = vectors.to_vec();
        for (place, fd) in table[first..end].iter_mut().zip(eventfds) {
            *place = fd.map(Arc::new);
        }
        *vectors = table.into();
        true
    }
}

/// What the host has to say of the function: eventfds that become readable.
#[derive(Debug)]
pub(crate) struct HostNotices {
    pub(crate) removal: OwnedFd,
    pub(crate) error: OwnedFd,
}

impl HostNotices {
    pub(crate) fn new() -> Result<HostNotices, DeviceError> {
        let eventfd = || {
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|errno| DeviceError::System { what: "make an eventfd", source: errno.into() })
        };
        Ok(HostNotices { removal: eventfd()?, error: eventfd()? })
    }

    /// Forgets what was told, which was meant for whoever listened.
    pub(crate) fn forget(&self) {
        for fd in [&self.removal, &self.error] {
            // There may be nothing to forget.
            let _ = rustix::io::read(fd, &mut [0; 8]);
        }
    }

    /// Tells whoever listens.
    pub(crate) fn give(&self, notice: Notice) {
        let fd = match notice {
            Notice::Removal => &self.removal,
            Notice::Error => &self.error,
        };
        // A counter that is full says it already.
        let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
    }
}

/// Signals a vector, if somebody listens. An eventfd whose counter is full has been signalled already.
pub(crate) fn signal(vectors: &Vectors, vector: u16) {
    if let Some(Some(fd)) = vectors.get(usize::from(vector)) {
        let result = rustix::io::write(fd, &1_u64.to_ne_bytes());
        if let Err(errno) = result
            && errno != rustix::io::Errno::AGAIN
        {
            tracing::warn!(vector, %errno, "an interrupt could not be signalled");
        }
    }
}
