//! The sequence of I/Os of one job.
//!
//! What fio does decides, where the issue names no other rule:
//! - Sequential order keeps a position per direction; `blockalign` concerns random offsets only.
//! - The random map covers each block once a pass, whichever direction visits it. `blockalign` and skewed distributions
//!   turn it off. With one fixed block size the order is a permutation that needs no memory; with mixed sizes a bitmap
//!   of the smallest block is kept and a block is cut where it meets one already visited.
//! - A rest of the region shorter than the smallest block is not visited.
//! - `trimwrite` takes lengths from the write block sizes, and only its writes count towards the limit.
//!
//! Invariants: every I/O lies inside the region, has at least one byte, and starts at a multiple of the alignment from
//! the region's start. After construction nothing allocates. The same configuration gives the same sequence.

use super::config::{
    BlockSizes, Direction, Distribution, Limit, Operations, Order, WorkloadConfig, WorkloadError,
};
use super::free_map::FreeMap;
use super::permutation::Permutation;
use super::rng::{WorkRng, job_seed};
use super::sizes::Sizes;
use super::skew::Skew;

/// One I/O to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Io {
    /// First byte, from the start of the file or device.
    pub offset: u64,
    /// Length, 1 at least.
    pub bytes: u32,
    /// What to do there.
    pub direction: Direction,
}

impl Io {
    /// The byte after the last.
    #[inline]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }
}

/// Makes the I/Os of one job, one after the other. Also an [`Iterator`].
#[derive(Clone, Debug)]
pub struct Generator {
    rng: WorkRng,
    /// Until the limit: bytes in the general plan, I/Os in the lean ones, where all are alike. `u64::MAX` at the start
    /// stands for no limit (at 100 GB/s it lasts five years).
    left: u64,
    /// Of a mix, a read when 64 random bits are below this.
    read_below: u64,
    mix: Mix,
    /// Of the lean plans: start of the region, and the one block size; of the general plan, the smallest.
    base: u64,
    bytes: u32,
    plan: Plan,
    pass_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mix {
    Only(Direction),
    ReadWrite,
}

/// How blocks are placed; chosen once, so that the usual workloads run a few instructions.
#[derive(Clone, Debug)]
enum Plan {
    /// Random, one size, no map, one direction.
    Uniform { slots: u64, align: u64, direction: Direction },
    /// The same for a mix of reads and writes.
    UniformMix { slots: u64, align: u64 },
    /// Random, one size, each block once a pass.
    Permuted(Permutation),
    /// Sequential, one size; offsets are relative to the base.
    Sequential { end: u64, next: [u64; 3] },
    /// All else.
    General(Box<General>),
}

#[derive(Clone, Debug)]
struct General {
    base: u64,
    end: u64,
    way: Way,
    trim_write: bool,
    /// The second half of a trim and write pair, with its charge.
    trimmed: Option<(Io, u64)>,
    /// By direction; those that the mix never places hold a copy of another's.
    lanes: [Lane; 3],
}

#[derive(Clone, Debug)]
enum Way {
    Sequential,
    Random,
    Mapped { map: FreeMap, unit: u32 },
}

#[derive(Clone, Debug)]
struct Lane {
    sizes: Sizes,
    align: u64,
    slots: u64,
    next: u64,
    skew: Option<Skew>,
}

impl Generator {
    /// Checks `config` and makes its generator, at the start of the sequence.
    ///
    /// # Errors
    /// [`WorkloadError`] names the value that cannot be and what would be right: blocks larger than the region, regions
    /// beyond the largest file offset, empty block size tables, parameters out of range, a random map beyond memory.
    pub fn new(config: &WorkloadConfig) -> Result<Self, WorkloadError> {
        let mut rng = WorkRng::new(job_seed(config.seed, config.job_index));
        let (mix, read_below) = mix(config.operations)?;
        let size = config.region.size_bytes;
        check_region(config)?;
        let general = General::new(config, &mut rng)?;
        let bytes = general.smallest();
        let pass_bytes = size - size % u64::from(bytes);
        let plan = general.simplify(config, mix, &mut rng);
        let limit = match config.limit {
            Limit::Endless => u64::MAX,
            Limit::Passes(passes) => pass_bytes.saturating_mul(passes),
            // io_size as a multiple of size means whole passes, also when the last block of a pass is left out.
            Limit::Bytes(bytes) if bytes % size == 0 => pass_bytes.saturating_mul(bytes / size),
            Limit::Bytes(bytes) => bytes,
        };
        let left = match plan {
            Plan::General(_) => limit,
            _ if config.limit == Limit::Endless => limit,
            _ => limit.div_ceil(u64::from(bytes)),
        };
        Ok(Self { rng, left, read_below, mix, base: config.region.offset_bytes, bytes, plan, pass_bytes })
    }

