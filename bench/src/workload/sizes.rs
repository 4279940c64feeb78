//! Choice of block lengths.
//!
//! Invariant: every length chosen lies between the smallest and the largest of the configuration, also when it is cut
//! to fit the room left.

use super::config::{BlockSizes, Direction, WorkloadError};
use super::rng::WorkRng;

/// The lengths of one direction, ready to draw from.
#[derive(Clone, Debug)]
pub(crate) enum Sizes {
    Fixed(u32),
    /// `unit * (first + 0..count)` bytes.
    Range {
        unit: u32,
        first: u64,
        count: u64,
    },
    Split {
        /// In rising order, with the running sum of weights.
        table: Box<[(u32, u64)]>,
        total: u64,
    },
}

impl Sizes {
    pub(crate) fn new(sizes: &BlockSizes, direction: Direction) -> Result<Self, WorkloadError> {
        let refuse = || WorkloadError::NoBlockSize { direction, sizes: sizes.clone() };
        if sizes.min_bytes() == 0 || sizes.max_bytes() < sizes.min_bytes() {
            return Err(refuse());
        }
        match sizes {
            BlockSizes::Fixed(bytes) => Ok(Sizes::Fixed(*bytes)),
            BlockSizes::Range { min, max, .. } if min == max => Ok(Sizes::Fixed(*min)),
            BlockSizes::Range { min, max, unaligned: true } => {
                Ok(Sizes::Range { unit: 1, first: u64::from(*min), count: u64::from(max - min) + 1 })
            }
            BlockSizes::Range { min, max, unaligned: false } => {
                Ok(Sizes::Range { unit: *min, first: 1, count: u64::from(max / min) })
            }
            BlockSizes::Split(table) => {
                let mut table: Vec<(u32, u32)> =
                    table.iter().copied().filter(|&(_, weight)| weight > 0).collect();
                table.sort_unstable();
                let mut total = 0;
                let table: Box<[(u32, u64)]> = table
                    .into_iter()
                    .map(|(bytes, weight)| {
                        total += u64::from(weight);
                        (bytes, total)
                    })
                    .collect();
                if table.is_empty() { Err(refuse()) } else { Ok(Sizes::Split { table, total }) }
            }
        }
    }

    /// The smallest length.
    pub(crate) fn min_bytes(&self) -> u32 {
        match self {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Range { unit, first, .. } => (u64::from(*unit) * first) as u32,
            Sizes::Split { table, .. } => table.first().map_or(0, |entry| entry.0),
        }
    }

    /// The one length there is.
    pub(crate) fn fixed(&self) -> Option<u32> {
        match self {
            Sizes::Fixed(bytes) => Some(*bytes),
            Sizes::Split { table, .. } if table.len() == 1 => Some(table[0].0),
            _ => None,
        }
    }

    /// A length at random.
    pub(crate) fn pick(&self, rng: &mut WorkRng) -> u32 {
        match self {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Range { unit, first, count } => (u64::from(*unit) * (first + rng.below(*count))) as u32,
            Sizes::Split { table, total } => {
                let point = rng.below(*total);
                let at = table.partition_point(|&(_, sum)| sum <= point);
                table[at].0
            }
        }
    }

    /// `bytes`, or when that exceeds `room` (never less than the smallest length) the largest length that fits.
    pub(crate) fn fit(&self, bytes: u32, room: u64) -> u32 {
        if u64::from(bytes) <= room {
            return bytes;
        }
        match self {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Range { unit, .. } => (room - room % u64::from(*unit)) as u32,
            Sizes::Split { table, .. } => {
                let fitting = table.partition_point(|&(bytes, _)| u64::from(bytes) <= room);
                table[fitting.max(1) - 1].0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn histogram(sizes: &BlockSizes, draws: u32) -> BTreeMap<u32, u32> {
        let sizes = Sizes::new(sizes, Direction::Read).unwrap();
        let mut rng = WorkRng::new(5);
        let mut hits = BTreeMap::new();
        for _ in 0..draws {
            *hits.entry(sizes.pick(&mut rng)).or_default() += 1;
        }
        hits
    }

    #[test]
    fn a_range_is_uniform_over_multiples_of_the_smallest() {
        let hits = histogram(&BlockSizes::Range { min: 512, max: 65_536, unaligned: false }, 128_000);
        assert_eq!(hits.len(), 128);
        let chi2: f64 = hits.values().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 200.0, "chi-square {chi2} of 127 degrees of freedom");
        assert!(hits.keys().all(|bytes| bytes % 512 == 0));
    }

    #[test]
    fn an_unaligned_range_takes_every_length() {
        let hits = histogram(&BlockSizes::Range { min: 100, max: 109, unaligned: true }, 10_000);
        assert_eq!(hits.keys().copied().collect::<Vec<_>>(), (100..=109).collect::<Vec<_>>());
    }

    #[test]
    fn a_split_keeps_its_weights() {
        let hits =
            histogram(&BlockSizes::Split(vec![(65_536, 50), (4096, 10), (32_768, 40), (512, 0)]), 100_000);
        assert_eq!(hits.len(), 3);
        for (bytes, expected) in [(4096, 10_000.0f64), (32_768, 40_000.0), (65_536, 50_000.0)] {
            assert!((f64::from(hits[&bytes]) - expected).abs() < 5.0 * expected.sqrt(), "{hits:?}");
        }
    }

    #[test]
    fn fit_gives_the_largest_that_fits() {
        let range = Sizes::new(&BlockSizes::Range { min: 512, max: 4096, unaligned: false }, Direction::Read)
            .unwrap();
        assert_eq!(range.fit(4096, 1600), 1536);
        assert_eq!(range.fit(1024, 1600), 1024);
        let split =
            Sizes::new(&BlockSizes::Split(vec![(4096, 1), (6144, 1), (65_536, 1)]), Direction::Read).unwrap();
        assert_eq!(split.fit(65_536, 8000), 6144);
        assert_eq!(split.fit(65_536, 4096), 4096);
    }

    #[test]
    fn sizes_without_a_choice_are_refused() {
        for sizes in [
            BlockSizes::Fixed(0),
            BlockSizes::Range { min: 0, max: 512, unaligned: false },
            BlockSizes::Range { min: 4096, max: 512, unaligned: false },
            BlockSizes::Split(vec![]),
            BlockSizes::Split(vec![(512, 0)]),
        ] {
            let error = Sizes::new(&sizes, Direction::Write).unwrap_err();
            assert!(
                matches!(error, WorkloadError::NoBlockSize { direction: Direction::Write, .. }),
                "{error}"
            );
        }
    }
}
