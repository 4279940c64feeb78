//! Which memory is registered with the ring as fixed buffers, so that requests on it need no page look-up in the kernel.
//!
//! Invariant: the entries are sorted by address and do not overlap. The kernel numbers each; requests must name the
//! number of the buffer that holds them whole.

use std::cell::Cell;

/// The kernel takes at most 1 GiB in one fixed buffer (`io_uring_register(2)`).
pub const MAX_FIXED_BYTES: usize = 1 << 30;

#[derive(Clone, Copy, Debug)]
struct FixedBuffer {
    start: usize,
    len: usize,
    index: u16,
    uses: u32,
}

impl FixedBuffer {
    /// Whether `addr..addr + len` lies within; no sum that could overflow.
    #[inline]
    fn holds(&self, addr: usize, len: usize) -> bool {
        let inside = addr.wrapping_sub(self.start);
        inside < self.len && len <= self.len - inside
    }
}

/// The table of one ring, with the last hit remembered, since requests tend to stay in one buffer.
#[derive(Debug, Default)]
pub struct FixedBuffers {
    entries: Vec<FixedBuffer>,
    last: Cell<usize>,
}

/// A range to be registered with, or removed from, the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First address.
    pub start: usize,
    /// Length in bytes, at most [`MAX_FIXED_BYTES`].
    pub len: usize,
}

/// Cuts a region into pieces that the kernel takes.
pub fn pieces(start: usize, len: usize) -> impl Iterator<Item = Piece> {
    (0..len)
        .step_by(MAX_FIXED_BYTES)
        .map(move |at| Piece { start: start + at, len: MAX_FIXED_BYTES.min(len - at) })
}

impl FixedBuffers {
    /// The number of the fixed buffer that holds the whole range.
    #[inline]
    pub fn lookup(&self, addr: usize, len: usize) -> Option<u16> {
        match self.entries.get(self.last.get()) {
            Some(entry) if entry.holds(addr, len) => Some(entry.index),
            Some(_) => self.search(addr, len),
            None => None,
        }
    }

    #[inline(never)]
    fn search(&self, addr: usize, len: usize) -> Option<u16> {
        let position = self.entries.partition_point(|entry| entry.start <= addr).checked_sub(1)?;
        let entry = &self.entries[position];
        entry.holds(addr, len).then(|| {
            self.last.set(position);
            entry.index
        })
    }

    /// Counts one more use of a piece that is registered already; false if it is not.
    pub fn again(&mut self, piece: Piece) -> bool {
        let found =
            self.entries.iter_mut().find(|entry| (entry.start, entry.len) == (piece.start, piece.len));
        found.map(|entry| entry.uses += 1).is_some()
    }

    /// Whether a piece overlaps one that is registered.
    pub fn overlaps(&self, piece: Piece) -> bool {
        self.entries.iter().any(|entry| {
            piece.start < entry.start.saturating_add(entry.len)
                && entry.start < piece.start.saturating_add(piece.len)
        })
    }

    /// Adds a piece that the kernel has numbered `index`. It must not overlap another.
    pub fn insert(&mut self, piece: Piece, index: u16) {
        let position = self.entries.partition_point(|entry| entry.start <= piece.start);
        self.entries.insert(position, FixedBuffer { start: piece.start, len: piece.len, index, uses: 1 });
        self.last.set(0);
    }

    /// Counts one use less; gives the number of a piece that nobody uses any more, to be taken from the kernel.
    pub fn remove(&mut self, piece: Piece) -> Option<u16> {
        let position =
            self.entries.iter().position(|entry| (entry.start, entry.len) == (piece.start, piece.len))?;
        let entry = &mut self.entries[position];
        entry.uses -= 1;
        if entry.uses > 0 {
            return None;
        }
        self.last.set(0);
        Some(self.entries.remove(position).index)
    }

    /// Takes every number out, for the end.
    pub fn drain(&mut self) -> Vec<u16> {
        self.last.set(0);
        self.entries.drain(..).map(|entry| entry.index).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_found_only_whole() {
        let mut table = FixedBuffers::default();
        assert_eq!(table.lookup(0, 1), None);
        table.insert(Piece { start: 8192, len: 4096 }, 1);
        table.insert(Piece { start: 0, len: 4096 }, 2);
        assert_eq!(table.lookup(0, 4096), Some(2));
        assert_eq!(table.lookup(4095, 1), Some(2));
        assert_eq!(table.lookup(4095, 2), None);
        assert_eq!(table.lookup(8192, 4096), Some(1));
        assert_eq!(table.lookup(8191, 2), None);
        assert_eq!(table.lookup(usize::MAX, 2), None);
        assert_eq!(table.lookup(8192, usize::MAX), None);
        assert!(table.overlaps(Piece { start: 4095, len: 2 }));
        assert!(!table.overlaps(Piece { start: 4096, len: 4096 }));
    }

    #[test]
    fn uses_are_counted() {
        let mut table = FixedBuffers::default();
        let piece = Piece { start: 4096, len: 4096 };
        assert!(!table.again(piece));
        table.insert(piece, 5);
        assert!(table.again(piece));
        assert_eq!(table.remove(piece), None);
        assert_eq!(table.lookup(4096, 1), Some(5));
        assert_eq!(table.remove(piece), Some(5));
        assert_eq!(table.lookup(4096, 1), None);
        assert_eq!(table.remove(piece), None);
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_plain_search(
            blocks in proptest::collection::btree_set(0usize..64, 0..20),
            queries in proptest::collection::vec((0usize..64 * 16, 1usize..40), 1..40),
        ) {
            let mut table = FixedBuffers::default();
            for (index, block) in blocks.iter().enumerate() {
                table.insert(Piece { start: block * 16, len: 16 }, index as u16);
            }
            for (addr, len) in queries {
                let expected = blocks.iter().position(|b| b * 16 <= addr && addr + len <= b * 16 + 16);
                prop_assert_eq!(table.lookup(addr, len), expected.map(|index| index as u16));
            }
        }

        #[test]
        fn pieces_cover_the_region(start in 0usize..1 << 40, len in 0usize..5 << 30) {
            let mut next = start;
            for piece in pieces(start, len) {
                prop_assert_eq!(piece.start, next);
                prop_assert!(piece.len > 0 && piece.len <= MAX_FIXED_BYTES);
                next += piece.len;
            }
            prop_assert_eq!(next, start + len);
        }
    }
}