    /// The next I/O, or `None` when the limit is reached.
    #[inline]
    pub fn next_io(&mut self) -> Option<Io> {
        // The usual plan first, before the others' jump table.
        if let Plan::Uniform { slots, align, direction } = self.plan {
            self.left = self.left.checked_sub(1)?;
            let offset = self.base + self.rng.below(slots) * align;
            return Some(Io { offset, bytes: self.bytes, direction });
        }
        let direction = match self.mix {
            Mix::Only(direction) => direction,
            Mix::ReadWrite if self.rng.bits() < self.read_below => Direction::Read,
            Mix::ReadWrite => Direction::Write,
        };
        self.place(direction)
    }

    /// The next I/O of one direction of a read and write mix, whatever `rwmixread` says: for a job whose reads and
    /// writes have different rates. In other workloads the same as [`next_io`](Self::next_io). A sequence made with
    /// this depends on time and cannot be replayed for `verify_only`.
    pub fn next_in(&mut self, direction: Direction) -> Option<Io> {
        match self.mix {
            Mix::ReadWrite if direction == Direction::Trim => self.next_io(),
            Mix::ReadWrite => self.place(direction),
            Mix::Only(_) => self.next_io(),
        }
    }

    /// The direction and length that all I/Os have, where all are alike.
    pub fn alike(&self) -> Option<(Direction, u32)> {
        match (&self.plan, self.mix) {
            (Plan::General(_), _) | (_, Mix::ReadWrite) => None,
            (_, Mix::Only(direction)) => Some((direction, self.bytes)),
        }
    }

    /// Ends a sequence of alike I/Os after `ios` more at the latest, so that the caller need not count. Of other
    /// sequences it leaves the end as it is.
    pub fn end_after(&mut self, ios: u64) {
        if self.alike().is_some() {
            self.left = self.left.min(ios);
        }
    }

    /// Bytes still to issue until the limit; `None` when there is none.
    pub fn left_bytes(&self) -> Option<u64> {
        let bytes = match self.plan {
            Plan::General(_) => self.left,
            _ => self.left.saturating_mul(u64::from(self.bytes)),
        };
        (bytes < u64::MAX / 2).then_some(bytes)
    }

    /// Bytes of one pass: the region without a rest that holds no block.
    pub fn pass_bytes(&self) -> u64 {
        self.pass_bytes
    }

    #[inline]
    fn place(&mut self, direction: Direction) -> Option<Io> {
        let bytes = u64::from(self.bytes);
        let after = self.left.checked_sub(1)?;
        let within = match &mut self.plan {
            Plan::Uniform { slots, align, .. } | Plan::UniformMix { slots, align } => {
                self.rng.below(*slots) * *align
            }
            Plan::Permuted(order) => order.next(&mut self.rng) * bytes,
            Plan::Sequential { end, next } => {
                let next = &mut next[direction.index()];
                let within = *next;
                *next = if within + bytes == *end { 0 } else { within + bytes };
                within
            }
            Plan::General(general) => {
                let (io, charge) = general.place(direction, &mut self.rng);
                self.left = self.left.saturating_sub(charge);
                return Some(io);
            }
        };
        self.left = after;
        Some(Io { offset: self.base + within, bytes: self.bytes, direction })
    }
}

impl Iterator for Generator {
    type Item = Io;

