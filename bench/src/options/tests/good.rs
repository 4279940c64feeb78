//! Command lines that are taken, and what becomes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::{job, parsed, plan};

#[test]
fn defaults_are_fios() {
    let job = job("");
    assert_eq!(job.workload.rw.name(), "read");
    assert_eq!(job.workload.blocks.trim, BlockSizes::Fixed(4096));
    assert_eq!((job.workload.read_percent, job.workload.seed), (50, Some(0x89)));
    assert_eq!((job.workload.size, job.workload.offset), (None, Extent::Bytes(0)));
    assert_eq!((job.num_jobs, job.depth.iodepth, job.depth.low, job.depth.batch_complete_min), (1, 1, 1, 1));
    assert_eq!(
        (job.target.engine, job.target.direct, job.target.invalidate),
        (EngineKind::IoUring, false, true)
    );
    assert_eq!((job.target.sync, job.target.cache), (SyncMode::None, CacheMode::Writeback));
    assert_eq!((job.end, job.pace), (EndSpec::default(), PaceSpec::default()));
    assert_eq!(job.verify, None);
    assert_eq!(job.measure.percentiles, DEFAULT_PERCENTILES);
    assert!(job.measure.slat && job.measure.clat && job.measure.lat);
    assert!(job.measure.clat_percentiles && !job.measure.lat_percentiles && !job.measure.slat_percentiles);
    assert_eq!(job.logs, LogSpec::default());
    assert_eq!(job.file_paths(0), [PathBuf::from("j.0.0")]);
    assert_eq!(plan("--name=j").global, GlobalSpec::default());
}

#[test]
fn no_job_and_no_option_of_one_means_the_built_in_set() {
    assert_eq!(parsed("").unwrap(), Parsed::Default(GlobalSpec::default()));
    let Parsed::Default(global) = parsed("--plot out.svg --output-format=json,normal").unwrap() else {
        panic!()
    };
    assert_eq!(global.plot.as_deref(), Some(Path::new("out.svg")));
    assert_eq!(global.formats, [OutputFormat::Json, OutputFormat::Normal]);
}

#[test]
fn block_sizes() {
    let per = |line: &str| job(line).workload.blocks;
    let fixed = BlockSizes::Fixed;
    let all = |blocks: BlockSizes| PerDirection { read: blocks.clone(), write: blocks.clone(), trim: blocks };
    assert_eq!(per("--bs=8k"), all(fixed(8192)));
    assert_eq!(
        per("--bs=8k,16k"),
        PerDirection { read: fixed(8192), write: fixed(16384), trim: fixed(16384) }
    );
    assert_eq!(per("--bs=8k,"), PerDirection { read: fixed(8192), write: fixed(4096), trim: fixed(4096) });
    assert_eq!(per("--bs=,8k"), PerDirection { read: fixed(4096), write: fixed(8192), trim: fixed(8192) });
    assert_eq!(per("--bs=,8k,"), PerDirection { read: fixed(4096), write: fixed(8192), trim: fixed(4096) });
    assert_eq!(
        per("--bs=4k,8k,16k"),
        PerDirection { read: fixed(4096), write: fixed(8192), trim: fixed(16384) }
    );
    assert_eq!(per("--bs=512-64k"), all(BlockSizes::Range { min: 512, max: 65536 }));
    assert_eq!(per("--bsrange=4k:64k"), all(BlockSizes::Range { min: 4096, max: 65536 }));
    assert_eq!(per("--bsrange=4k-4k"), all(fixed(4096)));
    let split = BlockSizes::Split(vec![(4096, 10), (65536, 50), (32768, 40)]);
    assert_eq!(per("--bssplit=4k/10:64k/50:32k/40"), all(split));
    let thirds = BlockSizes::Split(vec![(4096, 34), (8192, 33), (16384, 33)]);
    let halves = BlockSizes::Split(vec![(1024, 50), (2048, 50)]);
    let mixed = PerDirection { read: thirds, write: halves.clone(), trim: halves };
    assert_eq!(per("--bssplit=4k/:8k/:16k,1k/50:2k"), mixed);
    assert_eq!(per("--blocksize=1k"), all(fixed(1024)));
}

