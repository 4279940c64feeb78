//! Tests of memory as a device sees it.

use super::*;
use crate::buffer::{Backing, DmaBuffer};

fn memory(len_bytes: usize) -> DeviceMemory {
    DeviceMemory::of(&MemRegion::from_buffer(DmaBuffer::new(len_bytes, 4096, Backing::Pages).unwrap()))
}

#[test]
fn two_mappings_of_a_file_show_the_same_bytes() {
    let buffer = DmaBuffer::new(8192, 4096, Backing::Memfd).unwrap();
    let host = MemRegion::from_buffer(buffer);
    let (fd, _) = host.fd().unwrap();
    let device = DeviceMemory::map_fd(fd, 4096, 4096, true).unwrap();
    device.copy_from(10, &[1, 2, 3]).unwrap();
    let mut seen = [0; 3];
    DeviceMemory::of(&host).copy_to(4106, &mut seen).unwrap();
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn read_only_memory_is_not_written() {
    let host = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Memfd).unwrap());
    let device = DeviceMemory::map_fd(host.fd().unwrap().0, 0, 4096, false).unwrap();
    assert!(matches!(device.copy_from(0, &[1]), Err(DmaError::ReadOnly { .. })));
    assert!(matches!(device.fill(0, 1, 1), Err(DmaError::ReadOnly { .. })));
    assert!(!WordArray::<2>::new(device.clone(), 4).unwrap().publish(0, &[1, 2]));
    assert!(CellArray::new(device, 4, 4).is_err());
}

#[test]
fn a_file_that_is_too_short_is_refused() {
    let host = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Memfd).unwrap());
    let (fd, _) = host.fd().unwrap();
    assert!(matches!(DeviceMemory::map_fd(fd, 0, 8192, true), Err(DmaError::BadLength { .. })));
    assert!(matches!(DeviceMemory::map_fd(fd, 8192, 4096, true), Err(DmaError::BadLength { .. })));
    assert!(matches!(DeviceMemory::map_fd(fd, u64::MAX, 4096, true), Err(DmaError::BadLength { .. })));
    assert!(matches!(DeviceMemory::map_fd(fd, 0, 0, true), Err(DmaError::BadLength { .. })));
}

#[test]
fn arenas_and_memory_exchange_exactly_the_range() {
    let arena = Arena::new(8192, Backing::Pages).unwrap();
    let memory = memory(4096);
    memory.fill(0, 4096, 0x11).unwrap();
    memory.copy_to_arena(100, &arena, 5000, 50).unwrap();
    memory.fill(0, 4096, 0).unwrap();
    memory.copy_from_arena(0, &arena, 4999, 52).unwrap();
    let mut seen = [9; 53];
    memory.copy_to(0, &mut seen).unwrap();
    let mut expected = [0x11; 53];
    expected[0] = 0;
    expected[51..].fill(0);
    assert_eq!(seen, expected);
    assert!(memory.copy_to_arena(4090, &arena, 0, 7).is_err());
    assert!(memory.copy_to_arena(0, &arena, 8190, 3).is_err());
    assert!(memory.copy_from_arena(0, &arena, u64::MAX, 1).is_err());
}

#[test]
fn words_are_read_and_published_within_bounds() {
    let memory = memory(4096);
    let array = WordArray::<2>::new(memory.clone(), 256).unwrap();
    assert!(array.publish(255, &[7, 8]));
    assert_eq!(array.load(255), Some([7, 8]));
    assert_eq!(array.load(256), None);
    assert!(!array.publish(256, &[0, 0]));
    assert!(WordArray::<2>::new(memory.clone(), 257).is_err());
    assert!(WordArray::<2>::new(memory.part(4, 64).unwrap(), 1).is_err());
    assert!(WordArray::<8>::new(memory, usize::MAX).is_err());
}

#[test]
fn cells_keep_their_stride() {
    let memory = memory(4096);
    let cells = CellArray::new(memory.clone(), 64, 64).unwrap();
    cells.store(63, 5);
    cells.store(64, 6);
    assert_eq!((cells.load(63), cells.load(64), cells.load(0)), (5, 0, 0));
    let mut bytes = [0; 4];
    memory.copy_to(63 * 64, &mut bytes).unwrap();
    assert_eq!(u32::from_ne_bytes(bytes), 5);
    assert!(CellArray::new(memory.clone(), 6, 4).is_err());
    assert!(CellArray::new(memory, 64, 65).is_err());
}

#[test]
fn requests_use_the_memory_in_place_whoever_owns_it() {
    let buffer = std::sync::Arc::new(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap());
    let region = MemRegion::from_buffer(std::sync::Arc::clone(&buffer));
    assert!(!region.is_leasable(), "its owner can look at it");
    let device = DeviceMemory::of(&region);
    let mut buf = device.lease(4000, 96).unwrap();
    assert!(buf.as_slice().is_none(), "a lease is not exclusive");
    buf.copy_from(95, &[7]).unwrap();
    assert!(device.lease(4000, 97).is_err());
    drop((buf, device, region));
    assert_eq!(buffer.as_slice().unwrap()[4095], 7);
}
