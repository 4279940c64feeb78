//! A controller model with two namespaces, a driver on it, and one lane.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf};
use corelane_drivers::nvme::recovery::ControllerEvent;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend, Channel, Errno, IoResult};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};

/// What a namespace has, in bytes.
pub const SIZE: u64 = 1 << 20;
/// A block of it.
pub const BLOCK: usize = 4096;

/// See the module.
pub struct Rig {
    pub model: Arc<Model>,
    pub controller: Arc<NvmeController>,
    events: Receiver<ControllerEvent>,
    pub ctx: AioContext,
}

impl Rig {
    /// A controller of this kind with two namespaces of RAM, and short deadlines.
    pub fn new(config: ModelConfig) -> Rig {
        let options =
            ControllerOptions { io_timeout_ms: 400, admin_timeout_ms: 2000, ..ControllerOptions::default() };
        Rig::with(config, options)
    }

    pub fn with(config: ModelConfig, options: ControllerOptions) -> Rig {
        let namespaces = vec![NamespaceConfig::ram(SIZE); 2];
        // In units of 500 ms.
        let model = Arc::new(Model::new(ModelConfig { namespaces, ready_timeout: 2, ..config }).unwrap());
        let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
        let controller = NvmeController::start(bus, &options).unwrap();
        let (told, events) = channel();
        let told = Mutex::new(told);
        controller.on_event(move |event| {
            // The test may be over.
            let _ = told.lock().unwrap().send(event.clone());
        });
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        Rig { model, controller, events, ctx }
    }

    pub fn open(&self, nsid: u32) -> BlockBackend {
        self.open_polling(nsid, Polling::On)
    }

    pub fn open_polling(&self, nsid: u32, poll: Polling) -> BlockBackend {
        let options = NvmeOptions { poll, ..NvmeOptions::default() };
        let driver = NvmeDriver::open(&self.controller, Nsid(nsid), &options).unwrap();
        BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap()
    }

    /// The next event that `wanted` takes.
    pub fn event<T>(&self, wanted: impl Fn(&ControllerEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("the event comes");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    pub fn read(&self, channel: &Channel, offset: u64) -> IoResult {
        let buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
        self.ctx.block_on(channel.read_at(offset, buf)).0
    }

    pub fn write(&self, channel: &Channel, offset: u64, byte: u8) -> IoResult {
        let mut buf = IoBuf::from(DmaBuffer::new(BLOCK, BLOCK, Backing::Pages).unwrap());
        buf.copy_from(0, &[byte; BLOCK]).unwrap();
        self.ctx.block_on(channel.write_at(offset, buf)).0
    }

    pub fn resized(&self, nsid: u32) -> u64 {
        self.event(|event| match event {
            ControllerEvent::Resized { nsid: one, blocks } if one.0 == nsid => Some(*blocks),
            _ => None,
        })
    }

    pub fn namespace_failed(&self, nsid: u32) -> String {
        self.event(|event| match event {
            ControllerEvent::NamespaceFailed { nsid: one, reason } if one.0 == nsid => Some(reason.clone()),
            _ => None,
        })
    }

    pub fn namespaces_changed(&self) -> Vec<u32> {
        self.event(|event| match event {
            ControllerEvent::NamespacesChanged { nsids } => Some(nsids.iter().map(|nsid| nsid.0).collect()),
            _ => None,
        })
    }

    pub fn set_faults(&self, script: &str) {
        self.model.set_faults(script.parse().unwrap()).unwrap();
    }

    /// How many faults of this kind were made.
    pub fn made(&self, fault: &str) -> u64 {
        self.model.faults_made().into_iter().find(|(name, _)| *name == fault).map_or(0, |(_, count)| count)
    }

    pub fn assert_clean(&self) {
        assert_eq!(self.model.take_violations(), []);
    }
}

/// How a request ends with this.
pub fn errno(errno: Errno) -> IoResult {
    Err(errno.into())
}
