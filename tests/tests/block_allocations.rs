//! In steady state a request allocates nothing: for every leaf, as a batch and as a future, of one buffer or of several,
//! in registered memory or not.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, BlockPool, IoVector, Payload};
use corelane_drivers::file::{CacheMode, FileDriver, FileOptions};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_drivers::null::{NullDriver, NullOptions};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver, Channel, Request};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};
use corelane_tests::alloc::{CountingAllocator, Counts};
use corelane_tests::{Scratch, Seed};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const LENGTH: usize = 4 << 20;
const BLOCK: usize = 4096;
const DEPTH: usize = 16;

fn drivers(scratch: &Scratch) -> Vec<(&'static str, Arc<dyn BlockDriver>)> {
    let mut content = vec![0; LENGTH];
    let seed = Seed::sequences(1).next().expect("one seed");
    rand::Rng::fill_bytes(&mut seed.rng(), &mut content);
    let path = scratch.file("device", &content);
    let file = |cache| {
        let options = FileOptions::new(&path).cache(cache).share_rw(true);
        Arc::new(FileDriver::open(&options).expect("the file opens")) as Arc<dyn BlockDriver>
    };
    let null = NullDriver::open(&NullOptions { size_bytes: LENGTH as u64, ..NullOptions::default() });
    vec![
        ("null", Arc::new(null.expect("a null device"))),
        ("mem", Arc::new(MemDriver::open(&MemOptions::new(LENGTH)).expect("a RAM disk"))),
        ("file through the page cache", file(CacheMode::Writeback)),
        ("file past the page cache", file(CacheMode::None)),
        ("NVMe, polled", nvme(Polling::On)),
        ("NVMe by interrupts", nvme(Polling::Off)),
    ]
}

/// A namespace of the controller model, which has a thread of its own.
fn nvme(poll: Polling) -> Arc<dyn BlockDriver> {
    let config = ModelConfig::new(vec![NamespaceConfig::ram(LENGTH as u64)]);
    let model = Arc::new(Model::new(config).expect("a controller"));
    let bus = ModelBus::new("model", model).expect("a bus");
    let controller = NvmeController::start(bus, &ControllerOptions::default()).expect("it starts");
    let options = NvmeOptions { poll, read_only: false, placement: None };
    Arc::new(NvmeDriver::open(&controller, Nsid(1), &options).expect("a namespace"))
}

/// Runs `round` often enough to reach the steady state, and then checks that it allocates nothing more.
fn assert_steady(what: &str, mut round: impl FnMut()) {
    (0..50).for_each(|_| round());
    let mark = Counts::of_this_thread();
    (0..200).for_each(|_| round());
    let counts = mark.until_now();
    assert!(counts.is_zero(), "{what}: {counts:?} in 200 rounds of {DEPTH} requests");
}

fn request(index: usize, payload: Payload) -> Request {
    let (offset, token) = ((index * BLOCK) as u64, index as u64);
    match payload {
        Payload::One(buf) if index.is_multiple_of(2) => Request::read(offset, buf),
        Payload::One(buf) => Request::write(offset, buf),
        Payload::Many(vector) => Request::readv(offset, vector),
        Payload::None => unreachable!("each request has memory"),
    }
    .with_token(token)
}

/// A batch: submit, turn until all are back, drain.
fn batches(ctx: &AioContext, channel: &Channel, memory: &mut Vec<Payload>) {
    for (index, payload) in memory.drain(..).enumerate() {
        channel.submit(request(index, payload)).expect("room for the whole depth");
    }
    while memory.len() < DEPTH {
        ctx.turn(Wait::Yes);
        channel.drain(|completion| {
            assert_eq!(completion.result, Ok(()));
            memory.push(completion.payload);
        });
    }
}

/// One request after the other, awaited.
fn futures(ctx: &AioContext, channel: &Channel, memory: &mut [Payload]) {
    ctx.block_on(async {
        for (index, place) in memory.iter_mut().enumerate() {
            let payload = std::mem::take(place);
            let (result, payload) = channel.start(request(index, payload)).await;
            assert_eq!(result, Ok(()));
            *place = payload;
        }
    });
}

#[test]
fn a_request_allocates_nothing() {
    let Some(scratch) = Scratch::new() else { return };
    for (name, driver) in drivers(&scratch) {
        let ctx = AioContext::new(&AioConfig::named("steady")).expect("an event loop");
        let backend = BlockBackend::new(driver, BackendOptions::default()).expect("a backend");
        let channel = Rc::new(backend.channel(&ctx, DEPTH as u32).expect("a channel"));
        let pool = BlockPool::new(BLOCK, 3 * DEPTH, 4096, Backing::Pages).expect("memory");
        for registered in [false, true] {
            if registered {
                ctx.block_on(backend.register_buf(&pool.region())).expect("registered");
            }
            let take = || pool.take().expect("a block");
            let mut single: Vec<Payload> = (0..DEPTH).map(|_| Payload::One(take())).collect();
            let pair = || Payload::Many(Box::new(IoVector::from_iter([take(), take()])));
            let mut several: Vec<Payload> = (0..DEPTH).map(|_| pair()).collect();
            let memory = if registered { "registered" } else { "unregistered" };
            for (shape, payloads) in [("one buffer", &mut single), ("two buffers", &mut several)] {
                let what = format!("{name}, {memory} memory, {shape}");
                assert_steady(&format!("{what}, batches"), || batches(&ctx, &channel, payloads));
                // A task that waits is woken through the waker that its own lane made once.
                let mark = Counts::of_this_thread();
                futures(&ctx, &channel, payloads);
                let per_call = mark.until_now();
                let mark = Counts::of_this_thread();
                (0..10).for_each(|_| futures(&ctx, &channel, payloads));
                let ten = mark.until_now();
                // `block_on` makes a waker each time; a request adds nothing to that.
                assert!(
                    per_call.allocations <= 2 && ten.allocations <= 20,
                    "{what}, futures: {per_call:?} once, {ten:?} in ten calls of {DEPTH} requests each"
                );
            }
        }
        let stats = channel.stats();
        assert_eq!(stats.slow.iter().sum::<u64>(), 0, "{name}: {stats:?}");
    }
}
