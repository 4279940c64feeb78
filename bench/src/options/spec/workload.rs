//! Which requests a job issues, how many at a time, how fast, until when, and how their data is verified.

use std::time::Duration;

use super::Extent;

/// One value for each direction. fio's rule for lists such as `bs=4k,8k`: a value holds for the directions after it
/// too, unless a comma ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerDirection<T> {
    /// For reads.
    pub read: T,
    /// For writes.
    pub write: T,
    /// For trims (discards).
    pub trim: T,
}

/// Which requests, where, and of what size.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadSpec {
    /// Directions and order (`rw`).
    pub rw: RwMode,
    /// Share of reads in a mixed workload, per cent, 0 to 100 (`rwmixread`, or 100 less `rwmixwrite`).
    pub read_percent: u8,
    /// Block sizes (`bs`, `bsrange`, `bssplit`).
    pub blocks: PerDirection<BlockSizes>,
    /// Random offsets are multiples of this many bytes (`ba`), 1 byte to 1 GiB, counted from the region's start; `None`: of the smallest block size.
    pub align_bytes: PerDirection<Option<u64>>,
    /// Length of the region that the job works in (`size`), from the offset on; `None`: to the end of the file.
    /// Percentages are of the file's length.
    pub size: Option<Extent>,
    /// Where the region starts (`offset`). A percentage is of the file's length, aligned up to the smallest block.
    pub offset: Extent,
    /// Added to the offset once for every clone before this one (`offset_increment`).
    pub offset_increment: Extent,
    /// How random offsets are drawn (`random_distribution`).
    pub distribution: Distribution,
    /// Do not remember which blocks were visited (`norandommap`, as given). See
    /// [`WorkloadSpec::uses_random_map`] for what holds.
    pub no_random_map: bool,
    /// Seed of every generator (`randseed`, 0x89 by default); `None` (`randrepeat=0` without `randseed`): the runner
    /// draws one and reports it.
    pub seed: Option<u64>,
    /// Issue a flush after this many writes (`fsync`); 0: never.
    pub fsync_every_writes: u32,
    /// Issue a data-only flush after this many writes (`fdatasync`); 0: never. A device that knows one kind of flush
    /// gets that.
    pub fdatasync_every_writes: u32,
    /// Flush when the writing has ended (`end_fsync`).
    pub end_fsync: bool,
    /// Keep to the rules of a zoned device (`zonemode=zbd`).
    pub zones: Option<ZoneSpec>,
}

/// How a job uses a zoned device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZoneSpec {
    /// What the size of a zone is to be, in bytes (`zonesize`); `None`: whatever it is.
    pub zone_bytes: Option<u64>,
    /// Most zones that are partly written at once (`max_open_zones`); `None`: as many as the device allows.
    pub most_open: Option<u32>,
}

impl WorkloadSpec {
    /// Whether a pass visits every block once: a random workload, uniformly distributed, without `norandommap` and
    /// without `ba` (which turns the map off in fio, too).
    pub fn uses_random_map(&self) -> bool {
        let aligned = self.align_bytes.read.is_some()
            || self.align_bytes.write.is_some()
            || self.align_bytes.trim.is_some();
        self.rw.random && !self.no_random_map && !aligned && self.distribution == Distribution::Uniform
    }
}

/// What `rw=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RwMode {
    /// Which directions.
    pub mix: DirectionMix,
    /// Random offsets instead of ascending ones.
    pub random: bool,
}

/// The directions of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectionMix {
    /// Reads only.
    Read,
    /// Writes only.
    Write,
    /// Trims only.
    Trim,
    /// Reads and writes, shared out by `read_percent`.
    ReadWrite,
    /// Every block is trimmed, then written.
    TrimWrite,
}

/// One direction of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// From the device.
    Read,
    /// To the device.
    Write,
    /// Discard.
    Trim,
}

