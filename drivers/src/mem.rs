//! The `mem` driver: a disk in RAM, shared by all lanes, gone with the process.
//!
//! Every command is carried out when it is submitted and reaped in the same turn. Concurrent commands on the same bytes
//! leave some mixture of them, as with any disk.

use std::sync::Arc;

use corelane_dma::{Arena, Backing};
use corelane_engine::aio::{AioContext, Readiness};
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, Errno, IoResult, LeafCommand, LeafCompletion, LeafQueue, Op,
    ReqFlags, Tag,
};

use crate::done::hand_over;

/// How large the disk is and what it consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemOptions {
    /// Length in bytes.
    pub size_bytes: usize,
    /// Kind of memory. Ordinary pages are taken only as they are written.
    pub backing: Backing,
}

impl MemOptions {
    /// A disk of ordinary pages.
    pub fn new(size_bytes: usize) -> MemOptions {
        MemOptions { size_bytes, backing: Backing::Pages }
    }
}

/// A RAM disk. It reads as zeroes at first.
#[derive(Debug)]
pub struct MemDriver {
    arena: Arc<Arena>,
    limits: BlockLimits,
}

impl MemDriver {
    /// Makes the disk.
    ///
    /// # Errors
    /// [`BlockError::Memory`] for a length of zero, or when the system does not give the memory.
    pub fn open(options: &MemOptions) -> Result<MemDriver, BlockError> {
        let arena = Arena::new(options.size_bytes, options.backing)?;
        Ok(MemDriver { arena: Arc::new(arena), limits: BlockLimits::default() })
    }
}

impl BlockDriver for MemDriver {
    fn format_name(&self) -> &'static str {
        "mem"
    }

    fn limits(&self) -> &BlockLimits {
        &self.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        Ok(self.arena.len() as u64)
    }

    /// There is nothing more stable to flush to.
    fn write_cache(&self) -> bool {
        false
    }

    fn supported_write_flags(&self) -> ReqFlags {
        ReqFlags::FUA
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        Some(ReqFlags::FUA | ReqFlags::MAY_UNMAP)
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn open_queue(&self, _ctx: &AioContext, tags: u32) -> Result<Box<dyn LeafQueue>, BlockError> {
        let tags = tags as usize;
        Ok(Box::new(MemQueue { arena: Arc::clone(&self.arena), tags, done: Vec::with_capacity(tags) }))
    }
}

/// The RAM disk in one lane.
struct MemQueue {
    arena: Arc<Arena>,
    tags: usize,
    /// What has been carried out; at most one entry per tag, so that it never grows.
    done: Vec<LeafCompletion>,
}

impl MemQueue {
    #[inline]
    fn carry_out(&self, command: &mut LeafCommand) -> IoResult {
        let LeafCommand { op, flags, offset, bytes, ref mut payload } = *command;
        let outcome = match op {
            Op::Read => self.arena.read_into(offset, payload),
            Op::Write => self.arena.write_from(offset, payload),
            Op::Flush => Ok(()),
            Op::WriteZeroes if flags.contains(ReqFlags::MAY_UNMAP) => self.arena.discard(offset, bytes),
            Op::WriteZeroes => self.arena.zero(offset, bytes),
            Op::Discard => self.arena.discard(offset, bytes),
        };
        // The block layer lets nothing through that leaves the device.
        outcome.map_err(|_| Errno::EIO.into())
    }
}

impl LeafQueue for MemQueue {
    #[inline]
    fn submit(&mut self, tag: Tag, mut command: LeafCommand) -> Result<(), LeafCommand> {
        if self.done.len() >= self.tags {
            return Err(command);
        }
        let result = self.carry_out(&mut command);
        self.done.push(LeafCompletion::new(tag, result, command.payload));
        Ok(())
    }

    #[inline]
    fn commit(&mut self) -> Readiness {
        if self.done.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    #[inline]
    fn reap(&mut self, out: &mut Vec<LeafCompletion>) {
        hand_over(&mut self.done, out, self.tags);
    }
}
