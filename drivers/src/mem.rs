//! The `mem` driver: a disk in RAM, shared by all lanes, gone with the process.
//!
//! Every command is carried out when it is sent, and reaped in the same turn. Concurrent commands on the same bytes
//! leave some mixture of them, as with any disk.

use std::sync::Arc;

use corelane_dma::{Arena, Backing};
use corelane_engine::aio::{AioContext, Readiness};
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, Command, Errno, IoResult, LeafQueue, LeafTable, Op, ReqFlags,
};

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

    fn open_queue(&self, _ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        Ok(Box::new(MemQueue { arena: Arc::clone(&self.arena), table }))
    }
}

/// The RAM disk in one lane.
struct MemQueue {
    arena: Arc<Arena>,
    table: LeafTable,
}

fn carry_out(arena: &Arena, command: &mut Command) -> IoResult {
    let (flags, offset, bytes) = (command.flags(), command.offset(), command.bytes());
    let outcome = match command.op() {
        Op::Read => arena.read_into(offset, command.payload_mut()),
        Op::Write => arena.write_from(offset, command.payload()),
        Op::Flush => Ok(()),
        Op::WriteZeroes if flags.contains(ReqFlags::MAY_UNMAP) => arena.discard(offset, bytes),
        Op::WriteZeroes => arena.zero(offset, bytes),
        Op::Discard => arena.discard(offset, bytes),
    };
    // The block layer lets nothing through that leaves the device.
    outcome.map_err(|_| Errno::EIO.into())
}

impl LeafQueue for MemQueue {
    fn commit(&mut self) -> Readiness {
        let mut slots = self.table.borrow();
        while let Some((tag, command)) = slots.take_pending() {
            let result = carry_out(&self.arena, command);
            slots.end(tag, result);
        }
        if slots.has_ended() { Readiness::Ready } else { Readiness::Idle }
    }
}