#[test]
fn units_follow_kb_base_wherever_it_stands() {
    assert_eq!(job("--bs=4k --kb_base=1000").workload.blocks.read, BlockSizes::Fixed(4000));
    assert_eq!(job("--kb_base=1000 --bs=4ki").workload.blocks.read, BlockSizes::Fixed(4096));
    assert_eq!(job("--kb_base=1000").workload.blocks.read, BlockSizes::Fixed(4096));
    assert_eq!(job("--kb_base=1000").kb_base, KbBase::Decimal);
}

#[test]
fn amounts_and_times() {
    let taken =
        job("--size=10% --io_size=200% --offset=1m --offset_increment=5% --numjobs=3 --number_ios=1k");
    assert_eq!(taken.workload.size, Some(Extent::Percent(10)));
    assert_eq!(taken.end.io_size, Some(Extent::Percent(200)));
    assert_eq!(taken.workload.offset, Extent::Bytes(1 << 20));
    assert_eq!(taken.workload.offset_increment, Extent::Percent(5));
    assert_eq!((taken.num_jobs, taken.end.number_ios), (3, Some(1024)));
    let taken = job("--runtime=5m --time_based --ramp_time=100ms --startdelay=2");
    assert_eq!(taken.end.runtime, Some(Duration::from_secs(300)));
    assert!(taken.end.time_based);
    assert_eq!(
        (taken.end.ramp_time, taken.start_delay),
        (Duration::from_millis(100), Duration::from_secs(2))
    );
    assert_eq!(job("--timeout=1h").end.runtime, Some(Duration::from_secs(3600)));
}

#[test]
fn directions_and_their_mix() {
    for (word, name) in
        [("readwrite", "rw"), ("randrw", "randrw"), ("trimwrite", "trimwrite"), ("randtrim", "randtrim")]
    {
        assert_eq!(job(&format!("--rw={word}")).workload.rw.name(), name);
        assert_eq!(job(&format!("--readwrite={word}")).workload.rw.name(), name);
    }
    assert_eq!(job("--rw=randrw --rwmixread=70").workload.read_percent, 70);
    assert_eq!(job("--rw=randrw --rwmixread=70 --rwmixwrite=10").workload.read_percent, 90);
    assert_eq!(job("--rw=randrw --rwmixwrite=10 --rwmixread=70").workload.read_percent, 70);
}

#[test]
fn distributions_and_the_random_map() {
    let distribution =
        |text: &str| job(&format!("--rw=randread --random_distribution={text}")).workload.distribution;
    assert_eq!(distribution("random"), Distribution::Uniform);
    assert_eq!(distribution("zipf"), Distribution::Zipf { theta: 1.1, center: None });
    assert_eq!(distribution("zipf:1.2:0.25"), Distribution::Zipf { theta: 1.2, center: Some(0.25) });
    assert_eq!(distribution("pareto:0.3"), Distribution::Pareto { h: 0.3, center: None });
    assert_eq!(
        distribution("normal:20:0.5"),
        Distribution::Normal { deviation_percent: 20.0, center: Some(0.5) }
    );
    for (line, map) in [
        ("--rw=randread", true),
        ("--rw=read", false),
        ("--rw=randread --norandommap", false),
        ("--rw=randread --ba=512", false),
        ("--rw=randread --random_distribution=zipf:1.2", false),
    ] {
        assert_eq!(job(line).workload.uses_random_map(), map, "{line}");
    }
    assert_eq!(job("--randrepeat=0").workload.seed, None);
    assert_eq!(job("--randrepeat=0 --randseed=0x10").workload.seed, Some(16));
}

