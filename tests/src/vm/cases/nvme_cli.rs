//! `corelane nvme` beside nvme-cli, on the same controllers: by the kernel's driver and by our own.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::run;
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme_cli::json_is_that_of_nvme_cli_on_the_kernels_devices", on_the_kernels_devices),
    case("nvme_cli::json_is_that_of_nvme_cli_over_vfio", over_vfio),
    case("nvme_cli::zones_are_those_of_nvme_cli", zones),
    case("nvme_cli::commands_change_what_they_should", changes),
    case("nvme_cli::nothing_is_lost_without_a_yes", confirmation),
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::TOOLS, run, limit: Duration::from_secs(180) }
}

fn json(command: &mut Command) -> Value {
    let printed = run(command);
    serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"))
}

fn ours(verb: &[&str], device: &str) -> Value {
    json(Command::new("corelane").arg("nvme").args(verb).args([device, "-o", "json"]))
}

fn theirs(verb: &[&str], device: &str) -> Value {
    json(Command::new("nvme").args(verb).args([device, "-o", "json"]))
}

/// What a program prints, to both outputs: nvme-cli has results of passthrough on the second.
fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The kernel's names of a controller and of its namespace.
fn kernel(guest: &Guest, name: &str) -> (String, String) {
    let disk = guest.function(name).bind_kernel(1).display().to_string();
    let controller = disk.strip_suffix("n1").expect("the only namespace").to_owned();
    (controller, disk)
}

/// The values that are the same whenever they are read.
const STEADY: [&[&str]; 6] = [
    &["id-ctrl"],
    &["id-ns", "-n", "1"],
    &["list-ns"],
    &["error-log", "-e", "3"],
    &["smart-log"],
    &["fw-log"],
];

fn on_the_kernels_devices(guest: &Guest) {
    let (controller, disk) = kernel(guest, "first");
    for verb in STEADY {
        assert_eq!(ours(verb, &controller), theirs(verb, &controller), "{verb:?}");
    }
    assert_eq!(ours(&["id-ns"], &disk), theirs(&["id-ns"], &disk));
    let sorted = |mut list: Value| {
        let devices = list["Devices"].as_array_mut().expect("a list");
        devices.sort_by_key(|device| device["DevicePath"].to_string());
        list
    };
    assert_eq!(
        sorted(json(Command::new("corelane").args(["nvme", "list", "-o", "json"]))),
        sorted(json(Command::new("nvme").args(["list", "-o", "json"])))
    );
    // The lines for people of what has one form only.
    for (ours, theirs) in [
        (&["get-feature", "-f", "6"][..], &["get-feature", "-f", "6"][..]),
        (&["get-log", "-i", "3", "-l", "64"], &["get-log", "-i", "3", "-l", "64"]),
        (&["admin-passthru", "-O", "0x0a", "--cdw10=7"], &["admin-passthru", "--opcode=0x0a", "--cdw10=7"]),
    ] {
        let ours = said(Command::new("corelane").arg("nvme").args(ours).arg(&controller));
        assert_eq!(ours, said(Command::new("nvme").args(theirs).arg(&controller)));
    }
    run(Command::new("corelane").args(["nvme", "ns-rescan", &controller]));
    run(Command::new("corelane").args(["nvme", "reset", &controller]));
}

fn over_vfio(guest: &Guest) {
    let (controller, disk) = kernel(guest, "first");
    let verbs = [STEADY[0], STEADY[1], STEADY[2], STEADY[3]];
    let expected = verbs.map(|verb| theirs(verb, &controller));
    let (health, firmware) = (theirs(&["smart-log"], &controller), theirs(&["fw-log"], &controller));
    let listed = theirs(&["list"], &disk);
    let function = guest.function("first");
    function.bind_vfio();
    let address = function.address();
    for (verb, expected) in verbs.into_iter().zip(expected) {
        assert_eq!(ours(verb, address), expected, "{verb:?}");
    }
    // Who counts requests counts the kernel's as well: the same fields in the same forms.
    let found = ours(&["smart-log"], address);
    let shape = |log: &Value| -> Vec<(String, bool)> {
        let fields = log.as_object().expect("an object").iter();
        fields.map(|(name, value)| (name.clone(), value.is_string())).collect()
    };
    assert_eq!(shape(&found), shape(&health));
    for steady in ["critical_warning", "temperature", "media_errors", "power_cycles"] {
        assert_eq!(found[steady], health[steady], "{steady}");
    }
    // The controller's name is the only difference.
    let slots = |log: &Value| log.as_object().expect("an object").values().next().cloned();
    assert_eq!(slots(&ours(&["fw-log"], address)), slots(&firmware));
    let ours = json(Command::new("corelane").args(["nvme", "list", "-o", "json", address]));
    let theirs =
        listed["Devices"].as_array().expect("a list").iter().find(|of| of["DevicePath"] == disk.as_str());
    for field in [
        "NameSpace",
        "Firmware",
        "ModelNumber",
        "SerialNumber",
        "UsedBytes",
        "MaximumLBA",
        "PhysicalSize",
        "SectorSize",
    ] {
        assert_eq!(Some(&ours["Devices"][0][field]), theirs.map(|of| &of[field]), "{field}");
    }
}

