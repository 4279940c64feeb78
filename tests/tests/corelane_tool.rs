//! The `corelane` program, against `qemu-img` where there is one.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use corelane_tests::{LoopDevice, Scratch, Seed, foreign_program, own_program, run};
use rand_xoshiro::rand_core::Rng;
use serde_json::Value;

fn corelane(arguments: &[&str], file: &Path) -> Value {
    let printed = run(own_program("corelane").args(arguments).arg("--output=json").arg(file));
    serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"))
}

/// A file of `blocks` blocks of 4 KiB, of which each is data or hole by chance, in runs.
fn sparse_file(scratch: &Scratch, name: &str, seed: Seed, blocks: u64) -> std::path::PathBuf {
    let path = scratch.hole(name, blocks * 4096);
    let file = File::options().write(true).open(&path).unwrap();
    let mut rng = seed.rng();
    let mut at = 0;
    while at < blocks {
        let run_blocks = (1 + rng.next_u64() % 9).min(blocks - at);
        if rng.next_u64().is_multiple_of(2) {
            file.write_all_at(&vec![0xa5; run_blocks as usize * 4096], at * 4096).unwrap();
        }
        at += run_blocks;
    }
    // Delayed allocation may show as data what is not on disk yet, and the other way round.
    file.sync_all().unwrap();
    path
}

#[test]
fn map_agrees_with_qemu_img() {
    if foreign_program("qemu-img").is_none() {
        return;
    }
    let Some(scratch) = Scratch::new() else { return };
    for (nth, seed) in Seed::sequences(20).enumerate() {
        let file = sparse_file(&scratch, &format!("sparse-{nth}"), seed, [0, 1, 2, 256][nth % 4]);
        let theirs = |form: &str| {
            let mut qemu_img = foreign_program("qemu-img").expect("it was there before");
            run(qemu_img.args(["map", "-f", "raw", form]).arg(&file))
        };
        let expected: Value = serde_json::from_str(&theirs("--output=json")).unwrap();
        assert_eq!(corelane(&["map"], &file), expected, "{}", file.display());
        assert_eq!(run(own_program("corelane").arg("map").arg(&file)), theirs("--output=human"));
    }
}

#[test]
fn info_tells_sizes_and_limits_of_a_file() {
    let Some(scratch) = Scratch::new() else { return };
    let file = scratch.hole("disk", 1 << 20);
    File::options().write(true).open(&file).unwrap().write_all_at(&[1; 8192], 4096).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();

    let info = corelane(&["info"], &file);
    assert_eq!(info["driver"], "file");
    assert_eq!(info["cache"], "writeback");
    assert_eq!(info["virtual-size"], 1 << 20);
    let allocated = file.metadata().unwrap().blocks() * 512;
    assert!((8192..1 << 20).contains(&allocated));
    assert_eq!(info["actual-size"], allocated);
    assert_eq!(info["limits"]["request-alignment"], 1);
    assert_eq!(info["io_uring"]["available"], true);

    let shown = run(own_program("corelane").arg("info").arg(&file));
    assert!(
        shown.contains("virtual size: 1 MiB (1048576 bytes)\ndisk size: 8 KiB (8192 bytes)\n"),
        "{shown}"
    );
}

#[test]
fn info_probes_the_limits_of_a_device() {
    let Some(scratch) = Scratch::new() else { return };
    let file = scratch.hole("disk", 8 << 20);
    for block_bytes in [512, 4096] {
        let Some(device) = LoopDevice::attach(&file, block_bytes) else { return };
        let info = corelane(&["info", "--cache=none"], device.path());
        assert_eq!(info["cache"], "none");
        assert_eq!(info["virtual-size"], 8 << 20);
        assert_eq!(info["limits"]["request-alignment"], block_bytes);
    }
}

#[test]
fn what_cannot_be_opened_is_named() {
    let Some(scratch) = Scratch::new() else { return };
    let missing = scratch.path().join("missing");
    for (subcommand, path) in [("info", missing.as_path()), ("map", scratch.path())] {
        let output = own_program("corelane").arg(subcommand).arg(path).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(
            complaint.contains(&path.display().to_string()) && complaint.lines().count() == 1,
            "{complaint}"
        );
        assert!(output.stdout.is_empty());
    }
}
