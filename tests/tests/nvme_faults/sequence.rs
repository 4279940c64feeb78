//! One random sequence: a controller that is opened, used under faults, closed and opened again.
//!
//! What has to hold whatever the faults: opening, I/O and closing end; data is what it may be; what the controller model
//! saw of the driver keeps to the specification, in memory that is mapped; and unless the controller could not be stopped,
//! no mapping of memory is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_drivers::nvme::recovery::{ControllerEvent, State};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{
    ControllerOptions, NvmeController, NvmeDriver, NvmeError, NvmeOptions, Polling,
};
use corelane_engine::block::{BackendOptions, BlockBackend};
use corelane_nvme_model::{
    Device, FaultScript, Guard, HostMemoryWish, Model, ModelBus, ModelConfig, NamespaceConfig, Protection,
};
use corelane_tests::Seed;
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

use crate::lane::Lane;
use crate::reference::Reference;
use crate::script;
use crate::tally::Tally;

/// What a lane has of the disk, in bytes.
const PART_BYTES: usize = 512 << 10;

struct Sequence {
    seed: Seed,
    rng: Rng,
    model: Arc<Model>,
    lanes: Vec<Lane>,
    tally: Tally,
}

/// A controller with a namespace, opened.
struct Opened {
    controller: Arc<NvmeController>,
    backend: BlockBackend,
    aborts: Arc<AtomicU64>,
}

/// Carries out the sequence.
///
/// # Panics
/// When something of the module's list does not hold.
pub fn run(seed: Seed) -> Tally {
    let mut sequence = Sequence::new(seed);
    let rounds = sequence.rng.random_range(1..=3);
    for _ in 0..rounds {
        if sequence.rng.random_bool(0.25) {
            sequence.open_under_faults();
        }
        sequence.round();
    }
    sequence.check_all();
    sequence.tally.sequences = 1;
    sequence.tally.faults = sequence.model.faults_made().into_iter().collect();
    assert_eq!(sequence.model.take_violations(), [], "what the model has against the driver");
    // One that was lost stays for ever, with the thread that polls.
    sequence.model.end();
    sequence.tally
}

/// Half of the namespaces have none; the others have any, extended or not, with protection information or without.
fn metadata(rng: &mut Rng) -> (u16, bool, Option<Protection>) {
    if rng.random_bool(0.5) {
        return (0, false, None);
    }
    let guards = [(Guard::Crc16, 8), (Guard::Crc32, 16), (Guard::Crc64, 16)];
    let &(guard, bytes) = guards.choose(rng).expect("not empty");
    let protection = Protection { kind: rng.random_range(1..=3), guard, first: rng.random_bool(0.5) };
    let more = *[0, 0, 8, 100].choose(rng).expect("not empty");
    (bytes + more, rng.random_bool(0.5), rng.random_bool(0.7).then_some(protection))
}

impl Sequence {
    fn new(seed: Seed) -> Sequence {
        let mut rng = seed.rng();
        let count = rng.random_range(1..=3);
        let lba_shift = *[9, 12].choose(&mut rng).expect("not empty");
        let (metadata_bytes, metadata_extended, protection) = metadata(&mut rng);
        let namespace = NamespaceConfig {
            lba_shift,
            metadata_bytes,
            metadata_extended,
            protection,
            ..NamespaceConfig::ram((count * PART_BYTES) as u64)
        };
        let config = ModelConfig {
            max_queue_pairs: *[1, 2, 8].choose(&mut rng).expect("not empty"),
            max_queue_entries: *[8, 64, 1024].choose(&mut rng).expect("not empty"),
            vectors: *[1, 9].choose(&mut rng).expect("not empty"),
            doorbell_stride: 0,
            // In units of 500 ms.
            ready_timeout: 1,
            mdts: *[3, 7].choose(&mut rng).expect("not empty"),
            sgls: rng.random_bool(0.5),
            shadow_doorbells: rng.random_bool(0.3),
            memory_buffer_pages: *[0, 0, 1, 64].choose(&mut rng).expect("not empty"),
            host_memory: rng.random_bool(0.3).then_some(HostMemoryWish {
                preferred: 64,
                least: 8,
                least_piece: 0,
                most_pieces: 0,
            }),
            ..ModelConfig::new(vec![namespace])
        };
        let block_bytes = 1 << lba_shift;
        let lanes = (0..count)
            .map(|index| Lane {
                rng: rng.clone(),
                next_number: (index as u64 + 1) << 48,
                first_byte: (index * PART_BYTES) as u64,
                reference: Reference::new(block_bytes, PART_BYTES / block_bytes),
                depth: 1,
                requests: 0,
            })
            .collect();
        let model = Arc::new(Model::new(config).expect("a controller"));
        Sequence { seed, rng, model, lanes, tally: Tally::default() }
    }

    fn set_faults(&self, text: &str) {
        let script: FaultScript = text.parse().expect("a script");
        self.model.set_faults(script).expect("a namespace in memory");
    }

    fn open(&mut self) -> Result<Opened, NvmeError> {
        let io_timeout_ms = *[40, 80, 160].choose(&mut self.rng).expect("not empty");
        // Long enough for a machine on which much else runs.
        self.open_with(io_timeout_ms, 2500)
    }

