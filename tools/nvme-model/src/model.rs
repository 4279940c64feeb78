//! [`Model`]: a controller and the thread that serves it.
//!
//! Invariant: the thread ends, and is waited for, when the model is dropped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use corelane_dma::{CellArray, DeviceMemory, MemRegion};
use corelane_engine::block::BlockBackend;

use crate::config::ModelConfig;
use crate::device::{Device, DeviceError, DoorbellMemory, Region};
use crate::fault::{FaultScript, Notice};
use crate::node::Nodes;
use crate::pci::{BAR4_BYTES, CONFIG_BYTES};
use crate::shared::Shared;
use crate::violation::{Rule, Violation};
use crate::wire::register::DOORBELLS;
use crate::worker::Worker;

/// An NVMe controller.
#[derive(Debug)]
pub struct Model {
    shared: Arc<Shared>,
    /// The doorbells as 32-bit words, for those that are written by messages.
    words: CellArray,
    thread: Option<JoinHandle<()>>,
}

impl Model {
    /// Makes a controller and starts its thread.
    ///
    /// # Errors
    /// [`DeviceError::Config`], [`DeviceError::Memory`], and [`DeviceError::System`] where the thread cannot be made or
    /// not be kept on its core.
    pub fn new(config: ModelConfig) -> Result<Model, DeviceError> {
        Model::with_nodes(config, Vec::new())
    }

    /// As [`new`](Self::new), with nodes of the block layer for the namespaces that are
    /// [`NamespaceBacking::Node`](crate::NamespaceBacking::Node), in this order. They are used in a lane of their own.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`DeviceError::Node`].
    pub fn with_nodes(config: ModelConfig, nodes: Vec<BlockBackend>) -> Result<Model, DeviceError> {
        let core = config.core;
        let lengths: Vec<u64> = nodes.iter().map(BlockBackend::length).collect();
        let shared = Shared::new(config, &lengths)?;
        let memory = shared.doorbells.memory();
        let words = CellArray::new(memory.clone(), 4, memory.len() / 4)
            .map_err(|source| DeviceError::Memory { what: "doorbells", source })?;
        let nodes = Nodes::start(nodes, &shared)?;
        let worker = Worker::new(Arc::clone(&shared), nodes);
        let system = |what| move |source| DeviceError::System { what, source };
        let (pinned, was_pinned) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("nvme-model".to_owned())
            .spawn(move || {
                let result = core.map_or(Ok(()), pin);
                let go_on = result.is_ok();
                // The other end waits for it.
                let _ = pinned.send(result);
                if go_on {
                    worker.run();
                }
            })
            .map_err(system("start the model's thread"))?;
        shared.set_thread(thread.thread().clone());
        let model = Model { shared, words, thread: Some(thread) };
        match was_pinned.recv() {
            Ok(Ok(())) => Ok(model),
            Ok(Err(source)) => Err(system("keep the model's thread on its core")(source)),
            Err(_) => Err(system("start the model's thread")(std::io::ErrorKind::Other.into())),
        }
    }

    /// What the initiator did that the specification forbids, in the order seen; the first thousand.
    pub fn violations(&self) -> Vec<Violation> {
        self.look();
        self.shared.violations.all()
    }

    /// As [`violations`](Self::violations), and forgets them.
    pub fn take_violations(&self) -> Vec<Violation> {
        self.look();
        self.shared.violations.take()
    }

    /// Makes these faults from now on, in place of those before. What an earlier fault left (a command that is held, a
    /// doorbell that is stuck) stays until the controller is reset.
    ///
    /// # Errors
    /// [`DeviceError::Node`] where namespaces are nodes.
    pub fn set_faults(&self, faults: FaultScript) -> Result<(), DeviceError> {
        self.shared.config.check_faults(&faults)?;
        self.shared.control().script = Some(faults);
        self.shared.changed_and_seen();
        Ok(())
    }

