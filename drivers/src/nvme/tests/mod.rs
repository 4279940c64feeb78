//! The driver on a controller that does what a script says ([`fake`]): how it starts, ends and fails.

mod fake;
mod faults;
mod recovery;
mod rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_engine::block::BlockDriver;

use super::spec::Nsid;
use super::spec::command::Command;
use super::spec::feature;
use super::spec::identify::{AdminCommands, IdentifyController};
use super::spec::opcode::admin;
use super::spec::register::Configuration;
use super::spec::status::{Status, code_type};
use super::{ControllerOptions, NvmeController, NvmeDriver, NvmeError, NvmeOptions};
use fake::{CAP, Fake, Script};

const OPTIONS: ControllerOptions = ControllerOptions {
    queues: 2,
    admin_timeout_ms: 300,
    io_timeout_ms: 100,
    io_retries: 2,
    resets: 2,
    shadow_doorbells: true,
    queues_in_controller: false,
    host_memory_bytes: 0,
};

fn start(script: Script) -> (Arc<Fake>, Result<Arc<NvmeController>, NvmeError>) {
    let fake = Fake::new(script);
    let controller = NvmeController::start(Arc::clone(&fake) as _, &OPTIONS);
    (fake, controller)
}

fn refusal(script: Script) -> String {
    let (fake, controller) = start(script);
    let error = controller.expect_err("a controller that cannot be used").to_string();
    assert_eq!(fake.mappings(), 0, "memory stays mapped after: {error}");
    error
}

#[test]
fn a_controller_is_enabled_and_shut_down_in_order() {
    let (fake, controller) = start(Script::default());
    let controller = controller.unwrap();
    assert_eq!(controller.queue_count(), 2);
    drop(controller);
    let on = Configuration::enabled(12, false);
    let expected = [on.disabled().0, on.0, on.shutting_down().0, on.disabled().0];
    assert_eq!(fake.configured(), expected);
    assert_eq!(fake.mappings(), 0);
}

#[test]
fn a_controller_that_never_says_that_it_is_shut_down_is_closed_in_its_time() {
    let (fake, controller) = start(Script { never_shut_down: true, ..Script::default() });
    let controller = controller.unwrap();
    let start = Instant::now();
    drop(controller);
    // It asks for 1 ms (RTD3E), and is given half a second.
    let took = start.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&took), "it took {took:?}");
    let off = Configuration::enabled(12, false).disabled().0;
    assert_eq!((fake.configured().last(), fake.mappings()), (Some(&off), 0), "it is disabled all the same");
}

#[test]
fn what_cannot_be_driven_is_refused_by_name() {
    // CRMS says that there is CRTO, which reads as all ones.
    let no_time = CAP | 1 << 59;
    let cases: [(&str, Script); 11] = [
        ("CAP reads as all ones", Script { cap: u64::MAX, ..Script::default() }),
        ("CAP.MQES is 0", Script { cap: CAP & !0xffff, ..Script::default() }),
        ("CAP.MPSMIN is 2", Script { cap: CAP | 2 << 48 | 2 << 52, ..Script::default() }),
        ("NVM command set", Script { cap: CAP & !(1 << 37), ..Script::default() }),
        ("did not become ready", Script { never_ready: true, ..Script::default() }),
        ("within 500 ms", Script { never_ready: true, cap: no_time, ..Script::default() }),
        ("a fatal error while being enabled", Script { fatal: true, ..Script::default() }),
        ("CQES and SQES", Script { identify: |identify| identify.sqes = 0x77, ..Script::default() }),
        ("NN is 0", Script { identify: |identify| identify.nn.set(0), ..Script::default() }),
        ("CNTRLTYPE is 2", Script { identify: |identify| identify.cntrltype = 2, ..Script::default() }),
        ("Set Features (number of queues) failed: Invalid Field in Command", {
            Script { refuse: Some((admin::SET_FEATURES, Status::INVALID_FIELD.0)), ..Script::default() }
        }),
    ];
    for (what, script) in cases {
        let error = refusal(script);
        assert!(error.contains(what), "'{error}' should say '{what}'");
    }
}

