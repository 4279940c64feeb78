//! The vector against a plain byte vector, by proptest, and its corner cases by hand.

use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::{Backing, DmaBuffer, MemRegion};

const REGION_BYTES: usize = 8192;

fn region() -> Rc<MemRegion> {
    Rc::new(MemRegion::from_buffer(DmaBuffer::new(REGION_BYTES, 4096, Backing::Pages).unwrap()))
}

/// A vector of segments of these lengths, in turn owned buffers and leases that do not overlap, and its content.
fn build(lens: &[usize]) -> (IoVector, Vec<u8>) {
    let region = region();
    let (mut vector, mut model) = (IoVector::new(), Vec::new());
    let mut at = 0;
    for (i, &len) in lens.iter().enumerate() {
        let mut segment = if i % 2 == 0 {
            let mut owned = IoBuf::from(DmaBuffer::new(len.max(1), 1, Backing::Pages).unwrap());
            owned.set_len(len).unwrap();
            owned
        } else {
            IoBuf::lease(&region, at, len).unwrap()
        };
        at += len;
        let bytes: Vec<u8> = (0..len).map(|j| (i * 31 + j * 7 + 1) as u8).collect();
        segment.copy_from(0, &bytes).unwrap();
        model.extend(bytes);
        vector.push(segment);
    }
    (vector, model)
}

fn content(vector: &IoVector) -> Vec<u8> {
    let mut bytes = vec![0; vector.len_bytes()];
    vector.copy_to(0, &mut bytes).unwrap();
    bytes
}

fn sum_of_segments(vector: &IoVector) -> usize {
    vector.segments().iter().map(IoBuf::len).sum()
}

fn lens() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1 => Just(0), 6 => 1..200usize, 1 => Just(512)], 0..12)
}

/// One operation; positions are fractions, so that each fits whatever length the vector has by then.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(f64, f64, u8),
    Fill(f64, f64, u8),
    SliceAndWrite(f64, f64, u8),
    SplitAndRejoin(f64),
    SplitAndKeep(f64, bool),
    ConcatSelfSlice(f64, f64),
    PushOwned(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let f = || 0.0..=1.0f64;
    prop_oneof![
        (f(), f(), any::<u8>()).prop_map(|(a, b, c)| Step::Write(a, b, c)),
        (f(), f(), any::<u8>()).prop_map(|(a, b, c)| Step::Fill(a, b, c)),
        (f(), f(), any::<u8>()).prop_map(|(a, b, c)| Step::SliceAndWrite(a, b, c)),
        f().prop_map(Step::SplitAndRejoin),
        (f(), any::<bool>()).prop_map(|(a, b)| Step::SplitAndKeep(a, b)),
        (f(), f()).prop_map(|(a, b)| Step::ConcatSelfSlice(a, b)),
        (1..100usize).prop_map(Step::PushOwned),
    ]
}

fn range(a: f64, b: f64, len: usize) -> std::ops::Range<usize> {
    let (a, b) = ((a * len as f64) as usize, (b * len as f64) as usize);
    a.min(b)..a.max(b)
}

/// The model says at which byte of the underlying memory each byte of the vector is, so that aliases are modelled too.
#[derive(Default)]
struct Model {
    memory: Vec<u8>,
    places: Vec<usize>,
}

impl Model {
    fn push(&mut self, bytes: &[u8]) {
        self.places.extend(self.memory.len()..self.memory.len() + bytes.len());
        self.memory.extend(bytes);
    }

    fn content(&self) -> Vec<u8> {
        self.places.iter().map(|&place| self.memory[place]).collect()
    }

    fn write(&mut self, range: std::ops::Range<usize>, byte: impl Fn(usize) -> u8) {
        for (i, &place) in self.places[range].iter().enumerate() {
            self.memory[place] = byte(i);
        }
    }
}

