//! Mappings for the time of a request: memory that nobody registered, too much of it to be copied.
//!
//! Two kinds:
//! - Memory that can outlive the request (a lease of a region, a block of a pool) is mapped once and stays mapped, with the
//!   region that keeps it, until the cache is flushed or outgrows [`IDLE_BYTES`]. A second request with it finds it mapped.
//! - Memory that goes away with its buffer is unmapped when the request ends, since other memory may be at its address the
//!   next time.
//!
//! Invariant: what is cached has no user or more than none; it is unmapped only when it has none.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{AddressSpace, State};
use crate::error::DmaError;
use crate::iobuf::IoBuf;
use crate::iova::Iova;
use crate::region::MemRegion;

/// How many bytes stay mapped, and therefore locked in memory, without being in use.
const IDLE_BYTES: usize = 64 << 20;

/// Memory that stays mapped between requests.
#[derive(Default)]
pub(super) struct Cache {
    /// By the address of the first page.
    entries: BTreeMap<usize, Entry>,
    idle_bytes: usize,
    clock: u64,
}

struct Entry {
    iova: u64,
    len_bytes: usize,
    users: usize,
    /// When it was last taken, in takes.
    used_at: u64,
}

/// Memory mapped for a request. It is unmapped, or left to the cache, when this is dropped: after the device is done with
/// it, and before the buffer goes.
pub struct TempMapping {
    space: Arc<AddressSpace>,
    /// Of the first byte asked for.
    iova: Iova,
    len_bytes: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Of the cache entry at this address.
    Cached(usize),
    /// Mapped at this I/O virtual address.
    Own(u64),
    /// Ended already.
    Ended,
}

impl AddressSpace {
    /// Maps a buffer for the time of a request. The buffer stays where it is, in flight, until the mapping has
    /// [ended](TempMapping::end).
    ///
    /// Takes a lock and usually enters the kernel; worth it only where the buffer is too large to be copied.
    ///
    /// # Errors
    /// Those of mapping (see [`register`](Self::register)), after the cache was flushed where that could help.
    pub fn map_temporary(self: &Arc<Self>, buf: &IoBuf) -> Result<TempMapping, DmaError> {
        let (addr, len_bytes) = (buf.addr(), buf.len());
        let mut state = self.state();
        let (iova, kind) = match state.find_cached(addr, len_bytes) {
            Some((iova, key)) => (iova, Kind::Cached(key)),
            None => match buf.kept_region() {
                Some(region) => state.map_cached(&region)?,
                None => state.map_own(&buf.device_region())?,
            },
        };
        Ok(TempMapping { space: Arc::clone(self), iova, len_bytes, kind })
    }

    /// Unmaps what is cached and not in use, and gives back its memory. Returns how many mappings that were.
    pub fn flush_temporary(&self) -> usize {
        self.state().flush_cache()
    }
}

impl TempMapping {
    /// The address of the buffer's first byte, for the device.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The length of the buffer in bytes.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Ends the mapping, as a drop does, and tells how that went.
    ///
    /// # Errors
    /// [`DmaError::UnmapDma`]: the device can still reach the buffer, which must therefore never be freed (the caller
    /// forgets it).
    pub fn end(mut self) -> Result<(), DmaError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), DmaError> {
        match std::mem::replace(&mut self.kind, Kind::Ended) {
            Kind::Cached(key) => {
                self.space.state().release_cached(key);
                Ok(())
            }
            Kind::Own(iova) => self.space.state().unmap_pages(iova),
            Kind::Ended => Ok(()),
        }
    }
}

impl Drop for TempMapping {
    fn drop(&mut self) {
        // `unmap_pages` logged what went wrong.
        let _ = self.finish();
    }
}

impl fmt::Debug for TempMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TempMapping")
            .field("iova", &self.iova)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl State {
    /// A cached mapping that holds the range, which gets a further user, and its key.
    fn find_cached(&mut self, addr: usize, len_bytes: usize) -> Option<(Iova, usize)> {
        let (&key, entry) = self.cache.entries.range_mut(..=addr).next_back()?;
        let offset = addr - key;
        if offset > entry.len_bytes || len_bytes > entry.len_bytes - offset {
            return None;
        }
        if entry.users == 0 {
            self.cache.idle_bytes -= entry.len_bytes;
        }
        entry.users += 1;
        self.cache.clock += 1;
        entry.used_at = self.cache.clock;
        Some((Iova(entry.iova).add(offset as u64), key))
    }

    /// Maps memory that its region keeps, with one user, for the cache.
    fn map_cached(&mut self, region: &MemRegion) -> Result<(Iova, Kind), DmaError> {
        let pages = self.pages_of(region)?;
        let key = pages.addr();
        if self.cache.entries.contains_key(&key) {
            // A shorter one is there; one that is longer would have been found.
            return self.map_own(region);
        }
        let iova = self.map_pages(&pages, None)?;
        self.cache.clock += 1;
        let entry = Entry { iova: iova.0, len_bytes: pages.len(), users: 1, used_at: self.cache.clock };
        self.cache.entries.insert(key, entry);
        Ok((iova.add((region.addr() - key) as u64), Kind::Cached(key)))
    }

    /// Maps memory for one user.
    fn map_own(&mut self, region: &MemRegion) -> Result<(Iova, Kind), DmaError> {
        let pages = self.pages_of(region)?;
        let iova = self.map_pages(&pages, None)?;
        Ok((iova.add((region.addr() - pages.addr()) as u64), Kind::Own(iova.0)))
    }

    fn release_cached(&mut self, key: usize) {
        let Some(entry) = self.cache.entries.get_mut(&key) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.cache.idle_bytes += entry.len_bytes;
        }
        while self.cache.idle_bytes > IDLE_BYTES && self.evict_oldest() {}
    }

    /// Unmaps what has been idle longest; false if nothing is idle.
    fn evict_oldest(&mut self) -> bool {
        let idle = self.cache.entries.iter().filter(|(_, entry)| entry.users == 0);
        let Some((&key, _)) = idle.min_by_key(|(_, entry)| entry.used_at) else { return false };
        self.evict(key);
        true
    }

    /// Unmaps an idle entry. If that fails it stays in `live`, and is never used again.
    fn evict(&mut self, key: usize) -> bool {
        let Some(entry) = self.cache.entries.remove(&key) else { return false };
        self.cache.idle_bytes -= entry.len_bytes;
        self.unmap_pages(entry.iova).is_ok()
    }

    /// Unmaps all that is idle; how many mappings that were.
    pub(super) fn flush_cache(&mut self) -> usize {
        let idle = self.cache.entries.iter().filter(|(_, entry)| entry.users == 0);
        let keys: Vec<usize> = idle.map(|(&key, _)| key).collect();
        keys.into_iter().filter(|&key| self.evict(key)).count()
    }
}