    /// How many bytes of the host's memory the controller has for itself (a host memory buffer), and how often it has read and
    /// written a page of it.
    pub fn host_memory(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Acquire);
        (load(&self.shared.host_memory_bytes), load(&self.shared.host_memory_uses))
    }

    /// How many submission queues were made in the controller's own memory.
    pub fn queues_in_buffer(&self) -> u64 {
        self.shared.buffer_queues.load(Ordering::Acquire)
    }

    /// The controller memory buffer, for whoever writes it within the process.
    pub(crate) fn memory_buffer(&self) -> Option<&MemRegion> {
        self.shared.memory_buffer.as_ref()
    }

    /// By which placement identifiers blocks of a namespace were written, and how many; in order.
    pub fn placements(&self, nsid: u32) -> Vec<(u16, u64)> {
        let placements = self.shared.placements.lock().unwrap_or_else(PoisonError::into_inner);
        placements.range((nsid, 0)..=(nsid, u16::MAX)).map(|((_, id), blocks)| (*id, *blocks)).collect()
    }

    /// How many faults were made, by name; those that never were are left out.
    pub fn faults_made(&self) -> Vec<(&'static str, u64)> {
        self.shared.fault_counts.all()
    }

    /// Takes the function away, or brings it back as after power-on. While it is away all registers read as ones, nothing
    /// is served, and what is written is lost.
    pub fn set_plugged(&self, plugged: bool) {
        self.shared.control().plug = Some(plugged);
        self.shared.changed_and_seen();
    }

    /// Ends the controller for good, as a drop does: nothing is served any more. For whoever cannot drop it, since a driver
    /// that could not stop it keeps it.
    pub fn end(&self) {
        self.shared.stop();
        while self.shared.is_alive() {
            std::thread::yield_now();
        }
    }

    /// Tells the driver something of the function, as its host would.
    pub fn give_notice(&self, notice: Notice) {
        self.shared.notices.give(notice);
    }

    /// The eventfds of what the host has to say: of errors, and of a removal.
    pub(crate) fn notices(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.shared.notices.error.as_fd(), self.shared.notices.removal.as_fd())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What the controller is like.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// The doorbells' memory, for whoever rings them within the process.
    pub(crate) fn doorbell_region(&self) -> &MemRegion {
        self.shared.doorbells.region()
    }

    /// Lets the thread look at everything once, also at doorbells that it would not look at by itself.
    fn look(&self) {
        self.shared.changed_and_seen();
    }

    fn check(&self, region: Region, offset_bytes: u64, len_bytes: usize) -> Result<(), DeviceError> {
        let (len_bytes, region_bytes) = (len_bytes as u64, self.region_len(region));
        if offset_bytes <= region_bytes && len_bytes <= region_bytes - offset_bytes {
            return Ok(());
        }
        Err(DeviceError::Range { region, offset_bytes, len_bytes, region_bytes })
    }

    fn read_bar0(&self, offset_bytes: u64, data: &mut [u8]) {
        let image = self.shared.control().registers.image();
        for (at, byte) in (offset_bytes..).zip(data) {
            *byte = match at.checked_sub(DOORBELLS) {
                Some(at) => self.words.load(at as usize / 4).to_le_bytes()[at as usize % 4],
                None => image.get(at as usize).copied().unwrap_or(0),
            };
        }
    }

    /// Writes registers by double words; anything else is not what the specification allows (PCIe transport 3.1).
    fn write_bar0(&self, offset_bytes: u64, data: &[u8]) {
        let (dwords, rest) = data.as_chunks::<4>();
        if !rest.is_empty() || !offset_bytes.is_multiple_of(4) {
            let detail =
                format!("{} bytes were written to {offset_bytes:#x}; registers are 4 or 8", data.len());
            return self.shared.violations.add(Violation {
                rule: Rule::Register,
                queue: None,
                cid: None,
                detail,
            });
        }
        let mut registers = false;
        for (at, dword) in (offset_bytes..).step_by(4).zip(dwords) {
            let value = u32::from_le_bytes(*dword);
            match at.checked_sub(DOORBELLS) {
                Some(at) => self.words.store(at as usize / 4, value),
                None => {
                    registers = true;
                    self.shared.control().registers.write(at, value, &self.shared.violations);
                }
            }
        }
        if registers {
            self.shared.changed_and_seen();
        } else {
            self.shared.wake();
        }
    }

    fn wait_for_reset(&self) {
        self.shared.changed_and_seen();
        while self.shared.control().stopping && self.shared.is_alive() {
            std::thread::yield_now();
        }
    }

    fn memory_changed(&self) {
        self.shared.memory_changes.fetch_add(1, Ordering::AcqRel);
        self.shared.changed_and_seen();
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the model's thread panicked");
        }
    }
}

