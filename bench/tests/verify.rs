//! Verification: nothing wrong is reported where nothing is wrong, and what is wrong is found and named.

mod common;

use std::os::unix::fs::FileExt;

use common::{flip, folder, ios, job, run};

#[test]
fn clones_that_share_a_file_verify_each_their_own() {
    let folder = folder();
    let base = "--name=v --filename=shared --size=16m --rw=randrw --bs=512-64k --ba=512 --iodepth=16 --numjobs=2 --direct=1 --group_reporting";
    for method in ["crc32c", "md5", "sha256", "xxhash"] {
        let options = format!("{base} --verify={method}");
        let done = job(folder.path(), &options);
        assert!(ios(&done)[1] > 100, "{}", done["write"]);
        job(folder.path(), &format!("{options} --verify_only=1"));
    }
}

#[test]
fn every_workload_that_writes_verifies() {
    let folder = folder();
    let pattern = "--verify=pattern --verify_pattern=0xdeadbeef";
    for rw in ["write", "randwrite", "rw", "randrw", "trimwrite", "randtrimwrite"] {
        for verify in ["--verify=crc32c", pattern, "--verify=crc32c --verify_backlog=16"] {
            for engine in ["mem", "io_uring"] {
                let options = format!(
                    "--name=w --filename=w-{engine} --ioengine={engine} --rw={rw} --bs=1k-8k --size=2m --iodepth=8 {verify}"
                );
                job(folder.path(), &options);
            }
        }
    }
}

#[test]
fn a_changed_byte_is_found_and_named() {
    let folder = folder();
    let path = folder.path().join("f");
    let options = "--name=c --filename=f --rw=write --bs=4k --size=1m --iodepth=8 --verify=crc32c";
    job(folder.path(), options);
    // In a header, at the start and at the end of a payload, in the last block.
    for offset in [8192 + 20, 40_960 + 96, 49_151, (1 << 20) - 1] {
        flip(&path, offset);
        let ran = run(folder.path(), &format!("{options} --verify_only=1 --output-format=json"));
        flip(&path, offset);
        assert_eq!(ran.code, Some(1), "{offset}: {}", ran.err);
        assert!(ran.err.contains(&format!("offset {}", offset / 4096 * 4096)), "{offset}: {}", ran.err);
        assert!(
            ran.err.contains(&format!("file offset {offset} ")) && ran.err.contains("'f'"),
            "{offset}: {}",
            ran.err
        );
        assert_ne!(ran.json()["jobs"][0]["error"], 0);
    }
    job(folder.path(), &format!("{options} --verify_only=1"));
}

#[test]
fn a_changed_byte_is_found_after_random_writes_of_mixed_sizes() {
    let folder = folder();
    let path = folder.path().join("f");
    let options = "--name=c --filename=f --rw=randwrite --bs=512-16k --ba=512 --size=1m --io_size=4m --iodepth=8 --verify=xxhash";
    job(folder.path(), options);
    // So much was written that nearly every byte was; at least one of these is in a block of this run.
    let found = [100_000, 300_001, 500_002, 700_003].into_iter().filter(|&offset| {
        flip(&path, offset);
        let ran = run(folder.path(), &format!("{options} --verify_only=1"));
        flip(&path, offset);
        ran.code == Some(1) && ran.err.contains(&format!("file offset {offset} "))
    });
    assert!(found.count() >= 3);
    job(folder.path(), &format!("{options} --verify_only=1"));
}

#[test]
fn verify_fatal_stops_at_the_first_and_otherwise_all_are_named() {
    let folder = folder();
    let path = folder.path().join("f");
    let options = "--name=c --filename=f --rw=write --bs=4k --size=1m --verify=md5";
    job(folder.path(), options);
    for block in [3, 50, 200] {
        flip(&path, block * 4096 + 1000);
    }
    let count = |ran: &common::Ran| ran.err.matches("bad block at").count();
    let all = run(folder.path(), &format!("{options} --verify_only=1"));
    assert_eq!((all.code, count(&all)), (Some(1), 3), "{}", all.err);
    let fatal = run(folder.path(), &format!("{options} --verify_only=1 --verify_fatal=1"));
    assert_eq!((fatal.code, count(&fatal)), (Some(1), 1), "{}", fatal.err);
}

#[test]
fn what_was_never_written_does_not_verify() {
    let folder = folder();
    let options = "--name=c --filename=f --rw=write --bs=4k --size=64k --verify=crc32c";
    let missing = run(folder.path(), &format!("{options} --verify_only=1"));
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("verify_only needs 65536 bytes"), "{}", missing.err);
    assert!(!folder.path().join("f").exists());
    std::fs::write(folder.path().join("f"), vec![7; 65_536]).unwrap();
    let foreign = run(folder.path(), &format!("{options} --verify_only=1"));
    assert_eq!(foreign.code, Some(1));
    assert!(foreign.err.contains("never written"), "{}", foreign.err);
}

#[test]
fn a_run_that_was_cut_short_verifies_as_far_as_it_went() {
    let folder = folder();
    let path = folder.path().join("f");
    let by_number = "--name=c --filename=f --rw=randwrite --bs=4k --size=4m --verify=crc32c --number_ios=300";
    job(folder.path(), by_number);
    let done = job(folder.path(), &format!("{by_number} --verify_only=1"));
    assert_eq!(ios(&done)[0], 300);
    let by_time =
        "--name=c --filename=g --rw=randwrite --bs=4k --size=4m --verify=crc32c --runtime=1 --rate_iops=500";
    job(folder.path(), by_time);
    let done = job(folder.path(), &format!("{by_time} --verify_only=1"));
    assert!((100..1024).contains(&ios(&done)[0]), "{}", done["read"]);
    // Of such a run, too, damage is found. Its blocks are those that start like the others; of 1024, 300 were written.
    let bytes = std::fs::read(&path).unwrap();
    let starts: Vec<&[u8]> = bytes.chunks(4096).map(|block| &block[..8]).collect();
    let likeness = |one: &&[u8]| starts.iter().filter(|other| *other == one && **other != [0; 8]).count();
    let block =
        starts.iter().position(|start| likeness(start) == 300).expect("the run's blocks have a common start");
    flip(&path, block as u64 * 4096 + 2000);
    assert_eq!(run(folder.path(), &format!("{by_number} --verify_only=1")).code, Some(1));
}

#[test]
fn headers_alone_are_written_without_do_verify() {
    let folder = folder();
    let done = job(
        folder.path(),
        "--name=c --filename=f --rw=write --bs=4k --size=64k --verify=crc32c --do_verify=0",
    );
    assert_eq!(ios(&done), [0, 16, 0]);
    let done = job(
        folder.path(),
        "--name=c --filename=f --rw=write --bs=4k --size=64k --verify=crc32c --verify_only=1",
    );
    assert_eq!(ios(&done), [16, 0, 0]);
}

#[test]
fn a_pattern_is_what_the_file_holds() {
    let folder = folder();
    job(
        folder.path(),
        "--name=p --filename=f --rw=write --bs=4k --size=64k --verify=pattern --verify_pattern=0xcafe",
    );
    let file = std::fs::File::open(folder.path().join("f")).unwrap();
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 8192).unwrap();
    assert_eq!(bytes, [0xca, 0xfe, 0xca, 0xfe, 0xca, 0xfe]);
}
