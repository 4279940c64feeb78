//! `id-ctrl`, `id-ns` and the identify structures of zoned namespaces, field by field (Base figure 275, NVM figure 97, ZNS
//! figures 47 to 50), with nvme-cli's names.

use serde_json::{Map, Value};

use crate::nvme::fields::Kind::{Hex, Int, Number, Text, Uuid, Wide};
use crate::nvme::fields::{Field, hexadecimal_or_not, json, lines, number, object, shown};

const CONTROLLER: &[Field] = &[
    ("vid", 0, Number(2), true),
    ("ssvid", 2, Number(2), true),
    ("sn", 4, Text(20), false),
    ("mn", 24, Text(40), false),
    ("fr", 64, Text(8), false),
    ("rab", 72, Number(1), false),
    ("ieee", 73, Number(3), true),
    ("cmic", 76, Number(1), true),
    ("mdts", 77, Number(1), false),
    ("cntlid", 78, Number(2), true),
    ("ver", 80, Number(4), true),
    ("rtd3r", 84, Number(4), true),
    ("rtd3e", 88, Number(4), true),
    ("oaes", 92, Number(4), true),
    ("ctratt", 96, Int, true),
    ("rrls", 100, Number(2), true),
    ("cntrltype", 111, Number(1), false),
    ("fguid", 112, Uuid, false),
    ("crdt1", 128, Number(2), false),
    ("crdt2", 130, Number(2), false),
    ("crdt3", 132, Number(2), false),
    ("nvmsr", 253, Number(1), false),
    ("vwci", 254, Number(1), false),
    ("mec", 255, Number(1), false),
    ("oacs", 256, Number(2), true),
    ("acl", 258, Number(1), false),
    ("aerl", 259, Number(1), false),
    ("frmw", 260, Number(1), true),
    ("lpa", 261, Number(1), true),
    ("elpe", 262, Number(1), false),
    ("npss", 263, Number(1), false),
    ("avscc", 264, Number(1), true),
    ("apsta", 265, Number(1), true),
    ("wctemp", 266, Number(2), false),
    ("cctemp", 268, Number(2), false),
    ("mtfa", 270, Number(2), false),
    ("hmpre", 272, Number(4), false),
    ("hmmin", 276, Number(4), false),
    ("tnvmcap", 280, Wide, false),
    ("unvmcap", 296, Wide, false),
    ("rpmbs", 312, Number(4), true),
    ("edstt", 316, Number(2), false),
    ("dsto", 318, Number(1), false),
    ("fwug", 319, Number(1), false),
    ("kas", 320, Number(2), false),
    ("hctma", 322, Number(2), true),
    ("mntmt", 324, Number(2), false),
    ("mxtmt", 326, Number(2), false),
    ("sanicap", 328, Int, true),
    ("hmminds", 332, Int, false),
    ("hmmaxd", 336, Number(2), false),
    ("nsetidmax", 338, Number(2), false),
    ("endgidmax", 340, Number(2), false),
    ("anatt", 342, Number(1), false),
    ("anacap", 343, Number(1), false),
    ("anagrpmax", 344, Int, false),
    ("nanagrpid", 348, Int, false),
    ("pels", 352, Int, false),
    ("domainid", 356, Number(2), false),
    ("megcap", 368, Wide, false),
    ("sqes", 512, Number(1), true),
    ("cqes", 513, Number(1), true),
    ("maxcmd", 514, Number(2), false),
    ("nn", 516, Number(4), false),
    ("oncs", 520, Number(2), true),
    ("fuses", 522, Number(2), true),
    ("fna", 524, Number(1), true),
    ("vwc", 525, Number(1), true),
    ("awun", 526, Number(2), false),
    ("awupf", 528, Number(2), false),
    ("icsvscc", 530, Number(1), false),
    ("nwpc", 531, Number(1), false),
    ("acwu", 532, Number(2), false),
    ("ocfs", 534, Number(2), true),
    ("sgls", 536, Int, true),
    ("mnan", 540, Int, false),
    ("maxdna", 544, Wide, false),
    ("maxcna", 560, Int, false),
    ("subnqn", 768, Text(256), false),
    ("ioccsz", 1792, Int, false),
    ("iorcsz", 1796, Int, false),
    ("icdoff", 1800, Number(2), false),
    ("fcatt", 1802, Number(1), false),
    ("msdbd", 1803, Number(1), false),
    ("ofcs", 1804, Number(2), false),
];

