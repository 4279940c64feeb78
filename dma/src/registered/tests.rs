//! The table against a naive model with a cell per unit of memory, its rules one by one, and lanes that race.

use std::thread;

use proptest::prelude::*;

use super::*;
use crate::{Backing, DmaBuffer, IoBuf, IoVector, Payload};

/// A value that stands for an address: it continues itself where the numbers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Base(usize);

impl Attachment for Base {
    fn continues(&self, own_bytes: usize, next: &Base) -> bool {
        self.0 + own_bytes == next.0
    }
}

const CELL: usize = 64;
const CELLS: usize = 64;

fn memory() -> MemRegion {
    MemRegion::from_buffer(DmaBuffer::new(CELL * CELLS, 4096, Backing::Pages).unwrap())
}

fn cells(memory: &MemRegion, start: usize, count: usize) -> MemRegion {
    memory.part(start * CELL, count * CELL).unwrap()
}

/// First cell and number of cells.
type Range = (usize, usize);

/// Every cell knows its entry; every entry knows its first cell, its value and the ranges that count on it.
struct Model {
    owner: [Option<usize>; CELLS],
    entries: Vec<(usize, usize, Vec<Range>)>,
    ranges: Vec<Range>,
}

impl Model {
    fn register(&mut self, range: Range, value: usize) -> Option<Registered> {
        let owners = &self.owner[range.0..range.0 + range.1];
        let result = if owners.iter().all(Option::is_none) {
            let id = self.entries.len();
            self.entries.push((range.0, value, vec![range]));
            self.owner[range.0..range.0 + range.1].fill(Some(id));
            Registered::New
        } else if owners.iter().all(Option::is_some) {
            let mut ids: Vec<usize> = owners.iter().flatten().copied().collect();
            ids.dedup();
            ids.into_iter().for_each(|id| self.entries[id].2.push(range));
            Registered::Counted
        } else {
            return None;
        };
        self.ranges.push(range);
        Some(result)
    }

    /// How many entries went.
    fn unregister(&mut self, range: Range) -> Option<usize> {
        let at = self.ranges.iter().position(|&r| r == range)?;
        self.ranges.remove(at);
        let mut gone = 0;
        for id in 0..self.entries.len() {
            let users = &mut self.entries[id].2;
            let Some(at) = users.iter().position(|&r| r == range) else { continue };
            users.remove(at);
            if users.is_empty() {
                gone += 1;
                self.owner.iter_mut().filter(|owner| **owner == Some(id)).for_each(|owner| *owner = None);
            }
        }
        Some(gone)
    }

    /// The value of the range's first byte, if the values of all its cells follow one another.
    fn lookup(&self, range: Range) -> Option<usize> {
        let value = |cell: usize| {
            let (first, value, _) = &self.entries[self.owner[cell]?];
            Some(value + (cell - first) * CELL)
        };
        let first = value(range.0)?;
        (0..range.1).all(|i| value(range.0 + i) == Some(first + i * CELL)).then_some(first)
    }
}

fn a_range() -> impl Strategy<Value = Range> {
    (0..CELLS, 1..12usize).prop_map(|(start, count)| (start, count.min(CELLS - start)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_behaves_as_its_cells(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), a_range(), any::<prop::sample::Index>()), 1..60),
        probes in prop::collection::vec(a_range(), 1..20),
    ) {
        let memory = memory();
        let table = Arc::new(RegisteredTable::<Base>::new());
        let mut cache = LookupCache::new(Arc::clone(&table));
        let mut model = Model { owner: [None; CELLS], entries: Vec::new(), ranges: Vec::new() };
        for (register, far, range, pick) in steps {
            if register {
                // Most values follow the addresses, so that neighbours merge; some do not.
                let value = range.0 * CELL + if far { 1 << 20 } else { 0 };
                let result = table.register(&cells(&memory, range.0, range.1), Base(value));
                prop_assert_eq!(result.ok(), model.register(range, value));
            } else {
                let known = !model.ranges.is_empty();
                let range = if known { model.ranges[pick.index(model.ranges.len())] } else { range };
                let region = cells(&memory, range.0, range.1);
                let result = table.unregister(region.addr(), region.len());
                prop_assert_eq!(result.ok().map(|removed| removed.len()), model.unregister(range));
            }
            for &range in &probes {
                let region = cells(&memory, range.0, range.1);
                let hit = cache.lookup(region.addr(), region.len());
                prop_assert!(hit.is_none_or(|hit| hit.left_bytes >= region.len()));
                prop_assert_eq!(hit.map(|hit| hit.value.0 + hit.offset_bytes), model.lookup(range));
            }
        }
        let mut left: Vec<usize> = model.owner.iter().flatten().copied().collect();
        left.dedup();
        prop_assert_eq!(table.entries().len(), left.len());
    }
}

