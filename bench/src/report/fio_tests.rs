//! Our formats beside those of the fio that is installed: same keys, same fields, same lines for the same kind of job.

#![allow(clippy::print_stdout)] // a skipped test says so

use std::process::Command;

use serde_json::Value;

use super::{JobReport, JsonKind, RunReport, json, normal, samples, terse};
use crate::stats::{Direction, StatsConfig};

/// Output of fio for a short mixed job with fsyncs, in `format`; `None`, with a word of it, when fio is missing.
fn fio(format: &str, more: &[&str]) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("fio")
        .current_dir(directory.path())
        .args(["--name=job", "--filename=f", "--size=1m", "--rw=randrw", "--bs=4k", "--fsync=16"])
        .args(["--ioengine=psync", "--time_based", "--runtime=1", "--eta=never", "--description=words"])
        .arg(format!("--output-format={format}"))
        .args(more)
        .output();
    match output {
        Ok(output) => {
            assert!(output.status.success(), "fio failed: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("SKIPPED: fio does not start: {error}");
            None
        }
    }
}

/// A run of our own that is of the same kind.
fn ours(config: StatsConfig, change: impl FnOnce(&mut JobReport)) -> RunReport {
    let mut job = samples::job("job", &[Direction::Read, Direction::Write], 4000, config);
    job.description = Some("words".into());
    (0..100).for_each(|ns| job.stats.record_sync(Some(ns * 10_000)));
    change(&mut job);
    samples::run(vec![job])
}

/// Whether two trees have the same keys in the same order and the same kinds of value all the way down. Options and
/// histogram bars differ from run to run: of those only the kinds are compared.
fn assert_same_tree(path: &str, fio: &Value, ours: &Value) {
    match (fio, ours) {
        (Value::Object(fio), Value::Object(ours)) => {
            let names = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            if path.ends_with("/bins") {
                let is_bar = |(key, count): (&String, &Value)| key.parse::<u64>().is_ok() && count.is_u64();
                assert!(!ours.is_empty() && ours.iter().all(is_bar), "{path}: {ours:?}");
                assert!(fio.iter().all(is_bar), "{path} of fio: {fio:?}");
                return;
            }
            if path.ends_with(" options") {
                assert!(ours.values().all(Value::is_string), "{path}: {ours:?}");
                return;
            }
            assert_eq!(names(fio), names(ours), "keys at {path}");
            for (key, value) in fio {
                assert_same_tree(&format!("{path}/{key}"), value, &ours[key]);
            }
        }
        (Value::Array(fio), Value::Array(ours)) => {
            if let (Some(fio), Some(ours)) = (fio.first(), ours.first()) {
                assert_same_tree(&format!("{path}[0]"), fio, ours);
            }
        }
        (Value::Number(fio), Value::Number(ours)) => {
            assert_eq!(fio.is_f64(), ours.is_f64(), "{path}: fio has {fio}, we have {ours}");
        }
        (Value::String(_), Value::String(_)) => {}
        (fio, ours) => panic!("{path}: fio has {fio}, we have {ours}"),
    }
}

fn assert_json_like_fios(format: &str, kind: JsonKind, more: &[&str], run: &RunReport) {
    let Some(fio) = fio(format, more) else { return };
    let fio: Value = serde_json::from_str(&fio).unwrap();
    let ours: Value = serde_json::from_str(&json(run, kind)).unwrap();
    assert_same_tree("", &fio, &ours);
}

#[test]
fn json_has_fios_keys() {
    assert_json_like_fios("json", JsonKind::Plain, &[], &ours(StatsConfig::default(), |_| {}));
}

#[test]
fn json_plus_has_fios_keys_and_bins() {
    assert_json_like_fios("json+", JsonKind::Plus, &[], &ours(StatsConfig::default(), |_| {}));
}

#[test]
fn json_with_other_percentiles_and_errors_has_fios_keys() {
    let config = StatsConfig { clat_percentiles: false, lat_percentiles: true, ..StatsConfig::default() };
    let run = ours(config, |job| {
        job.continue_on_error = true;
        job.percentiles = vec![99.0, 50.0, 99.999];
    });
    let more = [
        "--lat_percentiles=1",
        "--clat_percentiles=0",
        "--continue_on_error=all",
        "--percentile_list=99:50:99.999",
    ];
    assert_json_like_fios("json+", JsonKind::Plus, &more, &run);
}

#[test]
fn json_of_a_reduced_job_has_fios_keys() {
    let mut run = ours(StatsConfig::reduced(), |_| {});
    // Samples record latencies whatever is asked; a job with gtod_reduce has none.
    for stats in &mut run.jobs[0].stats.directions.0 {
        (stats.slat, stats.clat, stats.lat) = Default::default();
    }
    run.jobs[0].stats.sync = Default::default();
    assert_json_like_fios("json+", JsonKind::Plus, &["--gtod_reduce=1"], &run);
}

