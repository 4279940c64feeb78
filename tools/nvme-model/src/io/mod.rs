//! I/O commands of the NVM command set (NVM command set 1.0, section 3.2).
//!
//! Invariants: a range is checked before anything moves; data moves between the host's memory and the namespace without a
//! copy in between; nothing is allocated for a command once the scratch lists have grown.

mod bad;
mod copy;
mod fused;
mod held;
mod metadata;
mod placement;
mod ranges;
mod zoned;

use crate::check::Checker;
use crate::data::{PointerRules, Segments};
use crate::memory::View;
use crate::namespace::{Namespace, Store};
use crate::node::{Nodes, Token, Work};
use crate::shared::Shared;
use crate::violation::Rule;
use crate::wire::command::{Command, NSID_ALL, nvm};
use crate::wire::status::Status;

/// What commands need of the controller.
pub(crate) struct IoContext<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) view: &'a mut View,
    pub(crate) rules: PointerRules,
    pub(crate) nodes: &'a mut Nodes,
    /// The queue that is served, and its serial.
    pub(crate) queue: (u16, u64),
}

/// What was read and written, for the health log.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

/// The state of carrying out commands.
#[derive(Debug)]
pub(crate) struct Io {
    segments: Segments,
    /// Whether any namespace has metadata.
    tagged: bool,
    /// Whether the host knows formats with guards of more than 16 bits.
    extended_formats: bool,
    counters: Vec<Counters>,
    /// For looking at data: ranges, and both sides of a comparison.
    scratch: [Vec<u8>; 2],
    /// Blocks that Write Uncorrectable made bad.
    bad: bad::BadBlocks,
    zoned: zoned::Zoned,
    /// Double words 0 and 1 of the completion of the command that ended last, where they are not 0.
    result: u64,
    /// The first half of a fused operation, whose second half comes next.
    first_half: Option<(Token, Command)>,
    /// Commands that were held and have ended, for the worker to take.
    pub(crate) ended: Vec<(Token, Status)>,
}

/// The bits of double word 12 that Read and Write define here: blocks, protection information (without effect on formats
/// that have none), FUA, limited retry.
const DWORD12: u32 = 0xFC00_FFFF;
/// The bits of double word 13: the dataset management hints.
const DWORD13: u32 = 0xFF;
/// Force Unit Access.
const FUA: u32 = 1 << 30;

/// How far a command got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// It is carried out.
    Done,
    /// A node carries it out; its status comes later.
    Held,
}

/// A range of blocks that lies within its namespace.
#[derive(Clone, Copy)]
struct Blocks {
    /// In bytes.
    at: u64,
    len_bytes: u64,
}

impl Io {
    pub(crate) fn new(namespaces: &[Namespace]) -> Io {
        Io {
            tagged: namespaces.iter().any(|namespace| namespace.metadata.is_some()),
            extended_formats: false,
            segments: Segments::default(),
            counters: vec![Counters::default(); namespaces.len()],
            scratch: [Vec::new(), Vec::new()],
            bad: bad::BadBlocks::default(),
            zoned: zoned::Zoned::new(namespaces),
            result: 0,
            first_half: None,
            ended: Vec::new(),
        }
    }

    /// The sums over all namespaces.
    pub(crate) fn totals(&self) -> Counters {
        self.counters.iter().fold(Counters::default(), |sum, one| Counters {
            reads: sum.reads + one.reads,
            writes: sum.writes + one.writes,
            read_bytes: sum.read_bytes + one.read_bytes,
            written_bytes: sum.written_bytes + one.written_bytes,
        })
    }

    /// Double words 0 and 1 of the completion of the command that ended last.
    #[inline]
    pub(crate) fn take_result(&mut self) -> u64 {
        if self.zoned.any { std::mem::take(&mut self.result) } else { 0 }
    }

