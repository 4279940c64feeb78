//! Operations that touch no memory of the caller's, so that queueing them is safe.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use io_uring::{opcode, squeue, types};

use super::{KEY_BITS, SinkId};

/// An operation without memory, for [`Ring::push_plain`](super::Ring::push_plain).
///
/// A descriptor is looked up when the entry is submitted, at the end of the turn: keep it open until then.
#[derive(Clone, Copy, Debug)]
pub enum PlainOp<'fd> {
    /// Nothing; completes with 0.
    Nop,
    /// Completes with the events (`poll(2)`'s bits) that a descriptor has, once it has one of these.
    Poll(BorrowedFd<'fd>, u32),
    /// Reads an eventfd, so that its count is 0 again; completes with 8. The descriptor must be in blocking mode, or
    /// it completes with EAGAIN at once.
    DrainEventFd(BorrowedFd<'fd>),
    /// Cancels what was pushed with this sink and key.
    Cancel(SinkId, u64),
}

impl PlainOp<'_> {
    pub(super) fn entry(self, scratch: NonNull<u64>) -> squeue::Entry {
        match self {
            Self::Nop => opcode::Nop::new().build(),
            Self::Poll(fd, events) => opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).build(),
            Self::DrainEventFd(fd) => {
                opcode::Read::new(types::Fd(fd.as_raw_fd()), scratch.as_ptr().cast(), 8).build()
            }
            Self::Cancel(sink, key) => opcode::AsyncCancel::new(u64::from(sink.0) << KEY_BITS | key).build(),
        }
    }
}
