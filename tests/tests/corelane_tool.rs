//! The `corelane` program, against `qemu-img` where there is one.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;

use corelane_tests::{LoopDevice, Scratch, Seed, foreign_program, own_program, run};
use rand_xoshiro::rand_core::Rng;
use serde_json::Value;

fn corelane(arguments: &[&str], file: &Path) -> Value {
    let printed = run(own_program("corelane").args(arguments).arg("--output=json").arg(file));
    serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"))
}

/// A file of `blocks` blocks of 4 KiB, of which each is data or hole by chance, in runs.
fn sparse_file(scratch: &Scratch, name: &str, seed: Seed, blocks: u64) -> std::path::PathBuf {
    let path = scratch.hole(name, blocks * 4096);
    let file = File::options().write(true).open(&path).unwrap();
    let mut rng = seed.rng();
    let mut at = 0;
    while at < blocks {
        let run_blocks = (1 + rng.next_u64() % 9).min(blocks - at);
        if rng.next_u64().is_multiple_of(2) {
            file.write_all_at(&vec![0xa5; run_blocks as usize * 4096], at * 4096).unwrap();
        }
        at += run_blocks;
    }
    // Delayed allocation may show as data what is not on disk yet, and the other way round.
    file.sync_all().unwrap();
    path
}

#[test]
fn map_agrees_with_qemu_img() {
    if foreign_program("qemu-img").is_none() {
        return;
    }
    let Some(scratch) = Scratch::new() else { return };
    for (nth, seed) in Seed::sequences(20).enumerate() {
        let file = sparse_file(&scratch, &format!("sparse-{nth}"), seed, [0, 1, 2, 256][nth % 4]);
        let theirs = |form: &str| {
            let mut qemu_img = foreign_program("qemu-img").expect("it was there before");
            run(qemu_img.args(["map", "-f", "raw", form]).arg(&file))
        };
        let expected: Value = serde_json::from_str(&theirs("--output=json")).unwrap();
        assert_eq!(corelane(&["map"], &file), expected, "{}", file.display());
        assert_eq!(run(own_program("corelane").arg("map").arg(&file)), theirs("--output=human"));
    }
}

#[test]
fn info_tells_sizes_and_limits_of_a_file() {
    let Some(scratch) = Scratch::new() else { return };
    let file = scratch.hole("disk", 1 << 20);
    File::options().write(true).open(&file).unwrap().write_all_at(&[1; 8192], 4096).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();

    let info = corelane(&["info"], &file);
    assert_eq!(info["driver"], "file");
    assert_eq!(info["cache"], "writeback");
    assert_eq!(info["virtual-size"], 1 << 20);
    let allocated = file.metadata().unwrap().blocks() * 512;
    assert!((8192..1 << 20).contains(&allocated));
    assert_eq!(info["actual-size"], allocated);
    assert_eq!(info["limits"]["request-alignment"], 1);
    assert_eq!(info["io_uring"]["available"], true);

    let shown = run(own_program("corelane").arg("info").arg(&file));
    assert!(
        shown.contains("virtual size: 1 MiB (1048576 bytes)\ndisk size: 8 KiB (8192 bytes)\n"),
        "{shown}"
    );
}

#[test]
fn info_probes_the_limits_of_a_device() {
    let Some(scratch) = Scratch::new() else { return };
    let file = scratch.hole("disk", 8 << 20);
    for block_bytes in [512, 4096] {
        let Some(device) = LoopDevice::attach(&file, block_bytes) else { return };
        let info = corelane(&["info", "--cache=none"], device.path());
        assert_eq!(info["cache"], "none");
        assert_eq!(info["virtual-size"], 8 << 20);
        assert_eq!(info["limits"]["request-alignment"], block_bytes);
    }
}

#[test]
fn what_cannot_be_opened_is_named() {
    let Some(scratch) = Scratch::new() else { return };
    let missing = scratch.path().join("missing");
    for (subcommand, path) in [("info", missing.as_path()), ("map", scratch.path())] {
        let output = own_program("corelane").arg(subcommand).arg(path).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(
            complaint.contains(&path.display().to_string()) && complaint.lines().count() == 1,
            "{complaint}"
        );
        assert!(output.stdout.is_empty());
    }
}

fn nvme(arguments: &[&str]) -> String {
    run(own_program("corelane").arg("nvme").args(arguments))
}

