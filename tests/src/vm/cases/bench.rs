//! The bench tool with our NVMe driver, beside fio's io_uring on the guest kernel's driver: one controller, one boot, in turn.
//!
//! And how long our driver takes from nothing to the first block.
//!
//! This asserts no speed. It prints a line of JSON for each run; a script makes ratios of them. `CORELANE_VM_SECONDS` says
//! how long each run is, `CORELANE_VM_ROUNDS` how often all are done.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::run;
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] =
    &[case("bench::both_drivers_are_measured", measure), case("bench::attaching_is_measured", attach)];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::BENCH, run, limit: Duration::from_secs(3600) }
}

const DEPTHS: [u32; 2] = [1, 32];

fn number(name: &str, default: u32) -> u32 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap_or_else(|err| panic!("{name} is {text:?}: {err}")))
}

fn measure(guest: &Guest) {
    for round in 0..number("CORELANE_VM_ROUNDS", 1) {
        for depth in DEPTHS {
            let namespace = format!("{}/1", guest.function("null"));
            guest.function("null").bind_vfio();
            report(round, depth, "corelane-bench", &["--ioengine=nvme"], &namespace);
            let device = guest.function("null").bind_kernel(1);
            // Its quickest way without polled queues.
            let options = ["--ioengine=io_uring", "--direct=1", "--registerfiles=1", "--fixedbufs=1"];
            report(round, depth, "fio", &options, &device.display().to_string());
        }
    }
}

/// Runs one of the two for a while, and prints what came of it.
#[allow(clippy::print_stdout)] // What the case is for.
fn report(round: u32, depth: u32, program: &str, options: &[&str], device: &str) {
    let mut command = Command::new(program);
    command.args(["--name=r", "--rw=randread", "--bs=4k", "--time_based", "--output-format=json"]);
    command.args(options).arg(format!("--iodepth={depth}")).arg(format!("--filename={device}"));
    command.arg(format!("--runtime={}", number("CORELANE_VM_SECONDS", 1)));
    let printed = run(&mut command);
    // fio prints notes before.
    let json_text = printed.find('{').map_or("", |start| &printed[start..]);
    let report: Value = serde_json::from_str(json_text).unwrap_or_else(|err| panic!("{err} in {printed}"));
    let read = &report["jobs"][0]["read"];
    let iops = read["iops"].as_f64().unwrap_or_else(|| panic!("no IOPS in {printed}"));
    assert!(iops > 0.0, "{program} read something");
    let mean_ns = read["lat_ns"]["mean"].as_f64();
    println!(
        "{}",
        json!({ "round": round, "program": program, "iodepth": depth, "iops": iops, "mean_lat_ns": mean_ns })
    );
}

/// From nothing to the first block of a namespace, through VFIO.
#[allow(clippy::print_stdout)] // What the case is for.
fn attach(guest: &Guest) {
    let function = guest.function("null");
    function.bind_vfio();
    let rounds = format!("--rounds={}", number("CORELANE_VM_ROUNDS", 1));
    let printed = run(Command::new("attach-nvme").arg(rounds).arg(format!("{function}/1")));
    for line in printed.lines() {
        let took: Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err} in {line}"));
        assert!(took["total_ms"].as_f64() >= took["beyond_controller_ms"].as_f64(), "{line}");
        println!("{took}");
    }
    assert!(printed.contains("first_read_ms"), "{printed}");
}
