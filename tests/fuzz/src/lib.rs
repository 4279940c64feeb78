//! What is fuzzed: whatever a controller says is either taken for something that a controller can be, or refused; nothing
//! panics, and nothing is left behind.

use std::sync::Arc;

use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions};
use corelane_engine::block::{BackendOptions, BlockBackend};
use corelane_nvme_model::{
    Device, Fault, FaultRule, FaultScript, Model, ModelBus, ModelConfig, NamespaceConfig, What, When,
    ZoneConfig,
};

/// Identify, as an admin command (NVMe base 2.0, section 5.17).
const IDENTIFY: u8 = 0x06;

thread_local! {
    static MODEL: Arc<Model> = model();
    static CONTROLLER: Arc<NvmeController> = {
        let bus = ModelBus::new("fuzzed", model()).expect("a bus");
        NvmeController::start(bus, &ControllerOptions::default()).expect("a controller that works")
    };
}

fn model() -> Arc<Model> {
    let zones = Some(ZoneConfig::new(1 << 18));
    let zoned = NamespaceConfig { zones, ..NamespaceConfig::ram(1 << 20) };
    let config = ModelConfig {
        max_queue_pairs: 2,
        vectors: 2,
        ..ModelConfig::new(vec![NamespaceConfig::ram(1 << 20), zoned])
    };
    Arc::new(Model::new(config).expect("a model"))
}

/// Completion queue entries: any bytes, in any place, at any time.
///
/// # Panics
/// When the driver does, or believes one that it must not.
pub fn completions(input: &[u8]) {
    CONTROLLER.with(|controller| {
        corelane_drivers::nvme::fuzz::completions(controller, input).expect("memory for a queue");
    });
}

/// Identify data: up to three of the structures differ from what is right. The controller is started, its namespaces,
/// one of them zoned, are opened, and all is closed again.
///
/// # Panics
/// When the driver does, takes limits that are none, or leaves memory mapped.
pub fn identify(input: &[u8]) {
    let mut rules = Vec::new();
    let mut rest = input;
    while let [which, at_low, at_high, len, more @ ..] = rest
        && rules.len() < 3
    {
        let (bytes, next) = more.split_at(usize::from(*len).min(more.len()));
        rest = next;
        // Namespace, controller, active namespaces, those of the command set, descriptors.
        let cns = [0x00, 0x01, 0x02, 0x05, 0x06, 0x03, 0x08][usize::from(*which) % 7];
        let at = usize::from(u16::from_le_bytes([*at_low, *at_high])) % 4096;
        rules.push(FaultRule {
            what: What::Admin(Some(IDENTIFY), Some(cns)),
            queue: None,
            nsid: None,
            blocks: None,
            when: When::Count(1..=u64::MAX),
            fault: Fault::Corrupt(Some((at, bytes.to_vec()))),
        });
    }
    MODEL.with(|model| open_and_close(model, FaultScript { seed: 0, rules }));
}

fn open_and_close(model: &Arc<Model>, script: FaultScript) {
    model.set_faults(script).expect("a namespace in memory");
    let bus = ModelBus::new("fuzzed", Arc::clone(model)).expect("a bus");
    let options = ControllerOptions { admin_timeout_ms: 5_000, ..ControllerOptions::default() };
    if let Ok(controller) = NvmeController::start(bus, &options) {
        for nsid in [Nsid(1), Nsid(2)] {
            if let Ok(driver) = NvmeDriver::open(&controller, nsid, &NvmeOptions::default())
                && let Ok(backend) = BlockBackend::new(Arc::new(driver), BackendOptions::default())
            {
                backend.limits().validate().expect("limits that hold together");
                assert!(backend.length() > 0);
            }
        }
    }
    let left_bytes = model.dma_unmap(0, u64::MAX).expect("whole mappings");
    assert_eq!(left_bytes, 0, "memory stays mapped");
    // A controller that lies is asked for things that it does not have.
    model.take_violations();
}

/// Log pages: errors, health, changed namespaces.
///
/// # Panics
/// When the driver does.
pub fn log_pages(input: &[u8]) {
    corelane_drivers::nvme::fuzz::log_pages(input);
}

/// Reports of zones, and lists of identification descriptors.
///
/// # Panics
/// When the driver does.
pub fn zone_reports(input: &[u8]) {
    corelane_drivers::nvme::fuzz::zone_reports(input);
}
