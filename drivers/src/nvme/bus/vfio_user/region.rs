//! What a server says of a region, understood and checked: its length, its rights, and which areas of it can be mapped.
//!
//! Invariants of a [`Layout`]: its areas are not empty, lie within the region, start and end on pages, do not overlap, and
//! their places in the file can be computed without overflow.

use std::ops::Range;

use zerocopy::FromBytes;

use super::wire::{
    CAP_SPARSE_MMAP, CapHeader, REGION_CAPS, REGION_MMAP, REGION_READ, REGION_WRITE, RegionInfo, SparseArea,
    SparseHeader,
};

/// The longest reply that is asked for, in bytes: the structure and room for more areas than any device has.
pub(super) const MOST_BYTES: usize = 4096;
/// Mappings are made of pages of this size (x86-64; protocol, the default of `pgsizes`).
pub(super) const PAGE_BYTES: u64 = 4096;

/// A region as the server describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Its length in bytes; 0: there is no such region.
    pub size_bytes: u64,
    /// `wire::REGION_*`.
    pub flags: u32,
    /// What is added to an offset in the region to get one in the file.
    pub file_offset: u64,
    /// The areas that can be mapped, in the server's order, which is that of their descriptors.
    pub areas: Vec<Range<u64>>,
}

impl Layout {
    /// Whether the server lets it be read and written.
    pub fn is_read_write(&self) -> bool {
        self.flags & (REGION_READ | REGION_WRITE) == REGION_READ | REGION_WRITE
    }
}

/// How much a full reply takes, if `payload` is a reply that was cut.
///
/// # Errors
/// What was wrong with it, in words.
pub(super) fn needed_bytes(payload: &[u8], index: u32) -> Result<usize, String> {
    let info = fixed(payload, index)?;
    let needed = usize::try_from(info.argsz).unwrap_or(usize::MAX);
    if (size_of::<RegionInfo>()..=MOST_BYTES).contains(&needed) {
        Ok(needed)
    } else {
        Err(format!("argsz is {needed}; from {} to {MOST_BYTES} bytes are possible", size_of::<RegionInfo>()))
    }
}

fn fixed(payload: &[u8], index: u32) -> Result<RegionInfo, String> {
    let (info, _) = RegionInfo::read_from_prefix(payload)
        .map_err(|_| format!("{} bytes; at least {} are needed", payload.len(), size_of::<RegionInfo>()))?;
    if info.index != index {
        return Err(format!("it describes region {}, asked for was {index}", info.index));
    }
    Ok(info)
}

/// Understands the whole of a reply about region `index`.
///
/// # Errors
/// What was wrong with it, in words.
pub fn parse(payload: &[u8], index: u32) -> Result<Layout, String> {
    let info = fixed(payload, index)?;
    let mut areas = Vec::new();
    if info.flags & REGION_MMAP != 0 && info.size > 0 {
        match sparse_areas(payload, &info)? {
            Some(listed) => areas = listed,
            // The protocol: without the list, all of it. A region that ends within a page is mapped up to that page.
            None if info.size < PAGE_BYTES => {}
            None => areas.push(0..info.size / PAGE_BYTES * PAGE_BYTES),
        }
    }
    let mut sorted: Vec<&Range<u64>> = areas.iter().collect();
    sorted.sort_by_key(|area| area.start);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(format!("the areas at {:#x} and {:#x} overlap", pair[0].start, pair[1].start));
    }
    for area in &areas {
        let page = |offset: u64| offset.is_multiple_of(PAGE_BYTES);
        if !page(area.start) || !page(area.end) || !page(info.offset) {
            return Err(format!(
                "the area {area:#x?} at {:#x} of the file is not made of pages",
                info.offset
            ));
        }
        if info.offset.checked_add(area.end).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(format!(
                "the area {area:#x?} at {:#x} lies behind the end of all files",
                info.offset
            ));
        }
    }
    Ok(Layout { size_bytes: info.size, flags: info.flags, file_offset: info.offset, areas })
}

/// The areas that the capability lists; `None` if there is no such capability.
fn sparse_areas(payload: &[u8], info: &RegionInfo) -> Result<Option<Vec<Range<u64>>>, String> {
    let mut at = if info.flags & REGION_CAPS == 0 { 0 } else { info.cap_offset };
    let mut least = size_of::<RegionInfo>();
    let mut areas = None;
    while at != 0 {
        let offset = usize::try_from(at).unwrap_or(usize::MAX);
        if offset < least {
            return Err(format!("a capability at {offset} does not follow the one before"));
        }
        let cut = || format!("the capability at {offset} reaches outside the {} bytes", payload.len());
        let rest = payload.get(offset..).ok_or_else(cut)?;
        let (header, rest) = CapHeader::read_from_prefix(rest).map_err(|_| cut())?;
        if header.id == CAP_SPARSE_MMAP {
            let (sparse, mut rest) = SparseHeader::read_from_prefix(rest).map_err(|_| cut())?;
            let found = areas.get_or_insert_with(Vec::new);
            for _ in 0..sparse.nr_areas {
                let (area, behind) = SparseArea::read_from_prefix(rest).map_err(|_| cut())?;
                found.push(range(area, info.size)?);
                rest = behind;
            }
        }
        // Offsets that grow are a list that ends.
        least = offset + size_of::<CapHeader>();
        at = header.next;
    }
    Ok(areas)
}

