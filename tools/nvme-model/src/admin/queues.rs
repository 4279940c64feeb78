//! Making and deleting queues (NVMe base 2.0, sections 5.4 to 5.7), and shadow doorbells (5.8).
//!
//! Invariant: a queue exists only over memory that was mapped in one piece when it was made, with a size, an identifier and
//! a vector that the specification allows.

use std::sync::atomic::Ordering;

use corelane_dma::{CellArray, DeviceMemory, WordArray};

use crate::check::Checker;
use crate::doorbells::{head_cell, tail_cell};
use crate::queue::{CQ_ENTRY_BYTES, CompletionQueue, Place, SQ_ENTRY_BYTES, SubmissionQueue, ring};
use crate::registers::Registers;
use crate::violation::{Rule, Violation};
use crate::wire::command::Command;
use crate::wire::register::{acqs, asqs};
use crate::wire::status::Status;
use crate::worker::Worker;

impl Worker {
    /// Makes the admin queues as the registers say (base 3.5.1), or says what is wrong with them.
    pub(crate) fn create_admin_queues(&mut self, registers: &Registers) -> Result<(), Violation> {
        let cc = registers.cc;
        let wrong =
            |detail: String| Violation { rule: Rule::QueueCreation, queue: Some(0), cid: None, detail };
        // 110b: all command sets that there are.
        let command_sets = cc.css() == 0 || cc.css() == 0b110 && self.shared.config.has_zones();
        if !command_sets || cc.ams() != 0 || cc.mps() > self.shared.config.max_page_shift {
            return Err(wrong(format!("CC {:#x} asks for what CAP does not offer", cc.0)));
        }
        self.page_bytes = 4096 << cc.mps();
        let sq = Place { iova: registers.asq, entries: asqs(registers.aqa) };
        let cq = Place { iova: registers.acq, entries: acqs(registers.aqa) };
        for place in [sq, cq] {
            if place.entries < 2 || place.iova & (self.page_bytes as u64 - 1) != 0 {
                return Err(wrong(format!("{place:x?}: at least 2 entries, at a multiple of the page size")));
            }
        }
        let unmapped = || wrong(format!("the memory of {sq:x?} or {cq:x?} is not mapped in one piece"));
        let sq_ring = ring(sq, &mut self.view).ok_or_else(unmapped)?;
        let cq_ring = ring(cq, &mut self.view).ok_or_else(unmapped)?;
        let cq_doorbell = self.doorbell_of(0, false);
        let sq_doorbell = self.doorbell_of(0, true);
        self.queues.add_cq(CompletionQueue::new(0, cq, cq_ring, cq_doorbell, Some(0)));
        self.queues.add_sq(SubmissionQueue::new(0, 0, sq, sq_ring, sq_doorbell));
        Ok(())
    }

    /// Create I/O Completion Queue (5.4).
    pub(super) fn create_cq(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        check.reserved(command, 1, &[0]);
        check.reserved(command, 11, &[0xFFFF_0003, 0, 0, 0, 0]);
        let id = command.dword(10) as u16;
        if !(1..=self.features.io_completion_queues(self.queues.max_id())).contains(&id)
            || self.queues.cq(id).is_some()
        {
            return Err(bad(
                check,
                Status::INVALID_QUEUE_ID,
                format!("completion queue {id} exists or cannot"),
            ));
        }
        let entry_bytes = 1 << self.shared.control().registers.cc.iocqes();
        let place = self.place(command, entry_bytes, CQ_ENTRY_BYTES, check)?;
        let (interrupts, vector) = (command.dword(11) & 2 != 0, (command.dword(11) >> 16) as u16);
        if u32::from(vector) >= self.shared.config.vectors {
            return Err(bad(check, Status::INVALID_VECTOR, format!("there is no vector {vector}")));
        }
        let ring = ring(place, &mut self.view).ok_or_else(|| unmapped(check, place))?;
        let doorbell = self.doorbell_of(id, false);
        let vector = interrupts.then_some(vector);
        self.queues.add_cq(CompletionQueue::new(id, place, ring, doorbell, vector));
        Ok(0)
    }

    /// Create I/O Submission Queue (5.5).
    pub(super) fn create_sq(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        check.reserved(command, 1, &[0]);
        check.reserved(command, 11, &[0xFFFF_0007, 0xFFFF, 0, 0, 0]);
        let (id, cq) = (command.dword(10) as u16, (command.dword(11) >> 16) as u16);
        if !(1..=self.features.io_submission_queues(self.queues.max_id())).contains(&id)
            || self.queues.sq(id).is_some()
        {
            return Err(bad(
                check,
                Status::INVALID_QUEUE_ID,
                format!("submission queue {id} exists or cannot"),
            ));
        }
        if cq == 0 || cq > self.queues.max_id() {
            return Err(bad(
                check,
                Status::INVALID_QUEUE_ID,
                format!("completion queue {cq} cannot be used"),
            ));
        }
        if self.queues.cq(cq).is_none() {
            return Err(bad(check, Status::CQ_INVALID, format!("completion queue {cq} does not exist")));
        }
        let entry_bytes = 1 << self.shared.control().registers.cc.iosqes();
        let place = self.place(command, entry_bytes, SQ_ENTRY_BYTES, check)?;
        let own = self.ring_in_buffer(place);
        let in_buffer = own.is_some();
        let ring = own.or_else(|| ring(place, &mut self.view)).ok_or_else(|| unmapped(check, place))?;
        let doorbell = self.doorbell_of(id, true);
        let mut queue = SubmissionQueue::new(id, cq, place, ring, doorbell);
        queue.in_buffer = in_buffer;
        self.queues.add_sq(queue);
        self.shared.buffer_queues.fetch_add(in_buffer.into(), Ordering::AcqRel);
        Ok(0)
    }

