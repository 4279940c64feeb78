//! What a workload is made of, as plain data, and what is wrong with one that cannot run.
//!
//! Invariant: nothing here is checked on its own; [`Generator::new`](super::Generator::new) checks the whole, because
//! the rules tie the fields together (a block must fit its region, a skew needs a random order).

use thiserror::Error;

pub use crate::direction::{Direction, PerDirection};

/// In which order the region is visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the start of the region to its end, each direction with its own position.
    Sequential,
    /// At random.
    Random,
}

/// What is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operations {
    /// Reads only.
    Read,
    /// Writes only.
    Write,
    /// Trims only.
    Trim,
    /// Reads and writes mixed (fio's `rw`, `randrw`).
    ReadWrite {
        /// fio's `rwmixread`: how many of 100 I/Os are reads, 0 to 100.
        read_percent: u8,
    },
    /// Each block is trimmed, then written (fio's `trimwrite`, `randtrimwrite`). Only the writes count as work done.
    TrimWrite,
}

impl Operations {
    /// The directions that this mix issues.
    pub fn directions(self) -> &'static [Direction] {
        match self {
            Operations::Read => &[Direction::Read],
            Operations::Write => &[Direction::Write],
            Operations::Trim => &[Direction::Trim],
            Operations::ReadWrite { .. } => &[Direction::Read, Direction::Write],
            Operations::TrimWrite => &[Direction::Trim, Direction::Write],
        }
    }

    /// Whether this mix writes data that could be verified.
    pub fn writes(self) -> bool {
        self.directions().contains(&Direction::Write)
    }
}

/// The part of the file or device that a job works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub offset_bytes: u64,
    /// Length; `offset_bytes + size_bytes` must not exceed 2^63 - 1, the largest file offset of the kernel.
    pub size_bytes: u64,
}

/// How long the blocks of one direction are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSizes {
    /// All alike, in bytes (fio's `bs`).
    Fixed(u32),
    /// Uniform between two bounds in bytes, both included (fio's `bsrange`).
    Range {
        /// The smallest block.
        min: u32,
        /// The largest block.
        max: u32,
        /// fio's `bs_unaligned`: any length between the bounds instead of multiples of the smallest.
        unaligned: bool,
    },
    /// A table of `(bytes, weight)`; the weights need not add up to 100 (fio's `bssplit`).
    Split(Vec<(u32, u32)>),
}

impl BlockSizes {
    /// The smallest block, in bytes (0 for an empty table, which the generator refuses).
    pub fn min_bytes(&self) -> u32 {
        match self {
            BlockSizes::Fixed(bytes) => *bytes,
            BlockSizes::Range { min, .. } => *min,
            BlockSizes::Split(table) => table.iter().map(|&(bytes, _)| bytes).min().unwrap_or(0),
        }
    }

    /// The largest block, in bytes: what an I/O buffer must hold.
    pub fn max_bytes(&self) -> u32 {
        match self {
            BlockSizes::Fixed(bytes) => *bytes,
            BlockSizes::Range { max, .. } => *max,
            BlockSizes::Split(table) => table.iter().map(|&(bytes, _)| bytes).max().unwrap_or(0),
        }
    }
}

/// Where random blocks fall (fio's `random_distribution`). All but `Uniform` work without the random map, as in fio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Each block as likely as any other.
    Uniform,
    /// The k-th hottest block has weight `1 / k^theta`.
    Zipf {
        /// The exponent, above 0.
        theta: f64,
        /// Where the hottest block lies, 0 to 1 of the region, the others following in order of heat; `None` scatters
        /// hot blocks over the whole region.
        center: Option<f64>,
    },
    /// fio's self-similar Pareto: a part `h` of the blocks takes `1 - h` of the I/Os, and so on inside that part.
    Pareto {
        /// Between 0 and 1, both excluded.
        h: f64,
        /// As for `Zipf`.
        center: Option<f64>,
    },
    /// Gaussian, folded back into the region at its ends.
    Normal {
        /// Standard deviation, in percent of the region: 0 to 100.
        deviation_percent: f64,
        /// The mean, 0 to 1 of the region; fio's default is 0.5.
        center: f64,
    },
}

/// When a generator has no more work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so many passes over the region (fio's `loops`); 1 is fio's default.
    Passes(u64),
    /// After so many bytes (fio's `io_size`); the I/O that reaches the number is the last and is issued whole.
    Bytes(u64),
    /// Never (fio's `time_based`): the clock of the job ends it.
    Endless,
}

