//! See `corelane_fuzz::zone_reports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| corelane_fuzz::zone_reports(input));