#[test]
fn cache_modes_and_what_implies_them() {
    for (line, direct, sync, cache) in [
        ("", false, SyncMode::None, CacheMode::Writeback),
        ("--direct=1", true, SyncMode::None, CacheMode::None),
        ("--direct", true, SyncMode::None, CacheMode::None),
        ("--buffered=0", true, SyncMode::None, CacheMode::None),
        ("--direct=1 --buffered=0", true, SyncMode::None, CacheMode::None),
        ("--rw=write --sync=1", false, SyncMode::Sync, CacheMode::Writethrough),
        ("--rw=write --sync=dsync --direct=1", true, SyncMode::Dsync, CacheMode::Directsync),
        ("--cache=none", true, SyncMode::None, CacheMode::None),
        ("--cache=directsync", true, SyncMode::Dsync, CacheMode::Directsync),
        ("--cache=writethrough --rw=write --sync=sync", false, SyncMode::Sync, CacheMode::Writethrough),
        ("--cache=unsafe", false, SyncMode::None, CacheMode::Unsafe),
        ("--cache=unsafe --buffered=1", false, SyncMode::None, CacheMode::Unsafe),
    ] {
        let target = job(line).target;
        assert_eq!((target.direct, target.sync, target.cache), (direct, sync, cache), "{line}");
    }
}

#[test]
fn depths() {
    let taken = job("--iodepth=32 --iodepth_batch=16 --iodepth_batch_complete_min=4 --iodepth_low=8").depth;
    let expected = DepthSpec {
        iodepth: 32,
        batch_submit: Some(16),
        batch_complete_min: 4,
        batch_complete_max: None,
        low: 8,
    };
    assert_eq!(taken, expected);
    let taken = job(
        "--iodepth=32 --iodepth_batch_submit=0 --iodepth_batch_complete=0 --iodepth_batch_complete_max=9",
    );
    assert_eq!(taken.depth.batch_submit, Some(32));
    assert_eq!(
        (taken.depth.batch_complete_min, taken.depth.batch_complete_max, taken.depth.low),
        (0, Some(9), 32)
    );
}

#[test]
fn pace() {
    let taken = job("--rw=rw --rate=1m,500k").pace;
    assert_eq!(
        taken.rate_bytes_per_s,
        PerDirection { read: Some(1 << 20), write: Some(512_000), trim: Some(512_000) }
    );
    assert_eq!(
        job("--rate_iops=,100,").pace.rate_iops,
        PerDirection { read: None, write: Some(100), trim: None }
    );
    assert_eq!(job("--rate=0").pace, PaceSpec::default());
    let think = job("--thinktime=1ms --thinktime_spin=10 --thinktime_blocks=4").pace.think_time;
    let expected = ThinkTime { pause: Duration::from_millis(1), spin: Duration::from_micros(10), blocks: 4 };
    assert_eq!(think, Some(expected));
    let line = "--iodepth=64 --latency_target=500 --latency_window=5s --latency_percentile=99.9";
    let target = LatencyTarget {
        target: Duration::from_micros(500),
        window: Duration::from_secs(5),
        percentile: 99.9,
    };
    assert_eq!(job(line).pace.latency_target, Some(target));
}

#[test]
fn verification() {
    let taken =
        job("--rw=randrw --bs=512-64k --ba=512 --verify=crc32c-intel --verify_fatal=1 --verify_backlog=1k")
            .verify;
    let taken = taken.unwrap();
    assert_eq!((taken.method, taken.fatal, taken.backlog_blocks), (VerifyMethod::Crc32c, true, Some(1024)));
    assert!(taken.do_verify && !taken.only && taken.pattern.is_none());
    let taken = job("--rw=write --verify=pattern --verify_pattern=0xff%o --verify_only").verify.unwrap();
    assert_eq!(taken.pattern.unwrap().offset_fields, [1]);
    assert!(taken.only);
}

#[test]
fn measuring() {
    let taken = job("--percentile_list=99.9:50:99.9 --lat_percentiles=1 --disable_slat=1");
    assert_eq!(taken.measure.percentiles, [50.0, 99.9]);
    assert!(taken.measure.lat_percentiles && !taken.measure.slat && taken.measure.lat);
    let taken = job("--gtod_reduce=1 --write_bw_log --write_iops_log=x --log_avg_msec=500");
    assert!(!taken.measure.slat && !taken.measure.clat && !taken.measure.lat && taken.measure.gtod_reduce);
    assert_eq!(taken.logs.bandwidth.as_deref(), Some("j"));
    assert_eq!((taken.logs.iops.as_deref(), taken.logs.average_ms), (Some("x"), 500));
    let global = plan("--status-interval=500ms --eta=never --output o.txt --minimal --name=j").global;
    assert_eq!(global.status_interval, Some(Duration::from_millis(500)));
    assert_eq!((global.eta, global.formats), (EtaMode::Never, vec![OutputFormat::Terse]));
}

