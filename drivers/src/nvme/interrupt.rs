//! MSI-X vectors: an eventfd for each, and which lanes wait for it.
//!
//! Vector 0 is the admin queue's; it wakes the controller's thread. I/O queues take the others in turn, or share vector 0 where there is no
//! other. A lane reads the eventfd of its queue through its ring, which takes the count away; where lanes share a vector,
//! the one that read it wakes the others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_engine::aio::AioHandle;
use rustix::event::{EventfdFlags, eventfd};

use super::bus::{Bus, BusError};
use super::error::NvmeError;
use super::recovery::control::wake;
use super::spec::Qid;

/// All vectors of a controller that are in use.
pub struct Vectors {
    all: Vec<Arc<Vector>>,
}

struct Vector {
    eventfd: OwnedFd,
    users: Mutex<Vec<(u64, AioHandle)>>,
    next: AtomicU64,
}

impl Vector {
    fn users(&self) -> MutexGuard<'_, Vec<(u64, AioHandle)>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vectors {
    /// Makes an eventfd for as many vectors as `queues` I/O queues can use, and has the bus signal them. `None` if the
    /// function has no vectors.
    ///
    /// # Errors
    /// Those of the kernel and the bus.
    pub fn enable(bus: &dyn Bus, queues: u32) -> Result<Option<Vectors>, NvmeError> {
        let count = bus.interrupts().min(queues.saturating_add(1));
        if count == 0 {
            return Ok(None);
        }
        let mut all = Vec::with_capacity(count as usize);
        for _ in 0..count {
            // Blocking, since it is read through a ring, which waits for it.
            let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| NvmeError::Io {
                what: "making an eventfd for an interrupt",
                source: errno.into(),
            })?;
            all.push(Arc::new(Vector { eventfd, users: Mutex::default(), next: AtomicU64::new(0) }));
        }
        let vectors = Vectors { all };
        vectors.set(bus)?;
        Ok(Some(vectors))
    }

    /// Has the bus signal the eventfds.
    ///
    /// # Errors
    /// Those of the bus.
    pub fn set(&self, bus: &dyn Bus) -> Result<(), BusError> {
        let fds: Vec<BorrowedFd<'_>> = self.all.iter().map(|vector| vector.eventfd.as_fd()).collect();
        bus.set_interrupts(&fds)
    }

    /// Another descriptor of the admin queue's eventfd, if that queue has a vector of its own.
    pub fn admin(&self) -> Option<OwnedFd> {
        let alone = self.all.first().filter(|_| self.all.len() > 1)?;
        alone.eventfd.try_clone().ok()
    }

    /// The vector of a queue, with one more lane that waits for it.
    pub fn of(&self, qid: Qid, lane: AioHandle) -> Option<VectorUse> {
        let index = match self.all.len() {
            0 => return None,
            1 => 0,
            count => 1 + (usize::from(qid.0) - 1) % (count - 1),
        };
        let vector = Arc::clone(self.all.get(index)?);
        let id = vector.next.fetch_add(1, Ordering::Relaxed);
        vector.users().push((id, lane));
        Some(VectorUse { vector, index: index as u16, id })
    }
}

/// One lane's use of a vector; ends with its drop.
pub struct VectorUse {
    vector: Arc<Vector>,
    index: u16,
    id: u64,
}

impl VectorUse {
    /// The vector's number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Its eventfd, in blocking mode.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.vector.eventfd.as_fd()
    }

    /// Signals the eventfd, to end a read of it.
    pub fn signal(&self) {
        // Fails only where the count is full, which ends a read as well.
        let _ = rustix::io::write(&self.vector.eventfd, &1u64.to_ne_bytes());
    }

    /// Passes a signal on that this lane has taken.
    pub fn pass_on(&self) {
        for (id, lane) in self.vector.users().iter() {
            if *id != self.id {
                wake(lane);
            }
        }
    }
}

impl Drop for VectorUse {
    fn drop(&mut self) {
        self.vector.users().retain(|(id, _)| *id != self.id);
    }
}
