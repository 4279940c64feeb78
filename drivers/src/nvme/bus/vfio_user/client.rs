//! A client of the protocol: one connection, one command at a time.
//!
//! Invariants:
//! - A command ends within the timeout. A connection on which a command did not end properly (no answer, an answer of
//!   the wrong kind or length) is given up: nobody could tell any more what belongs to what. From then on every command
//!   fails with what happened first.
//! - A reply is taken only if its message id, command and length are those of the question, and it does not come with more
//!   descriptors than were asked for.

use std::io::IoSlice;
use std::ops::RangeInclusive;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::capabilities::Capabilities;
use super::error::{CallError, lost_reason};
use super::region::{self, Layout};
use super::socket::{Deadline, MAX_FDS, Message, Socket, SocketError};
use super::wire::{
    Command, DMA_READABLE, DMA_WRITABLE, DeviceInfo, DmaMap, DmaUnmap, FLAG_ERROR, FLAG_NO_REPLY, Header,
    IRQ_ACTION_TRIGGER, IRQ_DATA_EVENTFD, IRQ_DATA_NONE, IrqInfo, IrqSet, MAJOR, MINOR, RegionAccess,
    RegionInfo, TYPE_COMMAND, TYPE_REPLY, Version,
};

/// What is told of this end in the handshake.
const OWN: Capabilities = Capabilities {
    max_msg_fds: MAX_FDS as u32,
    max_data_xfer_bytes: 1 << 20,
    max_dma_maps: 65_535,
    page_sizes: 4096,
};

/// The longest text of capabilities that is taken, in bytes.
const MOST_TEXT_BYTES: usize = 64 * 1024;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    connection: Mutex<Connection>,
    server: Capabilities,
    timeout: Duration,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    next_id: u16,
    /// Why it was given up.
    lost: Option<String>,
}

/// A command to be sent.
struct Question<'a> {
    command: Command,
    /// The parts of its payload.
    payload: [&'a [u8]; 2],
    fds: &'a [BorrowedFd<'a>],
    /// How long the reply's payload may be, in bytes.
    reply_bytes: RangeInclusive<usize>,
    /// How many descriptors may come with the reply.
    reply_fds: usize,
}

impl<'a> Question<'a> {
    fn new(command: Command, payload: &'a [u8], reply_bytes: usize) -> Question<'a> {
        let reply_bytes = reply_bytes..=reply_bytes;
        Question { command, payload: [payload, &[]], fds: &[], reply_bytes, reply_fds: 0 }
    }
}

impl Client {
    /// Shakes hands on a connection. Each command, the handshake included, may take up to `timeout`.
    ///
    /// # Errors
    /// [`CallError`], also for a version or capabilities that do not fit.
    pub fn new(socket: Socket, timeout: Duration) -> Result<Client, CallError> {
        let connection = Mutex::new(Connection { socket, next_id: 1, lost: None });
        let client = Client { connection, server: Capabilities::default(), timeout };
        let server = client.shake_hands().map_err(|error| match error {
            // Servers have one client at a time.
            CallError::Lost { command, reason } => {
                CallError::Lost { command, reason: format!("{reason}; it may be serving another client") }
            }
            other => other,
        })?;
        Ok(Client { server, ..client })
    }

    fn shake_hands(&self) -> Result<Capabilities, CallError> {
        let (version, text) = (Version { major: MAJOR, minor: MINOR }, OWN.to_wire());
        let least = size_of::<Version>();
        let message = self.ask(&Question {
            payload: [version.as_bytes(), &text],
            reply_bytes: least..=least + MOST_TEXT_BYTES,
            ..Question::new(Command::VERSION, &[], 0)
        })?;
        let nonsense = |reason: String| CallError::nonsense(Command::VERSION, reason);
        let (version, text) = Version::read_from_prefix(&message.payload)
            .map_err(|_| nonsense("it is shorter than a version".into()))?;
        if version.major != MAJOR || version.minor > MINOR {
            return Err(nonsense(format!(
                "version {}.{}; {MAJOR}.{MINOR} was proposed, and the server may only lower the minor number",
                version.major, version.minor
            )));
        }
        let server = Capabilities::from_wire(text).map_err(nonsense)?;
        if server.max_msg_fds == 0 {
            return Err(nonsense("it takes no descriptors, so it cannot be given memory".into()));
        }
        Ok(server)
    }

