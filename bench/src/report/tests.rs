//! Tests of the writers against fixed runs, and against the installed fio.

use std::fs;
use std::path::Path;

use super::model::RunReport;
use super::normal::{BannerJob, banner, normal};
use super::output::{OutputFormat, render};
use super::samples;
use crate::stats::{Direction, StatsConfig};

/// Normal output with the date, which depends on the time zone, made fixed.
fn normal_without_date(run: &RunReport) -> String {
    normal(run).replace(&run.time_text(), "DATE")
}

/// Compares with the kept text `name`; with `CORELANE_UPDATE_GOLDEN=1` in the environment keeps the new text instead.
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/golden").join(name);
    if std::env::var_os("CORELANE_UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{} differs", path.display());
}

#[test]
fn normal_of_a_mixed_run_in_two_groups() {
    let mut reader = samples::job("reader", &[Direction::Read], 1000, StatsConfig::default());
    reader.description = Some("two seconds of reads".into());
    let everything = StatsConfig { slat_percentiles: true, lat_percentiles: true, ..StatsConfig::default() };
    let mut mixed = samples::job("mixed", &Direction::ALL, 100_000, everything);
    mixed.group_id = 1;
    mixed.error = 5;
    mixed.error_text = "func=write, error=Input/output error".into();
    mixed.continue_on_error = true;
    mixed.stats.errors.record(5);
    for ns in 0..10 {
        mixed.stats.record_sync(Some(2_500_000 + ns * 30_000_000));
    }
    let run = samples::run(vec![reader, mixed]);
    assert_golden("mixed.txt", &normal_without_date(&run));
}

#[test]
fn normal_of_grouped_jobs() {
    let jobs = (0..3).map(|_| {
        let mut job = samples::job("job", &[Direction::Write], 4000, StatsConfig::reduced());
        job.group_reporting = true;
        job
    });
    let run = samples::run(jobs.collect());
    assert_golden("grouped.txt", &normal_without_date(&run));
}

#[test]
fn a_job_that_did_nothing_prints_no_block() {
    let run = samples::run(vec![samples::job("idle", &[], 0, StatsConfig::default())]);
    assert!(!normal(&run).contains("idle"));
}

#[test]
fn banner_names_blocks_in_each_direction() {
    let job = BannerJob {
        name: "rr".into(),
        group_id: 0,
        rw: "randrw".into(),
        block_bytes: [(4096, 4096), (512, 65536), (4096, 1 << 20)],
        ioengine: "io_uring".into(),
        iodepth: 8,
        numjobs: 2,
    };
    assert_eq!(
        banner(&[job]),
        format!(
            "rr: (g=0): rw=randrw, bs=(R) 4096B-4096B, (W) 512B-64.0KiB, (T) 4096B-1024KiB, \
             ioengine=io_uring, iodepth=8\n...\n{}\nStarting 2 jobs\n",
            super::VERSION
        )
    );
}

#[test]
fn several_formats_come_in_fios_order() {
    let run = samples::run(vec![samples::job("job", &[Direction::Read], 100, StatsConfig::default())]);
    let all = [OutputFormat::Normal, OutputFormat::JsonPlus, OutputFormat::Terse, OutputFormat::Json];
    let text = render(&run, &all);
    assert!(text.starts_with("3;"));
    let (object, block) = (text.find("\n{\n").unwrap(), text.find("\n\njob: (groupid=0").unwrap());
    assert!(object < block);
    assert_eq!(text.matches("fio version").count(), 1);
    assert!(text.contains("\"bins\""));
    assert!(!render(&run, &[OutputFormat::Json]).contains("\"bins\""));
    assert_eq!(render(&run, &[]), "");
}

#[test]
fn a_disk_made_of_others_shows_their_mean() {
    let mut run = samples::run(vec![samples::job("job", &[Direction::Read], 100, StatsConfig::default())]);
    let mut part = run.disks[0].clone();
    part.name = "vdy".into();
    let mut other = part.clone();
    other.counters.ios = [89032, 43382];
    other.counters.busy_ms = 1000;
    run.disks[0].parts = vec![part, other];
    let text = normal(&run);
    assert!(text.contains("    vdz: ios=89030/43380, "), "{text}");
    assert!(text.contains(", aggrios=89031/43381, ") && text.contains("aggrutil=75.00%\n"), "{text}");
    let text = render(&run, &[OutputFormat::Terse]);
    assert!(text.contains(";75.00%;slaves;89031;43381;202;2275;20381;25580;45966;75.00%\n"), "{text}");
    let text = render(&run, &[OutputFormat::Json]);
    assert!(text.contains("\"aggr_read_ios\" : 89031"), "{text}");
}
