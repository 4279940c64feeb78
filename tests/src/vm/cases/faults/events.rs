//! What a controller tells by itself: of its health, and of its namespaces.

use corelane_drivers::nvme::ControllerEvent;
use corelane_drivers::nvme::spec::log::CriticalWarning;
use corelane_engine::aio::AioConfig;
use corelane_engine::block::Errno;
use serde_json::json;

use super::case;
use super::load::under_load;
use super::rig::{Rig, assert_in_time, wait_until};
use crate::vm::cases::nvme::rig::{assert_same, bytes_of, in_lane, memory, pattern, pattern_bytes};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("faults::a_warning_of_its_health_under_load_is_told", health),
    case("faults::a_namespace_is_resized_under_load", resized),
];

/// Each of them is told, so that a request for events is with the controller again after each.
fn health(guest: &Guest) {
    let rig = Rig::new(guest, "events");
    let warn = |warnings: CriticalWarning| {
        let (path, value) = ("/machine/peripheral/events", warnings.bits());
        guest.qmp("qom-set", json!({ "path": path, "property": "smart_critical_warning", "value": value }));
    };
    let failures = under_load(&rig.backend(1), |load| {
        let mut all = CriticalWarning::empty();
        for one in [CriticalWarning::SPARE, CriticalWarning::READ_ONLY, CriticalWarning::BACKUP] {
            all |= one;
            warn(all);
            wait_until("the warning is told", || {
                rig.saw(|event| matches!(event, ControllerEvent::Health { warning, .. } if *warning == all))
            });
            load.wait_for_more("meanwhile");
        }
        warn(CriticalWarning::empty());
    });
    assert_in_time(&failures, None);
    assert_eq!(rig.controller.resets(), 0);
}

fn resized(guest: &Guest) {
    const MIB: u64 = 1 << 20;
    let rig = Rig::new(guest, "resized");
    let backend = rig.backend(1);
    let write = |offset: u64| {
        in_lane(&AioConfig::default(), &backend, 8, move |channel| async move {
            channel.write_at(offset, pattern(offset, 4096)).await.0.map_err(|error| error.errno)
        })
    };
    let failures = under_load(&backend, |load| {
        load.wait_for_more("before");
        assert_eq!(backend.length(), 64 * MIB);
        assert_eq!(write(80 * MIB), Err(Errno::EIO), "beyond its end");
        for mib in [96, 32, 128] {
            guest.qmp("block_resize", json!({ "node-name": "resized-1", "size": mib * MIB }));
            wait_until("the backend has the new length", || backend.length() == mib * MIB);
            assert_eq!(write(mib * MIB - 4096), Ok(()));
            assert_eq!(write(mib * MIB), Err(Errno::EIO), "beyond its end");
            load.wait_for_more("meanwhile");
        }
    });
    assert_in_time(&failures, None);
    assert!(rig.saw(|event| matches!(event, ControllerEvent::Resized { .. })));
    assert_eq!(rig.controller.resets(), 0);
    // What was in the part that it has lost has gone with it.
    in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
        let end = 128 * MIB - 4096;
        let (result, found) = channel.read_at(end, memory(4096)).await;
        result.expect("it is read");
        assert_same(&bytes_of(&found), &pattern_bytes(end, 4096));
        let (result, found) = channel.read_at(96 * MIB - 4096, memory(4096)).await;
        result.expect("it is read");
        assert_same(&bytes_of(&found), &[0; 4096]);
    });
}
