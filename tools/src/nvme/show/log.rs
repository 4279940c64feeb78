//! Log pages, field by field (Base 5.16.1), with nvme-cli's names.

use serde_json::{Map, Value};

use crate::nvme::fields::Kind::{Number, Wide};
use crate::nvme::fields::{Field, lines, number, object};

const HEALTH: &[Field] = &[
    ("critical_warning", 0, Number(1), true),
    ("temperature", 1, Number(2), false),
    ("avail_spare", 3, Number(1), false),
    ("spare_thresh", 4, Number(1), false),
    ("percent_used", 5, Number(1), false),
    ("endurance_grp_critical_warning_summary", 6, Number(1), true),
    ("data_units_read", 32, Wide, false),
    ("data_units_written", 48, Wide, false),
    ("host_read_commands", 64, Wide, false),
    ("host_write_commands", 80, Wide, false),
    ("controller_busy_time", 96, Wide, false),
    ("power_cycles", 112, Wide, false),
    ("power_on_hours", 128, Wide, false),
    ("unsafe_shutdowns", 144, Wide, false),
    ("media_errors", 160, Wide, false),
    ("num_err_log_entries", 176, Wide, false),
    ("warning_temp_time", 192, Number(4), false),
    ("critical_comp_time", 196, Number(4), false),
];

/// Behind the sensors.
const THERMAL: &[Field] = &[
    ("thm_temp1_trans_count", 216, Number(4), false),
    ("thm_temp2_trans_count", 220, Number(4), false),
    ("thm_temp1_total_time", 224, Number(4), false),
    ("thm_temp2_total_time", 228, Number(4), false),
];
const SENSORS: usize = 200;

/// The temperatures of the sensors that are there, in kelvins.
fn sensors(bytes: &[u8]) -> impl Iterator<Item = (String, u64)> {
    (0..8).filter_map(|index| {
        let kelvins = number(bytes, SENSORS + index * 2, 2);
        (kelvins != 0).then(|| (format!("temperature_sensor_{}", index + 1), kelvins))
    })
}

/// `smart-log`, in JSON.
pub fn health_json(bytes: &[u8]) -> Value {
    let mut all = object(bytes, HEALTH);
    all.extend(sensors(bytes).map(|(name, kelvins)| (name, kelvins.into())));
    all.extend(object(bytes, THERMAL));
    all.into()
}

/// `smart-log`, for people.
pub fn health(bytes: &[u8], title: &str, nsid: u32) -> String {
    let mut out = format!("Smart Log for NVME device:{title} namespace-id:{nsid:x}\n");
    out += &lines(bytes, HEALTH, 40);
    for (name, kelvins) in sensors(bytes) {
        out += &format!("{name:<40}: {kelvins}\n");
    }
    out + &lines(bytes, THERMAL, 40)
}

/// An entry of the error log: 64 bytes (Base figure 206). Its status and phase tag are apart in what is shown.
const ERROR: &[Field] = &[
    ("error_count", 0, Number(8), false),
    ("sqid", 8, Number(2), false),
    ("cmdid", 10, Number(2), true),
    ("status_field", 12, Number(2), true),
    ("phase_tag", 12, Number(2), true),
    ("parm_error_location", 14, Number(2), true),
    ("lba", 16, Number(8), true),
    ("nsid", 24, Number(4), true),
    ("vs", 28, Number(1), false),
    ("trtype", 29, Number(1), false),
    ("cs", 32, Number(8), true),
    ("trtype_spec_info", 40, Number(2), true),
];
/// The length of an entry.
pub const ERROR_BYTES: usize = 64;

fn error(entry: &[u8]) -> Map<String, Value> {
    let mut all = object(entry, ERROR);
    let status_and_phase = number(entry, 12, 2);
    all.insert("status_field".to_owned(), (status_and_phase >> 1).into());
    all.insert("phase_tag".to_owned(), (status_and_phase & 1).into());
    all
}

/// `error-log`, in JSON.
pub fn errors_json(bytes: &[u8]) -> Value {
    let entries: Vec<Value> = bytes.chunks_exact(ERROR_BYTES).map(|entry| error(entry).into()).collect();
    Map::from_iter([("errors".to_owned(), entries.into())]).into()
}

/// `error-log`, for people.
pub fn errors(bytes: &[u8], title: &str) -> String {
    let entries = bytes.chunks_exact(ERROR_BYTES);
    let mut out = format!("Error Log Entries for device:{title} entries:{}\n", entries.len());
    for (index, entry) in entries.enumerate() {
        out += &format!(".................\n Entry[{index:>2}]\n.................\n");
        for (name, value) in error(entry) {
            out += &format!("{name:<20}: {value}\n");
        }
    }
    out
}

/// The revision in a firmware slot, if there is one: as a number, and as text with dots for what is no letter or digit.
fn revision(bytes: &[u8], slot: usize) -> Option<(u64, String)> {
    let revision = bytes.get(8 * (slot + 1)..8 * (slot + 2))?;
    let readable =
        |byte: &u8| if byte.is_ascii_alphanumeric() || *byte == b'.' { char::from(*byte) } else { '.' };
    (revision[0] != 0).then(|| (number(revision, 0, 8), revision.iter().map(readable).collect()))
}

