//! Command lines that are refused, and what the refusal says.

use super::super::{OptionError, parse_args};
use super::{parsed, refusal};

/// A line, and words that the refusal must have: what is wrong, with which value, what would be right.
#[track_caller]
fn check(cases: &[(&str, &[&str])]) {
    for (line, needles) in cases {
        let message = refusal(line);
        for needle in *needles {
            assert!(message.contains(needle), "{line}: {message:?} lacks {needle:?}");
        }
    }
}

#[test]
fn values_out_of_range_or_form() {
    check(&[
        ("--bs=0", &["bs=0", "1 byte", "command line"]),
        ("--bs=4x", &["bs=4x", "no unit of size", "4k"]),
        ("--bs=16384p", &["64 bits"]),
        ("--bs=2g", &["1 GiB"]),
        ("--bs=1k,2k,3k,4k", &["more than three values"]),
        ("--bs=,", &["no value is given"]),
        ("--bs=", &["bs=", "empty"]),
        ("--bsrange=64k-4k", &["64k", "4k", "4k-64k, is right"]),
        ("--bsrange=4k", &["no range", "4k-64k"]),
        ("--bssplit=4k/50:8k/60", &["add up to 110", "100 is right"]),
        ("--bssplit=4k/50:8k/40", &["add up to 90"]),
        ("--bssplit=4k/99:8k:16k", &["leave 1 for 2"]),
        ("--bssplit=4k/0:8k/100", &["0 is no percentage"]),
        ("--plids=3-1", &["3-1", "0,4-6"]),
        ("--plids=0-16", &["up to 16"]),
        ("--fdp_pli=x", &["x is no number"]),
        ("--dataplacement=streams", &["dataplacement=streams", "fdp"]),
        ("--plid_select=random", &["plid_select=random", "roundrobin"]),
        ("--iodepth=0", &["iodepth=0", "1 to 32736 is right"]),
        ("--iodepth=32737", &["iodepth=32737", "1 to 32736"]),
        ("--iodepth=99999999999999999999", &["64 bits"]),
        ("--numjobs=0", &["1 to 4096"]),
        ("--rw=randrw --rwmixread=101", &["rwmixread=101", "0 to 100"]),
        ("--rw=sideways", &["rw=sideways", "randread"]),
        ("--rw=randread:8", &["rw=randread:8", "modifier :8", "randread is right"]),
        ("--size=0", &["at least 1"]),
        ("--size=101%", &["1% to 100%"]),
        ("--size=5z", &["zones"]),
        ("--runtime=1.5s", &["runtime=1.5s", "30s"]),
        ("--runtime=-1", &["whole number"]),
        ("--direct=2", &["direct=2", "0 or 1"]),
        ("--ioengine=libaio", &["ioengine=libaio", "io_uring, null, mem"]),
        ("--verify=crc64", &["crc64", "crc32c"]),
        ("--verify_pattern=zz", &["zz is no pattern", "0xdeadbeef"]),
        ("--random_distribution=zipf:1", &["theta is 1"]),
        ("--random_distribution=zipf:nan", &["nan is no number"]),
        ("--random_distribution=pareto:1.5", &["between 0 and 1"]),
        ("--rw=randread --ba=2g", &["ba=2g", "1 to 1073741824"]),
        ("--random_distribution=normal:0", &["deviation is 0"]),
        ("--random_distribution=normal", &["deviation is missing"]),
        ("--random_distribution=normal:20:2", &["centre is 2"]),
        ("--random_distribution=zoned:50/5:50/95", &["random, zipf"]),
        ("--percentile_list=0", &["above 0 up to 100"]),
        ("--percentile_list=1:2:3:4:5:6:7:8:9:10:11:12:13:14:15:16:17:18:19:20:21", &["21", "at most 20"]),
        ("--cpus_allowed=3-2", &["3-2 is empty", "2-3 is right"]),
        ("--cpus_allowed=0,x", &["x is no CPU"]),
        ("--cpus_allowed=0,1000-1024", &["1024 is no CPU", "0 to 1023"]),
        ("--cpus_allowed=0-4294967295", &["4294967295 is no CPU"]),
        ("--filename=a::b", &["a name is empty"]),
        ("--filename=-", &["standard input"]),
        ("--output-format=xml", &["xml is no format", "json+"]),
        ("--terse-version=4", &["terse-version=4", "one of 3"]),
        ("--eta-interval=100ms", &["at least 250ms"]),
        ("--plot=x.png", &[".svg or .html"]),
        ("--kb_base=1023", &["1024, 1000"]),
        ("--poll=often", &["interrupt, adaptive, busy"]),
    ]);
}