    fn open_with(&mut self, io_timeout_ms: u64, admin_timeout_ms: u64) -> Result<Opened, NvmeError> {
        let bus = ModelBus::new("model", Arc::clone(&self.model)).expect("a bus");
        let options = ControllerOptions {
            queues_in_controller: true,
            io_timeout_ms,
            admin_timeout_ms,
            io_retries: self.rng.random_range(0..=5),
            resets: self.rng.random_range(0..=6),
            ..ControllerOptions::default()
        };
        let controller = NvmeController::start(bus, &options)?;
        let aborts = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&aborts);
        controller.on_event(move |event| {
            if matches!(event, ControllerEvent::Late { .. }) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let poll = *[Polling::On, Polling::Off, Polling::Adaptive].choose(&mut self.rng).expect("not empty");
        let options = NvmeOptions { poll, ..NvmeOptions::default() };
        let driver =
            NvmeDriver::open(&controller, Nsid(1), &options).map_err(|error| NvmeError::Unusable {
                address: error.to_string(),
                what: "the namespace",
                value: 1,
                expected: "one that can be opened".to_owned(),
            })?;
        let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).expect("a backend");
        Ok(Opened { controller, backend, aborts })
    }

    /// Closes, and makes sure that nothing is left of it in the controller.
    fn close(&mut self, opened: Opened) {
        let Opened { controller, backend, aborts } = opened;
        drop(backend);
        self.tally.opened += 1;
        self.tally.aborts += aborts.load(Ordering::Relaxed);
        self.tally.resets += controller.resets();
        self.tally.given_up += u64::from(controller.state() == State::Stopped);
        drop(controller);
        self.closed();
    }

    /// Looks at what the driver left, once its controller was dropped or not even made.
    fn closed(&mut self) {
        // A driver that could not stop its controller keeps what that may still use, and so the way to the model.
        let is_lost = Arc::strong_count(&self.model) > 1;
        self.tally.lost += u64::from(is_lost);
        let refused = self.model.faults_made().iter().any(|(name, _)| *name == "never");
        assert!(!is_lost || refused, "a controller that can be reset was lost");
        let left_bytes = self.power_cycle();
        // Memory that a controller may still use is not taken away.
        assert!(is_lost || left_bytes == 0, "{left_bytes} bytes are mapped after the controller was closed");
    }

    /// As a machine that is switched off and on: no faults, and nothing in the controller's hands. Returns how many bytes
    /// were.
    fn power_cycle(&mut self) -> u64 {
        self.set_faults("");
        self.model.set_plugged(true);
        self.model.reset();
        self.model.dma_unmap(0, u64::MAX).expect("whole mappings")
    }

    /// Says which faults there are, for whoever looks into a failure.
    #[allow(clippy::print_stdout)]
    fn show(&self, when: &str, text: &str) {
        println!("  {}: {when} {text}", self.seed);
    }

    /// Opens a controller that does not do what it should, and closes it.
    fn open_under_faults(&mut self) {
        let text = script::opening(&mut self.rng);
        self.show("opened with", &text);
        self.set_faults(&text);
        match self.open() {
            Ok(opened) => self.close(opened),
            Err(_) => {
                self.tally.not_opened += 1;
                self.closed();
            }
        }
    }

    /// Opens it, uses it under faults, closes it.
    fn round(&mut self) {
        let opened =
            self.open().unwrap_or_else(|error| panic!("it cannot be opened without faults: {error}"));
        let text = script::working(&mut self.rng);
        self.show("used with", &text);
        self.set_faults(&text);
        for lane in &mut self.lanes {
            lane.rng = Rng::seed_from_u64(self.rng.random());
            lane.depth = lane.rng.random_range(1..=24);
            lane.requests = lane.rng.random_range(20..=250);
        }
        self.run_lanes(&opened.backend);
        self.close(opened);
    }

    fn run_lanes(&mut self, backend: &BlockBackend) {
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.lanes.iter_mut().map(|lane| scope.spawn(|| lane.run(backend))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        tallies.iter().for_each(|tally| self.tally.add(tally));
    }

    /// Reads all blocks once without faults.
    fn check_all(&mut self) {
        use corelane_dma::{Backing, DmaBuffer, IoBuf};
        use corelane_engine::aio::{AioConfig, AioContext};
        // Without faults nothing is late, however little of the processor the model gets.
        let opened = self
            .open_with(30_000, 30_000)
            .unwrap_or_else(|error| panic!("it cannot be opened without faults: {error}"));
        let ctx = AioContext::new(&AioConfig::default()).expect("a lane");
        let channel = opened.backend.channel(&ctx, 4).expect("a channel");
        for lane in &mut self.lanes {
            let buf = IoBuf::from(DmaBuffer::new(PART_BYTES, 4096, Backing::Pages).expect("memory"));
            let (result, buf) = ctx.block_on(channel.read_at(lane.first_byte, buf));
            result.expect("a read without faults");
            let mut data = vec![0; PART_BYTES];
            buf.copy_to(0, &mut data).expect("as long");
            let blocks = 0..lane.reference.len();
            lane.reference.read(blocks, &data).unwrap_or_else(|reason| panic!("at the end: {reason}"));
        }
        drop(channel);
        ctx.shutdown();
        self.close(opened);
    }
}
