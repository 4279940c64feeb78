//! [`Core`]: what a controller's handles, its thread and its lanes share.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use zerocopy::FromBytes;
use zerocopy::little_endian::U16;

use super::admin::{AdminQueue, Answer, Data, Permit, Standing};
use super::host_buffer::HostBuffer;
use super::memory_buffer::MemoryBuffer;
use super::registers::Registers;
use super::shadow::ShadowMemory;
use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::interrupt::Vectors;
use crate::nvme::options::ControllerOptions;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::recovery::control::Control;
use crate::nvme::recovery::deadline::Deadline;
use crate::nvme::recovery::event::Hooks;
use crate::nvme::recovery::listen::Tasks;
use crate::nvme::recovery::retry::{delay, delays};
use crate::nvme::recovery::watch::Watchlist;
use crate::nvme::spec::Nsid;
use crate::nvme::spec::command::{Command, DataPointer};
use crate::nvme::spec::feature;
use crate::nvme::spec::identify::{
    AdminCommands, COMMAND_SET_NVM, IDENTIFY_BYTES, IdentifyController, IdentifyNvmController, cns,
};
use crate::nvme::spec::register::Version;

/// The most event requests that are kept with a controller: as many as there are types of events that it has.
const MOST_EVENT_REQUESTS: usize = 4;

/// The longest before an admin command is sent again.
const MOST_DELAY: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub struct Core {
    pub control: Arc<Control>,
    pub admin: AdminQueue,
    pub options: ControllerOptions,
    /// Set once, when it has been started.
    pub known: OnceLock<Known>,
    /// Made when the first queue wants an interrupt.
    pub vectors: Mutex<Option<Vectors>>,
    /// Who wants to be told of events.
    pub hooks: Hooks,
    /// What the controller has told of, and is to be found out.
    pub tasks: Tasks,
    /// The namespaces that are open.
    pub watched: Watchlist,
    /// Shadow doorbells that the controller has, or may have though it did not say so; kept until it has stopped.
    shadow: Mutex<Option<Arc<ShadowMemory>>>,
    /// A host memory buffer that the controller may have taken though it did not say so; kept until it has stopped.
    pub(super) unsure_buffer: Mutex<Option<HostBuffer>>,
    /// Memory of its own, for submission queues.
    pub(super) memory_buffer: Mutex<Option<Arc<MemoryBuffer>>>,
    /// What the controller is told of the host; kept, since it is told again after each reset.
    behavior: Mutex<Option<HostMemory>>,
}

/// What was learned and set up when the controller was started.
pub struct Known {
    pub identify: Box<IdentifyController>,
    /// What it says of its NVM command set, if it does.
    pub nvm: Option<Box<IdentifyNvmController>>,
    /// How many queue pairs it granted.
    pub granted: u32,
    pub shadow: Option<Arc<ShadowMemory>>,
    /// Whether it has taken what it was told of the host ([`Core::configure_host`]).
    pub host_told: bool,
    /// Memory that it has for itself.
    pub host_buffer: Option<HostBuffer>,
}

impl Core {
    /// Of a controller that is disabled.
    ///
    /// # Errors
    /// Those of memory, the bus and the kernel.
    pub fn new(registers: Registers, options: &ControllerOptions) -> Result<Arc<Core>, NvmeError> {
        let timeout = Duration::from_millis(options.admin_timeout_ms);
        let stride_bytes = registers.capabilities().doorbell_stride_bytes();
        let admin = AdminQueue::new(registers.bus().as_ref(), stride_bytes, timeout)?;
        let control = Control::new(registers, Deadline::new(options.io_timeout_ms))?;
        Ok(Arc::new(Core {
            control,
            admin,
            options: *options,
            known: OnceLock::new(),
            vectors: Mutex::new(None),
            hooks: Hooks::default(),
            tasks: Tasks::default(),
            watched: Watchlist::default(),
            shadow: Mutex::new(None),
            unsure_buffer: Mutex::new(None),
            memory_buffer: Mutex::new(None),
            behavior: Mutex::new(None),
        }))
    }

