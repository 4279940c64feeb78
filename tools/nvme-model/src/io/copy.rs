//! Copy (NVM command set 3.2.2), with descriptors of format 0.
//!
//! Invariant: all ranges of a list are checked before the first one is copied.

use super::{Blocks, Io, IoContext, Step, namespace, within};
use crate::check::Checker;
use crate::namespace::Store;
use crate::node::Work;
use crate::violation::Rule;
use crate::wire::command::Command;
use crate::wire::status::Status;

/// A source range: first block at 8, blocks less one at 16.
const DESCRIPTOR_BYTES: usize = 32;

impl Io {
    pub(super) fn copy(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        check.reserved(command, 2, &[0; 4]);
        // Ranges, descriptor format, protection information, FUA, limited retry.
        check.reserved(command, 12, &[0xFC00_FFFF, 0, u32::MAX, u32::MAX]);
        let format = command.dword(12) >> 8 & 0xF;
        if format != 0 {
            let text = format!("the descriptors' format is {format}; OCFS offers 0");
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        let namespace = namespace(command.nsid(), context.shared, check)?;
        let limits = namespace.config.copy;
        let count = (command.dword(12) as usize & 0xFF) + 1;
        if count > usize::from(limits.ranges_less_one) + 1 {
            let text = format!("{count} ranges; MSRC allows {}", u32::from(limits.ranges_less_one) + 1);
            return Err(check.refuse(Status::SIZE_LIMIT, Rule::Range, text));
        }
        let mut list = std::mem::take(&mut self.scratch[0]);
        let read = self.read_list(&mut list, count * DESCRIPTOR_BYTES, command, context, check);
        let (descriptors, _) = list.as_chunks::<DESCRIPTOR_BYTES>();
        let parsed = read.and_then(|()| {
            let mut from = Vec::with_capacity(count);
            for descriptor in descriptors {
                let (first, blocks) = fields(descriptor, check);
                if blocks > limits.range_blocks.into() {
                    let text = format!("a range of {blocks} blocks; MSSRL allows {}", limits.range_blocks);
                    return Err(check.refuse(Status::SIZE_LIMIT, Rule::Range, text));
                }
                within(first, blocks, namespace, check)?;
                if self.bad.has(command.nsid(), first, blocks) {
                    return Err(Status::READ_ERROR);
                }
                from.push((first, blocks));
            }
            Ok(from)
        });
        self.scratch[0] = list;
        let from = parsed?;
        let total = from.iter().map(|(_, blocks)| blocks).sum::<u64>();
        if total > limits.blocks.into() {
            let text = format!("{total} blocks; MCL allows {}", limits.blocks);
            return Err(check.refuse(Status::SIZE_LIMIT, Rule::Range, text));
        }
        let to = within(command.slba(), total, namespace, check)?;
        self.bad.mend(command.nsid(), command.slba(), total);
        let shift = namespace.lba_shift();
        let ranges: Vec<_> = from.iter().map(|(first, blocks)| (first << shift, blocks << shift)).collect();
        if let Store::Node(node) = namespace.store {
            return Ok(context.hold(Work::Copy { to: to.at }, node, ranges, check));
        }
        let Blocks { mut at, .. } = to;
        for (from, len_bytes) in ranges {
            let scratch = &mut self.scratch[1];
            scratch.resize(len_bytes as usize, 0);
            namespace.store.copy(from, at, scratch).map_err(|_| Status::WRITE_FAULT)?;
            at += len_bytes;
        }
        Ok(Step::Done)
    }
}

/// First block and number of blocks.
fn fields(descriptor: &[u8; DESCRIPTOR_BYTES], check: &Checker<'_>) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| descriptor[at + byte]));
    let reserved = word(0) | word(16) >> 16;
    if reserved != 0 {
        check.note(Rule::ReservedField, "reserved bytes of a source range are not 0".to_owned());
    }
    (word(8), (word(16) & 0xFFFF) + 1)
}
