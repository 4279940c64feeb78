//! [`VfioUserBus`]: a function behind a vfio-user server.
//!
//! Invariants:
//! - What the function looks like is what the server said when it was opened: the lengths of regions, what of BAR 0 is
//!   mapped, how many interrupts there are. Nothing is assumed.
//! - Only areas that lie within their file at the time of opening are mapped.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corelane_dma::{AddressSpace, Backing, MmioRegion};
use rustix::event::EventfdFlags;

use super::client::Client;
use super::error::CallError;
use super::mapper::Mapper;
use super::region::{Layout, PAGE_BYTES};
use super::socket::Socket;
use super::wire::{
    Command, DEVICE_PCI, DEVICE_RESETS, IRQ_ERR, IRQ_EVENTFD, IRQ_MSIX, IRQ_REQ, REGION_BAR0, REGION_CONFIG,
};
use crate::nvme::bus::{Bus, BusError, Doorbell, Notices, SendDoorbell};

/// How a server is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VfioUserOptions {
    /// How long the server may take to accept the connection and to answer a message, in milliseconds. After that it is
    /// taken for dead.
    pub timeout_ms: u32,
    /// Whether doorbells are written to memory that the server shares, where it does. For tests and comparisons; the other
    /// way is a message for each.
    pub map_doorbells: bool,
    /// What memory queues and pools are made of, if the caller has no other wish: huge pages where there are some.
    pub huge_pages: bool,
}

impl Default for VfioUserOptions {
    fn default() -> VfioUserOptions {
        VfioUserOptions { timeout_ms: 5000, map_doorbells: true, huge_pages: false }
    }
}

/// How many regions and kinds of interrupts a server may claim; more is nonsense.
const MOST_REGIONS: u32 = 1024;
/// MSI-X has no more vectors (PCI Express base specification, section 7.7.2.2).
const MOST_VECTORS: u32 = 2048;
/// The longest BAR 0 that is believed: doorbells of all queues at the widest stride are 64 GiB at most.
const MOST_BAR_BYTES: u64 = 1 << 40;

/// A function that a vfio-user server provides.
pub struct VfioUserBus {
    link: Arc<Link>,
    space: Arc<AddressSpace>,
    bar: Layout,
    config_bytes: u64,
    /// What of BAR 0 is mapped.
    areas: Vec<Area>,
    resets: bool,
    vectors: u32,
    /// How many vectors are set now.
    enabled: Mutex<usize>,
    error: Option<OwnedFd>,
    removal: Option<OwnedFd>,
    backing: Backing,
}

struct Area {
    at: Range<u64>,
    fd: Arc<OwnedFd>,
    memory: MmioRegion,
}

/// What a doorbell needs to be sent.
struct Link {
    address: String,
    client: Arc<Client>,
    bar_bytes: u64,
}

/// The socket behind `path`: itself, or if it is a folder the socket `cntrl` in it, where SPDK has it.
pub fn socket_path(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("cntrl") } else { path.to_owned() }
}

impl VfioUserBus {
    /// Connects to the server at `path` (see [`socket_path`]) and asks what its function looks like. Bus mastering and
    /// memory access of the function are switched on.
    ///
    /// # Errors
    /// [`BusError::Io`] where nobody listens, [`BusError::Unusable`] for a function that cannot be an NVMe controller, and
    /// [`BusError::Message`] or [`BusError::Gone`] for a server that refuses, makes no sense, or does not answer.
    pub fn open(path: &Path, options: &VfioUserOptions) -> Result<VfioUserBus, BusError> {
        let timeout = Duration::from_millis(options.timeout_ms.max(1).into());
        let socket = socket_path(path);
        let connection =
            Socket::connect(&socket, timeout).map_err(|source| connect_error(&socket, source))?;
        VfioUserBus::on(connection, format!("vfio-user:{}", path.display()), options)
    }

