//! One lane: random requests of every kind on blocks that are this lane's alone, as many at once as its channel takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, MemRegion, Payload};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{BlockBackend, Channel, Completion, Op, ReqFlags, Request};
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

use crate::reference::Reference;
use crate::tally::Tally;

/// The longest request, in bytes; more than what is copied rather than mapped.
const MOST_BYTES: usize = 96 << 10;
/// Segments of a vector start on pages or on dwords.
const ROOM_BYTES: usize = MOST_BYTES + 8192;

/// A lane's part of a disk, and what it does there.
pub struct Lane {
    pub rng: Rng,
    /// The number that its next write has.
    pub next_number: u64,
    pub first_byte: u64,
    pub reference: Reference,
    pub depth: u32,
    pub requests: u64,
}

/// A request under way.
struct Pending {
    op: Op,
    blocks: Range<usize>,
    number: u64,
    /// The place that its memory has in the regions.
    place: usize,
}

struct Running<'a> {
    lane: &'a mut Lane,
    channel: Channel,
    /// Registered, and not.
    regions: [Rc<MemRegion>; 2],
    free_places: Vec<usize>,
    pending: BTreeMap<u64, Pending>,
    next_token: u64,
    tally: Tally,
}

impl Lane {
    /// Carries out its requests, each to its end.
    ///
    /// # Panics
    /// When data is wrong, or a request ends that was not under way.
    pub fn run(&mut self, backend: &BlockBackend) -> Tally {
        let ctx = AioContext::new(&AioConfig::named("faults")).expect("a lane");
        let mut tally = Tally::default();
        // A controller that is given up takes no further queues.
        if let Ok(channel) = backend.channel(&ctx, self.depth) {
            let places = self.depth as usize;
            let regions = [(); 2].map(|()| {
                let buffer = DmaBuffer::new(places * ROOM_BYTES, 4096, Backing::Pages).expect("memory");
                Rc::new(MemRegion::from_buffer(buffer))
            });
            let registered = ctx.block_on(backend.register_buf(&regions[0])).is_ok();
            let free_places = (0..places).collect();
            let mut running = Running {
                lane: self,
                channel,
                regions,
                free_places,
                pending: BTreeMap::new(),
                next_token: 0,
                tally,
            };
            running.run(&ctx);
            let Running { tally: done, regions, channel, .. } = running;
            tally = done;
            if registered {
                // Of a controller that is gone nothing is left to unregister.
                let _ = ctx.block_on(backend.unregister_buf(&regions[0]));
            }
            drop(channel);
        }
        ctx.shutdown();
        tally
    }
}

impl Running<'_> {
    fn run(&mut self, ctx: &AioContext) {
        let mut ended = Vec::new();
        while self.tally.requests < self.lane.requests || !self.pending.is_empty() {
            while self.tally.requests < self.lane.requests && self.submit_one() {}
            ctx.turn(Wait::Yes);
            self.channel.drain(|completion| ended.push(completion));
            for completion in ended.drain(..) {
                self.ended(completion);
            }
        }
        assert_eq!(self.channel.in_flight(), 0);
        assert_eq!(self.channel.stats().bogus, 0, "a request ended twice");
    }

    /// Submits a request that conflicts with none that is under way. False if there is no room, or none was found.
    fn submit_one(&mut self) -> bool {
        let Some(blocks) = self.choose_blocks() else { return false };
        let Some(place) = self.free_places.pop() else { return false };
        let rng = &mut self.lane.rng;
        let ops = [
            Op::Read,
            Op::Read,
            Op::Read,
            Op::Write,
            Op::Write,
            Op::Write,
            Op::WriteZeroes,
            Op::Discard,
            Op::Flush,
        ];
        let op = *ops.choose(rng).expect("not empty");
        let mut flags = ReqFlags::empty();
        flags.set(ReqFlags::FUA, op == Op::Write && rng.random_bool(0.1));
        flags.set(ReqFlags::MAY_UNMAP, op == Op::WriteZeroes && rng.random_bool(0.5));
        let block_bytes = self.lane.reference.block_bytes();
        let bytes = blocks.len() * block_bytes;
        let offset = self.lane.first_byte + (blocks.start * block_bytes) as u64;
        let number = self.lane.next_number;
        self.lane.next_number += 1;
        let mut payload =
            if matches!(op, Op::Read | Op::Write) { self.memory(place, bytes) } else { Payload::None };
        match op {
            Op::Write => payload.copy_from(0, &Reference::data(number, bytes)).expect("as long"),
            // What is not overwritten is seen.
            Op::Read => payload.fill(0, bytes, 0xA5).expect("as long"),
            _ => {}
        }
        let (offset, bytes) = if op == Op::Flush { (0, 0) } else { (offset, bytes) };
        let token = self.next_token;
        self.next_token += 1;
        let request = Request { op, flags, offset, bytes: bytes as u64, payload, token };
        self.channel.submit(request).expect("no more than its depth");
        self.pending.insert(token, Pending { op, blocks, number, place });
        self.tally.requests += 1;
        true
    }

    fn choose_blocks(&mut self) -> Option<Range<usize>> {
        let (count, block_bytes) = (self.lane.reference.len(), self.lane.reference.block_bytes());
        for _ in 0..4 {
            let rng = &mut self.lane.rng;
            let most = (*[4096, 16384, MOST_BYTES].choose(rng)? / block_bytes).clamp(1, count);
            let len = rng.random_range(1..=most);
            let start = rng.random_range(0..=count - len);
            let free = |other: &Pending| other.blocks.start >= start + len || other.blocks.end <= start;
            if self.pending.values().all(free) {
                return Some(start..start + len);
            }
        }
        None
    }

    /// Memory of some kind: registered or not, the request's own, in one piece or several.
    fn memory(&mut self, place: usize, bytes: usize) -> Payload {
        let rng = &mut self.lane.rng;
        let pieces = if rng.random_bool(0.3) { rng.random_range(2..=4) } else { 1 };
        let skew = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..1024) * 4 };
        let kind = rng.random_range(0..3);
        let whole = |at: usize, len: usize| match kind {
            2 => IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).expect("memory")),
            kind => IoBuf::lease(&self.regions[kind], place * ROOM_BYTES + skew + at, len).expect("within"),
        };
        if pieces == 1 {
            return Payload::One(whole(0, bytes));
        }
        let mut vector = Box::new(IoVector::new());
        let piece = (bytes / pieces).next_multiple_of(4);
        for at in (0..bytes).step_by(piece) {
            vector.push(whole(at, piece.min(bytes - at)));
        }
        Payload::Many(vector)
    }

    fn ended(&mut self, completion: Completion) {
        let Completion { token, result, payload, .. } = completion;
        let pending = self.pending.remove(&token);
        let Pending { op, blocks, number, place } = pending.expect("a request ends once");
        self.free_places.push(place);
        if let Err(error) = &result {
            self.tally.failed(format!("{:?}", error.errno));
        }
        let reference = &mut self.lane.reference;
        match op {
            Op::Read if result.is_ok() => {
                let mut data = vec![0; payload.len_bytes()];
                payload.copy_to(0, &mut data).expect("as long");
                if let Err(reason) = reference.read(blocks, &data) {
                    panic!("a read of {} bytes at block {}: {reason}", data.len(), self.lane.first_byte);
                }
            }
            Op::Write => reference.wrote(blocks, number, result.is_ok()),
            Op::WriteZeroes => reference.wrote(blocks, 0, result.is_ok()),
            Op::Discard => reference.discarded(blocks),
            Op::Read | Op::Flush => {}
        }
    }
}
