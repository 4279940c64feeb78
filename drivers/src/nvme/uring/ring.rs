//! [`CommandRing`]: a ring of NVMe commands to the kernel (`struct nvme_uring_cmd` of `linux/nvme_ioctl.h`).
//!
//! Invariants:
//! - An entry refers only to memory of its command, as much as its blocks are: the payload, the slot's vector of segments, the slot's range. The queue keeps
//!   all of it, unmoved, until the entry has completed.
//! - `in_flight` counts the entries that have not. Whoever lets go of the memory waits until it is 0, or leaks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::nvme::spec::command::Command;
use crate::nvme::spec::status::Status;

/// `NVME_URING_CMD_IO`: `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const IO: u32 = 0xc048_4e80;
/// `NVME_URING_CMD_IO_VEC`: `_IOWR('N', 0x81, struct nvme_uring_cmd)`; the address is that of a vector, the length its number
/// of segments.
const IO_VEC: u32 = 0xc048_4e81;
/// `struct nvme_uring_cmd` without what is behind it: it lies in the entry's 80 bytes of command.
const CMD_BYTES: usize = 72;
/// How many fixed buffers there can be.
const FIXED_BUFFERS: u32 = 64;

/// Where a command's data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// It has none.
    None,
    /// At this address, so many bytes.
    At(usize, usize),
    /// The same, within this fixed buffer.
    Fixed(usize, usize, u16),
    /// A vector at this address, of so many segments.
    Vector(usize, usize),
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The controller answered.
    Status(Status),
    /// The kernel did, with this errno.
    Errno(i32),
}

/// See the module's documentation.
pub struct CommandRing {
    ring: IoUring<squeue::Entry128, cqueue::Entry32>,
    fd: types::Fd,
    in_flight: u32,
    fixed: Option<Vec<u16>>,
}

impl CommandRing {
    /// A ring for `entries` commands at once to the device `fd`, which stays open as long as the ring; with a table of fixed
    /// buffers or without.
    ///
    /// # Errors
    /// What the kernel says: EINVAL where it does not know such entries (before Linux 5.19).
    pub fn new(fd: BorrowedFd<'_>, entries: u32, iopoll: bool, fixed: bool) -> io::Result<CommandRing> {
        let mut builder = IoUring::<squeue::Entry128, cqueue::Entry32>::builder();
        if iopoll {
            builder.setup_iopoll();
        }
        let ring = builder.build(entries)?;
        // Where there is no room for a table, nothing is fixed.
        let fixed = fixed && ring.submitter().register_buffers_sparse(FIXED_BUFFERS).is_ok();
        let fixed = fixed.then(|| (0..FIXED_BUFFERS as u16).rev().collect());
        Ok(CommandRing { ring, fd: types::Fd(fd.as_raw_fd()), in_flight: 0, fixed })
    }

    /// How many commands have not completed.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Puts a command into the ring. False, and nothing is done, if there is no room.
    ///
    /// # Safety
    /// What `data` names is memory that the controller may read or, for an opcode that says so, write, until the command has
    /// completed; a vector is there until then. It is as long as the command says in blocks: the kernel gives the controller
    /// so much memory, and compares the two no more than this does. The device of [`new`](Self::new) is still open.
    pub unsafe fn push(&mut self, tag: u32, command: &Command, data: Data) -> bool {
        let (operation, addr, len, index) = match data {
            Data::None => (IO, 0, 0, None),
            Data::At(addr, len) => (IO, addr, len, None),
            Data::Fixed(addr, len, index) => (IO, addr, len, Some(index)),
            Data::Vector(addr, count) => (IO_VEC, addr, count, None),
        };
        let cmd = bytes(command, addr as u64, len as u32);
        let entry = opcode::UringCmd80::new(self.fd, operation).buf_index(index).cmd(cmd).build();
        // SAFETY: the caller's promise for the memory and the device.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(u64::from(tag))) };
        self.in_flight += u32::from(pushed.is_ok());
        pushed.is_ok()
    }