fn zones(guest: &Guest) {
    let (controller, disk) = kernel(guest, "zoned");
    assert_eq!(ours(&["zns", "id-ctrl"], &controller), theirs(&["zns", "id-ctrl"], &controller));
    assert_eq!(ours(&["zns", "id-ns"], &disk), theirs(&["zns", "id-ns"], &disk));
    let zns =
        |arguments: &[&str]| run(Command::new("corelane").args(["nvme", "zns"]).args(arguments).arg(&disk));
    let states = || {
        let report = ours(&["zns", "report-zones"], &disk);
        assert_eq!(report, theirs(&["zns", "report-zones"], &disk));
        let zones = report["zone_list"].as_array().expect("a list").clone();
        zones.iter().map(|zone| zone["state"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert!(states().iter().all(|state| state == "EMPTY"));
    // Zones of 4 MiB in blocks of 4 KiB.
    zns(&["open-zone", "-s", "0x400"]);
    zns(&["finish-zone", "-s", "0x800"]);
    std::fs::write("/tmp/block", [7; 4096]).unwrap();
    let appended = zns(&["zone-append", "-s", "0x400", "-d", "/tmp/block"]);
    assert!(appended.contains("LBA 400"), "{appended}");
    zns(&["close-zone", "-s", "0x400"]);
    assert_eq!(states()[..3], ["EMPTY", "CLOSED", "FULL"]);
    let full = ours(&["zns", "report-zones", "-S", "5"], &disk);
    assert_eq!((&full["nr_zones"], &full["zone_list"][0]["slba"]), (&1.into(), &0x800.into()));
    assert_eq!(
        ours(&["zns", "report-zones", "-d", "2"], &disk)["zone_list"].as_array().map(Vec::len),
        Some(2)
    );
    zns(&["reset-zone", "-a", "--force"]);
    assert!(states().iter().all(|state| state == "EMPTY"));
}

/// What changes a controller, by our own driver, as nvme-cli then sees it.
fn changes(guest: &Guest) {
    let function = guest.function("other");
    function.bind_vfio();
    let address = function.address();
    let nvme = |arguments: &[&str]| run(Command::new("corelane").arg("nvme").args(arguments));
    std::fs::write("/tmp/data", b"written by passthrough".repeat(400)).unwrap();
    let blocks = ["-n", "1", "--cdw10=8", "--cdw12=15", "-l", "8192"];
    nvme(&[&["io-passthru", address, "-O", "1", "-w", "-i", "/tmp/data"][..], &blocks].concat());
    nvme(&[&["io-passthru", address, "-O", "2", "-r", "-i", "/tmp/back"][..], &blocks].concat());
    let (data, back) = (std::fs::read("/tmp/data").unwrap(), std::fs::read("/tmp/back").unwrap());
    assert_eq!(data[..8192], back);
    assert_eq!(
        nvme(&["set-feature", address, "-f", "6", "-V", "0"]),
        "set-feature:0x06 (Volatile Write Cache), value:00000000, cdw12:00000000, save:0\n"
    );
    nvme(&["reset", address]);
    nvme(&["ns-rescan", address]);
    let formatted = nvme(&["format", address, "-n", "1", "-b", "4096", "--force"]);
    assert_eq!(formatted, "Success formatting namespace:1\n");
    let identify = ours(&["id-ns", "-n", "1"], address);
    let (index, formats) = (identify["flbas"].as_u64().expect("a number"), &identify["lbafs"]);
    assert_eq!(formats[index as usize]["ds"], 12);
    let (controller, disk) = kernel(guest, "other");
    assert_eq!(theirs(&["id-ns"], &disk)["flbas"], index);
    nvme(&["format", &disk, "-l", "0", "--force"]);
    assert_eq!(theirs(&["id-ns", "-n", "1"], &controller)["flbas"], 0);
}

fn confirmation(guest: &Guest) {
    let (controller, disk) = kernel(guest, "other");
    for arguments in [
        &["format", &disk, "-l", "4"][..],
        &["sanitize", &controller, "-a", "2"],
        &["admin-passthru", &controller, "-O", "0x80", "-n", "1"],
    ] {
        let mut command = Command::new("corelane");
        let output = command.arg("nvme").args(arguments).stdin(Stdio::null()).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text.contains("lost") && text.contains("nothing was done"), "{text}");
    }
    assert_eq!(ours(&["id-ns"], &disk)["flbas"], 0, "it has the format that it had");
    let held = rustix::fs::open(
        &disk,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL,
        rustix::fs::Mode::empty(),
    );
    let mut command = Command::new("corelane");
    let output = command.args(["nvme", "format", &disk, "-l", "4"]).output().expect("it starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    drop(held.expect("it opens"));
}
