//! `bare-nvme`: the least that a program can do to drive an NVMe queue pair, as the bar that the engine is measured against.
//!
//! Random reads from one thread, through one queue pair of a controller model that another thread serves: every command
//! that completed is issued again, at a new uniform block, with the PRP of its slot; one doorbell write of each kind a
//! batch. There is no backend, no channel, no accounting beyond a counter; with `--latency` two clock reads a batch and a
//! histogram.
//!
//! Invariants: a slot is one buffer and at most one command in flight; the command identifier is the slot's number; a
//! command that fails ends the run with an error, so that a figure is never one of failed commands. It shares no code with
//! the driver but the bus on purpose: a mistake in one cannot hide in the other.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use clap::Parser;
use corelane_dma::{Backing, CoherentArray, CoherentBuffer, DmaError, Iova};
use corelane_drivers::nvme::bus::{Bus, BusError, Doorbell};
use corelane_nvme_model::{DeviceError, Idle, Model, ModelBus, ModelConfig, NamespaceConfig};

#[path = "bare_loop/measure.rs"]
mod measure;

use measure::{Histogram, Offsets};

/// A minimal NVMe loop: what the controller gives when nothing stands between.
#[derive(Debug, Parser)]
#[command(name = "bare-nvme", version)]
struct Options {
    /// Commands in flight, 1 to 1023
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1023))]
    iodepth: u16,
    /// Entries of the queues, more than --iodepth (default: the next power of two, at least 64)
    #[arg(long)]
    entries: Option<u16>,
    /// Seconds to run (3 unless --number_ios is given); checked every 64 batches
    #[arg(long, value_parser = parse_seconds)]
    runtime: Option<Duration>,
    /// Stop after so many commands
    #[arg(long = "number_ios")]
    number_ios: Option<u64>,
    /// Core to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Core that the controller model runs on
    #[arg(long)]
    model_cpu: Option<usize>,
    /// Record the latency of every command: from before its batch is built to after it was seen complete
    #[arg(long)]
    latency: bool,
    /// Let the namespace keep data in RAM, so that each read copies a block
    #[arg(long)]
    ram: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
enum BareError {
    #[error(transparent)]
    Model(#[from] DeviceError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Memory(#[from] DmaError),
    #[error("cannot pin to core {cpu}: {reason}")]
    Pin { cpu: usize, reason: String },
    #[error("{entries} queue entries are not enough for {depth} commands in flight; at least {least} are")]
    Entries { entries: u16, depth: u16, least: u16 },
    #[error("the controller was not ready after 10 s; CSTS is {csts:#x}")]
    NotReady { csts: u32 },
    #[error("a command ended with status {status:#x}")]
    Command { status: u64 },
    #[error("{count} rules were broken, the first by {first}")]
    Rules { count: usize, first: String },
}

/// Reads seconds, with or without a fraction.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text} is not a number of seconds"))
}

const BLOCK_BYTES: u64 = 4096;
/// The entries of the admin queues.
const ADMIN_ENTRIES: u16 = 8;

/// The controller's registers (NVMe base 2.0, section 3.1.3).
mod register {
    pub(super) const CAP: u64 = 0x00;
    pub(super) const CC: u64 = 0x14;
    pub(super) const CSTS: u64 = 0x1C;
    pub(super) const AQA: u64 = 0x24;
    pub(super) const ASQ: u64 = 0x28;
    pub(super) const ACQ: u64 = 0x30;
    pub(super) const DOORBELLS: u64 = 0x1000;
}

/// One submission and one completion queue, and where they ring.
struct QueuePair {
    sq: CoherentArray<[u64; 8]>,
    /// The second words of the completions: everything but the command's result, which reads do not have.
    cq: CoherentArray<u64>,
    tail_doorbell: Doorbell,
    head_doorbell: Doorbell,
    entries: usize,
    tail: usize,
    head: usize,
    phase: u64,
    sq_iova: Iova,
    cq_iova: Iova,
}

/// Memory that the controller sees, and where it sees it.
fn shared(bus: &ModelBus, len_bytes: usize) -> Result<(CoherentBuffer, Iova), BareError> {
    let buffer = CoherentBuffer::new(len_bytes, Backing::Pages)?;
    bus.dma().register(buffer.region())?;
    let entries = bus.dma().table().entries();
    let found = entries.iter().find(|(region, _)| region.addr() == buffer.addr());
    let iova =
        found.map(|(_, iova)| *iova).ok_or(DmaError::NotRegistered { addr: buffer.addr(), len_bytes })?;
    Ok((buffer, iova))
}

impl QueuePair {
    fn new(bus: &ModelBus, id: u16, entries: u16) -> Result<QueuePair, BareError> {
        let stride = 4 << (bus.read64(register::CAP)? >> 32 & 0xF);
        let entries = usize::from(entries);
        let (sq, sq_iova) = shared(bus, entries * 64)?;
        let (cq, cq_iova) = shared(bus, entries * 16)?;
        let doorbell = |number: u64| bus.doorbell(register::DOORBELLS + number * stride);
        Ok(QueuePair {
            sq: sq.array(0, entries)?,
            cq: cq.array(0, 2 * entries)?,
            tail_doorbell: doorbell(2 * u64::from(id))?,
            head_doorbell: doorbell(2 * u64::from(id) + 1)?,
            entries,
            tail: 0,
            head: 0,
            phase: 1,
            sq_iova,
            cq_iova,
        })
    }

