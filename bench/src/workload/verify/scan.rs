//! Walks a region from header to header, without knowing what was written: which blocks are there, which are damaged,
//! and how far a run came.
//!
//! Blocks of a `rw=write` run follow each other, so the walk meets each. After random writes of mixed sizes it meets
//! whole blocks and skips what overlaps left of others; there the replayed [`WrittenLog`](crate::workload::WrittenLog)
//! knows more. [`HeaderScan::highest_sequence`] is what a replay needs to stop where a run that time ended stopped: a
//! run issues writes in sequence and finishes those in flight, so the last one lies whole in the file.
//!
//! Invariant: the position only grows, and each step passes one grain at least.

use super::error::{Fault, VerifyError};
use super::header::{HEADER_BYTES, Header, HeaderFault};
use super::{Verifier, header};

/// A walk over `[at, end)`. The caller reads what [`want`](Self::want) asks for and gives it to [`feed`](Self::feed).
#[derive(Clone, Debug)]
pub struct HeaderScan {
    at: u64,
    end: u64,
    grain_bytes: u32,
    window_bytes: u32,
    highest_sequence: Option<u64>,
}

/// What a step of the walk met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// A sound block.
    Block(Header),
    /// A damaged one.
    Damaged(VerifyError),
    /// No block starts in these bytes.
    Gap {
        /// Where in the file.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

impl HeaderScan {
    /// Over `[offset, end)`. Blocks start at multiples of `grain_bytes` (the alignment of the run that wrote them) from
    /// `offset` and are `max_block_bytes` long at most.
    pub fn new(offset: u64, end: u64, grain_bytes: u32, max_block_bytes: u32) -> Self {
        let grain_bytes = grain_bytes.max(1);
        let window_bytes = max_block_bytes.max(HEADER_BYTES as u32).max(grain_bytes);
        Self { at: offset, end, grain_bytes, window_bytes, highest_sequence: None }
    }

    /// What to read next, `(offset, bytes)`; `None` at the end.
    pub fn want(&self) -> Option<(u64, u32)> {
        let left = self.end.checked_sub(self.at).filter(|left| *left > 0)?;
        Some((self.at, u32::try_from(left).unwrap_or(u32::MAX).min(self.window_bytes)))
    }

    /// The highest write number seen in a sound block of the verifier's own job.
    pub fn highest_sequence(&self) -> Option<u64> {
        self.highest_sequence
    }

    /// Takes the bytes that [`want`](Self::want) asked for (or as many as there are) and goes on behind what they hold.
    pub fn feed(&mut self, verifier: &Verifier, bytes: &[u8]) -> Scanned {
        let offset = self.at;
        let step = |bytes: usize| bytes as u64;
        let found = bytes.first_chunk::<HEADER_BYTES>().map(Header::decode);
        match found {
            None | Some(Err(HeaderFault::Magic { .. })) => {
                let bytes = step(self.next_magic(bytes));
                self.at = offset.saturating_add(bytes);
                return Scanned::Gap { offset, bytes };
            }
            Some(Err(fault)) => {
                self.at = offset.saturating_add(step(self.next_magic(bytes)));
                let bytes = (self.at - offset) as u32;
                return Scanned::Damaged(VerifyError {
                    offset,
                    bytes,
                    part: None,
                    fault: Fault::Header(fault),
                    first: None,
                });
            }
            Some(Ok(_)) => {}
        }
        match verifier.check_self(bytes, offset) {
            Ok(Some(header)) => {
                self.at = offset.saturating_add(u64::from(header.bytes));
                if verifier.is_own(&header) {
                    self.highest_sequence = self.highest_sequence.max(Some(header.sequence));
                }
                Scanned::Block(header)
            }
            Ok(None) => {
                // verify=pattern has no headers to walk along.
                self.at = offset.saturating_add(step(bytes.len().max(1)));
                Scanned::Gap { offset, bytes: self.at - offset }
            }
            Err(error) => {
                self.at = offset.saturating_add(step(self.next_magic(bytes)));
                Scanned::Damaged(error)
            }
        }
    }

    /// How many bytes to pass to the next grain at which a header starts, or to the end of the bytes.
    fn next_magic(&self, bytes: &[u8]) -> usize {
        let grain = self.grain_bytes as usize;
        let starts = (grain..bytes.len()).step_by(grain);
        let mut grains = starts.filter(|&at| bytes[at..].starts_with(&header::MAGIC));
        // Whole grains only, so that the walk stays on them; the last bytes of a region may be less than one.
        grains.next().unwrap_or((bytes.len() / grain * grain).max(grain))
    }
}
