//! The set of queues of a controller.
//!
//! Invariants: queue 0 is the admin queue; a submission queue's completion queue exists as long as it does; `active` lists
//! the I/O submission queues that exist.

use corelane_dma::CellArray;

use crate::doorbells::{head_cell, tail_cell};
use crate::memory::View;
use crate::queue::{CompletionQueue, Place, SubmissionQueue, ring};
use crate::violation::Violations;

/// The host's copies of the doorbells (base 5.8, Doorbell Buffer Config).
#[derive(Clone, Debug)]
struct Shadow {
    doorbells: CellArray,
    events: CellArray,
}

/// All queues, by identifier.
#[derive(Debug)]
pub(crate) struct Queues {
    sqs: Vec<Option<SubmissionQueue>>,
    cqs: Vec<Option<CompletionQueue>>,
    active: Vec<u16>,
    shadow: Option<Shadow>,
    /// Of the submission queue made last.
    serial: u64,
}

fn none<T>(count: usize) -> Vec<Option<T>> {
    std::iter::repeat_with(|| None).take(count).collect()
}

impl Queues {
    /// No queues, but room for `pairs` I/O queue pairs and the admin queues.
    pub(crate) fn new(pairs: u16) -> Queues {
        let count = usize::from(pairs) + 1;
        Queues { sqs: none(count), cqs: none(count), active: Vec::new(), shadow: None, serial: 0 }
    }

    /// Forgets all queues.
    pub(crate) fn clear(&mut self) {
        // The serial goes on, so that what comes back late finds no queue.
        *self = Queues { serial: self.serial, ..Queues::new(self.max_id()) };
    }

    /// How many I/O queues of either kind there can be.
    pub(crate) fn max_id(&self) -> u16 {
        (self.sqs.len() - 1) as u16
    }

    pub(crate) fn sq(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.sqs.get_mut(usize::from(id))?.as_mut()
    }

    pub(crate) fn cq(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.cqs.get_mut(usize::from(id))?.as_mut()
    }

    /// A submission queue and its completion queue.
    #[inline]
    pub(crate) fn pair(&mut self, id: u16) -> Option<(&mut SubmissionQueue, &mut CompletionQueue)> {
        let sq = self.sqs.get_mut(usize::from(id))?.as_mut()?;
        let cq = self.cqs.get_mut(usize::from(sq.cq))?.as_mut()?;
        Some((sq, cq))
    }

    /// How many I/O submission queues there are.
    #[inline]
    pub(crate) fn active_len(&self) -> usize {
        self.active.len()
    }

    /// One of them, and its completion queue.
    #[inline]
    pub(crate) fn active(&mut self, index: usize) -> Option<(&mut SubmissionQueue, &mut CompletionQueue)> {
        let id = *self.active.get(index)?;
        self.pair(id)
    }

    /// Whether any I/O queue exists.
    pub(crate) fn has_io_queues(&self) -> bool {
        self.cqs.iter().skip(1).any(Option::is_some)
    }

    /// Adds a completion queue, whose identifier is free and in range.
    pub(crate) fn add_cq(&mut self, queue: CompletionQueue) {
        let id = usize::from(queue.id);
        self.cqs[id] = Some(queue);
    }

    /// Adds a submission queue, whose identifier is free and in range and whose completion queue exists.
    pub(crate) fn add_sq(&mut self, mut queue: SubmissionQueue) {
        self.serial += 1;
        queue.serial = self.serial;
        if let Some(cq) = self.cq(queue.cq) {
            cq.users += 1;
        }
        let id = queue.id;
        if id != 0 {
            self.active.push(id);
        }
        self.sqs[usize::from(id)] = Some(queue);
    }

    pub(crate) fn remove_sq(&mut self, id: u16) {
        self.active.retain(|active| *active != id);
        let removed = self.sqs.get_mut(usize::from(id)).and_then(Option::take);
        if let Some(cq) = removed.and_then(|sq| self.cq(sq.cq)) {
            cq.users -= 1;
        }
    }

    pub(crate) fn remove_cq(&mut self, id: u16) {
        if let Some(place) = self.cqs.get_mut(usize::from(id)) {
            *place = None;
        }
    }

    /// Finds all queues' memory anew. Returns those that have none any more.
    pub(crate) fn map_again(&mut self, view: &mut View) -> Vec<(u16, Place)> {
        let mut lost = Vec::new();
        for sq in self.sqs.iter_mut().flatten().filter(|sq| !sq.in_buffer) {
            match ring(sq.place, view) {
                Some(ring) => sq.ring = ring,
                None => lost.push((sq.id, sq.place)),
            }
        }
        for cq in self.cqs.iter_mut().flatten() {
            match ring(cq.place, view) {
                Some(ring) => cq.ring = ring,
                None => lost.push((cq.id, cq.place)),
            }
        }
        lost
    }

    /// Whether the host has rung for entries that were not fetched.
    pub(crate) fn are_used(&mut self, violations: &Violations) -> bool {
        self.sqs.iter_mut().flatten().any(|sq| sq.tail(violations) != sq.head)
    }

    /// Reads the doorbells of I/O queues from the host's memory from now on.
    pub(crate) fn set_shadow(&mut self, doorbells: CellArray, events: CellArray) {
        use crate::doorbells::Doorbell;
        for sq in self.sqs.iter_mut().flatten().filter(|sq| sq.id != 0) {
            sq.doorbell = Doorbell::new(&doorbells, tail_cell(sq.id));
        }
        for cq in self.cqs.iter_mut().flatten().filter(|cq| cq.id != 0) {
            cq.doorbell = Doorbell::new(&doorbells, head_cell(cq.id));
        }
        self.shadow = Some(Shadow { doorbells, events });
    }

    /// The host's copies of the doorbells, if they are used.
    pub(crate) fn shadow(&self) -> Option<&CellArray> {
        self.shadow.as_ref().map(|shadow| &shadow.doorbells)
    }

    /// Asks the host, where it writes shadow doorbells, to ring the real ones when it goes on (base 5.8: it does when its
    /// new value passes EventIdx).
    pub(crate) fn ask_for_doorbells(&mut self) {
        let Some(shadow) = &self.shadow else { return };
        for sq in self.sqs.iter().flatten() {
            shadow.events.store(tail_cell(sq.id), sq.head);
        }
    }
}
