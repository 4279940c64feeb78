//! The commands that look at data: Compare, and Dataset Management with its list of ranges.
//!
//! Invariant: all ranges of a list are checked before the first one is deallocated.

use super::{Io, IoContext, Step, namespace, within};
use crate::check::Checker;
use crate::namespace::Store;
use crate::node::Work;
use crate::violation::Rule;
use crate::wire::command::Command;
use crate::wire::status::Status;

/// A range of Dataset Management: attributes, blocks, first block.
const RANGE_BYTES: usize = 16;
/// The bits of a range's context attributes that are defined: access frequency, latency, sequential, write prepare, size.
const ATTRIBUTES: u32 = 0xFF00_073F;

impl Io {
    /// Compare (NVM command set 3.2.1).
    pub(super) fn compare(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let (namespace, blocks) = self.transfer(command, context, check)?;
        if let Store::Node(node) = namespace.store {
            return self.hold_transfer(Work::Compare, node, blocks, context, check);
        }
        let [host, ours] = &mut self.scratch;
        host.resize(blocks.len_bytes as usize, 0);
        ours.resize(blocks.len_bytes as usize, 0);
        let mut rest = &mut host[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at_mut(segment.len_bytes);
            context
                .view
                .read(segment.iova, now)
                .map_err(|fault| check.fault("the data to compare", fault))?;
            rest = later;
        }
        namespace.store.copy_to(blocks.at, ours).map_err(|_| Status::READ_ERROR)?;
        if host == ours { Ok(Step::Done) } else { Err(Status::COMPARE_FAILURE.dnr()) }
    }

    /// Dataset Management (NVM command set 3.2.3). All but Deallocate are hints.
    pub(super) fn dataset_management(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        const DEALLOCATE: u32 = 1 << 2;
        check.reserved(command, 2, &[0; 4]);
        check.reserved(command, 10, &[0xFF, 0x7, 0, 0, 0, 0]);
        let namespace = namespace(command.nsid(), context.shared, check)?;
        let count = (command.dword(10) as usize & 0xFF) + 1;
        let limits = &context.shared.config;
        if limits.dmrl != 0 && count > usize::from(limits.dmrl) {
            let text = format!("{count} ranges; DMRL allows {}", limits.dmrl);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
        }
        let mut list = std::mem::take(&mut self.scratch[0]);
        let result = self.read_list(&mut list, count * RANGE_BYTES, command, context, check).and_then(|()| {
            let (ranges, _) = list.as_chunks::<RANGE_BYTES>();
            let mut total = 0;
            for range in ranges {
                let (attributes, blocks, first) = fields(range);
                if attributes & !ATTRIBUTES != 0 {
                    check.note(Rule::ReservedField, format!("context attributes {attributes:#x}"));
                }
                total += u64::from(blocks);
                if limits.dmrsl != 0 && blocks > limits.dmrsl || limits.dmsl != 0 && total > limits.dmsl {
                    let text =
                        format!("a range of {blocks} blocks, {total} in all; DMRSL or DMSL allow less");
                    return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
                }
                if blocks > 0 {
                    within(first, blocks.into(), namespace, check)?;
                }
            }
            if command.dword(11) & DEALLOCATE == 0 {
                return Ok(Step::Done);
            }
            let wanted = ranges.iter().map(fields).filter(|(_, blocks, _)| *blocks > 0);
            let mut wanted = wanted.map(|(_, blocks, first)| within(first, blocks.into(), namespace, check));
            if let Store::Node(node) = namespace.store {
                let ranges = wanted
                    .map(|range| range.map(|range| (range.at, range.len_bytes)))
                    .collect::<Result<_, _>>()?;
                return Ok(context.hold(Work::Discard, node, ranges, check));
            }
            wanted.try_for_each(|range| {
                let range = range?;
                namespace.forget_metadata(range.at, range.len_bytes)?;
                namespace.store.zero(range.at, range.len_bytes, true).map_err(|_| Status::WRITE_FAULT)
            })?;
            Ok(Step::Done)
        });
        self.scratch[0] = list;
        result
    }

    pub(super) fn read_list(
        &mut self,
        list: &mut Vec<u8>,
        len_bytes: usize,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        list.resize(len_bytes, 0);
        self.segments.of_command(command, list.len(), context.rules, context.view, check)?;
        let mut rest = &mut list[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at_mut(segment.len_bytes);
            context.view.read(segment.iova, now).map_err(|fault| check.fault("the list of ranges", fault))?;
            rest = later;
        }
        Ok(())
    }
}

/// Context attributes, length in blocks, first block.
fn fields(range: &[u8; RANGE_BYTES]) -> (u32, u32, u64) {
    let wide = u128::from_le_bytes(*range);
    (wide as u32, (wide >> 32) as u32, (wide >> 64) as u64)
}
