//! Starting and stopping a controller through its registers (Base 3.5.1, 3.6.1), by the times that it asks for.
//!
//! Every read may be all ones, which means that the controller is gone; nothing here waits longer than the controller's own
//! bound.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::nvme::bus::{Bus, BusError};
use crate::nvme::error::NvmeError;
use crate::nvme::spec::register::{
    self, Capabilities, Configuration, ReadyTimeouts, ShutdownStatus, Status, Version,
};

/// The memory page that the controller is told to use, as a power of two of bytes: the processor's.
pub const PAGE_SHIFT: u32 = 12;
/// The same in bytes.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;

/// The PCI vendor identifier.
const PCI_VENDOR: u32 = 0x00;
/// The PCI command register, and its bits for memory accesses, bus mastering and "no pin interrupts".
const PCI_COMMAND: u32 = 0x04;
const PCI_MEMORY: u16 = 1 << 1;
const PCI_BUS_MASTER: u16 = 1 << 2;
const PCI_NO_INTX: u16 = 1 << 10;

/// The least that a controller is waited for, where it asks for less; in milliseconds.
const MIN_TIMEOUT_MS: u64 = 500;
/// The most that it may ask for, in milliseconds: what CAP.TO can say. CRTO could ask for hours.
const MAX_TIMEOUT_MS: u64 = 127_500;
/// How long a shutdown may take where the controller does not say (RTD3E is 0); in milliseconds.
const SHUTDOWN_DEFAULT_MS: u64 = 5000;
/// The most that it may ask for; in milliseconds.
const SHUTDOWN_MAX_MS: u64 = 300_000;

/// A controller's registers.
pub struct Registers {
    bus: Arc<dyn Bus>,
    cap: Capabilities,
    version: Version,
}

/// Where the admin queues are.
#[derive(Clone, Copy, Debug)]
pub struct AdminQueues {
    /// I/O address of the submission queue.
    pub sq: u64,
    /// I/O address of the completion queue.
    pub cq: u64,
    /// Entries of each.
    pub entries: u16,
}

fn prepare(bus: &dyn Bus) -> Result<(), BusError> {
    let mut command = [0; 2];
    bus.config_read(PCI_COMMAND, &mut command)?;
    let wanted = u16::from_le_bytes(command) | PCI_MEMORY | PCI_BUS_MASTER | PCI_NO_INTX;
    bus.config_write(PCI_COMMAND, &wanted.to_le_bytes())
}

impl Registers {
    /// Makes the function reachable and reads what it can. It may be enabled or not.
    ///
    /// # Errors
    /// Those of the bus, [`NvmeError::Gone`], and [`NvmeError::Unusable`] for a controller that lacks what is needed.
    pub fn open(bus: Arc<dyn Bus>) -> Result<Registers, NvmeError> {
        prepare(bus.as_ref())?;
        let cap = Capabilities(bus.read64(register::CAP)?);
        if cap.0 == u64::MAX {
            return Err(NvmeError::Gone { address: bus.address().to_owned(), register: "CAP" });
        }
        let version = Version(bus.read32(register::VS)?);
        let registers = Registers { bus, cap, version };
        registers.check()?;
        Ok(registers)
    }

    /// Makes the function reachable again, after a reset or whatever else may have changed that.
    ///
    /// # Errors
    /// Those of the bus.
    pub fn prepare(&self) -> Result<(), NvmeError> {
        Ok(prepare(self.bus.as_ref())?)
    }

    /// Whether there is a function at all: its configuration space has a vendor (PCI 3.0, section 6.1: FFFFh is none).
    pub fn is_there(&self) -> bool {
        let mut vendor = [0; 2];
        self.bus.config_read(PCI_VENDOR, &mut vendor).is_ok()
            && !matches!(u16::from_le_bytes(vendor), 0 | u16::MAX)
    }

    /// Finds out whether the controller is as it was left: enabled, ready, without a fatal error.
    ///
    /// # Errors
    /// [`NvmeError::Gone`], [`NvmeError::Fatal`], [`NvmeError::WasReset`] and those of the bus.
    pub fn check_running(&self) -> Result<(), NvmeError> {
        let status = self.status()?;
        if status.is_fatal() {
            let address = self.bus.address().to_owned();
            return Err(NvmeError::Fatal { address, what: "running", csts: status.0 });
        }
        if !status.is_ready() {
            let (address, cc) = (self.bus.address().to_owned(), self.configuration()?.0);
            return Err(NvmeError::WasReset { address, cc, csts: status.0 });
        }
        Ok(())
    }

    /// The bus.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// CAP.
    pub fn capabilities(&self) -> Capabilities {
        self.cap
    }

    /// VS.
    pub fn version(&self) -> Version {
        self.version
    }

    fn check(&self) -> Result<(), NvmeError> {
        let cap = self.cap;
        if !cap.nvm_command_set() && !cap.many_command_sets() {
            let expected = "one with the NVM command set (bit 0 or 6 of CAP.CSS)".to_owned();
            return Err(self.unusable("CAP", cap.0, expected));
        }
        if cap.max_queue_entries() < 2 {
            let expected = "at least 1: a queue has two entries or more".to_owned();
            return Err(self.unusable("CAP.MQES", u64::from(cap.max_queue_entries() - 1), expected));
        }
        if cap.min_page_shift() > PAGE_SHIFT || cap.max_page_shift() < PAGE_SHIFT {
            let expected = format!("0, for memory pages of {PAGE_BYTES} bytes");
            return Err(self.unusable("CAP.MPSMIN", u64::from(cap.min_page_shift() - 12), expected));
        }
        Ok(())
    }

