//! `corelane device` on a real sysfs: drives that go to vfio-pci and back, those that may not, and users who are not root.

use std::fs::File;
use std::os::unix::fs::{FileExt, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use crate::run;
use crate::vm::{Case, Guest, machines};

const USERS: &str = "device::a_group_of_users_may_use_a_drive";

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("device::a_drive_goes_to_vfio_and_back", there_and_back),
    case("device::a_drive_in_use_is_refused", in_use),
    case("device::huge_pages_are_reserved_and_given_back", huge_pages),
    case(USERS, users),
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::TOOLS, run, limit: Duration::from_secs(120) }
}

/// `corelane device ...`.
fn device(arguments: &[&str]) -> Command {
    let mut command = Command::new("corelane");
    command.arg("device").args(arguments);
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"))
}

fn refusal(command: &mut Command) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(1), "{command:?} is refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `list` says of a drive.
fn listed(address: &str) -> Value {
    let printed = run(&mut device(&["list", "-o", "json"]));
    let list: Value = serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"));
    let devices = list["devices"].as_array().expect("a list");
    devices
        .iter()
        .find(|device| device["address"] == address)
        .unwrap_or_else(|| panic!("no {address} in {printed}"))
        .clone()
}

/// Writes a MiB, and reads and compares it, through our own driver.
fn use_it(address: &str) {
    let mut bench = Command::new("corelane-bench");
    bench.args([
        "--name=b",
        "--ioengine=nvme",
        "--rw=write",
        "--bs=16k",
        "--size=1m",
        "--iodepth=4",
        "--verify=crc32c",
    ]);
    run(bench.arg(format!("--filename={address}/1")));
}

fn there_and_back(guest: &Guest) {
    let function = guest.function("first");
    let address = function.address();
    function.bind_kernel(1);
    let before = listed(address);
    assert_eq!(before["driver"], "nvme");
    assert_eq!(before["model"], "QEMU NVMe Ctrl");
    assert!(before["iommu_group"].is_u64(), "{before}");
    assert_eq!(
        (&before["namespaces"][0]["nsid"], &before["namespaces"][0]["size_bytes"]),
        (&1.into(), &(64 << 20).into())
    );
    assert_eq!(before["namespaces"][0]["users"].as_array().map(Vec::len), Some(0));
    let printed = run(device(&["bind", address]).arg("--force"));
    assert!(printed.contains("vfio-pci (before: nvme)"), "{printed}");
    assert_eq!(listed(address)["driver"], "vfio-pci");
    use_it(address);
    // Nothing of the drive is in the machine's way any more.
    let doctor = output(&mut device(&["doctor"]));
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success() && !text.contains("BAD"), "{text}");
    let printed = run(&mut device(&["unbind", address]));
    assert!(printed.contains("driver nvme (before: vfio-pci)"), "{printed}");
    let disk = function.bind_kernel(1);
    // The kernel sees what we wrote.
    let mut block = [0; 4096];
    File::open(disk).expect("it is there").read_exact_at(&mut block, 0).expect("it can be read");
    assert!(block.iter().any(|byte| *byte != 0));
    assert!(refusal(&mut device(&["unbind", address])).contains("driver nvme"));
}

fn in_use(guest: &Guest) {
    let function = guest.function("other");
    let address = function.address();
    let disk = function.bind_kernel(1);
    // While somebody has it for himself.
    let held = rustix::fs::open(
        &disk,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL,
        rustix::fs::Mode::empty(),
    );
    let error = refusal(&mut device(&["bind", address]));
    assert!(error.contains("exclusively") && error.contains("--force"), "{error}");
    drop(held.expect("it opens"));
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk));
    let error = refusal(&mut device(&["bind", address]));
    assert!(error.contains("holds ext2/3/4"), "{error}");
    let place = Path::new("/tmp/mounted here");
    std::fs::create_dir_all(place).unwrap();
    mount(&disk, place, "ext4", MountFlags::empty(), None).expect("ext4 is in the kernel");
    let error = refusal(&mut device(&["bind", address]));
    assert!(error.contains("is mounted at /tmp/mounted here (ext4)"), "{error}");
    assert_eq!(listed(address)["namespaces"][0]["users"][0]["kind"], "mounted");
    assert_eq!(function.driver().as_deref(), Some("nvme"), "nothing has happened to it");
    std::fs::write(place.join("file"), "still there").unwrap();
    unmount(place, UnmountFlags::empty()).unwrap();
    run(&mut device(&["bind", "--force", address]));
    // While a program has it open, it is not taken away.
    let group = function.bind_vfio();
    let held = File::options().read(true).write(true).open(group).expect("the group opens");
    assert!(refusal(&mut device(&["unbind", address])).contains("in use by a program"));
    drop(held);
    run(&mut device(&["unbind", address]));
}

fn huge_pages(_: &Guest) {
    let total = || -> u64 {
        let text = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
        text.trim().parse().unwrap()
    };
    let before = total();
    run(&mut device(&["hugepages", "reserve", "8M"]));
    assert_eq!(total(), before + 4);
    run(&mut device(&["hugepages", "give-back", "4"]));
    assert_eq!(total(), before);
    let printed = run(&mut device(&["hugepages", "show"]));
    assert!(printed.contains(&format!("{before} pages of 2048 KiB")), "{printed}");
}

/// As `docs/tools.md` says: root binds, and a group of users uses.
fn users(guest: &Guest) {
    const GROUP: u32 = 1000;
    const STRANGER: u32 = 1001;
    let function = guest.function("first");
    let address = function.address();
    let nvme = || output(Command::new("corelane").args(["nvme", "id-ctrl", address]));
    match guest.part().as_deref() {
        None => {
            function.unbind();
            run(&mut device(&["bind", "--force", "--group", &GROUP.to_string(), address]));
            chown("/dev/vfio/vfio", Some(0), Some(GROUP)).unwrap();
            guest.run_as_user(STRANGER, USERS, "a stranger");
            guest.run_as_user(GROUP, USERS, "one of the group");
        }
        Some("a stranger") => {
            let text = String::from_utf8_lossy(&nvme().stderr).into_owned();
            assert!(text.contains("no permission to open /dev/vfio/"), "{text}");
            let doctor = output(&mut device(&["doctor"]));
            let text = String::from_utf8_lossy(&doctor.stdout);
            assert!(!doctor.status.success() && text.contains("mend: chgrp"), "{text}");
        }
        Some(_) => {
            assert!(nvme().status.success(), "{}", String::from_utf8_lossy(&nvme().stderr));
            use_it(address);
            let doctor = output(&mut device(&["doctor"]));
            assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
            assert!(refusal(&mut device(&["unbind", address])).contains("only root"));
        }
    }
}
