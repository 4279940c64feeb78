//! NVMe transfers from and to memory of every kind: registered, not registered, mapped for the request, scattered so that
//! page entries express it or not, up to lists that go on in further pages. The data is compared with a reference.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, MemRegion};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend, Channel};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};
use corelane_tests::Seed;
use rand::{Rng, RngExt};

const BLOCK: usize = 512;
const DISK_BYTES: usize = 16 << 20;
const REGION_BYTES: usize = 12 << 20;

struct Disk {
    model: Arc<Model>,
    backend: BlockBackend,
    channel: Channel,
    ctx: AioContext,
    /// Registered, and leased from without being registered.
    regions: [Rc<MemRegion>; 2],
    expected: Vec<u8>,
}

impl Disk {
    fn new(config: ModelConfig) -> Disk {
        let namespace = NamespaceConfig { lba_shift: 9, ..NamespaceConfig::ram(DISK_BYTES as u64) };
        let model = Arc::new(Model::new(ModelConfig { namespaces: vec![namespace], ..config }).unwrap());
        let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
        let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
        let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
        let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let channel = backend.channel(&ctx, 8).unwrap();
        let region = || {
            let buffer = DmaBuffer::new(REGION_BYTES, 4096, Backing::Pages).unwrap();
            Rc::new(MemRegion::from_buffer(buffer))
        };
        let regions = [region(), region()];
        ctx.block_on(backend.register_buf(&regions[0])).unwrap();
        Disk { model, backend, channel, ctx, regions, expected: vec![0; DISK_BYTES] }
    }

    /// A segment of `len` bytes of memory of some kind. Starts on a dword, or a page.
    fn segment(&self, rng: &mut impl Rng, len: usize) -> IoBuf {
        let kind = rng.random_range(0..6);
        if kind == 5 {
            return IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).unwrap());
        }
        let align = if rng.random_bool(0.5) { 4096 } else { 4 };
        let at = rng.random_range(0..=(REGION_BYTES - len) / align) * align;
        IoBuf::lease(&self.regions[usize::from(kind == 4)], at, len).unwrap()
    }

    /// A vector of `len` bytes, of one to many segments, whose lengths are multiples of 4.
    fn vector(&self, rng: &mut impl Rng, len: usize) -> Box<IoVector> {
        let mut vector = IoVector::new();
        let most = rng.random_range(1..=12);
        let pages = rng.random_bool(0.4);
        let mut left = len;
        while left > 0 {
            let unit = if pages && left > 4096 { 4096 } else { 4 };
            let last = vector.segments().len() + 1 >= most;
            let step = if last {
                left
            } else {
                (rng.random_range(1..=left) / unit * unit).clamp(unit.min(left), left)
            };
            vector.push(self.segment(rng, step));
            left -= step;
        }
        Box::new(vector)
    }

    fn write(&mut self, rng: &mut impl Rng, offset: usize, len: usize) {
        // Segments of one region may overlap: what is written is what the memory then holds.
        let mut vector = self.vector(rng, len);
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes[..]);
        vector.copy_from(0, &bytes).unwrap();
        vector.copy_to(0, &mut bytes).unwrap();
        let (result, _) = self.ctx.block_on(self.channel.writev_at(offset as u64, vector));
        result.unwrap();
        self.expected[offset..offset + len].copy_from_slice(&bytes);
    }

    fn read(&mut self, rng: &mut impl Rng, offset: usize, len: usize) {
        // One segment has no other to overlap with.
        let mut vector = Box::new(IoVector::new());
        let half = len / 2 / 4 * 4;
        let parts = if half > 0 && rng.random_bool(0.7) { vec![half, len - half] } else { vec![len] };
        for (index, part) in parts.into_iter().enumerate() {
            let region = &self.regions[rng.random_range(0..2)];
            let room = (REGION_BYTES / 2 - part) / 4;
            let at = index * (REGION_BYTES / 2) + rng.random_range(0..=room) * 4;
            vector.push(IoBuf::lease(region, at, part).unwrap());
        }
        let (result, vector) = self.ctx.block_on(self.channel.readv_at(offset as u64, vector));
        result.unwrap();
        let mut bytes = vec![0; len];
        vector.copy_to(0, &mut bytes).unwrap();
        let first =
            bytes.iter().zip(&self.expected[offset..]).position(|(found, expected)| found != expected);
        assert_eq!(first, None, "a read of {len} bytes at {offset} differs from what was written");
    }

    fn exercise(mut self, rng: &mut impl Rng, count: usize) {
        for _ in 0..count {
            // Short ones mostly, up to 6 MiB.
            let bits = rng.random_range(0..14);
            let blocks = rng.random_range(1..=(6 << 20 >> 9 >> bits).max(1));
            let len = blocks * BLOCK;
            let offset = rng.random_range(0..=(DISK_BYTES - len) / BLOCK) * BLOCK;
            if rng.random_bool(0.5) {
                self.write(rng, offset, len);
            } else {
                self.read(rng, offset, len);
            }
        }
        self.ctx.block_on(self.backend.unregister_buf(&self.regions[0])).unwrap();
        drop(self.channel);
        self.ctx.shutdown();
        drop(self.backend);
        assert_eq!(self.model.take_violations(), [], "what the model has against the driver");
    }
}

fn check(config: &ModelConfig) {
    for seed in Seed::sequences(2) {
        Disk::new(config.clone()).exercise(&mut seed.rng(), 150);
    }
}

#[test]
fn with_page_lists() {
    let config = ModelConfig::new(Vec::new());
    check(&config);
    check(&ModelConfig { mdts: 0, ..config.clone() });
    check(&ModelConfig { mdts: 1, ..config });
}

#[test]
fn with_scatter_gather_lists() {
    let config = ModelConfig { sgls: true, ..ModelConfig::new(Vec::new()) };
    check(&config);
    check(&ModelConfig { mdts: 0, ..config });
}
