//! The bytes of a block behind its header, reproducible at any position.
//!
//! Invariant: the byte at a position of a block depends on the block's seed (or the pattern and the block's offset) and
//! that position alone, so any part of a block can be made again without the rest.

use crate::workload::rng::{GOLDEN, mix64};
use thiserror::Error;

/// The longest pattern, as in fio.
pub const MAX_PATTERN_BYTES: usize = 512;

/// Why a pattern cannot be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "a verify_pattern of {bytes} bytes with offsets at {offset_positions:?}; it must have 1 to {MAX_PATTERN_BYTES} bytes, and each offset takes 8 of them"
)]
pub struct PatternError {
    /// Its length.
    pub bytes: usize,
    /// Where it wants the block's offset.
    pub offset_positions: Vec<usize>,
}

/// fio's `verify_pattern`: bytes that are repeated from the start of each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    bytes: Box<[u8]>,
    offsets: Box<[usize]>,
}

impl Pattern {
    /// A pattern of 1 to [`MAX_PATTERN_BYTES`] bytes. At each of `offset_positions` the eight bytes are replaced by the
    /// block's offset, little-endian (fio's `%o`).
    ///
    /// # Errors
    /// [`PatternError`] when it is empty, too long, or an offset does not fit.
    pub fn new(bytes: &[u8], offset_positions: &[usize]) -> Result<Self, PatternError> {
        let fits = |&at: &usize| at.checked_add(8).is_some_and(|end| end <= bytes.len());
        if bytes.is_empty() || bytes.len() > MAX_PATTERN_BYTES || !offset_positions.iter().all(fits) {
            return Err(PatternError { bytes: bytes.len(), offset_positions: offset_positions.to_vec() });
        }
        Ok(Self { bytes: bytes.into(), offsets: offset_positions.into() })
    }

    fn fill(&self, block_offset: u64, from: usize, out: &mut [u8]) {
        let mut one = [0; MAX_PATTERN_BYTES];
        let one = &mut one[..self.bytes.len()];
        one.copy_from_slice(&self.bytes);
        for &at in &self.offsets {
            one[at..at + 8].copy_from_slice(&block_offset.to_le_bytes());
        }
        let mut from = from % one.len();
        let mut out = out;
        while !out.is_empty() {
            let part = (one.len() - from).min(out.len());
            let (now, later) = out.split_at_mut(part);
            now.copy_from_slice(&one[from..from + part]);
            (from, out) = (0, later);
        }
    }
}

/// What fills a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    /// Pseudo-random bytes of a seed.
    Random { seed: u64 },
    /// A pattern.
    Pattern { pattern: &'a Pattern, block_offset: u64 },
}

#[inline]
fn word(seed: u64, index: u64) -> [u8; 8] {
    mix64(seed.wrapping_add(index.wrapping_mul(GOLDEN))).to_le_bytes()
}

impl Payload<'_> {
    /// Makes the bytes from position `from` of the block on.
    pub(super) fn fill(self, from: usize, out: &mut [u8]) {
        match self {
            Payload::Pattern { pattern, block_offset } => pattern.fill(block_offset, from, out),
            Payload::Random { seed } => fill_random(seed, from, out),
        }
    }

    /// The first position, counted from the start of `found`, that differs from the payload from position `from` on,
    /// with the byte expected there.
    pub(super) fn first_difference(self, from: usize, found: &[u8]) -> Option<(usize, u8)> {
        let mut scratch = [0; 4096];
        let mut at = 0;
        for chunk in found.chunks(scratch.len()) {
            let expected = &mut scratch[..chunk.len()];
            self.fill(from + at, expected);
            if expected != chunk {
                let within = expected.iter().zip(chunk).position(|(a, b)| a != b)?;
                return Some((at + within, expected[within]));
            }
            at += chunk.len();
        }
        None
    }
}

fn fill_random(seed: u64, from: usize, out: &mut [u8]) {
    let mut index = (from / 8) as u64;
    let skip = from % 8;
    let head = if skip == 0 { 0 } else { (8 - skip).min(out.len()) };
    let (first, rest) = out.split_at_mut(head);
    if head > 0 {
        first.copy_from_slice(&word(seed, index)[skip..skip + head]);
        index += 1;
    }
    let mut words = rest.chunks_exact_mut(8);
    for chunk in &mut words {
        chunk.copy_from_slice(&word(seed, index));
        index += 1;
    }
    let tail = words.into_remainder();
    tail.copy_from_slice(&word(seed, index)[..tail.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_part_is_made_as_in_the_whole(
            seed in any::<u64>(),
            pattern in proptest::collection::vec(any::<u8>(), 1..40),
            (from, len) in (0usize..3000, 0usize..6000),
        ) {
            let pattern = Pattern::new(&pattern, &[]).unwrap();
            for payload in [Payload::Random { seed }, Payload::Pattern { pattern: &pattern, block_offset: 0 }] {
                let mut whole = vec![0; 9000];
                payload.fill(0, &mut whole);
                let mut part = vec![0; len];
                payload.fill(from, &mut part);
                prop_assert_eq!(&part, &whole[from..from + len]);
                prop_assert_eq!(payload.first_difference(from, &part), None);
            }
        }
    }

    #[test]
    fn the_first_of_several_differences_is_found() {
        let payload = Payload::Random { seed: 9 };
        let mut bytes = vec![0; 10_000];
        payload.fill(24, &mut bytes);
        let expected = bytes[5003];
        bytes[5003] ^= 1;
        bytes[9000] ^= 1;
        assert_eq!(payload.first_difference(24, &bytes), Some((5003, expected)));
    }

    #[test]
    fn a_pattern_can_hold_the_offset() {
        let pattern = Pattern::new(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0xee], &[1]).unwrap();
        let mut out = [0; 20];
        Payload::Pattern { pattern: &pattern, block_offset: 0x0102 }.fill(0, &mut out);
        assert_eq!(out, [0xff, 2, 1, 0, 0, 0, 0, 0, 0, 0xee, 0xff, 2, 1, 0, 0, 0, 0, 0, 0, 0xee]);
    }

    #[test]
    fn wrong_patterns_are_refused() {
        assert!(Pattern::new(&[], &[]).is_err());
        assert!(Pattern::new(&[0; 513], &[]).is_err());
        assert!(Pattern::new(&[0; 8], &[1]).is_err());
        assert!(Pattern::new(&[0; 8], &[usize::MAX]).is_err());
    }
}
