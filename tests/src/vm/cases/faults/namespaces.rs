//! Namespaces that change while they are open: taken away, given back, formatted and resized by somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::{ControllerEvent, NvmeController, Transfer};
use corelane_engine::aio::AioConfig;
use corelane_engine::block::{BlockBackend, DeviceChange, Errno};
use serde_json::json;

use super::case;
use super::load::{DEPTH, END, Failure, under_load};
use super::rig::{Rig, assert_in_time, wait_until};
use crate::vm::cases::nvme::rig::{assert_same, bytes_of, in_lane, memory, pattern, pattern_bytes, start};
use crate::vm::protocol::Request;
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("faults::a_namespace_that_is_detached_under_load_fails_and_can_be_opened_again", detached),
    case(
        "faults::a_namespace_that_is_formatted_by_another_controller_fails_and_can_be_opened_again",
        formatted,
    ),
    Case {
        name: "faults::a_namespace_that_is_resized_under_load_changes_the_length_of_its_backend",
        machine: &machines::NAMESPACES,
        run: resized,
        limit: Duration::from_secs(120),
    },
];

const NAMESPACE_ATTACHMENT: u8 = 0x15;
const FORMAT_NVM: u8 = 0x80;
/// QEMU's format of blocks of 4 KiB without metadata.
const FORMAT_4K: u32 = 4;
const MIB: u64 = 1 << 20;

/// An admin command of another controller of the subsystem.
fn admin(controller: &NvmeController, opcode: u8, nsid: u32, cdw10: u32, data: &[u8]) {
    let mut command = Command { opcode, nsid, ..Command::default() };
    command.cdw10[0] = cdw10;
    let answer = controller.admin_passthrough(command, Transfer::Out(data), Transfer::None);
    let answer = answer.unwrap_or_else(|err| panic!("{err}"));
    assert!(answer.status.is_success(), "{}", answer.status);
}

/// Attaches namespace `nsid` to `to` (Base 5.20), or detaches it from there.
fn attach(manager: &NvmeController, to: &NvmeController, nsid: u32, attached: bool) {
    let mut list = [0; 4096];
    list[0] = 1;
    list[2..4].copy_from_slice(&to.identify().cntlid.get().to_le_bytes());
    admin(manager, NAMESPACE_ATTACHMENT, nsid, u32::from(!attached), &list);
}

/// How often the controller has told that namespace `nsid` has changed.
fn changes(rig: &Rig, nsid: u32) -> usize {
    rig.count(
        |event| matches!(event, ControllerEvent::NamespacesChanged { nsids } if nsids.contains(&Nsid(nsid))),
    )
}

/// Why namespace `nsid` has failed.
fn failure(rig: &Rig, nsid: u32) -> Option<String> {
    rig.find(|event| match event {
        ControllerEvent::NamespaceFailed { nsid: of, reason } if *of == Nsid(nsid) => Some(reason.clone()),
        _ => None,
    })
}

/// Reads of a namespace that has failed end with one error, from whatever was opened before.
fn assert_failed(backend: &BlockBackend) {
    in_lane(&AioConfig::default(), backend, 8, |channel| async move {
        for offset in [0, MIB] {
            let error = channel.read_at(offset, memory(4096)).await.0.expect_err("it has failed");
            assert_eq!(error.errno, Errno::ENODEV, "{error}");
        }
    });
}

/// By its neighbour, while the load goes on there and in another namespace.
fn detached(guest: &Guest) {
    let rig = Rig::new(guest, "shared");
    let manager = start(guest, "manager");
    let (backend, other) = (rig.backend(1), rig.backend(2));
    in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
        channel.write_at(END, pattern(3, 64 << 10)).await.0.expect("it is written");
    });
    let mut failures = Vec::new();
    let others = under_load(&other, |other| {
        failures = under_load(&backend, |load| {
            load.wait_for_more("before");
            attach(&manager, &rig.controller, 1, false);
            let is_gone = |failure: &&Failure| failure.errno == Errno::ENODEV;
            wait_until("all requests fail", || load.failures().iter().filter(is_gone).count() >= DEPTH);
        });
        wait_until("it is told", || failure(&rig, 1).is_some() && changes(&rig, 1) == 1);
        other.wait_for_more("the other namespace");
    });
    // Until the driver has heard of it, QEMU says Invalid Field.
    let (early, failures): (Vec<_>, Vec<_>) =
        failures.into_iter().partition(|failure| failure.errno == Errno::EINVAL);
    assert_in_time(&early, Some(Errno::EINVAL));
    assert_in_time(&failures, Some(Errno::ENODEV));
    assert_in_time(&others, None);
    let reason = failure(&rig, 1).expect("it was told");
    assert!(reason.contains("detached"), "{reason}");
    assert_failed(&backend);

    // QEMU 10.0 looks whether the namespace is attached to the controller that is asked, instead of the one that is named.
    attach(&manager, &manager, 1, false);
    attach(&manager, &rig.controller, 1, true);
    wait_until("it is told", || changes(&rig, 1) == 2);
    assert_failed(&backend);
    drop(backend);
    let backend = rig.backend(1);
    in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
        let (result, buffer) = channel.read_at(END, memory(64 << 10)).await;
        result.expect("it is read");
        assert_same(&bytes_of(&buffer), &pattern_bytes(3, 64 << 10));
    });
    assert_in_time(&under_load(&backend, |load| load.wait_for_more("again")), None);
    assert_eq!(rig.controller.resets(), 0);
}