/// A power state: 32 bytes from 2048 on (Base figure 276).
const POWER_STATE: &[Field] = &[
    ("max_power", 0, Number(2), false),
    ("flags", 3, Number(1), false),
    ("entry_lat", 4, Number(4), false),
    ("exit_lat", 8, Number(4), false),
    ("read_tput", 12, Number(1), false),
    ("read_lat", 13, Number(1), false),
    ("write_tput", 14, Number(1), false),
    ("write_lat", 15, Number(1), false),
    ("idle_power", 16, Number(2), false),
    ("idle_scale", 18, Number(1), false),
    ("active_power", 20, Number(2), false),
    ("active_power_work", 22, Number(1), false),
    ("active_scale", 22, Number(1), false),
];

const NPSS: usize = 263;
const POWER_STATES: usize = 2048;
const POWER_STATE_BYTES: usize = 32;

fn power_states(controller: &[u8]) -> impl Iterator<Item = Map<String, Value>> {
    let count = number(controller, NPSS, 1) as usize + 1;
    let states = controller.get(POWER_STATES..).unwrap_or_default().chunks_exact(POWER_STATE_BYTES);
    states.take(count.min(32)).map(|state| {
        let mut object = object(state, POWER_STATE);
        // The scales are the upper two bits of their bytes, the workload the lower three.
        for (name, byte) in [("idle_scale", state[18] >> 6), ("active_scale", state[22] >> 6)] {
            object.insert(name.to_owned(), byte.into());
        }
        object.insert("active_power_work".to_owned(), (state[22] & 7).into());
        object
    })
}

/// `id-ctrl`, in JSON.
pub fn controller_json(bytes: &[u8]) -> Value {
    let mut all = object(bytes, CONTROLLER);
    if all.get("subnqn").is_some_and(|name| name == "") {
        all.shift_remove("subnqn");
    }
    all.insert("psds".to_owned(), power_states(bytes).map(Value::Object).collect());
    all.into()
}

/// `id-ctrl`, for people.
pub fn controller(bytes: &[u8]) -> String {
    let mut out = "NVME Identify Controller:\n".to_owned();
    for field in CONTROLLER {
        let value = match field.0 {
            // An identifier is read by its digits.
            "ieee" => format!("{:06x}", number(bytes, field.1, 3)),
            _ => shown(bytes, field),
        };
        out += &format!("{:<10}: {value}\n", field.0);
    }
    for (index, state) in power_states(bytes).enumerate() {
        let values: Vec<String> = state.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        out += &format!("ps   {index:>2} : {}\n", values.join(" "));
    }
    out
}

const NAMESPACE: &[Field] = &[
    ("nsze", 0, Number(8), true),
    ("ncap", 8, Number(8), true),
    ("nuse", 16, Number(8), true),
    ("nsfeat", 24, Number(1), true),
    ("nlbaf", 25, Number(1), false),
    ("flbas", 26, Number(1), true),
    ("mc", 27, Number(1), true),
    ("dpc", 28, Number(1), true),
    ("dps", 29, Number(1), true),
    ("nmic", 30, Number(1), true),
    ("rescap", 31, Number(1), true),
    ("fpi", 32, Number(1), true),
    ("dlfeat", 33, Number(1), false),
    ("nawun", 34, Number(2), false),
    ("nawupf", 36, Number(2), false),
    ("nacwu", 38, Number(2), false),
    ("nabsn", 40, Number(2), false),
    ("nabo", 42, Number(2), false),
    ("nabspf", 44, Number(2), false),
    ("noiob", 46, Number(2), false),
    ("nvmcap", 48, Wide, false),
    ("nsattr", 99, Number(1), false),
    ("nvmsetid", 100, Number(2), false),
    ("npwg", 64, Number(2), false),
    ("npwa", 66, Number(2), false),
    ("npdg", 68, Number(2), false),
    ("npda", 70, Number(2), false),
    ("nows", 72, Number(2), false),
    ("mssrl", 74, Number(2), false),
    ("mcl", 76, Int, false),
    ("msrc", 80, Number(1), false),
    ("nulbaf", 82, Number(1), false),
    ("anagrpid", 92, Int, false),
    ("endgid", 102, Number(2), false),
    ("eui64", 120, Hex(8), false),
    ("nguid", 104, Hex(16), false),
];