fn apply(vector: &mut IoVector, model: &mut Model, step: Step) {
    let len = model.places.len();
    match step {
        Step::Write(a, b, seed) => {
            let range = range(a, b, len);
            let byte = |i: usize| seed.wrapping_add(i as u8);
            let bytes: Vec<u8> = (0..range.len()).map(byte).collect();
            vector.copy_from(range.start, &bytes).unwrap();
            model.write(range, byte);
        }
        Step::Fill(a, b, byte) => {
            let range = range(a, b, len);
            vector.fill(range.start, range.len(), byte).unwrap();
            model.write(range, |_| byte);
        }
        Step::SliceAndWrite(a, b, byte) => {
            let range = range(a, b, len);
            let mut slice = vector.slice(range.start, range.len()).unwrap();
            assert_eq!(slice.len_bytes(), range.len());
            assert_eq!(content(&slice), model.content()[range.clone()]);
            slice.fill(0, range.len(), byte).unwrap();
            model.write(range, |_| byte);
        }
        Step::SplitAndRejoin(at) => {
            let at = range(0.0, at, len).end;
            let (mut head, tail) = std::mem::take(vector).split_at(at).unwrap();
            assert_eq!((head.len_bytes(), tail.len_bytes()), (at, len - at));
            head.append(tail);
            *vector = head;
        }
        Step::SplitAndKeep(at, head_side) => {
            let at = range(0.0, at, len).end;
            let tail = vector.split_off(at).unwrap();
            if head_side {
                model.places.truncate(at);
            } else {
                *vector = tail;
                model.places.drain(..at);
            }
        }
        Step::ConcatSelfSlice(a, b) => {
            let range = range(a, b, len.min(500));
            let mut whole = std::mem::take(vector);
            vector.concat(&mut whole, 0, len).unwrap();
            vector.concat(&mut whole, range.start, range.len()).unwrap();
            let places = model.places[range].to_vec();
            model.places.extend(places);
        }
        Step::PushOwned(len) => {
            vector.push(IoBuf::from(DmaBuffer::new(len, 1, Backing::Pages).unwrap()));
            model.push(&vec![0; len]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_vector_behaves_as_its_bytes(lens in lens(), steps in prop::collection::vec(step(), 0..20)) {
        let (mut vector, bytes) = build(&lens);
        let mut model = Model::default();
        model.push(&bytes);
        for step in steps {
            apply(&mut vector, &mut model, step);
            prop_assert_eq!(vector.len_bytes(), sum_of_segments(&vector));
            prop_assert_eq!(content(&vector), model.content());
            prop_assert!(vector.segments().iter().all(|s| !s.is_empty()));
        }
    }

    #[test]
    fn copies_out_of_bounds_change_nothing(lens in lens(), past in 1..100usize, at in 0.0..=1.0f64) {
        let (mut vector, bytes) = build(&lens);
        let at = (bytes.len() as f64 * at) as usize;
        let len = bytes.len() - at + past;
        prop_assert!(vector.copy_from(at, &vec![0xEE; len]).is_err());
        prop_assert!(vector.fill(at, len, 0xEE).is_err());
        prop_assert!(vector.slice(at, len).is_err());
        let mut to = vec![0x55; len];
        prop_assert!(vector.copy_to(at, &mut to).is_err());
        prop_assert!(to.iter().all(|&b| b == 0x55));
        let (error, vector) = vector.split_at(bytes.len() + past).unwrap_err();
        let out_of_bounds = matches!(error, DmaError::OutOfBounds { .. });
        prop_assert!(out_of_bounds);
        prop_assert_eq!(content(&vector), bytes);
    }

    #[test]
    fn alignment_is_that_of_each_segment(
        segments in prop::collection::vec((0..512usize, 1..512usize), 0..6),
        addr_bits in 0..5u32,
        len_bits in 0..5u32,
    ) {
        let region = region();
        let leases = segments.iter().map(|&(at, len)| IoBuf::lease(&region, at, len).unwrap());
        let vector: IoVector = leases.collect();
        let (addr_align, len_align) = (1usize << addr_bits, 1usize << len_bits);
        let expected = segments.iter().all(|&(at, len)| at % addr_align == 0 && len % len_align == 0);
        prop_assert_eq!(vector.is_aligned(addr_align - 1, len_align - 1), expected);
    }
}

#[test]
fn a_cut_between_segments_leaves_them_exclusive() {
    let (mut vector, _) = build(&[100, 0, 100]);
    let tail = vector.split_off(100).unwrap();
    assert!(vector.segments()[0].is_exclusive() && tail.segments()[0].is_exclusive());
    let mut vector = vector;
    let rest = vector.split_off(40).unwrap();
    assert!(!vector.segments()[0].is_exclusive() && !rest.segments()[0].is_exclusive());
}

#[test]
fn clear_and_drain_keep_the_room() {
    let region = region();
    let mut vector = IoVector::with_capacity(4);
    let fill =
        |vector: &mut IoVector| (0..4).for_each(|i| vector.push(IoBuf::lease(&region, i * 8, 8).unwrap()));
    fill(&mut vector);
    let room = vector.segments.capacity();
    vector.clear();
    assert_eq!((vector.len_bytes(), vector.segments.capacity(), Rc::strong_count(&region)), (0, room, 1));
    fill(&mut vector);
    assert_eq!(vector.pop().unwrap().len(), 8);
    assert_eq!(vector.len_bytes(), 24);
    assert_eq!(vector.drain().count(), 3);
    assert_eq!((vector.len_bytes(), vector.segments.capacity()), (0, room));
    fill(&mut vector);
    assert_eq!(vector.into_segments().len(), 4);
}