/// QEMU tells nobody of a format: it is found at the next reset.
fn formatted(guest: &Guest) {
    let rig = Rig::new(guest, "shared");
    let manager = start(guest, "manager");
    let backend = rig.backend(2);
    assert_eq!(backend.limits().request_alignment, 512);
    admin(&manager, FORMAT_NVM, 2, FORMAT_4K, &[]);
    let reset = guest.function("shared").sysfs().join("reset");
    std::fs::write(&reset, "1").unwrap_or_else(|err| panic!("{}: {err}", reset.display()));
    rig.wait_for_resets(1);
    wait_until("it is told", || failure(&rig, 2).is_some());
    let reason = failure(&rig, 2).expect("it was told");
    assert!(
        reason.contains("blocks of 2^12 bytes") && reason.contains("opened with blocks of 2^9"),
        "{reason}"
    );
    assert_failed(&backend);
    drop(backend);
    let backend = rig.backend(2);
    assert_eq!((backend.limits().request_alignment, backend.length()), (4096, 64 * MIB));
    assert_in_time(&under_load(&backend, |load| load.wait_for_more("afterwards")), None);
    // As the others find it.
    drop(backend);
    admin(&manager, FORMAT_NVM, 2, 0, &[]);
}

/// The namespace is taken out and put in again with more or less of the same file, while the guest stands still, so that it never
/// sees it gone.
fn resized(guest: &Guest) {
    let rig = Rig::new(guest, "resized");
    let backend = rig.backend(1);
    assert_eq!(backend.length(), 32 * MIB);
    let told = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&told);
    backend.on_change(move |change| {
        if let DeviceChange::Resized { length_bytes } = change {
            theirs.store(length_bytes, Ordering::Relaxed);
        }
    });
    let failures = under_load(&backend, |load| {
        for len_mib in [64, 16, 48] {
            load.wait_for_more("before");
            replace(guest, len_mib);
            wait_until("the new length is told", || told.load(Ordering::Relaxed) == len_mib * MIB);
            assert_eq!(backend.length(), len_mib * MIB);
            wait_until("the event is told", || {
                rig.saw(|event| {
                    matches!(event, ControllerEvent::Resized { nsid: Nsid(1), blocks } if blocks * 512 == len_mib * MIB)
                })
            });
            load.wait_for_more("afterwards");
            at_the_end(&backend, len_mib * MIB);
        }
    });
    assert_in_time(&failures, None);
    assert_eq!((failure(&rig, 1), rig.controller.resets()), (None, 0));
}

fn replace(guest: &Guest, len_mib: u64) {
    let node = format!("resized-part-{len_mib}");
    let part = json!({ "driver": "raw", "node-name": node, "size": len_mib * MIB, "file": "resized-1-file" });
    let mut namespace = json!({
        "driver": "nvme-ns", "id": "ns-resized-1", "bus": "resized", "drive": node, "nsid": 1,
    });
    for option in machines::RESIZED_OPTIONS.split(',') {
        let (name, value) = option.split_once('=').expect("options have values");
        namespace[name] = if value == "on" { true.into() } else { value.into() };
    }
    let commands =
        [("blockdev-add", part), ("device_del", json!({ "id": "ns-resized-1" })), ("device_add", namespace)];
    let commands = commands.map(|(name, arguments)| (name.to_owned(), arguments)).into();
    guest.ask(&Request::Stopped { commands });
}

/// The last bytes can be used, and none behind them.
fn at_the_end(backend: &BlockBackend, length: u64) {
    in_lane(&AioConfig::default(), backend, 8, move |channel| async move {
        channel.write_at(length - 4096, pattern(length, 4096)).await.0.expect("it is written");
        let (result, buffer) = channel.read_at(length - 4096, memory(4096)).await;
        result.expect("it is read");
        assert_same(&bytes_of(&buffer), &pattern_bytes(length, 4096));
        let error = channel.read_at(length, memory(4096)).await.0.expect_err("it is behind the end");
        assert_eq!(error.errno, Errno::EIO, "{error}");
    });
}
