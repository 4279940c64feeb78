//! From the options of a job to what the workload, the statistics and the event loop are made with.

use corelane_engine::aio::{AioConfig, PollMode};

use super::region::owns_its_blocks;
use crate::options::{self, CompletionPolling, DirectionMix, Extent, JobSpec, PerDirection};
use crate::report::LatencyTarget;
use crate::stats::StatsConfig;
use crate::workload::{
    self, BlockSizes, Distribution, Limit, Operations, Order, Region, VerifyKind, WorkloadConfig,
};

/// Entries that a lane's ring has beside those of its requests: its wake-up, a flush, some of the slow path.
const SPARE_RING_ENTRIES: u32 = 16;

/// Largest ring that the kernel makes.
const MAX_RING_ENTRIES: u32 = 32_768;

/// Which clone of which job a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneIndex {
    /// The job, from 0.
    pub job: usize,
    /// The clone within the job, from 0.
    pub clone: u32,
    /// The lane, counted over all jobs, from 0.
    pub lane: u32,
}

/// The workload of one lane on file number `file` of the `files` it has. `size_bytes` is what `size` came to before the
/// region was divided among clones.
pub fn workload(
    spec: &JobSpec,
    index: LaneIndex,
    region: Region,
    size_bytes: u64,
    (file, files): (usize, usize),
    seed: u64,
) -> WorkloadConfig {
    let work = &spec.workload;
    let limit = if spec.end.time_based {
        Limit::Endless
    } else {
        match spec.end.io_size {
            Some(Extent::Bytes(bytes)) => Limit::Bytes((bytes / files.max(1) as u64).max(1)),
            Some(share) => Limit::Bytes(share.resolve_bytes(size_bytes).max(1)),
            // A clone with a part of its own does as much as if it had the whole.
            None if region.size_bytes < size_bytes => Limit::Bytes(size_bytes),
            None => Limit::Passes(1),
        }
    };
    WorkloadConfig {
        order: if work.rw.random { Order::Random } else { Order::Sequential },
        operations: operations(spec),
        region,
        sizes: per_direction(&work.blocks, block_sizes),
        align_bytes: per_direction(&work.align_bytes, |bytes| bytes.map(clamp_u32)),
        distribution: distribution(work.distribution),
        random_map: !work.no_random_map,
        limit,
        seed: seed.wrapping_add(file as u64),
        // Lanes of different jobs must not do the same requests in lock step. What a later run is to verify, though,
        // must not depend on which other jobs there were.
        job_index: if owns_its_blocks(spec) { index.clone } else { index.lane },
    }
}

/// Reads, writes, trims or a mix.
pub fn operations(spec: &JobSpec) -> Operations {
    match spec.workload.rw.mix {
        DirectionMix::Read => Operations::Read,
        DirectionMix::Write => Operations::Write,
        DirectionMix::Trim => Operations::Trim,
        DirectionMix::ReadWrite => Operations::ReadWrite { read_percent: spec.workload.read_percent },
        DirectionMix::TrimWrite => Operations::TrimWrite,
    }
}

fn per_direction<T, U>(from: &PerDirection<T>, of: impl Fn(&T) -> U) -> workload::PerDirection<U> {
    workload::PerDirection([of(&from.read), of(&from.write), of(&from.trim)])
}

fn block_sizes(sizes: &options::BlockSizes) -> BlockSizes {
    match sizes {
        options::BlockSizes::Fixed(bytes) => BlockSizes::Fixed(clamp_u32(*bytes)),
        options::BlockSizes::Range { min, max } => {
            BlockSizes::Range { min: clamp_u32(*min), max: clamp_u32(*max), unaligned: false }
        }
        options::BlockSizes::Split(parts) => {
            BlockSizes::Split(parts.iter().map(|&(bytes, share)| (clamp_u32(bytes), share.into())).collect())
        }
    }
}

/// The options bound block sizes to what a request can hold.
fn clamp_u32(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn distribution(from: options::Distribution) -> Distribution {
    match from {
        options::Distribution::Uniform => Distribution::Uniform,
        options::Distribution::Zipf { theta, center } => Distribution::Zipf { theta, center },
        options::Distribution::Pareto { h, center } => Distribution::Pareto { h, center },
        options::Distribution::Normal { deviation_percent, center } => {
            Distribution::Normal { deviation_percent, center: center.unwrap_or(0.5) }
        }
    }
}

/// What is measured.
pub fn stats(spec: &JobSpec) -> StatsConfig {
    let measure = &spec.measure;
    StatsConfig {
        slat: measure.slat,
        clat: measure.clat,
        lat: measure.lat,
        slat_percentiles: measure.slat_percentiles,
        clat_percentiles: measure.clat_percentiles,
        lat_percentiles: measure.lat_percentiles,
    }
}

/// The lane's event loop.
pub fn aio(spec: &JobSpec, name: String) -> AioConfig {
    let entries = spec.depth.iodepth.saturating_add(SPARE_RING_ENTRIES);
    let poll = match spec.target.polling {
        CompletionPolling::Interrupt => PollMode::Interrupt,
        CompletionPolling::Adaptive { max_ns } => {
            PollMode::Adaptive { poll_max_ns: max_ns, grow: 0, shrink: 0 }
        }
        CompletionPolling::Busy => PollMode::Busy,
    };
    AioConfig {
        name,
        ring_entries: entries.min(MAX_RING_ENTRIES),
        fixed_files: 64,
        poll,
        ..AioConfig::default()
    }
}

/// The checksum.
pub fn verify_kind(method: options::VerifyMethod) -> VerifyKind {
    match method {
        options::VerifyMethod::Crc32c => VerifyKind::Crc32c,
        options::VerifyMethod::Md5 => VerifyKind::Md5,
        options::VerifyMethod::Sha256 => VerifyKind::Sha256,
        options::VerifyMethod::Xxhash => VerifyKind::Xxhash,
        options::VerifyMethod::Pattern => VerifyKind::Pattern,
    }
}

/// `latency_target` as reports show it; `depth` is what was found.
pub fn latency_target(spec: &JobSpec, depth: u32) -> LatencyTarget {
    match spec.pace.latency_target {
        None => LatencyTarget::none(depth),
        Some(target) => LatencyTarget {
            target_ns: u64::try_from(target.target.as_nanos()).unwrap_or(u64::MAX),
            window_us: u64::try_from(target.window.as_micros()).unwrap_or(u64::MAX),
            percentile: target.percentile,
            depth,
        },
    }
}
