//! Queues (NVMe base 2.0, section 3.3.3), the controller's ends of them.
//!
//! Invariants:
//! - `head`, `tail` and what is taken from a doorbell are below the number of entries; a doorbell value that is not is
//!   recorded once and ignored until the host writes another.
//! - A completion is written only where the host has made room, its phase tag last.
//! - A command identifier's bit is set from when its command is fetched until the batch that it came with is complete, or
//!   longer if the command is held. A second command with the same one in that time is the host's error.

use corelane_dma::WordArray;

use crate::doorbells::Doorbell;
use crate::memory::View;
use crate::violation::{Rule, Violation, Violations};
use crate::wire::command::{Command, Completion};

/// The bytes of a submission queue entry.
pub(crate) const SQ_ENTRY_BYTES: usize = WordArray::<8>::ENTRY_BYTES;
/// The bytes of a completion queue entry.
pub(crate) const CQ_ENTRY_BYTES: usize = WordArray::<2>::ENTRY_BYTES;

/// Where a queue lies in the host's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) iova: u64,
    pub(crate) entries: u32,
}

/// The queue's memory, if all of it is mapped in one piece.
pub(crate) fn ring<const WORDS: usize>(place: Place, view: &mut View) -> Option<WordArray<WORDS>> {
    let len_bytes = place.entries as usize * WordArray::<WORDS>::ENTRY_BYTES;
    let memory = view.contiguous(place.iova, len_bytes).ok()?;
    WordArray::new(memory, place.entries as usize).ok()
}

/// A submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    pub(crate) id: u16,
    /// The completion queue that its commands complete in.
    pub(crate) cq: u16,
    pub(crate) place: Place,
    pub(crate) ring: WordArray<8>,
    pub(crate) doorbell: Doorbell,
    pub(crate) cids: Cids,
    /// The next entry to fetch.
    pub(crate) head: u32,
    /// Tells this queue from earlier ones with its identifier.
    pub(crate) serial: u64,
    /// Commands that are in nodes.
    pub(crate) held: u32,
    /// Whether its entries are in the controller memory buffer.
    pub(crate) in_buffer: bool,
    /// The last bad doorbell value that was recorded.
    bad_tail: Option<u32>,
}

impl SubmissionQueue {
    pub(crate) fn new(
        id: u16,
        cq: u16,
        place: Place,
        ring: WordArray<8>,
        doorbell: Doorbell,
    ) -> SubmissionQueue {
        let (head, serial, held) = (0, 0, 0);
        SubmissionQueue {
            id,
            cq,
            place,
            ring,
            doorbell,
            cids: Cids::new(),
            head,
            serial,
            held,
            in_buffer: false,
            bad_tail: None,
        }
    }

    /// Where the host's entries end now; the same as `head` if there are none.
    #[inline]
    pub(crate) fn tail(&mut self, violations: &Violations) -> u32 {
        let tail = self.doorbell.load();
        if tail >= self.place.entries {
            self.bad(tail, violations);
            return self.head;
        }
        tail
    }

    #[cold]
    fn bad(&mut self, tail: u32, violations: &Violations) {
        if self.bad_tail.replace(tail) != Some(tail) {
            let entries = self.place.entries;
            let detail = format!("the tail doorbell was set to {tail}; the queue has {entries} entries");
            violations.add(Violation { rule: Rule::DoorbellValue, queue: Some(self.id), cid: None, detail });
        }
    }

    /// Whether a bad doorbell value stands.
    pub(crate) fn is_bad(&self) -> bool {
        self.bad_tail.is_some_and(|bad| bad == self.doorbell.load())
    }

    /// Fetches the entry at `head`.
    #[inline]
    pub(crate) fn fetch(&mut self) -> Option<Command> {
        let command = self.ring.load(self.head as usize).map(Command);
        let next = self.head + 1;
        self.head = if next == self.place.entries { 0 } else { next };
        command
    }
}

/// The command identifiers of a queue that are in use.
#[derive(Debug)]
pub(crate) struct Cids {
    bits: Box<[u64; 1024]>,
    /// Those of the batch that is being worked on.
    batch: Vec<u16>,
}