    /// What the server said of itself.
    pub fn server(&self) -> Capabilities {
        self.server
    }

    /// What kind of device it is.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn device_info(&self) -> Result<DeviceInfo, CallError> {
        let argsz = size_of::<DeviceInfo>() as u32;
        self.query(Command::DEVICE_GET_INFO, &DeviceInfo { argsz, flags: 0, num_regions: 0, num_irqs: 0 })
    }

    /// What region `index` is, and descriptors of what can be mapped: one for each area, or one for all, or none.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn region_info(&self, index: u32) -> Result<(Layout, Vec<OwnedFd>), CallError> {
        let nonsense = |reason| CallError::nonsense(Command::DEVICE_GET_REGION_INFO, reason);
        // Room for a few areas, so that one question is usually enough; the second has the length that the server told.
        let mut argsz = 256;
        for _ in 0..2 {
            let info = RegionInfo { argsz: argsz as u32, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
            let message = self.ask(&Question {
                reply_bytes: size_of::<RegionInfo>()..=argsz,
                reply_fds: MAX_FDS,
                ..Question::new(Command::DEVICE_GET_REGION_INFO, info.as_bytes(), 0)
            })?;
            let needed = region::needed_bytes(&message.payload, index).map_err(nonsense)?;
            if needed > argsz {
                argsz = needed;
                continue;
            }
            let layout = region::parse(&message.payload, index).map_err(nonsense)?;
            let (areas, fds) = (layout.areas.len(), message.fds.len());
            if fds > 1 && fds != areas {
                return Err(nonsense(format!("{fds} descriptors for {areas} areas; one or one for each")));
            }
            return Ok((layout, message.fds));
        }
        Err(nonsense(format!("it is longer than the {argsz} bytes that it said it would be")))
    }

