//! Messages over a Unix stream socket: whole ones, with the descriptors that travel with them, within a time.
//!
//! Invariants:
//! - Nothing waits past its deadline, whatever the other end does or does not do.
//! - A message that is longer than the receiver allows is not received, so that the other end cannot make this one
//!   allocate. What was refused leaves the stream in an unknown state: after an error the socket is to be closed.
//! - Descriptors are owned from the moment of their arrival, so none is lost on any path; they are close-on-exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::Header;

/// How many descriptors a message can carry here, either way. What both ends say in the handshake may allow fewer.
pub const MAX_FDS: usize = 16;

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other end is gone; `partly` if it went in the middle of a message.
    #[error("the other end closed the connection{}", if *.partly { " in the middle of a message" } else { "" })]
    Closed {
        /// Whether a message had begun.
        partly: bool,
    },
    /// The other end took too long.
    #[error("no answer in {waited_ms} ms")]
    TimedOut {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// A message that cannot be right.
    #[error("a message of {size_bytes} bytes; from {least_bytes} to {most_bytes} are possible here")]
    Size {
        /// What its header says, in bytes.
        size_bytes: u32,
        /// The least, in bytes.
        least_bytes: usize,
        /// The most, in bytes.
        most_bytes: usize,
    },
    /// More descriptors than can be received.
    #[error("a message with more than {most} descriptors")]
    TooManyFds {
        /// The most.
        most: usize,
    },
    /// The kernel refused.
    #[error("{0}")]
    Io(io::Error),
}

impl From<Errno> for SocketError {
    fn from(errno: Errno) -> SocketError {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => SocketError::Closed { partly: false },
            other => SocketError::Io(other.into()),
        }
    }
}

/// A point in time, and how far away it was.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Deadline {
        Deadline { at: Instant::now() + timeout, timeout }
    }

    fn left(self) -> Result<Timespec, SocketError> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let waited_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(SocketError::TimedOut { waited_ms });
        }
        Ok(timespec(left))
    }
}

fn timespec(duration: Duration) -> Timespec {
    let tv_sec = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl From<OwnedFd> for Socket {
    /// A stream socket that is connected.
    fn from(fd: OwnedFd) -> Socket {
        Socket { fd }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut` if the listener's queue stays full.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Socket> {
        let address = SocketAddrUnix::new(path)?;
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // It is the time that connect(2) waits for room in the listener's queue, too (unix(7) has no other).
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(timeout))?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) => Ok(Socket { fd }),
            Err(Errno::AGAIN) => Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends all parts as one message, with the descriptors.
    ///
    /// # Errors
    /// [`SocketError`]; the message may have been sent in part.
    pub fn send(
        &self,
        parts: &mut [IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), SocketError> {
        // The buffer below is padded, so that it alone would let another one pass.
        if fds.len() > MAX_FDS {
            return Err(SocketError::TooManyFds { most: MAX_FDS });
        }
        let (mut parts, mut fds) = (parts, fds);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(SocketError::TooManyFds { most: MAX_FDS });
            }
            match rustix::net::sendmsg(&self.fd, parts, &mut ancillary, flags) {
                Ok(sent) => {
                    // Descriptors travel with the first byte.
                    fds = &[];
                    IoSlice::advance_slices(&mut parts, sent);
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Receives a message whose payload is at most `most_bytes` long.
    ///
    /// # Errors
    /// [`SocketError`]. The descriptors of a message that is refused are closed.
    pub fn receive(&self, most_bytes: usize, deadline: Deadline) -> Result<Message, SocketError> {
        // Also where something is always there to be received, so that nobody can keep a caller busy forever.
        deadline.left()?;
        let mut fds = Vec::new();
        let mut header = [0; Header::BYTES];
        self.fill(&mut header, &mut fds, false, deadline)?;
        let header = Header::read_from_bytes(header.as_bytes()).expect("the array is as long as a header");
        let payload_bytes = usize::try_from(header.size_bytes)
            .ok()
            .and_then(|size| size.checked_sub(Header::BYTES))
            .filter(|&payload| payload <= most_bytes)
            .ok_or(SocketError::Size {
                size_bytes: header.size_bytes,
                least_bytes: Header::BYTES,
                most_bytes: Header::BYTES + most_bytes,
            })?;
        let mut payload = vec![0; payload_bytes];
        self.fill(&mut payload, &mut fds, true, deadline)?;
        Ok(Message { header, payload, fds })
    }

    /// Waits until something can be received, or the other end is gone; false if nothing happened in `timeout`.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn is_readable(&self, timeout: Duration) -> Result<bool, SocketError> {
        match rustix::event::poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timespec(timeout))) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Fills `buffer`, and adds the descriptors that come along.
    fn fill(
        &self,
        buffer: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        begun: bool,
        deadline: Deadline,
    ) -> Result<(), SocketError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.receive_some(&mut buffer[filled..], fds) {
                Ok(0) => return Err(SocketError::Closed { partly: begun || filled > 0 }),
                Ok(bytes) => filled += bytes,
                Err(SocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, deadline)?;
                }
                Err(SocketError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive_some(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, SocketError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.fd, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        // With this flag the kernel closed what did not fit.
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(SocketError::TooManyFds { most: MAX_FDS });
        }
        Ok(received.bytes)
    }

    fn wait(&self, events: PollFlags, deadline: Deadline) -> Result<(), SocketError> {
        loop {
            let left = deadline.left()?;
            match rustix::event::poll(&mut [PollFd::new(&self.fd, events)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