#[test]
fn lanes_and_polling() {
    let taken = job(
        "--cpus_allowed=2-3,0,3 --poll=adaptive --sqthread_poll --sqthread_poll_cpu=1 --direct=1 --hipri",
    );
    assert_eq!(taken.cpus_allowed, Some(CpuSet(vec![0, 2, 3])));
    assert_eq!(taken.target.polling, CompletionPolling::Adaptive { max_ns: 32768 });
    assert_eq!(taken.target.sq_thread, Some(SqThread { cpu: Some(1) }));
    assert!(taken.target.hipri);
    let taken = job("--continue_on_error=io --exitall_on_error");
    assert_eq!(taken.continue_on, ContinueOn { read: true, write: true, verify: false });
    assert!(taken.exit_all_on_error);
}

#[test]
fn file_names() {
    let taken = job(r"--filename=a:/dev/x\:y --directory=d:e");
    assert_eq!(taken.file_paths(1), [PathBuf::from("d/a"), PathBuf::from("/dev/x:y")]);
    let taken = job("--directory=d:e --filename_format=$jobname-$jobnum/$filenum");
    assert_eq!(taken.file_paths(0), [PathBuf::from("d/j-0/0")]);
    assert_eq!(taken.file_paths(1), [PathBuf::from("e/j-1/0")]);
}

#[test]
fn what_was_given_is_kept_in_order() {
    let plan = plan("--rw=randread --time_based=0 --name=a --blocksize=8k --norandommap --bs=16k");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(plan.global.given, [pair("rw", "randread"), pair("time_based", "0")]);
    assert_eq!(plan.jobs[0].given, [pair("bs", "8k"), pair("norandommap", "1"), pair("bs", "16k")]);
    assert_eq!(plan.jobs[0].workload.blocks.read, BlockSizes::Fixed(16384));
}

#[test]
fn texts_are_printed_instead_of_run() {
    let text = |line: &str| match parsed(line).unwrap() {
        Parsed::Help(text) => text,
        other => panic!("{other:?}"),
    };
    let help = text("--help");
    for needle in ["--iodepth_batch", "Verification", "iodepth_batch_submit", "job file"] {
        assert!(help.contains(needle), "{needle} in {help}");
    }
    assert!(text("--version").contains(env!("CARGO_PKG_VERSION")));
    assert!(text("--cmdhelp").contains("random_distribution"));
    assert_eq!(text("--cmdhelp"), text("--cmdhelp=all"));
    let rw = text("--cmdhelp=readwrite");
    assert!(
        rw.contains("alias: readwrite") && rw.contains("default: read\n") && rw.contains("trimwrite"),
        "{rw}"
    );
    assert_eq!(text("--parse-only --name=a --name=b"), "2 jobs: a, b\n");
}

#[test]
fn one_dash_does_and_values_may_stand_apart() {
    let plan = plan("-name a -rw randread --iodepth 4 --size 1g");
    assert_eq!(plan.jobs[0].depth.iodepth, 4);
    assert_eq!(plan.jobs[0].workload.rw.name(), "randread");
}

proptest! {
    #[test]
    fn nothing_panics(args in prop::collection::vec("\\PC{0,20}", 0..6)) {
        // A lone - would wait for standard input.
        prop_assume!(!args.iter().any(|arg| arg == "-"));
        let _ = parse_args(args.into_iter().map(OsString::from));
    }

    #[test]
    fn no_value_of_any_option_panics(index in any::<prop::sample::Index>(), value in "[0-9a-zA-Z:,/%.\"-]{0,12}|\\PC{0,8}") {
        let options: Vec<_> = table::all().collect();
        let option = options[index.index(options.len())];
        let _ = parse_args(["--name=j".to_owned(), format!("--{}={value}", option.name)].map(OsString::from));
    }
}
