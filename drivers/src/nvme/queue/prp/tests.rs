//! Entries are taken apart as the specification says, and must give back every byte of the pieces, in order.

use corelane_dma::{Backing, CoherentBuffer};
use proptest::prelude::*;

use super::*;

const LIST_IOVA: u64 = 0x7_0000_0000;
const PAGES: usize = 4;

struct Lists(CoherentArray<u64>);

impl Lists {
    fn new() -> Lists {
        let buffer = CoherentBuffer::new(2 * PAGES * PAGE as usize, Backing::Pages).unwrap();
        Lists(buffer.array(0, 2 * PAGES * ENTRIES).unwrap())
    }

    /// The second command's list, so that one that begins elsewhere shows.
    fn list(&self) -> List<'_> {
        List { entries: &self.0, first: PAGES * ENTRIES, len: PAGES * ENTRIES, iova: LIST_IOVA }
    }

    fn entry(&self, address: u64) -> u64 {
        let at = address.checked_sub(LIST_IOVA).expect("a pointer into the list") / 8;
        self.0.get(PAGES * ENTRIES + at as usize).expect("a pointer into the list")
    }
}

/// What a controller makes of a data pointer: contiguous pieces, neighbours merged (Base 4.1.1).
fn interpret(pointer: DataPointer, len_bytes: u64, lists: &Lists) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    let mut add = |address: u64, left: u64, first: bool| -> u64 {
        assert!(address & 3 == 0 && (first || address & PAGE_MASK == 0), "offset in entry {address:#x}");
        let take = left.min(PAGE - (address & PAGE_MASK));
        match pieces.last_mut() {
            Some((start, len)) if *start + *len == address => *len += take,
            _ => pieces.push((address, take)),
        }
        left - take
    };
    let mut left = add(pointer.prp1, len_bytes, true);
    if left == 0 {
        assert_eq!(pointer.prp2, 0, "a second entry that means nothing");
    } else if left <= PAGE {
        left = add(pointer.prp2, left, false);
    } else {
        let mut at = pointer.prp2;
        assert_eq!(at & 7, 0);
        while left > 0 {
            let last_of_page = at & PAGE_MASK == PAGE - 8;
            if last_of_page && left > PAGE {
                at = lists.entry(at);
                assert_eq!(at & PAGE_MASK, 0, "a list goes on at the start of a page");
                continue;
            }
            left = add(lists.entry(at), left, false);
            at += 8;
        }
    }
    assert_eq!(left, 0);
    pieces
}

fn merged(pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for &(address, len) in pieces {
        match merged.last_mut() {
            Some((start, before)) if *start + *before == address => *before += len,
            _ => merged.push((address, len)),
        }
    }
    merged
}

fn build(pieces: &[(u64, u64)], lists: &Lists) -> Result<DataPointer, NotExpressible> {
    let list = lists.list();
    let mut builder = Builder::new(&list);
    for &(iova, len) in pieces {
        builder.push(iova, len)?;
    }
    builder.finish()
}

#[test]
fn one_and_two_pages_need_no_list() {
    let lists = Lists::new();
    let list = lists.list();
    let one = |iova, len| contiguous(iova, len, &list).map(|p| (p.prp1, p.prp2));
    assert_eq!(one(0x1000, 4096), Ok((0x1000, 0)));
    assert_eq!(one(0x1000, 8192), Ok((0x1000, 0x2000)));
    assert_eq!(one(0x1ffc, 4), Ok((0x1ffc, 0)));
    assert_eq!(one(0x1ffc, 8), Ok((0x1ffc, 0x2000)));
    assert_eq!(one(0x1ffc, 4100), Ok((0x1ffc, 0x2000)));
    assert_eq!(one(0x1ffc, 4104), Ok((0x1ffc, LIST_IOVA)));
    assert_eq!(one(0x1002, 512), Err(NotExpressible));
}

#[test]
fn a_full_list_page_has_no_pointer_unless_more_follows() {
    let lists = Lists::new();
    for pages in [ENTRIES as u64, ENTRIES as u64 + 1, ENTRIES as u64 + 2, 2 * ENTRIES as u64 + 3] {
        let len = pages * PAGE;
        let pointer = build(&[(0x10_0000, len)], &lists).unwrap();
        assert_eq!(interpret(pointer, len, &lists), [(0x10_0000, len)]);
    }
    let pointer = build(&[(0x10_0000, (ENTRIES as u64 + 1) * PAGE)], &lists).unwrap();
    assert_eq!(lists.entry(pointer.prp2 + PAGE - 8), 0x10_0000 + ENTRIES as u64 * PAGE);
}

