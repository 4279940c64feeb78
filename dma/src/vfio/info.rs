//! What the kernel tells about an IOMMU and a device's regions, taken apart from bytes.
//!
//! Both are a fixed structure followed by a chain of capabilities (linux/vfio.h, `vfio_info_cap_header`). Offsets and counts
//! are checked as if anybody could have written them: what does not fit is left out, and the chain only goes forward.

use std::ops::{Range, RangeInclusive};

use vfio_bindings::bindings::vfio;

/// What a container of type 1 can map (`struct vfio_iommu_type1_info`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct IommuInfo {
    /// The smallest page in bytes.
    pub(super) page_bytes: u64,
    /// Where I/O virtual addresses may be.
    pub(super) ranges: Vec<RangeInclusive<u64>>,
    /// How many mappings can be added to those that there are.
    pub(super) mappings_left: Option<u32>,
}

/// A region of a device (`struct vfio_region_info`).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Region {
    /// Its length in bytes; 0 if the device has no such region.
    pub size_bytes: u64,
    /// Where it starts in the device's file, in bytes.
    pub(super) file_offset_bytes: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// The parts that can be mapped, in bytes from its start: all of it, or what the kernel does not keep to itself (it may
    /// keep the table of MSI-X vectors).
    pub mappable: Vec<Range<u64>>,
}

/// For a kernel that does not tell the ranges (before 5.4): the addresses that every IOMMU of x86-64 has, without those of
/// the interrupt controller.
const USUAL_RANGES: [RangeInclusive<u64>; 2] = [0..=0xFEDF_FFFF, 0xFEF0_0000..=0x7F_FFFF_FFFF];

/// For a kernel that does not answer.
pub(super) fn unknown() -> IommuInfo {
    IommuInfo { page_bytes: 4096, ranges: USUAL_RANGES.to_vec(), mappings_left: None }
}

/// Reads numbers of the host's byte order at checked offsets.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.0.get(at..)?.first_chunk().copied()?))
    }

    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(at..)?.first_chunk().copied()?))
    }

    fn u64(self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(self.0.get(at..)?.first_chunk().copied()?))
    }

    /// The capability with this id: its bytes from the header on.
    fn capability(self, first: u32, id: u32) -> Option<Bytes<'a>> {
        let mut at = usize::try_from(first).ok()?;
        while at > 0 {
            let next = usize::try_from(self.u32(at + 4)?).ok()?;
            if u32::from(self.u16(at)?) == id {
                return Some(Bytes(self.0.get(at..)?));
            }
            // The kernel appends, so that the chain goes forward; another one might have no end.
            at = if next > at { next } else { 0 };
        }
        None
    }

    /// The pairs of a list whose length stands behind the header: as many as there are bytes for.
    fn pairs(self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let count = self.u32(8).unwrap_or(0) as usize;
        let items = self.0.get(16..).unwrap_or(&[]).chunks_exact(16).take(count);
        items.filter_map(|item| Some((Bytes(item).u64(0)?, Bytes(item).u64(8)?)))
    }
}

impl IommuInfo {
    /// Takes apart what `VFIO_IOMMU_GET_INFO` gave.
    pub(super) fn parse(bytes: &[u8]) -> IommuInfo {
        let bytes = Bytes(bytes);
        let flags = bytes.u32(4).unwrap_or(0);
        let sizes = if flags & vfio::VFIO_IOMMU_INFO_PGSIZES == 0 { None } else { bytes.u64(8) };
        // The lowest bit is the smallest size.
        let page_bytes = sizes.filter(|&sizes| sizes != 0).map_or(4096, |sizes| 1 << sizes.trailing_zeros());
        let first = if flags & vfio::VFIO_IOMMU_INFO_CAPS == 0 { 0 } else { bytes.u32(16).unwrap_or(0) };
        let told = bytes.capability(first, vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
        let ranges = told.map(|list| list.pairs().map(|(start, end)| start..=end).collect());
        let left = bytes.capability(first, vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
        IommuInfo {
            page_bytes,
            ranges: ranges.unwrap_or_else(|| USUAL_RANGES.to_vec()),
            mappings_left: left.and_then(|left| left.u32(8)),
        }
    }
}

impl Region {
    /// Takes apart what `VFIO_DEVICE_GET_REGION_INFO` gave.
    pub(super) fn parse(bytes: &[u8]) -> Region {
        let bytes = Bytes(bytes);
        let flags = bytes.u32(4).unwrap_or(0);
        let size_bytes = bytes.u64(16).unwrap_or(0);
        let has = |flag: u32| flags & flag != 0;
        let first = if has(vfio::VFIO_REGION_INFO_FLAG_CAPS) { bytes.u32(12).unwrap_or(0) } else { 0 };
        let mut mappable = Vec::new();
        if has(vfio::VFIO_REGION_INFO_FLAG_MMAP) && size_bytes > 0 {
            match bytes.capability(first, vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
                Some(areas) => mappable.extend(areas.pairs().filter_map(|(offset, len)| {
                    let end = offset.checked_add(len)?;
                    (len > 0 && end <= size_bytes).then_some(offset..end)
                })),
                None => mappable.push(0..size_bytes),
            }
        }
        Region {
            size_bytes,
            file_offset_bytes: bytes.u64(24).unwrap_or(0),
            readable: has(vfio::VFIO_REGION_INFO_FLAG_READ),
            writable: has(vfio::VFIO_REGION_INFO_FLAG_WRITE),
            mappable,
        }
    }

    /// Whether the range lies within the region.
    pub fn holds(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        offset_bytes <= self.size_bytes && len_bytes <= self.size_bytes - offset_bytes
    }
}

#[cfg(test)]
mod tests;
