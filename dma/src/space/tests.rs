//! The space over a mapper that keeps a table as an IOMMU does: who sees what at which address, limits and failures.

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::registered::LookupCache;
use crate::{Backing, BlockPool, DmaBuffer, IoBuf};

const PAGE: usize = 4096;

/// What the mapper was told, and how it is to behave.
#[derive(Default)]
struct Told {
    /// Address and length in bytes, by I/O virtual address.
    mapped: BTreeMap<u64, (usize, usize)>,
    calls: usize,
    limit: Option<usize>,
    refuse_unmap: BTreeSet<u64>,
    refuse_map: bool,
}

#[derive(Clone)]
struct TableMapper {
    told: Arc<Mutex<Told>>,
    constraints: IovaConstraints,
    name: &'static str,
}

fn constraints(pages: u64) -> IovaConstraints {
    let page_bytes = PAGE as u64;
    IovaConstraints {
        page_bytes,
        ranges: vec![0..=page_bytes * pages - 1],
        max_mappings: None,
        needs_fd: false,
    }
}

impl TableMapper {
    fn new(name: &'static str, constraints: IovaConstraints) -> TableMapper {
        TableMapper { told: Arc::default(), constraints, name }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }
}

impl DmaMapper for TableMapper {
    fn constraints(&self) -> IovaConstraints {
        self.constraints.clone()
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
        let mut told = self.told();
        told.calls += 1;
        assert!((iova.0 as usize | region.addr() | region.len()).is_multiple_of(PAGE) && iova.0 > 0);
        let (addr, len_bytes, in_use) = (region.addr(), region.len(), told.mapped.len());
        if told.limit.is_some_and(|limit| in_use >= limit) {
            let (mapper, advice) = (self.describe(), "; ask for more".to_owned());
            return Err(DmaError::MappingsExhausted { mapper, in_use, limit: None, advice });
        }
        if told.refuse_map {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(DmaError::MapDma { mapper: self.describe(), addr, len_bytes, iova: iova.0, source });
        }
        let before = told.mapped.range(..iova.0 + len_bytes as u64).next_back();
        assert!(before.is_none_or(|(at, (_, len))| at + *len as u64 <= iova.0), "mapped twice");
        told.mapped.insert(iova.0, (addr, len_bytes));
        Ok(())
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError> {
        let mut told = self.told();
        if told.refuse_unmap.contains(&iova.0) {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(DmaError::UnmapDma { mapper: self.describe(), iova: iova.0, len_bytes, source });
        }
        let was = told.mapped.remove(&iova.0);
        assert_eq!(was.map(|(_, len)| len as u64), Some(len_bytes), "never mapped as such");
        Ok(())
    }

    fn describe(&self) -> String {
        self.name.to_owned()
    }

    fn limit_advice(&self) -> String {
        "; ask for more".to_owned()
    }
}

fn space(pages: u64) -> (Arc<AddressSpace>, TableMapper) {
    let mapper = TableMapper::new("table", constraints(pages));
    (AddressSpace::new(Box::new(mapper.clone())).unwrap(), mapper)
}

fn memory(pages: usize) -> MemRegion {
    MemRegion::from_buffer(DmaBuffer::new(pages * PAGE, PAGE, Backing::Pages).unwrap())
}

/// What the device reaches at an address that the space gave out.
fn reached(mapper: &TableMapper, iova: Iova) -> Option<usize> {
    let told = mapper.told();
    let (at, (addr, len)) = told.mapped.range(..=iova.0).next_back()?;
    let offset = (iova.0 - at) as usize;
    (offset < *len).then_some(addr + offset)
}

#[test]
fn registered_memory_is_found_at_its_address() {
    let (space, mapper) = space(1000);
    let memory = memory(8);
    let part = memory.part(PAGE + 100, 2 * PAGE).unwrap();
    assert_eq!(space.register(&part).unwrap(), Registered::New);
    assert_eq!(space.register(&part).unwrap(), Registered::Counted);
    let mut cache = LookupCache::new(Arc::clone(space.table()));
    let iova = cache.lookup(part.addr() + 5, 100).unwrap();
    let iova = iova.value.add(iova.offset_bytes as u64);
    assert_eq!(reached(&mapper, iova), Some(part.addr() + 5));
    assert_eq!(mapper.told().mapped.values().next(), Some(&(memory.addr() + PAGE, 3 * PAGE)), "whole pages");
    space.unregister(&part).unwrap();
    assert_eq!(space.mappings(), 1, "it is still counted");
    space.unregister(&part).unwrap();
    assert!(mapper.told().mapped.is_empty() && cache.lookup(part.addr(), 1).is_none());
    assert!(matches!(space.unregister(&part), Err(DmaError::NotRegistered { .. })));
}

#[test]
fn neighbours_look_up_as_one() {
    let (space, _) = space(1000);
    let memory = memory(8);
    for page in [2, 3, 4] {
        space.register(&memory.part(page * PAGE, PAGE).unwrap()).unwrap();
    }
    let mut cache = LookupCache::new(Arc::clone(space.table()));
    let hit = cache.lookup(memory.addr() + 2 * PAGE + 10, 2 * PAGE).unwrap();
    assert_eq!((hit.offset_bytes, hit.left_bytes), (10, 3 * PAGE - 10));
}

#[test]
fn two_regions_in_one_page_are_both_reached() {
    let (space, mapper) = space(1000);
    let memory = memory(1);
    let parts = [memory.part(0, 100).unwrap(), memory.part(200, 100).unwrap()];
    parts.iter().for_each(|part| assert_eq!(space.register(part).unwrap(), Registered::New));
    let mut cache = LookupCache::new(Arc::clone(space.table()));
    for part in &parts {
        let iova = *cache.lookup(part.addr(), part.len()).unwrap().value;
        assert_eq!(reached(&mapper, iova), Some(part.addr()));
    }
    parts.iter().for_each(|part| space.unregister(part).unwrap());
    assert!(mapper.told().mapped.is_empty());
}

#[test]
fn huge_pages_keep_their_offset() {
    let (space, mapper) = space(1 << 20);
    let huge = 2usize << 20;
    let memory = MemRegion::from_buffer(DmaBuffer::new(3 * huge, huge, Backing::Pages).unwrap());
    space.register(&memory.part(5 * PAGE, PAGE).unwrap()).unwrap();
    space.register(&memory.part(huge - PAGE, huge + 2 * PAGE).unwrap()).unwrap();
    let told = mapper.told();
    let (iova, (addr, _)) = told.mapped.iter().find(|(_, (_, len))| *len > huge).unwrap();
    assert_eq!(*iova as usize % huge, addr % huge);
}

#[test]
fn a_mapper_that_joins_later_has_everything() {
    let (space, first) = space(1000);
    let memories: Vec<MemRegion> = (1..5).map(memory).collect();
    memories.iter().for_each(|memory| assert!(space.register(memory).is_ok()));
    let second = TableMapper::new("second", constraints(500));
    let id = space.join(Box::new(second.clone())).unwrap();
    assert_eq!(first.told().mapped, second.told().mapped);
    assert_eq!(space.constraints().ranges, [0..=500 * PAGE as u64 - 1]);
    space.register(&memory(7)).unwrap();
    space.unregister(&memories[1]).unwrap();
    assert_eq!(first.told().mapped, second.told().mapped);
    assert_eq!(first.told().mapped.len(), 4);
    space.leave(id).unwrap();
    assert!(second.told().mapped.is_empty());
    assert_eq!(first.told().mapped.len(), 4);
}

#[test]
fn who_cannot_join_gets_nothing() {
    let (space, first) = space(1000);
    space.register(&memory(600)).unwrap();
    space.register(&memory(2)).unwrap();
    let join = |mapper: &TableMapper| space.join(Box::new(mapper.clone())).unwrap_err().to_string();
    let narrow = TableMapper::new("narrow", constraints(500));
    assert_eq!(
        join(&narrow),
        "narrow cannot join the address space of table: 2457600 bytes are mapped at 0x1000, which it does not allow"
    );
    let few = TableMapper::new("few", IovaConstraints { max_mappings: Some(1), ..constraints(1000) });
    assert_eq!(
        join(&few),
        "few cannot join the address space of table: 2 mappings are in use, and it takes 1"
    );
    let other = TableMapper::new("other", IovaConstraints { needs_fd: true, ..constraints(1000) });
    assert!(join(&other).starts_with("other cannot reach the 2457600 bytes at 0x"));
    let large = TableMapper::new("large", IovaConstraints { page_bytes: 65536, ..constraints(1000) });
    assert!(join(&large).ends_with("memory is mapped in pages of 4096 bytes, and its pages have 65536"));
    let full = TableMapper::new("full", constraints(1000));
    full.told().limit = Some(1);
    assert_eq!(join(&full), "full takes no further mapping; 1 are in use; ask for more");
    for mapper in [narrow, few, other, large, full] {
        assert!(mapper.told().mapped.is_empty());
    }
    assert_eq!((first.told().mapped.len(), space.constraints()), (2, constraints(1000)));
}

#[test]
fn a_second_mapper_that_refuses_leaves_the_first_as_it_was() {
    let (space, first) = space(1000);
    let second = TableMapper::new("second", constraints(1000));
    space.join(Box::new(second.clone())).unwrap();
    second.told().refuse_map = true;
    let memory = memory(3);
    assert!(matches!(space.register(&memory), Err(DmaError::MapDma { .. })));
    assert!(first.told().mapped.is_empty() && space.table().entries().is_empty());
    second.told().refuse_map = false;
    space.register(&memory).unwrap();
    assert_eq!(
        first.told().mapped.keys().copied().collect::<Vec<_>>(),
        [PAGE as u64],
        "the address came back"
    );
}

#[test]
fn memory_that_stays_mapped_is_kept() {
    let (space, mapper) = space(1000);
    let buffer = Arc::new(DmaBuffer::new(PAGE, PAGE, Backing::Memfd).unwrap());
    let region = MemRegion::from_buffer(Arc::clone(&buffer));
    space.register(&region).unwrap();
    mapper.told().refuse_unmap.insert(PAGE as u64);
    let error = space.unregister(&region).unwrap_err().to_string();
    assert!(error.starts_with(
        "table cannot unmap 4096 bytes at I/O address 0x1000, so their memory is never freed: "
    ));
    drop(region);
    assert_eq!(Arc::strong_count(&buffer), 2, "the space keeps it");
    space.register(&memory(1)).unwrap();
    assert_eq!(mapper.told().mapped.len(), 2, "its address is not used again");
    drop(space);
    assert_eq!((Arc::strong_count(&buffer), mapper.told().mapped.len()), (2, 1), "and it is kept for good");
}

#[test]
fn a_space_that_goes_unmaps_everything() {
    let (space, mapper) = space(1000);
    space.register(&memory(3)).unwrap();
    let region = Rc::new(memory(2));
    space.map_temporary(&IoBuf::lease(&region, 0, PAGE).unwrap()).unwrap().end().unwrap();
    assert_eq!(mapper.told().mapped.len(), 2);
    drop(space);
    assert!(mapper.told().mapped.is_empty());
}

#[test]
fn a_lease_stays_mapped_and_an_owned_buffer_does_not() {
    let (space, mapper) = space(1000);
    let region = Rc::new(memory(4));
    let lease = IoBuf::lease(&region, PAGE + 8, PAGE).unwrap();
    for _ in 0..3 {
        let mapping = space.map_temporary(&lease).unwrap();
        assert_eq!(reached(&mapper, mapping.iova()), Some(lease.addr()));
        assert_eq!(mapping.len_bytes(), PAGE);
    }
    assert_eq!((mapper.told().calls, space.mappings()), (1, 1));
    let owned = IoBuf::from(DmaBuffer::new(PAGE, PAGE, Backing::Pages).unwrap());
    for i in 0..3 {
        let mapping = space.map_temporary(&owned).unwrap();
        assert_eq!(reached(&mapper, mapping.iova()), Some(owned.addr()));
        assert_eq!((mapper.told().calls, space.mappings()), (2 + i, 2));
        mapping.end().unwrap();
        assert_eq!(space.mappings(), 1);
    }
    let pool = BlockPool::new(PAGE, 2, PAGE, Backing::Pages).unwrap();
    let mut block = pool.take().unwrap();
    let piece = block.share_part(100, 200).unwrap();
    drop((space.map_temporary(&block).unwrap(), space.map_temporary(&piece).unwrap()));
    assert_eq!((mapper.told().calls, space.mappings()), (5, 2), "a piece is found in its block");
    assert_eq!(space.flush_temporary(), 2);
    assert!(mapper.told().mapped.is_empty());
}

#[test]
fn a_part_of_a_shared_owned_buffer_is_mapped_with_its_file() {
    let mapper = TableMapper::new("server", IovaConstraints { needs_fd: true, ..constraints(100) });
    let space = AddressSpace::new(Box::new(mapper.clone())).unwrap();
    let mut owned = IoBuf::from(DmaBuffer::new(4 * PAGE, PAGE, Backing::Memfd).unwrap());
    let piece = owned.share_part(PAGE, PAGE).unwrap();
    assert!(piece.device_region().fd().is_some_and(|(_, offset)| offset == PAGE as u64));
    assert!(space.map_temporary(&piece).is_ok());
    let private = IoBuf::from(DmaBuffer::new(PAGE, PAGE, Backing::Pages).unwrap());
    let error = space.map_temporary(&private).unwrap_err().to_string();
    assert!(error.starts_with("server cannot reach the 4096 bytes at 0x"), "{error}");
    assert!(error.ends_with("use a memfd (Backing::Memfd or Backing::MemfdHuge)"), "{error}");
}

#[test]
fn exhausted_mappings_flush_the_cache_and_then_fail() {
    for known in [true, false] {
        let mapper = TableMapper::new(
            "table",
            IovaConstraints { max_mappings: known.then_some(2), ..constraints(1000) },
        );
        mapper.told().limit = Some(2);
        let space = AddressSpace::new(Box::new(mapper.clone())).unwrap();
        let regions: Vec<Rc<MemRegion>> = (0..3).map(|_| Rc::new(memory(1))).collect();
        let lease = |i: usize| IoBuf::lease(&regions[i], 0, 100).unwrap();
        space.map_temporary(&lease(0)).unwrap().end().unwrap();
        let held = space.map_temporary(&lease(1)).unwrap();
        let third = space.map_temporary(&lease(2)).unwrap();
        assert_eq!(mapper.told().mapped.len(), 2, "what was idle went");
        let error = space.register(&memory(1)).unwrap_err().to_string();
        let limit = if known { " of 2" } else { "" };
        assert_eq!(error, format!("table takes no further mapping; 2 are in use{limit}; ask for more"));
        assert_eq!(reached(&mapper, held.iova()), Some(regions[1].addr()), "what is in use stays");
        drop(third);
        assert_eq!(space.register(&memory(1)).unwrap(), Registered::New);
    }
}

#[test]
fn exhausted_addresses_flush_the_cache_and_then_fail() {
    let (space, _) = space(11);
    let region = Rc::new(memory(6));
    space.map_temporary(&IoBuf::lease(&region, 0, 6 * PAGE).unwrap()).unwrap().end().unwrap();
    space.register(&memory(8)).unwrap();
    let error = space.register(&memory(3)).unwrap_err().to_string();
    assert_eq!(
        error,
        "no range of 12288 I/O addresses is free (8192 bytes are, the longest range has 8192); unregister memory, or \
         register it in smaller pieces"
    );
    let nothing = TableMapper::new("nothing", constraints(1));
    assert!(matches!(AddressSpace::new(Box::new(nothing)), Err(DmaError::NoIova { .. })));
}

#[test]
fn what_is_idle_is_bounded() {
    let (space, mapper) = space(1 << 20);
    let large = 20 << 20;
    for _ in 0..5 {
        let region = Rc::new(memory(large / PAGE));
        space.map_temporary(&IoBuf::lease(&region, 0, large).unwrap()).unwrap().end().unwrap();
    }
    assert_eq!(mapper.told().mapped.len(), 3, "60 MiB of at most 64");
}

#[test]
fn lanes_that_compete_for_few_mappings_leave_none() {
    let mapper = TableMapper::new("table", IovaConstraints { max_mappings: Some(5), ..constraints(100) });
    let space = AddressSpace::new(Box::new(mapper.clone())).unwrap();
    std::thread::scope(|scope| {
        for lane in 0..4usize {
            let space = Arc::clone(&space);
            scope.spawn(move || {
                let region = Rc::new(memory(8));
                let mut cache = LookupCache::new(Arc::clone(space.table()));
                for i in 0..500usize {
                    let len = (1 + (i + lane) % 3) * PAGE;
                    let part = region.part(i % 4 * PAGE, len).unwrap();
                    match space.register(&part) {
                        Ok(_) => {
                            assert!(
                                cache.lookup(part.addr(), len).is_some(),
                                "seen at once where it was registered"
                            );
                            let buf = IoBuf::lease(&region, 0, len).unwrap();
                            let mapping = space.map_temporary(&buf);
                            space.unregister(&part).unwrap();
                            drop(mapping);
                        }
                        Err(error) => {
                            assert!(matches!(error, DmaError::MappingsExhausted { in_use: 5, .. }), "{error}")
                        }
                    }
                }
            });
        }
    });
    space.flush_temporary();
    assert_eq!((space.mappings(), mapper.told().mapped.len()), (0, 0));
}

#[test]
fn a_group_that_joins_behind_the_mapper_narrows_the_ranges() {
    #[derive(Clone)]
    struct Shrinking(TableMapper, Arc<Mutex<u64>>);
    impl DmaMapper for Shrinking {
        fn constraints(&self) -> IovaConstraints {
            constraints(*self.1.lock().unwrap())
        }
        fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
            self.0.map(iova, region)
        }
        fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError> {
            self.0.unmap(iova, len_bytes)
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
    }
    let pages = Arc::new(Mutex::new(100));
    let mapper = Shrinking(TableMapper::new("table", constraints(1)), Arc::clone(&pages));
    let space = AddressSpace::new(Box::new(mapper)).unwrap();
    *pages.lock().unwrap() = 10;
    space.refresh_constraints();
    assert!(matches!(space.register(&memory(10)), Err(DmaError::NoIova { free_bytes: 36864, .. })));
    assert!(space.register(&memory(9)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_registered_is_mapped_and_nothing_else(
        steps in prop::collection::vec((any::<bool>(), 0..48usize, 1..9usize, 0..3usize), 1..60),
    ) {
        let (space, mapper) = space(200);
        let memory = memory(64);
        let mut cache = LookupCache::new(Arc::clone(space.table()));
        let mut live: Vec<MemRegion> = Vec::new();
        for (register, page, pages, skew) in steps {
            if register {
                let region = memory.part(page * PAGE + skew * 64, pages * PAGE).unwrap();
                if space.register(&region).is_ok() {
                    live.push(region);
                }
            } else if !live.is_empty() {
                let region = live.swap_remove(page % live.len());
                prop_assert!(space.unregister(&region).is_ok());
            }
            prop_assert_eq!(mapper.told().mapped.len(), space.table().entries().len());
            for region in &live {
                let ends = [region.addr(), region.addr() + region.len() - 1];
                for addr in ends {
                    let hit = cache.lookup(addr, 1).expect("it is registered");
                    let iova = hit.value.add(hit.offset_bytes as u64);
                    prop_assert_eq!(reached(&mapper, iova), Some(addr));
                }
            }
        }
        for region in live {
            space.unregister(&region).unwrap();
        }
        prop_assert!(mapper.told().mapped.is_empty());
    }
}
