//! The scripts in `bench/` call the programs as they are: each row runs to its end, with an option of every kind that the
//! script gives. What comes out is no measurement, since runs are short and the programs are those of the tests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use corelane_tests::{Lack, Scratch, foreign_program, own_program, run, skip};
use serde_json::Value;

/// The script `name`, told to take the programs of the tests, or `None` where the machine has no Python.
fn script(name: &str, programs: &[(&str, &str)], scratch: &Scratch) -> Option<Command> {
    let mut python = foreign_program("python3")?;
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench").join(name));
    for (option, program) in programs {
        python.arg(option).arg(own_program(program).get_program());
    }
    python.arg("--dir").arg(scratch.path());
    Some(python)
}

/// Whether the controller in software can have a core of its own.
fn has_two_cores() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        skip(Lack::SecondCore, "the controller in software would share the only one with what is measured");
    }
    cores >= 2
}

const PROGRAMS: [(&str, &str); 5] = [
    ("--ours", "corelane-bench"),
    ("--bare", "bare-loop"),
    ("--bare-nvme", "bare-nvme"),
    ("--model", "nvme-model"),
    ("--attach", "attach-nvme"),
];

/// Runs `bench/compare` on these rows; returns what it printed.
fn compare(rows: &str, format: &str) -> Option<String> {
    let scratch = Scratch::new()?;
    let mut command = script("compare", &PROGRAMS, &scratch)?;
    command.args(["--pairs=1", "--seconds=1", "--size-mib=8", format]).arg(format!("--rows={rows}"));
    Some(run(&mut command))
}

#[test]
fn compare_runs_files_and_null() {
    let (Some(_), Some(_)) = (foreign_program("fio"), foreign_program("taskset")) else { return };
    let Some(printed) = compare("qd32,null,latency", "--json") else { return };
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"));
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3 + 3 + 2);
    for row in rows {
        assert!(row["judged"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
        assert_eq!(row["target"].is_null(), row["verdict"] == "", "{row}");
    }
}

#[test]
fn compare_runs_nvme() {
    if foreign_program("taskset").is_none() || !has_two_cores() {
        return;
    }
    let Some(printed) = compare("nvme1,nvme32,vfio-user,attach", "--markdown") else { return };
    let rows: Vec<&str> = printed.lines().filter(|line| line.starts_with("| NVMe model")).collect();
    assert_eq!(rows.len(), 3 + 2, "{printed}");
    for row in rows {
        assert_eq!(row.matches('|').count(), 8, "{row}");
        assert_eq!(row.contains("first block"), row.contains(" ms |"), "{row}");
    }
}

/// The machine itself is a test of its own, `vm::bench`; this one prints what it prints.
#[test]
fn compare_takes_ratios_from_a_virtual_machine() {
    let Some(scratch) = Scratch::new() else { return };
    if foreign_program("taskset").is_none() {
        return;
    }
    let line = |round, program, iodepth, iops| {
        format!(
            r#"{{"round":{round},"program":"{program}","iodepth":{iodepth},"iops":{iops}.0,"mean_lat_ns":1.5}}"#
        )
    };
    let mut printed = "== bench::both_drivers_are_measured passed after 7 ms \n".to_owned();
    for (round, factor) in [(0, 3), (1, 1), (2, 1)] {
        for depth in [1, 32] {
            printed +=
                &format!("{}\n", line(round, "corelane-bench", depth, 1000 * factor * (1 + depth / 32)));
            printed += &format!("{}\n", line(round, "fio", depth, 500 + depth));
        }
        printed += &format!("{{\"name\":\"0000:00:04.0/1\",\"beyond_controller_ms\":{}.5}}\n", 20 + round);
    }
    let vm = scratch.path().join("vm");
    let guard = r#"[ "$*" = "run vm::bench" ] && [ $CORELANE_VM_PROFILE = release ] || exit 3"#;
    std::fs::write(&vm, format!("#!/bin/sh\n{guard}\ncat << 'END'\n{printed}-- guest's log\nEND\n")).unwrap();
    std::fs::set_permissions(&vm, std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some(mut command) = script("compare", &PROGRAMS, &scratch) else { return };
    command.args(["--pairs=3", "--rows=vm", "--json", "--check", "--vm"]);
    let output = command.arg(&vm).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "one target is missed: {errors}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let judged: Vec<_> =
        (0..3).map(|row| (&report["rows"][row]["judged"], &report["rows"][row]["verdict"])).collect();
    assert_eq!(judged[0], (&(1000.0 / 501.0).into(), &"FAIL".into()));
    assert_eq!(judged[1], (&(2000.0 / 532.0).into(), &"pass".into()));
    assert_eq!(judged[2], (&21.5.into(), &"pass".into()));
}

#[test]
fn compare_shows_what_a_program_complained_of() {
    let Some(scratch) = Scratch::new() else { return };
    if foreign_program("fio").is_none() || foreign_program("taskset").is_none() {
        return;
    }
    let Some(mut command) = script("compare", &PROGRAMS, &scratch) else { return };
    // The bare loop as the program under test knows nothing of the bench tool's options.
    let output = command.args(["--pairs=1", "--seconds=0.1", "--rows=null", "--ours"]);
    let output = output.arg(own_program("bare-loop").get_program()).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("--name"), "{errors}");
}

#[test]
fn instructions_are_counted_with_and_without_a_controller() {
    if foreign_program("valgrind").is_none() || !has_two_cores() {
        return;
    }
    let Some(scratch) = Scratch::new() else { return };
    let programs = [PROGRAMS[0], PROGRAMS[1], PROGRAMS[3]];
    let Some(mut command) = script("instructions", &programs, &scratch) else { return };
    command.args(["--rows=null,nvme,bare-loop", "--ios=1000", "--json", "--limit-nvme=1"]);
    let output = command.output().expect("it starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "nothing is done in one instruction: {printed}{errors}");
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"));
    assert_eq!(report["over"], serde_json::json!(["nvme"]));
    for row in ["null", "nvme", "bare-loop"] {
        let figure = report["instructions_per_request"][row].as_f64();
        assert!(figure.is_some_and(|figure| figure > 10.0), "{row}: {printed}");
    }
}
