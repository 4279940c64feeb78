//! One client's connection: the handshake, then commands until it leaves.
//!
//! Invariants:
//! - The first command is VERSION; it comes once.
//! - Every command is answered once, unless the client wants none; a command that fails is answered with an errno and
//!   nothing else, and the connection lives on. Only what breaks the stream (a header that cannot be right, half a message
//!   and then silence) ends it.
//! - Descriptors that a command did not use are closed.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use corelane_drivers::nvme::bus::vfio_user::capabilities::Capabilities;
use corelane_drivers::nvme::bus::vfio_user::socket::{Deadline, MAX_FDS, Message, Socket, SocketError};
use corelane_drivers::nvme::bus::vfio_user::wire::{
    Command, FLAG_ERROR, FLAG_NO_REPLY, Header, MAJOR, MINOR, TYPE_REPLY, Version,
};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::ServerOptions;
use super::dma::Mappings;
use super::interrupts::Interrupts;
use crate::device::Device;

/// How long the rest of a message, or room for a reply, may take. Clients send whole messages, so only a broken one waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most bytes of a read or write of a region.
pub(super) const MOST_DATA_BYTES: u32 = 1 << 20;

/// What is told of this end in the handshake. More than 16 descriptors QEMU does not believe.
const OWN: Capabilities = Capabilities {
    max_msg_fds: MAX_FDS as u32,
    max_data_xfer_bytes: MOST_DATA_BYTES,
    max_dma_maps: 65_535,
    page_sizes: 4096,
};

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed the connection.
    Closed,
    /// The server is to stop.
    Stopped,
    /// The stream makes no sense any more.
    Misbehaved(String),
}

/// What a command is answered with.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) payload: Vec<u8>,
    pub(super) fd: Option<OwnedFd>,
}

impl From<Vec<u8>> for Reply {
    fn from(payload: Vec<u8>) -> Reply {
        Reply { payload, fd: None }
    }
}

/// A client's connection.
pub(super) struct Session {
    socket: Socket,
    pub(super) device: Arc<dyn Device>,
    pub(super) options: ServerOptions,
    /// What the client said of itself, once it did.
    pub(super) client: Option<Capabilities>,
    pub(super) mappings: Mappings,
    pub(super) interrupts: Interrupts,
}

impl Session {
    pub(super) fn new(socket: Socket, device: Arc<dyn Device>, options: ServerOptions) -> Session {
        let interrupts = Interrupts::new(device.interrupts());
        Session { socket, device, options, client: None, mappings: Mappings::default(), interrupts }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for a command as long as it takes, and answers it.
    pub(super) fn wait_and_step(&mut self) -> Result<(), End> {
        while !self.socket.is_readable(Duration::from_secs(3600)).map_err(end_of)? {}
        self.step()
    }

    /// Takes the command that is waiting, and answers it.
    pub(super) fn step(&mut self) -> Result<(), End> {
        let deadline = Deadline::after(PATIENCE);
        let message = self.socket.receive(MOST_DATA_BYTES as usize + 64, deadline).map_err(end_of)?;
        let header = message.header;
        if !header.is_command() {
            return Err(End::Misbehaved(format!("it sent a message with flags {:#x}", header.flags)));
        }
        let result = match (header.command(), self.client.is_some()) {
            (Command::VERSION, false) => self.shake_hands(&message),
            (_, true) => self.execute(message),
            (_, false) => Err(Errno::INVAL),
        };
        let unready = self.client.is_none();
        if let Err(errno) = &result {
            tracing::debug!("{:?} failed: {errno}", header.command());
        }
        if header.flags & FLAG_NO_REPLY == 0 {
            self.answer(header, result)?;
        }
        if unready { Err(End::Misbehaved("it did not shake hands".into())) } else { Ok(()) }
    }

    fn answer(&self, command: Header, result: Result<Reply, Errno>) -> Result<(), End> {
        let (reply, flags, error) = match result {
            Ok(reply) => (reply, TYPE_REPLY, 0),
            Err(errno) => (Reply::default(), TYPE_REPLY | FLAG_ERROR, errno.raw_os_error().unsigned_abs()),
        };
        let size_bytes = (Header::BYTES + reply.payload.len()) as u32;
        let header = Header { size_bytes, flags, error, ..command };
        let mut parts = [IoSlice::new(header.as_bytes()), IoSlice::new(&reply.payload)];
        let fds: Vec<BorrowedFd<'_>> = reply.fd.iter().map(AsFd::as_fd).collect();
        self.socket.send(&mut parts, &fds, Deadline::after(PATIENCE)).map_err(end_of)
    }

    fn shake_hands(&mut self, message: &Message) -> Result<Reply, Errno> {
        let (version, text) = Version::read_from_prefix(&message.payload).map_err(|_| Errno::INVAL)?;
        if version.major != MAJOR || !message.fds.is_empty() {
            tracing::warn!("the client speaks version {}.{}", version.major, version.minor);
            return Err(Errno::INVAL);
        }
        let client = Capabilities::from_wire(text).map_err(|reason| {
            tracing::warn!("{reason}");
            Errno::INVAL
        })?;
        self.client = Some(client);
        let version = Version { major: MAJOR, minor: MINOR.min(version.minor) };
        Ok([version.as_bytes(), &OWN.to_wire()].concat().into())
    }

    /// Leaves nothing of the client behind. The device is reset first, so that it does not use memory that goes.
    pub(super) fn end(mut self, end: &End) {
        if *end == End::Stopped {
            self.interrupts.request_release();
        }
        self.device.reset();
        self.device.dma_unmap_all();
        self.interrupts.clear(&*self.device);
    }
}

fn end_of(error: SocketError) -> End {
    match error {
        SocketError::Closed { partly: false } => End::Closed,
        error => End::Misbehaved(error.to_string()),
    }
}