    #[inline(always)]
    fn push(&mut self, words: &[u64; 8]) {
        let pushed = self.sq.set(self.tail, words);
        debug_assert!(pushed.is_some(), "the tail is below the number of entries");
        self.tail = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
    }

    /// The next completion's second word, if there is one.
    #[inline(always)]
    fn pop(&mut self) -> Option<u64> {
        let word = self.cq.get(2 * self.head + 1)?;
        if word >> 48 & 1 != self.phase {
            return None;
        }
        self.head += 1;
        if self.head == self.entries {
            (self.head, self.phase) = (0, self.phase ^ 1);
        }
        Some(word)
    }

    #[inline(always)]
    fn ring(&self, tail: bool, head: bool) -> Result<(), BusError> {
        if head {
            self.head_doorbell.ring(self.head as u32)?;
        }
        if tail {
            self.tail_doorbell.ring(self.tail as u32)?;
        }
        Ok(())
    }

    /// One command, waited for.
    fn run(&mut self, words: &[u64; 8]) -> Result<(), BareError> {
        self.push(words);
        self.ring(true, false)?;
        let word = loop {
            if let Some(word) = self.pop() {
                break word;
            }
            std::thread::yield_now();
        };
        self.ring(false, true)?;
        match word >> 49 {
            0 => Ok(()),
            status => Err(BareError::Command { status }),
        }
    }
}

/// Starts the controller and makes queue pair 1.
fn start(bus: &ModelBus, entries: u16) -> Result<(QueuePair, QueuePair), BareError> {
    let mut admin = QueuePair::new(bus, 0, ADMIN_ENTRIES)?;
    let last = u32::from(ADMIN_ENTRIES) - 1;
    bus.write32(register::AQA, last << 16 | last)?;
    bus.write64(register::ASQ, admin.sq_iova.0)?;
    bus.write64(register::ACQ, admin.cq_iova.0)?;
    // Enable, entries of 64 and 16 bytes.
    bus.write32(register::CC, 0x0046_0001)?;
    let started = Instant::now();
    while bus.read32(register::CSTS)? & 1 == 0 {
        if started.elapsed() > Duration::from_secs(10) {
            return Err(BareError::NotReady { csts: bus.read32(register::CSTS)? });
        }
        std::thread::yield_now();
    }
    let pair = QueuePair::new(bus, 1, entries)?;
    let size = u64::from(entries - 1) << 16 | 1;
    // Create I/O Completion Queue, then I/O Submission Queue: contiguous, without interrupts.
    admin.run(&[0x05, 0, 0, pair.cq_iova.0, 0, size | 1 << 32, 0, 0])?;
    admin.run(&[0x0001_0001, 0, 0, pair.sq_iova.0, 0, size | 0x1_0001 << 32, 0, 0])?;
    Ok((admin, pair))
}

/// What the loop needs of a run.
struct Load {
    depth: u16,
    offsets: Offsets,
    /// Where slot 0's buffer is; the others follow.
    data: Iova,
    stop_after_ios: u64,
    stop_after: Duration,
    clock: quanta::Clock,
}

impl Load {
    #[inline(always)]
    fn entry(&mut self, slot: u64) -> [u64; 8] {
        const READ: u64 = 2;
        const NAMESPACE: u64 = 1 << 32;
        [
            READ | slot << 16 | NAMESPACE,
            0,
            0,
            self.data.0 + slot * BLOCK_BYTES,
            0,
            self.offsets.next_offset(),
            0,
            0,
        ]
    }
}

/// What a run did.
struct Outcome {
    ios: u64,
    elapsed: Duration,
    ticks: u64,
    latencies: Histogram,
}

/// The measured loop. `LATENCY` is a constant so that the other mode does not pay for it.
fn drive<const LATENCY: bool>(pair: &mut QueuePair, load: &mut Load) -> Result<Outcome, BareError> {
    let mut latencies = Histogram::new();
    let mut issued_at = vec![0_u64; usize::from(load.depth)];
    let started = Instant::now();
    let first_tick = load.clock.raw();
    let mut issued = u64::from(load.depth).min(load.stop_after_ios);
    issued_at.fill(first_tick);
    for slot in 0..issued {
        let entry = load.entry(slot);
        pair.push(&entry);
    }
    pair.ring(true, false)?;
    let (mut done, mut batches) = (0_u64, 0_u32);
    while done < issued {
        let Some(mut word) = pair.pop() else {
            std::hint::spin_loop();
            continue;
        };
        // The data of what completed is there now.
        fence(Ordering::Acquire);
        let seen_at = if LATENCY { load.clock.raw() } else { 0 };
        let issued_before = issued;
        loop {
            let slot = word >> 32 & 0xFFFF;
            if word >> 49 != 0 || slot >= u64::from(load.depth) {
                return Err(BareError::Command { status: word >> 49 });
            }
            done += 1;
            if LATENCY {
                latencies.record(seen_at.saturating_sub(issued_at[slot as usize]));
                issued_at[slot as usize] = seen_at;
            }
            if issued < load.stop_after_ios {
                issued += 1;
                let entry = load.entry(slot);
                pair.push(&entry);
            }
            match pair.pop() {
                Some(next) => word = next,
                None => break,
            }
        }
        pair.ring(issued > issued_before, true)?;
        batches = batches.wrapping_add(1);
        if batches.is_multiple_of(64) && started.elapsed() >= load.stop_after {
            load.stop_after_ios = issued;
        }
    }
    Ok(Outcome { ios: done, elapsed: started.elapsed(), ticks: load.clock.raw() - first_tick, latencies })
}

