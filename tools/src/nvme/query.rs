//! What only asks: identify, logs, features.

use corelane_drivers::nvme::Transfer;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::identify::{COMMAND_SET_NVM, cns};
use corelane_drivers::nvme::spec::log::page;
use corelane_drivers::nvme::spec::opcode::admin;
use serde_json::{Value, json};

use super::args::{Device, Format, GetFeature};
use super::fields::{dump, dword, hex, number};
use super::show::{identify, log};
use super::target::Target;
use super::{NvmeToolError, kernel, print};
use crate::ToolError;

impl Target {
    /// The numbers of the active namespaces.
    pub fn active(&mut self) -> Result<Vec<u32>, NvmeToolError> {
        let mut active: Vec<u32> = Vec::new();
        loop {
            let above = Nsid(active.last().copied().unwrap_or(0));
            let list = self.back_end.identify(cns::ACTIVE_NAMESPACES, above, COMMAND_SET_NVM)?;
            let numbers: Vec<u32> = list.chunks_exact(4).map(|entry| number(entry, 0, 4) as u32).collect();
            for nsid in numbers.iter().copied().take_while(|nsid| *nsid != 0) {
                // A list that does not rise would never end.
                if nsid <= above.0 || active.last().is_some_and(|last| nsid <= *last) {
                    return Ok(active);
                }
                active.push(nsid);
            }
            if numbers.contains(&0) {
                return Ok(active);
            }
        }
    }

    /// The namespace that is meant: the one that was named, or the only one.
    pub fn one_namespace(&mut self) -> Result<Nsid, NvmeToolError> {
        if let Some(nsid) = self.nsid {
            return Ok(nsid);
        }
        match self.active()?.as_slice() {
            [only] => Ok(Nsid(*only)),
            _ => Err(NvmeToolError::WhichNamespace),
        }
    }

    /// Identify of one namespace.
    pub fn identify_namespace(&mut self, nsid: Nsid) -> Result<Vec<u8>, NvmeToolError> {
        self.back_end.identify(cns::NAMESPACE, nsid, COMMAND_SET_NVM)
    }
}

/// `list`.
pub fn list(devices: &[String], output: Format) -> Result<(), ToolError> {
    let kernels: Vec<String> = match devices.is_empty() {
        true => kernel::namespaces().iter().map(|path| path.display().to_string()).collect(),
        false => Vec::new(),
    };
    let mut listed = Vec::new();
    for device in devices.iter().chain(&kernels) {
        let mut target = Target::open(device, 60_000)?;
        let controller = target.back_end.identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM)?;
        let nsids = match target.nsid {
            Some(nsid) => vec![nsid.0],
            None => target.active()?,
        };
        for nsid in nsids {
            let namespace = target.identify_namespace(Nsid(nsid))?;
            let path = if target.nsid.is_some() { device.clone() } else { format!("{device}/{nsid}") };
            listed.push(identify::listed_json(&path, nsid, &controller, &namespace));
        }
    }
    print(output, || listed.iter().map(line).collect(), || json!({ "Devices": listed }))
}

fn line(namespace: &Value) -> String {
    let text = |name: &str| namespace[name].as_str().unwrap_or_default().to_owned();
    let size = |name: &str| crate::output::size(namespace[name].as_u64().unwrap_or_default());
    format!(
        "{:<32} namespace {}  {} used of {}, blocks of {}  {} {} {}\n",
        text("DevicePath"),
        namespace["NameSpace"],
        size("UsedBytes"),
        size("PhysicalSize"),
        namespace["SectorSize"],
        text("SerialNumber"),
        text("ModelNumber"),
        text("Firmware"),
    )
}

/// `id-ctrl`.
pub fn id_ctrl(device: &Device) -> Result<(), ToolError> {
    let bytes = device.open()?.back_end.identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM)?;
    device.print(|| identify::controller(&bytes), || identify::controller_json(&bytes))
}

/// `id-ns`.
pub fn id_ns(device: &Device) -> Result<(), ToolError> {
    let mut target = device.open()?;
    let nsid = target.one_namespace()?;
    let bytes = target.identify_namespace(nsid)?;
    device.print(|| identify::namespace(&bytes, nsid.0), || identify::namespace_json(&bytes))
}

/// `list-ns`.
pub fn list_ns(device: &Device) -> Result<(), ToolError> {
    let active = device.open()?.active()?;
    device.print(|| identify::list(&active), || identify::list_json(&active))
}

/// `smart-log`: the controller's, unless a namespace is named with `-n`.
pub fn smart_log(device: &Device) -> Result<(), ToolError> {
    let mut target = device.open()?;
    let nsid = device.namespace_id.map_or(Nsid::ALL, Nsid);
    let bytes = target.back_end.log(page::HEALTH, nsid, 0, 512)?;
    let title = target.back_end.title();
    device.print(|| log::health(&bytes, title, nsid.0), || log::health_json(&bytes))
}

