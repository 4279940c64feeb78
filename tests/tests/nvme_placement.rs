//! Flexible data placement: what writes say of where they go arrives, whatever way they take, and reads say nothing.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Placement};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig, PlacementConfig};

const BLOCK: usize = 4096;

/// A controller whose first namespace has four handles in two groups, and its second none.
fn start() -> (Arc<Model>, Arc<NvmeController>) {
    let plain = NamespaceConfig::ram(4 << 20);
    let placement = Some(PlacementConfig { handles: 4, groups: 2 });
    let placed = NamespaceConfig { placement, ..plain.clone() };
    let model = Arc::new(Model::new(ModelConfig::new(vec![placed, plain])).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    (Arc::clone(&model), NvmeController::start(bus, &ControllerOptions::default()).unwrap())
}

fn open(controller: &Arc<NvmeController>, nsid: u32, placement: Placement) -> Result<BlockBackend, String> {
    let options = NvmeOptions { placement: Some(placement), ..NvmeOptions::default() };
    let driver = NvmeDriver::open(controller, Nsid(nsid), &options).map_err(|error| error.to_string())?;
    Ok(BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap())
}

/// Writes blocks from memory that is registered and from memory that is not, and reads them back: 2 + 2 + 64 + 64 blocks.
fn write_and_read(backend: &BlockBackend) {
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = backend.channel(&ctx, 8).unwrap();
    let region = |len| Rc::new(MemRegion::from_buffer(DmaBuffer::new(len, BLOCK, Backing::Pages).unwrap()));
    let registered = region(64 * BLOCK);
    ctx.block_on(backend.register_buf(&registered)).unwrap();
    let mut byte = 1;
    for blocks in [2, 64] {
        for memory in [&registered, &region(64 * BLOCK)] {
            let mut buf = IoBuf::lease(memory, 0, blocks * BLOCK).unwrap();
            buf.copy_from(0, &vec![byte; blocks * BLOCK]).unwrap();
            let (result, mut buf) = ctx.block_on(channel.write_at(0, buf));
            result.unwrap();
            buf.copy_from(0, &vec![0; blocks * BLOCK]).unwrap();
            let (result, buf) = ctx.block_on(channel.read_at(0, buf));
            result.unwrap();
            let mut back = vec![0; blocks * BLOCK];
            buf.copy_to(0, &mut back).unwrap();
            assert_eq!(back, vec![byte; blocks * BLOCK]);
            byte += 1;
        }
    }
    drop(channel);
    ctx.block_on(backend.unregister_buf(&registered)).unwrap();
}

#[test]
fn the_handle_of_every_write_arrives() {
    let (model, controller) = start();
    // The third: handle 1 of the first group. The placement identifiers have the group in their upper bits.
    write_and_read(&open(&controller, 1, Placement::handle(2)).unwrap());
    assert_eq!(model.placements(1), [(1, 132)]);
    write_and_read(&open(&controller, 1, Placement::handle(7)).unwrap());
    assert_eq!(model.placements(1), [(1, 132), (0x8003, 132)]);
    assert_eq!(model.take_violations(), []);
}

#[test]
fn handles_are_taken_by_turns() {
    let (model, controller) = start();
    write_and_read(&open(&controller, 1, Placement::handles(&[0, 4]).unwrap()).unwrap());
    assert_eq!(model.placements(1), [(0, 66), (2, 66)]);
    assert_eq!(model.take_violations(), []);
}

#[test]
fn without_the_option_nothing_is_said() {
    let (model, controller) = start();
    let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
    write_and_read(&BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap());
    assert_eq!(model.placements(1), []);
    assert_eq!(model.take_violations(), []);
}

#[test]
fn what_a_namespace_does_not_have_is_refused_by_one_error() {
    let (model, controller) = start();
    let error = open(&controller, 1, Placement::handle(8)).err().unwrap();
    assert!(error.contains("handle 8 is asked for, but it has 8, from 0 to 7"), "{error}");
    let error = open(&controller, 2, Placement::ALL).err().unwrap();
    assert!(error.contains("Flexible Data Placement Disabled"), "{error}");
    assert_eq!(model.take_violations(), []);
    let plain = Arc::new(Model::new(ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)])).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&plain)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    let error = open(&controller, 1, Placement::handle(0)).err().unwrap();
    assert!(error.contains("no flexible data placement (CTRATT bit 19)"), "{error}");
    assert_eq!(plain.take_violations(), []);
}
