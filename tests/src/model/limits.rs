//! Random limits that are at least as strict as a device's own.

use corelane_engine::block::BlockLimits;
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

/// Limits that a device with the limits `floor` can keep to.
pub fn random_limits(rng: &mut Rng, floor: &BlockLimits) -> BlockLimits {
    let most = [floor.max_transfer.into(), floor.max_pdiscard, floor.max_pwrite_zeroes];
    let most_align = most.into_iter().filter(|most| *most != 0).map(u64::ilog2).fold(16, u32::min);
    let align = (1u32 << rng.random_range(0..=most_align)).max(floor.request_alignment);
    let max_transfer = if rng.random_bool(0.3) { 0 } else { align * rng.random_range(1..=24) };
    let mem = (1u32 << rng.random_range(0..=12)).max(floor.min_mem_alignment);
    let zeroes = unit(align * rng.random_range(1..=4), align, floor.max_pwrite_zeroes);
    let discard = unit(align * rng.random_range(1..=4), align, floor.max_pdiscard);
    let max_pdiscard = if rng.random_bool(0.5) { 0 } else { u64::from(discard) * rng.random_range(1..=8) };
    let max_pwrite_zeroes =
        if rng.random_bool(0.5) { 0 } else { u64::from(zeroes) * rng.random_range(1..=8) };
    BlockLimits {
        request_alignment: align,
        // Not longer than the device's own, which fits into 32 bits.
        max_transfer: strictest(max_transfer.into(), floor.max_transfer.into(), align) as u32,
        opt_transfer: 0,
        max_iov: strictest(rng.random_range(1..=16), floor.max_iov.into(), 1) as u32,
        min_mem_alignment: mem,
        opt_mem_alignment: mem.max(4096),
        max_pdiscard: strictest(max_pdiscard, floor.max_pdiscard, discard),
        pdiscard_alignment: discard,
        max_pwrite_zeroes: strictest(max_pwrite_zeroes, floor.max_pwrite_zeroes, zeroes),
        pwrite_zeroes_alignment: zeroes,
        max_hw_transfer: 0,
        max_hw_iov: 0,
        zoned: None,
    }
}

/// An alignment that some request of a device with the limit `most` (0 for none) can have.
fn unit(random: u32, align: u32, most: u64) -> u32 {
    if most != 0 && u64::from(random) > most { align } else { random }
}

/// The smaller of two limits, of which 0 is none, as a multiple of `unit`.
fn strictest(one: u64, other: u64, unit: u32) -> u64 {
    let smaller = match (one, other) {
        (0, limit) | (limit, 0) => limit,
        (one, other) => one.min(other),
    };
    smaller / u64::from(unit) * u64::from(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn they_are_valid_and_at_least_as_strict() {
        let floor = BlockLimits {
            request_alignment: 512,
            max_transfer: 8192,
            max_iov: 3,
            max_pdiscard: 9 * 512,
            max_pwrite_zeroes: 1024,
            ..BlockLimits::default()
        };
        for seed in Seed::sequences(200) {
            let mut rng = seed.rng();
            let limits = random_limits(&mut rng, &floor);
            limits.validate().unwrap();
            assert!((1..=8192).contains(&limits.max_transfer) && (1..=3).contains(&limits.max_iov));
            assert!((1..=9 * 512).contains(&limits.max_pdiscard), "{limits:?}");
            assert!((1..=1024).contains(&limits.max_pwrite_zeroes), "{limits:?}");
            let free = BlockLimits { request_alignment: 512, ..BlockLimits::default() };
            random_limits(&mut rng, &free).validate().unwrap();
        }
    }
}