/// An LBA format (NVM figure 98).
const LBA_FORMAT: &[Field] =
    &[("ms", 0, Number(2), false), ("ds", 2, Number(1), false), ("rp", 3, Number(1), false)];

const NSFEAT: usize = 24;
/// NSFEAT bit 4: these are there.
const PREFERENCES: [&str; 5] = ["npwg", "npwa", "npdg", "npda", "nows"];
const LBA_FORMATS: usize = 128;

/// Which format is in use: bits 3:0 of FLBAS, and 6:5 above them where there are more than 16.
pub fn format_index(bytes: &[u8]) -> usize {
    let (formats, flbas) = (number(bytes, 25, 1), number(bytes, 26, 1) as usize);
    if formats < 16 { flbas & 0xf } else { (flbas >> 5 & 0b11) << 4 | flbas & 0xf }
}

/// The size of a block in bytes as a power of two.
pub fn block_shift(bytes: &[u8]) -> u32 {
    number(bytes, LBA_FORMATS + format_index(bytes) * 4 + 2, 1) as u32
}

fn formats(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = (number(bytes, 25, 1) as usize + 1).min(64);
    bytes.get(LBA_FORMATS..).unwrap_or_default().chunks_exact(4).take(count)
}

fn namespace_fields(bytes: &[u8]) -> Vec<Field> {
    let has_preferences = number(bytes, NSFEAT, 1) & 0x10 != 0;
    NAMESPACE.iter().filter(|field| has_preferences || !PREFERENCES.contains(&field.0)).copied().collect()
}

/// `id-ns`, in JSON.
pub fn namespace_json(bytes: &[u8]) -> Value {
    let mut all = object(bytes, &namespace_fields(bytes));
    all.insert(
        "lbafs".to_owned(),
        formats(bytes).map(|format| Value::Object(object(format, LBA_FORMAT))).collect(),
    );
    all.into()
}

/// `id-ns`, for people.
pub fn namespace(bytes: &[u8], nsid: u32) -> String {
    let mut out = format!("NVME Identify Namespace {nsid}:\n") + &lines(bytes, &namespace_fields(bytes), 8);
    for (index, format) in formats(bytes).enumerate() {
        let [ms, ds, rp] = [0, 1, 2].map(|field| shown(format, &LBA_FORMAT[field]));
        let in_use = if index == format_index(bytes) { "(in use)" } else { "" };
        out += &format!("lbaf {index:>2} : ms:{ms:<3} lbads:{ds:<2} rp:{rp} {in_use}\n");
    }
    out
}

/// A zoned namespace (ZNS figure 48).
const ZONED: &[Field] = &[
    ("zoc", 0, Number(2), false),
    ("ozcs", 2, Number(2), false),
    ("mar", 4, Int, true),
    ("mor", 8, Int, true),
    ("rrl", 12, Int, false),
    ("frl", 16, Int, false),
    ("rrl1", 20, Int, false),
    ("rrl2", 24, Int, false),
    ("rrl3", 28, Int, false),
    ("frl1", 32, Int, false),
    ("frl2", 36, Int, false),
    ("frl3", 40, Int, false),
    ("numzrwa", 44, Int, true),
    ("zrwafg", 48, Number(2), false),
    ("zrwasz", 50, Number(2), false),
    ("zrwacap", 52, Number(1), false),
];

/// An LBA format extension (ZNS figure 49): 16 bytes from 2816 on.
const ZONED_FORMAT: &[Field] = &[("zsze", 0, Number(8), true), ("zdes", 8, Number(1), false)];
const ZONED_FORMATS: usize = 2816;

fn zoned_formats<'a>(zoned: &'a [u8], namespace: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let count = (number(namespace, 25, 1) as usize + 1).min(64);
    zoned.get(ZONED_FORMATS..).unwrap_or_default().chunks_exact(16).take(count)
}

/// `zns id-ns`, in JSON. `namespace` is what `id-ns` shows.
pub fn zoned_json(bytes: &[u8], namespace: &[u8]) -> Value {
    let mut all = object(bytes, ZONED);
    let formats = zoned_formats(bytes, namespace).map(|format| Value::Object(object(format, ZONED_FORMAT)));
    all.insert("lbafe".to_owned(), formats.collect());
    all.into()
}

