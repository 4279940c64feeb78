//! Tests of the I/O address table.

use super::*;
use corelane_dma::{Backing, DmaBuffer, MemRegion};

fn memory(len_bytes: usize) -> DeviceMemory {
    DeviceMemory::of(&MemRegion::from_buffer(DmaBuffer::new(len_bytes, 4096, Backing::Pages).unwrap()))
}

#[test]
fn mappings_do_not_overlap() {
    let table = IovaTable::default();
    table.map(0x2000, memory(0x2000)).unwrap();
    for (iova, len) in [(0x1000, 0x1001), (0x2000, 1), (0x3fff, 1), (0x0, 0x10000), (u64::MAX, 2)] {
        assert!(matches!(table.map(iova, memory(len)), Err(DeviceError::Map { .. })), "{iova:#x}+{len:#x}");
    }
    table.map(0x1000, memory(0x1000)).unwrap();
    table.map(0x4000, memory(0x1000)).unwrap();
    table.map(u64::MAX - 0xfff, memory(0x1000)).unwrap();
    let mut view = table.view();
    view.check(u64::MAX - 0xfff, 0x1000, true).unwrap();
    assert_eq!(view.check(u64::MAX, 2, true), Err(Fault { iova: 0, read_only: false }));
}

#[test]
fn unmapping_takes_whole_mappings_only() {
    let table = IovaTable::default();
    table.map(0x1000, memory(0x1000)).unwrap();
    table.map(0x2000, memory(0x1000)).unwrap();
    assert!(matches!(table.unmap(0x1000, 0x1800), Err(DeviceError::Unmap { mapped_iova: 0x2000, .. })));
    assert!(matches!(table.unmap(0x1800, 0x1800), Err(DeviceError::Unmap { mapped_iova: 0x1000, .. })));
    assert_eq!(table.unmap(0x8000, 0x1000).unwrap(), 0);
    assert_eq!(table.unmap(0, 0).unwrap(), 0);
    assert_eq!(table.unmap(0, u64::MAX).unwrap(), 0x2000);
    assert!(table.view().find(0x1000).is_err());
}

#[test]
fn accesses_cross_mappings_and_stop_at_holes() {
    let table = IovaTable::default();
    let (low, high) = (memory(0x1000), memory(0x1000));
    table.map(0x1000, low.clone()).unwrap();
    table.map(0x2000, high.clone()).unwrap();
    let mut view = table.view();
    view.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
    let mut bytes = [0; 2];
    low.copy_to(0xffe, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2]);
    high.copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4]);
    assert_eq!(view.read(0x2fff, &mut bytes), Err(Fault { iova: 0x3000, read_only: false }));
    assert_eq!(view.find(0xfff).unwrap_err(), Fault { iova: 0xfff, read_only: false });
    assert!(view.contiguous(0x1800, 0x1000).is_err(), "a queue does not span mappings");
    assert_eq!(view.contiguous(0x1800, 0x800).unwrap().len(), 0x800);
}

#[test]
fn memory_for_reading_is_not_written() {
    let shared = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Memfd).unwrap());
    let read_only = DeviceMemory::map_fd(shared.fd().unwrap().0, 0, 4096, false).unwrap();
    let table = IovaTable::default();
    table.map(0x1000, read_only).unwrap();
    let mut view = table.view();
    view.check(0x1000, 4096, false).unwrap();
    assert_eq!(view.check(0x1004, 4, true), Err(Fault { iova: 0x1004, read_only: true }));
    assert_eq!(view.write(0x1004, &[0]), Err(Fault { iova: 0x1004, read_only: true }));
}