fn run(options: &Options) -> Result<Outcome, BareError> {
    if let Some(cpu) = options.cpu {
        let pinned = corelane_engine::aio::pin_current_thread(cpu);
        pinned.map_err(|error| BareError::Pin { cpu, reason: error.to_string() })?;
    }
    let depth = options.iodepth;
    let entries = options.entries.unwrap_or((depth + 1).next_power_of_two().max(64));
    if entries <= depth {
        return Err(BareError::Entries { entries, depth, least: depth + 1 });
    }
    let size_bytes: u64 = if options.ram { 256 << 20 } else { 1 << 30 };
    let namespace =
        if options.ram { NamespaceConfig::ram(size_bytes) } else { NamespaceConfig::null(size_bytes) };
    let idle = if options.model_cpu.is_some() { Idle::Spin } else { Idle::BackOff };
    let model = Arc::new(Model::new(ModelConfig {
        core: options.model_cpu,
        idle,
        ..ModelConfig::new(vec![namespace])
    })?);
    let bus = ModelBus::new("model", Arc::clone(&model))?;
    let (_admin, mut pair) = start(&bus, entries)?;
    let (_buffers, data) = shared(&bus, usize::from(depth) * BLOCK_BYTES as usize)?;
    let default_runtime = if options.number_ios.is_some() { Duration::MAX } else { Duration::from_secs(3) };
    let blocks = size_bytes / BLOCK_BYTES;
    let mut load = Load {
        depth,
        offsets: Offsets { state: 0x9e37_79b9_7f4a_7c15, blocks, block_bytes: 1 },
        data,
        stop_after_ios: options.number_ios.unwrap_or(u64::MAX),
        stop_after: options.runtime.unwrap_or(default_runtime),
        clock: quanta::Clock::new(),
    };
    let outcome = if options.latency {
        drive::<true>(&mut pair, &mut load)?
    } else {
        drive::<false>(&mut pair, &mut load)?
    };
    let broken = model.violations();
    match broken.first() {
        None => Ok(outcome),
        Some(first) => Err(BareError::Rules { count: broken.len(), first: first.to_string() }),
    }
}

fn report(outcome: &Outcome, json: bool) -> io::Result<()> {
    let nanoseconds = outcome.elapsed.as_nanos() as f64;
    let iops = outcome.ios as f64 / outcome.elapsed.as_secs_f64();
    let per_tick = nanoseconds / outcome.ticks.max(1) as f64;
    let [mean, p50, p99] =
        [outcome.latencies.mean(), outcome.latencies.percentile(50.0), outcome.latencies.percentile(99.0)]
            .map(|ticks| ticks * per_tick);
    let ios = outcome.ios;
    let mut out = io::stdout().lock();
    if json {
        return writeln!(
            out,
            "{{\"iops\": {iops:.1}, \"ios\": {ios}, \"runtime_ns\": {nanoseconds:.0}, \"mean_ns\": {mean:.1}, \
             \"p50_ns\": {p50:.1}, \"p99_ns\": {p99:.1}}}"
        );
    }
    writeln!(out, "{ios} commands in {:.3} s: {iops:.0} IOPS", nanoseconds / 1e9)?;
    if outcome.latencies.count > 0 {
        writeln!(out, "latency: mean {mean:.0} ns, p50 {p50:.0} ns, p99 {p99:.0} ns")?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).map(|outcome| report(&outcome, options.json)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(io::stderr(), "bare-nvme: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_complete_and_are_counted() {
        for (depth, more) in [("1", "--ram"), ("63", "--latency"), ("200", "--latency")] {
            let depth = format!("--iodepth={depth}");
            let outcome =
                run(&Options::parse_from(["bare-nvme", &depth, "--number_ios=5000", more])).unwrap();
            assert_eq!(outcome.ios, 5000);
            assert_eq!(outcome.latencies.count, if more == "--latency" { 5000 } else { 0 });
        }
    }

    #[test]
    fn queues_that_are_too_short_are_refused() {
        let error = run(&Options::parse_from(["bare-nvme", "--iodepth=8", "--entries=8"]));
        assert!(matches!(error, Err(BareError::Entries { entries: 8, depth: 8, least: 9 })));
    }
}
