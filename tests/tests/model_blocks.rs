//! Files and RAM disks hold what a byte array holds, whatever the requests ([`corelane_tests::model`]).
//!
//! `CORELANE_SEQUENCES` says how many sequences run, `CORELANE_SEED` where they start.

use std::path::Path;
use std::sync::Arc;

use corelane_drivers::file::{CacheMode, FileDriver, FileOptions};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_engine::block::BlockDriver;
use corelane_tests::model::{Sequence, random_limits};
use corelane_tests::{Scratch, Seed, foreign_program, run};
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

fn random_content(rng: &mut Rng) -> Vec<u8> {
    let mut content = vec![0; rng.random_range(1..=1 << 20)];
    rng.fill(&mut content[..]);
    content
}

fn open_file(path: &Path, cache: CacheMode) -> Arc<dyn BlockDriver> {
    Arc::new(FileDriver::open(&FileOptions::new(path).cache(cache)).expect("the file opens"))
}

/// A file may be longer than the device by less than a block, since its last block was written whole.
fn check_with_cmp(path: &Path, model: &Path, length: usize) {
    let Some(mut cmp) = foreign_program("cmp") else { return };
    run(cmp.arg("-n").arg(length.to_string()).arg(path).arg(model));
}

#[test]
fn files_hold_what_a_byte_array_holds() {
    let Some(scratch) = Scratch::new() else { return };
    for seed in Seed::sequences(200) {
        let mut rng = seed.rng();
        let mut content = random_content(&mut rng);
        let mut path = scratch.file("device", &content);
        let cache = *[CacheMode::Writeback, CacheMode::None].choose(&mut rng).expect("not empty");
        let floor = *open_file(&path, cache).limits();
        let limits = random_limits(&mut rng, &floor);
        if limits.request_alignment > floor.request_alignment {
            // Only the driver itself can stand a last block of its own that is not whole.
            content.resize(content.len().next_multiple_of(limits.request_alignment as usize), 0x5a);
            std::fs::remove_file(path).expect("removed");
            path = scratch.file("device", &content);
        }
        let length = content.len();
        let mut sequence = Sequence::new(rng, open_file(&path, cache), limits, content);
        sequence.run_all();
        let model = scratch.file("model", &sequence.finish());
        check_with_cmp(&path, &model, length);
        std::fs::remove_file(path).expect("removed");
        std::fs::remove_file(model).expect("removed");
    }
}

#[test]
fn memory_holds_what_a_byte_array_holds() {
    for seed in Seed::sequences(60) {
        let mut rng = seed.rng();
        // The last block of a RAM disk has to be whole: there is nothing behind it.
        let length = rng.random_range(1..=16) * (1 << 16);
        let driver = MemDriver::open(&MemOptions::new(length)).expect("a RAM disk");
        let limits = random_limits(&mut rng, driver.limits());
        let mut sequence = Sequence::new(rng, Arc::new(driver), limits, vec![0; length]);
        sequence.run_all();
        sequence.finish();
    }
}