#[test]
fn an_admin_command_that_is_not_answered_ends_the_controller() {
    let error = refusal(Script { ignore: |command| command.opcode == admin::IDENTIFY, ..Script::default() });
    assert!(error.contains("Identify (controller) was not answered within 300 ms"), "{error}");
    // One that cannot be disabled either is reset.
    let (fake, controller) = start(Script {
        ignore: |command| command.opcode == admin::IDENTIFY,
        never_disabled: true,
        ..Script::default()
    });
    assert!(controller.is_err());
    assert_eq!((fake.resets(), fake.mappings()), (1, 0));
    // What nothing stops keeps its memory.
    let (fake, controller) = start(Script {
        ignore: |command| command.opcode == admin::IDENTIFY,
        never_disabled: true,
        no_reset: true,
        ..Script::default()
    });
    assert!(controller.is_err());
    assert!(fake.mappings() > 0);
}

/// Until it has stopped, it may look at them and write to them.
#[test]
fn shadow_doorbells_stay_mapped_until_a_controller_whose_start_failed_has_stopped() {
    let unanswered: [fn(&Command) -> bool; 3] = [
        |command| command.opcode == admin::DOORBELL_BUFFER_CONFIG,
        |command| is_set_feature(command, feature::id::HOST_BEHAVIOR),
        |command| is_set_feature(command, feature::id::ASYNC_EVENTS),
    ];
    for ignore in unanswered {
        let identify = |identify: &mut IdentifyController| {
            identify.oacs.set(AdminCommands::DOORBELL_BUFFERS.bits());
            identify.crdt[0].set(1);
        };
        let (fake, controller) = start(Script { ignore, identify, ..Script::default() });
        let error = controller.expect_err("it was not answered");
        assert_eq!((fake.shadow_at_end(), fake.mappings()), (2, 0), "{error}");
    }
}

fn is_set_feature(command: &Command, id: u8) -> bool {
    command.opcode == admin::SET_FEATURES && command.cdw10[0] as u8 == id
}

#[test]
fn namespaces_are_found_by_number_or_are_told() {
    let (_fake, controller) = start(Script { active: [2, 4, 0], ..Script::default() });
    let controller = controller.unwrap();
    assert_eq!(controller.active_namespaces().unwrap(), [Nsid(2), Nsid(4)]);
    let options = NvmeOptions::default();
    let error = NvmeDriver::open_default(&controller, &options).expect_err("two, and no 1").to_string();
    assert!(error.contains("no active namespace 1; active are: 2, 4"), "{error}");
    assert_eq!(NvmeDriver::open(&controller, Nsid(4), &options).unwrap().nsid(), Nsid(4));
    let (_fake, controller) = start(Script { active: [3, 0, 0], ..Script::default() });
    let driver = NvmeDriver::open_default(&controller.unwrap(), &options).unwrap();
    assert_eq!((driver.nsid(), driver.length().unwrap()), (Nsid(3), 4 << 30));
    assert_eq!(driver.limits().max_transfer, 128 << 10);
}

#[test]
fn a_list_of_namespaces_that_is_not_in_order_is_absurd() {
    for active in [[2, 1, 0], [1, 1, 0], [1, u32::MAX, 0]] {
        let (_fake, controller) = start(Script { active, ..Script::default() });
        let error = controller.unwrap().active_namespaces().expect_err("disorder").to_string();
        assert!(error.contains("the active namespaces"), "{error}");
    }
}

#[test]
fn a_write_protected_namespace_opens_read_only() {
    let (_fake, controller) =
        start(Script { namespace: |identify| identify.nsattr = 1, ..Script::default() });
    let controller = controller.unwrap();
    let error = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).expect_err("protected");
    assert!(error.to_string().contains("read-only=on"), "{error}");
    let read_only = NvmeOptions { read_only: true, ..NvmeOptions::default() };
    assert!(NvmeDriver::open(&controller, Nsid(1), &read_only).unwrap().read_only());
}

#[test]
fn a_status_names_itself_in_errors_of_requests() {
    let (_fake, controller) = start(Script::default());
    let error = Status::of(code_type::MEDIA, 0x81).to_io_error();
    assert!(error.to_string().contains("0x281: Unrecovered Read Error"), "{error}");
    drop(controller);
}
