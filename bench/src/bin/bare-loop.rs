//! `bare-loop`: the least that a program can do to drive io_uring, as the bar that the engine is measured against.
//!
//! Random reads (or NOPs) from one thread, through one ring: every request that completed is issued again, at a new
//! uniform offset, and the whole batch goes to the kernel in one `io_uring_enter(to_submit, min_complete = 1)`. The
//! ring has the set-up flags of the engine's ring, the file and the buffers are registered. There is no backend, no
//! channel, no accounting beyond a counter; with `--latency` two clock reads a batch and a histogram.
//!
//! Invariants: a slot is one buffer and at most one request in flight; `user_data` is the slot's number; a request
//! that fails, or reads less than it asked for, ends the run with an error, so that a figure is never one of failed
//! requests. It shares no code with the engine on purpose: a mistake in one cannot hide in the other.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use io_uring::types::Fixed;
use io_uring::{IoUring, Submitter, opcode, squeue};

#[path = "bare_loop/measure.rs"]
mod measure;

use measure::{Histogram, Offsets};

/// A minimal io_uring loop: what the kernel gives when nothing stands between.
#[derive(Debug, Parser)]
#[command(name = "bare-loop", version)]
struct Options {
    /// File or block device to read; not needed with --nop
    #[arg(long, required_unless_present = "nop")]
    filename: Option<PathBuf>,
    /// Requests in flight, 1 to 4096
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    iodepth: u32,
    /// Seconds to run (3 unless --number_ios is given); checked every 64 batches
    #[arg(long, value_parser = parse_seconds)]
    runtime: Option<Duration>,
    /// Stop after so many requests
    #[arg(long = "number_ios")]
    number_ios: Option<u64>,
    /// Bytes per read (k, m, g: powers of 1024)
    #[arg(long, default_value = "4k", value_parser = parse_bytes)]
    bs: u64,
    /// Bytes from the start of the file to read in (default: all of it)
    #[arg(long, value_parser = parse_bytes)]
    size: Option<u64>,
    /// Core to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Record the latency of every request: from before its batch is built to after it was seen complete
    #[arg(long)]
    latency: bool,
    /// Issue io_uring NOPs instead of reads
    #[arg(long)]
    nop: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
enum BareLoopError {
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: String, source: io::Error },
    #[error("cannot {what}: {source}")]
    Ring { what: &'static str, source: io::Error },
    #[error("cannot pin to core {cpu}: {source}")]
    Pin { cpu: usize, source: io::Error },
    #[error("bs {bs} is not between 512 bytes and 1 MiB")]
    BlockSize { bs: u64 },
    #[error("{path} has {have} bytes to read in, which is less than one block of {bs}")]
    TooSmall { path: String, have: u64, bs: u64 },
    #[error("a request returned {result}, expected {expected}")]
    Request { result: i32, expected: i32 },
}

/// Reads `4k`, `1m`, `2g` or a plain number as bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        _ => (lower.as_str(), 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is not a size such as 4096, 4k or 1g"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"))
}

/// Reads seconds, with or without a fraction.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text} is not a number of seconds"))
}

/// The cheapest clock that the kernel trusts, in ticks; the run's own length turns ticks into nanoseconds afterwards.
#[derive(Debug, Clone, Copy)]
struct TickClock {
    origin: Instant,
    tsc: bool,
}

impl TickClock {
    /// The TSC when the kernel keeps its own time by it (then it is invariant), else `CLOCK_MONOTONIC`.
    fn new() -> Self {
        let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let tsc = cfg!(target_arch = "x86_64")
            && std::fs::read_to_string(path).is_ok_and(|name| name.trim() == "tsc");
        Self { origin: Instant::now(), tsc }
    }