    /// As [`open`](Self::open), on a connection that there is already. `address` is what the function is called.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn on(
        connection: Socket,
        address: String,
        options: &VfioUserOptions,
    ) -> Result<VfioUserBus, BusError> {
        let timeout = Duration::from_millis(options.timeout_ms.max(1).into());
        let opened = Client::new(connection, timeout).and_then(|client| {
            let client = Arc::new(client);
            Ok((Function::ask(&client)?, client))
        });
        let (function, client) = opened.map_err(|error| error.at(&address))?;
        let Function { bar, bar_fds, config_bytes, resets, vectors, notices } = function;
        let fds = if options.map_doorbells { bar_fds } else { Vec::new() };
        let areas = map_areas(&bar, fds).map_err(|error| error.at(&address))?;
        let mapper = Mapper { client: Arc::clone(&client), address: address.clone() };
        let space = AddressSpace::new(Box::new(mapper))?;
        let [error, removal] = notices;
        let bus = VfioUserBus {
            link: Arc::new(Link { address, client, bar_bytes: bar.size_bytes }),
            space,
            bar,
            config_bytes,
            areas,
            resets,
            vectors,
            enabled: Mutex::new(0),
            error,
            removal,
            backing: if options.huge_pages { Backing::MemfdHuge } else { Backing::Memfd },
        };
        bus.enable()?;
        Ok(bus)
    }

    /// What the server said of BAR 0.
    pub fn bar(&self) -> &Layout {
        &self.bar
    }

    /// Switches memory accesses and bus mastering of the function on (PCI local bus specification 3.0, section 6.2.2).
    fn enable(&self) -> Result<(), BusError> {
        const COMMAND: u32 = 4;
        const MEMORY_AND_MASTER: u16 = 1 << 1 | 1 << 2;
        let mut command = [0; 2];
        self.config_read(COMMAND, &mut command)?;
        let wanted = u16::from_le_bytes(command) | MEMORY_AND_MASTER;
        self.config_write(COMMAND, &wanted.to_le_bytes())
    }

    fn failed(&self, error: CallError) -> BusError {
        error.at(&self.link.address)
    }

    fn check_config(&self, offset: u32, len_bytes: usize) -> Result<(), BusError> {
        let (offset, len_bytes) = (u64::from(offset), len_bytes as u64);
        if len_bytes > 0 && offset + len_bytes <= self.config_bytes {
            return Ok(());
        }
        let region = "the configuration space";
        Err(BusError::Range { region, offset, len_bytes, size_bytes: self.config_bytes })
    }

    fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], BusError> {
        self.link.check(offset, N)?;
        let mut data = [0; N];
        self.link.client.region_read(REGION_BAR0, offset, &mut data).map_err(|error| self.failed(error))?;
        Ok(data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BusError> {
        self.link.check(offset, data.len())?;
        self.link.client.region_write(REGION_BAR0, offset, data).map_err(|error| self.failed(error))
    }

    fn area(&self, offset: u64, len_bytes: u64) -> Option<&Area> {
        let end = offset.checked_add(len_bytes)?;
        self.areas.iter().find(|area| area.at.start <= offset && end <= area.at.end)
    }
}

impl Link {
    fn check(&self, offset: u64, len_bytes: usize) -> Result<(), BusError> {
        let (len_bytes, size_bytes) = (len_bytes as u64, self.bar_bytes);
        let fits = len_bytes <= size_bytes && offset <= size_bytes - len_bytes;
        if fits && offset.is_multiple_of(len_bytes) {
            return Ok(());
        }
        Err(BusError::Range { region: "BAR 0", offset, len_bytes, size_bytes })
    }
}

impl SendDoorbell for Link {
    fn send(&self, offset: u64, value: u32) -> Result<(), BusError> {
        // The kernel orders memory before the message: it is a system call.
        self.client
            .region_post(REGION_BAR0, offset, &value.to_le_bytes())
            .map_err(|error| error.at(&self.address))
    }
}

impl Bus for VfioUserBus {
    fn address(&self) -> &str {
        &self.link.address
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) -> Result<(), BusError> {
        self.check_config(offset, data.len())?;
        let read = self.link.client.region_read(REGION_CONFIG, offset.into(), data);
        read.map_err(|error| self.failed(error))
    }

    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), BusError> {
        self.check_config(offset, data.len())?;
        let written = self.link.client.region_write(REGION_CONFIG, offset.into(), data);
        written.map_err(|error| self.failed(error))
    }

    fn registers_len(&self) -> u64 {
        self.bar.size_bytes
    }

    fn read32(&self, offset: u64) -> Result<u32, BusError> {
        self.read(offset).map(u32::from_le_bytes)
    }

    fn read64(&self, offset: u64) -> Result<u64, BusError> {
        self.read(offset).map(u64::from_le_bytes)
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn write64(&self, offset: u64, value: u64) -> Result<(), BusError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn doorbell(&self, offset: u64) -> Result<Doorbell, BusError> {
        self.link.check(offset, size_of::<u32>())?;
        match self.area(offset, size_of::<u32>() as u64) {
            Some(area) => Ok(Doorbell::Mapped(area.memory.register32(offset - area.at.start)?)),
            None => Ok(Doorbell::Message { sender: Arc::<Link>::clone(&self.link), offset }),
        }
    }

    fn interrupts(&self) -> u32 {
        self.vectors
    }

    fn set_interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        if eventfds.len() > self.vectors as usize {
            return Err(BusError::Range {
                region: "the MSI-X vectors",
                offset: 0,
                len_bytes: eventfds.len() as u64,
                size_bytes: self.vectors.into(),
            });
        }
        let mut enabled = self.enabled.lock().unwrap_or_else(PoisonError::into_inner);
        let set = |fds: &[BorrowedFd<'_>]| {
            self.link.client.set_irqs(IRQ_MSIX, fds).map_err(|error| self.failed(error))
        };
        // Off first, since a server need not take another number while some are set (VFIO_IRQ_INFO_NORESIZE).
        if *enabled > 0 {
            set(&[])?;
            *enabled = 0;
        }
        if !eventfds.is_empty() {
            set(eventfds)?;
            *enabled = eventfds.len();
        }
        Ok(())
    }

    fn notices(&self) -> Notices<'_> {
        Notices {
            error: self.error.as_ref().map(AsFd::as_fd),
            removal: self.removal.as_ref().map(AsFd::as_fd),
        }
    }

    fn reset(&self) -> Result<(), BusError> {
        if !self.resets {
            return Err(BusError::Unsupported { address: self.link.address.clone(), what: "reset" });
        }
        self.link.client.reset().map_err(|error| self.failed(error))?;
        // A reset switches both off.
        self.enable()
    }

    fn dma(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    fn backing(&self) -> Backing {
        self.backing
    }

    fn bar_memory(&self, bar: u32, offset: u64, len_bytes: u64) -> Option<MmioRegion> {
        if bar != 0 {
            return None;
        }
        let area = self.area(offset, len_bytes)?;
        if (offset, len_bytes) == (area.at.start, area.at.end - area.at.start) {
            return Some(area.memory.clone());
        }
        if !offset.is_multiple_of(PAGE_BYTES) {
            return None;
        }
        let len_bytes = usize::try_from(len_bytes).ok()?;
        MmioRegion::from_fd(area.fd.as_fd(), self.bar.file_offset + offset, len_bytes).ok()
    }
}

