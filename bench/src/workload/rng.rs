//! Random numbers of the workload: one small generator per job, seeded so that every job differs.
//!
//! Invariant: the same seed and job index give the same sequence in every run of one build, which is what lets
//! `verify_only` rebuild what an earlier run wrote.

use rand_xoshiro::Xoroshiro128Plus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};

/// The step of a Weyl sequence with good spread: 2^64 divided by the golden ratio, made odd.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles 64 bits so that each input bit changes about half of the output bits (the finalizer of SplitMix64).
/// A bijection: different inputs stay different.
#[inline]
pub(crate) const fn mix64(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The seed of one clone of a job: depends on every bit of `randseed` and of the clone's index.
pub fn job_seed(seed: u64, job_index: u32) -> u64 {
    mix64(mix64(seed.wrapping_add(GOLDEN)) ^ mix64(u64::from(job_index).wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// The generator of a job. Not for secrets. Of the family's members this is the shortest; its weak lowest bits decide
/// nothing here, as [`below`](Self::below) and [`unit`](Self::unit) go by the high ones.
#[derive(Clone, Debug)]
pub(crate) struct WorkRng(Xoroshiro128Plus);

impl WorkRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoroshiro128Plus::seed_from_u64(seed))
    }

    /// 64 uniform bits.
    #[inline]
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..bound`, by multiplication and shift: no division. The bias is below `bound / 2^64`. `bound` 0
    /// gives 0.
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The generator as the `rand` crates want it.
    pub(crate) fn inner(&mut self) -> &mut Xoroshiro128Plus {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_and_seeds_differ() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..64 {
            for job in 0..64 {
                assert!(seen.insert(job_seed(seed, job)), "seed {seed} job {job} repeats another");
            }
        }
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut rng = WorkRng::new(7);
        let mut hits = [0u32; 10];
        for _ in 0..10_000 {
            hits[rng.below(10) as usize] += 1;
        }
        assert!(hits.iter().all(|&n| (850..1150).contains(&n)), "{hits:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }
}
