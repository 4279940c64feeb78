//! [`NvmeController`]: a started controller, shared by all that use it in the process.
//!
//! Invariants:
//! - As long as it lives the controller is driven, brought back, or given up ([`super::recovery`]); when the last handle
//!   goes, it is shut down as the specification asks for, and the memory of its queues is unmapped after that.
//! - An I/O queue number is in use by one queue pair, or free. One whose deletion failed is free again once the controller
//!   has been reset.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_engine::aio::AioHandle;

pub mod admin;
pub mod core;
pub mod host_buffer;
pub mod memory_buffer;
pub mod passthrough;
mod queues;
pub mod registers;
mod shadow;

use self::core::{Core, Known, read};
use admin::{Answer, Data, Permit};
use host_buffer::HostBuffer;
use registers::Registers;

use super::bus::Bus;
use super::error::NvmeError;
use super::interrupt::{VectorUse, Vectors};
use super::leaf::share::Hosts;
use super::options::ControllerOptions;
use super::recovery::control::Control;
use super::recovery::event::ControllerEvent;
use super::recovery::listen::Task;
use super::recovery::restart::{Stop, stop};
use super::recovery::state::State;
use super::recovery::warden::Warden;
use super::recovery::watch::{Watched, Watchlist};
use super::spec::command::Command;
use super::spec::feature;
use super::spec::identify::{
    COMMAND_SET_NVM, COMMAND_SET_ZONED, IDENTIFY_BYTES, IdentifyController, IdentifyNvmController,
    NamespaceList, cns,
};
use super::spec::namespace::IdentifyNamespace;
use super::spec::register::Version;
use super::spec::status::Status;
use super::spec::zone::{IdentifyZonedController, IdentifyZonedNamespace};
use super::spec::{Nsid, Qid};
use queues::QueueIds;

