//! See `corelane_fuzz::log_pages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| corelane_fuzz::log_pages(input));
