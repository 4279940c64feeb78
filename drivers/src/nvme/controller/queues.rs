//! Creating and deleting I/O queue pairs.

use std::sync::Arc;

use corelane_engine::aio::AioHandle;

use super::NvmeController;
use super::admin::{Data, Permit};
use super::registers::PAGE_BYTES;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::bell::Bell;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::queue::pair::{Parts, Plan, QueuePair};
use crate::nvme::queue::ring::{CompletionRing, SubmissionRing};
use crate::nvme::spec::Qid;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::opcode::admin;
use crate::nvme::spec::register::{cq_doorbell, sq_doorbell};

/// Which numbers of I/O queues are free.
pub struct QueueIds {
    /// The lowest is last.
    free: Vec<u16>,
    granted: u32,
}

impl QueueIds {
    /// The numbers 1 to `granted`.
    pub fn new(granted: u32) -> QueueIds {
        let granted = granted.min(u32::from(u16::MAX) - 1);
        QueueIds { free: (1..=granted as u16).rev().collect(), granted }
    }

    pub fn granted(&self) -> u32 {
        self.granted
    }

    fn take(&mut self) -> Option<Qid> {
        self.free.pop().map(Qid)
    }

    fn give_back(&mut self, qid: Qid) {
        self.free.push(qid.0);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}

impl NvmeController {
    /// How many entries a queue for `tags` commands has: a power of two, for masks, and within the controller's bound.
    pub(crate) fn queue_entries(&self, tags: u32) -> u32 {
        let bound = self.max_queue_entries();
        let most = if bound.is_power_of_two() { bound } else { bound.next_power_of_two() / 2 };
        tags.next_power_of_two().clamp(2, most.max(2))
    }

