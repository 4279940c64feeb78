//! What a job wrote: which write each byte of its region holds, after all that overlapped.
//!
//! The bytes of a file are cut into extents, each from one write. A later write cuts or replaces the extents below it.
//! So a block that nothing overlapped is verified whole, by header and digest; what is left of a partly overwritten one
//! is verified by making its bytes again; and nothing is reported wrong for having been overwritten.
//!
//! Two writes in flight at once over the same bytes leave either's content: the runner prevents that with
//! [`OverlapGuard`](super::OverlapGuard) and records each write when it has completed.
//!
//! Invariants: extents do not overlap, each lies inside the block it is from, and their number is bounded by the region's
//! length divided by the alignment of its writes. A recorded write may allocate; jobs without verification keep no log.

use super::config::Direction;
use super::generator::Io;
use super::verify::{BlockStamp, Verifier, VerifyError};
use std::collections::{BTreeMap, VecDeque};

/// A run of bytes from one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte, from the start of the file.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u32,
    /// The write they are from.
    pub block: BlockStamp,
}

impl Extent {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }

    /// Whether this is the whole block, untouched by later writes.
    pub fn is_whole(&self) -> bool {
        self.bytes == self.block.bytes
    }

    /// Where in its block it begins.
    pub fn position(&self) -> u32 {
        // An extent lies inside its block, whose length is a u32.
        (self.offset - self.block.offset) as u32
    }

    /// Checks the bytes read from this extent.
    ///
    /// # Errors
    /// As [`Verifier::check`] for a whole block and [`Verifier::check_part`] for the rest of one.
    pub fn check(&self, verifier: &Verifier, buffer: &[u8]) -> Result<(), VerifyError> {
        if self.is_whole() {
            verifier.check(buffer, &self.block)
        } else {
            verifier.check_part(buffer, &self.block, self.position())
        }
    }

    /// The part of this extent that lies in `[start, end)`.
    fn cut(self, start: u64, end: u64) -> Option<Self> {
        let (start, end) = (self.offset.max(start), self.end().min(end));
        let bytes = end.checked_sub(start).filter(|bytes| *bytes > 0)?;
        Some(Self { offset: start, bytes: bytes as u32, ..self })
    }
}

/// What one job wrote.
#[derive(Clone, Debug, Default)]
pub struct WrittenLog {
    /// By offset.
    extents: BTreeMap<u64, Extent>,
}

impl WrittenLog {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a completed write.
    pub fn record(&mut self, block: BlockStamp) {
        self.forget(block.offset, u64::from(block.bytes));
        if block.bytes > 0 {
            self.extents.insert(block.offset, Extent { offset: block.offset, bytes: block.bytes, block });
        }
    }

    /// Forgets what these bytes held: they were trimmed, or a write to them failed, and their content is undefined.
    pub fn forget(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes);
        // From the back, as removal changes only what lies before.
        while let Some(extent) = self.last_before(end).filter(|extent| extent.end() > offset) {
            self.extents.remove(&extent.offset);
            for kept in [extent.cut(0, offset), extent.cut(end, u64::MAX)].into_iter().flatten() {
                self.extents.insert(kept.offset, kept);
            }
            if extent.offset <= offset {
                break;
            }
        }
    }

    fn last_before(&self, end: u64) -> Option<Extent> {
        self.extents.range(..end).next_back().map(|(_, extent)| *extent)
    }

    /// The first extent that begins at `from` or after it: for a verify pass that does I/O between the steps.
    pub fn next_extent(&self, from: u64) -> Option<Extent> {
        self.extents.range(from..).next().map(|(_, extent)| *extent)
    }

    /// All extents by offset.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.extents.values().copied()
    }

    /// The parts of extents that lie in these bytes, by offset.
    pub fn extents_in(&self, offset: u64, bytes: u64) -> impl Iterator<Item = Extent> {
        let end = offset.saturating_add(bytes);
        let first =
            self.last_before(offset).filter(|extent| extent.end() > offset).map_or(offset, |e| e.offset);
        self.extents.range(first..end.max(first)).filter_map(move |(_, extent)| extent.cut(offset, end))
    }

    /// What is left of one write, by offset: for `verify_backlog`.
    pub fn rest_of(&self, block: &BlockStamp) -> impl Iterator<Item = Extent> {
        let block = *block;
        self.extents_in(block.offset, u64::from(block.bytes)).filter(move |extent| extent.block == block)
    }

    /// Checks what a read found, as far as this job wrote it in this run; other bytes are not looked at. Says how many
    /// bytes were checked.
    ///
    /// # Errors
    /// The first wrong extent's [`VerifyError`].
    pub fn check_read(&self, verifier: &Verifier, offset: u64, buffer: &[u8]) -> Result<u64, VerifyError> {
        let mut checked = 0;
        for extent in self.extents_in(offset, buffer.len() as u64) {
            let from = (extent.offset - offset) as usize;
            extent.check(verifier, &buffer[from..from + extent.bytes as usize])?;
            checked += u64::from(extent.bytes);
        }
        Ok(checked)
    }

    /// How many extents there are.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether nothing is known to be written.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// How many bytes are known to be written.
    pub fn bytes(&self) -> u64 {
        self.extents.values().map(|extent| u64::from(extent.bytes)).sum()
    }
}

/// Numbers the writes of a job, in the order in which the generator made them.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteCounter {
    next: u64,
}

impl WriteCounter {
    /// From 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stamp of a write; `None` for reads and trims, which have no number. Must be asked once for every I/O that
    /// the generator made, in its order: a replay counts the same way.
    pub fn stamp(&mut self, io: &Io) -> Option<BlockStamp> {
        if io.direction != Direction::Write {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        Some(BlockStamp { offset: io.offset, bytes: io.bytes, sequence })
    }

    /// How many writes were stamped.
    pub fn writes(&self) -> u64 {
        self.next
    }
}

/// fio's `verify_backlog`: which writes to verify in the middle of a run.
///
/// After every `blocks` completed writes, `batch` of the oldest not yet verified are due; those stay known to the
/// [`WrittenLog`] and are verified again at the end only if the runner wants it.
#[derive(Clone, Debug)]
pub struct Backlog {
    blocks: usize,
    batch: usize,
    queue: VecDeque<BlockStamp>,
    due: usize,
    since: usize,
}

impl Backlog {
    /// Verify after each `blocks` writes (1 at least); `batch` 0 stands for as many as `blocks`, fio's default.
    pub fn new(blocks: usize, batch: usize) -> Self {
        let blocks = blocks.max(1);
        let batch = if batch == 0 { blocks } else { batch };
        Self { blocks, batch, queue: VecDeque::with_capacity(blocks.min(1 << 16)), due: 0, since: 0 }
    }

    /// Notes a completed write.
    pub fn push(&mut self, block: BlockStamp) {
        self.queue.push_back(block);
        self.since += 1;
        if self.since == self.blocks {
            self.since = 0;
            self.due = (self.due + self.batch).min(self.queue.len());
        }
    }

    /// The next write to verify now; `None` when it is time to write again. What is left of it,
    /// [`WrittenLog::rest_of`] says.
    pub fn pop(&mut self) -> Option<BlockStamp> {
        self.due = self.due.checked_sub(1)?;
        self.queue.pop_front()
    }

    /// Makes all that were written due: at the end of the run.
    pub fn finish(&mut self) {
        self.due = self.queue.len();
    }

    /// Writes not verified yet.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether every write was verified.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests;