    /// How many interrupts of kind `index` there are.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn irq_info(&self, index: u32) -> Result<IrqInfo, CallError> {
        let argsz = size_of::<IrqInfo>() as u32;
        let info: IrqInfo =
            self.query(Command::DEVICE_GET_IRQ_INFO, &IrqInfo { argsz, flags: 0, index, count: 0 })?;
        if info.index != index {
            let reason = format!("it describes interrupts of kind {}, asked for was {index}", info.index);
            return Err(CallError::nonsense(Command::DEVICE_GET_IRQ_INFO, reason));
        }
        Ok(info)
    }

    /// Lets interrupt *i* of kind `index` signal `eventfds[i]`; none at all switches the kind off.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn set_irqs(&self, index: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
        let argsz = size_of::<IrqSet>() as u32;
        let set =
            |flags, start, count| IrqSet { argsz, flags: flags | IRQ_ACTION_TRIGGER, index, start, count };
        if eventfds.is_empty() {
            let all = set(IRQ_DATA_NONE, 0, 0);
            return self.ask(&Question::new(Command::DEVICE_SET_IRQS, all.as_bytes(), 0)).map(drop);
        }
        let most = MAX_FDS.min(self.server.max_msg_fds as usize);
        let mut start = 0;
        for fds in eventfds.chunks(most) {
            let some = set(IRQ_DATA_EVENTFD, start, fds.len() as u32);
            self.ask(&Question { fds, ..Question::new(Command::DEVICE_SET_IRQS, some.as_bytes(), 0) })?;
            start += fds.len() as u32;
        }
        Ok(())
    }

    /// Lets the server use `size` bytes of `fd` from `offset` on, for reading and writing, as device address `address`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn dma_map(&self, fd: BorrowedFd<'_>, offset: u64, address: u64, size: u64) -> Result<(), CallError> {
        let argsz = size_of::<DmaMap>() as u32;
        let map = DmaMap { argsz, flags: DMA_READABLE | DMA_WRITABLE, offset, address, size };
        self.ask(&Question { fds: &[fd], ..Question::new(Command::DMA_MAP, map.as_bytes(), 0) }).map(drop)
    }

    /// Takes back a mapping. When this returns, the server uses the memory no more.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn dma_unmap(&self, address: u64, size: u64) -> Result<(), CallError> {
        let argsz = size_of::<DmaUnmap>() as u32;
        let asked = DmaUnmap { argsz, flags: 0, address, size };
        let done: DmaUnmap = self.query(Command::DMA_UNMAP, &asked)?;
        if (done.address, done.size) != (address, size) {
            let reason = format!(
                "it unmapped {:#x} bytes at {:#x}, not {size:#x} at {address:#x}",
                done.size, done.address
            );
            return Err(CallError::nonsense(Command::DMA_UNMAP, reason));
        }
        Ok(())
    }

    /// Reads `data.len()` bytes of a region. The caller keeps to the server's `max_data_xfer_bytes`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn region_read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), CallError> {
        let access = RegionAccess { offset, region, count: data.len() as u32 };
        let reply_bytes = size_of::<RegionAccess>() + data.len();
        let message = self.ask(&Question::new(Command::REGION_READ, access.as_bytes(), reply_bytes))?;
        data.copy_from_slice(same_access(Command::REGION_READ, access, &message)?);
        Ok(())
    }

    /// Writes a region. The caller keeps to the server's `max_data_xfer_bytes`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn region_write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), CallError> {
        let access = RegionAccess { offset, region, count: data.len() as u32 };
        let message = self.ask(&Question {
            payload: [access.as_bytes(), data],
            ..Question::new(Command::REGION_WRITE, &[], size_of::<RegionAccess>())
        })?;
        same_access(Command::REGION_WRITE, access, &message).map(drop)
    }

    /// Writes a region without waiting for the server to say that it did; for doorbells. The server takes commands in
    /// their order, so it has the value before it answers anything that is asked later.
    ///
    /// # Errors
    /// [`CallError::Lost`] only: whether the server minds is not known.
    pub fn region_post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), CallError> {
        let access = RegionAccess { offset, region, count: data.len() as u32 };
        let question =
            Question { payload: [access.as_bytes(), data], ..Question::new(Command::REGION_WRITE, &[], 0) };
        let mut connection = self.lock();
        connection.check(question.command)?;
        let sent = connection.send(&question, FLAG_NO_REPLY, Deadline::after(self.timeout));
        sent.map(drop).map_err(|error| connection.give_up(question.command, &error))
    }

    /// Resets the device.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn reset(&self) -> Result<(), CallError> {
        self.ask(&Question::new(Command::DEVICE_RESET, &[], 0)).map(drop)
    }

    fn query<T>(&self, command: Command, asked: &T) -> Result<T, CallError>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let message = self.ask(&Question::new(command, asked.as_bytes(), size_of::<T>()))?;
        T::read_from_bytes(&message.payload)
            .map_err(|_| CallError::nonsense(command, "it is not as long as its structure"))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, question: &Question<'_>) -> Result<Message, CallError> {
        let mut connection = self.lock();
        connection.check(question.command)?;
        let deadline = Deadline::after(self.timeout);
        let message = connection
            .send(question, 0, deadline)
            .and_then(|id| connection.receive(id, question, deadline))
            .map_err(|error| connection.give_up(question.command, &error))?;
        if message.header.flags & FLAG_ERROR != 0 {
            let errno = i32::try_from(message.header.error).unwrap_or(0);
            return Err(CallError::Refused { command: question.command, errno });
        }
        Ok(message)
    }
}

/// Why an exchange failed.
enum Broken {
    Socket(SocketError),
    Nonsense(String),
}

impl From<SocketError> for Broken {
    fn from(error: SocketError) -> Broken {
        Broken::Socket(error)
    }
}