fn range(area: SparseArea, size_bytes: u64) -> Result<Range<u64>, String> {
    match area.offset.checked_add(area.size) {
        Some(end) if end <= size_bytes && area.size > 0 => Ok(area.offset..end),
        _ => Err(format!(
            "the area of {:#x} bytes at {:#x} is empty or reaches outside the region of {size_bytes:#x} bytes",
            area.size, area.offset
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    fn info(flags: u32, size: u64) -> RegionInfo {
        RegionInfo { argsz: 32, flags, index: 0, cap_offset: 0, size, offset: 0 }
    }

    fn reply(info: RegionInfo, areas: &[(u64, u64)], next: u32) -> Vec<u8> {
        let mut bytes = info.as_bytes().to_vec();
        bytes.extend_from_slice(CapHeader { id: CAP_SPARSE_MMAP, version: 1, next }.as_bytes());
        let nr_areas = areas.len() as u32;
        bytes.extend_from_slice(SparseHeader { nr_areas, reserved: 0 }.as_bytes());
        for &(offset, size) in areas {
            bytes.extend_from_slice(SparseArea { offset, size }.as_bytes());
        }
        bytes
    }

    fn sparse(areas: &[(u64, u64)]) -> Result<Vec<Range<u64>>, String> {
        let info = RegionInfo { cap_offset: 32, ..info(REGION_MMAP | REGION_CAPS, 0x4000) };
        parse(&reply(info, areas, 0), 0).map(|layout| layout.areas)
    }

    #[test]
    fn what_can_be_mapped_is_what_the_server_lists() {
        assert_eq!(parse(info(REGION_READ, 0x4000).as_bytes(), 0).unwrap().areas, []);
        assert_eq!(parse(info(REGION_MMAP, 0x4000).as_bytes(), 0).unwrap().areas, vec![0..0x4000; 1]);
        assert_eq!(parse(info(REGION_MMAP, 0x4fff).as_bytes(), 0).unwrap().areas, vec![0..0x4000; 1]);
        assert_eq!(sparse(&[]).unwrap(), []);
        let two = sparse(&[(0x3000, 0x1000), (0x1000, 0x1000)]).unwrap();
        assert_eq!(two, [0x3000..0x4000, 0x1000..0x2000]);
        assert_eq!(parse(info(REGION_MMAP, 0xfff).as_bytes(), 0).unwrap().areas, []);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parse(&[0; 31], 0).is_err());
        assert!(parse(info(0, 1).as_bytes(), 1).is_err());
        for areas in [
            [(0x1000, 0x3001)].as_slice(),
            &[(0x1000, 0)],
            &[(0x1000, u64::MAX)],
            &[(u64::MAX, 0x1000)],
            &[(0x1000, 0x800)],
            &[(0x800, 0x1000)],
            &[(0x1000, 0x2000), (0x2000, 0x1000)],
        ] {
            assert!(sparse(areas).is_err(), "{areas:x?}");
        }
        let far = RegionInfo { offset: !0xfff, ..info(REGION_MMAP, 0x4000) };
        assert!(parse(far.as_bytes(), 0).is_err());
        let odd = RegionInfo { offset: 1, ..info(REGION_MMAP, 0x4000) };
        assert!(parse(odd.as_bytes(), 0).is_err());
        for cap_offset in [1, 31, 33, 1000, u32::MAX] {
            let info = RegionInfo { cap_offset, ..info(REGION_MMAP | REGION_CAPS, 0x4000) };
            assert!(parse(&reply(info, &[(0, 0x1000)], 0), 0).is_err(), "{cap_offset}");
        }
    }

    #[test]
    fn a_list_of_capabilities_that_runs_in_a_circle_ends() {
        let info = RegionInfo { cap_offset: 32, ..info(REGION_MMAP | REGION_CAPS, 0x4000) };
        for next in [32, 8, 39] {
            assert!(parse(&reply(info, &[], next), 0).is_err());
        }
    }

    #[test]
    fn a_reply_that_was_cut_says_how_long_it_is() {
        assert_eq!(needed_bytes(info(0, 1).as_bytes(), 0), Ok(32));
        for argsz in [0, 31, 4097, u32::MAX] {
            assert!(needed_bytes(RegionInfo { argsz, ..info(0, 1) }.as_bytes(), 0).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_keep_the_invariants(
            flags in 0..16u32,
            cap_offset in prop_oneof![Just(32u32), 0..80u32, any::<u32>()],
            size in prop_oneof![Just(0x4000u64), any::<u64>()],
            offset in prop_oneof![Just(0u64), any::<u64>()],
            tail in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x10), any::<u8>()], 0..100),
        ) {
            let info = RegionInfo { argsz: 32, flags, index: 0, cap_offset, size, offset };
            let mut bytes = info.as_bytes().to_vec();
            bytes.extend(tail);
            if let Ok(mut layout) = parse(&bytes, 0) {
                let mut least = 0;
                layout.areas.sort_by_key(|area| area.start);
                for area in layout.areas {
                    prop_assert!(least <= area.start && area.start < area.end && area.end <= size);
                    prop_assert!(area.start % 4096 == 0 && area.end % 4096 == 0);
                    prop_assert!(layout.file_offset.checked_add(area.end).is_some());
                    least = area.end;
                }
            }
        }
    }
}
