//! Controllers that our driver has to bring back, or to give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use corelane_drivers::nvme::ControllerEvent;
use corelane_engine::aio::AioConfig;
use corelane_engine::block::Errno;
use serde_json::json;

use super::case;
use super::load::{DEPTH, under_load};
use super::rig::{DEADLINE, GRACE, Rig, assert_in_time, wait_until};
use crate::vm::cases::nvme::rig::{assert_same, bytes_of, in_lane, memory, pattern, pattern_bytes};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("faults::a_command_that_is_held_back_is_late_and_comes", held),
    case("faults::a_disk_slower_than_its_deadline_times_out", slow),
    case("faults::a_function_that_is_reset_under_load_goes_on", function_reset),
    case("faults::a_fatal_status_under_load_is_recovered_from", fatal_status),
    case("faults::memory_decoding_that_is_switched_off_under_load_is_switched_on_again", decode_off),
];

/// Bits of COMMAND in the configuration space (PCI Local Bus specification 3.0, 6.2.2).
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// The command comes back after its deadline and its abort, but before its controller is reset for it. QEMU marks a command
/// that it is to abort, and ends it so when it comes.
fn held(guest: &Guest) {
    const AT: u64 = 1 << 20;
    let rig = Rig::new(guest, "held");
    let backend = rig.backend(1);
    in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
        channel.write_at(AT, pattern(5, 4096)).await.0.expect("it is written");
    });
    guest.monitor(r#"qemu-io -d ns-held-1 "break read_aio late""#);
    let (start, ended) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let theirs = Arc::clone(&ended);
    let (found, others) = std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
                let (ctx, over) = (channel.context().clone(), Arc::clone(&theirs));
                let late = std::rc::Rc::clone(&channel);
                let late = ctx.spawn(async move {
                    let (result, buffer) = late.read_at(AT, memory(4096)).await;
                    theirs.store(true, Ordering::Relaxed);
                    result.map(|()| bytes_of(&buffer))
                });
                // Only reads are held.
                let mut others = 0;
                while !over.load(Ordering::Relaxed) {
                    channel.write_at(0, pattern(others, 4096)).await.0.expect("others go on");
                    others += 1;
                }
                (late.await, others)
            })
        });
        wait_until("the command is late", || rig.saw(|event| matches!(event, ControllerEvent::Late { .. })));
        assert!(start.elapsed() >= DEADLINE, "it is late after {:?}", start.elapsed());
        assert!(!ended.load(Ordering::Relaxed), "its memory is the controller's until it comes");
        guest.monitor(r#"qemu-io -d ns-held-1 "resume late""#);
        read.join().expect("the lane ended well")
    });
    assert!(start.elapsed() < DEADLINE + GRACE, "{:?}", start.elapsed());
    match found {
        Ok(bytes) => assert_same(&bytes, &pattern_bytes(5, 4096)),
        Err(error) => assert_eq!(error.errno, Errno::ETIMEDOUT, "{error}"),
    }
    assert!(others > 50, "only {others} others meanwhile");
    assert_in_time(&under_load(&backend, |load| load.wait_for_more("afterwards")), None);
    assert_eq!(rig.controller.resets(), 0, "the abort was enough");
}

fn slow(guest: &Guest) {
    let rig = Rig::new(guest, "slow");
    let limit = |iops: u64| {
        let limits = json!({ "iops-total": iops });
        guest
            .qmp("qom-set", json!({ "path": "/objects/slow-slow-1", "property": "limits", "value": limits }));
    };
    let failures = under_load(&rig.backend(1), |load| {
        load.wait_for_more("before");
        limit(1);
        wait_until("requests fail", || !load.failures().is_empty());
        limit(0);
        load.wait_for_more("afterwards");
    });
    assert!(failures.len() <= 2 * DEPTH, "it works again: {failures:?}");
    assert_in_time(&failures, Some(Errno::ETIMEDOUT));
    rig.wait_for_resets(0);
}

/// By the kernel, which tells nobody.
fn function_reset(guest: &Guest) {
    let rig = Rig::new(guest, "reset");
    let reset = guest.function("reset").sysfs().join("reset");
    let failures = under_load(&rig.backend(1), |load| {
        for round in 1..=3 {
            load.wait_for_more("before");
            std::fs::write(&reset, "1").unwrap_or_else(|err| panic!("{}: {err}", reset.display()));
            rig.wait_for_resets(round);
            load.wait_for_more("afterwards");
        }
    });
    assert_in_time(&failures, None);
}

/// A controller that cannot read its queues any more reports a fatal status.
fn fatal_status(guest: &Guest) {
    let rig = Rig::new(guest, "fatal");
    let failures = under_load(&rig.backend(1), |load| {
        load.wait_for_more("before");
        rig.clear_command_bit(BUS_MASTER);
        rig.wait_for_resets(1);
        load.wait_for_more("afterwards");
    });
    assert!(rig.saw(|event| matches!(event, ControllerEvent::Reset { reason } if reason.contains("fatal"))));
    assert_in_time(&failures, None);
}

/// The next access to a register is a SIGBUS.
fn decode_off(guest: &Guest) {
    let rig = Rig::new(guest, "decode");
    let failures = under_load(&rig.backend(1), |load| {
        for round in 1..=3 {
            load.wait_for_more("before");
            rig.clear_command_bit(MEMORY_SPACE);
            rig.wait_for_resets(round);
            load.wait_for_more("afterwards");
        }
    });
    assert_in_time(&failures, None);
}
