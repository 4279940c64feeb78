//! [`NvmeController`]: a started controller, shared by all that use it in the process.
//!
//! Invariants:
//! - As long as it lives the controller is enabled or given up ([`control`]); when the last handle goes, it is shut down as
//!   the specification asks for, and the memory of its queues is unmapped after that.
//! - An I/O queue number is in use by one queue pair, or free. One whose deletion failed is never used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_engine::aio::AioHandle;
use zerocopy::FromBytes;

pub mod admin;
pub mod control;
pub mod passthrough;
mod queues;
pub mod registers;
mod shadow;

use admin::{AdminQueue, Answer, Data};
use control::{Control, State};
use registers::Registers;
use shadow::ShadowMemory;

use super::bus::Bus;
use super::error::NvmeError;
use super::interrupt::{VectorUse, Vectors};
use super::leaf::share::Hosts;
use super::options::ControllerOptions;
use super::spec::command::Command;
use super::spec::feature;
use super::spec::identify::{
    AdminCommands, COMMAND_SET_NVM, IDENTIFY_BYTES, IdentifyController, IdentifyNvmController, NamespaceList,
    cns,
};
use super::spec::namespace::IdentifyNamespace;
use super::spec::register::Version;
use super::spec::status::Status;
use super::spec::{Nsid, Qid};
use queues::QueueIds;

/// A started controller.
pub struct NvmeController {
    control: Arc<Control>,
    admin: Arc<AdminQueue>,
    identify: Box<IdentifyController>,
    /// What it says of its NVM command set, if it does.
    nvm: Option<Box<IdentifyNvmController>>,
    queues: Mutex<QueueIds>,
    shadow: Option<Arc<ShadowMemory>>,
    /// Made when the first queue wants an interrupt.
    vectors: Mutex<Option<Vectors>>,
    /// Lanes that lend their queue to others.
    hosts: Hosts,
}

impl NvmeController {
    /// Starts the controller behind `bus` (Base 3.5.1): brings it to a stable state, disables it, makes the admin queue,
    /// enables it, and asks it who it is. Blocks.
    ///
    /// # Errors
    /// [`NvmeError`]s of every kind: the controller is gone, does not become ready, lacks what is needed, or says absurd
    /// things of itself.
    pub fn start(bus: Arc<dyn Bus>, options: &ControllerOptions) -> Result<Arc<NvmeController>, NvmeError> {
        corelane_engine::block::IoError::name_statuses_by(super::spec::status::describe);
        if options.queues == 0 {
            let (address, expected) = (bus.address().to_owned(), "at least 1".to_owned());
            let what = "the number of queues to ask for";
            return Err(NvmeError::Unusable { address, what, value: 0, expected });
        }
        let registers = Registers::open(bus)?;
        registers.disable()?;
        let timeout = Duration::from_millis(options.admin_timeout_ms);
        let stride_bytes = registers.capabilities().doorbell_stride_bytes();
        let admin = Arc::new(AdminQueue::new(registers.bus().as_ref(), stride_bytes, timeout)?);
        if let Err(error) = registers.enable(admin.queues()) {
            stop_half_started(&registers, &admin);
            return Err(error);
        }
        let control = Control::new(registers);
        let mut starting = Starting { control, admin, identify: None, disarmed: false };
        let identify = starting.identify()?;
        let nvm = starting.identify_nvm(&identify)?;
        let granted = starting.ask_for_queues(options.queues)?;
        let shadow = starting.set_up_shadows(&identify, options)?;
        starting.configure_events(&identify)?;
        starting.disarmed = true;
        Ok(Arc::new(NvmeController {
            control: Arc::clone(&starting.control),
            admin: Arc::clone(&starting.admin),
            identify,
            nvm,
            queues: Mutex::new(QueueIds::new(granted)),
            shadow,
            vectors: Mutex::new(None),
            hosts: Hosts::default(),
        }))
    }

    /// What the controller is called on its bus.
    pub fn address(&self) -> &str {
        self.control.address()
    }