impl Connection {
    fn check(&self, command: Command) -> Result<(), CallError> {
        match &self.lost {
            None => Ok(()),
            Some(reason) => Err(CallError::Lost { command, reason: reason.clone() }),
        }
    }

    fn give_up(&mut self, command: Command, error: &Broken) -> CallError {
        let reason = match error {
            Broken::Socket(error) => lost_reason(error),
            Broken::Nonsense(reason) => format!("the server sent nonsense: {reason}"),
        };
        self.lost = Some(reason.clone());
        CallError::Lost { command, reason }
    }

    fn send(&mut self, question: &Question<'_>, flags: u32, deadline: Deadline) -> Result<u16, Broken> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let [first, second] = question.payload;
        let size = Header::BYTES + first.len() + second.len();
        let size_bytes =
            u32::try_from(size).map_err(|_| Broken::Nonsense("a message of 4 GiB was asked for".into()))?;
        let header = Header {
            message_id: id,
            command: question.command.0,
            size_bytes,
            flags: TYPE_COMMAND | flags,
            error: 0,
        };
        let mut parts = [header.as_bytes(), first, second].map(IoSlice::new);
        self.socket.send(&mut parts, question.fds, deadline)?;
        Ok(id)
    }

    fn receive(&mut self, id: u16, question: &Question<'_>, deadline: Deadline) -> Result<Message, Broken> {
        loop {
            // A command of the server's may be longer than the reply; what it can be is bounded by what was offered.
            let most = *question.reply_bytes.end();
            let message = self.socket.receive(most.max(OWN.max_data_xfer_bytes as usize + 32), deadline)?;
            let header = message.header;
            if header.is_command() {
                self.decline(header, deadline)?;
                continue;
            }
            if header.flags & !FLAG_ERROR != TYPE_REPLY {
                return Err(Broken::Nonsense(format!("a message with flags {:#x}", header.flags)));
            }
            if (header.message_id, header.command) != (id, question.command.0) {
                return Err(Broken::Nonsense(format!(
                    "a reply to message {} ({:?}), expected was one to message {id}",
                    header.message_id,
                    header.command()
                )));
            }
            let failed = header.flags & FLAG_ERROR != 0;
            let length = message.payload.len();
            // An error has the header only (protocol, "Header"); who sends more with it harms nobody.
            if !failed && !question.reply_bytes.contains(&length) {
                return Err(Broken::Nonsense(format!(
                    "a payload of {length} bytes; from {} to {most} are possible",
                    question.reply_bytes.start()
                )));
            }
            if message.fds.len() > question.reply_fds {
                return Err(Broken::Nonsense(format!("{} descriptors nobody asked for", message.fds.len())));
            }
            return Ok(message);
        }
    }

    /// Says no to a command of the server's. All memory is given to it with descriptors, so it has no need of any.
    fn decline(&mut self, command: Header, deadline: Deadline) -> Result<(), SocketError> {
        if command.flags & FLAG_NO_REPLY != 0 {
            return Ok(());
        }
        let header = Header {
            size_bytes: Header::BYTES as u32,
            flags: TYPE_REPLY | FLAG_ERROR,
            error: libc::EOPNOTSUPP as u32,
            ..command
        };
        self.socket.send(&mut [IoSlice::new(header.as_bytes())], &[], deadline)
    }
}

/// Checks that a reply repeats what was accessed, and gives the data behind it.
fn same_access(command: Command, asked: RegionAccess, message: &Message) -> Result<&[u8], CallError> {
    match RegionAccess::read_from_prefix(&message.payload) {
        Ok((done, data)) if done == asked => Ok(data),
        Ok((done, _)) => Err(CallError::nonsense(
            command,
            format!(
                "it accessed {} bytes at {:#x} of region {}, not {} at {:#x} of {}",
                done.count, done.offset, done.region, asked.count, asked.offset, asked.region
            ),
        )),
        Err(_) => Err(CallError::nonsense(command, "it is shorter than its structure")),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