/// A whole workload. [`WorkloadConfig::new`] gives fio's defaults for the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadConfig {
    /// Sequential or random.
    pub order: Order,
    /// Reads, writes, trims or a mix.
    pub operations: Operations,
    /// Where.
    pub region: Region,
    /// How long, per direction; entries of directions that the mix lacks are ignored.
    pub sizes: PerDirection<BlockSizes>,
    /// fio's `blockalign`: what random offsets, counted from the start of the region, are multiples of. `None` is the
    /// smallest block of the direction. Giving any turns the random map off, as in fio.
    pub align_bytes: PerDirection<Option<u32>>,
    /// Where random blocks fall.
    pub distribution: Distribution,
    /// Visit each block exactly once a pass; false is fio's `norandommap`.
    pub random_map: bool,
    /// When to end.
    pub limit: Limit,
    /// fio's `randseed`. With `randrepeat=0` the caller draws it anew for each run.
    pub seed: u64,
    /// Which of fio's `numjobs` clones this is, from 0. Mixed into the seed, so that clones differ.
    pub job_index: u32,
}

/// The seed of a job that was given none and is to repeat (`randrepeat=1`, the default).
pub const DEFAULT_SEED: u64 = 0x436f_7265_6c61_6e65;

impl WorkloadConfig {
    /// A workload of one fixed block size with fio's defaults: one pass, uniform, random map on, [`DEFAULT_SEED`].
    pub fn new(order: Order, operations: Operations, region: Region, block_bytes: u32) -> Self {
        Self {
            order,
            operations,
            region,
            sizes: PerDirection::all(BlockSizes::Fixed(block_bytes)),
            align_bytes: PerDirection::default(),
            distribution: Distribution::Uniform,
            random_map: true,
            limit: Limit::Passes(1),
            seed: DEFAULT_SEED,
            job_index: 0,
        }
    }

    /// The largest block that this workload issues, in bytes: the size of its I/O buffers.
    pub fn max_block_bytes(&self) -> u32 {
        self.operations.directions().iter().map(|&d| self.sizes.get(d).max_bytes()).max().unwrap_or(0)
    }

    /// The smallest block that this workload issues, in bytes.
    pub fn min_block_bytes(&self) -> u32 {
        self.operations.directions().iter().map(|&d| self.sizes.get(d).min_bytes()).min().unwrap_or(0)
    }
}

/// Why a workload cannot run.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A block size is zero, or a range runs backwards, or a split has no weight.
    #[error(
        "{direction:?} block sizes {sizes:?} hold no usable size; sizes and one weight at least must be above 0, and a range must run upwards"
    )]
    NoBlockSize {
        /// Of which direction.
        direction: Direction,
        /// What was given.
        sizes: BlockSizes,
    },
    /// The region holds not one block.
    #[error(
        "a region of {size_bytes} bytes holds no {direction:?} block of {block_bytes} bytes; \
         give size={block_bytes} at least, or bs={size_bytes} at most"
    )]
    RegionTooSmall {
        /// Of which direction.
        direction: Direction,
        /// Length of the region.
        size_bytes: u64,
        /// The block that does not fit.
        block_bytes: u32,
    },
    /// The region ends beyond the largest file offset.
    #[error("offset {offset_bytes} + size {size_bytes} exceeds the largest file offset, {}", i64::MAX)]
    RegionOverflow {
        /// Start of the region.
        offset_bytes: u64,
        /// Length of the region.
        size_bytes: u64,
    },
    /// `blockalign=0`.
    #[error(
        "blockalign of {direction:?} is 0; it must be 1 at least, and is the smallest block size when not given"
    )]
    ZeroAlign {
        /// Of which direction.
        direction: Direction,
    },
    /// A percentage of more than 100.
    #[error("rwmixread={percent} is no percentage; give 0 to 100")]
    BadMix {
        /// What was given.
        percent: u8,
    },
    /// A parameter of the distribution is out of its range.
    #[error("random_distribution {distribution}: {parameter}={value}, but it must be {allowed}")]
    BadDistribution {
        /// `zipf`, `pareto` or `normal`.
        distribution: &'static str,
        /// Which parameter.
        parameter: &'static str,
        /// What was given.
        value: f64,
        /// What would be right.
        allowed: &'static str,
    },
    /// The random map does not fit into memory.
    #[error(
        "the random map of {units} blocks needs {map_bytes} bytes, which cannot be had; set norandommap, or a larger smallest block"
    )]
    MapTooLarge {
        /// How many smallest blocks the region holds.
        units: u64,
        /// What the map would take.
        map_bytes: u64,
    },
    /// A region cannot be divided among so many jobs.
    #[error(
        "job {job_index} of {jobs} cannot have its own part of {size_bytes} bytes in units of {unit_bytes}; each needs one unit at least: give size={needed_bytes} or fewer jobs"
    )]
    TooManyJobs {
        /// Which job asked.
        job_index: u32,
        /// Among how many.
        jobs: u32,
        /// Length of the region.
        size_bytes: u64,
        /// The unit of division.
        unit_bytes: u64,
        /// The smallest region that would do.
        needed_bytes: u64,
    },
}
