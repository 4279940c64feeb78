//! Leases: who is exclusive, what outlives what, what lengths are possible.

use super::*;
use crate::{Backing, BlockPool};

fn buffer(len_bytes: usize) -> DmaBuffer {
    DmaBuffer::new(len_bytes, 4096, Backing::Pages).unwrap()
}

#[test]
fn an_owned_buffer_is_exclusive_and_can_be_had_back() {
    let mut buf = IoBuf::from(buffer(1000));
    assert_eq!((buf.len(), buf.capacity(), buf.addr() % 4096), (1000, 1000, 0));
    buf.as_mut_slice().unwrap()[999] = 7;
    buf.set_len(10).unwrap();
    assert_eq!(buf.as_slice().unwrap().len(), 10);
    assert!(buf.copy_to(9, &mut [0; 2]).is_err());
    let buffer = buf.into_buffer().unwrap();
    assert_eq!(buffer.as_slice().unwrap()[999], 7);
}

#[test]
fn leases_of_a_region_alias_and_keep_it() {
    let region = Rc::new(MemRegion::from_buffer(buffer(8192)));
    let mut one = IoBuf::lease(&region, 0, 4096).unwrap();
    let mut two = IoBuf::lease(&region, 100, 50).unwrap();
    assert!(IoBuf::lease(&region, 8192, 1).is_err());
    assert!(IoBuf::lease(&region, 1, usize::MAX).is_err());
    drop(region);
    assert!(one.as_slice().is_none() && two.as_mut_slice().is_none());
    one.fill(100, 50, 0xAB).unwrap();
    let mut bytes = [0; 50];
    two.copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0xAB; 50]);
    two.set_len(20).unwrap();
    assert!(two.set_len(21).is_err(), "a lease only shrinks");
    assert!(two.into_buffer().is_err());
}

#[test]
fn a_shared_block_goes_back_when_its_last_part_does() {
    let pool = BlockPool::new(4096, 1, 4096, Backing::Pages).unwrap();
    let mut block = pool.take().unwrap();
    block.set_len(1024).unwrap();
    let tail = block.split_off(512).unwrap();
    assert_eq!((block.len(), tail.len(), tail.addr()), (512, 512, block.addr() + 512));
    assert!(block.as_slice().is_none() && tail.as_slice().is_none());
    let mut piece = block.share_part(10, 20).unwrap();
    piece.fill(0, 20, 3).unwrap();
    let mut byte = [0];
    block.copy_to(29, &mut byte).unwrap();
    assert_eq!(byte, [3]);
    drop(block);
    drop(tail);
    assert_eq!(pool.free_blocks(), 0);
    drop(piece);
    assert_eq!(pool.free_blocks(), 1);
    assert_eq!(pool.take().unwrap().len(), 4096);
}

#[test]
fn the_empty_buffer_has_nothing_and_shares_nothing() {
    let mut empty = IoBuf::default();
    assert!(empty.is_empty() && empty.is_exclusive());
    assert_eq!(empty.as_slice().unwrap(), &[0u8; 0]);
    assert!(empty.share_part(0, 0).unwrap().is_empty());
    assert!(empty.share_part(0, 1).is_err() && empty.split_off(1).is_err() && empty.set_len(1).is_err());
}

#[test]
fn a_refused_split_changes_nothing() {
    let mut buf = IoBuf::from(buffer(100));
    assert!(buf.split_off(101).is_err() && buf.share_part(50, 51).is_err());
    assert!(buf.is_exclusive());
    assert_eq!(buf.len(), 100);
}

#[test]
fn debug_output_names_the_lease_and_not_the_bytes() {
    let buf = IoBuf::from(buffer(16));
    let text = format!("{buf:?}");
    assert!(text.ends_with("+16, owned)"), "{text}");
}
