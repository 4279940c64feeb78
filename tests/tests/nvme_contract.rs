//! The NVMe leaf keeps the contract of a leaf queue, on the controller model in this process, whatever the controller is
//! like; and the model finds nothing that the specification forbids.

use std::sync::Arc;

use corelane_drivers::contract::{ContractOptions, ContractReport, SPAN_BYTES, check};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};

/// The seed of the random choices: `CORELANE_SEED`, or the time.
#[allow(clippy::print_stdout)] // For whoever looks into a failure.
fn seed() -> u64 {
    let given = std::env::var("CORELANE_SEED").ok().and_then(|text| text.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = given.unwrap_or_else(now);
    println!("CORELANE_SEED={seed}");
    seed
}

/// A controller over one RAM namespace with blocks of `2 ^ lba_shift` bytes.
fn ram(lba_shift: u8) -> ModelConfig {
    let namespace = NamespaceConfig { lba_shift, ..NamespaceConfig::ram(SPAN_BYTES) };
    ModelConfig::new(vec![namespace])
}

fn start(config: &ModelConfig) -> (Arc<Model>, Arc<NvmeController>) {
    let model = Arc::new(Model::new(config.clone()).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    (model, controller)
}

/// Checks a controller at these depths; the same one for all queues of a depth.
fn check_model(config: &ModelConfig, options: &NvmeOptions, depths: &[u32]) -> ContractReport {
    let mut last = ContractReport::default();
    for &tags in depths {
        let (model, controller) = start(config);
        let factory = || NvmeDriver::open(&controller, Nsid(1), options).map(|driver| Box::new(driver) as _);
        let options = ContractOptions { tags, seed: seed(), keeps_data: true };
        last = check(&factory, &options).unwrap_or_else(|violation| panic!("{config:?}: {violation}"));
        drop(controller);
        assert_eq!(model.take_violations(), [], "what the model has against the driver");
        assert_eq!(last.unsupported, Vec::<&str>::new());
    }
    last
}

const POLL: NvmeOptions = NvmeOptions { poll: Polling::On, read_only: false, placement: None };

#[test]
fn a_controller_with_nothing_unusual() {
    check_model(&ram(12), &POLL, &[2, 32, 300]);
}

#[test]
fn every_block_size() {
    for shift in 9..=16 {
        check_model(&ram(shift), &POLL, &[8]);
    }
}

#[test]
fn by_interrupts_and_adaptively() {
    for poll in [Polling::Off, Polling::Adaptive] {
        check_model(&ram(12), &NvmeOptions { poll, ..POLL }, &[2, 32]);
    }
    check_model(&ModelConfig { vectors: 1, ..ram(12) }, &NvmeOptions { poll: Polling::Off, ..POLL }, &[32]);
}

#[test]
fn short_queues_and_small_transfers() {
    for max_queue_entries in [2, 3, 5, 17] {
        check_model(&ModelConfig { max_queue_entries, ..ram(9) }, &POLL, &[32]);
    }
    for mdts in [0, 1, 2] {
        check_model(&ModelConfig { mdts, ..ram(9) }, &POLL, &[16]);
    }
}

#[test]
fn shadow_doorbells() {
    let config = ModelConfig { shadow_doorbells: true, doorbell_stride: 0, max_queue_pairs: 8, ..ram(12) };
    check_model(&config, &POLL, &[2, 32, 300]);
    check_model(&config, &NvmeOptions { poll: Polling::Off, ..POLL }, &[32]);
}

#[test]
fn scatter_gather_lists() {
    check_model(&ModelConfig { sgls: true, ..ram(9) }, &POLL, &[2, 32]);
}

#[test]
fn no_write_cache() {
    check_model(&ModelConfig { write_cache: false, ..ram(12) }, &POLL, &[32]);
}

#[test]
fn every_doorbell_stride() {
    for doorbell_stride in [0, 1, 8] {
        check_model(&ModelConfig { doorbell_stride, ..ram(12) }, &POLL, &[8]);
    }
}
