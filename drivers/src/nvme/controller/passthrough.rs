//! Passthrough: admin and I/O commands as a user puts them together, for tools. One at a time, each waited for.
//!
//! Invariants:
//! - Where data lies is not the user's affair: the command's data pointer and metadata pointer are made here, of memory of
//!   this module. Commands that carry addresses elsewhere, or that change what the driver itself relies on, are refused.
//! - That memory is freed when the command was answered, or when the controller provably uses it no more; else it is leaked.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::NvmeController;
use super::admin::{Data, Permit};
use super::registers::PAGE_BYTES;
use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::extent::{BlockFormat, Extent, counts_blocks, extent};
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::queue::pair::QueuePair;
use crate::nvme::queue::prp::{self, ENTRIES, List};
use crate::nvme::recovery::control::LaneGuard;
use crate::nvme::recovery::state::State;
use crate::nvme::spec::Nsid;
use crate::nvme::spec::command::{Command, DataPointer};
use crate::nvme::spec::feature;
use crate::nvme::spec::opcode::admin;
use crate::nvme::spec::status::Status;

/// Data of a command, and which way it goes.
#[derive(Debug, Default)]
pub enum Transfer<'a> {
    /// There is none.
    #[default]
    None,
    /// The controller fills the buffer.
    In(&'a mut [u8]),
    /// The controller reads the buffer.
    Out(&'a [u8]),
}

impl Transfer<'_> {
    /// How many bytes.
    pub fn len_bytes(&self) -> usize {
        match self {
            Transfer::None => 0,
            Transfer::In(buffer) => buffer.len(),
            Transfer::Out(buffer) => buffer.len(),
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassthroughAnswer {
    /// The status; it need not be success.
    pub status: Status,
    /// Dwords 0 and 1 of the completion; of an admin command only dword 0, and only if it succeeded.
    pub result: u64,
}

/// A queue pair for I/O commands by passthrough. See [`NvmeController::open_passthrough`].
pub struct PassthroughQueue {
    controller: Arc<NvmeController>,
    pair: QueuePair,
    timeout: Duration,
    guard: LaneGuard,
}

/// Longer than any command of NVM, and shorter than what a person waits for.
const SPIN: Duration = Duration::from_micros(30);
const MOST_PAUSE: Duration = Duration::from_millis(1);
/// Only one command is in flight.
const TAG: u32 = 0;

/// The memory of a command.
struct Lent {
    data: Option<HostMemory>,
    metadata: Option<HostMemory>,
    /// Read by the controller alone.
    list: Option<HostMemory>,
}

impl Lent {
    /// Makes memory for a command, and puts its addresses into it.
    fn new(
        bus: &dyn Bus,
        command: &mut Command,
        data: &Transfer<'_>,
        metadata: &Transfer<'_>,
    ) -> Result<Lent, NvmeError> {
        let mut lent = Lent { data: filled(bus, data)?, metadata: filled(bus, metadata)?, list: None };
        command.metadata = lent.metadata.as_ref().map_or(0, HostMemory::iova);
        command.data = DataPointer::default();
        if let Some(memory) = &lent.data {
            let (iova, len_bytes) = (memory.iova(), data.len_bytes() as u64);
            match prp::short(iova, len_bytes) {
                Some(pointer) => command.data = pointer,
                None => lent.list = Some(list(bus, command, iova, len_bytes)?),
            }
        }
        Ok(lent)
    }

    fn take_back(&self, data: Transfer<'_>, metadata: Transfer<'_>) -> Result<(), NvmeError> {
        for (memory, transfer) in [(&self.data, data), (&self.metadata, metadata)] {
            if let (Some(memory), Transfer::In(buffer)) = (memory, transfer) {
                memory.buffer().copy_to(0, buffer)?;
            }
        }
        Ok(())
    }
}

/// Memory for a transfer, with what is to be sent in it.
fn filled(bus: &dyn Bus, transfer: &Transfer<'_>) -> Result<Option<HostMemory>, NvmeError> {
    if transfer.len_bytes() == 0 {
        return Ok(None);
    }
    let memory = HostMemory::new(bus, transfer.len_bytes().next_multiple_of(PAGE_BYTES))?;
    if let Transfer::Out(bytes) = transfer {
        memory.buffer().copy_from(0, bytes)?;
    }
    Ok(Some(memory))
}

/// The PRP list of a piece that needs one.
fn list(bus: &dyn Bus, command: &mut Command, iova: u64, len_bytes: u64) -> Result<HostMemory, NvmeError> {
    let pages = prp::list_pages(len_bytes);
    let memory = HostMemory::new(bus, pages * PAGE_BYTES)?;
    let entries = memory.array(0, pages * ENTRIES)?;
    let list = List { entries: &entries, first: 0, len: pages * ENTRIES, iova: memory.iova() };
    command.data = prp::contiguous(iova, len_bytes, &list).map_err(|_| NvmeError::NotAllowed {
        address: bus.address().to_owned(),
        what: "the length of the data",
        value: len_bytes,
        expected: "one that PRP entries express".to_owned(),
    })?;
    Ok(memory)
}

impl NvmeController {
    /// Executes an admin command of the user's, with data of any length that the controller takes. Blocks for as long as
    /// the controller's `admin_timeout_ms` allows. CID, data pointer and metadata pointer of `command` count for nothing.
    ///
    /// # Errors
    /// [`NvmeError::NotAllowed`] for a command with flags, one that concerns queues, host memory or events, which are the
    /// driver's own, and for more data than MDTS allows; those of memory; and those after which the controller is given up.
    /// A command that the controller refuses is no error: see [`PassthroughAnswer::status`].
    pub fn admin_passthrough(
        &self,
        mut command: Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeError> {
        self.check_admin(&command)?;
        self.check_any(&command, &data)?;
        let lent = Lent::new(self.bus().as_ref(), &mut command, &data, &metadata)?;
        match self.admin_once("the admin command", command, Data::None) {
            Ok(answer) => {
                lent.take_back(data, metadata)?;
                Ok(PassthroughAnswer { status: Status::SUCCESS, result: answer.result.into() })
            }
            Err((NvmeError::Refused { status, .. }, _)) => Ok(PassthroughAnswer { status, result: 0 }),
            // It was not sent.
            Err((error, None)) => Err(error),
            Err((error, Some(epoch))) => {
                self.keep_until_stopped(lent, epoch, &error);
                Err(error)
            }
        }
    }

    /// Makes a queue pair for I/O commands of the user's, each of which may take `timeout`. Blocks.
    ///
    /// # Errors
    /// [`NvmeError::NotAllowed`] if no queue is free, and those of creating one.
    pub fn open_passthrough(self: &Arc<Self>, timeout: Duration) -> Result<PassthroughQueue, NvmeError> {
        let pair = self.create_queues(TAG + 1, 0, None)?.ok_or_else(|| {
            self.not_allowed("the number of free queues", 0, "at least 1: all are in use by lanes")
        })?;
        let guard = self.control().join_thread();
        Ok(PassthroughQueue { controller: Arc::clone(self), pair, timeout, guard })
    }

    fn not_allowed(&self, what: &'static str, value: u64, expected: impl Into<String>) -> NvmeError {
        NvmeError::NotAllowed { address: self.address().to_owned(), what, value, expected: expected.into() }
    }

    fn check_admin(&self, command: &Command) -> Result<(), NvmeError> {
        match command.opcode {
            admin::DELETE_SQ
            | admin::CREATE_SQ
            | admin::DELETE_CQ
            | admin::CREATE_CQ
            | admin::ABORT
            | admin::ASYNC_EVENT_REQUEST
            | admin::DOORBELL_BUFFER_CONFIG => Err(self.not_allowed(
                "the opcode",
                command.opcode.into(),
                "one that is not of queues or events",
            )),
            admin::SET_FEATURES => match command.cdw10[0] as u8 {
                id @ (feature::id::NUMBER_OF_QUEUES | feature::id::HOST_MEMORY_BUFFER) => Err(self
                    .not_allowed("the feature to set", id.into(), "none of the driver's own, 07h and 0dh")),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn check_any(&self, command: &Command, data: &Transfer<'_>) -> Result<(), NvmeError> {
        if command.flags != 0 {
            return Err(self.not_allowed("the flags", command.flags.into(), "0: PRP entries, not fused"));
        }
        let (len_bytes, limit) = (data.len_bytes() as u64, self.max_transfer_bytes().unwrap_or(MOST_BYTES));
        if len_bytes > limit.min(MOST_BYTES) {
            let expected = format!("at most {} bytes", limit.min(MOST_BYTES));
            return Err(self.not_allowed("the length of the data", len_bytes, expected));
        }
        Ok(())
    }

    /// Checks that an I/O command moves no more than its memory holds. Blocks.
    fn check_extent(
        &self,
        command: &Command,
        data: &Transfer<'_>,
        metadata: &Transfer<'_>,
    ) -> Result<(), NvmeError> {
        let format = if counts_blocks(command) { BlockFormat::ask(self, Nsid(command.nsid))? } else { None };
        let Extent { data_bytes, metadata_bytes } = extent(command, format);
        let cases = [
            ("the length of the data", data, data_bytes),
            ("the length of the metadata", metadata, metadata_bytes),
        ];
        for (what, transfer, moved) in cases {
            let len_bytes = transfer.len_bytes() as u64;
            if len_bytes < moved {
                let expected = format!("at least the {moved} bytes that the command moves");
                return Err(self.not_allowed(what, len_bytes, expected));
            }
        }
        Ok(())
    }

    /// Stops the controller, unless it was, and frees the memory of a command of `epoch` that failed with it.
    fn keep_until_stopped(&self, lent: Lent, epoch: u32, error: &NvmeError) {
        self.control().fail(epoch, error);
        if !self.control().wait_until_stopped(epoch) {
            std::mem::forget(lent);
        }
    }
}

/// The most data of a command where the controller has no limit of its own: what the block layer allows as well.
const MOST_BYTES: u64 = 1 << 30;

impl PassthroughQueue {
    /// Executes an I/O command of the user's, once: it is not sent again after a reset. Blocks. As [`NvmeController::admin_passthrough`].
    ///
    /// Where it counts blocks, the controller is asked before how long these are now.
    ///
    /// # Errors
    /// [`NvmeError::NotAllowed`] for a command with flags, for more data than MDTS allows, and for less data or metadata than
    /// the command moves, as far as this driver knows commands; those of memory; and those after which the controller is
    /// given up, as [`NvmeError::Unanswered`].
    pub fn execute(
        &mut self,
        mut command: Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeError> {
        self.controller.check_any(&command, &data)?;
        self.controller.check_extent(&command, &data, &metadata)?;
        self.join()?;
        let lent = Lent::new(self.controller.bus().as_ref(), &mut command, &data, &metadata)?;
        match self.attempt(command) {
            Ok(answer) => {
                if answer.status.is_success() {
                    lent.take_back(data, metadata)?;
                }
                Ok(answer)
            }
            Err(error) => {
                self.controller.keep_until_stopped(lent, self.pair.epoch(), &error);
                Err(error)
            }
        }
    }

    /// Has the queues made again if the controller was reset since.
    fn join(&mut self) -> Result<(), NvmeError> {
        let word = self.controller.control().settled()?;
        if word.epoch() == self.pair.epoch() {
            return Ok(());
        }
        self.pair.pull_back(|_, _| {});
        if let Some(plan) = self.pair.plan() {
            self.controller.create_both(Permit::of(word), plan)?;
            self.pair.joined(word.epoch());
        }
        Ok(())
    }

    /// Whether the controller still knows the queues.
    fn check(&self) -> Result<(), NvmeError> {
        let control = self.controller.control();
        let word = control.word();
        let known = word.state() == State::Running && word.epoch() == self.pair.epoch();
        if known { Ok(()) } else { Err(control.stopped()) }
    }

    /// Rings doorbells, if the controller still knows the queues.
    fn ring<T>(&mut self, ring: impl FnOnce(&mut QueuePair) -> Result<T, NvmeError>) -> Result<T, NvmeError> {
        self.guard.begin();
        let rung = self.check().and_then(|()| ring(&mut self.pair));
        self.guard.end();
        rung
    }

    fn attempt(&mut self, mut command: Command) -> Result<PassthroughAnswer, NvmeError> {
        let start = Instant::now();
        self.ring(|pair| {
            pair.push(TAG, &mut command);
            Ok(pair.tell_pushed()?)
        })?;
        let mut pause = Duration::from_micros(10);
        loop {
            // In this order: what was answered within the deadline is never taken for late.
            let late = start.elapsed() >= self.timeout;
            if let Some(taken) = self.pair.take() {
                let (_, found) = taken?;
                let answer = PassthroughAnswer { status: found.status(), result: self.pair.result(found) };
                self.ring(|pair| Ok(pair.tell_taken()?))?;
                return Ok(answer);
            }
            self.check()?;
            if late {
                let (address, timeout_ms) =
                    (self.controller.address().to_owned(), self.timeout.as_millis() as u64);
                return Err(NvmeError::Unanswered { address, command: "the I/O command", timeout_ms });
            }
            if start.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                thread::sleep(pause);
                pause = (pause * 2).min(MOST_PAUSE);
            }
        }
    }
}

impl Drop for PassthroughQueue {
    fn drop(&mut self) {
        if self.check().is_ok_and(|()| self.pair.delete().is_ok())
            || self.controller.control().wait_until_stopped(self.pair.epoch())
        {
            return self.controller.give_back(self.pair.qid());
        }
        self.pair.leak();
    }
}