    /// The bus behind it.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        self.control.registers().bus()
    }

    /// What it said of itself.
    pub fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    /// What it said of its NVM command set, if it did.
    pub fn identify_nvm(&self) -> Option<&IdentifyNvmController> {
        self.nvm.as_deref()
    }

    /// The specification that it follows.
    pub fn version(&self) -> Version {
        self.control.registers().version()
    }

    /// How many I/O queue pairs there can be.
    pub fn queue_count(&self) -> u32 {
        self.queue_ids().granted()
    }

    /// Whether it has shadow doorbells, and they are in use.
    pub fn has_shadow_doorbells(&self) -> bool {
        self.shadow.is_some()
    }

    /// The most entries of an I/O queue.
    pub fn max_queue_entries(&self) -> u32 {
        self.control.registers().capabilities().max_queue_entries()
    }

    /// The largest transfer in bytes, if it has a limit.
    pub fn max_transfer_bytes(&self) -> Option<u64> {
        self.identify.max_transfer_bytes(self.control.registers().capabilities().min_page_shift())
    }

    /// The smallest memory page as a power of two of bytes: the unit of some limits.
    pub(super) fn min_page_shift(&self) -> u32 {
        self.control.registers().capabilities().min_page_shift()
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    fn queue_ids(&self) -> MutexGuard<'_, QueueIds> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes an admin command and waits for its answer. Blocks.
    ///
    /// # Errors
    /// As [`AdminQueue::execute`].
    pub(super) fn admin(
        &self,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, NvmeError> {
        self.admin.execute(&self.control, name, command, data)
    }

    /// The numbers of the active namespaces, in order. Blocks.
    ///
    /// # Errors
    /// Those of an admin command, and [`NvmeError::Absurd`] for a list that is not in order.
    pub fn active_namespaces(&self) -> Result<Vec<Nsid>, NvmeError> {
        let mut active = Vec::new();
        loop {
            let above = active.last().copied().unwrap_or(Nsid(0));
            let command = Command::identify(cns::ACTIVE_NAMESPACES, above, COMMAND_SET_NVM);
            let answer = match self.admin("Identify (active namespaces)", command, Data::In(IDENTIFY_BYTES)) {
                // Controllers of before 1.1 have no list; theirs are all active (Base 1.0).
                Err(NvmeError::Refused { status, .. })
                    if active.is_empty() && status.is(Status::INVALID_FIELD) =>
                {
                    return Ok((1..=self.identify.nn.get().min(1024)).map(Nsid).collect());
                }
                answer => answer?,
            };
            let list = read::<NamespaceList>(&answer);
            let full = list.nsids.iter().all(|nsid| nsid.get() != 0);
            for nsid in list.nsids.iter().map(|nsid| Nsid(nsid.get())).take_while(|nsid| nsid.0 != 0) {
                let last = active.last().copied().unwrap_or(Nsid(0));
                if nsid <= last || !nsid.is_one() {
                    return Err(self.absurd(
                        "the active namespaces",
                        "a number",
                        nsid.0.into(),
                        format!("above {}", last.0),
                    ));
                }
                active.push(nsid);
            }
            if !full {
                return Ok(active);
            }
        }
    }

    /// What the controller says of a namespace. Blocks.
    ///
    /// # Errors
    /// Those of an admin command.
    pub fn identify_namespace(&self, nsid: Nsid) -> Result<Box<IdentifyNamespace>, NvmeError> {
        let command = Command::identify(cns::NAMESPACE, nsid, COMMAND_SET_NVM);
        let answer = self.admin("Identify (namespace)", command, Data::In(IDENTIFY_BYTES))?;
        Ok(read::<IdentifyNamespace>(&answer))
    }

    /// Whether there is a volatile write cache and it is on (Base 5.27.1.4). Blocks.
    ///
    /// # Errors
    /// Those of an admin command, but for a refusal: then it counts as on.
    pub fn write_cache_enabled(&self) -> Result<bool, NvmeError> {
        if !self.identify.has_write_cache() {
            return Ok(false);
        }
        let command = Command::get_feature(feature::id::WRITE_CACHE, Nsid::NONE);
        match self.admin("Get Features (write cache)", command, Data::None) {
            Ok(answer) => Ok(answer.result & 1 == 1),
            Err(NvmeError::Refused { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The interrupt of a queue, for the lane that waits for it. `None` where the function has no interrupts.
    fn vector(&self, qid: Qid, lane: AioHandle) -> Result<Option<VectorUse>, NvmeError> {
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        if vectors.is_none() {
            *vectors = Vectors::enable(self.bus().as_ref(), self.queue_count())?;
        }
        Ok(vectors.as_ref().and_then(|vectors| vectors.of(qid, lane)))
    }

    pub(super) fn absurd(&self, of: &str, what: &'static str, value: u64, expected: String) -> NvmeError {
        NvmeError::Absurd { address: self.address().to_owned(), of: of.to_owned(), what, value, expected }
    }
}

impl std::fmt::Debug for NvmeController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NvmeController")
            .field("address", &self.address())
            .field("state", &self.control.state())
            .finish_non_exhaustive()
    }
}

impl Drop for NvmeController {
    fn drop(&mut self) {
        let rtd3e_us = self.identify.rtd3e.get();
        if !end(&self.control, Some(rtd3e_us)) {
            std::mem::forget(Arc::clone(&self.admin));
            std::mem::forget(self.shadow.clone());
        }
        if self.vectors.get_mut().is_ok_and(|vectors| vectors.is_some())
            && let Err(error) = self.bus().set_interrupts(&[])
        {
            tracing::debug!(controller = self.address(), %error, "interrupts stay set");
        }
    }
}

/// Ends the driving of a controller. True if it provably uses no memory any more.
fn end(control: &Arc<Control>, rtd3e_us: Option<u32>) -> bool {
    if control.is_running() {
        let registers = control.registers();
        let quiet = rtd3e_us.map_or(Ok(()), |rtd3e_us| registers.shut_down(rtd3e_us));
        if let Err(error) = quiet {
            tracing::warn!(controller = control.address(), %error, "shutting down");
        }
        return match registers.disable() {
            Ok(()) => true,
            Err(error) => {
                control.fail(&error);
                wait_until_over(control) == State::Stopped
            }
        };
    }
    wait_until_over(control) == State::Stopped
}

/// Waits until a controller that failed is stopped or lost, which takes as long as it asks for at most.
pub(super) fn wait_until_over(control: &Control) -> State {
    loop {
        match control.state() {
            State::Running | State::Stopping => std::thread::sleep(Duration::from_micros(200)),
            over => return over,
        }
    }
}

fn stop_half_started(registers: &Registers, admin: &Arc<AdminQueue>) {
    let gone = |error: &NvmeError| error.is_gone();
    let stopped = registers.disable().map_or_else(|error| gone(&error), |()| true);
    if !stopped && registers.bus().reset().is_err() {
        std::mem::forget(Arc::clone(admin));
    }
}

/// A structure that fits its buffer: identify data is asked for in its own length.
fn read<T: FromBytes + zerocopy::FromZeros>(answer: &Answer) -> Box<T> {
    let mut value = T::new_zeroed();
    if let Ok((found, _)) = T::read_from_prefix(&answer.data) {
        value = found;
    }
    Box::new(value)
}

/// A controller that is enabled but not yet known. Its drop ends it, unless it is disarmed.
struct Starting {
    control: Arc<Control>,
    admin: Arc<AdminQueue>,
    identify: Option<u32>,
    disarmed: bool,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.disarmed && !end(&self.control, self.identify) {
            std::mem::forget(Arc::clone(&self.admin));
        }
    }
}

impl Starting {
    fn admin(&self, name: &'static str, command: Command, data: Data) -> Result<Answer, NvmeError> {
        self.admin.execute(&self.control, name, command, data)
    }

    fn absurd(&self, what: &'static str, value: u64, expected: &str) -> NvmeError {
        let (address, expected) = (self.control.address().to_owned(), expected.to_owned());
        NvmeError::Absurd { address, of: "itself".to_owned(), what, value, expected }
    }

    fn identify(&mut self) -> Result<Box<IdentifyController>, NvmeError> {
        let command = Command::identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM);
        let answer = self.admin("Identify (controller)", command, Data::In(IDENTIFY_BYTES))?;
        let identify = read::<IdentifyController>(&answer);
        self.identify = Some(identify.rtd3e.get());
        if !identify.has_usual_entries() {
            let sizes = u64::from(identify.cqes) << 8 | u64::from(identify.sqes);
            return Err(self.absurd("CQES and SQES", sizes, "44h and 66h: entries of 16 and 64 bytes"));
        }
        if identify.nn.get() == 0 || identify.nn.get() == u32::MAX {
            return Err(self.absurd("NN", identify.nn.get().into(), "from 1 to FFFFFFFEh"));
        }
        if identify.cntrltype > 1 {
            return Err(self.absurd("CNTRLTYPE", identify.cntrltype.into(), "1, a controller for I/O"));
        }
        Ok(identify)
    }

    /// Asks for the limits of the NVM command set. Controllers of before 1.4 do not know the question, and others may
    /// refuse it.
    fn identify_nvm(&self, _: &IdentifyController) -> Result<Option<Box<IdentifyNvmController>>, NvmeError> {
        if self.control.registers().version() < Version::new(1, 4, 0) {
            return Ok(None);
        }
        let command = Command::identify(cns::COMMAND_SET_CONTROLLER, Nsid::NONE, COMMAND_SET_NVM);
        match self.admin("Identify (NVM command set)", command, Data::In(IDENTIFY_BYTES)) {
            Ok(answer) => Ok(Some(read::<IdentifyNvmController>(&answer))),
            Err(NvmeError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask_for_queues(&self, queues: u16) -> Result<u32, NvmeError> {
        let value = feature::number_of_queues(queues);
        let command = Command::set_feature(feature::id::NUMBER_OF_QUEUES, Nsid::NONE, value);
        let answer = self.admin("Set Features (number of queues)", command, Data::None)?;
        Ok(feature::granted_queues(answer.result).min(queues.into()))
    }

    fn set_up_shadows(
        &self,
        identify: &IdentifyController,
        options: &ControllerOptions,
    ) -> Result<Option<Arc<ShadowMemory>>, NvmeError> {
        if !options.shadow_doorbells || !identify.admin_commands().contains(AdminCommands::DOORBELL_BUFFERS) {
            return Ok(None);
        }
        let registers = self.control.registers();
        let memory =
            ShadowMemory::new(registers.bus().as_ref(), registers.capabilities().doorbell_stride_bytes())?;
        match self.admin("Doorbell Buffer Config", memory.command(), Data::None) {
            Ok(_) => Ok(Some(Arc::new(memory))),
            Err(NvmeError::Refused { status, .. }) => {
                tracing::info!(controller = self.control.address(), %status, "no shadow doorbells");
                Ok(None)
            }
            Err(error) => {
                // It may have taken the buffers all the same.
                std::mem::forget(memory);
                Err(error)
            }
        }
    }

    /// Says which events are of interest. What the controller does not offer is not asked for, and a refusal does no harm.
    fn configure_events(&self, identify: &IdentifyController) -> Result<(), NvmeError> {
        let offered = feature::AsyncEvents::from_bits_truncate(identify.oaes.get());
        let health = feature::AsyncEvents::SPARE
            | feature::AsyncEvents::TEMPERATURE
            | feature::AsyncEvents::RELIABILITY
            | feature::AsyncEvents::READ_ONLY
            | feature::AsyncEvents::BACKUP;
        let value = (health | offered & feature::AsyncEvents::NAMESPACES).bits();
        let command = Command::set_feature(feature::id::ASYNC_EVENTS, Nsid::NONE, value);
        match self.admin("Set Features (events)", command, Data::None) {
            Ok(_) | Err(NvmeError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