/// `zns id-ns`, for people.
pub fn zoned(bytes: &[u8], namespace: &[u8]) -> String {
    let mut out = "ZNS Command Set Identify Namespace:\n".to_owned() + &lines(bytes, ZONED, 8);
    for (index, format) in zoned_formats(bytes, namespace).enumerate() {
        let (zsze, zdes) = (shown(format, &ZONED_FORMAT[0]), shown(format, &ZONED_FORMAT[1]));
        let in_use = if index == format_index(namespace) { " (in use)" } else { "" };
        out += &format!("lbafe {index:>2}: zsze:{zsze} zdes:{zdes}{in_use}\n");
    }
    out
}

/// The controller's limit of zone appends (ZNS figure 50).
const ZONED_CONTROLLER: &[Field] = &[("zasl", 0, Number(1), false)];

/// `zns id-ctrl`, in JSON.
pub fn zoned_controller_json(bytes: &[u8]) -> Value {
    object(bytes, ZONED_CONTROLLER).into()
}

/// `zns id-ctrl`, for people.
pub fn zoned_controller(bytes: &[u8]) -> String {
    "NVMe ZNS Identify Controller:\n".to_owned() + &lines(bytes, ZONED_CONTROLLER, 8)
}

/// What `list` shows of a namespace.
pub fn listed_json(device: &str, nsid: u32, controller: &[u8], namespace: &[u8]) -> Value {
    let of_controller = |name: &str| {
        let field = CONTROLLER.iter().find(|field| field.0 == name);
        let text = field.map(|field| json(controller, field));
        text.and_then(|text| text.as_str().map(|text| text.trim_end().to_owned())).unwrap_or_default()
    };
    let shift = block_shift(namespace).min(32);
    let (nsze, nuse) = (number(namespace, 0, 8), number(namespace, 16, 8));
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| all.insert(name.to_owned(), value);
    put("NameSpace", nsid.into());
    put("DevicePath", device.into());
    put("Firmware", of_controller("fr").into());
    put("ModelNumber", of_controller("mn").into());
    put("SerialNumber", of_controller("sn").into());
    put("UsedBytes", nuse.saturating_mul(1 << shift).into());
    put("MaximumLBA", nsze.into());
    put("PhysicalSize", nsze.saturating_mul(1 << shift).into());
    put("SectorSize", (1u64 << shift).into());
    all.into()
}

/// `list-ns`, in JSON.
pub fn list_json(nsids: &[u32]) -> Value {
    let list: Vec<Value> =
        nsids.iter().map(|nsid| Map::from_iter([("nsid".to_owned(), (*nsid).into())]).into()).collect();
    Map::from_iter([("nsid_list".to_owned(), list.into())]).into()
}

/// `list-ns`, for people.
pub fn list(nsids: &[u32]) -> String {
    let line =
        |(index, nsid): (usize, &u32)| format!("[{index:>4}]:{}\n", hexadecimal_or_not((*nsid).into(), true));
    nsids.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ints_are_negative_and_wide_numbers_text_as_nvme_cli_has_them() {
        let mut bytes = vec![0; 4096];
        bytes[96..100].copy_from_slice(&0x8000_0000u32.to_le_bytes());
        bytes[280..296].copy_from_slice(&(1u128 << 70).to_le_bytes());
        bytes[4..6].copy_from_slice(b"S ");
        bytes[2048 + 22] = 0b1000_0101;
        let json = controller_json(&bytes);
        assert_eq!(json["ctratt"], i32::MIN);
        assert_eq!(json["tnvmcap"], (1u128 << 70).to_string());
        assert_eq!(json["sn"], "S ");
        assert_eq!(json.get("subnqn"), None, "an empty one is left out");
        let state = &json["psds"][0];
        assert_eq!((&state["active_scale"], &state["active_power_work"]), (&2.into(), &5.into()));
        assert!(controller(&bytes).contains("ctratt    : 0x80000000\n"));
        bytes[263] = 255;
        assert_eq!(controller_json(&bytes)["psds"].as_array().map(Vec::len), Some(32));
    }

    #[test]
    fn an_absurd_namespace_is_shown_as_far_as_it_goes() {
        let bytes = vec![0xff; 4096];
        assert_eq!(namespace_json(&bytes)["lbafs"].as_array().map(Vec::len), Some(64));
        assert_eq!(listed_json("d", 1, &bytes, &bytes)["SectorSize"], 1u64 << 32);
        assert!(namespace(&[], 1).contains("nsze    : 0\n"));
        assert!(namespace_json(&[]).get("npwg").is_none());
        assert!(zoned(&bytes, &bytes).lines().count() > 64);
    }
}
