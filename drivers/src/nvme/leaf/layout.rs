//! [`Layout`]: where the blocks of a request lie in the bounce blocks that they are copied through.
//!
//! Invariant: metadata behind a block's data is zero when it is written, whatever lay in the bounce block before.

use corelane_dma::Payload;
use corelane_engine::block::Errno;

use super::lane_dma::BOUNCE_BLOCK_BYTES;

/// Blocks of `block` bytes, each with `behind` bytes of metadata behind it, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub block: usize,
    pub behind: usize,
}

/// A piece of the data that lies in one bounce block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Which bounce block.
    pub block: usize,
    /// Where in it, in bytes.
    pub at: usize,
    /// Where in the data.
    pub from: usize,
    /// How long it is.
    pub len: usize,
}

impl Layout {
    /// How many bytes so much data takes; whole blocks.
    pub fn span(self, data_bytes: usize) -> usize {
        data_bytes + data_bytes / self.block * self.behind
    }

    /// How much data there is room for; whole blocks.
    pub fn fits(self, room_bytes: usize) -> usize {
        room_bytes / (self.block + self.behind) * self.block
    }

    /// The pieces of so much data.
    pub fn runs(self, data_bytes: usize) -> impl Iterator<Item = Run> {
        // Without metadata between them blocks are as good as one.
        let block = if self.behind == 0 { data_bytes.max(1) } else { self.block };
        let (mut from, mut to) = (0, 0);
        std::iter::from_fn(move || {
            let (left, at) = (data_bytes - from, to % BOUNCE_BLOCK_BYTES);
            let len = left.min(block - from % block).min(BOUNCE_BLOCK_BYTES - at);
            let run = Run { block: to / BOUNCE_BLOCK_BYTES, at, from, len };
            (from, to) = (from + len, to + len);
            if from.is_multiple_of(block) {
                to += self.behind;
            }
            (len > 0).then_some(run)
        })
    }

    /// Copies `data_bytes` bytes of `data` from `skip` on into bounce blocks, and zeroes for the metadata.
    ///
    /// # Errors
    /// `EIO` where either has too few bytes.
    pub fn fill(
        self,
        blocks: &mut [Payload],
        data: &Payload,
        skip: usize,
        data_bytes: usize,
    ) -> Result<(), Errno> {
        if self.behind > 0 {
            for block in blocks.iter_mut() {
                block.fill(0, BOUNCE_BLOCK_BYTES, 0).map_err(|_| Errno::EIO)?;
            }
        }
        self.runs(data_bytes).try_for_each(|Run { block, at, from, len }| {
            let block = blocks.get_mut(block).ok_or(Errno::EIO)?;
            block.copy_payload(at, data, skip + from, len).map_err(|_| Errno::EIO)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_cover_the_data_and_leave_the_metadata(
            shift in 9..=16_usize,
            behind in prop_oneof![Just(0_usize), 1..300_usize, Just(65_535)],
            room in 1..=8_usize,
        ) {
            let layout = Layout { block: 1 << shift, behind };
            let data_bytes = layout.fits(room * BOUNCE_BLOCK_BYTES);
            prop_assert!(layout.span(data_bytes) <= room * BOUNCE_BLOCK_BYTES);
            let mut next = 0;
            for run in layout.runs(data_bytes) {
                prop_assert!(run.len > 0 && run.at + run.len <= BOUNCE_BLOCK_BYTES);
                prop_assert_eq!(run.from, next);
                // Each byte lies as far behind its block's beginning as in the data.
                for at in [run.from, run.from + run.len - 1] {
                    let place = run.block * BOUNCE_BLOCK_BYTES + run.at + (at - run.from);
                    prop_assert_eq!(place, at / layout.block * (layout.block + behind) + at % layout.block);
                }
                next += run.len;
            }
            prop_assert_eq!(next, data_bytes);
        }
    }
}