impl Cids {
    fn new() -> Cids {
        Cids { bits: Box::new([0; 1024]), batch: Vec::new() }
    }

    /// Takes an identifier into use; false if it is in use already.
    #[inline]
    pub(crate) fn begin(&mut self, cid: u16) -> bool {
        let (word, bit) = (&mut self.bits[usize::from(cid >> 6)], 1 << (cid & 63));
        let fresh = *word & bit == 0;
        *word |= bit;
        if fresh {
            self.batch.push(cid);
        }
        fresh
    }

    /// Keeps the identifier that was taken last beyond its batch.
    pub(crate) fn hold_last(&mut self) {
        self.batch.pop();
    }

    /// Ends the use of a held one.
    pub(crate) fn release(&mut self, cid: u16) {
        self.bits[usize::from(cid >> 6)] &= !(1 << (cid & 63));
    }

    /// Ends the batch.
    #[inline]
    pub(crate) fn end_batch(&mut self) {
        for cid in self.batch.drain(..) {
            self.bits[usize::from(cid >> 6)] &= !(1 << (cid & 63));
        }
    }
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    pub(crate) id: u16,
    pub(crate) place: Place,
    pub(crate) ring: WordArray<2>,
    pub(crate) doorbell: Doorbell,
    /// The vector to signal, if the host wants interrupts.
    pub(crate) vector: Option<u16>,
    /// How many submission queues use it.
    pub(crate) users: u32,
    /// Where the next entry goes.
    tail: u32,
    /// How far the host had read when the doorbell was last looked at.
    head: u32,
    phase: bool,
    bad_head: Option<u32>,
}

impl CompletionQueue {
    pub(crate) fn new(
        id: u16,
        place: Place,
        ring: WordArray<2>,
        doorbell: Doorbell,
        vector: Option<u16>,
    ) -> CompletionQueue {
        CompletionQueue {
            id,
            place,
            ring,
            doorbell,
            vector,
            users: 0,
            tail: 0,
            head: 0,
            phase: true,
            bad_head: None,
        }
    }

    /// Whether an entry can be written. Looks at the doorbell only when the queue seems to be full.
    #[inline]
    pub(crate) fn has_room(&mut self, violations: &Violations) -> bool {
        let next = self.next();
        if next != self.head {
            return true;
        }
        self.look(violations);
        next != self.head
    }

    #[inline]
    fn next(&self) -> u32 {
        let next = self.tail + 1;
        if next == self.place.entries { 0 } else { next }
    }

    /// Takes the head doorbell's value over, if it is one that the host may have written: between what it had read
    /// before and what there is to read. Returns whether it was.
    pub(crate) fn look(&mut self, violations: &Violations) -> bool {
        let head = self.doorbell.load();
        let entries = self.place.entries;
        let posted = (self.tail + entries - self.head) % entries;
        let good = head < entries && (head + entries - self.head) % entries <= posted;
        if good {
            self.head = head;
        } else if self.bad_head.replace(head) != Some(head) {
            let (old, tail) = (self.head, self.tail);
            let detail = format!(
                "the head doorbell was set to {head}; {old} to {tail} would be right in a queue of {entries} entries"
            );
            violations.add(Violation { rule: Rule::DoorbellValue, queue: Some(self.id), cid: None, detail });
        }
        good
    }

    /// Writes an entry; the caller made sure that there is room.
    #[inline]
    pub(crate) fn post(&mut self, completion: &Completion) {
        self.ring.publish(self.tail as usize, &completion.words(self.phase));
        self.tail = self.next();
        self.phase ^= self.tail == 0;
    }

    /// Writes an entry with the phase tag of one that is not there, as a fault.
    pub(crate) fn post_invisible(&mut self, completion: &Completion) {
        self.ring.publish(self.tail as usize, &completion.words(!self.phase));
        self.tail = self.next();
        self.phase ^= self.tail == 0;
    }
}

#[cfg(test)]
mod tests;