    #[inline]
    fn next(&mut self) -> Option<Io> {
        self.next_io()
    }
}

fn check_region(config: &WorkloadConfig) -> Result<(), WorkloadError> {
    let (offset_bytes, size_bytes) = (config.region.offset_bytes, config.region.size_bytes);
    match offset_bytes.checked_add(size_bytes) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(WorkloadError::RegionOverflow { offset_bytes, size_bytes }),
    }
}

fn mix(operations: Operations) -> Result<(Mix, u64), WorkloadError> {
    let mix = match operations {
        Operations::Read => Mix::Only(Direction::Read),
        Operations::Write | Operations::TrimWrite => Mix::Only(Direction::Write),
        Operations::Trim => Mix::Only(Direction::Trim),
        Operations::ReadWrite { read_percent: percent @ 101.. } => {
            return Err(WorkloadError::BadMix { percent });
        }
        Operations::ReadWrite { read_percent: 100 } => Mix::Only(Direction::Read),
        Operations::ReadWrite { read_percent } => {
            return Ok((Mix::ReadWrite, u64::MAX / 100 * u64::from(read_percent)));
        }
    };
    Ok((mix, 0))
}

impl General {
    fn new(config: &WorkloadConfig, rng: &mut WorkRng) -> Result<Self, WorkloadError> {
        let of = match config.operations {
            Operations::Read => [Direction::Read; 3],
            Operations::Write | Operations::TrimWrite => [Direction::Write; 3],
            Operations::Trim => [Direction::Trim; 3],
            Operations::ReadWrite { .. } => [Direction::Read, Direction::Write, Direction::Write],
        };
        let [first, second, third] = of.map(|direction| Lane::new(config, direction, rng));
        let lanes = [first?, second?, third?];
        let base = config.region.offset_bytes;
        let end = base + config.region.size_bytes;
        let mut general = Self {
            base,
            end,
            way: Way::Random,
            trim_write: config.operations == Operations::TrimWrite,
            trimmed: None,
            lanes,
        };
        if config.order == Order::Sequential {
            general.way = Way::Sequential;
        } else if config.uses_map() && (general.trim_write || general.fixed().is_none()) {
            let unit = general.smallest();
            general.way =
                Way::Mapped { map: FreeMap::new(config.region.size_bytes / u64::from(unit))?, unit };
        }
        Ok(general)
    }

    /// The smallest block of all directions; 1 at least.
    fn smallest(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.sizes.min_bytes()).min().unwrap_or(1)
    }

    /// The one block size and alignment that all directions share.
    fn fixed(&self) -> Option<(u32, u64)> {
        let mut all = self.lanes.iter().map(|lane| Some((lane.sizes.fixed()?, lane.align)));
        let first = all.next()??;
        all.all(|other| other == Some(first)).then_some(first)
    }

    /// The leaner plan for the usual cases, else itself.
    fn simplify(self, config: &WorkloadConfig, mix: Mix, rng: &mut WorkRng) -> Plan {
        let Some((bytes, align)) = self.fixed().filter(|_| !self.trim_write) else {
            return Plan::General(Box::new(self));
        };
        let size = self.end - self.base;
        let blocks = size / u64::from(bytes);
        match config.order {
            Order::Sequential => Plan::Sequential { end: blocks * u64::from(bytes), next: [0; 3] },
            Order::Random if config.uses_map() => Plan::Permuted(Permutation::new(blocks, rng)),
            Order::Random if config.distribution == Distribution::Uniform => {
                let slots = (size - u64::from(bytes)) / align + 1;
                match mix {
                    Mix::Only(direction) => Plan::Uniform { slots, align, direction },
                    Mix::ReadWrite => Plan::UniformMix { slots, align },
                }
            }
            Order::Random => Plan::General(Box::new(self)),
        }
    }

    /// An I/O, and how much of the limit it uses up. Out of line: inlined, its size would cost the lean plans their
    /// registers.
    #[inline(never)]
    fn place(&mut self, direction: Direction, rng: &mut WorkRng) -> (Io, u64) {
        if let Some(write) = self.trimmed.take() {
            return write;
        }
        let (io, charge) = self.block(direction, rng);
        if self.trim_write {
            // Charged when the write is issued: the two are one piece of work.
            self.trimmed = Some((io, charge));
            return (Io { direction: Direction::Trim, ..io }, 0);
        }
        (io, charge)
    }

    fn block(&mut self, direction: Direction, rng: &mut WorkRng) -> (Io, u64) {
        let lane = &mut self.lanes[direction.index()];
        let wanted = lane.sizes.pick(rng);
        let (offset, bytes, charge) = match &mut self.way {
            Way::Sequential => lane.sequential(wanted, self.base, self.end),
            Way::Random => {
                let slot = match &lane.skew {
                    None => rng.below(lane.slots),
                    Some(skew) => skew.sample(rng),
                };
                let offset = self.base + slot * lane.align;
                let bytes = lane.sizes.fit(wanted, self.end - offset);
                (offset, bytes, u64::from(bytes))
            }
            Way::Mapped { map, unit } => {
                let (at, bytes, charge) = take_mapped(map, *unit, wanted, rng);
                (self.base + at, bytes, charge)
            }
        };
        (Io { offset, bytes, direction }, charge)
    }
}

