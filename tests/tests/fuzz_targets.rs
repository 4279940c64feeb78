//! The fuzz targets (`tests/fuzz`) with random inputs, so that they are tried where there is no cargo-fuzz, too.
//!
//! `CORELANE_FUZZ_INPUTS` says how many inputs each target gets; 500 unless told otherwise.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use corelane_tests::Seed;
use rand::prelude::*;

/// Random bytes, most of them small numbers or all ones, as fields are.
fn input(rng: &mut impl Rng) -> Vec<u8> {
    let len = rng.random_range(0..400);
    let kind = rng.random_range(0..3);
    let byte = |rng: &mut dyn Rng| match (kind, rng.random_range(0..4)) {
        (0, _) | (1, 0) => rng.random(),
        (_, 1) => 0xFF,
        (_, 2) => 1 << rng.random_range(0..8),
        _ => rng.random_range(0..20),
    };
    (0..len).map(|_| byte(rng)).collect()
}

fn run(target: fn(&[u8])) {
    let count = std::env::var("CORELANE_FUZZ_INPUTS").map_or(500, |text| {
        text.parse().unwrap_or_else(|_| panic!("CORELANE_FUZZ_INPUTS is '{text}', but must be a number"))
    });
    for seed in Seed::sequences(1) {
        let mut rng = seed.rng();
        for _ in 0..count {
            target(&input(&mut rng));
        }
    }
}

#[test]
fn completion_entries() {
    run(targets::completions);
}

#[test]
fn identify_data() {
    run(targets::identify);
}

#[test]
fn zone_reports() {
    run(targets::zone_reports);
}

#[test]
fn log_pages() {
    run(targets::log_pages);
}