    /// Gives what was pushed to the kernel and, where it polls, has it look at the device once.
    ///
    /// # Errors
    /// What the kernel says; what was pushed stays.
    pub fn submit(&self) -> io::Result<()> {
        self.ring.submit_and_wait(0).map(|_| ())
    }

    /// The same, and waits for a completion.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn submit_and_wait(&self) -> io::Result<()> {
        self.ring.submit_and_wait(1).map(|_| ())
    }

    /// Whether something was pushed that the kernel does not have.
    pub fn has_pushed(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether a completion can be taken.
    pub fn has_completion(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Takes the next completion, and its command's tag.
    pub fn take(&mut self) -> Option<(u32, Ended)> {
        let entry = self.ring.completion().next()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        // A status is of 15 bits.
        let ended = match u16::try_from(entry.result()) {
            Ok(status) => Ended::Status(Status(status & 0x7fff)),
            Err(_) => Ended::Errno(entry.result()),
        };
        Some((entry.user_data() as u32, ended))
    }

    /// Becomes readable when there is a completion.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Fixes memory, so that commands on it need no look-up of pages. Its number; `None` if there can be no more.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Safety
    /// The memory stays mapped until it is unfixed, or the ring is gone.
    pub unsafe fn fix(&mut self, start: usize, len: usize) -> io::Result<Option<u16>> {
        let Some(index) = self.fixed.as_mut().and_then(Vec::pop) else { return Ok(None) };
        let ring = self.ring.submitter();
        let buffer = libc::iovec { iov_base: start as *mut libc::c_void, iov_len: len };
        // SAFETY: the caller's promise.
        let fixed = unsafe { ring.register_buffers_update(u32::from(index), &[buffer], None) };
        if let Err(error) = fixed {
            self.fixed.iter_mut().for_each(|free| free.push(index));
            return Err(error);
        }
        Ok(Some(index))
    }

    /// Undoes it.
    pub fn unfix(&mut self, index: u16) {
        let ring = self.ring.submitter();
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: it refers to no memory.
        let freed = unsafe { ring.register_buffers_update(u32::from(index), &[nothing], None) };
        match freed {
            Ok(_) => self.fixed.iter_mut().for_each(|free| free.push(index)),
            // The kernel keeps the pages, and the number is not used again.
            Err(error) => tracing::warn!(%error, "a fixed buffer stays"),
        }
    }
}

/// `struct nvme_uring_cmd`.
fn bytes(command: &Command, addr: u64, len: u32) -> [u8; 80] {
    let mut cmd = [0; 80];
    let mut put = |at: usize, bytes: &[u8]| cmd[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[command.opcode, command.flags]);
    put(4, &command.nsid.to_ne_bytes());
    put(8, &command.cdw2[0].to_ne_bytes());
    put(12, &command.cdw2[1].to_ne_bytes());
    // Metadata and its length stay 0.
    put(24, &addr.to_ne_bytes());
    put(36, &len.to_ne_bytes());
    for (index, dword) in command.cdw10.iter().enumerate() {
        put(40 + 4 * index, &dword.to_ne_bytes());
    }
    // No timeout: the kernel's own holds, and `CMD_BYTES` ends behind it.
    const { assert!(CMD_BYTES <= 80) };
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::spec::opcode::io;
    use crate::nvme::spec::{Lba, Nsid};

    #[test]
    fn a_read_is_laid_out_as_the_kernel_wants_it() {
        let command = Command::transfer(io::READ, Nsid(7), Lba(0x1_2345_6789), 8, 0);
        let cmd = bytes(&command, 0x1122_3344_5566_7788, 4096);
        assert_eq!(cmd[..8], [2, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(cmd[24..32], 0x1122_3344_5566_7788_u64.to_ne_bytes());
        assert_eq!(cmd[32..40], [0, 0, 0, 0, 0, 0x10, 0, 0]);
        assert_eq!(cmd[40..52], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(cmd[52..], [0; 28]);
    }
}