/// The offset in the region, length and charge of a block of units not visited yet.
fn take_mapped(map: &mut FreeMap, unit: u32, wanted: u32, rng: &mut WorkRng) -> (u64, u32, u64) {
    if map.free_units() == 0 {
        map.reset();
    }
    // A region holds one unit at least and the map was just seen to have a free one.
    let start = map.next_free(rng.below(map.units())).unwrap_or(0);
    let run = map.take_run(start, u64::from(wanted.div_ceil(unit)));
    let taken = run * u64::from(unit);
    // `wanted` is the smaller when it is no multiple of the unit; the rest of its last unit counts as visited.
    (start * u64::from(unit), u64::from(wanted).min(taken) as u32, taken)
}

impl Lane {
    fn new(config: &WorkloadConfig, direction: Direction, rng: &mut WorkRng) -> Result<Self, WorkloadError> {
        let sizes = Sizes::new(config.sizes.get(direction), direction)?;
        let (smallest, size_bytes) = (sizes.min_bytes(), config.region.size_bytes);
        if u64::from(smallest) > size_bytes {
            return Err(WorkloadError::RegionTooSmall { direction, size_bytes, block_bytes: smallest });
        }
        let align = u64::from(config.align_bytes.get(direction).unwrap_or(smallest));
        if align == 0 {
            return Err(WorkloadError::ZeroAlign { direction });
        }
        let slots = (size_bytes - u64::from(smallest)) / align + 1;
        let skew = match config.order {
            Order::Sequential => None,
            Order::Random => Skew::new(config.distribution, slots, rng)?,
        };
        Ok(Self { sizes, align, slots, next: config.region.offset_bytes, skew })
    }

    fn sequential(&mut self, wanted: u32, base: u64, end: u64) -> (u64, u32, u64) {
        let offset = self.next;
        let bytes = self.sizes.fit(wanted, end - offset);
        let after = offset + u64::from(bytes);
        let rest = end - after;
        if rest < u64::from(self.sizes.min_bytes()) {
            // The pass ends here; the rest is charged with it, so that a limit of passes comes out even.
            self.next = base;
            (offset, bytes, u64::from(bytes) + rest)
        } else {
            self.next = after;
            (offset, bytes, u64::from(bytes))
        }
    }
}

impl WorkloadConfig {
    /// Whether each block is visited exactly once a pass: the random map is on and nothing turns it off.
    pub fn uses_map(&self) -> bool {
        self.order == Order::Random
            && self.random_map
            && self.distribution == Distribution::Uniform
            && self.operations.directions().iter().all(|&d| {
                let unaligned = matches!(self.sizes.get(d), BlockSizes::Range { unaligned: true, .. });
                self.align_bytes.get(d).is_none() && !unaligned
            })
    }
}

#[cfg(test)]
mod tests;
