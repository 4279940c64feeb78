//! The tool does as much as it was told, in every direction and on every engine.

mod common;

use common::{folder, ios, job, number, run};

const MIB: u64 = 1 << 20;

#[test]
fn every_workload_does_exactly_its_size() {
    let folder = folder();
    let cases = [
        ("read", [256, 0, 0]),
        ("randread", [256, 0, 0]),
        ("write", [0, 256, 0]),
        ("randwrite", [0, 256, 0]),
        ("trim", [0, 0, 256]),
        ("randtrim", [0, 0, 256]),
        ("trimwrite", [0, 256, 256]),
        ("randtrimwrite", [0, 256, 256]),
    ];
    for engine in ["null", "mem", "io_uring"] {
        for (rw, expected) in cases {
            let name = format!("{engine}-{rw}");
            let done = job(
                folder.path(),
                &format!("--name={name} --ioengine={engine} --rw={rw} --bs=4k --size=1m --iodepth=4"),
            );
            assert_eq!(ios(&done), expected, "{name}");
            for (direction, count) in ["read", "write", "trim"].into_iter().zip(expected) {
                assert_eq!(number(&done, &format!("{direction}/io_bytes")), count * 4096, "{name}");
            }
        }
        for rw in ["rw", "randrw"] {
            let options = format!(
                "--name=m --ioengine={engine} --rw={rw} --rwmixread=70 --bs=4k --size=4m --iodepth=8"
            );
            let [reads, writes, _] = ios(&job(folder.path(), &options));
            assert_eq!(reads + writes, 1024, "{engine} {rw}");
            assert!((600..830).contains(&reads), "{engine} {rw}: {reads} reads of 1024 at 70 %");
        }
    }
}

#[test]
fn number_ios_and_io_size_are_exact() {
    let folder = folder();
    for engine in ["null", "mem", "io_uring"] {
        for rw in ["randread", "randwrite", "randtrim", "randrw", "randtrimwrite"] {
            let base = format!(
                "--name=n --filename=n-{engine} --ioengine={engine} --rw={rw} --bs=4k --size=4m --iodepth=8"
            );
            let done = ios(&job(folder.path(), &format!("{base} --number_ios=100")));
            assert_eq!(done.iter().sum::<u64>(), 100, "{engine} {rw}");
        }
        let base = format!("--name=n --filename=n-{engine} --ioengine={engine} --rw=read --bs=4k --size=1m");
        let done = job(folder.path(), &format!("{base} --io_size=3m"));
        assert_eq!(number(&done, "read/io_bytes"), 3 * MIB);
        let done = job(folder.path(), &format!("{base} --io_size=50%"));
        assert_eq!(number(&done, "read/io_bytes"), MIB / 2);
    }
}

#[test]
fn clones_files_and_block_sizes_add_up() {
    let folder = folder();
    let done = job(
        folder.path(),
        "--name=c --rw=randwrite --bs=4k --size=1m --numjobs=3 --iodepth=4 --group_reporting",
    );
    assert_eq!(ios(&done), [0, 768, 0]);
    for clone in 0..3 {
        let length = std::fs::metadata(folder.path().join(format!("c.{clone}.0"))).unwrap().len();
        assert_eq!(length, MIB);
    }
    let done = job(folder.path(), "--name=f --filename=a:b --rw=write --bs=4k --size=1m --iodepth=4");
    assert_eq!(ios(&done), [0, 256, 0]);
    for name in ["a", "b"] {
        assert_eq!(std::fs::metadata(folder.path().join(name)).unwrap().len(), MIB / 2, "{name}");
    }
    let done =
        job(folder.path(), "--name=s --ioengine=mem --rw=write --bssplit=4k/50:8k/50 --size=4m --iodepth=4");
    assert_eq!(number(&done, "write/io_bytes"), 4 * MIB);
    let count = ios(&done)[1];
    assert!((513..1024).contains(&count), "{count} writes of 4 and 8 KiB in 4 MiB");
}

