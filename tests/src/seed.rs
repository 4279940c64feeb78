//! Seeds of random tests: each is printed, and taken back from the environment.
//!
//! `CORELANE_SEED=0x1234 CORELANE_SEQUENCES=1` runs the one sequence that printed 0x1234 again.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

/// What one random sequence is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seeds of as many sequences as `CORELANE_SEQUENCES` says, or else `default_count`. The first is
    /// `CORELANE_SEED`, or else a new one in each run; each further one follows from the one before.
    ///
    /// Each is printed when it is handed out, which shows when the test fails.
    ///
    /// # Panics
    /// When one of the two variables is set and is no number.
    #[allow(clippy::print_stdout)] // The line is for whoever looks into a failure.
    pub fn sequences(default_count: u64) -> impl Iterator<Item = Seed> {
        let count = from_environment("CORELANE_SEQUENCES").unwrap_or(default_count);
        let first = from_environment("CORELANE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
        std::iter::successors(Some(Seed(first)), |seed| Some(seed.next())).zip(1..=count).map(
            move |(seed, nth)| {
                println!("sequence {nth} of {count}: CORELANE_SEED={seed} CORELANE_SEQUENCES=1");
                seed
            },
        )
    }

    /// The generator that it stands for; the same each time.
    pub fn rng(self) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(self.0)
    }

    /// The number itself, for what takes one.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The seed behind this one (one step of SplitMix64).
    fn next(self) -> Seed {
        let mut z = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Seed(z ^ (z >> 31))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        parse(&text).unwrap_or_else(|| panic!("{name} is '{text}', but must be a number such as 20 or 0x1f")),
    )
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_seed_can_be_taken_back() {
        for value in [0, 1, 20, u64::MAX] {
            assert_eq!(parse(&Seed(value).to_string()), Some(value));
            assert_eq!(parse(&value.to_string()), Some(value));
        }
        for bad in ["", "0x", "x", "-1", "0x10000000000000000"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_seed_stands_for_one_generator_and_the_next_for_another() {
        let seed = Seed(7);
        assert_eq!(seed.rng(), seed.rng());
        assert_ne!(seed.rng(), seed.next().rng());
        assert_ne!(seed.next(), seed.next().next());
    }
}
