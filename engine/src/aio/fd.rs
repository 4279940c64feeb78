//! Readiness of descriptors: eventfds, sockets, pipes, through `POLL_ADD` on the lane's ring.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::AioContext;
use super::ring::{CqeSink, PlainOp, Ring, SinkId};

bitflags::bitflags! {
    /// What to wait for, and what came: the bits of `poll(2)`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Interest: u32 {
        /// There is something to read, or the end of it.
        const READ = libc::POLLIN as u32;
        /// Writing will not block.
        const WRITE = libc::POLLOUT as u32;
        /// Something exceptional, such as out-of-band data.
        const PRIORITY = libc::POLLPRI as u32;
        /// An error; told without being asked for.
        const ERROR = libc::POLLERR as u32;
        /// The other end is closed; told without being asked for.
        const HANGUP = libc::POLLHUP as u32;
    }
}

/// Marks the completion of a cancellation, which nobody waits for.
const CANCEL: u64 = 1 << 40;

enum Slot {
    Free,
    /// In flight, with who waits.
    Waiting(Waker),
    /// In flight, its future dropped.
    Orphan,
    /// Completed, not yet looked at.
    Done(i32),
}

/// The polls in flight.
#[derive(Default)]
struct Polls {
    slots: RefCell<Vec<Slot>>,
    /// How many of them are.
    count: Cell<u32>,
}

impl CqeSink for Polls {
    fn complete(&self, key: u64, result: i32, _flags: u32) {
        if key & CANCEL != 0 {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key as usize) else { return };
        let next = if matches!(slot, Slot::Orphan) { Slot::Free } else { Slot::Done(result) };
        let before = std::mem::replace(slot, next);
        drop(slots);
        self.count.set(self.count.get() - 1);
        if let Slot::Waiting(waker) = before {
            waker.wake();
        }
    }
}

impl Polls {
    fn start(&self, waker: Waker) -> usize {
        self.count.set(self.count.get() + 1);
        let mut slots = self.slots.borrow_mut();
        let slot = Slot::Waiting(waker);
        if let Some(free) = slots.iter().position(|slot| matches!(slot, Slot::Free)) {
            slots[free] = slot;
            return free;
        }
        slots.push(slot);
        slots.len() - 1
    }

    /// The result, if it is there. The waker replaces the one before if not.
    fn take(&self, index: usize, waker: &Waker) -> Option<i32> {
        let mut slots = self.slots.borrow_mut();
        match slots.get_mut(index)? {
            Slot::Done(result) => {
                let result = *result;
                slots[index] = Slot::Free;
                Some(result)
            }
            Slot::Waiting(old) => {
                old.clone_from(waker);
                None
            }
            Slot::Free | Slot::Orphan => None,
        }
    }

    /// Gives a slot up. True if its poll is to be cancelled.
    fn give_up(&self, index: usize) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else { return false };
        let in_flight = matches!(slot, Slot::Waiting(_));
        let before = std::mem::replace(slot, if in_flight { Slot::Orphan } else { Slot::Free });
        drop(slots);
        drop(before);
        in_flight
    }

    fn keys_in_flight(&self) -> Vec<u64> {
        let slots = self.slots.borrow();
        let flying =
            slots.iter().enumerate().filter(|(_, slot)| matches!(slot, Slot::Waiting(_) | Slot::Orphan));
        flying.map(|(index, _)| index as u64).collect()
    }
}

/// The readiness of descriptors in one lane.
pub(super) struct FdSource {
    polls: Rc<Polls>,
    sink: SinkId,
}

impl FdSource {
    pub fn new(ring: &Ring) -> Self {
        let polls = Rc::new(Polls::default());
        let sink = ring.add_sink(Rc::clone(&polls) as Rc<dyn CqeSink>);
        Self { polls, sink }
    }

    /// How many polls are in flight.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.polls.count.get()
    }

    /// Cancels what is in flight and waits for it. Futures that are left get ECANCELED.
    pub fn finish(&self, ring: &Ring) {
        for key in self.polls.keys_in_flight() {
            ring.push_plain(self.sink, key | CANCEL, PlainOp::Cancel(self.sink, key));
        }
        while self.in_flight() > 0 {
            if let Err(error) = ring.submit_and_wait(1, None) {
                tracing::error!(%error, "polls of descriptors could not be cancelled");
                break;
            }
            ring.reap();
        }
        ring.remove_sink(self.sink);
    }
}

/// Completes when a descriptor is ready; made by [`AioContext::readiness`]. Dropping it cancels.
#[must_use = "a future does nothing unless it is awaited"]
pub struct FdReady<'fd> {
    context: AioContext,
    fd: BorrowedFd<'fd>,
    interest: Interest,
    slot: Option<usize>,
}

impl<'fd> FdReady<'fd> {
    pub(super) fn new(context: AioContext, fd: BorrowedFd<'fd>, interest: Interest) -> Self {
        Self { context, fd, interest, slot: None }
    }
}

impl Future for FdReady<'_> {
    type Output = io::Result<Interest>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let source = self.context.fds();
        let Some(index) = self.slot else {
            let index = source.polls.start(cx.waker().clone());
            let op = PlainOp::Poll(self.fd, self.interest.bits());
            self.context.ring().push_plain(source.sink, index as u64, op);
            self.slot = Some(index);
            return Poll::Pending;
        };
        let Some(result) = source.polls.take(index, cx.waker()) else { return Poll::Pending };
        self.slot = None;
        Poll::Ready(match u32::try_from(result) {
            Ok(events) => Ok(Interest::from_bits_truncate(events)),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        })
    }
}

impl Drop for FdReady<'_> {
    fn drop(&mut self) {
        let source = self.context.fds();
        if let Some(index) = self.slot
            && source.polls.give_up(index)
        {
            let key = index as u64;
            self.context.ring().push_plain(source.sink, key | CANCEL, PlainOp::Cancel(source.sink, key));
        }
    }
}