#[test]
fn batches_keep_to_their_bounds() {
    let folder = folder();
    let done = job(
        folder.path(),
        "--name=b --ioengine=null --rw=randread --bs=4k --size=16m --iodepth=16 --iodepth_batch=4 \
         --iodepth_batch_complete_min=2 --iodepth_batch_complete_max=4 --iodepth_low=8",
    );
    assert_eq!(ios(&done), [4096, 0, 0]);
    let share = |path: &str| done.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
    assert!(share("/iodepth_submit/4") > 99.0, "{}", done["iodepth_submit"]);
    assert!(share("/iodepth_complete/4") > 99.0, "{}", done["iodepth_complete"]);
    let done = job(
        folder.path(),
        "--name=l --ioengine=mem --rw=randrw --bs=4k --size=1m --iodepth=8 --iodepth_batch_complete_min=0",
    );
    assert_eq!(ios(&done).iter().sum::<u64>(), 256);
}

#[test]
fn flushes_come_after_so_many_writes_and_at_the_end() {
    let folder = folder();
    for (engine, depth) in [("mem", 1), ("mem", 8), ("io_uring", 4)] {
        let base = format!(
            "--name=f --filename=f-{engine} --ioengine={engine} --rw=write --bs=4k --size=400k --iodepth={depth}"
        );
        let done = job(folder.path(), &format!("{base} --fsync=10"));
        assert_eq!((ios(&done)[1], number(&done, "sync/total_ios")), (100, 10), "{engine} {depth}");
    }
    let done = job(folder.path(), "--name=e --rw=write --bs=4k --size=400k --fdatasync=50 --end_fsync=1");
    assert_eq!(number(&done, "sync/total_ios"), 3);
}

#[test]
fn rates_and_pauses_slow_down_as_much_as_they_must() {
    let folder = folder();
    // A limit can only be missed by being slower, so these hold on any machine.
    let done = job(
        folder.path(),
        "--name=r --ioengine=null --rw=randread --bs=4k --size=1m --rate_iops=400 --iodepth=4",
    );
    assert_eq!(ios(&done)[0], 256);
    assert!(
        number(&done, "read/runtime") >= 500,
        "256 requests at 400 a second: {}",
        done["read"]["runtime"]
    );
    let done = job(folder.path(), "--name=r --ioengine=null --rw=randread --bs=4k --size=1m --rate=2m");
    assert!(number(&done, "read/runtime") >= 400, "1 MiB at 2 MiB/s: {}", done["read"]["runtime"]);
    let done = job(
        folder.path(),
        "--name=t --ioengine=null --rw=randread --bs=4k --size=80k --thinktime=20ms --thinktime_blocks=2 --thinktime_spin=1ms",
    );
    assert!(
        number(&done, "read/runtime") >= 9 * 20,
        "ten pauses, one at the end: {}",
        done["read"]["runtime"]
    );
}

#[test]
fn ramp_time_is_left_out_and_runtime_kept() {
    let folder = folder();
    let done = job(
        folder.path(),
        "--name=r --ioengine=null --rw=randread --bs=4k --size=1m --time_based --runtime=1 --ramp_time=500ms \
         --rate_iops=1000",
    );
    let ms = number(&done, "read/runtime");
    assert!((900..1400).contains(&ms), "{ms} ms measured of 1500");
    let count = ios(&done)[0];
    assert!((700..1250).contains(&count), "{count} requests at 1000 a second in the second that counts");
}

#[test]
fn the_search_for_a_latency_ends_with_a_depth() {
    let folder = folder();
    let ran = run(
        folder.path(),
        "--name=l --ioengine=null --rw=randread --bs=4k --size=1m --time_based --runtime=20 --iodepth=8 \
         --latency_target=1s --latency_window=50ms --output-format=json",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let job = ran.json()["jobs"][0].clone();
    assert_eq!(number(&job, "latency_depth"), 8, "a second is enough for any depth");
    assert!(number(&job, "job_runtime") < 15_000);
    let ran = run(
        folder.path(),
        "--name=l --ioengine=mem --rw=randread --bs=1m --size=16m --time_based --runtime=20 --iodepth=8 --latency_target=1us \
         --latency_window=50ms --output-format=json",
    );
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("latency_target"), "{}", ran.err);
}
