//! Which options hold for which jobs, and which groups the jobs are in.

use super::super::*;
use super::plan;

#[test]
fn options_before_the_first_name_hold_for_all() {
    let plan =
        plan("--bs=8k --iodepth=4 --name=a --bs=16k --name=b --rw=write --name=global --bs=1k --name=c");
    let shown: Vec<_> = plan
        .jobs
        .iter()
        .map(|job| {
            (
                job.name.as_str(),
                job.workload.blocks.read.min_bytes(),
                job.depth.iodepth,
                job.workload.rw.name(),
            )
        })
        .collect();
    assert_eq!(shown, [("a", 16384, 4, "read"), ("b", 8192, 4, "write"), ("c", 1024, 4, "read")]);
}

#[test]
fn a_section_overrides_what_it_would_contradict_within_itself() {
    let job = |line: &str| plan(line).jobs.remove(0);
    assert_eq!(job("--bsrange=1k-4k --name=a --bs=8k").workload.blocks.read, BlockSizes::Fixed(8192));
    assert_eq!(job("--bs=8k --name=a --bssplit=1k/:2k/").workload.blocks.write.max_bytes(), 2048);
    let mixed = job("--bssplit=1k/:2k/ --name=a --bs=8k,").workload.blocks;
    assert_eq!((mixed.read.max_bytes(), mixed.write.max_bytes()), (8192, 2048));
    assert!(!job("--direct=1 --name=a --buffered=1").target.direct);
    assert!(job("--buffered=1 --name=a --direct=1").target.direct);
    assert_eq!(job("--cache=unsafe --name=a --direct=1").target.cache, CacheMode::None);
    assert_eq!(job("--direct=1 --name=a --cache=writeback").target.cache, CacheMode::Writeback);
    assert!(!job("--direct=1 --name=a --cache=unsafe").target.direct);
    assert_eq!(job("--cache=directsync --name=a --direct=0").target.cache, CacheMode::Writethrough);
    assert_eq!(job("--rate=1m, --name=a --rate=,2m").pace.rate_bytes_per_s.read, Some(1 << 20));
}

#[test]
fn options_for_all_jobs_may_be_of_no_use_to_some() {
    let plan =
        plan("--rwmixread=70 --fsync=8 --direct=1 --name=a --name=b --ioengine=null --size=1m --rw=randrw");
    assert_eq!(plan.jobs[1].workload.read_percent, 70);
}

#[test]
fn groups() {
    let plan = plan("--name=a --numjobs=2 --name=b --name=c --new_group --name=d --stonewall --name=e");
    let shown: Vec<_> = plan.jobs.iter().map(|job| (job.group_id, job.wait_for_previous)).collect();
    assert_eq!(shown, [(0, false), (0, false), (1, false), (2, true), (2, false)]);
    let first = super::plan("--name=a --stonewall=1 --name=b --wait_for_previous=0");
    assert_eq!(first.jobs.iter().map(|job| job.group_id).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn sections_are_picked() {
    let plan = plan("--section=b --section=c --name=a --name=b --name=c");
    assert_eq!(plan.jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}