/// A started controller.
pub struct NvmeController {
    core: Arc<Core>,
    warden: Warden,
    queues: Mutex<QueueIds>,
    /// Lanes that lend their queue to others.
    hosts: Hosts,
    identify: Box<IdentifyController>,
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
        let core = Core::new(registers, options)?;
        let warden = Warden::start(&core)?;
        let starting = Starting { core, warden: Some(warden) };
        let known = starting.set_up()?;
        starting.run(known)
    }

    /// What it said when it was started.
    fn known(&self) -> Option<&Known> {
        self.core.known.get()
    }

    /// Has `hook` called at every event of the controller, on one of its threads, which it must not keep for long: deadlines are
    /// kept there. It must not drop the last handle on the controller.
    pub fn on_event(&self, hook: impl Fn(&ControllerEvent) + Send + Sync + 'static) {
        self.core.hooks.add(hook);
    }

    /// What becomes of the controller now.
    pub fn state(&self) -> State {
        self.core.control.state()
    }

    /// How it was started.
    pub fn options(&self) -> &ControllerOptions {
        &self.core.options
    }

    /// How often it was reset and brought back.
    pub fn resets(&self) -> u64 {
        self.warden.resets()
    }

    /// What the controller is called on its bus.
    pub fn address(&self) -> &str {
        self.core.control.address()
    }

    /// The bus behind it.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        self.core.control.registers().bus()
    }

    /// What it said of itself.
    pub fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    /// What it said of its NVM command set, if it did.
    pub fn identify_nvm(&self) -> Option<&IdentifyNvmController> {
        self.known()?.nvm.as_deref()
    }

    /// The specification that it follows.
    pub fn version(&self) -> Version {
        self.core.control.registers().version()
    }

    /// How many I/O queue pairs there can be.
    pub fn queue_count(&self) -> u32 {
        self.queue_ids().granted()
    }

    /// Whether it has shadow doorbells, and they are in use.
    pub fn has_shadow_doorbells(&self) -> bool {
        self.known().is_some_and(|known| known.shadow.is_some())
    }

    /// Whether it has taken what it was told of the host, so that its extended formats may be used (Host Behavior Support).
    pub(super) fn is_host_told(&self) -> bool {
        self.known().is_some_and(|known| known.host_told)
    }

    /// How many bytes of this host's memory the controller has for itself (a host memory buffer); 0 if it asked for none, got
    /// none, or refused it.
    pub fn host_memory_bytes(&self) -> u64 {
        let buffer = self.known().and_then(|known| known.host_buffer.as_ref());
        buffer.filter(|buffer| buffer.is_held()).map_or(0, HostBuffer::len_bytes)
    }

    /// Whether submission queues are in the controller's own memory, as far as there is room.
    pub fn has_queues_in_controller(&self) -> bool {
        self.core.memory_buffer().is_some()
    }

    /// The most entries of an I/O queue.
    pub fn max_queue_entries(&self) -> u32 {
        self.core.control.registers().capabilities().max_queue_entries()
    }

    /// The largest transfer in bytes, if it has a limit.
    pub fn max_transfer_bytes(&self) -> Option<u64> {
        self.identify.max_transfer_bytes(self.core.control.registers().capabilities().min_page_shift())
    }

    /// The smallest memory page as a power of two of bytes: the unit of some limits.
    pub(super) fn min_page_shift(&self) -> u32 {
        self.core.control.registers().capabilities().min_page_shift()
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.core.control
    }

    pub(super) fn watchlist(&self) -> &Watchlist {
        &self.core.watched
    }

    /// Watches a namespace that was asked for after `looks` looks.
    pub(super) fn watch(&self, watched: &Arc<Watched>, looks: u64) {
        self.core.watched.add(watched);
        if self.core.watched.looks() != looks {
            // It may have changed since it was asked for, and a look have missed it.
            self.core.tasks.add(Task::Namespaces);
            self.core.control.ring();
        }
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    fn queue_ids(&self) -> MutexGuard<'_, QueueIds> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes an admin command that only asks, three times at most, and waits for its answer. While the controller is brought back it waits for
    /// that first. Blocks.
    ///
    /// # Errors
    /// As [`AdminQueue::execute`](admin::AdminQueue::execute).
    pub(super) fn admin(
        &self,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, NvmeError> {
        let mut attempts = 3;
        loop {
            attempts -= 1;
            let word = self.core.control.settled()?;
            match self.core.execute(Permit::of(word), name, command, data) {
                // It was reset meanwhile, or because of this. What is asked for here changes nothing that it would have forgotten.
                Err(NvmeError::Stopped { .. } | NvmeError::Unanswered { .. } | NvmeError::Absurd { .. })
                    if attempts > 0 && self.core.control.word().epoch() != word.epoch() => {}
                result => return result,
            }
        }
    }

    /// Executes an admin command of whatever kind, once, and waits for its answer. While the controller is brought back it
    /// waits for that first. Blocks.
    ///
    /// # Errors
    /// As [`AdminQueue::execute`](admin::AdminQueue::execute), and with it the epoch in which it was sent.
    fn admin_once(
        &self,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, (NvmeError, Option<u32>)> {
        let word = self.core.control.settled().map_err(|error| (error, None))?;
        let result = self.core.execute_once(Permit::of(word), name, command, data);
        result.map_err(|error| (error, Some(word.epoch())))
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

    /// Whether it has, or can have, more I/O command sets than one (CAP.CSS bit 6, and CC.CSS with it).
    pub(super) fn has_many_command_sets(&self) -> bool {
        self.core.control.registers().capabilities().many_command_sets()
    }

    /// A namespace's identification descriptors. Blocks.
    pub(super) fn identify_descriptors(&self, nsid: Nsid) -> Result<Vec<u8>, NvmeError> {
        let command = Command::identify(cns::DESCRIPTORS, nsid, COMMAND_SET_NVM);
        Ok(self.admin("Identify (descriptors)", command, Data::In(IDENTIFY_BYTES))?.data)
    }

    /// What the controller says of a zoned namespace. Blocks.
    pub(super) fn identify_zoned(&self, nsid: Nsid) -> Result<Box<IdentifyZonedNamespace>, NvmeError> {
        let command = Command::identify(cns::COMMAND_SET_NAMESPACE, nsid, COMMAND_SET_ZONED);
        let answer = self.admin("Identify (zoned namespace)", command, Data::In(IDENTIFY_BYTES))?;
        Ok(read::<IdentifyZonedNamespace>(&answer))
    }

    /// What it says of the zoned command set; `None` where it refuses to. Blocks.
    pub(super) fn identify_zoned_controller(
        &self,
    ) -> Result<Option<Box<IdentifyZonedController>>, NvmeError> {
        let command = Command::identify(cns::COMMAND_SET_CONTROLLER, Nsid::NONE, COMMAND_SET_ZONED);
        match self.admin("Identify (zoned command set)", command, Data::In(IDENTIFY_BYTES)) {
            Ok(answer) => Ok(Some(read::<IdentifyZonedController>(&answer))),
            Err(NvmeError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
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
        let mut vectors = self.core.vectors();
        if vectors.is_none() {
            *vectors = Vectors::enable(self.bus().as_ref(), self.queue_count())?;
            // It has an interrupt of the admin queue's to wait for.
            self.core.control.ring();
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
            .field("state", &self.core.control.state())
            .finish_non_exhaustive()
    }
}

impl Drop for NvmeController {
    fn drop(&mut self) {
        // As long as admin commands are waited for.
        self.core.take_host_buffer_back();
        self.warden.end();
        end(&self.core, Some(self.identify.rtd3e.get()));
        if self.core.vectors().is_some()
            && let Err(error) = self.bus().set_interrupts(&[])
        {
            tracing::debug!(controller = self.address(), %error, "interrupts stay set");
        }
    }
}

/// Ends the driving of a controller, whose warden has ended. What it may use for ever stays mapped.
fn end(core: &Arc<Core>, rtd3e_us: Option<u32>) {
    let control = &core.control;
    if !control.state().is_final() {
        let registers = control.registers();
        if let Some(rtd3e_us) = rtd3e_us.filter(|_| control.is_running())
            && let Err(error) = registers.shut_down(rtd3e_us)
        {
            tracing::warn!(controller = control.address(), %error, "shutting down");
        }
        control.close(if matches!(stop(registers), Stop::Lost) { State::Lost } else { State::Stopped });
        core.close_memory_buffer();
    }
    if control.state() == State::Lost {
        tracing::error!(controller = control.address(), "memory that it may still use is leaked");
        std::mem::forget(Arc::clone(core));
    }
}

/// A controller that is not yet known. Its drop ends it, unless it runs.
struct Starting {
    core: Arc<Core>,
    warden: Option<Warden>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(warden) = &mut self.warden {
            warden.end();
            let identified = self.core.known.get().map(|known| known.identify.rtd3e.get());
            end(&self.core, identified);
        }
    }
}

impl Starting {
    fn set_up(&self) -> Result<Known, NvmeError> {
        let core = &self.core;
        let permit = Permit::of(core.control.word());
        core.open_memory_buffer()?;
        core.control.registers().enable(core.admin.queues())?;
        let identify = core.identify(permit)?;
        let nvm = core.identify_nvm(permit)?;
        let granted = core.ask_for_queues(permit, core.options.queues)?;
        let shadow = core.make_shadows(permit, &identify)?;
        let host_told = core.configure_host(permit, &identify)?;
        core.configure_events(permit, &identify)?;
        let host_buffer = core.make_host_buffer(permit, &identify)?;
        Ok(Known { identify, nvm, granted, shadow, host_told, host_buffer })
    }

    fn run(mut self, known: Known) -> Result<Arc<NvmeController>, NvmeError> {
        let core = Arc::clone(&self.core);
        let (identify, granted) = (known.identify.clone(), known.granted);
        // Nobody else sets it.
        let _ = core.known.set(known);
        if !core.control.become_state(State::Running) {
            return Err(core.control.stopped());
        }
        core.control.ring();
        let Some(warden) = self.warden.take() else { return Err(core.control.stopped()) };
        let queues = Mutex::new(QueueIds::new(granted));
        Ok(Arc::new(NvmeController { core, warden, queues, hosts: Hosts::default(), identify }))
    }
}
