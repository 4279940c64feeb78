//! The tool as a person uses it: job files, output, signals, mistakes.

mod common;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Ran, folder, ios, job, number, run, tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[test]
fn job_files_with_several_jobs_run_in_their_order() {
    let folder = folder();
    let mut file = std::fs::File::create(folder.path().join("jobs.fio")).unwrap();
    write!(
        file,
        "[global]\nioengine=io_uring\nfilename=data\nsize=1m\nbs=4k\n\n[fill]\nrw=write\n\n[read]\nstonewall\nrw=randread\n\
         iodepth=4\nnumjobs=2\n\n[beside]\nioengine=null\nrw=randread\nfilename=other\nsize=2m\n"
    )
    .unwrap();
    let ran = run(folder.path(), "jobs.fio --output-format=json");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report = ran.json();
    let jobs: Vec<(String, u64, [u64; 3])> = report["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["jobname"].as_str().unwrap().to_owned(), number(job, "groupid"), ios(job)))
        .collect();
    let expected = [
        ("fill", 0, [0, 256, 0]),
        ("read", 1, [256, 0, 0]),
        ("read", 1, [256, 0, 0]),
        ("beside", 1, [512, 0, 0]),
    ]
    .map(|(name, group, ios)| (name.to_owned(), group, ios));
    assert_eq!(jobs, expected);
    assert_eq!(report["global options"]["size"], "1m");
}

#[test]
fn a_signal_ends_the_run_with_its_report() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let folder = folder();
        let words = "--name=s --filename=f --rw=randrw --bs=4k --size=4m --time_based --runtime=60 --iodepth=4 --numjobs=2 --output-format=json";
        let child = tool(folder.path())
            .args(words.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(700));
        let before = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ran = Ran::from(&child.wait_with_output().unwrap());
        assert!(before.elapsed() < Duration::from_secs(20));
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        let report = ran.json();
        let jobs = report["jobs"].as_array().unwrap();
        assert_eq!(jobs.len(), 2);
        assert!(jobs.iter().all(|job| ios(job)[0] > 0 && job["error"] == 0), "{report}");
    }
}

#[test]
fn mistakes_in_the_options_end_with_two_and_one_message() {
    let folder = folder();
    for (options, word) in [
        ("--name=x --rw=randreed", "rw=randreed"),
        ("--name=x --rw=read --nosuchoption=1", "nosuchoption"),
        ("--name=x --rw=read --bs=banana --size=1m", "bs=banana"),
        ("--name=x --rw=read --ioengine=libaio --size=1m", "ioengine=libaio"),
        ("nowhere.fio", "nowhere.fio"),
    ] {
        let ran = run(folder.path(), options);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{options}: {}", ran.err);
        assert!(ran.err.starts_with("corelane-bench: ") && ran.err.contains(word), "{options}: {}", ran.err);
        assert_eq!(ran.err.trim_end().lines().count(), 1, "{options}: {}", ran.err);
    }
}

#[test]
fn what_cannot_be_done_ends_with_one_and_says_why() {
    let folder = folder();
    for (options, word) in [
        ("--name=x --rw=read --filename=missing", "give size="),
        ("--name=x --rw=read --filename=no/such/folder/f --size=1m", "directory must exist"),
        ("--name=x --rw=read --filename=. --size=1m", "regular files and block devices"),
        ("--name=x --rw=read --ioengine=null --size=1m --cpus_allowed=1000", "cpus_allowed=1000"),
        ("--name=x --rw=read --ioengine=null --size=1m --output=no/such/folder/f", "no/such/folder/f"),
    ] {
        let ran = run(folder.path(), options);
        assert_eq!(ran.code, Some(1), "{options}: {}", ran.err);
        assert!(ran.err.contains(word), "{options}: {}", ran.err);
    }
}

