//! [`BlockPool`]: blocks of one size cut from one buffer, taken and given back in one lane without allocating.
//!
//! Invariants:
//! - `free[..top]` holds the addresses of the blocks that nobody has; every block is either there or in exactly one
//!   [`IoBuf`] with a pool lease, whose drop puts it back. So a block in an `IoBuf` is exclusively that buffer's.
//! - The buffer lives as long as the pool or any block of it.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::buffer::{Backing, DmaBuffer};
use crate::error::DmaError;
use crate::iobuf::IoBuf;
use crate::raw::RawSpan;
use crate::region::MemRegion;

/// A pool of blocks in one lane. All its memory is there from the start.
///
/// Dropping the pool while blocks are out is fine: the memory goes when the last of them does.
#[derive(Clone)]
pub struct BlockPool {
    inner: Rc<PoolInner>,
}

/// What the pool and its blocks share.
pub(crate) struct PoolInner {
    /// A stack; the first `top` cells are valid. A block is a span of `block_bytes` bytes of `buffer`.
    free: Box<[Cell<RawSpan>]>,
    top: Cell<usize>,
    block_bytes: usize,
    private: bool,
    buffer: Arc<DmaBuffer>,
}

impl PoolInner {
    /// The size of a block.
    #[inline]
    pub(crate) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Whether no other process can reach the blocks.
    #[inline]
    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    /// All the memory (see [`BlockPool::region`]).
    pub(crate) fn region(&self) -> MemRegion {
        MemRegion::of_pool(Arc::clone(&self.buffer))
    }

    /// Takes the block at the start of `span` back; only from the drop of its buffer.
    #[inline]
    pub(crate) fn give_back(&self, block: RawSpan) {
        let top = self.top.get();
        // A cell is always there, since each block is given back once; a missing one would only lose the block.
        debug_assert!(top < self.free.len());
        if let Some(cell) = self.free.get(top) {
            cell.set(block);
            self.top.set(top + 1);
        }
    }
}

impl BlockPool {
    /// Makes `count` blocks of `block_bytes` bytes, each aligned to `align_bytes` (a power of two), all zeroed at first.
    /// A block is as its last user left it afterwards.
    ///
    /// # Errors
    /// As [`DmaBuffer::new`], and [`DmaError::BadPool`] where a number is 0 or the whole is too large.
    pub fn new(
        block_bytes: usize,
        count: usize,
        align_bytes: usize,
        backing: Backing,
    ) -> Result<BlockPool, DmaError> {
        let (stride, len_bytes) = layout(block_bytes, count, align_bytes)?;
        BlockPool::carve(DmaBuffer::new(len_bytes, align_bytes, backing)?, block_bytes, count, stride)
    }

    /// As [`new`](Self::new), but with ordinary pages where no huge page is free, as
    /// [`DmaBuffer::new_or_fallback`] does it.
    ///
    /// # Errors
    /// As [`new`](Self::new), without those about huge pages.
    pub fn new_or_fallback(
        block_bytes: usize,
        count: usize,
        align_bytes: usize,
        backing: Backing,
    ) -> Result<BlockPool, DmaError> {
        let (stride, len_bytes) = layout(block_bytes, count, align_bytes)?;
        BlockPool::carve(
            DmaBuffer::new_or_fallback(len_bytes, align_bytes, backing)?,
            block_bytes,
            count,
            stride,
        )
    }

    fn carve(
        buffer: DmaBuffer,
        block_bytes: usize,
        count: usize,
        stride: usize,
    ) -> Result<BlockPool, DmaError> {
        let span = buffer.span();
        // The lowest address comes out first, so that a pool of which little is used touches few pages.
        let blocks = (0..count).rev().map(|i| span.part(i * stride, block_bytes).map(Cell::new));
        let free = blocks.collect::<Result<Box<[_]>, _>>()?;
        let private = buffer.is_private();
        let top = Cell::new(count);
        let inner = PoolInner { free, top, block_bytes, private, buffer: Arc::new(buffer) };
        Ok(BlockPool { inner: Rc::new(inner) })
    }

    /// Takes a block, or `None` if all are out. Its drop gives it back.
    #[inline]
    pub fn take(&self) -> Option<IoBuf> {
        let top = self.inner.top.get().checked_sub(1)?;
        let block = self.inner.free.get(top)?.get();
        self.inner.top.set(top);
        Some(IoBuf::of_pool(block, Rc::clone(&self.inner)))
    }

    /// How many blocks can be taken now.
    #[inline]
    pub fn free_blocks(&self) -> usize {
        self.inner.top.get()
    }

    /// How many blocks there are.
    pub fn total_blocks(&self) -> usize {
        self.inner.free.len()
    }

    /// The size of a block in bytes.
    #[inline]
    pub fn block_bytes(&self) -> usize {
        self.inner.block_bytes
    }

