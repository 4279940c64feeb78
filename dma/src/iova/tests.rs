//! The allocator against a model with a cell per page, its alignment rules, and the ends of the address space.

use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;
const PAGES: usize = 96;

/// Who has each page: nobody, or the allocation of this number. Pages that are not allowed are `Some(usize::MAX)`.
struct Model {
    pages: Vec<Option<usize>>,
    live: Vec<(Iova, u64)>,
}

impl Model {
    fn free_runs(&self) -> Vec<u64> {
        let runs = self.pages.split(Option::is_some).map(|run| run.len() as u64 * PAGE);
        runs.filter(|&len| len > 0).collect()
    }

    fn fill(&mut self, iova: Iova, len_bytes: u64, with: Option<usize>) -> bool {
        let (first, count) = ((iova.0 / PAGE) as usize, (len_bytes / PAGE) as usize);
        let range = &mut self.pages[first..first + count];
        let expected = range.iter().all(|page| page.is_none() != with.is_none());
        range.fill(with);
        expected
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take(u64),
    TakeAt(u64, u64),
    Release(prop::sample::Index),
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..12u64).prop_map(Step::Take),
        1 => (0..PAGES as u64, 1..8u64).prop_map(|(at, count)| Step::TakeAt(at, count)),
        3 => any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_behaves_as_its_pages(
        ranges in prop::collection::vec((0..PAGES as u64, 0..40u64), 1..4),
        ragged in 0..PAGE,
        steps in prop::collection::vec(a_step(), 1..80),
    ) {
        let last = PAGES as u64 * PAGE - 1;
        let ranges: Vec<_> =
            ranges.iter().map(|&(first, count)| first * PAGE + ragged..=last.min((first + count) * PAGE + ragged)).collect();
        let mut iovas = IovaAllocator::new(PAGE, &ranges);
        let allowed = |page: u64| page > 0 && ranges.iter().any(|range| {
            range.contains(&(page * PAGE)) && range.contains(&(page * PAGE + PAGE - 1))
        });
        let pages = (0..PAGES as u64).map(|page| if allowed(page) { None } else { Some(usize::MAX) }).collect();
        let mut model = Model { pages, live: Vec::new() };
        let at_first = iovas.clone();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Take(count) => {
                    let fits = model.free_runs().iter().any(|&run| run >= count * PAGE);
                    let got = iovas.allocate(count * PAGE, 0x7000 + PAGE);
                    prop_assert_eq!(got.is_some(), fits, "first fit finds a place if there is one");
                    if let Some(iova) = got {
                        prop_assert!(model.fill(iova, count * PAGE, Some(number)), "a page given out twice");
                        model.live.push((iova, count * PAGE));
                    }
                }
                Step::TakeAt(at, count) => {
                    let end = (at + count) as usize;
                    let free = end <= PAGES && model.pages[at as usize..end].iter().all(Option::is_none);
                    prop_assert_eq!(iovas.allocate_at(Iova(at * PAGE), count * PAGE), free);
                    if free {
                        model.fill(Iova(at * PAGE), count * PAGE, Some(number));
                        model.live.push((Iova(at * PAGE), count * PAGE));
                    }
                }
                Step::Release(_) if model.live.is_empty() => {}
                Step::Release(pick) => {
                    let at = pick.index(model.live.len());
                    let (iova, len) = model.live.swap_remove(at);
                    prop_assert!(model.fill(iova, len, None));
                    iovas.release(iova, len);
                }
            }
            let runs = model.free_runs();
            prop_assert_eq!(iovas.free_bytes(), runs.iter().sum::<u64>());
            prop_assert_eq!(iovas.largest_free_bytes(), runs.iter().copied().max().unwrap_or(0));
        }
        for (iova, len) in std::mem::take(&mut model.live) {
            iovas.release(iova, len);
        }
        prop_assert_eq!(iovas.free, at_first.free, "nothing is left of it");
    }

    #[test]
    fn memory_with_huge_pages_gets_them(addr in 0..1u64 << 40, pages in 1..3000u64, skip in 1..600u64) {
        let addr = addr / PAGE * PAGE;
        let len = pages * PAGE;
        let mut iovas = IovaAllocator::new(PAGE, &[skip * PAGE..=(1 << 39) - 1]);
        let iova = iovas.allocate(len, addr).unwrap();
        for huge in [2u64 << 20, 1 << 30] {
            let first = addr.next_multiple_of(huge);
            if first + huge <= addr + len {
                prop_assert_eq!((iova.0 + (first - addr)) % huge, 0, "a whole page of {} bytes", huge);
            }
        }
        iovas.release(iova, len);
        prop_assert_eq!(iovas.free_bytes(), (1 << 39) - skip * PAGE);
    }

    #[test]
    fn fragments_are_never_lost(sizes in prop::collection::vec(1..700u64, 1..60), order in any::<u64>()) {
        let whole = 1u64 << 32;
        let mut iovas = IovaAllocator::new(PAGE, &[0..=whole - 1]);
        let mut live: Vec<(Iova, u64)> = sizes.iter().map(|&pages| {
            let len = pages * PAGE;
            // Different offsets within huge pages leave holes, which small allocations fill later.
            (iovas.allocate(len, pages * 7 % 512 * PAGE).unwrap(), len)
        }).collect();
        let mut seed = order;
        while !live.is_empty() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (iova, len) = live.swap_remove((seed >> 33) as usize % live.len());
            iovas.release(iova, len);
        }
        prop_assert_eq!((iovas.free_bytes(), iovas.largest_free_bytes()), (whole - PAGE, whole - PAGE));
    }
}