#[test]
fn gaps_within_pages_cannot_be_expressed() {
    let lists = Lists::new();
    assert!(build(&[(0x1000, 512), (0x2000, 512)], &lists).is_err(), "the first does not end on a boundary");
    assert!(build(&[(0x1000, 4096), (0x2200, 512)], &lists).is_err(), "the second does not start on one");
    assert!(build(&[(0x1e00, 512), (0x8000, 4096), (0x4000, 512)], &lists).is_ok());
    assert!(build(&[], &lists).is_err());
    assert!(build(&[(u64::MAX - 3, 4096)], &lists).is_err());
}

#[test]
fn a_list_never_grows_beyond_its_pages() {
    let lists = Lists::new();
    let most = (PAGES * (ENTRIES - 1) + 2) as u64;
    assert!(build(&[(0, most * PAGE)], &lists).is_ok());
    assert!(build(&[(0, (most + 1) * PAGE)], &lists).is_err());
    assert_eq!(lists.0.get(0), Some(0), "another command's list");
}

#[test]
fn list_pages_suffice_and_none_is_too_many() {
    for kib in [4u64, 8, 128, 512, 1024, 2044, 2048, 2052, 4096, 6000] {
        let (bytes, pages) = (kib << 10, list_pages(kib << 10));
        let entries = bytes / PAGE; // Behind the first, with an unaligned start.
        let room = |pages: usize| (pages * (ENTRIES - 1) + 1) as u64;
        assert!(entries <= room(pages), "{kib} KiB in {pages} pages");
        assert!(pages == 1 || entries > room(pages - 1), "{kib} KiB in {pages} pages");
    }
}

/// Pieces that can be expressed: the first starts on a dword and runs to a page's end, the last starts on a page.
fn expressible() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let page = 1u64..1 << 30;
    let middle = prop::collection::vec((page.clone(), 1u64..700), 0..4);
    (page.clone(), 0u64..1024, middle, page, 0u64..5000).prop_map(|(first, dword, middle, last, tail)| {
        let offset = dword * 4;
        let mut pieces = vec![(first * PAGE + offset, PAGE - offset)];
        pieces.extend(middle.iter().map(|&(page, count)| (page * PAGE, count * PAGE)));
        if tail > 0 {
            pieces.push((last * PAGE, tail));
        }
        pieces
    })
}

proptest! {
    #[test]
    fn what_is_built_names_every_byte(pieces in expressible()) {
        let lists = Lists::new();
        let len: u64 = pieces.iter().map(|piece| piece.1).sum();
        if let Ok(pointer) = build(&pieces, &lists) {
            prop_assert_eq!(interpret(pointer, len, &lists), merged(&pieces));
        } else {
            prop_assert!(len > (PAGES * (ENTRIES - 1)) as u64 * PAGE, "{} bytes were refused", len);
        }
    }

    #[test]
    fn one_piece_is_the_same_by_the_short_way(page in 1u64..1 << 40, dword in 0u64..1024, len in 1u64..1 << 22) {
        let lists = Lists::new();
        let iova = page * PAGE + dword * 4;
        let pointer = contiguous(iova, len, &lists.list()).unwrap();
        prop_assert_eq!(interpret(pointer, len, &lists), vec![(iova, len)]);
    }

    #[test]
    fn what_is_refused_cannot_be_expressed(pieces in prop::collection::vec((0u64..1 << 20, 1u64..20_000), 1..6)) {
        let lists = Lists::new();
        let pieces: Vec<(u64, u64)> = pieces.iter().map(|&(dword, len)| (dword * 4, len)).collect();
        let whole = pieces.windows(2).all(|two| {
            (two[0].0 + two[0].1) & PAGE_MASK == 0 && two[1].0 & PAGE_MASK == 0
        });
        match build(&pieces, &lists) {
            Ok(pointer) => {
                prop_assert!(whole);
                let len = pieces.iter().map(|piece| piece.1).sum();
                prop_assert_eq!(interpret(pointer, len, &lists), merged(&pieces));
            }
            Err(NotExpressible) => prop_assert!(!whole),
        }
    }
}
