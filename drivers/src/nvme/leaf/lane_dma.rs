//! [`LaneDma`]: how one lane's memory looks to the device, and blocks to copy through where it cannot look at it.

use std::sync::Arc;

use corelane_dma::{AddressSpace, Backing, BlockPool, DmaError, Iova, LookupCache, MemRegion, Payload};

use crate::nvme::bus::Bus;

/// The size of a bounce block in bytes: four of them hold the largest block of a namespace.
pub const BOUNCE_BLOCK_BYTES: usize = 16 << 10;
/// How many there are in a lane.
const BOUNCE_BLOCKS: usize = 128;
/// How many one command takes at most.
pub const BOUNCE_BLOCKS_PER_PART: usize = 8;
/// Up to so many bytes of memory that is not registered are copied; more is mapped for the time of the request. Copying
/// costs some 0.1 ns a byte, mapping and unmapping several microseconds and a flush of the IOMMU's cache.
pub const BOUNCE_MAX_BYTES: u64 = 64 << 10;

/// See the module's documentation.
pub struct LaneDma {
    /// Where the last look-up was, as long as nothing is registered or unregistered.
    last: Span,
    /// Whether ranges may be looked up as one; else each goes the long way.
    whole: bool,
    cache: LookupCache<Iova>,
    space: Arc<AddressSpace>,
    backing: Backing,
    /// Made when the first command needs it.
    bounce: Option<Bounce>,
}

/// Registered memory, as the table had it in this generation.
#[derive(Default)]
struct Span {
    generation: u64,
    addr: usize,
    len_bytes: usize,
    iova: u64,
}

struct Bounce {
    pool: BlockPool,
    region: MemRegion,
}

impl LaneDma {
    /// Of a lane that uses `bus`.
    pub fn new(bus: &dyn Bus) -> LaneDma {
        let space = Arc::clone(bus.dma());
        LaneDma {
            last: Span::default(),
            whole: true,
            cache: LookupCache::new(Arc::clone(space.table())),
            space,
            backing: bus.backing(),
            bounce: None,
        }
    }

    /// Has every command go the long way, piece by piece.
    pub fn never_whole(&mut self) {
        self.whole = false;
    }

    /// The address space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// The I/O address of a range that is registered as one.
    #[inline(always)]
    pub fn iova(&mut self, addr: usize, len_bytes: usize) -> Option<u64> {
        let offset = addr.wrapping_sub(self.last.addr);
        let left = self.last.len_bytes.wrapping_sub(offset);
        if offset < self.last.len_bytes
            && len_bytes <= left
            && self.cache.table().generation() == self.last.generation
        {
            return Some(self.last.iova + offset as u64);
        }
        self.look_up(addr, len_bytes)
    }

    #[cold]
    #[inline(never)]
    fn look_up(&mut self, addr: usize, len_bytes: usize) -> Option<u64> {
        if !self.whole {
            return None;
        }
        // Before the look-up: what changes after it shows in the next.
        let generation = self.cache.table().generation();
        let hit = self.cache.lookup(addr, len_bytes)?;
        let (iova, offset) = (hit.value.0, hit.offset_bytes);
        self.last = Span { generation, addr: addr - offset, len_bytes: offset + hit.left_bytes, iova };
        Some(iova + offset as u64)
    }

    /// Gives `each` the pieces of a range, if all of it is registered; false if some is not.
    pub fn pieces(&mut self, mut addr: usize, len_bytes: usize, mut each: impl FnMut(u64, u64)) -> bool {
        let mut left = len_bytes;
        while left > 0 {
            let Some(hit) = self.cache.lookup(addr, 1) else { return false };
            let step = hit.left_bytes.min(left);
            each(hit.value.0.wrapping_add(hit.offset_bytes as u64), step as u64);
            (addr, left) = (addr + step, left - step);
        }
        true
    }

    /// Adds bounce blocks to `blocks` until it has `count`, or none is left.
    ///
    /// # Errors
    /// Those of making and registering the pool.
    pub fn take_blocks(&mut self, count: usize, blocks: &mut Vec<Payload>) -> Result<(), DmaError> {
        if self.bounce.is_none() {
            self.bounce = Some(Bounce::new(&self.space, self.backing)?);
        }
        let Some(bounce) = &self.bounce else { return Ok(()) };
        while blocks.len() < count
            && let Some(block) = bounce.pool.take()
        {
            blocks.push(Payload::One(block));
        }
        Ok(())
    }
}

impl Bounce {
    fn new(space: &AddressSpace, backing: Backing) -> Result<Bounce, DmaError> {
        let pool =
            BlockPool::new_or_fallback(BOUNCE_BLOCK_BYTES, BOUNCE_BLOCKS, BOUNCE_BLOCK_BYTES, backing)?;
        let region = pool.region();
        space.register(&region)?;
        Ok(Bounce { pool, region })
    }
}

impl Drop for LaneDma {
    /// The queue is gone before its memory: no command uses a block any more.
    fn drop(&mut self) {
        if let Some(bounce) = self.bounce.take()
            && let Err(error) = self.space.unregister(&bounce.region)
        {
            tracing::error!(%error, "a pool of bounce blocks stays registered");
        }
    }
}
