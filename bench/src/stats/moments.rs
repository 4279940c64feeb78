//! Minimum, maximum, mean and standard deviation of a stream of integers, without a division per sample.
//!
//! Invariant: `sum` and `sum_of_squares` are exact integers. The deviation is taken from their exact difference,
//! so it loses nothing when the spread is small beside the mean, and two halves merged give to the last bit what
//! the whole stream would have given.

/// Running moments of a stream of `u64` samples.
///
/// Exact while the sum of samples stays below 2^64 (for nanoseconds: 584 years of summed latency); beyond that
/// the sum wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    samples: u64,
    min: u64,
    max: u64,
    sum: u64,
    sum_of_squares: u128,
}

impl Default for Moments {
    fn default() -> Self {
        Moments { samples: 0, min: u64::MAX, max: 0, sum: 0, sum_of_squares: 0 }
    }
}

impl Moments {
    /// Adds one sample.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.samples = self.samples.wrapping_add(1);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum = self.sum.wrapping_add(value);
        self.sum_of_squares = self.sum_of_squares.wrapping_add(u128::from(value) * u128::from(value));
    }

    /// Adds all samples of another stream.
    pub fn merge(&mut self, other: &Moments) {
        self.samples = self.samples.wrapping_add(other.samples);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum = self.sum.wrapping_add(other.sum);
        self.sum_of_squares = self.sum_of_squares.wrapping_add(other.sum_of_squares);
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Smallest sample, 0 when there is none.
    pub fn min(&self) -> u64 {
        if self.samples == 0 { 0 } else { self.min }
    }

    /// Largest sample, 0 when there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Sum of all samples.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Mean, 0 when there is no sample.
    pub fn mean(&self) -> f64 {
        if self.samples == 0 { 0.0 } else { self.sum as f64 / self.samples as f64 }
    }

    /// Standard deviation of a sample (divisor N - 1, as fio has it), 0 for fewer than two samples.
    pub fn stddev(&self) -> f64 {
        if self.samples < 2 {
            return 0.0;
        }
        let square_of_sum = u128::from(self.sum) * u128::from(self.sum);
        let count = u128::from(self.samples);
        // Quotient and remainder apart: the difference of the two large sums stays exact, and only the part below
        // one is rounded.
        let whole = self.sum_of_squares.saturating_sub(square_of_sum / count);
        let fraction = (square_of_sum % count) as f64 / count as f64;
        let squared_deviations = (whole as f64 - fraction).max(0.0);
        (squared_deviations / (self.samples - 1) as f64).sqrt()
    }
}
