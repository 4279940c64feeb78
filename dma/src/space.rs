//! [`AddressSpace`]: what the devices behind one IOMMU see of memory. It gives registered memory I/O virtual addresses and
//! has it mapped; lanes translate by a [`LookupCache`](crate::LookupCache) over its table.
//!
//! Invariants:
//! - `live` holds exactly what is mapped, by I/O virtual address: whole pages, with the region that keeps their memory. What
//!   cannot be unmapped stays there for good, so that neither its memory nor its addresses are used for anything else.
//! - All mappers have all of `live`: a mapper that joins gets it before anything else can be mapped.
//! - One lock orders it all. It is taken inside the table's lock (registration), never the other way round, and never on
//!   the hot path.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::DmaError;
use crate::iova::{Iova, IovaAllocator};
use crate::region::MemRegion;
use crate::registered::{Registered, RegisteredTable};

mod join;
mod reserved;
mod temporary;

pub use join::MapperId;
pub use reserved::ReservedIova;
pub use temporary::TempMapping;

use temporary::Cache;

/// What whoever translates addresses asks of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IovaConstraints {
    /// The size of the smallest page that can be mapped, in bytes; a power of two.
    pub page_bytes: u64,
    /// Where I/O virtual addresses may be: first byte to last byte.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// How many mappings there can be at a time, where that is known.
    pub max_mappings: Option<u32>,
    /// Whether memory has to have a file descriptor, since another process has to map it.
    pub needs_fd: bool,
}

/// Whoever translates the addresses of one or more devices: an IOMMU, a server in another process, a model.
///
/// The calls come one at a time. They are control plane: they may enter the kernel and may take long.
pub trait DmaMapper: Send + Sync {
    /// What it asks of addresses, as of now.
    fn constraints(&self) -> IovaConstraints;

    /// Makes `region`, whole pages of [`IovaConstraints::page_bytes`], visible at `iova`. What it keeps of the region must
    /// go when the range is unmapped.
    ///
    /// # Errors
    /// [`DmaError::MappingsExhausted`] where unmapping something else would help, any other where it would not. Nothing is
    /// mapped then.
    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError>;

    /// Undoes one `map`, with its address and length. When it returns, no device reaches the memory any more.
    ///
    /// # Errors
    /// [`DmaError::UnmapDma`]; the memory is kept then.
    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError>;

    /// What it is, for messages: "IOMMU group 12", "vfio-user server /run/x".
    fn describe(&self) -> String;

    /// How to raise the limit of mappings, for messages: empty, or a clause that begins with its own punctuation.
    fn limit_advice(&self) -> String {
        String::new()
    }
}

/// One I/O virtual address space and what is mapped in it.
pub struct AddressSpace {
    table: Arc<RegisteredTable<Iova>>,
    state: Mutex<State>,
}

struct State {
    /// At least one.
    mappers: Vec<(MapperId, Box<dyn DmaMapper>)>,
    next_mapper: u64,
    /// What all mappers can do.
    constraints: IovaConstraints,
    iovas: IovaAllocator,
    /// What is mapped, by I/O virtual address.
    live: BTreeMap<u64, MemRegion>,
    /// The I/O virtual address after the last byte of each registered mapping, by the address after its memory, so that
    /// what is registered next can continue it.
    ends: BTreeMap<usize, u64>,
    cache: Cache,
}

impl AddressSpace {
    /// A space that `mapper` translates.
    ///
    /// # Errors
    /// [`DmaError::NoIova`] for a mapper that allows no address.
    pub fn new(mapper: Box<dyn DmaMapper>) -> Result<Arc<AddressSpace>, DmaError> {
        let constraints = mapper.constraints();
        let iovas = IovaAllocator::new(constraints.page_bytes, &constraints.ranges);
        if iovas.free_bytes() == 0 {
            let len_bytes = iovas.page_bytes();
            return Err(DmaError::NoIova { len_bytes, free_bytes: 0, largest_bytes: 0 });
        }
        let state = State {
            mappers: vec![(MapperId::FIRST, mapper)],
            next_mapper: 1,
            constraints,
            iovas,
            live: BTreeMap::new(),
            ends: BTreeMap::new(),
            cache: Cache::default(),
        };
        Ok(Arc::new(AddressSpace { table: Arc::new(RegisteredTable::new()), state: Mutex::new(state) }))
    }

