//! What the polling thread and everybody else have in common.
//!
//! Invariants:
//! - Whoever changes something that the polling thread works with, changes it first, then adds one to `generation`, then
//!   wakes the thread. The thread takes everything over when it sees a new generation, then says so in `seen`.
//! - The polling thread holds a lock only while it takes over, never while it serves commands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use corelane_dma::{Backing, DmaBuffer, MemRegion};

use crate::admin::events::Event;
use crate::config::{ModelConfig, NamespaceBacking};
use crate::device::DeviceError;
use crate::doorbells::Doorbells;
use crate::fault::{Counts, FaultScript};
use crate::interrupt::{HostNotices, Interrupts};
use crate::memory::IovaTable;
use crate::namespace::Namespace;
use crate::pci::{BAR4_BYTES, ConfigSpace};
use crate::registers::Registers;
use crate::violation::Violations;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ModelConfig,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) doorbells: Doorbells,
    pub(crate) memory: IovaTable,
    /// Counts changes of `memory`, since a new view costs more than the rest.
    pub(crate) memory_changes: AtomicU64,
    pub(crate) interrupts: Interrupts,
    pub(crate) violations: Violations,
    pub(crate) fault_counts: Counts,
    pub(crate) notices: HostNotices,
    /// The controller memory buffer, if there is one, and how many submission queues were made in it.
    pub(crate) memory_buffer: Option<MemRegion>,
    pub(crate) buffer_queues: AtomicU64,
    /// How large the host memory buffer is that the controller has, and how often it was used.
    pub(crate) host_memory_bytes: AtomicU64,
    pub(crate) host_memory_uses: AtomicU64,
    /// How many blocks were written by each placement identifier of each namespace.
    pub(crate) placements: Mutex<BTreeMap<(u32, u16), u64>>,
    control: Mutex<Control>,
    generation: AtomicU64,
    seen: AtomicU64,
    /// Set to end the polling thread, and by the thread when it ends.
    stop: AtomicBool,
    ended: AtomicBool,
    thread: OnceLock<Thread>,
}

/// What hosts write other than doorbells.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) registers: Registers,
    pub(crate) pci: ConfigSpace,
    pub(crate) bar4: Vec<u8>,
    /// A reset of the function that the polling thread has not carried out yet.
    pub(crate) function_reset: bool,
    /// A reset of the function that a fault may refuse, and whether one did.
    pub(crate) reset_asked: bool,
    pub(crate) reset_refused: bool,
    /// Whether the function is not there; what is asked for, if something is.
    pub(crate) gone: bool,
    pub(crate) plug: Option<bool>,
    /// Faults to make from now on.
    pub(crate) script: Option<FaultScript>,
    /// Namespaces that have changed, and events, that the polling thread has yet to tell hosts of.
    pub(crate) changed: Vec<u32>,
    pub(crate) raised: Vec<Event>,
    /// Critical Warning of the health log, and those that are new.
    pub(crate) warning: u8,
    pub(crate) warned: u8,
    /// Whether the polling thread waits for jobs of nodes before the controller is really disabled.
    pub(crate) stopping: bool,
}

fn memory_buffer(pages: u16) -> Result<Option<MemRegion>, DeviceError> {
    if pages == 0 {
        return Ok(None);
    }
    let buffer = DmaBuffer::new(usize::from(pages) * 4096, 4096, Backing::Pages);
    let buffer = buffer.map_err(|source| DeviceError::Memory { what: "the memory buffer", source })?;
    Ok(Some(MemRegion::from_buffer(buffer)))
}

impl Shared {
    /// A controller of this configuration, over nodes of these lengths.
    pub(crate) fn new(mut config: ModelConfig, node_bytes: &[u64]) -> Result<Arc<Shared>, DeviceError> {
        let mut lengths = node_bytes.iter();
        for namespace in config.namespaces.iter_mut().filter(|one| one.backing == NamespaceBacking::Node) {
            let missing =
                || DeviceError::Node { reason: "more namespaces are nodes than there are nodes".to_owned() };
            namespace.size_bytes = *lengths.next().ok_or_else(missing)?;
        }
        config.validate()?;
        let mut node = 0;
        let namespaces: Result<Vec<_>, _> =
            config.namespaces.iter().map(|one| Namespace::new(one, &mut node)).collect();
        let namespaces = namespaces?;
        let doorbells = Doorbells::new(config.max_queue_pairs, config.doorbell_stride)?;
        let control = Control {
            registers: Registers::new(&config),
            pci: ConfigSpace::new(doorbells.bar_bytes(), config.vectors),
            bar4: vec![0; BAR4_BYTES],
            function_reset: false,
            reset_asked: false,
            reset_refused: false,
            gone: false,
            plug: None,
            script: Some(config.faults.clone()),
            changed: Vec::new(),
            raised: Vec::new(),
            warning: 0,
            warned: 0,
            stopping: false,
        };
        let shared = Shared {
            namespaces,
            doorbells,
            memory: IovaTable::default(),
            memory_changes: AtomicU64::new(0),
            interrupts: Interrupts::new(config.vectors),
            violations: Violations::default(),
            fault_counts: Counts::default(),
            notices: HostNotices::new()?,
            memory_buffer: memory_buffer(config.memory_buffer_pages)?,
            buffer_queues: AtomicU64::new(0),
            host_memory_bytes: AtomicU64::new(0),
            host_memory_uses: AtomicU64::new(0),
            placements: Mutex::default(),
            control: Mutex::new(control),
            generation: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            thread: OnceLock::new(),
            config,
        };
        Ok(Arc::new(shared))
    }

    /// The registers and the configuration space. A panic while they are locked leaves them usable.
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whose thread serves the queues.
    pub(crate) fn set_thread(&self, thread: Thread) {
        // It is set once, when the thread is made.
        let _ = self.thread.set(thread);
    }

    /// Wakes the polling thread if it sleeps.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Says that something changed. Returns the generation to wait for.
    pub(crate) fn changed(&self) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        generation
    }

    /// Says that something changed, and waits until the polling thread works with it.
    pub(crate) fn changed_and_seen(&self) {
        let generation = self.changed();
        while self.seen.load(Ordering::Acquire) < generation && !self.ended.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// The present generation.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says that the polling thread works with everything up to `generation`.
    pub(crate) fn set_seen(&self, generation: u64) {
        self.seen.store(generation, Ordering::Release);
    }

    /// Asks the polling thread to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.changed();
    }

    /// Whether the polling thread shall end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether the polling thread still runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Says that the polling thread has ended.
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }
}
