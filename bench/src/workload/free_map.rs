//! Which units of a region a pass has already visited: a bitmap with summaries, for blocks of mixed sizes.
//!
//! Level 0 has a bit for each unit, set when visited; a bit of level `n + 1` is set when its word of level `n` is
//! full. A search for the next free unit climbs only as far as words are full, so it costs one or two words per level
//! however full the map is.
//!
//! Invariant: bits beyond the last unit are set on every level, so that no search finds them.

use super::config::WorkloadError;

/// The map.
#[derive(Clone, Debug)]
pub(crate) struct FreeMap {
    levels: Vec<Vec<u64>>,
    units: u64,
    free: u64,
}

impl FreeMap {
    /// All of `units` (1 at least) free.
    pub(crate) fn new(units: u64) -> Result<Self, WorkloadError> {
        let too_large = || WorkloadError::MapTooLarge { units, map_bytes: units / 8 };
        let mut levels = Vec::new();
        let mut bits = units;
        loop {
            let words = usize::try_from(bits.div_ceil(64)).map_err(|_| too_large())?;
            let mut level = Vec::new();
            level.try_reserve_exact(words).map_err(|_| too_large())?;
            level.resize(words, 0);
            levels.push(level);
            if words == 1 {
                break;
            }
            bits = words as u64;
        }
        let mut map = Self { levels, units, free: units };
        map.reset();
        Ok(map)
    }

    /// Frees all units.
    pub(crate) fn reset(&mut self) {
        let mut bits = self.units;
        for level in &mut self.levels {
            level.fill(0);
            let used = bits % 64;
            if used != 0
                && let Some(last) = level.last_mut()
            {
                *last = u64::MAX << used;
            }
            bits = level.len() as u64;
        }
        self.free = self.units;
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// How many units are free.
    pub(crate) fn free_units(&self) -> u64 {
        self.free
    }

    /// The first free unit at `from` or after it, else the first free one at all; `None` when none is.
    pub(crate) fn next_free(&self, from: u64) -> Option<u64> {
        self.free_at_or_after(from).or_else(|| self.free_at_or_after(0))
    }

    fn free_at_or_after(&self, from: u64) -> Option<u64> {
        let mut bit = from;
        for (depth, level) in self.levels.iter().enumerate() {
            let word = usize::try_from(bit / 64).ok().filter(|&word| word < level.len())?;
            let free = !level[word] & (u64::MAX << (bit % 64));
            if free != 0 {
                let found = word as u64 * 64 + u64::from(free.trailing_zeros());
                return Some(self.descend(depth, found));
            }
            bit = word as u64 + 1;
        }
        None
    }

    /// From a bit of level `depth` known to be clear to the first free unit below it.
    fn descend(&self, depth: usize, bit: u64) -> u64 {
        self.levels[..depth].iter().rev().fold(bit, |bit, level| {
            // A clear bit above means that this word has a clear bit.
            bit * 64 + u64::from((!level[bit as usize]).trailing_zeros())
        })
    }

    /// Takes up to `want` units from `start` on, which must be free, as far as they are free in a row; says how many.
    pub(crate) fn take_run(&mut self, start: u64, want: u64) -> u64 {
        let end = start.saturating_add(want).min(self.units);
        let mut at = start;
        while at < end {
            let word = (at / 64) as usize;
            let shift = at % 64;
            let room = (64 - shift).min(end - at);
            // Zero bits from `shift` on; the shifted-in zeroes are cut off by `room`.
            let run = u64::from((self.levels[0][word] >> shift).trailing_zeros()).min(room);
            if run > 0 {
                let mask = (u64::MAX >> (64 - run)) << shift;
                self.levels[0][word] |= mask;
                self.summarize(word);
                at += run;
            }
            if run < room {
                break;
            }
        }
        self.free -= at - start;
        at - start
    }

    fn summarize(&mut self, word: usize) {
        let mut word = word;
        for depth in 1..self.levels.len() {
            if self.levels[depth - 1][word] != u64::MAX {
                return;
            }
            self.levels[depth][word / 64] |= 1 << (word % 64);
            word /= 64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::rng::WorkRng;

    #[test]
    fn agrees_with_a_plain_list_of_flags() {
        let mut rng = WorkRng::new(3);
        for units in [1u64, 2, 63, 64, 65, 100, 4095, 4096, 4097, 20_000] {
            let mut map = FreeMap::new(units).unwrap();
            for _pass in 0..2 {
                let mut taken = vec![false; units as usize];
                while map.free_units() > 0 {
                    let from = rng.below(units);
                    let want = 1 + rng.below(200);
                    let expected = (from..units).chain(0..from).find(|&u| !taken[u as usize]).unwrap();
                    let found = map.next_free(from).unwrap();
                    assert_eq!(found, expected, "from {from} of {units}");
                    let run = taken[found as usize..].iter().take(want as usize).take_while(|t| !**t).count();
                    assert_eq!(map.take_run(found, want), run as u64);
                    taken[found as usize..found as usize + run].fill(true);
                }
                assert!(taken.iter().all(|t| *t));
                assert_eq!(map.next_free(0), None);
                map.reset();
            }
        }
    }
}
