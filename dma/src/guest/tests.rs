//! Guest memory with holes, neighbours and files.

use std::fs::File;
use std::io::Read;

use vm_memory::{Bytes, FileOffset};

use super::*;
use crate::RegisteredTable;

const A: u64 = 0x1000;
const B: u64 = 0x5000;
const C: u64 = 0x10_0000;

/// A and B are neighbours in the guest, C lies beyond a hole.
fn guest() -> GuestMemoryMmap {
    let ranges = [(GuestAddress(A), 0x4000), (GuestAddress(B), 0x2000), (GuestAddress(C), 0x1000)];
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

#[test]
fn every_region_is_registered_by_itself_and_outlives_the_guest() {
    let memory = guest();
    let regions = guest_regions(&memory).unwrap();
    assert_eq!(
        regions.iter().map(|r| (r.guest_addr, r.memory.len())).collect::<Vec<_>>(),
        [(A, 0x4000), (B, 0x2000), (C, 0x1000)]
    );
    let table = RegisteredTable::<()>::new();
    for region in &regions {
        table.register(&region.memory, ()).unwrap();
        assert!(region.memory.fd().is_none());
    }
    drop(memory);
    let mut view = GuestView::new(regions);
    let mut buf = view.lease(GuestAddress(C), 0x1000).unwrap();
    buf.fill(0, 0x1000, 5).unwrap();
}

#[test]
fn leases_are_the_guests_own_memory() {
    let memory = guest();
    let mut view = GuestView::new(guest_regions(&memory).unwrap());
    memory.write_slice(b"from the guest", GuestAddress(B + 100)).unwrap();
    let mut buf = view.lease(GuestAddress(B + 100), 14).unwrap();
    let mut bytes = [0; 14];
    buf.copy_to(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"from the guest");
    assert!(buf.as_slice().is_none());
    buf.copy_from(0, b"to").unwrap();
    memory.read_slice(&mut bytes, GuestAddress(B + 100)).unwrap();
    assert_eq!(&bytes, b"toom the guest");
}

#[test]
fn a_range_across_regions_becomes_segments() {
    let memory = guest();
    let mut view = GuestView::new(guest_regions(&memory).unwrap());
    let mut vector = IoVector::new();
    view.push(&mut vector, GuestAddress(B - 10), 30).unwrap();
    assert_eq!(vector.segments().iter().map(IoBuf::len).collect::<Vec<_>>(), [10, 20]);
    let bytes: Vec<u8> = (0..30).collect();
    vector.copy_from(0, &bytes).unwrap();
    let mut back = vec![0; 30];
    memory.read_slice(&mut back, GuestAddress(B - 10)).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn what_is_not_memory_is_refused_with_its_address() {
    let memory = guest();
    let mut view = GuestView::new(guest_regions(&memory).unwrap());
    let refused = |result: Result<IoBuf, DmaError>| match result {
        Err(DmaError::NotGuestMemory { guest_addr, len_bytes }) => (guest_addr, len_bytes),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(view.lease(GuestAddress(0), 1)), (0, 1));
    assert_eq!(refused(view.lease(GuestAddress(C + 0x1000), 1)), (C + 0x1000, 1));
    assert_eq!(refused(view.lease(GuestAddress(C), 0x1001)), (C + 0x1000, 1));
    assert_eq!(refused(view.lease(GuestAddress(B - 1), 2)), (B, 1), "one lease is in one region");
    assert_eq!(refused(view.lease(GuestAddress(u64::MAX), usize::MAX)), (u64::MAX, usize::MAX));

    let mut vector = IoVector::new();
    view.push(&mut vector, GuestAddress(A), 16).unwrap();
    let error = view.push(&mut vector, GuestAddress(A), 0x6001).unwrap_err();
    assert!(matches!(error, DmaError::NotGuestMemory { guest_addr: 0x7000, len_bytes: 1 }), "{error}");
    assert_eq!((vector.len_bytes(), vector.segments().len()), (16, 1));
    assert!(GuestView::new(Vec::new()).lease(GuestAddress(0), 0).is_err());
}

#[test]
fn a_shared_file_can_be_passed_on_and_a_private_one_cannot() {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(0x3000).unwrap();
    let backing = FileOffset::new(file.try_clone().unwrap(), 0x1000);
    let ranges = [(GuestAddress(0), 0x2000, Some(backing))];
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files(ranges).unwrap();
    let regions = guest_regions(&memory).unwrap();
    let (fd, offset_bytes) = regions[0].memory.fd().unwrap();
    assert_eq!(offset_bytes, 0x1000);
    let same = File::from(fd.try_clone_to_owned().unwrap());
    assert_eq!(same.metadata().unwrap().len(), 0x3000);
    GuestView::new(regions).lease(GuestAddress(8), 2).unwrap().copy_from(0, b"hi").unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(&bytes[0x1008..0x100A], b"hi");

    let backing = FileOffset::new(file, 0);
    let private = rustix::mm::MapFlags::PRIVATE.bits() as i32;
    let mapping = MmapRegion::<()>::build(Some(backing), 0x1000, READ_WRITE, private).unwrap();
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
    assert!(guest_region(&region).unwrap().memory.fd().is_none());
}

#[test]
fn memory_that_cannot_be_written_is_refused() {
    let flags = (rustix::mm::MapFlags::PRIVATE.bits() | 0x20) as i32; // MAP_ANONYMOUS
    let mapping = MmapRegion::<()>::build(None, 0x1000, 1, flags).unwrap(); // PROT_READ
    let region = GuestRegionMmap::new(mapping, GuestAddress(0x9000)).unwrap();
    let error = guest_region(&region).unwrap_err();
    assert!(matches!(error, DmaError::GuestProtection { guest_addr: 0x9000, prot: 1, .. }), "{error}");
}
