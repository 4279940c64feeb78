//! Every leaf keeps the contract of a leaf queue, in every way that it can be opened.
//!
//! Polling for completions needs a device with polled queues, which the tests in virtual machines have (`tests/src/vm`).

mod common;

use std::path::Path;

use common::{LoopDevice, full_file, open_or_skip, scratch_dir, sparse_file};
use corelane_dma::Backing;
use corelane_drivers::contract::{ContractOptions, ContractReport, SPAN_BYTES, check};
use corelane_drivers::file::{CacheMode, DiscardMode, FileDriver, FileOptions, SqPoll};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_drivers::null::{NullDriver, NullOptions};

/// The seed of the random choices: `CORELANE_SEED`, or the time.
#[allow(clippy::print_stdout)] // For whoever looks into a failure.
fn seed() -> u64 {
    let given = std::env::var("CORELANE_SEED").ok().and_then(|text| text.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = given.unwrap_or_else(now);
    println!("CORELANE_SEED={seed}");
    seed
}

fn options(tags: u32) -> ContractOptions {
    ContractOptions { tags, seed: seed(), keeps_data: true }
}

/// Checks a file opened this way, at depths that are small, usual, and more than the lane's ring holds.
fn check_file(file: &FileOptions) -> ContractReport {
    check_at(file, &[2, 32, 300])
}

fn check_at(file: &FileOptions, depths: &[u32]) -> ContractReport {
    let mut last = ContractReport::default();
    for &tags in depths {
        let factory = || FileDriver::open(file).map(|driver| Box::new(driver) as _);
        last = check(&factory, &options(tags)).unwrap_or_else(|violation| panic!("{file:?}: {violation}"));
        assert!(last.commands > u64::from(tags) * 50);
    }
    last
}

fn unmapping(path: &Path, cache: CacheMode) -> FileOptions {
    FileOptions::new(path).cache(cache).discard(DiscardMode::Unmap)
}

#[test]
fn null_keeps_it() {
    for latency_ns in [0, 100_000] {
        let null = NullOptions { latency_ns, read_zeroes: true, ..NullOptions::default() };
        let factory = || NullDriver::open(&null).map(|driver| Box::new(driver) as _);
        let options = ContractOptions { keeps_data: false, ..options(32) };
        let report = check(&factory, &options).unwrap();
        assert_eq!(report.unsupported, Vec::<&str>::new());
    }
}

#[test]
fn mem_keeps_it() {
    for backing in [Backing::Pages, Backing::Memfd] {
        let mem = MemOptions { size_bytes: SPAN_BYTES as usize, backing };
        let factory = || MemDriver::open(&mem).map(|driver| Box::new(driver) as _);
        let report = check(&factory, &options(32)).unwrap();
        assert_eq!(report.unsupported, Vec::<&str>::new());
    }
}

#[test]
fn a_file_with_holes_keeps_it_in_every_cache_mode() {
    let dir = scratch_dir();
    for cache in CacheMode::ALL {
        let path = sparse_file(&dir, cache.name(), SPAN_BYTES);
        let options = unmapping(&path, cache);
        if open_or_skip(&options).is_some() {
            check_file(&options);
        }
    }
}

#[test]
fn a_direct_file_with_data_keeps_it() {
    let dir = scratch_dir();
    let path = full_file(&dir, "full", SPAN_BYTES as usize);
    let options = unmapping(&path, CacheMode::None);
    if open_or_skip(&options).is_some() {
        check_file(&options);
        check_file(&options.clone().fixed_file(false));
        check_file(&options.discard(DiscardMode::Ignore));
    }
}

#[test]
fn a_file_with_a_submitting_kernel_thread_keeps_it() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "sqpoll", SPAN_BYTES);
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let options = unmapping(&path, cache).sqpoll(Some(SqPoll { idle_ms: 10, cpu: None }));
        if open_or_skip(&options).is_some() {
            check_at(&options, &[32]);
        }
    }
}

#[test]
fn a_loop_device_keeps_it() {
    let dir = scratch_dir();
    for block_bytes in [512, 4096] {
        let file = full_file(&dir, "disk", SPAN_BYTES as usize);
        let Some(device) = LoopDevice::over(&file, block_bytes) else { return };
        for cache in CacheMode::ALL {
            // Durable writes take their time.
            let depths: &[u32] = if cache.write_cache() { &[2, 32, 300] } else { &[16] };
            check_at(&unmapping(&device.path, cache), depths);
        }
    }
}

#[test]
fn a_loop_device_with_a_submitting_kernel_thread_keeps_it() {
    let dir = scratch_dir();
    let file = full_file(&dir, "disk", SPAN_BYTES as usize);
    let Some(device) = LoopDevice::over(&file, 512) else { return };
    check_at(&unmapping(&device.path, CacheMode::None).sqpoll(Some(SqPoll::default())), &[32]);
}