    /// A submission queue's memory in the controller memory buffer, if the host put it there.
    fn ring_in_buffer(&self, place: Place) -> Option<WordArray<8>> {
        let start = self.shared.control().registers.buffer_address()?;
        let buffer = DeviceMemory::of(self.shared.memory_buffer.as_ref()?);
        let offset = usize::try_from(place.iova.checked_sub(start)?).ok()?;
        let entries = place.entries as usize;
        WordArray::new(buffer.part(offset, entries * SQ_ENTRY_BYTES).ok()?, entries).ok()
    }

    /// The place and size that a command gives a queue.
    fn place(
        &self,
        command: &Command,
        entry_bytes: usize,
        expected_bytes: usize,
        check: &Checker<'_>,
    ) -> Result<Place, Status> {
        let entries = (command.dword(10) >> 16) + 1;
        if entries < 2 || entries > self.shared.config.max_queue_entries || entry_bytes != expected_bytes {
            let max = self.shared.config.max_queue_entries;
            let text = format!(
                "{entries} entries of {entry_bytes} bytes; 2 to {max} entries of {expected_bytes} bytes are possible"
            );
            return Err(bad(check, Status::INVALID_QUEUE_SIZE, text));
        }
        if command.dword(11) & 1 == 0 {
            let text = "the queue is not contiguous, which CAP.CQR requires".to_owned();
            return Err(bad(check, Status::INVALID_FIELD, text));
        }
        let iova = command.prp1();
        if iova & (self.page_bytes as u64 - 1) != 0 {
            let text = format!("a queue at {iova:#x}, which is no multiple of the page size");
            return Err(bad(check, Status::PRP_OFFSET_INVALID, text));
        }
        if command.prp2() != 0 {
            check.note(Rule::ReservedField, "a contiguous queue has no second PRP entry".to_owned());
        }
        Ok(Place { iova, entries })
    }

    /// Delete I/O Submission Queue (5.7).
    pub(super) fn delete_sq(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        let id = self.deleted(command, check)?;
        let Some(serial) = self.queues.sq(id).map(|sq| sq.serial) else {
            return Err(unused(
                check,
                Status::INVALID_QUEUE_ID,
                format!("submission queue {id} does not exist"),
            ));
        };
        self.wait_for_queue(id);
        self.faults.queue_is_gone(serial);
        self.queues.remove_sq(id);
        self.shared.doorbells.cells().store(tail_cell(id), 0);
        Ok(0)
    }

    /// Delete I/O Completion Queue (5.6).
    pub(super) fn delete_cq(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        let id = self.deleted(command, check)?;
        let Some(cq) = self.queues.cq(id) else {
            return Err(unused(
                check,
                Status::INVALID_QUEUE_ID,
                format!("completion queue {id} does not exist"),
            ));
        };
        if cq.users > 0 {
            let text = format!("completion queue {id} still has {} submission queues", cq.users);
            return Err(unused(check, Status::INVALID_QUEUE_DELETION, text));
        }
        self.queues.remove_cq(id);
        self.shared.doorbells.cells().store(head_cell(id), 0);
        Ok(0)
    }

    fn deleted(&self, command: &Command, check: &Checker<'_>) -> Result<u16, Status> {
        check.reserved(command, 6, &[0; 4]);
        check.reserved(command, 10, &[0xFFFF, 0, 0, 0, 0, 0]);
        match command.dword(10) as u16 {
            0 => Err(unused(check, Status::INVALID_QUEUE_ID, "the admin queue cannot be deleted".to_owned())),
            id => Ok(id),
        }
    }

    /// Doorbell Buffer Config (5.8).
    pub(super) fn doorbell_buffer_config(
        &mut self,
        command: &Command,
        check: &Checker<'_>,
    ) -> Result<u32, Status> {
        check.reserved(command, 10, &[0; 6]);
        let stride_bytes = 4 << self.shared.config.doorbell_stride;
        let cells = (usize::from(self.queues.max_id()) + 1) * 2;
        let mut map = |iova: u64| {
            if iova & (self.page_bytes as u64 - 1) != 0 {
                let text = format!("a doorbell buffer at {iova:#x}, which is no multiple of the page size");
                return Err(check.refuse(Status::INVALID_FIELD, Rule::PrpOffset, text));
            }
            let memory = self.view.contiguous(iova, cells * stride_bytes);
            memory.map_err(|fault| check.fault("a doorbell buffer", fault)).and_then(|memory| {
                CellArray::new(memory, stride_bytes, cells).map_err(|error| {
                    check.refuse(Status::INVALID_FIELD, Rule::DmaFault, format!("a doorbell buffer: {error}"))
                })
            })
        };
        let (doorbells, events) = (map(command.prp1())?, map(command.prp2())?);
        self.queues.set_shadow(doorbells, events);
        Ok(0)
    }
}

#[cold]
fn bad(check: &Checker<'_>, status: Status, text: String) -> Status {
    check.refuse(status, Rule::QueueCreation, text)
}

#[cold]
fn unused(check: &Checker<'_>, status: Status, text: String) -> Status {
    check.refuse(status, Rule::QueueUse, text)
}

#[cold]
fn unmapped(check: &Checker<'_>, place: Place) -> Status {
    let text = format!("the memory of {place:x?} is not mapped in one piece");
    check.refuse(Status::INVALID_FIELD, Rule::DmaFault, text)
}
