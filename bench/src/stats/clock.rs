//! A monotonic clock cheap enough to be read twice per request.
//!
//! On x86-64 with an invariant time-stamp counter a reading is one `rdtsc`; elsewhere it is `clock_gettime`
//! (through the vDSO where there is one). The quanta crate decides which, and calibrates the counter against
//! `CLOCK_MONOTONIC` once per process, which takes up to 200 ms.

/// Bits behind the binary point in the tick length.
const FRACTION_BITS: u32 = 40;

/// Source of ticks. Cloning is cheap; ticks of clones are comparable, also between threads.
#[derive(Clone, Debug)]
pub struct Clock {
    source: quanta::Clock,
    /// Nanoseconds per tick, shifted left by [`FRACTION_BITS`].
    ns_per_tick: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Calibrates on first use in a process (up to 200 ms), then returns at once.
    pub fn new() -> Self {
        let source = quanta::Clock::new();
        let ns_per_tick = source.delta_as_nanos(0, 1 << FRACTION_BITS);
        Clock { source, ns_per_tick }
    }

    /// Now, in ticks of the clock's own length.
    #[inline]
    pub fn raw(&self) -> u64 {
        self.source.raw()
    }

    /// Length of `ticks` in nanoseconds. Off by less than one part in 10^9 from the calibration's result.
    #[inline]
    pub fn ns(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.ns_per_tick)) >> FRACTION_BITS) as u64
    }

    /// Nanoseconds from one reading to a later one; 0 if they are the wrong way round (two cores' counters may
    /// differ by a few ticks).
    #[inline]
    pub fn ns_between(&self, earlier: u64, later: u64) -> u64 {
        self.ns(later.saturating_sub(earlier))
    }

    /// Number of ticks in `ns` nanoseconds, rounded down.
    pub fn ticks(&self, ns: u64) -> u64 {
        ((u128::from(ns) << FRACTION_BITS) / u128::from(self.ns_per_tick.max(1))) as u64
    }
}
