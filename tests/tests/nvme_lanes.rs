//! Several lanes on one NVMe controller: each with a queue of its own, or with fewer queues than lanes, where one sends
//! through another. Every byte is written and read back.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_engine::aio::{AioConfig, AioContext, IoThread};
use corelane_engine::block::{BackendOptions, BlockBackend, Channel};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};

const BLOCK: usize = 4096;
/// Blocks that a lane has under way at once.
const TASKS: u64 = 6;
/// What a lane has for itself, in bytes.
const SHARE: u64 = 1 << 20;

/// A controller over RAM for `lanes` lanes, and its first namespace.
fn start(config: ModelConfig, lanes: u64, poll: Polling) -> (Arc<Model>, Arc<NvmeController>, BlockBackend) {
    let namespaces = vec![NamespaceConfig::ram(lanes * SHARE); 2];
    let model = Arc::new(Model::new(ModelConfig { namespaces, ..config }).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    let backend = open(&controller, 1, poll);
    (model, controller, backend)
}

fn open(controller: &Arc<NvmeController>, nsid: u32, poll: Polling) -> BlockBackend {
    let options = NvmeOptions { poll, ..NvmeOptions::default() };
    let driver = NvmeDriver::open(controller, Nsid(nsid), &options).unwrap();
    BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap()
}

fn pattern(lane: u64, task: u64, round: u64) -> u8 {
    (lane * 31 + task * 7 + round * 3 + 1) as u8
}

/// Writes and reads back a block again and again.
async fn rounds(channel: Rc<Channel>, mut buf: IoBuf, lane: u64, task: u64, count: u64) {
    let offset = lane * SHARE + task * BLOCK as u64;
    for round in 0..count {
        let byte = pattern(lane, task, round);
        buf.copy_from(0, &[byte; BLOCK]).unwrap();
        let (result, mut same) = channel.write_at(offset, buf).await;
        result.unwrap();
        same.copy_from(0, &[0; BLOCK]).unwrap();
        let (result, same) = channel.read_at(offset, same).await;
        result.unwrap();
        let mut back = [0; BLOCK];
        same.copy_to(0, &mut back).unwrap();
        assert_eq!(back, [byte; BLOCK], "lane {lane}, task {task}, round {round}");
        buf = same;
    }
}

/// What a lane does: `tasks` blocks at once, through a channel of its own.
async fn work(ctx: AioContext, backend: BlockBackend, lane: u64, tasks: u64, count: u64) {
    let channel = Rc::new(backend.channel(&ctx, 32).unwrap());
    let buffer = DmaBuffer::new(tasks as usize * BLOCK, BLOCK, Backing::Pages).unwrap();
    let region = Rc::new(MemRegion::from_buffer(buffer));
    let mut running = Vec::new();
    for task in 0..tasks {
        let buf = IoBuf::lease(&region, task as usize * BLOCK, BLOCK).unwrap();
        running.push(ctx.spawn(rounds(Rc::clone(&channel), buf, lane, task, count)));
    }
    for task in running {
        task.await;
    }
}

/// Runs lanes that end one after the other: the first has the least to do.
fn run_lanes(backend: &BlockBackend, lanes: u64, tasks: u64, count: u64) {
    let threads: Vec<IoThread> =
        (0..lanes).map(|_| IoThread::spawn(&AioConfig::named("nvme")).unwrap()).collect();
    std::thread::scope(|scope| {
        for (lane, thread) in (0..lanes).zip(&threads) {
            let backend = backend.clone();
            scope.spawn(move || {
                let job = move |ctx: &AioContext| work(ctx.clone(), backend, lane, tasks, count * (lane + 1));
                thread.run_on(job).unwrap();
            });
        }
    });
}

fn check(config: ModelConfig, lanes: u64, poll: Polling, count: u64) {
    let (model, controller, backend) = start(config, lanes, poll);
    run_lanes(&backend, lanes, TASKS, count);
    drop(backend);
    drop(controller);
    assert_eq!(model.take_violations(), [], "what the model has against the driver");
}

fn plain() -> ModelConfig {
    ModelConfig::new(Vec::new())
}

#[test]
fn each_lane_has_a_queue() {
    check(plain(), 3, Polling::On, 50);
    check(plain(), 3, Polling::Off, 50);
}

#[test]
fn two_lanes_share_the_only_queue() {
    for poll in [Polling::On, Polling::Off, Polling::Adaptive] {
        check(ModelConfig { max_queue_pairs: 1, ..plain() }, 2, poll, 60);
    }
}

#[test]
fn five_lanes_share_two_queues() {
    check(ModelConfig { max_queue_pairs: 2, ..plain() }, 5, Polling::Off, 20);
    // Queues so short that a host has hardly room for itself.
    check(ModelConfig { max_queue_pairs: 2, max_queue_entries: 4, ..plain() }, 5, Polling::Off, 20);
}

#[test]
fn more_lanes_than_a_host_has_room_for() {
    for poll in [Polling::On, Polling::Off] {
        let (model, controller, backend) = start(ModelConfig { max_queue_pairs: 1, ..plain() }, 11, poll);
        run_lanes(&backend, 11, 32, 2);
        drop((backend, controller));
        assert_eq!(model.take_violations(), []);
    }
}

#[test]
fn lanes_share_the_only_vector() {
    check(ModelConfig { vectors: 1, ..plain() }, 3, Polling::Off, 50);
}

#[test]
fn two_namespaces_are_told_apart_in_one_lane() {
    let (model, controller, first) = start(plain(), 2, Polling::On);
    let second = open(&controller, 2, Polling::On);
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    ctx.block_on(async {
        let channels = [first.channel(&ctx, 4).unwrap(), second.channel(&ctx, 4).unwrap()];
        for (byte, channel) in (1..).zip(&channels) {
            let mut buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
            buf.copy_from(0, &[byte; BLOCK]).unwrap();
            channel.write_at(0, buf).await.0.unwrap();
        }
        for (byte, channel) in (1..).zip(&channels) {
            let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
            let (result, buf) = channel.read_at(0, buf).await;
            result.unwrap();
            assert!(buf.as_slice().unwrap().iter().all(|found| *found == byte));
        }
    });
    ctx.shutdown();
    drop((first, second, controller));
    assert_eq!(model.take_violations(), []);
}

#[test]
fn sixty_four_queues_of_a_thousand_entries() {
    let (model, controller, backend) = start(plain(), 64, Polling::On);
    let contexts: Vec<AioContext> = (0..64)
        .map(|_| AioContext::new(&AioConfig { ring_entries: 8, ..AioConfig::default() }).unwrap())
        .collect();
    let channels: Vec<Channel> = contexts.iter().map(|ctx| backend.channel(ctx, 1024).unwrap()).collect();
    assert_eq!(controller.queue_count(), 64);
    for (lane, (ctx, channel)) in contexts.iter().zip(&channels).enumerate() {
        let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
        let (result, _) = ctx.block_on(channel.read_at(lane as u64 * SHARE, buf));
        result.unwrap();
    }
    drop(channels);
    contexts.iter().for_each(AioContext::shutdown);
    drop((backend, controller));
    assert_eq!(model.take_violations(), []);
}