impl RwMode {
    /// The name as `rw=` takes it and reports print it.
    pub fn name(self) -> &'static str {
        match (self.mix, self.random) {
            (DirectionMix::Read, false) => "read",
            (DirectionMix::Read, true) => "randread",
            (DirectionMix::Write, false) => "write",
            (DirectionMix::Write, true) => "randwrite",
            (DirectionMix::Trim, false) => "trim",
            (DirectionMix::Trim, true) => "randtrim",
            (DirectionMix::ReadWrite, false) => "rw",
            (DirectionMix::ReadWrite, true) => "randrw",
            (DirectionMix::TrimWrite, false) => "trimwrite",
            (DirectionMix::TrimWrite, true) => "randtrimwrite",
        }
    }

    /// Whether requests of this direction occur.
    pub fn uses(self, access: Access) -> bool {
        match access {
            Access::Read => matches!(self.mix, DirectionMix::Read | DirectionMix::ReadWrite),
            Access::Write => {
                matches!(self.mix, DirectionMix::Write | DirectionMix::ReadWrite | DirectionMix::TrimWrite)
            }
            Access::Trim => matches!(self.mix, DirectionMix::Trim | DirectionMix::TrimWrite),
        }
    }
}

/// The block sizes of one direction, 1 byte to 1 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockSizes {
    /// Always the same.
    Fixed(u64),
    /// A multiple of `min` from `min` to `max`, each as likely; `min < max`.
    Range {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Sizes with their shares; the shares are per cent and add up to 100; 2 to 64 entries.
    Split(Vec<(u64, u8)>),
}

impl BlockSizes {
    /// The smallest size that occurs, bytes.
    pub fn min_bytes(&self) -> u64 {
        match self {
            BlockSizes::Fixed(bytes) => *bytes,
            BlockSizes::Range { min, .. } => *min,
            BlockSizes::Split(parts) => parts.iter().map(|part| part.0).min().unwrap_or(1),
        }
    }

    /// The largest size that occurs, bytes: what a buffer must hold.
    pub fn max_bytes(&self) -> u64 {
        match self {
            BlockSizes::Fixed(bytes) => *bytes,
            BlockSizes::Range { max, .. } => *max,
            BlockSizes::Split(parts) => parts.iter().map(|part| part.0).max().unwrap_or(1),
        }
    }
}

/// How random offsets are drawn (`random_distribution`). The centre is where in the region, from 0 to 1, the most
/// likely offset lies; `None` leaves it to the distribution (normal: 0.5; zipf and pareto: drawn from the seed).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Every block as likely (`random`).
    Uniform,
    /// Zipf's law.
    Zipf {
        /// The exponent, more than 0, not 1; 1.1 by default.
        theta: f64,
        /// See the type.
        center: Option<f64>,
    },
    /// Pareto's law.
    Pareto {
        /// The power, between 0 and 1 exclusive; 0.2 by default.
        h: f64,
        /// See the type.
        center: Option<f64>,
    },
    /// Gauss' law.
    Normal {
        /// Standard deviation as per cent of the region, between 0 and 100 exclusive.
        deviation_percent: f64,
        /// See the type.
        center: Option<f64>,
    },
}

/// How many requests are in flight and how they are batched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepthSpec {
    /// Requests in flight at most (`iodepth`), 1 to 32,736: the entries of the largest ring
    /// (io_uring_setup(2)) less the 32 requests that a channel keeps for itself.
    pub iodepth: u32,
    /// Requests handed to the kernel in one go (`iodepth_batch`), 1 to `iodepth`; `None` (not given): as many as the
    /// lane prepared in its turn, with one io_uring_enter. fio's default is one system call each.
    pub batch_submit: Option<u32>,
    /// Wait for at least this many completions before going on (`iodepth_batch_complete_min`), 0 to `iodepth`; 0: do
    /// not wait, only look. Default 1.
    pub batch_complete_min: u32,
    /// Take at most this many completions before queueing more (`iodepth_batch_complete_max`), from
    /// `batch_complete_min` (and at least 1) to `iodepth`; `None` (not given): all that are there.
    pub batch_complete_max: Option<u32>,
    /// When the queue was full, let it drain to this depth before refilling (`iodepth_low`), 1 to `iodepth`. The
    /// default is `iodepth`: keep it full.
    pub low: u32,
}

