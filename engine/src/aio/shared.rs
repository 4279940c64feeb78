//! The part of a context that other threads reach: the mailbox, the queue of wake-ups, the eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crossbeam::queue::{ArrayQueue, SegQueue};
use rustix::event::{EventfdFlags, eventfd};

use super::bh::BhHeader;
use super::handle::{Mail, PostError};
use super::signal::{Gate, Signal, Waiting};
use super::task::TaskHeader;
use super::{AioConfig, AioError};

/// Names a context; no two of a process have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LaneId(u64);

/// Something of the lane's own that another thread wants to run.
pub(super) enum Remote {
    Task(Arc<TaskHeader>),
    BottomHalf(Arc<BhHeader>),
}

pub(super) struct Shared {
    pub id: LaneId,
    pub name: String,
    pub signal: Signal,
    pub remote: SegQueue<Remote>,
    mailbox: ArrayQueue<Mail>,
    gate: Gate,
    waiting: Waiting,
    waiters: Mutex<Vec<Waker>>,
    stop: AtomicBool,
    eventfd: OwnedFd,
}

impl Shared {
    pub fn new(config: &AioConfig) -> Result<Arc<Self>, AioError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        config.check()?;
        // In blocking mode: the ring's read is to wait for a count.
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| AioError::EventFd(errno.into()))?;
        Ok(Arc::new(Self {
            id: LaneId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name: config.name.clone(),
            signal: Signal::new(),
            remote: SegQueue::new(),
            mailbox: ArrayQueue::new(config.mailbox_capacity),
            gate: Gate::new(),
            waiting: Waiting::new(),
            waiters: Mutex::default(),
            stop: AtomicBool::new(false),
            eventfd,
        }))
    }

    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// Tells the lane to look at its queues.
    #[inline]
    pub fn notify(&self) {
        if self.signal.notify() {
            self.write_eventfd();
        }
    }

    pub fn write_eventfd(&self) {
        // Fails only with the count at its maximum, and then the lane is being woken already.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    pub fn send(&self, remote: Remote) {
        self.remote.push(remote);
        self.notify();
    }

    /// Puts a closure into the mailbox.
    pub fn try_post(&self, mail: Mail) -> Result<(), PostError> {
        let mut mail = Some(mail);
        let pushed = self.gate.pass(|| match mail.take() {
            Some(mail) => self.mailbox.push(mail).map_err(PostError::Full),
            None => Ok(()),
        });
        match (pushed, mail) {
            (Some(Ok(())), _) => {
                self.notify();
                Ok(())
            }
            (Some(Err(full)), _) => Err(full),
            (None, Some(mail)) => Err(PostError::Closed(mail)),
            (None, None) => Ok(()),
        }
    }

    /// Registers who waits for space; who did so must try once more before it waits.
    pub fn wait_for_space(&self, waker: &Waker) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiters.iter().any(|other| other.will_wake(waker)) {
            waiters.push(waker.clone());
        }
        drop(waiters);
        self.waiting.announce();
    }

    /// Takes the next closure. For the lane.
    pub fn take_mail(&self) -> Option<Mail> {
        self.mailbox.pop()
    }

    pub fn mailbox_capacity(&self) -> usize {
        self.mailbox.capacity()
    }

    pub fn has_mail(&self) -> bool {
        !self.mailbox.is_empty()
    }

    /// Wakes who waits for space, after some was made. For the lane.
    pub fn space_was_made(&self) {
        if self.waiting.take() {
            let waiters = std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            waiters.into_iter().for_each(Waker::wake);
        }
    }

    /// Lets no more mail in. What was accepted before is in the mailbox when this returns.
    pub fn close(&self) {
        if !self.gate.is_closed() {
            self.gate.close();
        }
        while !self.gate.is_empty() {
            // A poster is between two atomic operations, or was descheduled there.
            std::thread::yield_now();
        }
        self.space_was_made();
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.notify();
    }

    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