impl Device for Model {
    fn region_len(&self, region: Region) -> u64 {
        match region {
            Region::Config => CONFIG_BYTES as u64,
            Region::Bar0 => self.shared.doorbells.bar_bytes(),
            Region::Bar4 => BAR4_BYTES as u64,
        }
    }

    fn doorbell_memory(&self) -> DoorbellMemory<'_> {
        let (fd, fd_offset_bytes) = self.shared.doorbells.file();
        let len_bytes = self.shared.doorbells.memory().len() as u64;
        DoorbellMemory { fd, fd_offset_bytes, bar_offset_bytes: DOORBELLS, len_bytes }
    }

    fn read(&self, region: Region, offset_bytes: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.check(region, offset_bytes, data.len())?;
        let at = offset_bytes as usize;
        if self.shared.control().gone {
            data.fill(0xFF);
            return Ok(());
        }
        match region {
            Region::Bar0 => self.read_bar0(offset_bytes, data),
            Region::Config => data.copy_from_slice(&self.shared.control().pci.bytes()[at..at + data.len()]),
            Region::Bar4 => data.copy_from_slice(&self.shared.control().bar4[at..at + data.len()]),
        }
        Ok(())
    }

    fn write(&self, region: Region, offset_bytes: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.check(region, offset_bytes, data.len())?;
        let at = offset_bytes as usize;
        if self.shared.control().gone {
            return Ok(());
        }
        match region {
            Region::Bar0 => self.write_bar0(offset_bytes, data),
            Region::Config => {
                let reset = self.shared.control().pci.write(at, data);
                if reset {
                    self.try_reset();
                }
            }
            Region::Bar4 => self.shared.control().bar4[at..at + data.len()].copy_from_slice(data),
        }
        Ok(())
    }

    fn dma_map(&self, iova: u64, memory: DeviceMemory) -> Result<(), DeviceError> {
        self.shared.memory.map(iova, memory)?;
        self.memory_changed();
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, len_bytes: u64) -> Result<u64, DeviceError> {
        let unmapped_bytes = self.shared.memory.unmap(iova, len_bytes)?;
        self.memory_changed();
        Ok(unmapped_bytes)
    }

    fn dma_unmap_all(&self) {
        self.shared.memory.clear();
        self.memory_changed();
    }

    fn interrupts(&self) -> u32 {
        self.shared.interrupts.count()
    }

    fn set_interrupts(&self, first: u32, eventfds: Vec<Option<OwnedFd>>) -> Result<(), DeviceError> {
        let count = eventfds.len();
        if !self.shared.interrupts.set(first, eventfds) {
            return Err(DeviceError::Vectors { first, count, vectors: self.interrupts() });
        }
        self.shared.changed_and_seen();
        Ok(())
    }

    fn reset(&self) {
        self.shared.control().function_reset = true;
        self.wait_for_reset();
    }

    fn try_reset(&self) -> bool {
        self.shared.control().reset_asked = true;
        self.wait_for_reset();
        !self.shared.control().reset_refused
    }
}

/// Keeps the calling thread on a core.
fn pin(core: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
