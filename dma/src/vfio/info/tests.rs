//! The parsers on what kernels give, and on bytes that no kernel gives.

use proptest::prelude::*;

use super::*;

/// One part.
fn part(start: u64, end: u64) -> Vec<Range<u64>> {
    std::iter::once(start..end).collect()
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32s(mut self, values: &[u32]) -> Writer {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    fn u64s(mut self, values: &[u64]) -> Writer {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    /// A header: id, version 1 and the offset of the next.
    fn header(mut self, id: u16, next: u32) -> Writer {
        self.0.extend(id.to_ne_bytes());
        self.0.extend(1u16.to_ne_bytes());
        self.u32s(&[next])
    }
}

fn iommu(cap_offset: u32) -> Writer {
    Writer::default().u32s(&[0, 3]).u64s(&[0x4020_1000]).u32s(&[cap_offset, 0])
}

#[test]
fn ranges_and_the_limit_are_found() {
    let bytes = iommu(24)
        .header(2, 40)
        .u64s(&[0])
        .header(1, 88)
        .u32s(&[2, 0])
        .u64s(&[0, 0xFEDF_FFFF, 0xFEF0_0000, 0x7F_FFFF_FFFF])
        .header(3, 0)
        .u32s(&[65535]);
    assert_eq!(
        IommuInfo::parse(&bytes.0),
        IommuInfo {
            page_bytes: 4096,
            ranges: vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=0x7F_FFFF_FFFF],
            mappings_left: Some(65535)
        }
    );
}

#[test]
fn a_kernel_that_tells_little_is_understood() {
    let usual = IommuInfo { page_bytes: 4096, ranges: USUAL_RANGES.to_vec(), mappings_left: None };
    assert_eq!(IommuInfo::parse(&Writer::default().u32s(&[16, 1]).u64s(&[0x1000]).0), usual);
    assert_eq!(IommuInfo::parse(&[]), usual);
    let large = Writer::default().u32s(&[16, 1]).u64s(&[0x1_0000]);
    assert_eq!(IommuInfo::parse(&large.0).page_bytes, 0x1_0000);
}

#[test]
fn a_chain_without_an_end_ends() {
    let bytes = iommu(24).header(2, 24).u64s(&[0]);
    assert_eq!(IommuInfo::parse(&bytes.0).ranges, USUAL_RANGES);
    let bytes = iommu(24).header(2, 40).u64s(&[0]).header(7, 24).u64s(&[0]);
    assert_eq!(IommuInfo::parse(&bytes.0).mappings_left, None);
}

#[test]
fn a_list_is_as_long_as_its_bytes() {
    let bytes = iommu(24).header(1, 0).u32s(&[u32::MAX, 0]).u64s(&[4096, 8191, 7]);
    assert_eq!(IommuInfo::parse(&bytes.0).ranges, vec![4096..=8191]);
}

fn region(flags: u32, cap_offset: u32, size: u64) -> Writer {
    Writer::default().u32s(&[0, flags, 0, cap_offset]).u64s(&[size, 7 << 40])
}

#[test]
fn a_region_is_mappable_as_a_whole_or_in_parts() {
    let whole = Region::parse(&region(7, 0, 0x4000).0);
    assert_eq!(
        whole,
        Region {
            size_bytes: 0x4000,
            file_offset_bytes: 7 << 40,
            readable: true,
            writable: true,
            mappable: part(0, 0x4000)
        }
    );
    assert!(
        whole.holds(0x3FFC, 4)
            && !whole.holds(0x3FFD, 4)
            && !whole.holds(u64::MAX, 1)
            && whole.holds(0x4000, 0)
    );
    let areas = [0, 0x2000, 0x3000, 0x1000, 0x3000, 0x2000, u64::MAX, 2, 0x1000, 0];
    let parts = region(15, 32, 0x4000).header(1, 0).u32s(&[5, 0]).u64s(&areas);
    assert_eq!(Region::parse(&parts.0).mappable, [0..0x2000, 0x3000..0x4000]);
    let msix = region(15, 32, 0x4000).header(3, 0);
    assert_eq!(Region::parse(&msix.0).mappable, part(0, 0x4000));
    let config = Region::parse(&region(3, 0, 0x1000).0);
    assert!(config.mappable.is_empty() && config.readable && config.writable);
    assert_eq!(Region::parse(&region(7, 0, 0).0).mappable, []);
    assert_eq!(Region::parse(&[]), Region::default());
}

proptest! {
    #[test]
    fn any_bytes_are_taken(mut bytes in prop::collection::vec(any::<u8>(), 0..200), offset in 0..220u32) {
        for (at, limit) in [(16, 20), (12, 16)] {
            // A chain that starts within the bytes is more of a test than one that starts anywhere.
            if bytes.len() >= limit {
                bytes[at..limit].copy_from_slice(&offset.to_ne_bytes());
                bytes[4] |= 0x0F;
            }
            let info = IommuInfo::parse(&bytes);
            prop_assert!(info.page_bytes.is_power_of_two());
            prop_assert!(info.ranges.len() <= bytes.len() / 16 + USUAL_RANGES.len());
            let region = Region::parse(&bytes);
            prop_assert!(region.mappable.iter().all(|part| part.end <= region.size_bytes));
        }
    }
}
