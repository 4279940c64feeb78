//! Linux's own NVMe driver on our controllers: `nvme-model`, which QEMU reaches over vfio-user. What the model has against its
//! client counts as a failure: a driver that the whole world uses keeps to the specification.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use crate::run;
use crate::vm::protocol::Request;
use crate::vm::{Case, Guest, PciFunction, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("linux::nvme_cli_reads_what_the_controller_is", nvme_cli),
    case("linux::a_file_system_and_fio_with_verify", file_system),
    case("linux::few_short_queues_and_vectors_and_small_transfers", unusual),
    case("linux::scatter_gather_lists_and_shadow_doorbells", sgls_and_shadows),
    case("linux::protection_information_made_by_linux", protected),
    case("linux::long_guards_made_by_linux", protected_64),
    case("linux::doorbells_by_message", messages),
    case("linux::a_controller_is_reset_under_load", reset),
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::LINUX, run, limit: Duration::from_secs(120) }
}

const MOUNTED: &str = "/mnt";

/// Ends the driver's work with a controller, and then its server, which must have nothing against the driver.
fn finish(guest: &Guest, name: &str) {
    guest.served(name).unbind();
    guest.ask(&Request::EndServer { name: name.to_owned() });
}

/// The character device of a controller that is bound to Linux's driver.
fn controller(function: &PciFunction) -> String {
    let device = function.controller_device().unwrap_or_else(|| panic!("{function} has no node"));
    device.display().to_string()
}

fn nvme(arguments: &[&str]) -> String {
    run(Command::new("nvme").args(arguments))
}

fn nvme_json(arguments: &[&str]) -> Value {
    let printed = nvme(&[arguments, &["--output-format=json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"))
}

/// fio writes at random, checks what it wrote, and fails when that is something else.
fn fio(file: &Path, options: &[&str]) -> Command {
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--direct=1"]);
    fio.args(["--ioengine=io_uring", "--iodepth=16", "--randrepeat=0"]);
    fio.arg(format!("--filename={}", file.display())).args(options);
    fio
}

/// A file system is made, filled, and found to be good; then the device itself.
fn use_device(device: &Path) {
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device));
    std::fs::create_dir_all(MOUNTED).expect("a folder");
    mount(device, MOUNTED, "ext4", MountFlags::empty(), None).expect("it can be mounted");
    let file = Path::new(MOUNTED).join("file");
    run(&mut fio(&file, &["--size=16m", "--bsrange=4k-64k", "--fsync=64"]));
    std::fs::remove_file(&file).expect("it was made");
    unmount(MOUNTED, UnmountFlags::empty()).expect("it can be unmounted");
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(device));
    run(&mut fio(device, &["--size=32m", "--bsrange=4k-512k", "--trim_percentage=10"]));
    run(&mut fio(
        device,
        &["--size=4m", "--bs=4k", "--ioengine=psync", "--numjobs=2", "--offset_increment=8m"],
    ));
}

fn use_served(guest: &Guest, name: &str) {
    use_device(&guest.served(name).bind_kernel(1));
    finish(guest, name);
}

fn file_system(guest: &Guest) {
    use_served(guest, "plain");
}

fn unusual(guest: &Guest) {
    use_served(guest, "unusual");
}

fn sgls_and_shadows(guest: &Guest) {
    use_served(guest, "sgls-and-shadows");
}

/// Linux makes and checks protection information itself, and the controller checks it too.
fn protected(guest: &Guest) {
    use_served(guest, "protected");
}

fn protected_64(guest: &Guest) {
    use_served(guest, "protected-64");
}

fn messages(guest: &Guest) {
    use_served(guest, "messages");
}

fn nvme_cli(guest: &Guest) {
    const NAME: &str = "two-spaces";
    let function = guest.served(NAME);
    let spaces = [1, 2].map(|nsid| function.bind_kernel(nsid));
    let controller = controller(&function);
    let identity = nvme_json(&["id-ctrl", &controller]);
    assert_eq!(identity["sn"].as_str().map(str::trim), Some(NAME), "{identity}");
    assert_eq!(identity["mdts"], 7, "{identity}");
    assert_eq!(identity["vwc"].as_u64().map(|vwc| vwc & 1), Some(1), "{identity}");
    let health = nvme_json(&["smart-log", &controller]);
    assert_eq!(health["critical_warning"], 0, "{health}");
    let space = nvme_json(&["id-ns", &spaces[1].display().to_string()]);
    assert_eq!(space["nsze"], 1_u64 << 28, "1 TiB of 4 KiB: {space}");
    nvme_json(&["error-log", &controller]);
    nvme_json(&["fw-log", &controller]);
    nvme(&["ns-rescan", &controller]);
    for (nsid, before) in [1, 2].into_iter().zip(&spaces) {
        assert_eq!(function.bind_kernel(nsid), *before, "namespace {nsid} is still there");
    }
    run(&mut fio(&spaces[0], &["--size=8m", "--bs=16k"]));
    finish(guest, NAME);
}

fn reset(guest: &Guest) {
    const NAME: &str = "reset";
    let function = guest.served(NAME);
    let device = function.bind_kernel(1);
    let controller = controller(&function);
    nvme(&["reset", &controller]);
    let mut fio = fio(&device, &["--size=16m", "--bs=4k", "--rate_iops=1k"]);
    let mut work = fio.stdout(Stdio::null()).stdin(Stdio::null()).spawn().expect("fio starts");
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        nvme(&["reset", &controller]);
        nvme(&["ns-rescan", &controller]);
    }
    assert!(work.try_wait().expect("it is a child").is_none(), "fio works while the controller is reset");
    let status = work.wait().expect("it is a child");
    assert!(status.success(), "fio ended with {status}");
    finish(guest, NAME);
}
