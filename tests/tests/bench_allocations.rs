//! The bench tool's whole path, from its loop to the device, allocates nothing per request: a run of many requests
//! allocates as much as one of few.

use std::ffi::OsString;

use corelane_bench::options::{Parsed, Plan, parse_args};
use corelane_bench::run;
use corelane_tests::Scratch;
use corelane_tests::alloc::{CountingAllocator, calls_of_all_threads};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What the conductor may allocate more in a longer run: a sample of the rates every half second, a block of its
/// channel's list.
const SLACK: u64 = 40;

fn plan(options: &str) -> Plan {
    match parse_args(options.split_whitespace().map(OsString::from)) {
        Ok(Parsed::Run(plan)) => plan,
        other => panic!("{options}: {other:?}"),
    }
}

/// Allocations of a whole run.
fn calls_of(options: &str) -> u64 {
    let plan = plan(options);
    let before = calls_of_all_threads();
    let ended = run::run(&plan).unwrap_or_else(|error| panic!("{options}: {error}"));
    assert!(!ended.failed, "{options}");
    calls_of_all_threads() - before
}

// One test, since the count is of all threads.
#[test]
fn a_request_allocates_nothing() {
    let Some(scratch) = Scratch::new() else { return };
    let (file, report) = (scratch.path().join("f"), scratch.path().join("report"));
    let (file, report) = (file.display(), report.display());
    let kinds = [
        "--rw=randread",
        "--rw=randrw --rwmixread=60",
        "--rw=randwrite --gtod_reduce=1",
        "--rw=randrw --bs=512-8k --ba=512",
        // These take the general loop.
        "--rw=randrw --iodepth_batch=8 --iodepth_batch_complete_max=4 --fsync=64",
        "--rw=randtrimwrite",
    ];
    let file = file.to_string();
    for (engine, file) in [("null", &*file), ("mem", &file), ("io_uring", &file), ("nvme", "model:4m")] {
        for kind in kinds {
            // Discards of a file may take a helper thread, which is no steady state; and parts of the model's blocks of 4 KiB
            // are not written without reading, which is a task.
            if engine == "io_uring" && kind.contains("trim") || engine == "nvme" && kind.contains("ba=512") {
                continue;
            }
            let of = |count: u64| {
                calls_of(&format!(
                    "--name=a --ioengine={engine} --filename={file} --size=4m --io_size=1g --iodepth=16 \
                     --norandommap --number_ios={count} {kind} --output={report} --output-format=json"
                ))
            };
            // The first run lays the file out and fills what is made once in a process.
            of(100);
            let (few, many) = (of(2_000), of(20_000));
            assert!(
                many <= few + SLACK,
                "{engine} {kind}: {few} allocations in 2,000 requests, {many} in 20,000"
            );
        }
    }
}