#[test]
fn contradictions() {
    check(&[
        ("--direct=1 --buffered=1", &["direct=1 and buffered=1", "alone is right"]),
        ("--direct=0 --cache=none", &["cache=none and direct=0"]),
        ("--cache=writeback --rw=write --sync=1", &["cache=writeback and sync=1"]),
        ("--size=4k --bs=64k", &["64k", "size=4k", "size=64k at least"]),
        ("--size=4k --bs=512-8k", &["8k"]),
        ("--bs=4k --bsrange=4k-8k", &["bs=4k and bsrange=4k-8k"]),
        ("--iodepth=8 --iodepth_batch=16", &["iodepth_batch=16 is more than iodepth=8"]),
        ("--iodepth_low=2", &["iodepth_low=2", "iodepth=1 (the default)"]),
        (
            "--iodepth=8 --iodepth_batch_complete_min=4 --iodepth_batch_complete_max=2",
            &["iodepth_batch_complete_min=4", "iodepth_batch_complete_max=2"],
        ),
        ("--rate=1m --rate_iops=10", &["rate=1m", "rate_iops=10"]),
        ("--time_based", &["without runtime", "runtime=30s"]),
        ("--thinktime=10 --thinktime_spin=20", &["thinktime_spin=20", "thinktime=10"]),
        ("--iodepth=8 --latency_target=10", &["latency_window=5s"]),
        ("--latency_target=10 --latency_window=1s", &["leaves no depth"]),
        ("--iodepth=8 --latency_target=10 --latency_window=1s --gtod_reduce=1", &["takes no latency"]),
        ("--verify=crc32c", &["verify=crc32c", "rw=read (the default)", "verify_only"]),
        ("--verify=crc32c --rw=write --ioengine=null --size=1m", &["ioengine=null", "io_uring"]),
        ("--verify=pattern --rw=write", &["verify_pattern=0x"]),
        ("--verify=md5 --rw=write --verify_only --time_based --runtime=1", &["verify_only with time_based"]),
        ("--verify=md5 --rw=write --verify_only --do_verify=0", &["do_verify=0"]),
        ("--ioengine=null", &["ioengine=null", "size=1g"]),
        ("--ioengine=mem --size=10%", &["ioengine=mem", "size=10%"]),
        ("--hipri", &["hipri=1", "direct=1"]),
        ("--thread=0", &["thread=0", "thread=1"]),
        ("--offset=8191p --size=8192p", &["8 EiB"]),
        ("--offset_increment=8191p --numjobs=4096", &["8 EiB"]),
        ("--filesize=1m --size=2m", &["2m", "filesize=1m", "io_size"]),
        ("--readonly --rw=randrw", &["rw=randrw", "--readonly"]),
        ("--minimal --output-format=json", &["output-format=json"]),
        ("--section=x", &["--section=x", "there are: j"]),
    ]);
}

#[test]
fn options_without_effect_are_noted() {
    let cases: &[(&str, &[&str])] = &[
        ("--rwmixread=70", &["rwmixread=70 has no effect", "rw=randrw"]),
        ("--norandommap", &["norandommap=1", "random offsets"]),
        ("--rw=write --bs=512-64k --ba=512", &["ba=512", "random offsets"]),
        ("--fsync=8", &["fsync=8", "writes"]),
        ("--thinktime_blocks=4", &["thinktime=TIME"]),
        ("--latency_window=4s", &["latency_target"]),
        ("--verify_only", &["verify=METHOD"]),
        ("--verify=md5 --rw=write --do_verify=0 --verify_fatal=1", &["do_verify=1"]),
        ("--sqthread_poll_cpu=1", &["sqthread_poll=1"]),
        ("--poll_max_ns=1000", &["poll=adaptive"]),
        ("--log_avg_msec=100", &["write_bw_log"]),
        ("--lat_percentiles=1 --gtod_reduce=1", &["lat_percentiles=1", "gtod_reduce"]),
        ("--ioengine=null --size=1m --direct=1", &["direct=1", "ioengine=io_uring"]),
        ("--rw=write --sync=sync", &["sync=sync makes each write wait as sync=dsync does"]),
        ("--rw=randrw --sync=1", &["sync=1 makes each write wait"]),
    ];
    for (line, words) in cases {
        let notes = super::job(line).notes.join("\n");
        for word in *words {
            assert!(notes.contains(word), "{line}: {notes:?} should name {word}");
        }
    }
    // Saying what holds anyway is no mistake.
    let plain = super::job("--rwmixread=50 --norandommap=0 --fsync=0 --do_verify=1 --direct=0");
    assert_eq!(plain.notes, Vec::<String>::new());
    assert_eq!(super::job("--rw=write --sync=dsync").notes, Vec::<String>::new());
}

#[test]
fn unknown_names() {
    check(&[
        ("--iodpeth=3", &["no option iodpeth", "did you mean iodepth?"]),
        ("--quux=1", &["no option quux", "--cmdhelp"]),
        ("--nrfiles=4", &["fio has nrfiles, corelane-bench has not", "nearest: filename"]),
        ("--zoneskip=4m", &["fio has zoneskip", "zonemode=zbd"]),
        ("--client=host", &["fio has client", "network"]),
        ("--cmdhelp=loops", &["fio has loops", "time_based"]),
        ("--bs", &["--bs"]),
        ("--size -1", &["-1"]),
        ("--direct 1", &["job file 1", "--direct=1"]),
    ]);
    for line in ["--rw=read", "--name=global --rw=read"] {
        let message = parsed(line).unwrap_err().to_string();
        assert!(message.contains("no job is defined") && message.contains("--name=NAME"), "{message}");
    }
    assert!(parsed("--name=").unwrap_err().to_string().contains("empty"));
}

#[test]
fn every_name_only_fio_has_is_refused_by_name() {
    for name in super::super::fio_names::all() {
        for arg in [format!("--{name}=1"), format!("--{name}")] {
            let error = parse_args([arg.clone().into()]).unwrap_err();
            assert!(matches!(error, OptionError::OnlyInFio { .. }), "{arg}: {error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn arguments_must_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let argument = std::ffi::OsString::from_vec(b"--filename=\xff".to_vec());
    assert!(matches!(parse_args([argument]), Err(OptionError::NotUtf8 { .. })));
}
