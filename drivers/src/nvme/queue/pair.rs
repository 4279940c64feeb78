//! [`QueuePair`]: a submission and a completion queue of one lane, and which commands are in flight in them.
//!
//! Invariants:
//! - A command id is the command's tag in the lower bits and a generation above, which changes each time the tag is used. A
//!   completion counts only if its id is that of a command in flight; any other is an error of the controller, after which
//!   nothing of the queue is believed.
//! - At most `capacity` commands are in flight: one less than the submission ring has entries. So a
//!   tail never meets the head, however the controller reports it, and the completion ring, which is as long, never
//!   overflows.

use std::sync::Arc;

use super::memory::HostMemory;
use super::ring::{CompletionRing, Found, SubmissionRing};
use crate::nvme::bus::BusError;
use crate::nvme::controller::NvmeController;
use crate::nvme::controller::memory_buffer::QueueMemory;
use crate::nvme::error::NvmeError;
use crate::nvme::interrupt::VectorUse;
use crate::nvme::spec::Qid;
use crate::nvme::spec::command::Command;

/// In an entry of `cids`: the command is in flight.
const IN_FLIGHT: u32 = 1 << 31;
/// In an entry of `cids`, between the id and the flag: how many ticks the command has seen. It is 0 for nearly all, so
/// that the comparison with a completion's id alone suffices; what is older is looked at again.
const AGE_SHIFT: u32 = 16;
/// The oldest that a command gets.
const AGE_MAX: u32 = 0x7fff;

const fn age_of(entry: u32) -> u32 {
    entry >> AGE_SHIFT & AGE_MAX
}

/// The fewest tags whose ids would leave no place in 16 bits.
pub const MAX_TAGS: u32 = 1 << 16;

/// See the module's documentation.
pub struct QueuePair {
    pub(super) sq: SubmissionRing,
    pub(super) cq: CompletionRing,
    /// By tag: the last command id, whether it is in flight, and since how many ticks.
    cids: Box<[u32]>,
    tag_mask: u32,
    in_flight: u32,
    capacity: u32,
    /// Taken completions are told of once they are so many.
    tell_at: u32,
    /// The queue's number where a completion has it.
    sq_id: u32,
    qid: Qid,
    vector: Option<VectorUse>,
    controller: Arc<NvmeController>,
    memory: Option<HostMemory>,
    /// Where in the memory the completion ring is.
    cq_offset: u64,
    /// Where the submission ring is, if it is in memory of the controller's.
    sq_memory: Option<QueueMemory>,
    epoch: u32,
    /// Since it was last asked.
    took_old: bool,
}

/// What Create I/O Completion Queue and Create I/O Submission Queue say of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The number of both.
    pub qid: Qid,
    /// How long both are.
    pub entries: u32,
    /// I/O address of the submission ring.
    pub sq: u64,
    /// I/O address of the completion ring.
    pub cq: u64,
    /// The interrupt, if there is one.
    pub vector: Option<u16>,
}

/// What a queue pair is made of.
pub struct Parts {
    /// The submission ring.
    pub sq: SubmissionRing,
    /// The completion ring, as long as the other.
    pub cq: CompletionRing,
    /// Their memory: the submission ring from its start on, unless it is the controller's.
    pub memory: HostMemory,
    /// Memory of the controller's in which the submission ring is.
    pub sq_memory: Option<QueueMemory>,
    /// Where in it the completion ring is, in bytes.
    pub cq_offset: u64,
    /// The number of both.
    pub qid: Qid,
    /// The interrupt, if there is one.
    pub vector: Option<VectorUse>,
}

impl QueuePair {
    /// A pair that the controller knows, for commands with the tags `0..tags`, at most [`MAX_TAGS`].
    /// In which epoch of the controller's that is so, it says as well.
    pub fn new(controller: Arc<NvmeController>, parts: Parts, tags: u32, epoch: u32) -> QueuePair {
        let Parts { sq, cq, memory, sq_memory, cq_offset, qid, vector } = parts;
        let entries = sq.len();
        QueuePair {
            // An interrupt may be held back until the controller knows what was taken.
            tell_at: if vector.is_some() { 1 } else { (cq.len() / 4).max(1) },
            cids: (0..tags).collect(),
            tag_mask: tags.next_power_of_two() - 1,
            in_flight: 0,
            capacity: entries - 1,
            sq,
            cq,
            sq_id: u32::from(qid.0) << 16,
            qid,
            vector,
            controller,
            memory: Some(memory),
            cq_offset,
            sq_memory,
            epoch,
            took_old: false,
        }
    }

    /// In which epoch the controller was told of the queues.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The controller was told of them again.
    pub fn joined(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// The interrupt, if there is one.
    pub fn vector(&self) -> Option<&VectorUse> {
        self.vector.as_ref()
    }

    /// How many commands are in flight.
    #[inline(always)]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether no command can be pushed.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.in_flight >= self.capacity
    }

    /// Puts a command into the ring, under an id of its own. The pair is not full, and no other command is in flight under
    /// this tag; otherwise nothing is done.
    #[inline(always)]
    pub fn push(&mut self, tag: u32, command: &mut Command) {
        let step = self.tag_mask + 1;
        let Some(entry) = self.cids.get_mut(tag as usize) else { return };
        debug_assert!(*entry & IN_FLIGHT == 0 && self.in_flight < self.capacity);
        let cid = entry.wrapping_add(step) & 0xffff;
        *entry = cid | IN_FLIGHT;
        command.cid = cid as u16;
        self.in_flight += 1;
        self.sq.push(command);
    }

