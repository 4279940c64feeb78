//! Creating and deleting I/O queue pairs.

use std::sync::Arc;

use corelane_engine::aio::AioHandle;

use super::NvmeController;
use super::admin::Data;
use super::control::State;
use super::registers::PAGE_BYTES;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::bell::Bell;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::queue::pair::{Parts, QueuePair};
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

    /// Creates a queue pair for `tags` commands and those of `more` tags as far as there is room, with an interrupt for `lane` if one is asked for and there is one. `None`
    /// if all queue numbers are in use. Blocks.
    ///
    /// # Errors
    /// Those of memory, the bus and admin commands.
    pub(crate) fn create_queues(
        self: &Arc<Self>,
        tags: u32,
        more: u32,
        lane: Option<AioHandle>,
    ) -> Result<Option<QueuePair>, NvmeError> {
        let Some(qid) = self.queue_ids().take() else { return Ok(None) };
        match self.create_numbered(qid, (tags, more), lane) {
            Ok(pair) => Ok(Some(pair)),
            Err(error) => {
                // After anything but a refusal the controller is given up, and the number with it.
                if matches!(error, NvmeError::Refused { .. } | NvmeError::Memory(_)) {
                    self.queue_ids().give_back(qid);
                }
                Err(error)
            }
        }
    }

    fn create_numbered(
        self: &Arc<Self>,
        qid: Qid,
        (tags, more): (u32, u32),
        lane: Option<AioHandle>,
    ) -> Result<QueuePair, NvmeError> {
        let entries = self.queue_entries(tags);
        let sq_bytes = (entries as usize * size_of::<Command>()).next_multiple_of(PAGE_BYTES);
        let bus = self.bus();
        // Submissions first, completions behind them: each starts on a page, as its creation asks for.
        let cq_bytes = (entries as usize * 16).next_multiple_of(PAGE_BYTES);
        let memory = HostMemory::new(bus.as_ref(), sq_bytes + cq_bytes)?;
        let stride_bytes = self.control.registers().capabilities().doorbell_stride_bytes();
        let (sq_shadow, cq_shadow) = self.shadow.as_ref().map_or((None, None), |shadow| shadow.of(qid));
        let sq_bell = Bell::new(bus.doorbell(sq_doorbell(qid, stride_bytes))?, sq_shadow);
        let cq_bell = Bell::new(bus.doorbell(cq_doorbell(qid, stride_bytes))?, cq_shadow);
        let sq = SubmissionRing::new(&memory, 0, entries, sq_bell)?;
        let cq = CompletionRing::new(&memory, sq_bytes, entries, cq_bell)?;
        let vector = lane.map_or(Ok(None), |lane| self.vector(qid, lane))?;
        let created = self.create_both(qid, entries, &memory, sq_bytes, vector.as_ref().map(|v| v.index()));
        if let Err(error) = created {
            // After anything but a refusal the controller may have the queues.
            if !matches!(error, NvmeError::Refused { .. }) {
                self.control.fail(&error);
                if super::wait_until_over(&self.control) != State::Stopped {
                    std::mem::forget(memory);
                }
            }
            return Err(error);
        }
        Ok(QueuePair::new(Arc::clone(self), Parts { sq, cq, memory, qid, vector }, tags + more))
    }

    fn create_both(
        &self,
        qid: Qid,
        entries: u32,
        memory: &HostMemory,
        sq_bytes: usize,
        vector: Option<u16>,
    ) -> Result<(), NvmeError> {
        let mut cq = Command::create_cq(qid, entries, vector);
        cq.data.prp1 = memory.iova() + sq_bytes as u64;
        self.admin("Create I/O Completion Queue", cq, Data::None)?;
        let mut sq = Command::create_sq(qid, entries);
        sq.data.prp1 = memory.iova();
        if let Err(error) = self.admin("Create I/O Submission Queue", sq, Data::None) {
            let delete = Command::delete_queue(admin::DELETE_CQ, qid);
            if matches!(error, NvmeError::Refused { .. })
                && let Err(second) = self.admin("Delete I/O Completion Queue", delete, Data::None)
            {
                // The queue stays, and its memory must.
                self.control.fail(&second);
                return Err(second.into_unanswered(self.address()));
            }
            return Err(error);
        }
        Ok(())
    }

    /// Deletes both queues of a pair, and frees their number. Blocks.
    ///
    /// # Errors
    /// Those of admin commands; the controller is given up then, since it may go on using the queues' memory.
    pub(crate) fn delete_queues(&self, qid: Qid) -> Result<(), NvmeError> {
        let sq = Command::delete_queue(admin::DELETE_SQ, qid);
        let cq = Command::delete_queue(admin::DELETE_CQ, qid);
        let deleted = self
            .admin("Delete I/O Submission Queue", sq, Data::None)
            .and_then(|_| self.admin("Delete I/O Completion Queue", cq, Data::None));
        match deleted {
            Ok(_) => {
                self.queue_ids().give_back(qid);
                Ok(())
            }
            Err(error) => {
                self.control.fail(&error);
                Err(error)
            }
        }
    }
}

impl NvmeError {
    /// A refusal that must not be taken for one that leaves everything as it was.
    fn into_unanswered(self, address: &str) -> NvmeError {
        NvmeError::Stopped { address: address.to_owned(), reason: self.to_string() }
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
