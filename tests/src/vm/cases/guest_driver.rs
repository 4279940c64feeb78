//! Our file driver over the guest kernel's own NVMe driver, and what binding to vfio-pci gives.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use corelane_drivers::contract::{ContractOptions, check};
use corelane_drivers::file::{CacheMode, DiscardMode, FileDriver, FileOptions, SqPoll};

use crate::run;
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("guest_driver::the_file_driver_keeps_the_contract", file_driver),
    case("guest_driver::polled_queues_keep_the_contract", polled_queues),
    case("guest_driver::info_tells_of_the_device", info),
    case("guest_driver::binding_gives_a_group", binding),
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::POLLED, run, limit: Duration::from_secs(120) }
}

fn check_file(options: &FileOptions, depths: &[u32]) {
    for &tags in depths {
        let factory = || FileDriver::open(options).map(|driver| Box::new(driver) as _);
        let options = ContractOptions { tags, ..ContractOptions::default() };
        let report = check(&factory, &options).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(report.commands > u64::from(tags) * 50, "{report:?}");
    }
}

fn open(device: &Path) -> FileOptions {
    FileOptions::new(device).cache(CacheMode::None).discard(DiscardMode::Unmap)
}

fn file_driver(guest: &Guest) {
    let device = guest.function("default").bind_kernel(1);
    check_file(&open(&device), &[2, 32]);
    check_file(&open(&device).sqpoll(Some(SqPoll::default())), &[32]);
}

/// No device of an ordinary test machine can be polled for completions.
fn polled_queues(guest: &Guest) {
    let device = guest.function("default").bind_kernel(1);
    let polled = open(&device).iopoll(true);
    check_file(&polled, &[2, 32, 300]);
    check_file(&polled.sqpoll(Some(SqPoll::default())), &[32]);
}

fn info(guest: &Guest) {
    let device = guest.function("default").bind_kernel(1);
    let printed = run(Command::new("corelane").args(["info", "--cache=none", "--output=json"]).arg(device));
    let info: serde_json::Value =
        serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"));
    assert_eq!(info["virtual-size"], 64 << 20);
    assert_eq!(info["limits"]["request-alignment"], 512);
    assert_eq!(info["io_uring"]["available"], true);
}

fn binding(guest: &Guest) {
    let function = guest.function("default");
    let group = function.bind_vfio();
    assert_eq!(function.driver().as_deref(), Some("vfio-pci"));
    let number: u32 =
        group.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap();
    assert!(Path::new("/sys/kernel/iommu_groups").join(number.to_string()).is_dir());
    // And back: the block device comes again.
    assert!(function.bind_kernel(1).exists());
    assert_eq!(function.driver().as_deref(), Some("nvme"));
}