    /// Carries out one command. `None`: a node has it, and its status comes later.
    #[inline]
    pub(crate) fn carry_out(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Option<Status> {
        // With PSDT and the reserved bits they are the rare case.
        let (fuse, flags) = (command.fuse(), command.reserved_flags());
        if fuse | flags != 0 || self.first_half.is_some() {
            if flags != 0 {
                check.note(Rule::ReservedField, format!("the reserved flags are {flags:#x}"));
            }
            if fuse != 0 || self.first_half.is_some() {
                return self.fused(fuse, command, context, check);
            }
        }
        self.carry_out_alone(command, context, check)
    }

    /// Carries out a command that is no part of a fused operation, or as if it were none.
    #[inline]
    fn carry_out_alone(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Option<Status> {
        if self.zoned.any
            && let Some(status) = self.carry_out_zoned(command, context, check)
        {
            return Some(status);
        }
        self.carry_out_plain(command, context, check)
    }

    /// Carries out a command of the NVM command set, whatever zones it may be in.
    #[inline]
    fn carry_out_plain(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Option<Status> {
        if !self.bad.is_empty()
            && let Err(status) = self.bad.look(command)
        {
            return Some(status);
        }
        if self.tagged
            && let Some(result) = self.with_metadata(command, context, check)
        {
            return ended(result);
        }
        let config = &context.shared.config;
        let result = match command.opcode() {
            nvm::READ => self.read(command, context, check),
            nvm::WRITE => self.write(command, context, check),
            nvm::FLUSH => flush(command, context, check),
            nvm::COMPARE if config.compare => self.compare(command, context, check),
            nvm::WRITE_ZEROES if config.write_zeroes => write_zeroes(command, context, check),
            nvm::DATASET_MANAGEMENT if config.deallocate => self.dataset_management(command, context, check),
            nvm::VERIFY if config.verify => verify(command, context, check),
            nvm::WRITE_UNCORRECTABLE if config.write_uncorrectable => {
                self.write_uncorrectable(command, context, check)
            }
            nvm::COPY if config.copy => self.copy(command, context, check),
            nvm::MANAGEMENT_RECEIVE if config.has_placement() => {
                self.management_receive(command, context, check)
            }
            opcode => {
                let text = format!("the controller has no I/O command {opcode:02x}h");
                Err(check.refuse(Status::INVALID_OPCODE, Rule::Opcode, text))
            }
        };
        ended(result)
    }

    #[inline]
    fn read(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let (namespace, blocks) = self.transfer(command, context, check)?;
        let step = if let Store::Node(node) = namespace.store {
            self.hold_transfer(Work::Read, node, blocks, context, check)?
        } else {
            let result = namespace.store.read(blocks.at, self.segments.list(), context.view);
            result.map_err(|fault| check.fault("the memory to read into", fault))?;
            Step::Done
        };
        if let Some(counters) = self.counters.get_mut(command.nsid() as usize - 1) {
            counters.reads += 1;
            counters.read_bytes += blocks.len_bytes;
        }
        Ok(step)
    }

    #[inline]
    fn write(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let (namespace, blocks) = self.transfer(command, context, check)?;
        let step = if let Store::Node(node) = namespace.store {
            let fua = command.dword(12) & FUA != 0;
            self.hold_transfer(Work::Write { fua }, node, blocks, context, check)?
        } else {
            let result = namespace.store.write(blocks.at, self.segments.list(), context.view);
            result.map_err(|fault| check.fault("the memory to write from", fault))?;
            Step::Done
        };
        if let Some(counters) = self.counters.get_mut(command.nsid() as usize - 1) {
            counters.writes += 1;
            counters.written_bytes += blocks.len_bytes;
        }
        Ok(step)
    }

    /// What a command with data and blocks needs: its namespace, its range, and `self.segments`.
    #[inline]
    fn transfer<'a>(
        &mut self,
        command: &Command,
        context: &mut IoContext<'a>,
        check: &Checker<'_>,
    ) -> Result<(&'a Namespace, Blocks), Status> {
        let extra = command.word(1)
            | command.mptr()
            | u64::from(command.dword(12) & !DWORD12 | command.dword(13) & !DWORD13);
        let namespace = namespace(command.nsid(), context.shared, check)?;
        if extra != 0 {
            placement::look(command, namespace, context.shared, check)?;
        }
        let blocks = range(command, namespace, check)?;
        let mdts = context.shared.config.mdts;
        if mdts != 0 && blocks.len_bytes > 4096 << mdts {
            let text = format!("{} bytes; MDTS allows {}", blocks.len_bytes, 4096_u64 << mdts);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
        }
        let len_bytes = blocks.len_bytes as usize;
        self.segments.of_command(command, len_bytes, context.rules, context.view, check)?;
        Ok((namespace, blocks))
    }
}

#[inline]
fn ended(result: Result<Step, Status>) -> Option<Status> {
    match result {
        Ok(Step::Done) => Some(Status::SUCCESS),
        Ok(Step::Held) => None,
        Err(status) => Some(status),
    }
}

#[inline]
fn namespace<'a>(nsid: u32, shared: &'a Shared, check: &Checker<'_>) -> Result<&'a Namespace, Status> {
    match shared.namespaces.get((nsid as usize).wrapping_sub(1)) {
        // Metadata of blocks that are not kept is told of, for hosts to refuse, but not served. Of a namespace that was detached
        // a host may not know yet.
        Some(namespace)
            if (namespace.config.metadata_bytes == 0 || namespace.metadata.is_some())
                && namespace.is_attached() =>
        {
            Ok(namespace)
        }
        Some(_) => Err(Status::INVALID_NAMESPACE.dnr()),
        None => Err(no_namespace(nsid, check)),
    }
}

#[cold]
fn no_namespace(nsid: u32, check: &Checker<'_>) -> Status {
    check.refuse(Status::INVALID_NAMESPACE, Rule::Namespace, format!("there is no namespace {nsid:#x}"))
}

/// The blocks of a command with SLBA and NLB.
#[inline]
fn range(command: &Command, namespace: &Namespace, check: &Checker<'_>) -> Result<Blocks, Status> {
    let count = u64::from(command.dword(12) & 0xFFFF) + 1;
    within(command.slba(), count, namespace, check)
}

/// `count` blocks from `first` on, if the namespace has them.
#[inline]
fn within(first: u64, count: u64, namespace: &Namespace, check: &Checker<'_>) -> Result<Blocks, Status> {
    let (size, shift) = (namespace.blocks(), namespace.lba_shift());
    if first >= size || count > size - first {
        if first.saturating_add(count) <= namespace.config.size_bytes >> shift {
            // It was larger; the host may not know yet.
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        let text = format!("blocks {first} to {first}+{count} of {size}");
        return Err(check.refuse(Status::LBA_OUT_OF_RANGE, Rule::Range, text));
    }
    Ok(Blocks { at: first << shift, len_bytes: count << shift })
}

/// Whether so many bytes are within a limit in powers of two of 4 KiB pages, 0 for none.
fn within_limit(limit: &str, exponent: u8, len_bytes: u64, check: &Checker<'_>) -> Result<(), Status> {
    if exponent == 0 || len_bytes <= 4096 << exponent {
        return Ok(());
    }
    let text = format!("{len_bytes} bytes; {limit} allows {}", 4096_u64 << exponent);
    Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text))
}

/// Flush (base 7.1): what is kept here is as stable as RAM is.
fn flush(command: &Command, context: &mut IoContext<'_>, check: &Checker<'_>) -> Result<Step, Status> {
    check.reserved(command, 2, &[0; 14]);
    if command.nsid() == NSID_ALL {
        let any = context.shared.namespaces.iter().any(|one| matches!(one.store, Store::Node(_)));
        return Ok(if any {
            context.hold(Work::Flush { all: true }, 0, Vec::new(), check)
        } else {
            Step::Done
        });
    }
    match namespace(command.nsid(), context.shared, check)?.store {
        Store::Node(node) => Ok(context.hold(Work::Flush { all: false }, node, Vec::new(), check)),
        _ => Ok(Step::Done),
    }
}

/// Write Zeroes (NVM command set 3.2.8).
fn write_zeroes(command: &Command, context: &mut IoContext<'_>, check: &Checker<'_>) -> Result<Step, Status> {
    const DEALLOCATE: u32 = 1 << 25;
    check.reserved(command, 2, &[0; 8]);
    check.reserved(command, 12, &[DWORD12 | DEALLOCATE, 0]);
    let namespace = namespace(command.nsid(), context.shared, check)?;
    let blocks = range(command, namespace, check)?;
    within_limit("WZSL", context.shared.config.wzsl, blocks.len_bytes, check)?;
    let deallocate = command.dword(12) & DEALLOCATE != 0;
    if let Store::Node(node) = namespace.store {
        let work = Work::Zero { may_unmap: deallocate };
        return Ok(context.hold(work, node, vec![(blocks.at, blocks.len_bytes)], check));
    }
    let zeroed = namespace.store.zero(blocks.at, blocks.len_bytes, deallocate);
    zeroed.map(|()| Step::Done).map_err(|_| Status::WRITE_FAULT)
}

/// Verify (NVM command set 3.2.6): the blocks can always be read.
fn verify(command: &Command, context: &IoContext<'_>, check: &Checker<'_>) -> Result<Step, Status> {
    check.reserved(command, 2, &[0; 8]);
    check.reserved(command, 12, &[DWORD12, 0]);
    let namespace = namespace(command.nsid(), context.shared, check)?;
    let blocks = range(command, namespace, check)?;
    within_limit("VSL", context.shared.config.vsl, blocks.len_bytes, check)?;
    Ok(Step::Done)
}