#[test]
fn address_zero_is_never_given_out() {
    let mut iovas = IovaAllocator::new(PAGE, &[0..=PAGE * 2 - 1]);
    assert_eq!(iovas.allocate(PAGE, 0), Some(Iova(PAGE)));
    assert_eq!(iovas.allocate(PAGE, 0), None);
    assert!(!IovaAllocator::new(PAGE, &[0..=PAGE * 2 - 1]).allocate_at(Iova(0), PAGE));
}

#[test]
fn the_last_byte_of_the_address_space_can_be_used() {
    let top = u64::MAX - PAGE + 1;
    let mut iovas = IovaAllocator::new(PAGE, &[top - PAGE..=u64::MAX]);
    assert_eq!(iovas.free_bytes(), 2 * PAGE);
    assert!(iovas.allocate_at(Iova(top), PAGE));
    assert!(!iovas.allocate_at(Iova(top), 2 * PAGE), "past the end");
    assert_eq!(iovas.allocate(PAGE, 0), Some(Iova(top - PAGE)));
    iovas.release(Iova(top), PAGE);
    iovas.release(Iova(top - PAGE), PAGE);
    assert_eq!(iovas.largest_free_bytes(), 2 * PAGE);
}

#[test]
fn a_huge_place_is_not_forced() {
    // Room for 2 MiB, but not at a multiple of it.
    let mut iovas = IovaAllocator::new(PAGE, &[PAGE..=(3 << 20) + PAGE - 1]);
    assert_eq!(iovas.allocate(2 << 20, 0), Some(Iova(PAGE)));
}

#[test]
fn lengths_that_are_no_pages_are_refused() {
    let mut iovas = IovaAllocator::new(PAGE, &[0..=u64::MAX]);
    assert_eq!(iovas.free_bytes(), u64::MAX - PAGE + 1);
    for len in [0, 1, PAGE + 1, u64::MAX] {
        assert_eq!(iovas.allocate(len, 0), None);
        assert!(!iovas.allocate_at(Iova(PAGE), len));
    }
    iovas.release(Iova(PAGE), 0);
    assert_eq!(IovaAllocator::new(PAGE, &[5..=4095, 5000..=8192]).free_bytes(), 0, "no whole page");
}

#[test]
fn what_is_no_longer_allowed_does_not_come_back() {
    let mut iovas = IovaAllocator::new(PAGE, &[PAGE..=PAGE * 11 - 1]);
    let taken = iovas.allocate(PAGE * 4, 0).unwrap();
    assert_eq!(taken, Iova(PAGE));
    iovas.narrow(&[PAGE * 3..=PAGE * 8 - 1]);
    assert_eq!(iovas.free_bytes(), PAGE * 3, "pages 5 to 7");
    iovas.release(taken, PAGE * 4);
    assert_eq!((iovas.free_bytes(), iovas.largest_free_bytes()), (PAGE * 5, PAGE * 5), "pages 3 to 7");
}
