//! The two rings of a queue pair: where commands are put, and where completions are found.
//!
//! Invariants:
//! - Both have a power of two of entries, so that positions wrap by a mask.
//! - `tail` and `head` are below the number of entries. No more commands are in flight than the rings have entries, less
//!   one; the users of the rings see to that, so that neither can overflow.
//! - A completion entry is taken only when its phase tag says that the controller wrote it. The word with the tag is loaded
//!   with acquire ordering, so that the data is as new.

use corelane_dma::{CoherentArray, DmaError, MemRegion};

use super::bell::Bell;
use super::memory::HostMemory;
use crate::nvme::bus::BusError;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::completion::Completion;
use crate::nvme::spec::status::Status;

/// How many entries are fetched ahead.
const AHEAD: u32 = 4;

/// Where commands are put.
#[derive(Debug)]
pub struct SubmissionRing {
    entries: CoherentArray<Command>,
    mask: u32,
    tail: u32,
    bell: Bell,
}

impl SubmissionRing {
    /// A ring of `entries` entries (a power of two from 2 to 65,536) at `offset_bytes` of `memory`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] where it does not fit.
    pub fn new(memory: &HostMemory, offset_bytes: usize, entries: u32, bell: Bell) -> Result<Self, DmaError> {
        debug_assert!(entries.is_power_of_two());
        let array = memory.array(offset_bytes, entries as usize)?;
        Ok(SubmissionRing { entries: array, mask: entries - 1, tail: 0, bell })
    }

    /// As [`new`](Self::new), in memory that is not this process's own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn within(
        memory: &MemRegion,
        offset_bytes: usize,
        entries: u32,
        bell: Bell,
    ) -> Result<Self, DmaError> {
        debug_assert!(entries.is_power_of_two());
        let array = CoherentArray::new(memory, offset_bytes, entries as usize)?;
        Ok(SubmissionRing { entries: array, mask: entries - 1, tail: 0, bell })
    }

    /// How many entries there are.
    pub fn len(&self) -> u32 {
        self.mask + 1
    }

    /// Puts a command at the tail. The controller learns of it by [`tell`](Self::tell).
    #[inline(always)]
    pub fn push(&mut self, command: &Command) {
        // The mask keeps the tail within the array.
        let _within = self.entries.set(self.tail as usize, command);
        self.tail = (self.tail + 1) & self.mask;
    }

    /// As it was when it was made, for a controller that has forgotten it.
    pub fn reset(&mut self) {
        self.tail = 0;
        self.bell.reset();
    }

    /// Tells the controller of all that was pushed.
    ///
    /// # Errors
    /// Those of the bus.
    #[inline(always)]
    pub fn tell(&mut self) -> Result<(), BusError> {
        let untold = self.tail.wrapping_sub(self.bell.told()) & self.mask;
        if untold == 0 {
            return Ok(());
        }
        self.bell.tell(self.tail)?;
        // The controller read the next entries a lap ago. A command that is written there would wait for them to come back,
        // and the doorbell behind it: fetched now, they come while the commands just told of are under way.
        for next in 0..untold.min(AHEAD) {
            self.entries.prefetch_for_write((self.tail.wrapping_add(next) & self.mask) as usize);
        }
        Ok(())
    }
}

/// A completion as it is found: the second half of the entry, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// From the lowest bits up: SQHD, SQID, CID, phase and status, 16 bits each.
    pub word: u64,
    /// Which entry of the ring it is.
    pub index: u32,
}

impl Found {
    /// CID.
    #[inline(always)]
    pub fn cid(self) -> u16 {
        (self.word >> 32) as u16
    }

    /// The status.
    #[inline(always)]
    pub fn status(self) -> Status {
        Status((self.word >> 49) as u16)
    }

    /// SQHD.
    #[inline(always)]
    pub fn sq_head(self) -> u32 {
        self.word as u32 & 0xffff
    }

    /// SQID.
    #[inline(always)]
    pub fn sq_id(self) -> u16 {
        (self.word >> 16) as u16
    }
}

/// The phase tag in the second half of an entry.
const PHASE: u64 = 1 << 48;

/// Where completions are found.
#[derive(Debug)]
pub struct CompletionRing {
    entries: CoherentArray<Completion>,
    mask: u32,
    head: u32,
    /// In its bit: the phase tag that a new entry has.
    phase: u64,
    bell: Bell,
}

impl CompletionRing {
    /// A ring of `entries` entries (a power of two from 2 to 65,536) at `offset_bytes` of `memory`, which is zeroed.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] where it does not fit.
    pub fn new(memory: &HostMemory, offset_bytes: usize, entries: u32, bell: Bell) -> Result<Self, DmaError> {
        debug_assert!(entries.is_power_of_two());
        let array = memory.array(offset_bytes, entries as usize)?;
        Ok(CompletionRing { entries: array, mask: entries - 1, head: 0, phase: PHASE, bell })
    }

    /// How many entries there are.
    pub fn len(&self) -> u32 {
        self.mask + 1
    }

    /// As it was when it was made, for a controller that has forgotten it: it is empty, and has zeroes.
    pub fn reset(&mut self) {
        for index in 0..=self.mask as usize {
            // The mask keeps the index within the array.
            let _within = self.entries.set(index, &Completion::default());
        }
        (self.head, self.phase) = (0, PHASE);
        self.bell.reset();
    }

    /// How far it was read, in entries from the start of the ring.
    pub fn head(&self) -> u32 {
        self.head
    }

    #[inline(always)]
    fn next(&self) -> Option<u64> {
        let word = self.entries.load_acquire64(self.head as usize, Completion::SECOND_HALF)?;
        ((word ^ self.phase) & PHASE == 0).then_some(word)
    }

    /// Whether there is a completion.
    #[inline(always)]
    pub fn has_next(&self) -> bool {
        self.next().is_some()
    }

    /// Takes the next completion. The controller learns of it by [`tell`](Self::tell).
    #[inline(always)]
    pub fn take(&mut self) -> Option<Found> {
        let word = self.next()?;
        let index = self.head;
        self.head = (index + 1) & self.mask;
        // Each time around the ring the tag changes its meaning.
        self.phase ^= u64::from(self.head == 0) << PHASE.trailing_zeros();
        Some(Found { word, index })
    }

    /// Dword 0 of an entry that was just taken.
    pub fn result(&self, found: Found) -> u32 {
        self.entries.load_acquire32(found.index as usize, 0).unwrap_or(0)
    }

    /// Dwords 0 and 1 of an entry that was just taken, as one number.
    pub fn result64(&self, found: Found) -> u64 {
        self.entries.load_acquire64(found.index as usize, 0).unwrap_or(0)
    }

    /// How many entries were taken that the controller does not know of.
    #[inline(always)]
    pub fn untold(&self) -> u32 {
        self.head.wrapping_sub(self.bell.told()) & self.mask
    }

    /// Tells the controller of all that was taken.
    ///
    /// # Errors
    /// Those of the bus.
    #[inline(always)]
    pub fn tell(&mut self) -> Result<(), BusError> {
        if self.head == self.bell.told() { Ok(()) } else { self.bell.tell(self.head) }
    }
}