/// `error-log`.
pub fn error_log(device: &Device, entries: u32) -> Result<(), ToolError> {
    let mut target = device.open()?;
    let controller = target.back_end.identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM)?;
    // ELPE: how many there are, counted from 0.
    let there_are = number(&controller, 262, 1) as usize + 1;
    let len_bytes = there_are.min(entries as usize) * log::ERROR_BYTES;
    let bytes = target.back_end.log(page::ERROR, Nsid::ALL, 0, len_bytes)?;
    let title = target.back_end.title();
    device.print(|| log::errors(&bytes, title), || log::errors_json(&bytes))
}

/// `fw-log`.
pub fn fw_log(device: &Device) -> Result<(), ToolError> {
    let mut target = device.open()?;
    let bytes = target.back_end.log(page::FIRMWARE, Nsid::ALL, 0, 512)?;
    let title = target.back_end.title();
    device.print(|| log::firmware(&bytes, title), || log::firmware_json(&bytes, title))
}

/// `get-log`.
pub fn get_log(device: &Device, page: u8, len_bytes: u32, offset: u64, raw: bool) -> Result<(), ToolError> {
    if len_bytes == 0 || !offset.is_multiple_of(4) {
        let (what, value) = if len_bytes == 0 { ("the length", 0) } else { ("the offset", offset) };
        return Err(NvmeToolError::Value {
            what,
            value,
            expected: "a length of at least 1 and an offset in dwords",
        }
        .into());
    }
    let mut target = device.open()?;
    let nsid = target.nsid.unwrap_or(Nsid::ALL);
    let bytes = target.back_end.log(page, nsid, offset, len_bytes as usize)?;
    if raw {
        return super::passthru::raw(&bytes);
    }
    let title = target.back_end.title();
    let head = format!("Device:{title} log-id:{page} namespace-id:{:#x}\n", nsid.0);
    device.print(
        || head + &dump(&bytes),
        || json!({ "device": title, "log_id": page, "nsid": nsid.0, "data": hex(&bytes) }),
    )
}

/// What the values of SEL are called (Base figure 190).
const SELECTED: [&str; 4] = ["Current", "Default", "Saved", "Supported capabilities"];

/// `get-feature`.
pub fn get_feature(feature: &GetFeature) -> Result<(), ToolError> {
    let GetFeature { device, feature_id, sel, data_len, cdw11 } = feature;
    let mut target = device.open()?;
    let mut command = Command::new(admin::GET_FEATURES, target.nsid.unwrap_or(Nsid::NONE));
    command.cdw10[0] = u32::from(*sel) << 8 | u32::from(*feature_id);
    command.cdw10[1] = *cdw11;
    let mut data = vec![0; *data_len as usize];
    let transfer = if data.is_empty() { Transfer::None } else { Transfer::In(&mut data) };
    let value = target.back_end.ask(&command, transfer)? as u32;
    let (name, selected) = (feature_name(*feature_id), SELECTED[usize::from(*sel) % 4]);
    let data_shown = if data.is_empty() { String::new() } else { dump(&data) };
    device.print(
        || format!("get-feature:{feature_id:#04x} ({name}), {selected} value:{}\n{data_shown}", dword(value)),
        || json!({ "feature_id": feature_id, "name": name, "select": selected, "value": value, "data": hex(&data) }),
    )
}

/// What a feature is called (Base figure 317, NVM figure 86).
pub fn feature_name(feature: u8) -> &'static str {
    match feature {
        0x01 => "Arbitration",
        0x02 => "Power Management",
        0x03 => "LBA Range Type",
        0x04 => "Temperature Threshold",
        0x05 => "Error Recovery",
        0x06 => "Volatile Write Cache",
        0x07 => "Number of Queues",
        0x08 => "Interrupt Coalescing",
        0x09 => "Interrupt Vector Configuration",
        0x0a => "Write Atomicity Normal",
        0x0b => "Async Event Configuration",
        0x0c => "Autonomous Power State Transition",
        0x0d => "Host Memory Buffer",
        0x0e => "Timestamp",
        0x0f => "Keep Alive Timer",
        0x10 => "Host Controlled Thermal Management",
        0x11 => "Non-Operational Power State Config",
        0x12 => "Read Recovery Level",
        0x13 => "Predictable Latency Mode Config",
        0x14 => "Predictable Latency Mode Window",
        0x15 => "LBA Status Information Interval",
        0x16 => "Host Behavior Support",
        0x17 => "Sanitize Config",
        0x18 => "Endurance Group Event Configuration",
        0x80 => "Software Progress Marker",
        0x81 => "Host Identifier",
        0x82 => "Reservation Notification Mask",
        0x83 => "Reservation Persistence",
        0x84 => "Namespace Write Protect",
        _ => "Unknown",
    }
}