#[test]
fn the_rules_of_overlap() {
    let memory = memory();
    let region = |start, count| cells(&memory, start, count);
    let table = RegisteredTable::<()>::new();
    let register = |start, count| table.register(&region(start, count), ());
    assert_eq!(register(10, 10).unwrap(), Registered::New);
    assert_eq!(register(10, 10).unwrap(), Registered::Counted, "the identical range");
    assert_eq!(register(12, 3).unwrap(), Registered::Counted, "a part");
    assert_eq!(register(20, 5).unwrap(), Registered::New, "a neighbour");
    assert_eq!(register(18, 4).unwrap(), Registered::Counted, "across two neighbours");
    for (start, count) in [(9, 2), (9, 30), (24, 2), (0, 11)] {
        match register(start, count) {
            Err(DmaError::PartialOverlap { addr, len_bytes, with_addr, with_len_bytes }) => {
                assert_eq!((addr, len_bytes), (region(start, count).addr(), count * CELL));
                let with = if start == 24 { (20, 5) } else { (10, 10) };
                assert_eq!((with_addr, with_len_bytes), (region(with.0, 1).addr(), with.1 * CELL));
            }
            other => panic!("{start}+{count}: {other:?}"),
        }
    }
    assert!(matches!(table.register(&memory.part(0, 0).unwrap(), ()), Err(DmaError::BadLength { .. })));
}

#[test]
fn an_entry_goes_with_the_last_that_counts_on_it() {
    let memory = memory();
    let table = Arc::new(RegisteredTable::<()>::new());
    let mut cache = LookupCache::new(Arc::clone(&table));
    let (whole, part) = (cells(&memory, 0, 8), cells(&memory, 2, 2));
    table.register(&whole, ()).unwrap();
    table.register(&part, ()).unwrap();
    assert!(table.unregister(whole.addr(), CELL).is_err(), "never registered as such");
    assert!(table.unregister(whole.addr(), whole.len()).unwrap().is_empty());
    assert!(table.unregister(whole.addr(), whole.len()).is_err(), "undone already");
    assert!(cache.lookup(whole.addr(), whole.len()).is_some(), "the part counts on it");
    let removed = table.unregister(part.addr(), part.len()).unwrap();
    assert_eq!((removed.len(), removed[0].0.addr(), removed[0].0.len()), (1, whole.addr(), whole.len()));
    assert!(cache.lookup(part.addr(), part.len()).is_none());
}

#[test]
fn a_device_that_refuses_leaves_the_table_as_it_was() {
    let memory = memory();
    let table = RegisteredTable::<()>::new();
    let full = || DmaError::NotRegistered { addr: 1, len_bytes: 2 };
    let result = table.register_with(&cells(&memory, 0, 4), |_| Err(full()));
    assert!(matches!(result, Err(DmaError::NotRegistered { addr: 1, .. })));
    assert_eq!((table.generation(), table.entries().len()), (0, 0));
    table.register(&cells(&memory, 0, 4), ()).unwrap();
    let result =
        table.register_with(&cells(&memory, 0, 4), |_| -> Result<(), DmaError> { panic!("asked twice") });
    assert_eq!(result.unwrap(), Registered::Counted);
}

#[test]
fn the_generation_changes_only_when_answers_may() {
    let memory = memory();
    let table = RegisteredTable::<()>::new();
    let region = cells(&memory, 0, 4);
    let mut seen = vec![table.generation()];
    for _ in 0..2 {
        table.register(&region, ()).unwrap();
        seen.push(table.generation());
    }
    for _ in 0..2 {
        table.unregister(region.addr(), region.len()).unwrap();
        seen.push(table.generation());
    }
    assert_eq!(seen, [0, 1, 1, 1, 2]);
}

#[test]
fn a_payload_is_covered_when_each_of_its_buffers_is() {
    let memory = std::rc::Rc::new(memory());
    let table = Arc::new(RegisteredTable::<()>::new());
    let mut cache = LookupCache::new(Arc::clone(&table));
    table.register(&cells(&memory, 0, 4), ()).unwrap();
    table.register(&cells(&memory, 8, 4), ()).unwrap();
    let lease = |start, count| IoBuf::lease(&memory, start * CELL, count * CELL).unwrap();
    let payload = Payload::from(IoVector::from_iter([lease(0, 4), lease(9, 2), lease(1, 1)]));
    assert!(cache.covers(&payload) && cache.covers(&Payload::None));
    let payload = Payload::from(IoVector::from_iter([lease(0, 4), lease(3, 2)]));
    assert!(!cache.covers(&payload));
}

#[test]
fn lanes_see_only_whole_states() {
    let memory = memory();
    let table = Arc::new(RegisteredTable::<Base>::new());
    let first = cells(&memory, 0, 8);
    table.register(&first, Base(first.addr())).unwrap();
    thread::scope(|scope| {
        for lane in 0..2usize {
            let (table, memory) = (Arc::clone(&table), memory.clone());
            scope.spawn(move || {
                let mut cache = LookupCache::new(table);
                for i in 0..20_000usize {
                    let region = cells(&memory, (i * 7 + lane) % 60, 1 + i % 4);
                    let hit = cache.lookup(region.addr(), region.len());
                    assert!(hit.is_none_or(|hit| hit.value.0 + hit.offset_bytes == region.addr()));
                    let first = cells(&memory, i % 8, 1);
                    assert!(cache.lookup(first.addr(), CELL).is_some(), "it stays registered throughout");
                }
            });
        }
        scope.spawn(|| {
            for i in 0..3_000usize {
                let region = cells(&memory, 8 + i % 5 * 10, 5 + i % 6);
                table.register(&region, Base(region.addr())).unwrap();
                assert_eq!(table.unregister(region.addr(), region.len()).unwrap().len(), 1);
            }
        });
    });
}