    /// The bus.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        self.control.registers().bus()
    }

    pub fn vectors(&self) -> MutexGuard<'_, Option<Vectors>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes an admin command that may be carried out twice, and waits for its answer. After a status that may pass it is
    /// sent again, as often as an I/O command and after the same delays, but for a second at most. Blocks.
    ///
    /// # Errors
    /// As [`AdminQueue::execute`].
    pub fn execute(
        &self,
        permit: Permit,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, NvmeError> {
        let mut count = 0;
        loop {
            let result = self.execute_once(permit, name, command, data);
            let Err(NvmeError::Refused { status, .. }) = &result else { return result };
            if status.do_not_retry() || !status.may_pass() || count >= self.options.io_retries {
                return result;
            }
            count += 1;
            let told = self.known.get().map_or([0; 3], |known| known.identify.crdt.map(U16::get));
            thread::sleep(delay(*status, count, &delays(told)).min(MOST_DELAY));
        }
    }

    /// Executes an admin command once, and waits for its answer. Blocks.
    ///
    /// # Errors
    /// As [`AdminQueue::execute`].
    pub fn execute_once(
        &self,
        permit: Permit,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, NvmeError> {
        self.admin.execute(&self.control, permit, name, command, data)
    }

    fn absurd(&self, what: &'static str, value: u64, expected: &str) -> NvmeError {
        let (address, expected) = (self.control.address().to_owned(), expected.to_owned());
        NvmeError::Absurd { address, of: "itself".to_owned(), what, value, expected }
    }

    /// Asks it who it is, and checks the answer.
    ///
    /// # Errors
    /// Those of an admin command, and [`NvmeError::Absurd`].
    pub fn identify(&self, permit: Permit) -> Result<Box<IdentifyController>, NvmeError> {
        let command = Command::identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM);
        let answer = self.execute(permit, "Identify (controller)", command, Data::In(IDENTIFY_BYTES))?;
        let identify = read::<IdentifyController>(&answer);
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
    ///
    /// # Errors
    /// Those of an admin command.
    pub fn identify_nvm(&self, permit: Permit) -> Result<Option<Box<IdentifyNvmController>>, NvmeError> {
        if self.control.registers().version() < Version::new(1, 4, 0) {
            return Ok(None);
        }
        let command = Command::identify(cns::COMMAND_SET_CONTROLLER, Nsid::NONE, COMMAND_SET_NVM);
        match self.execute(permit, "Identify (NVM command set)", command, Data::In(IDENTIFY_BYTES)) {
            Ok(answer) => Ok(Some(read::<IdentifyNvmController>(&answer))),
            Err(NvmeError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for so many queue pairs. How many were granted.
    ///
    /// # Errors
    /// Those of an admin command.
    pub fn ask_for_queues(&self, permit: Permit, queues: u16) -> Result<u32, NvmeError> {
        let value = feature::number_of_queues(queues);
        let command = Command::set_feature(feature::id::NUMBER_OF_QUEUES, Nsid::NONE, value);
        let answer = self.execute(permit, "Set Features (number of queues)", command, Data::None)?;
        Ok(feature::granted_queues(answer.result).min(queues.into()))
    }

    /// Sets up shadow doorbells, if they are wanted and there.
    ///
    /// # Errors
    /// Those of memory and of an admin command other than a refusal.
    pub fn make_shadows(
        &self,
        permit: Permit,
        identify: &IdentifyController,
    ) -> Result<Option<Arc<ShadowMemory>>, NvmeError> {
        if !self.options.shadow_doorbells
            || !identify.admin_commands().contains(AdminCommands::DOORBELL_BUFFERS)
        {
            return Ok(None);
        }
        let registers = self.control.registers();
        let stride_bytes = registers.capabilities().doorbell_stride_bytes();
        let memory = Arc::new(ShadowMemory::new(registers.bus().as_ref(), stride_bytes)?);
        let told = self.set_shadows(permit, &memory);
        if let Err(NvmeError::Refused { status, .. }) = told {
            tracing::info!(controller = self.control.address(), %status, "no shadow doorbells");
            return Ok(None);
        }
        // Whatever becomes of the start: without an answer it may have taken them all the same.
        *self.shadow.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&memory));
        told.map(|()| Some(memory))
    }

    /// Tells the controller of shadow doorbells.
    ///
    /// # Errors
    /// Those of an admin command.
    pub fn set_shadows(&self, permit: Permit, memory: &ShadowMemory) -> Result<(), NvmeError> {
        self.execute(permit, "Doorbell Buffer Config", memory.command(), Data::None).map(drop)
    }

    /// Says which events are of interest, and leaves requests for them with the controller. What it does not offer is not asked
    /// for, and a refusal does no harm.
    ///
    /// # Errors
    /// Those of an admin command other than a refusal.
    pub fn configure_events(&self, permit: Permit, identify: &IdentifyController) -> Result<(), NvmeError> {
        let offered = feature::AsyncEvents::from_bits_truncate(identify.oaes.get());
        let health = feature::AsyncEvents::SPARE
            | feature::AsyncEvents::TEMPERATURE
            | feature::AsyncEvents::RELIABILITY
            | feature::AsyncEvents::READ_ONLY
            | feature::AsyncEvents::BACKUP;
        let value = (health | offered & feature::AsyncEvents::NAMESPACES).bits();
        let command = Command::set_feature(feature::id::ASYNC_EVENTS, Nsid::NONE, value);
        match self.execute(permit, "Set Features (events)", command, Data::None) {
            Ok(_) | Err(NvmeError::Refused { .. }) => self.request_events(identify, 0),
            Err(error) => Err(error),
        }
    }

    /// Leaves event requests with the controller, as many as it takes (AERL) and are of use, less those that it has `refused`
    /// since it was enabled.
    ///
    /// # Errors
    /// Those of the bus.
    pub fn request_events(&self, identify: &IdentifyController, refused: usize) -> Result<(), NvmeError> {
        let wanted = (usize::from(identify.aerl) + 1).min(MOST_EVENT_REQUESTS).saturating_sub(refused);
        while !self.tasks.is_full()
            && self.admin.standing(|what| what == Standing::Event) < wanted
            && self.admin.send_standing(Command::event_request(), Standing::Event)?
        {}
        Ok(())
    }

    /// Says what this driver knows to do, which some controllers wait for to be told: to heed the delays that they have for
    /// repetitions, and to protect blocks by guards of more than 16 bits. Whether it has taken that; a refusal does no harm, but
    /// to those who have opened namespaces on the strength of it.
    ///
    /// # Errors
    /// Those of memory, and of an admin command other than a refusal; a refusal, too, by a controller that had taken it.
    pub fn configure_host(&self, permit: Permit, identify: &IdentifyController) -> Result<bool, NvmeError> {
        let has_delays = identify.crdt.iter().any(|delay| delay.get() != 0);
        let has_formats = identify.has_extended_formats();
        if !has_delays && !has_formats {
            return Ok(false);
        }
        let mut behavior = self.behavior.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = match &mut *behavior {
            Some(memory) => memory,
            none => none.insert(HostMemory::new(self.bus().as_ref(), feature::HOST_BEHAVIOR_BYTES)?),
        };
        let bytes = memory.array::<u8>(0, feature::HOST_BEHAVIOR_BYTES)?;
        let told = [
            bytes.set(feature::HOST_BEHAVIOR_ACRE, &has_delays.into()),
            bytes.set(feature::HOST_BEHAVIOR_LBAFEE, &has_formats.into()),
        ];
        debug_assert_eq!(told, [Some(()); 2], "both lie within the structure");
        let data = DataPointer { prp1: memory.iova(), prp2: 0 };
        let command = Command::set_feature(feature::id::HOST_BEHAVIOR, Nsid::NONE, 0).with_data(data);
        match self.execute(permit, "Set Features (host behavior)", command, Data::None) {
            Ok(_) => Ok(true),
            // Namespaces were opened on the strength of it.
            Err(error) if self.known.get().is_some_and(|known| known.host_told) => Err(error),
            Err(NvmeError::Refused { status, .. }) => {
                tracing::info!(controller = self.control.address(), %status, "it does not ask what the host can do");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Has the bus signal the interrupts' eventfds once more: a reset of the function may have ended that.
    ///
    /// # Errors
    /// Those of the bus.
    pub fn set_interrupts_again(&self) -> Result<(), NvmeError> {
        match &*self.vectors() {
            Some(vectors) => Ok(vectors.set(self.bus().as_ref())?),
            None => Ok(()),
        }
    }
}

/// A structure that fits its buffer: identify data is asked for in its own length.
pub fn read<T: FromBytes + zerocopy::FromZeros>(answer: &Answer) -> Box<T> {
    let mut value = T::new_zeroed();
    if let Ok((found, _)) = T::read_from_prefix(&answer.data) {
        value = found;
    }
    Box::new(value)
}