/// What was found out about a function.
struct Function {
    bar: Layout,
    bar_fds: Vec<OwnedFd>,
    config_bytes: u64,
    resets: bool,
    vectors: u32,
    /// Eventfds for errors and for removal, where the server has such notices.
    notices: [Option<OwnedFd>; 2],
}

impl Function {
    fn ask(client: &Client) -> Result<Function, CallError> {
        let nonsense = |command, reason: String| CallError::nonsense(command, reason);
        let info = client.device_info()?;
        let numbers = [(info.num_regions, REGION_CONFIG + 1), (info.num_irqs, 0)];
        if info.flags & DEVICE_PCI == 0
            || numbers.iter().any(|(number, least)| !(*least..=MOST_REGIONS).contains(number))
        {
            let reason = format!(
                "{} regions and {} kinds of interrupts, flags {:#x}: no PCI function",
                info.num_regions, info.num_irqs, info.flags
            );
            return Err(nonsense(Command::DEVICE_GET_INFO, reason));
        }
        let (bar, bar_fds) = client.region_info(REGION_BAR0)?;
        let (config, _) = client.region_info(REGION_CONFIG)?;
        let region = Command::DEVICE_GET_REGION_INFO;
        // The registers and one pair of doorbells (NVMe over PCIe transport specification, section 3.1).
        if !(0x1008..=MOST_BAR_BYTES).contains(&bar.size_bytes) || !bar.is_read_write() {
            let reason = format!("BAR 0 has {:#x} bytes and flags {:#x}", bar.size_bytes, bar.flags);
            return Err(nonsense(region, reason));
        }
        if !(64..=4096).contains(&config.size_bytes) || !config.is_read_write() {
            let reason = format!(
                "the configuration space has {} bytes and flags {:#x}",
                config.size_bytes, config.flags
            );
            return Err(nonsense(region, reason));
        }
        let count = |index| -> Result<u32, CallError> {
            if index >= info.num_irqs {
                return Ok(0);
            }
            let irqs = client.irq_info(index)?;
            Ok(if irqs.flags & IRQ_EVENTFD != 0 { irqs.count } else { 0 })
        };
        let vectors = count(IRQ_MSIX)?;
        if vectors > MOST_VECTORS {
            return Err(nonsense(Command::DEVICE_GET_IRQ_INFO, format!("{vectors} MSI-X vectors")));
        }
        let mut notices = [None, None];
        for (notice, index) in notices.iter_mut().zip([IRQ_ERR, IRQ_REQ]) {
            if count(index)? > 0 {
                *notice = ask_for_notice(client, index)?;
            }
        }
        let resets = info.flags & DEVICE_RESETS != 0;
        Ok(Function { bar, bar_fds, config_bytes: config.size_bytes, resets, vectors, notices })
    }
}

