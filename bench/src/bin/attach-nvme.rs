//! `attach-nvme`: how long it takes from nothing to the first block of an NVMe namespace, in parts.
//!
//! Each name is attached to `--rounds` times: the bus is opened, the controller started, the namespace opened and 4 KiB of it
//! read; all is closed again, which is not counted. A line of JSON for each round says what each part took, and how much of
//! it the controller took itself: from the moment that it was enabled or disabled until it said that it was (CSTS.RDY). The
//! time that it takes to answer a few admin commands counts as ours.

use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use corelane_dma::{AddressSpace, Backing, DmaBuffer, DmaError, IoBuf, MmioRegion};
use corelane_drivers::nvme::bus::{Bus, BusError, Doorbell, Notices};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::register::{CC, CSTS, Configuration, Status};
use corelane_drivers::nvme::{
    BadName, ControllerOptions, NamespaceName, NvmeController, NvmeDriver, NvmeError, NvmeOptions,
};
use corelane_engine::aio::{AioConfig, AioContext, AioError};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockError, IoError};
use corelane_nvme_model::{DeviceError, Model, ModelBus, ModelConfig};
use serde_json::json;

/// Measures how long attaching to an NVMe namespace takes, up to its first block.
#[derive(Debug, Parser)]
#[command(name = "attach-nvme", version)]
struct Options {
    /// What to attach to: 0000:01:00.0/1, vfio-user:/path/1, or model:256m for a controller in this process
    #[arg(required = true)]
    names: Vec<String>,
    /// How often
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("{name}: {reason}")]
    ModelName { name: String, reason: String },
    #[error(transparent)]
    Model(#[from] DeviceError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Memory(#[from] DmaError),
    #[error(transparent)]
    Controller(#[from] NvmeError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("the first read: {0}")]
    Read(IoError),
    #[error(transparent)]
    Lane(#[from] AioError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

const READ_BYTES: usize = 4096;

/// A bus that takes the time from a write of CC until CSTS follows it.
struct Timed {
    bus: Arc<dyn Bus>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Since when, and for which RDY.
    since: Option<(Instant, bool)>,
    total: Duration,
}

impl Timed {
    fn new(bus: Arc<dyn Bus>) -> Timed {
        Timed { bus, waiting: Mutex::default() }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Waiting) -> T) -> T {
        what(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bus for Timed {
    fn read32(&self, offset: u64) -> Result<u32, BusError> {
        let value = self.bus.read32(offset)?;
        if offset == CSTS {
            self.with(|waiting| {
                if let Some((start, ready)) = waiting.since
                    && Status(value).is_ready() == ready
                {
                    (waiting.since, waiting.total) = (None, waiting.total + start.elapsed());
                }
            });
        }
        Ok(value)
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        if offset == CC {
            let wanted = Configuration(value).is_enabled();
            self.with(|waiting| waiting.since = Some((Instant::now(), wanted)));
        }
        self.bus.write32(offset, value)
    }

    fn address(&self) -> &str {
        self.bus.address()
    }
    fn config_read(&self, offset: u32, data: &mut [u8]) -> Result<(), BusError> {
        self.bus.config_read(offset, data)
    }
    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), BusError> {
        self.bus.config_write(offset, data)
    }
    fn registers_len(&self) -> u64 {
        self.bus.registers_len()
    }
    fn read64(&self, offset: u64) -> Result<u64, BusError> {
        self.bus.read64(offset)
    }
    fn write64(&self, offset: u64, value: u64) -> Result<(), BusError> {
        self.bus.write64(offset, value)
    }
    fn doorbell(&self, offset: u64) -> Result<Doorbell, BusError> {
        self.bus.doorbell(offset)
    }
    fn interrupts(&self) -> u32 {
        self.bus.interrupts()
    }
    fn set_interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        self.bus.set_interrupts(eventfds)
    }
    fn notices(&self) -> Notices<'_> {
        self.bus.notices()
    }
    fn reset(&self) -> Result<(), BusError> {
        self.bus.reset()
    }
    fn dma(&self) -> &Arc<AddressSpace> {
        self.bus.dma()
    }
    fn backing(&self) -> Backing {
        self.bus.backing()
    }
    fn bar_memory(&self, bar: u32, offset: u64, len_bytes: u64) -> Option<MmioRegion> {
        self.bus.bar_memory(bar, offset, len_bytes)
    }
}

/// What a round took.
struct Took {
    bus: Duration,
    start: Duration,
    open: Duration,
    read: Duration,
    /// Of `start`, what the controller took.
    controller: Duration,
}

impl Took {
    fn json(&self, name: &str) -> serde_json::Value {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let total = self.bus + self.start + self.open + self.read;
        json!({
            "name": name, "bus_ms": ms(self.bus), "start_ms": ms(self.start), "open_ms": ms(self.open),
            "first_read_ms": ms(self.read), "total_ms": ms(total), "controller_ms": ms(self.controller),
            "beyond_controller_ms": ms(total.saturating_sub(self.controller)),
        })
    }
}

/// A name's bus, and its namespace.
fn bus(name: &str) -> Result<(Arc<dyn Bus>, Nsid), AttachError> {
    let Some(namespace) = name.strip_prefix("model:") else {
        let parsed: NamespaceName = name.parse()?;
        return Ok((parsed.controller.open()?, parsed.nsid.unwrap_or(Nsid(1))));
    };
    let namespace = namespace
        .parse()
        .map_err(|reason: String| AttachError::ModelName { name: name.to_owned(), reason })?;
    let model = Arc::new(Model::new(ModelConfig::new(vec![namespace]))?);
    Ok((ModelBus::new(name, model)?, Nsid(1)))
}

/// Attaches once, and lets go again.
fn attach(name: &str, ctx: &AioContext) -> Result<Took, AttachError> {
    let buffer = IoBuf::from(DmaBuffer::new(READ_BYTES, READ_BYTES, Backing::Pages)?);
    let begin = Instant::now();
    let (bus, nsid) = bus(name)?;
    let timed = Arc::new(Timed::new(bus));
    let opened = begin.elapsed();
    let controller = NvmeController::start(Arc::<Timed>::clone(&timed), &ControllerOptions::default())?;
    let started = begin.elapsed();
    let driver =
        NvmeDriver::open(&controller, nsid, &NvmeOptions { read_only: true, ..NvmeOptions::default() })?;
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default())?;
    let channel = backend.channel(ctx, 8)?;
    let open = begin.elapsed();
    let (result, _) = ctx.block_on(channel.read_at(0, buffer));
    result.map_err(AttachError::Read)?;
    let read = begin.elapsed();
    let controller = timed.with(|waiting| waiting.total);
    Ok(Took { bus: opened, start: started - opened, open: open - started, read: read - open, controller })
}

fn run(options: &Options) -> Result<(), AttachError> {
    let ctx = AioContext::new(&AioConfig::default())?;
    let rounds = || -> Result<(), AttachError> {
        for name in &options.names {
            for _ in 0..options.rounds {
                let took = attach(name, &ctx)?;
                writeln!(io::stdout(), "{}", took.json(name))?;
            }
        }
        Ok(())
    };
    let result = rounds();
    ctx.shutdown();
    result
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done where even that fails.
            let _ = writeln!(io::stderr(), "attach-nvme: {error}");
            ExitCode::FAILURE
        }
    }
}
