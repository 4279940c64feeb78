//! Random requests as plain data, and the memory for them.

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, Payload};
use corelane_engine::block::{Op, ReqFlags};
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

/// A request as plain data, to be sent to a lane.
#[derive(Clone, Debug)]
pub struct Plan {
    pub op: Op,
    pub flags: ReqFlags,
    pub offset: u64,
    pub bytes: u64,
    /// For writes.
    pub data: Vec<u8>,
    /// Lengths of the memory's segments, and how far each starts behind an aligned address.
    pub segments: Vec<(usize, usize)>,
}

impl Plan {
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    /// Whether the outcome depends on which of the two is carried out first.
    pub fn conflicts(&self, other: &Plan) -> bool {
        (self.op.modifies() || other.op.modifies()) && self.offset < other.end() && other.offset < self.end()
    }
}

pub fn random_plan(rng: &mut Rng, length: u64) -> Plan {
    let most = *[1, 100, 5000, 70_000, 300_000].choose(rng).expect("not empty");
    let offset = rng.random_range(0..length);
    let bytes = rng.random_range(1..=most).min(length - offset);
    let op = *[Op::Read, Op::Read, Op::Write, Op::Write, Op::Write, Op::WriteZeroes, Op::Discard, Op::Flush]
        .choose(rng)
        .expect("not empty");
    let mut flags = ReqFlags::empty();
    flags.set(ReqFlags::FUA, op == Op::Write && rng.random_bool(0.02));
    flags.set(ReqFlags::MAY_UNMAP, op == Op::WriteZeroes && rng.random_bool(0.5));
    let mut data = Vec::new();
    if op == Op::Write {
        data.resize(bytes as usize, 0);
        rng.fill(&mut data[..]);
    }
    let (offset, bytes) = if op == Op::Flush { (0, 0) } else { (offset, bytes) };
    let segments =
        if matches!(op, Op::Read | Op::Write) { random_segments(rng, bytes as usize) } else { vec![] };
    Plan { op, flags, offset, bytes, data, segments }
}

fn random_segments(rng: &mut Rng, bytes: usize) -> Vec<(usize, usize)> {
    let skew = |rng: &mut Rng| if rng.random_bool(0.5) { 0 } else { rng.random_range(0..4096) };
    let mut segments = Vec::new();
    let mut left = bytes;
    let many = rng.random_bool(0.3);
    while many && left > 1 && segments.len() < 20 {
        let unit = if rng.random_bool(0.5) { 512.min(left) } else { 1 };
        let len = (rng.random_range(1..=left) / unit * unit).max(1);
        segments.push((len, skew(rng)));
        left -= len;
    }
    if left > 0 {
        segments.push((left, skew(rng)));
    }
    segments
}

fn segment(len: usize, skew: usize) -> IoBuf {
    let mut whole = IoBuf::from(DmaBuffer::new(len + skew, 4096, Backing::Pages).expect("memory"));
    if skew == 0 { whole } else { whole.split_off(skew).expect("within the buffer") }
}

pub fn payload_of(plan: &Plan) -> Payload {
    let mut payload = match plan.segments[..] {
        [] => Payload::None,
        [(len, skew)] => Payload::One(segment(len, skew)),
        _ => {
            let mut vector = Box::new(IoVector::default());
            plan.segments.iter().for_each(|(len, skew)| vector.push(segment(*len, *skew)));
            Payload::Many(vector)
        }
    };
    if plan.op == Op::Write {
        payload.copy_from(0, &plan.data).expect("the payload is as long as the data");
    }
    payload
}