    /// What the blocks' memory consists of; after a fall-back not what was asked for.
    pub fn backing(&self) -> Backing {
        self.inner.buffer.backing()
    }

    /// Why ordinary pages were taken instead of huge ones, if they were.
    pub fn fallback_reason(&self) -> Option<&DmaError> {
        self.inner.buffer.fallback_reason()
    }

    /// All the memory, to be registered with devices. Buffers cannot be leased from it, unless it is a memfd, since the
    /// blocks' owners have exclusive access.
    pub fn region(&self) -> MemRegion {
        self.inner.region()
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("block_bytes", &self.inner.block_bytes)
            .field("free_blocks", &self.free_blocks())
            .field("total_blocks", &self.total_blocks())
            .finish()
    }
}

/// The distance from block to block, and the length of the buffer.
fn layout(block_bytes: usize, count: usize, align_bytes: usize) -> Result<(usize, usize), DmaError> {
    let max_bytes = crate::mmap::MAX_BYTES;
    if !align_bytes.is_power_of_two() {
        return Err(DmaError::BadAlignment { align_bytes, max_bytes: 1 << (max_bytes.ilog2()) });
    }
    let stride = block_bytes.checked_next_multiple_of(align_bytes).filter(|&stride| stride > 0);
    let fits = |stride: usize| Some((stride, stride.checked_mul(count)?));
    match stride.and_then(fits) {
        Some((stride, len_bytes)) if count > 0 && len_bytes <= max_bytes => Ok((stride, len_bytes)),
        _ => Err(DmaError::BadPool { block_bytes, count, max_bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_comes_out_once_and_goes_back() {
        let pool = BlockPool::new(1000, 5, 512, Backing::Pages).unwrap();
        assert_eq!((pool.free_blocks(), pool.total_blocks(), pool.block_bytes()), (5, 5, 1000));
        let mut blocks: Vec<IoBuf> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((blocks.len(), pool.free_blocks()), (5, 0));
        assert!(pool.take().is_none());
        for (i, block) in blocks.iter_mut().enumerate() {
            assert_eq!((block.addr() % 512, block.len()), (0, 1000));
            block.as_mut_slice().unwrap().fill(i as u8);
        }
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.as_slice().unwrap().iter().all(|&b| b == i as u8), "blocks overlap");
        }
        let addr = blocks[3].addr();
        blocks.remove(3);
        assert_eq!(pool.free_blocks(), 1);
        assert_eq!(pool.take().unwrap().addr(), addr, "the warmest block comes first");
    }

    #[test]
    fn a_block_outlives_its_pool() {
        let pool = BlockPool::new(4096, 2, 4096, Backing::Pages).unwrap();
        let mut block = pool.take().unwrap();
        drop(pool);
        block.as_mut_slice().unwrap().fill(9);
        assert_eq!(block.as_slice().unwrap()[4095], 9);
    }

    #[test]
    fn a_shortened_block_goes_back_whole() {
        let pool = BlockPool::new(4096, 1, 4096, Backing::Pages).unwrap();
        let mut block = pool.take().unwrap();
        block.set_len(512).unwrap();
        assert_eq!(block.len(), 512);
        drop(block);
        let mut block = pool.take().unwrap();
        assert_eq!(block.len(), 4096);
        block.set_len(1).unwrap();
        block.set_len(4096).unwrap();
        assert!(block.set_len(4097).is_err());
        assert_eq!(block.len(), 4096);
    }

    #[test]
    fn a_pools_region_can_be_registered_but_not_leased() {
        let pool = BlockPool::new(4096, 4, 4096, Backing::Pages).unwrap();
        let region = Rc::new(pool.region());
        assert_eq!(region.len(), 4 * 4096);
        assert!(region.contains(pool.take().unwrap().addr(), 4096));
        assert!(matches!(IoBuf::lease(&region, 0, 512), Err(DmaError::NotLeasable { .. })));
    }

    #[test]
    fn a_memfd_pool_gives_no_slices_but_copies() {
        let pool = BlockPool::new(4096, 4, 4096, Backing::Memfd).unwrap();
        let mut block = pool.take().unwrap();
        assert!(block.as_slice().is_none() && block.as_mut_slice().is_none());
        block.copy_from(1, b"abc").unwrap();
        let mut back = [0; 4];
        block.copy_to(0, &mut back).unwrap();
        assert_eq!(&back, b"\0abc");
    }

    #[test]
    fn impossible_pools_are_refused() {
        for (block_bytes, count) in
            [(0, 1), (1, 0), (usize::MAX, 2), (usize::MAX / 4, 2), (4096, usize::MAX / 4096)]
        {
            let result = BlockPool::new(block_bytes, count, 512, Backing::Pages);
            assert!(matches!(result, Err(DmaError::BadPool { .. })), "{block_bytes} x {count}");
        }
        assert!(matches!(BlockPool::new(1, 1, 3, Backing::Pages), Err(DmaError::BadAlignment { .. })));
    }
}