/// `fw-log`, in JSON: an object with the controller's name.
pub fn firmware_json(bytes: &[u8], title: &str) -> Value {
    let mut slots = Map::new();
    slots.insert("Active Firmware Slot (afi)".to_owned(), number(bytes, 0, 1).into());
    for slot in 0..7 {
        if let Some((number, text)) = revision(bytes, slot) {
            slots.insert(format!("Firmware Rev Slot {}", slot + 1), format!("{number} ({text})").into());
        }
    }
    Map::from_iter([(title.to_owned(), slots.into())]).into()
}

/// `fw-log`, for people.
pub fn firmware(bytes: &[u8], title: &str) -> String {
    let mut out = format!("Firmware Log for device:{title}\nafi  : {:#x}\n", number(bytes, 0, 1));
    for slot in 0..7 {
        if let Some((number, text)) = revision(bytes, slot) {
            out += &format!("frs{} : {number:#018x} ({text})\n", slot + 1);
        }
    }
    out
}

/// A zone's descriptor: 64 bytes (ZNS figure 37), behind a header of as many.
pub const ZONE_BYTES: usize = 64;

/// The names of the states (ZNS figure 38).
fn zone_state(state: u8) -> &'static str {
    match state {
        0x1 => "EMPTY",
        0x2 => "IMP_OPENED",
        0x3 => "EXP_OPENED",
        0x4 => "CLOSED",
        0xd => "READONLY",
        0xe => "FULL",
        0xf => "OFFLINE",
        _ => "Unknown State",
    }
}

const ZONE: &[Field] = &[
    ("slba", 16, Number(8), true),
    ("wp", 24, Number(8), true),
    ("cap", 8, Number(8), true),
    ("state", 1, Number(1), true),
    ("type", 0, Number(1), true),
    ("attrs", 2, Number(1), true),
];

/// `zns report-zones`, in JSON. `zones` are descriptors, `count` is how many the namespace has.
pub fn zones_json(zones: &[u8], count: u64) -> Value {
    let zone = |zone: &[u8]| {
        let mut all = object(zone, ZONE);
        all.insert("state".to_owned(), zone_state(zone[1] >> 4).into());
        let kind = if zone[0] & 0xf == 2 { "SEQWRITE_REQ" } else { "Unknown" };
        all.insert("type".to_owned(), kind.into());
        all.into()
    };
    let list: Vec<Value> = zones.chunks_exact(ZONE_BYTES).map(zone).collect();
    Map::from_iter([("nr_zones".to_owned(), count.into()), ("zone_list".to_owned(), list.into())]).into()
}

/// `zns report-zones`, for people.
pub fn zones(zones: &[u8], count: u64) -> String {
    let mut out = format!("nr_zones: {count}\n");
    for zone in zones.chunks_exact(ZONE_BYTES) {
        let [slba, wp, cap] = [16, 24, 8].map(|at| format!("{:#x}", number(zone, at, 8)));
        let state = zone_state(zone[1] >> 4);
        out += &format!("SLBA: {slba:<10} WP: {wp:<10} Cap: {cap:<10} State: {state:<10} ");
        out += &format!("Type: {:#x}  Attrs: {:#x}\n", zone[0] & 0xf, zone[2]);
    }
    out
}

/// The first blocks of the zones that changed: the list (ZNS figure 43) has up to 511 numbers.
pub fn changed_zones(bytes: &[u8]) -> Vec<u64> {
    let count = (number(bytes, 0, 2) as usize).min(511);
    (0..count).map(|index| number(bytes, 8 * (index + 1), 8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_left_out() {
        let mut health = vec![0; 512];
        health[1..3].copy_from_slice(&323u16.to_le_bytes());
        health[202] = 50;
        let json = health_json(&health);
        assert_eq!((&json["temperature"], &json["temperature_sensor_2"]), (&323.into(), &50.into()));
        assert!(json.get("temperature_sensor_1").is_none());
        let mut firmware = vec![0; 512];
        (firmware[0], firmware[16]) = (2, b'1');
        firmware[17..24].copy_from_slice(b".0     ");
        let json = firmware_json(&firmware, "nvme0");
        assert_eq!(json["nvme0"]["Firmware Rev Slot 2"], "2314885530819505713 (1.0.....)");
        assert!(json["nvme0"].get("Firmware Rev Slot 1").is_none());
    }

    #[test]
    fn an_errors_status_and_phase_are_apart() {
        let mut entry = vec![0; 128];
        entry[12..14].copy_from_slice(&0x4005u16.to_le_bytes());
        let json = errors_json(&entry);
        let first = &json["errors"][0];
        assert_eq!((&first["status_field"], &first["phase_tag"]), (&0x2002.into(), &1.into()));
        assert_eq!(json["errors"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn zones_have_names_for_their_states() {
        let mut zone = vec![0; 64];
        (zone[0], zone[1], zone[16]) = (2, 0xe0, 8);
        let json = zones_json(&zone, 9);
        assert_eq!((&json["nr_zones"], &json["zone_list"][0]["state"]), (&9.into(), &"FULL".into()));
        assert!(zones(&zone, 9).contains("SLBA: 0x8"));
        assert_eq!(changed_zones(&[0xff; 16]).len(), 511);
    }
}