    fn unusable(&self, what: &'static str, value: u64, expected: String) -> NvmeError {
        NvmeError::Unusable { address: self.bus.address().to_owned(), what, value, expected }
    }

    /// CSTS.
    ///
    /// # Errors
    /// Those of the bus, and [`NvmeError::Gone`].
    pub fn status(&self) -> Result<Status, NvmeError> {
        let status = Status(self.bus.read32(register::CSTS)?);
        if status.is_gone() {
            return Err(NvmeError::Gone { address: self.bus.address().to_owned(), register: "CSTS" });
        }
        Ok(status)
    }

    fn configuration(&self) -> Result<Configuration, NvmeError> {
        Ok(Configuration(self.bus.read32(register::CC)?))
    }

    fn configure(&self, configuration: Configuration) -> Result<(), NvmeError> {
        Ok(self.bus.write32(register::CC, configuration.0)?)
    }

    /// How long the controller may take to become ready or not ready, in milliseconds.
    pub fn ready_timeout_ms(&self) -> u64 {
        let with_media = || {
            let crto = self.bus.read32(register::CRTO).unwrap_or(0);
            if crto == u32::MAX { 0 } else { ReadyTimeouts(crto).with_media_ms() }
        };
        let told = if self.cap.ready_with_media() { with_media() } else { 0 };
        // Some that report CRTO leave it 0, or below CAP.TO.
        told.max(self.cap.timeout_ms()).clamp(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)
    }

    /// Brings the controller to the state in which it uses no memory and can be configured.
    ///
    /// # Errors
    /// [`NvmeError::NotInTime`], [`NvmeError::Gone`] and those of the bus.
    pub fn disable(&self) -> Result<(), NvmeError> {
        let timeout_ms = self.ready_timeout_ms();
        let configuration = self.configuration()?;
        if configuration.is_enabled() {
            // EN may be cleared only once RDY has followed it (Base 3.1.3.5); a controller with a fatal error, or one that was
            // shut down, may never become ready, and is disabled as it is.
            let settled = |status: Status| {
                status.is_ready() || status.is_fatal() || status.shutdown() != ShutdownStatus::Normal
            };
            match self.wait_for("stable", timeout_ms, settled) {
                Ok(_) | Err(NvmeError::NotInTime { .. }) => {}
                Err(error) => return Err(error),
            }
            self.configure(configuration.disabled())?;
        }
        self.wait_for("disabled (CSTS.RDY 0)", timeout_ms, |status| !status.is_ready()).map(drop)
    }

    /// Enables a disabled controller with these admin queues, and waits until it is ready.
    ///
    /// # Errors
    /// [`NvmeError::Fatal`], [`NvmeError::NotInTime`], [`NvmeError::Gone`] and those of the bus.
    pub fn enable(&self, queues: AdminQueues) -> Result<(), NvmeError> {
        let attributes = register::admin_queue_attributes(queues.entries, queues.entries);
        self.bus.write32(register::AQA, attributes)?;
        self.bus.write64(register::ASQ, queues.sq)?;
        self.bus.write64(register::ACQ, queues.cq)?;
        // All I/O command sets that there are: namespaces say which they have.
        let configuration = Configuration::enabled(PAGE_SHIFT, self.cap.many_command_sets());
        self.configure(configuration.disabled())?;
        self.configure(configuration)?;
        let ready = |status: Status| status.is_ready() || status.is_fatal();
        let status = self.wait_for("ready (CSTS.RDY 1)", self.ready_timeout_ms(), ready)?;
        if status.is_fatal() {
            let address = self.bus.address().to_owned();
            return Err(NvmeError::Fatal { address, what: "being enabled", csts: status.0 });
        }
        Ok(())
    }

    /// Announces a normal shutdown and waits until it is complete, as long as the controller asks for (RTD3E).
    ///
    /// # Errors
    /// [`NvmeError::Fatal`], [`NvmeError::NotInTime`], [`NvmeError::Gone`] and those of the bus.
    pub fn shut_down(&self, rtd3e_us: u32) -> Result<(), NvmeError> {
        let configuration = self.configuration()?;
        if configuration.0 == u32::MAX || !configuration.is_enabled() {
            return Ok(());
        }
        self.configure(configuration.shutting_down())?;
        let timeout_ms = match u64::from(rtd3e_us) {
            0 => SHUTDOWN_DEFAULT_MS,
            told => (told.div_ceil(1000)).clamp(MIN_TIMEOUT_MS, SHUTDOWN_MAX_MS),
        };
        let over = |status: Status| status.is_fatal() || status.shutdown() == ShutdownStatus::Complete;
        let status = self.wait_for("shut down (CSTS.SHST 10b)", timeout_ms, over)?;
        if status.is_fatal() {
            let address = self.bus.address().to_owned();
            return Err(NvmeError::Fatal { address, what: "being shut down", csts: status.0 });
        }
        Ok(())
    }

    /// Waits for a status, looking first often, then less so.
    fn wait_for(
        &self,
        what: &'static str,
        timeout_ms: u64,
        reached: impl Fn(Status) -> bool,
    ) -> Result<Status, NvmeError> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let mut pause = Duration::from_micros(20);
        loop {
            let late = Instant::now() >= deadline;
            let status = self.status()?;
            if reached(status) {
                return Ok(status);
            }
            if late {
                let address = self.bus.address().to_owned();
                return Err(NvmeError::NotInTime { address, what, timeout_ms, csts: status.0 });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}
