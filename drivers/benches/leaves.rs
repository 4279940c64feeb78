//! What each leaf queue costs by itself, below the block layer: 4 KiB reads at depth 32, in batches.
//!
//! The file's figures are mostly the kernel's: an ordinary file, whole in the page cache.

use std::hint::black_box;

use corelane_dma::{Backing, BlockPool, Payload};
use corelane_drivers::file::{FileDriver, FileOptions};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_drivers::null::{NullDriver, NullOptions};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{BlockDriver, CommandTable, LeafCommand, LeafQueue, Op, ReqFlags, Tag};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const DEPTH: u32 = 32;
const BLOCK_BYTES: u64 = 4096;
const DEVICE_BYTES: u64 = 16 << 20;

/// A queue whose tags all go round.
struct Load {
    queue: Box<dyn LeafQueue>,
    commands: CommandTable,
    ctx: AioContext,
    idle: Vec<(Tag, Payload)>,
    offset: u64,
}

impl Load {
    fn new(driver: &dyn BlockDriver, registered: bool) -> Load {
        let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
        let (commands, table) = CommandTable::new(DEPTH);
        let mut queue = driver.open_queue(&ctx, table).expect("a queue");
        let pool = BlockPool::new(BLOCK_BYTES as usize, DEPTH as usize, BLOCK_BYTES as usize, Backing::Pages);
        let pool = pool.expect("a pool");
        if registered {
            queue.register_buf(&pool.region()).expect("memory can be registered");
        }
        let block = |tag| (Tag(tag), pool.take().map_or(Payload::None, Payload::One));
        let idle = (0..DEPTH).map(block).collect();
        Load { queue, commands, ctx, idle, offset: 0 }
    }

    /// Submits all tags and waits for all of them.
    fn batch(&mut self) {
        for (tag, payload) in self.idle.drain(..) {
            self.offset = (self.offset + 77 * BLOCK_BYTES) % DEVICE_BYTES;
            let (flags, offset) = (ReqFlags::empty(), self.offset);
            let command = LeafCommand { op: Op::Read, flags, offset, bytes: BLOCK_BYTES, payload };
            assert!(self.commands.put(tag, command).is_ok());
        }
        while self.idle.len() < DEPTH as usize {
            self.queue.commit();
            self.ctx.turn(Wait::No);
            self.queue.reap();
            let idle = &mut self.idle;
            self.commands.drain_ended(|done| idle.push((done.tag, black_box(done.payload))));
        }
    }
}

fn leaves(c: &mut Criterion) {
    let mut group = c.benchmark_group("leaf, 32 reads of 4 KiB");
    group.throughput(Throughput::Elements(DEPTH.into()));
    let mut measure = |name: &str, driver: &dyn BlockDriver, registered: bool| {
        let mut load = Load::new(driver, registered);
        group.bench_function(name, |b| b.iter(|| load.batch()));
    };
    let null = NullDriver::open(&NullOptions::default()).expect("a null device");
    measure("null", &null, false);
    let mem = MemDriver::open(&MemOptions::new(DEVICE_BYTES as usize)).expect("a RAM disk");
    measure("mem", &mem, false);

    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch file");
    std::fs::write(file.path(), vec![1; DEVICE_BYTES as usize]).expect("a scratch file can be written");
    let file = FileDriver::open(&FileOptions::new(file.path())).expect("the scratch file opens");
    measure("file, page cache", &file, false);
    measure("file, page cache, registered memory", &file, true);
    group.finish();
}

criterion_group!(benches, leaves);
criterion_main!(benches);