/// An eventfd that the server signals for interrupt 0 of a kind; `None` if it does not want to.
fn ask_for_notice(client: &Client, index: u32) -> Result<Option<OwnedFd>, CallError> {
    // Without one, the server is noticed to be gone when it is asked something.
    let Ok(eventfd) = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) else {
        return Ok(None);
    };
    match client.set_irqs(index, &[eventfd.as_fd()]) {
        Ok(()) => Ok(Some(eventfd)),
        Err(CallError::Refused { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

fn connect_error(socket: &Path, source: io::Error) -> BusError {
    let hint = match source.kind() {
        io::ErrorKind::NotFound => " (no server has made this socket)",
        io::ErrorKind::ConnectionRefused => " (the socket is there, but its server is gone)",
        io::ErrorKind::PermissionDenied => " (its owner and mode say who may connect)",
        io::ErrorKind::TimedOut => " (the server does not accept connections)",
        _ => "",
    };
    BusError::Io { what: format!("cannot connect to {}{hint}", socket.display()), source }
}

/// Maps all areas of BAR 0 that have a descriptor.
fn map_areas(bar: &Layout, fds: Vec<OwnedFd>) -> Result<Vec<Area>, CallError> {
    let fds: Vec<Arc<OwnedFd>> = fds.into_iter().map(Arc::new).collect();
    let nonsense = |reason| CallError::nonsense(Command::DEVICE_GET_REGION_INFO, reason);
    let mut areas = Vec::new();
    for (number, at) in bar.areas.iter().enumerate() {
        // One for each, or one for all (`Client::region_info`).
        let Some(fd) = fds.get(number).or(fds.first()) else { break };
        let end = bar.file_offset + at.end;
        let file = rustix::fs::fstat(fd).map_err(|errno| nonsense(format!("its descriptor: {errno}")))?;
        let is_file = rustix::fs::FileType::from_raw_mode(file.st_mode).is_file();
        if is_file && u64::try_from(file.st_size).is_ok_and(|size| size < end) {
            let reason = format!("the area {at:#x?} ends at {end:#x} of a file of {:#x} bytes", file.st_size);
            return Err(nonsense(reason));
        }
        let memory = usize::try_from(at.end - at.start)
            .map_err(|_| nonsense(format!("the area {at:#x?} is longer than all memory")))
            .and_then(|len_bytes| {
                MmioRegion::from_fd(fd.as_fd(), bar.file_offset + at.start, len_bytes)
                    .map_err(|error| nonsense(format!("the area {at:#x?} cannot be mapped: {error}")))
            })?;
        areas.push(Area { at: at.clone(), fd: Arc::clone(fd), memory });
    }
    Ok(areas)
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
