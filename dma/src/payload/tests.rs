//! Payloads whole and in pieces.

use proptest::prelude::*;

use super::*;
use crate::{Backing, BlockPool, DmaBuffer};

fn owned(len_bytes: usize, first: u8) -> IoBuf {
    let mut buf = IoBuf::from(DmaBuffer::new(len_bytes, 512, Backing::Pages).unwrap());
    for (i, byte) in buf.as_mut_slice().unwrap().iter_mut().enumerate() {
        *byte = first.wrapping_add(i as u8);
    }
    buf
}

fn many(lens: &[usize]) -> (Payload, Vec<u8>) {
    let vector: IoVector = lens.iter().enumerate().map(|(i, &len)| owned(len, i as u8 * 50)).collect();
    let mut model = vec![0; vector.len_bytes()];
    vector.copy_to(0, &mut model).unwrap();
    (Payload::from(vector), model)
}

fn content(payload: &Payload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len_bytes()];
    payload.copy_to(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_kind_lists_its_buffers() {
    assert_eq!((Payload::None.len_bytes(), Payload::None.as_bufs().len()), (0, 0));
    assert!(Payload::None.is_aligned(4095, 4095));
    let one = Payload::from(owned(1024, 0));
    assert_eq!(one.segments().collect::<Vec<_>>(), [(one.as_bufs()[0].as_ptr(), 1024)]);
    assert!(one.is_aligned(511, 511) && !one.is_aligned(511, 2047));
    let (many, _) = many(&[512, 100]);
    assert_eq!(many.segments().map(|(_, len)| len).collect::<Vec<_>>(), [512, 100]);
    assert!(many.is_aligned(511, 3) && !many.is_aligned(511, 511));
}

#[test]
fn a_payload_is_exclusive_again_when_its_pieces_are_gone() {
    let pool = BlockPool::new(4096, 1, 4096, Backing::Pages).unwrap();
    let shared = Payload::from(pool.take().unwrap()).share();
    let piece = shared.slice(512, 512).unwrap();
    assert!(matches!(&piece, Payload::One(buf) if buf.len() == 512 && buf.as_slice().is_none()));
    let shared = shared.try_unwrap().expect_err("a piece is out");
    drop(piece);
    let again = shared.try_unwrap().expect("no piece is out");
    assert!(again.as_bufs()[0].as_slice().is_some());
    assert_eq!(pool.free_blocks(), 0);
    drop(again);
    assert_eq!(pool.free_blocks(), 1);
}

#[test]
fn pieces_are_as_simple_as_they_can_be() {
    let (payload, _) = many(&[100, 100, 100]);
    let shared = payload.share();
    assert!(matches!(shared.slice(100, 0).unwrap(), Payload::None));
    assert!(matches!(shared.slice(100, 100).unwrap(), Payload::One(_)));
    assert!(matches!(shared.slice(99, 2).unwrap(), Payload::Many(v) if v.segments().len() == 2));
    assert!(matches!(shared.slice(0, 300).unwrap(), Payload::Many(v) if v.segments().len() == 3));
    assert!(shared.slice(0, 301).is_err() && shared.slice(301, 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn copies_between_payloads_match_the_model(
        to_lens in prop::collection::vec(1..80usize, 1..6),
        from_lens in prop::collection::vec(1..80usize, 1..6),
        picks in (0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64),
    ) {
        let ((mut to, mut model), (from, source)) = (many(&to_lens), many(&from_lens));
        let to_at = (picks.0 * model.len() as f64) as usize;
        let from_at = (picks.1 * source.len() as f64) as usize;
        let len = (picks.2 * (model.len() - to_at).min(source.len() - from_at) as f64) as usize;

        let copied = &source[from_at..from_at + len];
        to.copy_payload(to_at, &from, from_at, len).unwrap();
        model[to_at..to_at + len].copy_from_slice(copied);
        prop_assert_eq!(content(&to), &model[..]);

        let whole = model.len();
        prop_assert!(to.copy_payload(to_at, &from, from_at, whole - to_at + 1).is_err());
        prop_assert!(to.copy_payload(to_at, &from, from_at, source.len() - from_at + 1).is_err());
        prop_assert_eq!(content(&to), &model[..]);

        let shared = to.share();
        shared.fill(0, whole, 0).unwrap();
        shared.copy_payload(to_at, &from, from_at, len).unwrap();
        let mut expected = vec![0; whole];
        expected[to_at..to_at + len].copy_from_slice(copied);
        let mut bytes = vec![1; whole];
        shared.copy_to(0, &mut bytes).unwrap();
        prop_assert_eq!(&bytes, &expected);

        let (mut back, mut model) = many(&from_lens);
        shared.copy_to_payload(to_at, &mut back, from_at, len).unwrap();
        model[from_at..from_at + len].copy_from_slice(copied);
        prop_assert_eq!(content(&back), model);
    }

    #[test]
    fn a_piece_is_that_part_of_the_memory(
        lens in prop::collection::vec(1..80usize, 1..6),
        picks in (0.0..=1.0f64, 0.0..=1.0f64),
    ) {
        let (payload, mut model) = many(&lens);
        let at = (picks.0 * model.len() as f64) as usize;
        let len = (picks.1 * (model.len() - at) as f64) as usize;
        let shared = payload.share();
        let mut piece = shared.slice(at, len).unwrap();
        prop_assert_eq!(content(&piece), &model[at..at + len]);
        piece.fill(0, len, 0xEE).unwrap();
        model[at..at + len].fill(0xEE);
        let nested = piece.share();
        let inner = nested.slice(len / 2, len - len / 2).unwrap();
        prop_assert_eq!(content(&inner), vec![0xEE; len - len / 2]);
        drop((inner, nested));
        prop_assert_eq!(content(&shared.try_unwrap().unwrap()), model);
    }
}