#[test]
fn without_arguments_a_short_job_set_runs_and_leaves_nothing() {
    let folder = folder();
    let before = Instant::now();
    let output = tool(folder.path()).env("TMPDIR", folder.path()).output().unwrap();
    let ran = Ran::from(&output);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(before.elapsed() < Duration::from_secs(60), "30 s are promised on an idle machine");
    for name in ["randread-qd1", "randread-qd32", "randwrite-qd32", "read-128k-qd8"] {
        assert!(ran.out.contains(&format!("\n{name}: (groupid=")), "{}", ran.out);
    }
    assert!(ran.out.contains("READ: bw=") && ran.out.contains("WRITE: bw="), "{}", ran.out);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn formats_go_where_they_are_sent() {
    let folder = folder();
    let base = "--name=o --ioengine=null --rw=randread --size=1m --iodepth=2";
    let ran = run(folder.path(), &format!("{base} --output=report.txt"));
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    let text = std::fs::read_to_string(folder.path().join("report.txt")).unwrap();
    assert!(text.contains("o: (groupid=0, jobs=1): err= 0") && text.contains("clat percentiles"), "{text}");
    let ran = run(folder.path(), &format!("{base} --output-format=terse"));
    assert!(ran.out.starts_with("3;corelane-") && ran.out.contains(";o;0;0;"), "{}", ran.out);
    let ran = run(folder.path(), &format!("{base} --output-format=json+"));
    assert!(ran.json()["jobs"][0]["read"]["clat_ns"]["bins"].is_object(), "{}", ran.out);
    let ran = run(folder.path(), &format!("{base} --plot=p.svg --output-format=json"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(std::fs::read_to_string(folder.path().join("p.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn the_report_so_far_comes_at_intervals_with_latencies() {
    let folder = folder();
    let ran = run(
        folder.path(),
        "--name=s --ioengine=null --rw=randread --size=1m --time_based --runtime=2 --status-interval=600ms \
         --output-format=json --rate_iops=20k",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let reports: Vec<Value> =
        serde_json::Deserializer::from_str(&ran.out).into_iter().collect::<Result<_, _>>().unwrap();
    assert!(reports.len() >= 3, "{} reports in two seconds", reports.len());
    let counts: Vec<u64> =
        reports.iter().map(|report| number(&report["jobs"][0], "read/total_ios")).collect();
    assert!(counts.is_sorted() && counts[0] > 0, "{counts:?}");
    assert!(reports[0]["jobs"][0]["read"]["clat_ns"]["mean"].as_f64().unwrap() > 0.0);
}

#[test]
fn logs_have_a_line_a_request_or_a_window() {
    let folder = folder();
    let base = "--name=l --ioengine=null --rw=randread --bs=4k --size=1m --iodepth=4";
    job(folder.path(), &format!("{base} --write_lat_log=a --write_bw_log=a --write_iops_log=a"));
    for kind in ["lat", "clat", "slat", "bw", "iops"] {
        let text = std::fs::read_to_string(folder.path().join(format!("a_{kind}.1.log"))).unwrap();
        assert_eq!(text.lines().count(), 256, "{kind}");
        assert!(
            text.lines().all(|line| line.split(", ").count() == 5 && line.split(", ").nth(3) == Some("4096"))
        );
    }
    job(
        folder.path(),
        &format!(
            "{base} --time_based --runtime=1 --rate_iops=2k --write_bw_log=b --write_lat_log=b --log_avg_msec=200"
        ),
    );
    for kind in ["bw", "lat"] {
        let text = std::fs::read_to_string(folder.path().join(format!("b_{kind}.1.log"))).unwrap();
        assert!((3..=6).contains(&text.lines().count()), "{kind}: {text}");
    }
}

#[test]
fn a_seed_that_is_drawn_is_told_and_repeats_the_run() {
    let folder = folder();
    let base = "--name=s --ioengine=mem --rw=randrw --bs=4k --size=1m";
    let drawn = job(folder.path(), &format!("{base} --randrepeat=0"));
    let other = job(folder.path(), &format!("{base} --randrepeat=0"));
    let seed = |job: &Value| job["job options"]["randseed"].as_str().expect("the seed is told").to_owned();
    assert_ne!(seed(&drawn), seed(&other));
    let again = job(folder.path(), &format!("{base} --randseed={}", seed(&drawn)));
    assert_eq!(ios(&again), ios(&drawn));
}

#[test]
fn unlink_and_startdelay_do_what_they_say() {
    let folder = folder();
    let before = Instant::now();
    job(
        folder.path(),
        "--name=u --filename=f --rw=write --size=1m --unlink=1 --numjobs=2 --startdelay=300ms",
    );
    assert!(before.elapsed() >= Duration::from_millis(300));
    assert!(!folder.path().join("f").exists());
}

#[test]
fn a_second_program_is_kept_off_the_file() {
    let folder = folder();
    let words =
        "--name=l --filename=f --rw=randwrite --bs=4k --size=1m --time_based --runtime=60 --locking=on";
    let mut first = tool(folder.path())
        .args(words.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let second = run(folder.path(), "--name=l --filename=f --rw=randwrite --bs=4k --size=1m --locking=on");
    // Killed, the kernel would give the ring's file up, and with it the lock, some time later.
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    first.wait().unwrap();
    assert_eq!(second.code, Some(1), "{}{}", second.out, second.err);
    assert!(second.err.contains("lock") && second.err.contains("'f'"), "{}", second.err);
    // Jobs of one run do not keep each other off, whatever their cache modes.
    let text = "[global]\nfilename=f\nsize=1m\nlocking=on\n[w]\nrw=randwrite\n[r]\nrw=randread\n[d]\nrw=randwrite\ndirect=1\n";
    std::fs::write(folder.path().join("j.fio"), text).unwrap();
    let own = run(folder.path(), "j.fio");
    assert_eq!(own.code, Some(0), "{}", own.err);
}

#[test]
fn a_file_that_shrinks_fails_the_job_or_is_survived() {
    for (survive, code) in [("", 1), ("--continue_on_error=read", 1)] {
        let folder = folder();
        let words = format!(
            "--name=e --filename=f --rw=randread --bs=4k --size=4m --time_based --runtime=2 --iodepth=4 --output-format=json {survive}"
        );
        let child = tool(folder.path())
            .args(words.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(700));
        std::fs::OpenOptions::new().write(true).open(folder.path().join("f")).unwrap().set_len(0).unwrap();
        let ran = Ran::from(&child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        assert!(ran.err.contains("read of 4096 bytes at offset") && ran.err.contains("'f'"), "{}", ran.err);
        let job = ran.json()["jobs"][0].clone();
        let ms = number(&job, "job_runtime");
        if survive.is_empty() {
            assert_eq!(number(&job, "error"), 5);
            assert!(ms < 1900, "{ms}");
        } else {
            assert_eq!(number(&job, "error"), 0);
            assert!(number(&job, "total_err") > 0 && ms >= 1900, "{job}");
        }
    }
}