    /// Registers memory: counts it, and maps its pages if it is new. Where it continues registered memory it gets the
    /// addresses that continue that, if they are free, so that the two look up as one.
    ///
    /// # Errors
    /// As [`RegisteredTable::register_with`], and those of mapping: [`DmaError::NoIova`], [`DmaError::MappingsExhausted`],
    /// [`DmaError::LockedMemory`], [`DmaError::NeedsFd`], [`DmaError::MapDma`], [`DmaError::Misaligned`]. Nothing is
    /// registered then.
    pub fn register(&self, region: &MemRegion) -> Result<Registered, DmaError> {
        self.table.register_with(region, |region| self.state().map_registered(region))
    }

    /// Undoes one registration and unmaps what nobody counts on any more. The caller has made sure that no request uses it
    /// (see [`RegisteredTable::unregister`]).
    ///
    /// # Errors
    /// [`DmaError::NotRegistered`], and nothing changes; [`DmaError::UnmapDma`]: it is no longer registered, but its memory
    /// is kept.
    pub fn unregister(&self, region: &MemRegion) -> Result<(), DmaError> {
        let unused = self.table.unregister(region.addr(), region.len())?;
        let mut state = self.state();
        let mut result = Ok(());
        for (region, iova) in unused {
            result = result.and(state.unmap_registered(&region, iova));
        }
        result
    }

    /// The table of registered memory, for a lane's [`LookupCache`](crate::LookupCache).
    pub fn table(&self) -> &Arc<RegisteredTable<Iova>> {
        &self.table
    }

    /// What is asked of addresses now: by all mappers together.
    pub fn constraints(&self) -> IovaConstraints {
        self.state().constraints.clone()
    }

    /// How many mappings there are: registered, temporary and cached.
    pub fn mappings(&self) -> usize {
        self.state().live.len()
    }

    /// Who translates, for messages.
    pub fn describe(&self) -> String {
        self.state().describe()
    }

