//! What a request carries along, so that its completion needs no look-up: slot, kind and length in one `u64`.
//!
//! Invariants: a slot number is below 2^17 (a channel holds 65,536 requests at most), a length below 2^32.

use crate::workload::{Direction, Io};

const SLOT_BITS: u32 = 17;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const KIND_MASK: u64 = 3;
const BYTES_SHIFT: u32 = 32;

/// The kind of a flush, after the three directions.
const SYNC: u64 = 3;

/// What a request carries along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(u64);

impl Token {
    /// The token of an I/O in `slot`.
    #[inline]
    pub fn new(slot: u32, io: &Io) -> Token {
        debug_assert!(u64::from(slot) <= SLOT_MASK);
        Token(u64::from(io.bytes) << BYTES_SHIFT | (io.direction as u64) << SLOT_BITS | u64::from(slot))
    }

    /// The same token for another slot.
    #[inline]
    pub fn in_slot(self, slot: u32) -> Token {
        debug_assert!(u64::from(slot) <= SLOT_MASK);
        Token(self.0 & !SLOT_MASK | u64::from(slot))
    }

    /// The token of a flush in `slot`.
    #[inline]
    pub fn sync(slot: u32) -> Token {
        Token(SYNC << SLOT_BITS | u64::from(slot))
    }

    /// As the block layer carries it.
    #[inline]
    pub fn raw(self) -> u64 {
        self.0
    }

    /// As it came back.
    #[inline]
    pub fn from_raw(raw: u64) -> Token {
        Token(raw)
    }

    /// The slot.
    #[inline]
    pub fn slot(self) -> usize {
        (self.0 & SLOT_MASK) as usize
    }

    /// 0 to 2: the direction's index; 3: a flush.
    #[inline]
    pub fn kind(self) -> usize {
        (self.0 >> SLOT_BITS & KIND_MASK) as usize
    }

    /// The direction; `None` for a flush.
    #[inline]
    pub fn direction(self) -> Option<Direction> {
        Direction::ALL.get(self.kind()).copied()
    }

    /// Bytes asked for; 0 for a flush.
    #[inline]
    pub fn bytes(self) -> u64 {
        self.0 >> BYTES_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_comes_back(slot in 0u32..65_536, bytes in any::<u32>(), kind in 0usize..3) {
            let direction = Direction::ALL[kind];
            let token = Token::from_raw(Token::new(slot, &Io { offset: 7, bytes, direction }).raw());
            prop_assert_eq!(token.slot(), slot as usize);
            prop_assert_eq!(token.kind(), kind);
            prop_assert_eq!(token.direction(), Some(direction));
            prop_assert_eq!(token.bytes(), u64::from(bytes));
        }
    }

    #[test]
    fn a_flush_has_no_direction() {
        let token = Token::sync(65_535);
        assert_eq!((token.slot(), token.direction(), token.bytes()), (65_535, None, 0));
    }
}
