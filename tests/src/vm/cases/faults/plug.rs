//! Controllers that are pulled out and put in again, and whose link fails.

use std::path::Path;

use corelane_drivers::nvme::ControllerEvent;
use corelane_drivers::nvme::recovery::State;
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::Errno;

use super::case;
use super::load::{DEPTH, END, under_load};
use super::rig::{Rig, assert_in_time, wait_until};
use crate::vm::cases::nvme::rig::{assert_same, bytes_of, in_lane, memory, pattern, pattern_bytes};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("faults::the_kernel_sees_a_controller_go_and_come", kernel_sees_it),
    case("faults::a_controller_is_pulled_out_under_load_and_put_in_again", pulled_out),
    case("faults::a_link_error_under_load_is_recovered_from", link_error),
    case("faults::a_fatal_link_error_under_load_is_recovered_from", fatal_link_error),
];

const PULLED: &str = "pulled";
const LINKED: &str = "linked";

/// The machine does what the other cases need, as Linux's own driver sees it.
fn kernel_sees_it(guest: &Guest) {
    let function = guest.function(PULLED);
    for _ in 0..2 {
        let device = function.bind_kernel(1);
        guest.pull_out(PULLED);
        guest.wait_for_removal();
        assert!(!Path::new(&device).exists(), "{} is gone", device.display());
        guest.put_in(PULLED);
        function.wait_until_found();
    }
}

/// The kernel asks for the function (VFIO's request notice) and waits until we have let go of it.
fn pulled_out(guest: &Guest) {
    let function = guest.function(PULLED);
    for salt in 0..2 {
        let rig = Rig::new(guest, PULLED);
        let backend = rig.backend(1);
        in_lane(&AioConfig::default(), &backend, 8, move |channel| async move {
            channel.write_at(END, pattern(salt, 64 << 10)).await.0.expect("it is written");
            channel.flush().await.expect("it is flushed");
        });
        let failures = under_load(&backend, |load| {
            load.wait_for_more("before");
            guest.pull_out(PULLED);
            wait_until("all requests fail", || load.failures().len() >= DEPTH);
        });
        assert!(rig.saw(|event| matches!(event, ControllerEvent::RemovalRequested)));
        assert!(rig.saw(|event| matches!(event, ControllerEvent::Failed { gone: true, .. })));
        assert_in_time(&failures, Some(Errno::ENODEV));
        // And nobody who comes later gets it.
        let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
        let refused = backend.channel(&ctx, 8).err().expect("it is gone").to_string();
        assert!(refused.contains("is asked for by the host"), "{refused}");
        ctx.shutdown();
        drop((backend, rig));
        guest.wait_for_removal();
        assert!(!function.sysfs().exists());
        guest.put_in(PULLED);
        function.wait_until_found();
        let rig = Rig::new(guest, PULLED);
        in_lane(&AioConfig::default(), &rig.backend(1), 8, move |channel| async move {
            let (result, buffer) = channel.read_at(END, memory(64 << 10)).await;
            result.expect("it is read");
            assert_same(&bytes_of(&buffer), &pattern_bytes(salt, 64 << 10));
        });
        assert_in_time(&under_load(&rig.backend(1), |load| load.wait_for_more("again")), None);
    }
}

/// The port reports an error of PCI Express's advanced error reporting, and the kernel tells us (VFIO's error notice).
fn with_error(guest: &Guest, error: &str, errno: Option<Errno>) {
    let rig = Rig::new(guest, LINKED);
    let failures = under_load(&rig.backend(1), |load| {
        load.wait_for_more("before");
        guest.inject_link_error(LINKED, error);
        rig.wait_for_resets(1);
        load.wait_for_more("afterwards");
    });
    assert!(rig.saw(|event| matches!(event, ControllerEvent::LinkError)));
    assert_in_time(&failures, errno);
    assert_eq!(rig.controller.state(), State::Running);
}

/// A completion that did not come is an error after which the kernel leaves the link as it is.
fn link_error(guest: &Guest) {
    with_error(guest, "COMP_TIME", None);
}

/// A data link protocol error is one after which the kernel resets all that is below the port. It takes its time for that, so that
/// requests may be late by then.
fn fatal_link_error(guest: &Guest) {
    with_error(guest, "DLP", Some(Errno::ETIMEDOUT));
}