    /// A panic in a mapper leaves what it was asked for undone, and the state as before.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn describe(&self) -> String {
        let names: Vec<String> = self.mappers.iter().map(|(_, mapper)| mapper.describe()).collect();
        names.join(" and ")
    }

    fn map_registered(&mut self, region: &MemRegion) -> Result<Iova, DmaError> {
        let pages = self.pages_of(region)?;
        let after = self.ends.get(&pages.addr()).copied();
        let iova = self.map_pages(&pages, after)?;
        self.ends.insert(pages.addr() + pages.len(), iova.0.wrapping_add(pages.len() as u64));
        Ok(iova.add((region.addr() - pages.addr()) as u64))
    }

    fn unmap_registered(&mut self, region: &MemRegion, iova: Iova) -> Result<(), DmaError> {
        let pages = self.pages_of(region)?;
        let start = iova.0.wrapping_sub((region.addr() - pages.addr()) as u64);
        let end = start.wrapping_add(pages.len() as u64);
        if self.ends.get(&(pages.addr() + pages.len())) == Some(&end) {
            self.ends.remove(&(pages.addr() + pages.len()));
        }
        self.unmap_pages(start)
    }

    /// The pages that hold a region.
    fn pages_of(&self, region: &MemRegion) -> Result<MemRegion, DmaError> {
        let page_bytes = self.iovas.page_bytes();
        let misaligned =
            || DmaError::Misaligned { offset_bytes: region.addr(), align_bytes: page_bytes as usize };
        region.whole_pages(usize::try_from(page_bytes).map_err(|_| misaligned())?).ok_or_else(misaligned)
    }

    /// Maps whole pages at addresses of our choice, `after` if it is free.
    fn map_pages(&mut self, pages: &MemRegion, after: Option<u64>) -> Result<Iova, DmaError> {
        let (addr, len_bytes) = (pages.addr(), pages.len());
        if self.constraints.needs_fd && pages.fd().is_none() {
            return Err(DmaError::NeedsFd { mapper: self.describe(), addr, len_bytes });
        }
        let len = len_bytes as u64;
        let iova = match after.filter(|&after| self.iovas.allocate_at(Iova(after), len)) {
            Some(after) => Iova(after),
            None => self.allocate(len, addr as u64)?,
        };
        let mut result = self.map_at(iova, pages);
        if matches!(result, Err(DmaError::MappingsExhausted { .. })) && self.flush_cache() > 0 {
            result = self.map_at(iova, pages);
        }
        match result {
            Ok(()) => {
                self.live.insert(iova.0, pages.clone());
                Ok(iova)
            }
            Err(error) => {
                // Unless it is still mapped somewhere.
                if !self.live.contains_key(&iova.0) {
                    self.iovas.release(iova, len);
                }
                Err(error)
            }
        }
    }

    fn allocate(&mut self, len_bytes: u64, addr: u64) -> Result<Iova, DmaError> {
        if let Some(iova) = self.iovas.allocate(len_bytes, addr) {
            return Ok(iova);
        }
        if self.flush_cache() > 0
            && let Some(iova) = self.iovas.allocate(len_bytes, addr)
        {
            return Ok(iova);
        }
        let (free_bytes, largest_bytes) = (self.iovas.free_bytes(), self.iovas.largest_free_bytes());
        Err(DmaError::NoIova { len_bytes, free_bytes, largest_bytes })
    }

    /// Maps in every mapper, or in none.
    fn map_at(&mut self, iova: Iova, pages: &MemRegion) -> Result<(), DmaError> {
        if let Some(limit) = self.constraints.max_mappings
            && self.live.len() >= limit as usize
        {
            return Err(DmaError::MappingsExhausted {
                mapper: self.describe(),
                in_use: self.live.len(),
                limit: Some(limit),
                advice: self.mappers.iter().map(|(_, mapper)| mapper.limit_advice()).collect(),
            });
        }
        for (done, (_, mapper)) in self.mappers.iter().enumerate() {
            let Err(error) = mapper.map(iova, pages) else { continue };
            let undone = self.mappers.iter().take(done).map(|(_, mapper)| {
                mapper.unmap(iova, pages.len() as u64).inspect_err(|error| tracing::error!(%error))
            });
            // All of them are to be tried.
            if undone.filter(Result::is_err).count() > 0 {
                self.live.insert(iova.0, pages.clone());
            }
            return Err(error);
        }
        Ok(())
    }

    /// Unmaps what is mapped at `iova`, in every mapper.
    fn unmap_pages(&mut self, iova: u64) -> Result<(), DmaError> {
        let Some(pages) = self.live.get(&iova) else { return Ok(()) };
        let len_bytes = pages.len() as u64;
        let mut result = Ok(());
        for (_, mapper) in &self.mappers {
            result = result.and(mapper.unmap(Iova(iova), len_bytes));
        }
        match &result {
            Ok(()) => {
                self.live.remove(&iova);
                self.iovas.release(Iova(iova), len_bytes);
            }
            Err(error) => tracing::error!(%error, "memory stays mapped for a device"),
        }
        result
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let starts: Vec<u64> = self.live.keys().copied().collect();
        for iova in starts {
            if self.unmap_pages(iova).is_err()
                && let Some(pages) = self.live.remove(&iova)
            {
                // A device may still write it.
                std::mem::forget(pages);
            }
        }
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("AddressSpace")
            .field("mappers", &state.describe())
            .field("mappings", &state.live.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