#[test]
fn fios_own_reader_of_bins_accepts_ours() {
    let directory = tempfile::tempdir().unwrap();
    let everything = StatsConfig { slat_percentiles: true, lat_percentiles: true, ..StatsConfig::default() };
    std::fs::write(directory.path().join("run.json"), json(&ours(everything, |_| {}), JsonKind::Plus))
        .unwrap();
    for step in [vec!["run.json", "run.csv"], vec!["--validate", "run.json", "run.csv"]] {
        let output = match Command::new("fio_jsonplus_clat2csv").current_dir(&directory).args(step).output() {
            Ok(output) => output,
            Err(error) => {
                println!("SKIPPED: fio_jsonplus_clat2csv does not start: {error}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("mismatch"), "{said}");
    }
    let table = std::fs::read_to_string(directory.path().join("run_job0.csv")).unwrap();
    assert!(table.lines().count() > 50, "{table}");
}

#[test]
fn json_is_laid_out_as_fios() {
    let Some(fio) = fio("json", &[]) else { return };
    let text = json(&ours(StatsConfig::default(), |_| {}), JsonKind::Plain);
    // Two lines of each: one with an integer or a string, one with a fraction; the figures made equal.
    for key in ["jobname", "iops", "usr_cpu", "total_ios"] {
        let line = |text: &str| {
            let line = text.lines().find(|line| line.contains(&format!("\"{key}\""))).unwrap();
            line.replace(|c: char| c.is_ascii_digit(), "").to_owned()
        };
        assert_eq!(line(&fio), line(&text));
    }
    let decimals = text.lines().find(|line| line.contains("\"iops\"")).unwrap().split('.').nth(1).unwrap();
    assert_eq!(decimals.trim_end_matches(',').len(), 6);
}

/// Where a terse line has the first disk's name, if it has one: behind 5 fields of the job, 41 of each direction, 12 of
/// CPU use and depths, 22 of latency bands.
const DISK_NAME: usize = 5 + 2 * 41 + 12 + 22;

/// Fields of a disk in a terse line.
const DISK_FIELDS: usize = 9;

/// The kind of each field: its text with numbers replaced.
fn field_kinds(line: &str) -> Vec<String> {
    line.trim_end().split(';').enumerate().map(|(index, field)| field_kind(index, field)).collect()
}

fn field_kind(index: usize, field: &str) -> String {
    match index {
        1 => "version".into(),
        DISK_NAME => "disk".into(),
        _ if field.parse::<u64>().is_ok() => "integer".into(),
        _ if field.parse::<f64>().is_ok() => {
            format!("{} decimals", field.split('.').nth(1).map_or(0, str::len))
        }
        // A percentile's name is compared in full.
        _ if field.contains("%=") => field.split('=').next().unwrap_or_default().into(),
        _ => field.replace(|c: char| c.is_ascii_digit(), ""),
    }
}

#[test]
fn terse_has_fios_fields_in_order() {
    let cases = [
        (StatsConfig::default(), false, vec![]),
        (StatsConfig::default(), true, vec!["--continue_on_error=all"]),
    ];
    for (config, continue_on_error, more) in cases {
        let Some(fio) = fio("terse", &more) else { return };
        let mut run = ours(config, |job| job.continue_on_error = continue_on_error);
        let fio = fio.lines().find(|line| line.starts_with("3;")).unwrap().to_owned();
        if field_kinds(&fio).len() + DISK_FIELDS == field_kinds(&terse(&run)).len() {
            // fio's file was on no disk, in a tmpfs.
            run.disks.clear();
        }
        assert_eq!(field_kinds(&fio), field_kinds(&terse(&run)), "\n{fio}\n{}", terse(&run));
    }
}

/// A line with its numbers, unit prefixes and padding taken out.
fn skeleton(line: &str) -> String {
    let line = line.replace("; 0 zone resets", "");
    let mut out = String::new();
    let mut chars = line.chars().filter(|c| !c.is_whitespace()).peekable();
    let mut after_number = false;
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() || (c == '.' && after_number) {
            if !after_number {
                out.push('#');
            }
            after_number = true;
        } else if after_number && "kKMGT".contains(c) {
            if chars.peek() == Some(&'i') {
                chars.next();
            }
            after_number = false;
        } else {
            out.push(c);
            after_number = false;
        }
    }
    for unit in ["nsec", "usec", "(msec", "KiB/s)", "MiB/s)"] {
        out = out.replace(unit, if unit.starts_with('(') { "(unit" } else { "unit" });
    }
    // Rows of percentiles, bands and disks differ in number and length: their beginnings must do.
    for head in ["|", "lat(unit):"] {
        if out.starts_with(head) {
            return out.chars().take_while(|&c| c != '#').collect();
        }
    }
    match out.split_once(":ios=") {
        Some((_, rest)) => format!("disk:ios={rest}"),
        None if out.contains("pid=") => out.split("pid=").next().unwrap_or_default().to_owned(),
        None => out,
    }
}

/// Skeletons of all lines from the first job on, repeats taken out.
fn skeletons(text: &str) -> Vec<String> {
    let from = text.find("\njob: (groupid").unwrap();
    let mut lines: Vec<String> = text[from..].lines().map(skeleton).collect();
    lines.dedup();
    lines
}

#[test]
fn normal_has_fios_lines() {
    let everything = StatsConfig { slat_percentiles: true, lat_percentiles: true, ..StatsConfig::default() };
    let cases =
        [(StatsConfig::default(), vec![]), (everything, vec!["--slat_percentiles=1", "--lat_percentiles=1"])];
    for (config, more) in cases {
        let Some(fio) = fio("normal", &more) else { return };
        let fio_has_disk = fio.contains("Disk stats");
        let mut run = ours(config, |job| {
            // psync has no submission latency to speak of, and fio does not print it.
            job.stats.directions.0.iter_mut().for_each(|stats| stats.slat = Default::default());
        });
        if !fio_has_disk {
            run.disks.clear();
        }
        assert_eq!(skeletons(&fio), skeletons(&normal(&run)), "\n{fio}\n{}", normal(&run));
    }
}
