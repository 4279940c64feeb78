//! Copy: ranges of blocks that the controller copies by itself, cut to what it takes at once.

use corelane_dma::{Backing, DmaBuffer, IoBuf, Payload};
use zerocopy::IntoBytes;

use super::abilities::CopyLimits;
use super::error::CommandError;
use super::lane::{Answer, Order};
use super::memory::Direction;
use super::{BlockRange, NvmeCommands};
use crate::nvme::spec::Lba;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::nvm::CopyDescriptor;

const COPY: &str = "Copy";

impl NvmeCommands {
    /// Copies ranges of blocks, one after the other, to `to` and what follows, without moving them through this host
    /// (NVM 3.2.2). What one command cannot take goes in several, in order. Sources and destination may not overlap. Empty
    /// ranges are skipped.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where the namespace has no Copy; [`CommandError::Failed`] and what was being copied
    /// when the first command failed: blocks before that are copied.
    pub async fn copy(&self, from: &[BlockRange], to: Lba) -> Result<(), CommandError> {
        let limits =
            self.abilities().copy.ok_or_else(|| self.unsupported(COPY, "ONCS bit 8, OCFS or MCL"))?;
        self.check_plain(COPY)?;
        for range in from {
            self.check_range(COPY, range.start, range.blocks)?;
        }
        let total = from.iter().map(|range| range.blocks).sum();
        self.check_range(COPY, to, total)?;
        for step in plan(from, to, limits) {
            self.copy_once(&step).await?;
        }
        Ok(())
    }

    async fn copy_once(&self, step: &Step) -> Result<(), CommandError> {
        let list: Vec<CopyDescriptor> =
            step.from.iter().map(|range| CopyDescriptor::new(range.start, range.blocks as u32)).collect();
        let bytes = list.as_bytes();
        let filled =
            DmaBuffer::new(bytes.len(), 4096, Backing::Pages).map(IoBuf::from).and_then(|mut buf| {
                buf.copy_from(0, bytes)?;
                Ok(buf)
            });
        let buf = filled.map_err(|source| CommandError::Memory { command: COPY, source })?;
        let command = Command::copy(self.nsid(), step.to, list.len() as u32);
        let (direction, data) = (Direction::ToDevice, Payload::One(buf));
        let order = Order { name: COPY, command, direction, data, metadata: Payload::None };
        let [Answer { result, .. }] = self.lane.run([order]).await;
        result.map(|_| ())
    }
}

/// One Copy: source ranges that the limits allow, and where their blocks go.
#[derive(PartialEq, Eq, Debug)]
struct Step {
    from: Vec<BlockRange>,
    to: Lba,
}

/// Cuts a copy into commands.
fn plan(from: &[BlockRange], to: Lba, limits: CopyLimits) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut to, mut room) = (to.0, 0);
    for range in from {
        let (mut start, mut left) = (range.start.0, range.blocks);
        while left > 0 {
            let full = steps.last().is_none_or(|step| step.from.len() >= limits.max_ranges);
            if full || room == 0 {
                steps.push(Step { from: Vec::new(), to: Lba(to) });
                room = limits.max_blocks;
            }
            let blocks = left.min(limits.max_range_blocks).min(room);
            if let Some(step) = steps.last_mut() {
                step.from.push(BlockRange { start: Lba(start), blocks });
            }
            (start, left, room, to) = (start + blocks, left - blocks, room - blocks, to + blocks);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, blocks: u64) -> BlockRange {
        BlockRange { start: Lba(start), blocks }
    }

    #[test]
    fn a_copy_is_cut_at_each_limit() {
        let limits = CopyLimits { max_ranges: 2, max_range_blocks: 8, max_blocks: 12 };
        let steps = plan(&[range(100, 20), range(200, 0), range(300, 1)], Lba(1000), limits);
        let expected = [
            Step { from: vec![range(100, 8), range(108, 4)], to: Lba(1000) },
            Step { from: vec![range(112, 8), range(300, 1)], to: Lba(1012) },
        ];
        assert_eq!(steps, expected);
        assert_eq!(plan(&[range(5, 0)], Lba(0), limits), []);
    }

    proptest! {
        #[test]
        fn every_block_is_copied_once_and_in_order(
            ranges in proptest::collection::vec((0..1u64 << 40, 0..300u64), 0..12),
            max_ranges in 1..6usize, max_range_blocks in 1..70u64, max_blocks in 1..100u64,
        ) {
            let limits = CopyLimits { max_ranges, max_range_blocks, max_blocks };
            let from: Vec<BlockRange> = ranges.iter().map(|(start, blocks)| range(*start, *blocks)).collect();
            let wanted: Vec<u64> = from.iter().flat_map(|range| range.start.0..range.start.0 + range.blocks).collect();
            let mut copied = Vec::new();
            let mut to = 77;
            for step in plan(&from, Lba(77), limits) {
                prop_assert_eq!(step.to.0, to);
                prop_assert!((1..=max_ranges).contains(&step.from.len()));
                let blocks: u64 = step.from.iter().map(|range| range.blocks).sum();
                prop_assert!(blocks <= max_blocks);
                for range in step.from {
                    prop_assert!((1..=max_range_blocks).contains(&range.blocks));
                    copied.extend(range.start.0..range.start.0 + range.blocks);
                }
                to += blocks;
            }
            prop_assert_eq!(copied, wanted);
        }
    }
}