    /// Creates a queue pair for `tags` commands and those of `more` tags as far as there is room, with an interrupt for
    /// `lane` if one is asked for and there is one. `None` if all queue numbers are in use. While the controller is brought
    /// back it waits for that first. Blocks.
    ///
    /// # Errors
    /// Those of memory, the bus and admin commands.
    pub(crate) fn create_queues(
        self: &Arc<Self>,
        tags: u32,
        more: u32,
        lane: Option<&AioHandle>,
    ) -> Result<Option<QueuePair>, NvmeError> {
        let mut attempts = 3;
        loop {
            attempts -= 1;
            let Some(qid) = self.queue_ids().take() else { return Ok(None) };
            let epoch = self.core.control.word().epoch();
            match self.create_numbered(qid, (tags, more), lane) {
                Ok(pair) => return Ok(Some(pair)),
                Err(error) => {
                    self.queue_ids().give_back(qid);
                    // It may have been reset meanwhile, and has forgotten what there was of the queues.
                    let reset = attempts > 0
                        && matches!(error, NvmeError::Stopped { .. })
                        && self.core.control.settled().is_ok_and(|word| word.epoch() != epoch);
                    if !reset {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn create_numbered(
        self: &Arc<Self>,
        qid: Qid,
        (tags, more): (u32, u32),
        lane: Option<&AioHandle>,
    ) -> Result<QueuePair, NvmeError> {
        let permit = Permit::of(self.core.control.settled()?);
        let entries = self.queue_entries(tags);
        let sq_bytes = (entries as usize * size_of::<Command>()).next_multiple_of(PAGE_BYTES);
        let bus = self.bus();
        // Submissions first, unless the controller has memory for them, and completions behind them: each starts on a page, as its
        // creation asks for.
        let cq_bytes = (entries as usize * 16).next_multiple_of(PAGE_BYTES);
        let sq_memory = self.core.memory_buffer().and_then(|buffer| buffer.take(sq_bytes));
        let cq_offset = if sq_memory.is_some() { 0 } else { sq_bytes };
        let memory = HostMemory::new(bus.as_ref(), cq_offset + cq_bytes)?;
        let stride_bytes = self.core.control.registers().capabilities().doorbell_stride_bytes();
        let shadow = self.known().and_then(|known| known.shadow.as_ref());
        let (sq_shadow, cq_shadow) = shadow.map_or((None, None), |shadow| shadow.of(qid));
        let sq_bell = Bell::new(bus.doorbell(sq_doorbell(qid, stride_bytes))?, sq_shadow);
        let cq_bell = Bell::new(bus.doorbell(cq_doorbell(qid, stride_bytes))?, cq_shadow);
        let sq = match &sq_memory {
            Some(place) => SubmissionRing::within(place.memory(), place.offset_bytes(), entries, sq_bell)?,
            None => SubmissionRing::new(&memory, 0, entries, sq_bell)?,
        };
        let cq = CompletionRing::new(&memory, cq_offset, entries, cq_bell)?;
        let vector = lane.map_or(Ok(None), |lane| self.vector(qid, lane.clone()))?;
        let parts = Parts { sq, cq, memory, sq_memory, cq_offset: cq_offset as u64, qid, vector };
        let mut pair = QueuePair::new(Arc::clone(self), parts, tags + more, permit.epoch());
        let created = pair.plan().map_or(Ok(()), |plan| self.create_both(permit, plan));
        if let Err(error) = created {
            // After anything but a refusal the controller may have the queues until it is stopped.
            if !matches!(error, NvmeError::Refused { .. }) {
                self.core.control.fail(permit.epoch(), &error);
                if !self.core.control.wait_until_stopped(permit.epoch()) {
                    pair.leak();
                }
            }
            return Err(error);
        }
        Ok(pair)
    }

    /// Has the controller make both queues of a pair. Blocks.
    ///
    /// # Errors
    /// Those of admin commands. After anything but a refusal the controller is stopped, or will be.
    pub(crate) fn create_both(&self, permit: Permit, plan: Plan) -> Result<(), NvmeError> {
        let Plan { qid, entries, sq, cq, vector } = plan;
        let mut create_cq = Command::create_cq(qid, entries, vector);
        create_cq.data.prp1 = cq;
        self.core.execute(permit, "Create I/O Completion Queue", create_cq, Data::None)?;
        let mut create_sq = Command::create_sq(qid, entries);
        create_sq.data.prp1 = sq;
        let created = self.core.execute(permit, "Create I/O Submission Queue", create_sq, Data::None);
        let Err(error) = created else { return Ok(()) };
        let delete = Command::delete_queue(admin::DELETE_CQ, qid);
        if matches!(error, NvmeError::Refused { .. })
            && let Err(second) = self.core.execute(permit, "Delete I/O Completion Queue", delete, Data::None)
        {
            // The queue stays until it is reset.
            self.core.control.fail(permit.epoch(), &second);
            return Err(self.core.control.stopped());
        }
        Err(error)
    }

    /// Deletes both queues of a pair, which the controller was told of in `epoch`. Blocks.
    ///
    /// # Errors
    /// Those of admin commands; the controller is stopped then, since it may go on using the queues' memory.
    pub(crate) fn delete_queues(&self, qid: Qid, epoch: u32) -> Result<(), NvmeError> {
        let word = self.core.control.word();
        if word.epoch() != epoch {
            return Err(self.core.control.stopped());
        }
        let (permit, execute) = (Permit::of(word), |name, opcode| {
            let command = Command::delete_queue(opcode, qid);
            self.core.execute(Permit::of(word), name, command, Data::None)
        });
        let deleted = execute("Delete I/O Submission Queue", admin::DELETE_SQ)
            .and_then(|_| execute("Delete I/O Completion Queue", admin::DELETE_CQ));
        deleted.map(drop).inspect_err(|error| self.core.control.fail(permit.epoch(), error))
    }

    /// The controller has no queue of this number any more.
    pub(crate) fn give_back(&self, qid: Qid) {
        self.queue_ids().give_back(qid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken() {
        let mut ids = QueueIds::new(3);
        assert_eq!([ids.take(), ids.take()], [Some(Qid(1)), Some(Qid(2))]);
        ids.give_back(Qid(1));
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(Qid(1)), Some(Qid(3)), None]);
        assert_eq!(QueueIds::new(65_536).granted(), 65_534);
    }
}
