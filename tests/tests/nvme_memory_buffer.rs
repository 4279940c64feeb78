//! Submission queues in the controller's own memory: where it has some, as far as there is room, and again after a reset.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend, Channel};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};

const BLOCK: usize = 4096;

struct Rig {
    model: Arc<Model>,
    controller: Arc<NvmeController>,
    backend: BlockBackend,
}

fn start(pages: u16, wanted: bool) -> Rig {
    let config =
        ModelConfig { memory_buffer_pages: pages, ..ModelConfig::new(vec![NamespaceConfig::ram(4 << 20)]) };
    let model = Arc::new(Model::new(config).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let options = ControllerOptions { queues_in_controller: wanted, ..ControllerOptions::default() };
    let controller = NvmeController::start(bus, &options).unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
    Rig { model, controller, backend }
}

/// Writes blocks and reads them back, `rounds` times around the ring.
fn work(ctx: &AioContext, channel: &Channel, rounds: usize) {
    let region = Rc::new(MemRegion::from_buffer(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap()));
    let mut buf = IoBuf::lease(&region, 0, BLOCK).unwrap();
    for round in 0..rounds {
        let (at, byte) = ((round % 1024 * BLOCK) as u64, (round % 251 + 1) as u8);
        buf.copy_from(0, &[byte; BLOCK]).unwrap();
        let (result, mut same) = ctx.block_on(channel.write_at(at, buf));
        result.unwrap();
        same.copy_from(0, &[0; BLOCK]).unwrap();
        let (result, same) = ctx.block_on(channel.read_at(at, same));
        result.unwrap();
        let mut back = [0; BLOCK];
        same.copy_to(0, &mut back).unwrap();
        assert_eq!(back, [byte; BLOCK]);
        buf = same;
    }
}

#[test]
fn queues_are_where_there_is_room_for_them() {
    for (pages, wanted, expected) in [(64, true, 2), (1, true, 1), (0, true, 0), (64, false, 0)] {
        let rig = start(pages, wanted);
        assert_eq!(rig.controller.has_queues_in_controller(), wanted && pages > 0);
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let channels = [rig.backend.channel(&ctx, 16).unwrap(), rig.backend.channel(&ctx, 16).unwrap()];
        channels.iter().for_each(|channel| work(&ctx, channel, 200));
        assert_eq!(rig.model.queues_in_buffer(), expected, "{pages} pages");
        drop(channels);
        // What was given back is taken again.
        let channel = rig.backend.channel(&ctx, 16).unwrap();
        work(&ctx, &channel, 10);
        assert_eq!(rig.model.queues_in_buffer(), expected + u64::from(expected > 0));
        drop(channel);
        let Rig { model, controller, backend } = rig;
        drop((backend, controller));
        assert_eq!(model.take_violations(), [], "{pages} pages");
    }
}

#[test]
fn after_a_reset_the_queue_is_made_again_where_it_was() {
    let rig = start(64, true);
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = rig.backend.channel(&ctx, 16).unwrap();
    work(&ctx, &channel, 20);
    rig.model.set_faults("write:1=fatal".parse().unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while rig.controller.resets() == 0 {
        work(&ctx, &channel, 1);
        assert!(Instant::now() < end, "it is not reset");
    }
    work(&ctx, &channel, 50);
    assert_eq!(rig.model.queues_in_buffer(), 2);
    assert_eq!(rig.model.take_violations(), []);
}
