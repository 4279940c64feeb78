//! A driver with stricter limits than it needs, which checks that the block layer keeps to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use corelane_dma::{Backing, MemRegion};
use corelane_engine::aio::{AioContext, Readiness};
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, BlockStatus, Command, LeafQueue, LeafTable, Op, ReqFlags, TableView,
};

/// What is taken away from a driver.
#[derive(Clone, Debug)]
pub struct Restrictions {
    /// At least as strict as the driver's own.
    pub limits: BlockLimits,
    /// Hide write-zeroes.
    pub no_zeroes: bool,
    /// Hide discard.
    pub no_discard: bool,
    /// Hide FUA.
    pub no_fua: bool,
}

/// See the module's documentation.
pub struct Limited {
    inner: Arc<dyn BlockDriver>,
    restrictions: Restrictions,
    still: Arc<AtomicBool>,
}

impl Limited {
    /// Puts `restrictions` on a driver, which gets no command while `still` is set.
    pub fn new(inner: Arc<dyn BlockDriver>, restrictions: Restrictions, still: &Arc<AtomicBool>) -> Limited {
        Limited { inner, restrictions, still: Arc::clone(still) }
    }
}

impl BlockDriver for Limited {
    fn format_name(&self) -> &'static str {
        self.inner.format_name()
    }

    fn limits(&self) -> &BlockLimits {
        &self.restrictions.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        self.inner.length()
    }

    fn write_cache(&self) -> bool {
        self.inner.write_cache()
    }

    fn supported_write_flags(&self) -> ReqFlags {
        if self.restrictions.no_fua { ReqFlags::empty() } else { self.inner.supported_write_flags() }
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        self.inner.supported_zero_flags().filter(|_| !self.restrictions.no_zeroes)
    }

    fn can_discard(&self) -> bool {
        !self.restrictions.no_discard && self.inner.can_discard()
    }

    fn memory(&self) -> Backing {
        self.inner.memory()
    }

    fn open_queue(&self, ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        let view = table.view();
        let inner = self.inner.open_queue(ctx, table)?;
        let (restrictions, still) = (self.restrictions.clone(), Arc::clone(&self.still));
        Ok(Box::new(Checked { inner, restrictions, still, view }))
    }

    fn truncate(&self, length_bytes: u64) -> Result<(), BlockError> {
        self.inner.truncate(length_bytes)
    }

    fn allocated_size(&self) -> Result<u64, BlockError> {
        self.inner.allocated_size()
    }

    fn block_status(&self, offset: u64, bytes: u64) -> Result<BlockStatus, BlockError> {
        self.inner.block_status(offset, bytes)
    }
}

/// A queue that panics at a command that the limits forbid, or that comes at a time when none may.
struct Checked {
    inner: Box<dyn LeafQueue>,
    restrictions: Restrictions,
    still: Arc<AtomicBool>,
    view: TableView,
}

impl Checked {
    fn check(&self, command: &Command) {
        assert!(!self.still.load(Ordering::SeqCst), "in a drained section: {command:?}");
        let limits = &self.restrictions.limits;
        let align = u64::from(limits.request_alignment);
        assert_eq!((command.offset() | command.bytes()) % align, 0, "not aligned to {align}: {command:?}");
        match command.op() {
            Op::Read | Op::Write => {
                let bufs = command.payload().as_bufs();
                assert_eq!(command.payload().len_bytes() as u64, command.bytes(), "length: {command:?}");
                assert!(command.bytes() <= limits.transfer_bound(), "beyond max_transfer: {command:?}");
                assert!(bufs.len() <= limits.max_iov as usize, "beyond max_iov: {command:?}");
                let mask = limits.min_mem_alignment as usize - 1;
                let one = bufs.len() == 1;
                assert!(
                    bufs.iter().all(|buf| buf.addr() & mask == 0 && (one || buf.len() & mask == 0)),
                    "memory is not aligned: {command:?}"
                );
                assert!(!(self.restrictions.no_fua && command.flags().contains(ReqFlags::FUA)));
            }
            Op::WriteZeroes => {
                assert!(
                    !self.restrictions.no_zeroes && command.bytes() <= limits.zeroes_bound(),
                    "{command:?}"
                );
            }
            Op::Discard => {
                assert!(
                    !self.restrictions.no_discard && command.bytes() <= limits.discard_bound(),
                    "{command:?}"
                );
            }
            Op::Flush => {}
        }
    }
}

impl LeafQueue for Checked {
    fn commit(&mut self) -> Readiness {
        self.view.for_each_pending(|_, command| self.check(command));
        self.inner.commit()
    }

    fn reap(&mut self) {
        self.inner.reap();
        assert_eq!(self.view.bogus(), 0, "a command was ended that the queue did not have");
    }

    fn register_buf(&mut self, region: &MemRegion) -> Result<(), BlockError> {
        self.inner.register_buf(region)
    }

    fn unregister_buf(&mut self, region: &MemRegion) {
        self.inner.unregister_buf(region);
    }
}