    /// Tells the controller of what was pushed: one doorbell.
    ///
    /// # Errors
    /// Those of the bus.
    #[inline(always)]
    pub fn tell_pushed(&mut self) -> Result<(), BusError> {
        self.sq.tell()
    }

    /// Whether a completion can be taken.
    #[inline(always)]
    pub fn has_completion(&self) -> bool {
        self.cq.has_next()
    }

    /// Takes the next completion, and the tag of its command.
    ///
    /// # Errors
    /// [`NvmeError::Absurd`] for a completion that belongs to no command in flight, or that names another queue.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Result<(u32, Found), NvmeError>> {
        let found = self.cq.take()?;
        let tag = u32::from(found.cid()) & self.tag_mask;
        let expected = u32::from(found.cid()) | IN_FLIGHT;
        // One comparison for both: the queue's number above, and a head below the number of entries.
        let from_here = (found.word as u32).wrapping_sub(self.sq_id) < self.sq.len();
        match self.cids.get_mut(tag as usize) {
            Some(entry) if *entry == expected && from_here => {
                *entry &= !IN_FLIGHT;
                self.in_flight -= 1;
                Some(Ok((tag, found)))
            }
            _ => Some(self.take_old(found, tag, from_here)),
        }
    }

    /// Dwords 0 and 1 of a completion that was just taken, as one number.
    pub fn result(&self, found: Found) -> u64 {
        self.cq.result64(found)
    }

    /// A completion of a command that has seen ticks, or of none.
    #[cold]
    fn take_old(&mut self, found: Found, tag: u32, from_here: bool) -> Result<(u32, Found), NvmeError> {
        match self.cids.get_mut(tag as usize) {
            Some(entry)
                if *entry & !(AGE_MAX << AGE_SHIFT) == u32::from(found.cid()) | IN_FLIGHT && from_here =>
            {
                // Its age stays until the tag is used again.
                self.took_old = true;
                *entry &= !IN_FLIGHT;
                self.in_flight -= 1;
                Ok((tag, found))
            }
            _ => Err(self.absurd(found)),
        }
    }

    /// Whether a completion was taken, since this was last asked, of a command that has seen a tick.
    pub fn took_old(&mut self) -> bool {
        std::mem::take(&mut self.took_old)
    }

    /// How many ticks the tag's command saw: the one in flight, or the last.
    pub fn age(&self, tag: u32) -> u32 {
        self.cids.get(tag as usize).map_or(0, |entry| age_of(*entry))
    }

    /// A tick: makes every command in flight older, and shows each, with its id and age.
    pub fn tick(&mut self, mut each: impl FnMut(u16, u32)) {
        for entry in self.cids.iter_mut().filter(|entry| **entry & IN_FLIGHT != 0) {
            if age_of(*entry) < AGE_MAX {
                *entry += 1 << AGE_SHIFT;
            }
            each(*entry as u16, age_of(*entry));
        }
    }

    /// With the controller stopped: as when it was made. Shows the tags of the commands that were in flight, with their
    /// ages. Ids go on from where they were.
    pub fn pull_back(&mut self, mut each: impl FnMut(u32, u32)) {
        for (tag, entry) in self.cids.iter_mut().enumerate().filter(|(_, entry)| **entry & IN_FLIGHT != 0) {
            *entry &= !IN_FLIGHT;
            each(tag as u32, age_of(*entry));
        }
        self.in_flight = 0;
        self.sq.reset();
        self.cq.reset();
    }

    /// What the controller has to be told to make these queues.
    pub fn plan(&self) -> Option<Plan> {
        let memory = self.memory.as_ref()?;
        let vector = self.vector.as_ref().map(VectorUse::index);
        Some(Plan {
            qid: self.qid,
            entries: self.sq.len(),
            sq: self.sq_memory.as_ref().map_or(memory.iova(), QueueMemory::iova),
            cq: memory.iova() + self.cq_offset,
            vector,
        })
    }

    /// The number of the queues.
    pub fn qid(&self) -> Qid {
        self.qid
    }

    /// How far the completion queue was read.
    pub fn head(&self) -> u32 {
        self.cq.head()
    }

    #[cold]
    fn absurd(&self, found: Found) -> NvmeError {
        let (what, value, expected) = if found.sq_id() != self.qid.0 {
            ("SQID", found.sq_id(), self.qid.0.to_string())
        } else if found.sq_head() >= self.sq.len() {
            ("SQHD", found.sq_head() as u16, format!("below {}", self.sq.len()))
        } else {
            ("CID", found.cid(), "that of a command in flight".to_owned())
        };
        NvmeError::Absurd {
            address: self.controller.address().to_owned(),
            of: format!("a completion in {}", self.qid),
            what,
            value: value.into(),
            expected,
        }
    }

    /// Tells the controller of what was taken, once per batch; where nothing waits for it, once in several.
    ///
    /// # Errors
    /// Those of the bus.
    #[inline(always)]
    pub fn tell_taken(&mut self) -> Result<(), BusError> {
        if self.cq.untold() >= self.tell_at { self.cq.tell() } else { Ok(()) }
    }

    /// Gives the memory up without unmapping it: the controller may use it for ever.
    pub fn leak(&mut self) {
        std::mem::forget((self.memory.take(), self.sq_memory.take()));
    }

    /// Deletes the queues, so that it uses neither them nor the memory of any
    /// command in them.
    ///
    /// # Errors
    /// As [`NvmeController::delete_queues`].
    pub fn delete(&mut self) -> Result<(), NvmeError> {
        self.controller.delete_queues(self.qid, self.epoch)
    }
}
