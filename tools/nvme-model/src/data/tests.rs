//! Tests of data pointers, by lists written into memory by hand.

use corelane_dma::{Backing, DeviceMemory, DmaBuffer, MemRegion};

use super::*;
use crate::memory::IovaTable;
use crate::violation::Violations;

const PAGE: u64 = 4096;
const RULES: PointerRules = PointerRules { page_bytes: PAGE as usize, sgls: true };

struct Host {
    violations: Violations,
    view: View,
    segments: Segments,
}

impl Host {
    /// 64 KiB of memory at I/O address 10000h.
    fn new() -> Host {
        let buffer = DmaBuffer::new(0x10000, 4096, Backing::Pages).unwrap();
        let table = IovaTable::default();
        table.map(0x10000, DeviceMemory::of(&MemRegion::from_buffer(buffer))).unwrap();
        Host { violations: Violations::default(), view: table.view(), segments: Segments::default() }
    }

    fn put(&mut self, iova: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.view.write(iova, &bytes).unwrap();
    }

    fn find(&mut self, psdt: u64, pointer: [u64; 2], len: usize) -> Result<Vec<(u64, usize)>, Status> {
        let command = Command([psdt << 14, 0, 0, pointer[0], pointer[1], 0, 0, 0]);
        let check = Checker::new(&self.violations, 1, 0);
        self.segments.of_command(&command, len, RULES, &mut self.view, &check)?;
        Ok(self.segments.list().iter().map(|segment| (segment.iova, segment.len_bytes)).collect())
    }

    fn rules(&self) -> Vec<Rule> {
        self.violations.take().iter().map(|violation| violation.rule).collect()
    }
}

#[test]
fn one_page_and_two() {
    let mut host = Host::new();
    assert_eq!(host.find(0, [0x5000, 0], 4096), Ok(vec![(0x5000, 4096)]));
    assert_eq!(host.find(0, [0x5004, 0x9000], 4096), Ok(vec![(0x5004, 4092), (0x9000, 4)]));
    assert_eq!(host.find(0, [0x5000, 0x6000], 8192), Ok(vec![(0x5000, 8192)]), "neighbours are one");
    assert_eq!(host.rules(), []);
}

#[test]
fn offsets_where_none_may_be_are_refused() {
    let mut host = Host::new();
    for (prp, len) in [([0x5002, 0], 512), ([0x5000, 0x6004], 8192), ([0x5000, 0x10004], 16384)] {
        assert_eq!(host.find(0, prp, len), Err(Status::PRP_OFFSET_INVALID.dnr()), "{prp:x?}");
        assert_eq!(host.rules(), [Rule::PrpOffset]);
    }
    host.put(0x10000, &[0x20000, 0x30008]);
    assert_eq!(host.find(0, [0x5000, 0x10000], 12288), Err(Status::PRP_OFFSET_INVALID.dnr()));
    assert_eq!(host.rules(), [Rule::PrpOffset]);
}

#[test]
fn a_second_entry_that_is_not_needed_is_noted() {
    let mut host = Host::new();
    assert!(host.find(0, [0x5000, 0x6000], 512).is_ok());
    assert_eq!(host.rules(), [Rule::ReservedField]);
}

#[test]
fn a_list_is_followed_through_its_pages() {
    let mut host = Host::new();
    // The list starts 24 bytes before the end of its page: two entries and a pointer to the next page of it.
    host.put(0x10000 + PAGE - 24, &[0x20000, 0x22000, 0x12008]);
    host.put(0x12008, &[0x24000, 0x26000]);
    let found = host.find(0, [0x5800, 0x10000 + PAGE - 24], 2048 + 3 * 4096 + 100);
    let expected = vec![(0x5800, 2048), (0x20000, 4096), (0x22000, 4096), (0x24000, 4096), (0x26000, 100)];
    assert_eq!(found, Ok(expected));
    // One page less: the last entry of the first page of the list is then an entry.
    let found = host.find(0, [0x5800, 0x10000 + PAGE - 24], 2048 + 2 * 4096 + 100);
    assert_eq!(found, Err(Status::PRP_OFFSET_INVALID.dnr()), "0x12008 is no page");
    assert_eq!(host.rules(), [Rule::PrpOffset]);
}

#[test]
fn a_list_outside_of_memory_is_a_fault() {
    let mut host = Host::new();
    assert_eq!(host.find(0, [0x5000, 0x90000], 16384), Err(Status::DATA_TRANSFER_ERROR.dnr()));
    assert_eq!(host.rules(), [Rule::DmaFault]);
}

/// An SGL descriptor's two words.
fn descriptor(iova: u64, len_bytes: u32, kind: u8) -> [u64; 2] {
    [iova, u64::from(len_bytes) | u64::from(kind) << 56]
}

#[test]
fn sgl_segments_are_followed() {
    let mut host = Host::new();
    assert_eq!(host.find(1, descriptor(0x5001, 512, 0), 512), Ok(vec![(0x5001, 512)]));
    let data = descriptor(0x20000, 100, 0);
    let more = descriptor(0x30000, 412, 0);
    let next = descriptor(0x11000, 16, 0x30);
    host.put(0x10000, &[data, next].concat());
    host.put(0x11000, &more);
    let first = descriptor(0x10000, 32, 0x20);
    assert_eq!(host.find(1, first, 512), Ok(vec![(0x20000, 100), (0x30000, 412)]));
    assert_eq!(host.find(1, first, 513), Err(Status::SGL_LENGTH_INVALID.dnr()));
    assert_eq!(host.find(1, first, 511), Err(Status::SGL_LENGTH_INVALID.dnr()));
    assert_eq!(host.rules(), [Rule::SglFormat; 2]);
}

#[test]
fn sgls_that_are_not_well_formed_are_refused() {
    let mut host = Host::new();
    let loops = descriptor(0x10000, 16, 0x20);
    host.put(0x10000, &loops);
    let cases = [
        (loops, Status::INVALID_SGL_COUNT),
        (descriptor(0x10000, 16, 0x30), Status::INVALID_SGL_SEGMENT),
        (descriptor(0x10000, 15, 0x20), Status::INVALID_SGL_SEGMENT),
        (descriptor(0x10000, 0, 0x20), Status::INVALID_SGL_SEGMENT),
        (descriptor(0x10000, 512, 0x10), Status::SGL_TYPE_INVALID),
        (descriptor(0x90000, 16, 0x20), Status::DATA_TRANSFER_ERROR),
    ];
    for (pointer, status) in cases {
        assert_eq!(host.find(1, pointer, 512), Err(status.dnr()), "{pointer:x?}");
        assert_eq!(host.rules().len(), 1);
    }
    assert_eq!(host.find(3, [0, 0], 512), Err(Status::INVALID_FIELD.dnr()));
}
