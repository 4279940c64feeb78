//! What a controller tells by itself: of its health. Of namespaces it tells in `namespaces.rs`.

use corelane_drivers::nvme::ControllerEvent;
use corelane_drivers::nvme::spec::log::CriticalWarning;
use serde_json::json;

use super::case;
use super::load::under_load;
use super::rig::{Rig, assert_in_time, wait_until};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[case("faults::a_warning_of_its_health_under_load_is_told", health)];

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
