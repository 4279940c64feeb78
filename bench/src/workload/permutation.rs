//! Visits `0..n` in random order, each number exactly once a pass, without a map in memory.
//!
//! A counter runs over `0..2^k`, the smallest power of two that holds `n`; each value goes through bijections of
//! `0..2^k` (odd multiplication, addition, xor with a right shift), and results of `n` or more are skipped. A
//! composition of bijections is one, so a pass meets each number once. Fewer than half of the values are skipped:
//! below two steps on average.
//!
//! Invariant: the keys change only when the counter has run its full course.

use super::rng::WorkRng;

/// The order of visits, with its position.
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    counter: u64,
    last: u64,
    len: u64,
    multiply: [u64; 3],
    add: u64,
    shift: u32,
}

impl Permutation {
    /// Of `0..len`, `len` from 1 to 2^63.
    pub(crate) fn new(len: u64, rng: &mut WorkRng) -> Self {
        let last = len.next_power_of_two() - 1;
        let bits = last.count_ones();
        let mut new =
            Self { counter: 0, last, len, multiply: [1; 3], add: 0, shift: bits.div_ceil(2).max(1) };
        new.rekey(rng);
        new
    }

    #[cold]
    #[inline(never)]
    fn rekey(&mut self, rng: &mut WorkRng) {
        self.multiply = [rng.bits() | 1, rng.bits() | 1, rng.bits() | 1];
        self.add = rng.bits();
        self.counter = 0;
    }

    #[inline]
    fn scramble(&self, value: u64) -> u64 {
        let value = value.wrapping_mul(self.multiply[0]).wrapping_add(self.add) & self.last;
        let value = (value ^ (value >> self.shift)).wrapping_mul(self.multiply[1]) & self.last;
        let value = (value ^ (value >> self.shift)).wrapping_mul(self.multiply[2]) & self.last;
        value ^ (value >> self.shift)
    }

    /// The next number; after the last of a pass, the first of the next, in a new order drawn from `rng`.
    #[inline]
    pub(crate) fn next(&mut self, rng: &mut WorkRng) -> u64 {
        loop {
            if self.counter > self.last {
                self.rekey(rng);
            }
            let value = self.scramble(self.counter);
            self.counter += 1;
            if value < self.len {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once_a_pass() {
        let mut rng = WorkRng::new(1);
        for len in (1..70).chain([127, 128, 129, 1000, 4096, 65_537]) {
            let mut order = Permutation::new(len, &mut rng);
            for pass in 0..3 {
                let mut seen = vec![false; len as usize];
                for _ in 0..len {
                    let at = order.next(&mut rng) as usize;
                    assert!(!seen[at], "{at} of {len} twice in pass {pass}");
                    seen[at] = true;
                }
            }
        }
    }

    #[test]
    fn passes_differ_and_no_order_shows() {
        let mut rng = WorkRng::new(2);
        let len = 1u64 << 16;
        let mut order = Permutation::new(len, &mut rng);
        let first: Vec<u64> = (0..len).map(|_| order.next(&mut rng)).collect();
        let second: Vec<u64> = (0..len).map(|_| order.next(&mut rng)).collect();
        assert!(first.iter().zip(&second).filter(|(a, b)| a == b).count() < 32);
        // Successive numbers must look independent: 16 x 16 cells of (this, next), 255 degrees of freedom.
        for pass in [first, second] {
            let mut cells = [0u32; 256];
            for pair in pass.windows(2) {
                cells[(pair[0] >> 12 << 4 | pair[1] >> 12) as usize] += 1;
            }
            let expected = (len - 1) as f64 / 256.0;
            let chi2: f64 = cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            assert!(chi2 < 400.0, "chi-square {chi2} of 255 degrees of freedom");
        }
    }
}
