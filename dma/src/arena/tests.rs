//! The arena against a byte vector, and under concurrent use.

use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::{IoBuf, IoVector};

fn payload(lens: &[usize], byte: u8) -> Payload {
    let segment = |&len: &usize| IoBuf::from(DmaBuffer::new(len, 1, Backing::Pages).unwrap());
    let mut payload = Payload::from(lens.iter().map(segment).collect::<IoVector>());
    payload.fill(0, payload.len_bytes(), byte).unwrap();
    payload
}

fn content(arena: &Arena) -> Vec<u8> {
    let mut whole = payload(&[arena.len()], 0xEE);
    arena.read_into(0, &mut whole).unwrap();
    let mut bytes = vec![0; arena.len()];
    whole.copy_to(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_arena_behaves_as_its_bytes(
        memfd in any::<bool>(),
        steps in prop::collection::vec((0..3u8, 0..40_000usize, 0..40_000usize, any::<u8>()), 1..12),
    ) {
        const LEN: usize = 40_000;
        let arena = Arena::new(LEN, if memfd { Backing::Memfd } else { Backing::Pages }).unwrap();
        let mut model = vec![0; LEN];
        for (kind, a, b, byte) in steps {
            let (start, end) = (a.min(b), a.max(b));
            let len = end - start;
            match kind {
                0 if len > 1 => {
                    arena.write_from(start as u64, &payload(&[1, len - 1], byte)).unwrap();
                    model[start..end].fill(byte);
                }
                1 => {
                    arena.zero(start as u64, len as u64).unwrap();
                    model[start..end].fill(0);
                }
                _ => {
                    arena.discard(start as u64, len as u64).unwrap();
                    model[start..end].fill(0);
                }
            }
            prop_assert!(content(&arena) == model);
        }
    }
}

#[test]
fn a_long_zero_is_exact_at_both_ends() {
    for backing in [Backing::Pages, Backing::Memfd] {
        let len = 3 * RELEASE_MIN_BYTES;
        let arena = Arena::new(len, backing).unwrap();
        arena.write_from(0, &payload(&[len], 7)).unwrap();
        arena.zero(5, (2 * RELEASE_MIN_BYTES + 1000) as u64).unwrap();
        let mut model = vec![7; len];
        model[5..5 + 2 * RELEASE_MIN_BYTES + 1000].fill(0);
        assert!(content(&arena) == model);
    }
}

#[test]
fn a_discard_gives_pages_back() {
    let len = 8 << 20;
    let arena = Arena::new(len, Backing::Memfd).unwrap();
    arena.write_from(0, &payload(&[len], 1)).unwrap();
    let blocks = || rustix::fs::fstat(arena.buffer.fd().unwrap()).unwrap().st_blocks;
    let before = blocks();
    arena.discard(0, len as u64).unwrap();
    assert!(before >= (len / 512) as i64 && blocks() == 0, "{before} blocks before, {} after", blocks());
}

#[test]
fn what_lies_outside_is_refused() {
    let arena = Arena::new(1000, Backing::Pages).unwrap();
    for (offset, len) in [(1000, 1), (0, 1001), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        assert!(arena.zero(offset, len).is_err() && arena.discard(offset, len).is_err(), "{offset}+{len}");
    }
    assert!(arena.write_from(999, &payload(&[1, 1], 1)).is_err());
    assert!(arena.read_into(u64::MAX, &mut payload(&[1], 1)).is_err());
    arena.read_into(1000, &mut Payload::None).unwrap();
    assert!(content(&arena) == vec![0; 1000]);
}

#[test]
fn lanes_that_race_leave_every_byte_from_one_of_them() {
    let arena = Arc::new(Arena::new(64 << 10, Backing::Pages).unwrap());
    let lane = |byte: u8| {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut buf = payload(&[4096], byte);
            for i in 0..2000u64 {
                buf.fill(0, 4096, byte).unwrap();
                arena.write_from(i * 64 % (60 << 10), &buf).unwrap();
                arena.read_into(i * 32 % (60 << 10), &mut buf).unwrap();
                arena.zero(i * 128 % (60 << 10), 100).unwrap();
            }
        })
    };
    let lanes = [lane(1), lane(2)];
    lanes.into_iter().for_each(|lane| lane.join().unwrap());
    assert!(content(&arena).iter().all(|&b| b <= 2));
}