/// When a job ends and from when on it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndSpec {
    /// Bytes to transfer (`io_size`); `None`: `size`. A percentage is of `size`.
    pub io_size: Option<Extent>,
    /// Requests to complete (`number_ios`); ends the job earlier than its size would, never later.
    pub number_ios: Option<u64>,
    /// Time limit, without the ramp (`runtime`).
    pub runtime: Option<Duration>,
    /// Start over until `runtime` has passed (`time_based`); then `runtime` is `Some`.
    pub time_based: bool,
    /// Run this long before anything is measured (`ramp_time`); zero: measure from the start.
    pub ramp_time: Duration,
}

/// What slows a job down.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PaceSpec {
    /// Bandwidth limits, bytes per second, at least 1 (`rate`); never together with `rate_iops`.
    pub rate_bytes_per_s: PerDirection<Option<u64>>,
    /// Request limits, per second, at least 1 (`rate_iops`).
    pub rate_iops: PerDirection<Option<u64>>,
    /// A pause between requests.
    pub think_time: Option<ThinkTime>,
    /// Search the highest queue depth that keeps a latency.
    pub latency_target: Option<LatencyTarget>,
}

/// `thinktime`: a pause after every `blocks` completions of the clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkTime {
    /// The whole pause, more than zero.
    pub pause: Duration,
    /// The part of it at the start that burns CPU (`thinktime_spin`), at most `pause`.
    pub spin: Duration,
    /// Completions between pauses (`thinktime_blocks`), at least 1. While a pause is due no more than this many
    /// requests are in flight.
    pub blocks: u32,
}

/// `latency_target`: find the highest depth, up to `iodepth`, that keeps `percentile` of the requests within `target`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyTarget {
    /// The bound on a request's latency, more than zero.
    pub target: Duration,
    /// How long a depth is tried (`latency_window`), more than zero.
    pub window: Duration,
    /// Per cent of the requests that must keep the bound (`latency_percentile`), above 0 up to 100.
    pub percentile: f64,
}

/// Verification. The header that leads every block of a method other than [`VerifyMethod::Pattern`] is the runner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifySpec {
    /// The checksum (`verify`).
    pub method: VerifyMethod,
    /// What the data is filled with (`verify_pattern`); `None`: bytes drawn from the seed. Always `Some` with
    /// [`VerifyMethod::Pattern`].
    pub pattern: Option<Pattern>,
    /// End the job at the first block that does not verify (`verify_fatal`); otherwise all are checked, reported, and
    /// the job fails at its end.
    pub fatal: bool,
    /// Read back and verify after this many blocks written (`verify_backlog`); `None`: when the writing has ended.
    pub backlog_blocks: Option<u64>,
    /// Read back what was written (`do_verify`). Without it headers are written for a later run to check.
    pub do_verify: bool,
    /// Write nothing; check what an earlier run with the same options wrote (`verify_only`).
    pub only: bool,
}

/// The checksum of a verified block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyMethod {
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// MD5.
    Md5,
    /// SHA-256.
    Sha256,
    /// XXH64.
    Xxhash,
    /// No header and no checksum: the whole block is the pattern.
    Pattern,
}

impl VerifyMethod {
    /// The name as `verify=` takes it.
    pub fn name(self) -> &'static str {
        match self {
            VerifyMethod::Crc32c => "crc32c",
            VerifyMethod::Md5 => "md5",
            VerifyMethod::Sha256 => "sha256",
            VerifyMethod::Xxhash => "xxhash",
            VerifyMethod::Pattern => "pattern",
        }
    }
}

/// A fill pattern (`verify_pattern`): repeated from the start of every block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// One period, 1 to 512 bytes. Bytes which `offset_fields` names are zero here.
    pub bytes: Vec<u8>,
    /// Where in the period the block's byte offset in the file stands (`%o`): eight bytes, little-endian, from each
    /// of these indices on.
    pub offset_fields: Vec<usize>,
}