#[test]
fn nvme_asks_a_model_what_it_is() {
    let json = |arguments: &[&str]| -> Value {
        let printed = nvme(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"))
    };
    let controller = json(&["id-ctrl", "model:64m"]);
    assert_eq!(controller["sn"], "CL00000001          ");
    assert_eq!(controller["tnvmcap"], "67108864");
    assert_eq!(json(&["id-ns", "model:64m"])["nsze"], (64 << 20) / 4096);
    assert_eq!(json(&["list-ns", "model:64m"])["nsid_list"][0]["nsid"], 1);
    assert_eq!(json(&["list", "model:64m"])["Devices"][0]["PhysicalSize"], 64 << 20);
    assert!(json(&["smart-log", "model:64m"])["data_units_read"].is_string());
    // The tool asks for one pair of queues, which is counted from 0.
    assert_eq!(json(&["get-feature", "model:64m", "-f", "0x07"])["value"], 0);
    let dump = nvme(&["get-log", "model:64m", "-i", "2", "-l", "16"]);
    assert!(dump.starts_with("Device:model:64m log-id:2 namespace-id:0xffffffff\n"), "{dump}");
    let read = nvme(&["io-passthru", "model:64m", "-O", "2", "-r", "-l", "8192", "--cdw12=1"]);
    assert_eq!(read.lines().count(), 2 + 512, "a line, the head, and 16 bytes a line");
}

/// A zoned namespace in a process of its own, over several runs of the tool.
#[test]
fn nvme_manages_zones() {
    let Some(scratch) = Scratch::new() else { return };
    let socket = scratch.path().join("cntrl");
    let mut server = own_program("nvme-model");
    server.args(["--namespace", "zns:4m:1m:768k:2:3", "--strict", "--socket"]).arg(&socket);
    let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let device = format!("vfio-user:{}", socket.display());
    let zns = |command: &str, more: &[&str]| nvme(&[&["zns", command, &device], more].concat());
    let report = || -> Value { serde_json::from_str(&zns("report-zones", &["-o", "json"])).unwrap() };
    let states = || {
        let report = report();
        assert_eq!(report["nr_zones"], 4);
        let zones = report["zone_list"].as_array().unwrap().clone();
        zones.iter().map(|zone| zone["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(states(), ["EMPTY"; 4]);
    assert!(zns("id-ns", &[]).contains("mor"), "{}", zns("id-ns", &[]));
    let data = scratch.path().join("data");
    std::fs::write(&data, [7; 8192]).unwrap();
    let data = data.display().to_string();
    zns("open-zone", &["-s", "0x100"]);
    for place in ["100", "102"] {
        let said = zns("zone-append", &["-s", "0x100", "-d", &data]);
        assert_eq!(said, format!("Success appended data to LBA {place}\n"));
    }
    zns("close-zone", &["-s", "0x100"]);
    zns("finish-zone", &["-s", "0x200"]);
    assert_eq!(states(), ["EMPTY", "CLOSED", "FULL", "EMPTY"]);
    assert_eq!(report()["zone_list"][1]["wp"], 0x104);
    zns("reset-zone", &["-a", "--force"]);
    assert_eq!(states(), ["EMPTY"; 4]);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn nvme_lists_placement_handles() {
    let Some(scratch) = Scratch::new() else { return };
    let socket = scratch.path().join("cntrl");
    let mut server = own_program("nvme-model");
    server.args(["--namespace", "4m", "--fdp", "2:2", "--strict", "--socket"]).arg(&socket);
    let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let device = format!("vfio-user:{}", socket.display());
    let status: Value = serde_json::from_str(&nvme(&["fdp", "status", &device, "-o", "json"])).unwrap();
    assert_eq!(status["nruhsd"], 4);
    let of = |name: &str| {
        status["ruhss"].as_array().unwrap().iter().map(|one| one[name].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (of("pid"), of("ruhid")),
        (
            vec![0.into(), 0x8000.into(), 1.into(), 0x8001.into()],
            vec![0.into(), 0.into(), 1.into(), 1.into()]
        )
    );
    let said = nvme(&["fdp", "status", &device]);
    assert!(said.contains("Placement Identifier 32769; Reclaim Unit Handle Identifier 1\n"), "{said}");
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn nvme_says_what_a_controller_refuses_and_what_it_does_not_send() {
    let Some(scratch) = Scratch::new() else { return };
    let missing = scratch.path().join("missing").display().to_string();
    for (arguments, expected) in [
        (&["admin-passthru", "model:64m", "-O", "0xff"][..], "NVMe status: Invalid Command Opcode"),
        (&["admin-passthru", "model:64m", "-O", "0"], "opcode"),
        (&["fdp", "status", "model:64m"], "NVMe status: Invalid Command Opcode"),
        (&["admin-passthru", "model:64m", "-O", "6", "-l", "4096"], "--read or --write"),
        (&["format", "model:64m", "--force"], "-n NSID"),
        (&["format", "model:64m", "-n", "1", "-b", "100", "--force"], "block size"),
        (&["id-ctrl", "nonsense"], "'nonsense' names no NVMe controller"),
        (&["id-ctrl", "model:nonsense"], "model:nonsense"),
        (&["id-ctrl", "/dev/null"], "/dev/null"),
        (&["set-feature", "model:64m", "-f", "1", "-V", "0", "-d", &missing], "missing"),
    ] {
        let output = own_program("corelane").arg("nvme").args(arguments).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaint}");
        assert!(complaint.contains(expected) && complaint.lines().count() == 1, "{complaint}");
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let Some(scratch) = Scratch::new() else { return };
    let folder = scratch.path().join("man");
    run(own_program("corelane").arg("man").arg("--dir").arg(&folder));
    for page in
        ["corelane", "corelane-device-bind", "corelane-nvme-id-ctrl", "corelane-nvme-zns-report-zones"]
    {
        let text = std::fs::read_to_string(folder.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{page}: {text}");
    }
}

#[test]
fn the_doctor_tells_by_its_exit_status_whether_all_is_well() {
    let output = own_program("corelane").args(["device", "doctor", "-o", "json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let bad = checks.iter().filter(|check| check["health"] == "bad").count();
    assert_eq!(output.status.code(), Some(i32::from(bad > 0)), "{report}");
    assert!(checks.iter().all(|check| check["health"] == "ok" || check["mend"].is_string()), "{report}");
}
