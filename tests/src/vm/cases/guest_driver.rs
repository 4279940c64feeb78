//! Our file driver over the guest kernel's own NVMe driver, commands through that driver, and what binding to vfio-pci
//! gives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_drivers::contract::{ContractOptions, check};
use corelane_drivers::file::{CacheMode, DiscardMode, FileDriver, FileOptions, SqPoll};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::uring::{NvmeUringDriver, NvmeUringOptions};
use corelane_engine::aio::AioConfig;
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver, Errno};

use super::nvme::rig::{assert_same, bytes_of, in_lane, memory, pattern, pattern_bytes};
use crate::run;
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("guest_driver::the_file_driver_keeps_the_contract", file_driver),
    case("guest_driver::polled_queues_keep_the_contract", polled_queues),
    case("guest_driver::commands_through_the_kernel_keep_the_contract", commands),
    case("guest_driver::commands_with_protection_keep_the_contract", protected_commands),
    case("guest_driver::commands_and_files_see_the_same_data", same_data),
    case("guest_driver::the_bench_tool_sends_commands_through_the_kernel", bench_commands),
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

/// The block device and the character device of a namespace.
fn devices_of(guest: &Guest, name: &str, nsid: u32) -> (PathBuf, PathBuf) {
    let block = guest.function(name).bind_kernel(nsid);
    let name = block.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("nvme"));
    let commands = Path::new("/dev").join(format!("ng{}", name.expect("the kernel's name for it")));
    // The kernel makes it after the block device.
    let start = Instant::now();
    while !commands.exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "no {}", commands.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    (block, commands)
}

/// Those of the default controller's namespace.
fn commands_of(guest: &Guest) -> (PathBuf, PathBuf) {
    devices_of(guest, "default", 1)
}

fn commands(guest: &Guest) {
    let (block, device) = commands_of(guest);
    let driver = NvmeUringDriver::open(&NvmeUringOptions::new(&device)).unwrap();
    assert_eq!(driver.length().unwrap(), 64 << 20);
    assert_eq!((driver.nsid(), driver.limits().request_alignment), (Nsid(1), 512));
    assert!(driver.write_cache() && driver.can_discard() && driver.supported_zero_flags().is_some());
    assert!(
        driver.limits().max_transfer <= 512 << 10 && driver.limits().max_iov <= 128,
        "{:?}",
        driver.limits()
    );
    for iopoll in [false, true] {
        let options = NvmeUringOptions { iopoll, ..NvmeUringOptions::new(&device) };
        for tags in [2, 32] {
            let factory = || NvmeUringDriver::open(&options).map(|driver| Box::new(driver) as _);
            let options = ContractOptions { tags, ..ContractOptions::default() };
            let report = check(&factory, &options).unwrap_or_else(|violation| panic!("{violation}"));
            assert!(report.commands > u64::from(tags) * 50, "{report:?}");
        }
    }
    // The block device is none.
    let error = NvmeUringDriver::open(&NvmeUringOptions::new(block)).unwrap_err().to_string();
    assert!(error.contains("/dev/ng0n1"), "{error}");
}

/// Guards of 16 and 64 bits, and metadata that this driver has no buffer for.
fn protected_commands(guest: &Guest) {
    for nsid in [1, 3, 5] {
        let (_, device) = devices_of(guest, "protected", nsid);
        let factory =
            || NvmeUringDriver::open(&NvmeUringOptions::new(&device)).map(|driver| Box::new(driver) as _);
        let options = ContractOptions { tags: 16, ..ContractOptions::default() };
        let report = check(&factory, &options).unwrap_or_else(|violation| panic!("{nsid}: {violation}"));
        assert!(report.commands > 800, "{report:?}");
    }
    let (_, device) = devices_of(guest, "protected", 4);
    let error = NvmeUringDriver::open(&NvmeUringOptions::new(&device)).unwrap_err().to_string();
    assert!(error.contains("16 bytes of metadata"), "{error}");
}

fn same_data(guest: &Guest) {
    let (block, commands) = commands_of(guest);
    let commands = NvmeUringDriver::open(&NvmeUringOptions::new(commands)).unwrap();
    let commands = BlockBackend::new(Arc::new(commands), BackendOptions::default()).unwrap();
    let file = FileDriver::open(&open(&block)).unwrap();
    let file = BlockBackend::new(Arc::new(file), BackendOptions::default()).unwrap();
    // Several transfers, none of which starts or ends with a block.
    const LEN_BYTES: usize = (2 << 20) + 100;
    let at = 12_345;
    for (salt, [writer, reader]) in [(1, [&commands, &file]), (2, [&file, &commands])] {
        in_lane(&AioConfig::default(), writer, 8, move |channel| async move {
            channel.write_at(at, pattern(salt, LEN_BYTES)).await.0.expect("it is written");
            channel.flush().await.expect("it is flushed");
        });
        let read = in_lane(&AioConfig::default(), reader, 8, move |channel| async move {
            let (result, buffer) = channel.read_at(at, memory(LEN_BYTES)).await;
            result.expect("it is read");
            bytes_of(&buffer)
        });
        assert_same(&read, &pattern_bytes(salt, LEN_BYTES));
    }
    // Beyond the end there is nothing, and memory that is registered does as well.
    let outcome = in_lane(&AioConfig::default(), &commands, 8, move |channel| async move {
        let (result, _) = channel.read_at(64 << 20, memory(512)).await;
        result.map_err(|error| error.errno)
    });
    assert_eq!(outcome, Err(Errno::EIO));
}

fn bench_commands(guest: &Guest) {
    let (_, device) = commands_of(guest);
    for more in [&[][..], &["--hipri=1"], &["--fixedbufs=1", "--hipri=1"]] {
        let mut command = Command::new("corelane-bench");
        command.args(["--name=j", "--ioengine=nvme_uring", "--rw=randwrite", "--bs=4k", "--iodepth=16"]);
        command.args(["--size=4m", "--verify=crc32c", "--output-format=json"]).args(more);
        let printed = run(command.arg(format!("--filename={}", device.display())));
        let report: serde_json::Value =
            serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"));
        let job = &report["jobs"][0];
        assert_eq!((&job["error"], &job["write"]["total_ios"]), (&0.into(), &1024.into()), "{more:?}: {job}");
    }
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
