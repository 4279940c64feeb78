//! What the block layer costs above a device that costs nothing: slot table, plan, completions, both faces.

use std::hint::black_box;

use corelane_dma::{Backing, BlockPool, IoBuf, Payload};
use corelane_engine::aio::{AioConfig, AioContext, Readiness, Wait};
use corelane_engine::block::{
    BackendOptions, BlockBackend, BlockDriver, BlockError, BlockLimits, Channel, CommandTable, LeafCommand,
    LeafQueue, LeafTable, Op, ReqFlags, Request, Tag,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const DEPTH: usize = 32;

/// Completes at once.
struct Instant;

struct InstantQueue(LeafTable);

const LIMITS: BlockLimits = BlockLimits {
    request_alignment: 512,
    max_transfer: 1 << 20,
    opt_transfer: 0,
    max_iov: 128,
    min_mem_alignment: 4,
    opt_mem_alignment: 4096,
    max_pdiscard: 0,
    pdiscard_alignment: 0,
    max_pwrite_zeroes: 0,
    pwrite_zeroes_alignment: 0,
    max_hw_transfer: 0,
    max_hw_iov: 0,
    zoned: None,
};

impl BlockDriver for Instant {
    fn format_name(&self) -> &'static str {
        "instant"
    }

    fn limits(&self) -> &BlockLimits {
        &LIMITS
    }

    fn length(&self) -> Result<u64, BlockError> {
        Ok(1 << 40)
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        Some(ReqFlags::empty())
    }

    fn open_queue(&self, _: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        Ok(Box::new(InstantQueue(table)))
    }
}

impl LeafQueue for InstantQueue {
    fn commit(&mut self) -> Readiness {
        let mut slots = self.0.borrow();
        while let Some((tag, _)) = slots.take_pending() {
            slots.end(tag, Ok(()));
        }
        if slots.has_ended() { Readiness::Ready } else { Readiness::Idle }
    }
}

fn channel(ctx: &AioContext) -> Channel {
    let backend = BlockBackend::new(std::sync::Arc::new(Instant), BackendOptions::default());
    backend.and_then(|backend| backend.channel(ctx, DEPTH as u32)).expect("a channel")
}

fn buffers(bytes: usize) -> Vec<IoBuf> {
    let pool = BlockPool::new(bytes, DEPTH, 4096, Backing::Pages).expect("memory");
    (0..DEPTH).map(|_| pool.take().expect("a block")).collect()
}

/// A batch of reads: submit, one turn of the loop, drain.
fn batches(c: &mut Criterion) {
    let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
    let channel = channel(&ctx);
    let mut free = buffers(4096);
    let mut group = c.benchmark_group("channel");
    group.throughput(Throughput::Elements(DEPTH as u64));
    group.bench_function("fast batch of 32", |b| {
        b.iter(|| {
            for (index, buf) in free.drain(..).enumerate() {
                let request = Request::read(black_box(index as u64 * 4096), buf).with_token(index as u64);
                assert!(channel.submit(request).is_ok());
            }
            ctx.turn(Wait::No);
            channel.drain(|completion| {
                if let Payload::One(buf) = completion.payload {
                    free.push(buf);
                }
            });
        });
    });
    group.finish();
}

/// One request at a time through a future, and one that the slow path has to pad.
fn futures(c: &mut Criterion) {
    let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
    let channel = channel(&ctx);
    let mut buf = buffers(4096).pop();
    let mut group = c.benchmark_group("channel");
    for (name, offset) in [("one future", 4096), ("one padded read", 100)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let (result, back) = ctx.block_on(channel.read_at(offset, buf.take().expect("the buffer")));
                assert!(result.is_ok());
                buf = Some(back);
            });
        });
    }
    group.finish();
}

/// The table alone: 32 commands in, taken, ended, and out.
fn table(c: &mut Criterion) {
    let (commands, leaf) = CommandTable::new(DEPTH as u32);
    let mut free: Vec<Payload> = buffers(4096).into_iter().map(Payload::One).collect();
    let mut group = c.benchmark_group("table");
    group.throughput(Throughput::Elements(DEPTH as u64));
    group.bench_function("32 commands in and out", |b| {
        b.iter(|| {
            for (tag, payload) in (0..).zip(free.drain(..)) {
                let (op, flags, bytes) = (Op::Read, ReqFlags::empty(), 4096);
                let command = LeafCommand { op, flags, offset: black_box(0), bytes, payload };
                assert!(commands.put(Tag(tag), command).is_ok());
            }
            let mut slots = leaf.borrow();
            while slots.take_pending().is_some() {}
            for tag in 0..DEPTH as u32 {
                slots.end(Tag(black_box(tag)), Ok(()));
            }
            drop(slots);
            commands.drain_ended(|done| free.push(done.payload));
        });
    });
    group.finish();
}

/// The plan alone: whether a request may go to the device as it stands.
fn plan(c: &mut Criterion) {
    let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
    let channel = channel(&ctx);
    let mut buffers = buffers(4096);
    let mut request = |offset| Request::read(offset, buffers.pop().expect("a buffer"));
    let mut group = c.benchmark_group("plan");
    for (name, request) in
        [("a request that it admits", request(4096)), ("one that it does not", request(100))]
    {
        group.bench_function(name, |b| b.iter(|| black_box(&channel).admits(black_box(&request))));
    }
    group.finish();
}

criterion_group!(benches, batches, futures, table, plan);
criterion_main!(benches);
