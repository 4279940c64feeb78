//! `zonemode=zbd` as a person uses it, on the controller in software. The controller refuses every write that is not at its zone's
//! pointer, and every zone that is one too many.

mod common;

use common::{Ran, folder, ios, run};

/// 16 zones of 4 MiB, 3 MiB of which can be written.
const ZONES: &str = "--ioengine=nvme --filename=model:zns:64m:4m:3m --zonemode=zbd --bs=64k --iodepth=8";
/// Blocks of 64 KiB in all of them.
const BLOCKS: u64 = 16 * 48;

#[track_caller]
fn good(line: &str) -> Ran {
    let ran = run(folder().path(), line);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{line}\n{}", ran.out);
    ran
}

#[test]
fn sequential_jobs_write_and_read_what_zones_hold() {
    let report = good(&format!(
        "{ZONES} --output-format=json --name=w --rw=write --name=r --stonewall --rw=read --name=x --stonewall --rw=randread"
    ))
    .json();
    assert_eq!(ios(&report["jobs"][0]), [0, BLOCKS, 0], "{report}");
    assert_eq!(ios(&report["jobs"][1]), [BLOCKS, 0, 0], "{report}");
    assert_eq!(ios(&report["jobs"][2]), [1024, 0, 0], "where there is no data it reads elsewhere");
}

#[test]
fn full_zones_are_reset_and_counted() {
    let ran = good(&format!("{ZONES} --name=w --rw=write --io_size=200%"));
    assert!(ran.out.contains("; 16 zone resets"), "{}", ran.out);
    let ran = good(&format!("{ZONES} --name=w --rw=randwrite --io_size=300% --norandommap"));
    let (_, rest) = ran.out.split_once("; ").expect("resets");
    let resets: u64 = rest.split(' ').next().and_then(|count| count.parse().ok()).expect("a number");
    assert!(resets >= 40, "3 * 1024 blocks, 48 to a zone: {resets}");
    good(&format!("{ZONES} --name=m --rw=randrw --runtime=1 --time_based --bsrange=4k-256k"));
}

#[test]
fn no_more_zones_are_open_than_may_be() {
    let limited = ZONES.replace("4m:3m", "4m:3m:2:3");
    let report = good(&format!("{limited} --name=w --rw=randwrite --output-format=json")).json();
    assert_eq!(ios(&report["jobs"][0]), [0, 1024, 0], "{report}");
    good(&format!("{limited} --name=w --rw=randwrite --max_open_zones=1 --zonesize=4m"));
}

#[test]
fn what_is_written_to_zones_is_verified() {
    for rw in ["write", "randwrite"] {
        let job = format!("--rw={rw} --verify=crc32c --output-format=json");
        let report = good(&format!("{ZONES} --name=v {job} --name=again --stonewall {job}")).json();
        for job in report["jobs"].as_array().expect("jobs") {
            assert_eq!((&job["error"], ios(job)), (&0.into(), [BLOCKS, BLOCKS, 0]), "{report}");
        }
    }
}

#[test]
fn what_does_not_fit_the_zones_is_refused_with_the_reason() {
    let folder = folder();
    let device = "--name=x --ioengine=nvme --filename=model:zns:64m:4m";
    for (line, words) in [
        (format!("{device} --rw=randwrite"), ["zones", "zonemode=zbd"]),
        (format!("{device} --rw=write"), ["zones", "zonemode=zbd"]),
        (format!("{device} --rw=randtrim"), ["zones", "zonemode=zbd"]),
        (format!("{device} --rw=write --zonemode=zbd --zonesize=2m"), ["zonesize=2097152", "4194304"]),
        (format!("{device} --rw=write --zonemode=zbd --size=6m"), ["whole zones", "4194304"]),
        (format!("{device} --rw=write --zonemode=zbd --bs=6k"), ["6144", "4096"]),
        (format!("{device} --rw=write --zonemode=zbd --numjobs=2"), ["same time", "numjobs=1"]),
        (format!("{device} --rw=read --zonemode=zbd"), ["none of its zones", "write"]),
        (format!("{device} --rw=write --zonemode=zbd --verify=md5 --bsrange=4k-8k"), ["verify", "one bs"]),
        (
            "--name=x --ioengine=nvme --filename=model:8m --rw=write --zonemode=zbd".into(),
            ["no zones", "zonemode"],
        ),
    ] {
        let ran = run(folder.path(), &line);
        assert_eq!(ran.code, Some(1), "{line}: {}", ran.err);
        assert!(words.iter().all(|word| ran.err.contains(word)), "{line}: {}", ran.err);
    }
    for (line, word) in [
        ("--name=x --size=8m --zonemode=zbd", "ioengine=nvme"),
        ("--name=x --ioengine=nvme --filename=model:8m --rw=trim --zonemode=zbd", "not trimmed"),
        (
            "--name=x --ioengine=nvme --filename=model:8m --rw=write --verify=md5 --verify_only --zonemode=zbd",
            "verify_only",
        ),
    ] {
        let ran = run(folder.path(), line);
        assert!(ran.code == Some(2) && ran.err.contains(word), "{line}: {}", ran.err);
    }
    let reads = run(folder.path(), &format!("{device} --rw=randread --bs=64k"));
    assert_eq!((reads.code, reads.err.as_str()), (Some(0), ""), "reads need no zonemode");
}