    #[inline(always)]
    fn ticks(self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.tsc {
            // SAFETY: RDTSC exists on every x86-64 processor and reads no memory.
            return unsafe { core::arch::x86_64::_rdtsc() };
        }
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One page of buffer memory.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// What the loop needs of a run, whatever the kind of request.
struct Load {
    depth: u32,
    block_bytes: u32,
    offsets: Offsets,
    /// One buffer per slot, each `pages_per_slot` pages long; never freed, so that no error path can free one that the
    /// kernel still writes to.
    buffers: &'static mut [Page],
    pages_per_slot: usize,
    stop_after_ios: u64,
    stop_after: Duration,
    clock: TickClock,
}

impl Load {
    #[inline(always)]
    fn buffer(&mut self, slot: u32) -> *mut u8 {
        // `wrapping_add`: no bounds to check, the slot came from `0..depth` and went through the kernel unchanged.
        self.buffers.as_mut_ptr().wrapping_add(slot as usize * self.pages_per_slot).cast()
    }

    #[inline(always)]
    fn entry<const NOP: bool>(&mut self, slot: u32) -> squeue::Entry {
        if NOP {
            return opcode::Nop::new().build().user_data(u64::from(slot));
        }
        let buffer = self.buffer(slot);
        // The depth is at most 4096, so a slot always fits the buffer index.
        opcode::ReadFixed::new(Fixed(0), buffer, self.block_bytes, slot as u16)
            .offset(self.offsets.next_offset())
            .build()
            .user_data(u64::from(slot))
    }
}

/// What a run did.
struct Outcome {
    ios: u64,
    elapsed: Duration,
    ticks: u64,
    latencies: Histogram,
}

/// The measured loop. `NOP` and `LATENCY` are constants so that a mode pays only for itself.
fn drive<const NOP: bool, const LATENCY: bool>(
    ring: &mut IoUring,
    load: &mut Load,
) -> Result<Outcome, BareLoopError> {
    const RESULT_OF_NOP: i32 = 0;
    let expected = if NOP { RESULT_OF_NOP } else { load.block_bytes.cast_signed() };
    let mut latencies = Histogram::new();
    let mut issued_at = vec![0_u64; load.depth as usize];
    let (mut submitter, mut sq, mut cq) = ring.split();
    // As the engine does; where the kernel has no place left for it the descriptor itself serves.
    let _ = submitter.register_ring_fd();
    let started = Instant::now();
    let first_tick = load.clock.ticks();
    let mut issued = u64::from(load.depth).min(load.stop_after_ios);
    issued_at.fill(first_tick);
    for slot in 0..issued as u32 {
        push(&mut sq, &load.entry::<NOP>(slot));
    }
    let mut done = 0_u64;
    let mut batches = 0_u32;
    let mut failed = None;
    while done < issued {
        sq.sync();
        enter(&submitter)?;
        // The kernel took every entry: without its new head the queue would look full.
        sq.sync();
        cq.sync();
        let seen_at = if LATENCY { load.clock.ticks() } else { 0 };
        let mut built_at = 0;
        for cqe in &mut cq {
            let slot = cqe.user_data() as u32;
            if cqe.result() != expected {
                failed = Some(cqe.result());
                load.stop_after_ios = issued;
            }
            done += 1;
            if LATENCY {
                latencies.record(seen_at.saturating_sub(issued_at[slot as usize]));
                if built_at == 0 {
                    built_at = load.clock.ticks();
                }
                issued_at[slot as usize] = built_at;
            }
            if issued < load.stop_after_ios {
                issued += 1;
                push(&mut sq, &load.entry::<NOP>(slot));
            }
        }
        // Publishes the new head: the kernel would otherwise count these completions as still waiting to be read.
        cq.sync();
        batches = batches.wrapping_add(1);
        if batches.is_multiple_of(64) && started.elapsed() >= load.stop_after {
            load.stop_after_ios = issued;
        }
    }
    if let Some(result) = failed {
        return Err(BareLoopError::Request { result, expected });
    }
    Ok(Outcome { ios: done, elapsed: started.elapsed(), ticks: load.clock.ticks() - first_tick, latencies })
}

#[inline(always)]
fn push(sq: &mut squeue::SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: the entry names a registered buffer of `Load`, long enough for the read and mapped until the process
    // ends; only the slot's one request in flight uses it.
    let pushed = unsafe { sq.push(entry) };
    debug_assert!(pushed.is_ok(), "the queue has an entry for each slot");
}

#[inline(always)]
fn enter(submitter: &Submitter<'_>) -> Result<(), BareLoopError> {
    loop {
        match submitter.submit_and_wait(1) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(BareLoopError::Ring { what: "enter the ring", source }),
        }
    }
}

/// The engine's set-up flags; an older kernel that refuses them gets fewer, as from the engine. Returns the ring and what
/// it was granted.
fn new_ring(depth: u32) -> Result<(IoUring, &'static str), BareLoopError> {
    let mut builder = IoUring::builder();
    builder.setup_submit_all();
    builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag();
    let without = builder.clone();
    builder.setup_no_sqarray();
    let tries = [
        (builder, "SUBMIT_ALL|SINGLE_ISSUER|DEFER_TASKRUN|COOP_TASKRUN|TASKRUN_FLAG|NO_SQARRAY"),
        (without, "SUBMIT_ALL|SINGLE_ISSUER|DEFER_TASKRUN|COOP_TASKRUN|TASKRUN_FLAG"),
        (IoUring::builder(), "none"),
    ];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for (builder, flags) in tries {
        match builder.build(depth) {
            Ok(ring) => return Ok((ring, flags)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(source) => {
                return Err(BareLoopError::Ring {
                    what: "set up a ring (see kernel.io_uring_disabled)",
                    source,
                });
            }
        }
    }
    Err(BareLoopError::Ring { what: "set up a ring", source: last })
}

fn pin(cpu: usize) -> Result<(), BareLoopError> {
    if cpu >= libc::CPU_SETSIZE.cast_unsigned() as usize {
        return Err(BareLoopError::Pin { cpu, source: io::Error::from_raw_os_error(libc::EINVAL) });
    }
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the length describe `set`, which lives across the call.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(BareLoopError::Pin { cpu, source: io::Error::last_os_error() }) }
}

/// Opens the file and finds how many blocks there are to read in.
fn open(path: &PathBuf, options: &Options) -> Result<(File, u64), BareLoopError> {
    let shown = || path.display().to_string();
    let file =
        File::open(path).map_err(|source| BareLoopError::File { what: "open", path: shown(), source })?;
    // Seeking to the end gives the length of a block device too, where metadata says 0.
    let length = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(|source| BareLoopError::File {
        what: "find the length of",
        path: shown(),
        source,
    })?;
    let have = options.size.map_or(length, |size| size.min(length));
    if have < options.bs {
        return Err(BareLoopError::TooSmall { path: shown(), have, bs: options.bs });
    }
    Ok((file, have / options.bs))
}

fn new_load(options: &Options, blocks: u64) -> Load {
    let default_runtime = if options.number_ios.is_some() { Duration::MAX } else { Duration::from_secs(3) };
    let pages_per_slot = (options.bs as usize).div_ceil(size_of::<Page>());
    Load {
        depth: options.iodepth,
        block_bytes: options.bs as u32,
        offsets: Offsets { state: 0x9e37_79b9_7f4a_7c15, blocks, block_bytes: options.bs },
        buffers: vec![Page([0; 4096]); pages_per_slot * options.iodepth as usize].leak(),
        pages_per_slot,
        stop_after_ios: options.number_ios.unwrap_or(u64::MAX),
        stop_after: options.runtime.unwrap_or(default_runtime),
        clock: TickClock::new(),
    }
}

fn register(ring: &IoUring, load: &mut Load, file: &File) -> Result<(), BareLoopError> {
    let submitter = ring.submitter();
    submitter
        .register_files(&[file.as_raw_fd()])
        .map_err(|source| BareLoopError::Ring { what: "register the file", source })?;
    let iovecs: Vec<libc::iovec> = (0..load.depth)
        .map(|slot| libc::iovec { iov_base: load.buffer(slot).cast(), iov_len: load.block_bytes as usize })
        .collect();
    // SAFETY: every vector lies within `buffers`, which are never freed.
    unsafe { submitter.register_buffers(&iovecs) }
        .map_err(|source| BareLoopError::Ring { what: "register the buffers (see ulimit -l)", source })
}

fn run(options: &Options) -> Result<(Outcome, &'static str), BareLoopError> {
    if !(512..=1 << 20).contains(&options.bs) {
        return Err(BareLoopError::BlockSize { bs: options.bs });
    }
    if let Some(cpu) = options.cpu {
        pin(cpu)?;
    }
    let (mut ring, flags) = new_ring(options.iodepth)?;
    let outcome = match &options.filename {
        Some(path) if !options.nop => {
            let (file, blocks) = open(path, options)?;
            let mut load = new_load(options, blocks);
            register(&ring, &mut load, &file)?;
            if options.latency {
                drive::<false, true>(&mut ring, &mut load)?
            } else {
                drive::<false, false>(&mut ring, &mut load)?
            }
        }
        _ => {
            let mut load = new_load(options, 1);
            if options.latency {
                drive::<true, true>(&mut ring, &mut load)?
            } else {
                drive::<true, false>(&mut ring, &mut load)?
            }
        }
    };
    Ok((outcome, flags))
}

fn report(outcome: &Outcome, flags: &str, json: bool) -> io::Result<()> {
    let nanoseconds = outcome.elapsed.as_nanos() as f64;
    let iops = outcome.ios as f64 / outcome.elapsed.as_secs_f64();
    let per_tick = nanoseconds / outcome.ticks.max(1) as f64;
    let [mean, p50, p99] =
        [outcome.latencies.mean(), outcome.latencies.percentile(50.0), outcome.latencies.percentile(99.0)]
            .map(|ticks| ticks * per_tick);
    let ios = outcome.ios;
    let mut out = io::stdout().lock();
    if json {
        writeln!(
            out,
            "{{\"iops\": {iops:.1}, \"ios\": {ios}, \"runtime_ns\": {nanoseconds:.0}, \"mean_ns\": {mean:.1}, \
             \"p50_ns\": {p50:.1}, \"p99_ns\": {p99:.1}, \"setup_flags\": \"{flags}\"}}"
        )
    } else {
        writeln!(
            out,
            "{ios} requests in {:.3} s: {iops:.0} IOPS (set-up flags: {flags})",
            nanoseconds / 1e9
        )?;
        if outcome.latencies.count > 0 {
            writeln!(out, "latency: mean {mean:.0} ns, p50 {p50:.0} ns, p99 {p99:.0} ns")?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let printed = run(&options).map(|(outcome, flags)| report(&outcome, flags, options.json));
    match printed {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(io::stderr(), "bare-loop: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[allow(clippy::print_stderr)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_suffixes_of_1024() {
        assert_eq!(parse_bytes("4k"), Ok(4096));
        assert_eq!(parse_bytes("1G"), Ok(1 << 30));
        assert_eq!(parse_bytes("512"), Ok(512));
        assert!(parse_bytes("k").is_err());
        assert!(parse_bytes("99999999999g").is_err());
    }

    #[test]
    fn nops_complete_and_are_counted() {
        let options =
            Options::parse_from(["bare-loop", "--nop", "--iodepth=8", "--number_ios=1000", "--latency"]);
        match run(&options) {
            Ok((outcome, _)) => {
                assert_eq!(outcome.ios, 1000);
                assert_eq!(outcome.latencies.count, 1000);
            }
            Err(error) => eprintln!("SKIPPED: io_uring is not to be had here: {error}"),
        }
    }

    #[test]
    fn reads_of_a_file_complete_and_short_files_are_refused() {
        let path = std::env::temp_dir().join(format!("bare-loop-test-{}", std::process::id()));
        std::fs::write(&path, vec![7_u8; 64 * 4096]).unwrap();
        let name = format!("--filename={}", path.display());
        let whole = run(&Options::parse_from(["bare-loop", &name, "--iodepth=4", "--number_ios=500"]));
        let short = run(&Options::parse_from(["bare-loop", &name, "--bs=1m", "--number_ios=1"]));
        std::fs::remove_file(&path).unwrap();
        match whole {
            Ok((outcome, _)) => assert_eq!(outcome.ios, 500),
            Err(error @ BareLoopError::Ring { .. }) => {
                eprintln!("SKIPPED: io_uring is not to be had here: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(matches!(short, Err(BareLoopError::TooSmall { have: 262_144, bs: 1_048_576, .. })));
    }
}
