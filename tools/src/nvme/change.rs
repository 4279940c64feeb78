//! What changes the controller or its data: features, formats, sanitizing. What loses data asks first.

use corelane_drivers::nvme::Transfer;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::opcode::admin;
use serde_json::json;

use super::args::{FormatNvm, Sanitize, SetFeature};
use super::fields::{dword, number};
use super::query::feature_name;
use super::show::identify::format_index;
use super::{NvmeToolError, confirm};
use crate::ToolError;

/// Format NVM (Base 5.14) and Sanitize (Base 5.24).
pub const FORMAT_NVM: u8 = 0x80;
/// See [`FORMAT_NVM`].
pub const SANITIZE: u8 = 0x84;
/// A format may erase all blocks before it is answered: what nvme-cli grants it.
const FORMAT_TIMEOUT_MS: u64 = 600_000;

/// `set-feature`.
pub fn set_feature(feature: &SetFeature) -> Result<(), ToolError> {
    let SetFeature { device, feature_id, value, cdw12, save, data } = feature;
    let data = match data {
        Some(path) => {
            std::fs::read(path).map_err(|source| NvmeToolError::File { path: path.clone(), source })?
        }
        None => Vec::new(),
    };
    let mut target = device.open()?;
    let mut command = Command::new(admin::SET_FEATURES, target.nsid.unwrap_or(Nsid::NONE));
    command.cdw10[0] = u32::from(*save) << 31 | u32::from(*feature_id);
    (command.cdw10[1], command.cdw10[2]) = (*value, *cdw12);
    let transfer = if data.is_empty() { Transfer::None } else { Transfer::Out(&data) };
    let result = target.back_end.ask(&command, transfer)?;
    let (name, save) = (feature_name(*feature_id), u32::from(*save));
    device.print(
        || format!("set-feature:{feature_id:#04x} ({name}), value:{}, cdw12:{}, save:{save}\n", dword(*value), dword(*cdw12)),
        || json!({ "feature_id": feature_id, "name": name, "value": value, "cdw12": cdw12, "save": save, "result": result }),
    )
}

/// `format`.
pub fn format(format: &FormatNvm) -> Result<(), ToolError> {
    let device = &format.device;
    let mut target = device.open_for(device.timeout.max(FORMAT_TIMEOUT_MS))?;
    // Never all namespaces unless that was said: -n 0xffffffff.
    let nsid = target.nsid.ok_or(NvmeToolError::WhichNamespace)?;
    let lbaf = match (format.lbaf, format.block_size, nsid) {
        (Some(lbaf), ..) => lbaf,
        (None, None, Nsid::ALL) => 0,
        (None, Some(value), Nsid::ALL) => {
            let expected = "given by --lbaf where all namespaces are formatted";
            return Err(NvmeToolError::Value { what: "the block size", value: value.into(), expected }.into());
        }
        (None, wanted, nsid) => choose(&target.identify_namespace(nsid)?, wanted)?,
    };
    if !format.force {
        target.back_end.check_unused(nsid)?;
    }
    let which = if nsid == Nsid::ALL { "all namespaces".to_owned() } else { nsid.to_string() };
    confirm(&format!("Formatting {which} of {}: all data there is lost.", device.device), format.force)?;
    let mut command = Command::new(FORMAT_NVM, nsid);
    command.cdw10[0] = u32::from(lbaf & 0xf)
        | u32::from(format.ms) << 4
        | u32::from(format.pi) << 5
        | u32::from(format.pil) << 8
        | u32::from(format.ses) << 9
        | u32::from(lbaf >> 4) << 12;
    target.back_end.ask(&command, Transfer::None)?;
    device.print(
        || format!("Success formatting namespace:{:x}\n", nsid.0),
        || json!({ "nsid": nsid.0, "lbaf": lbaf }),
    )
}

/// The number of the format with blocks of `wanted` bytes and no metadata, or of the one in use.
fn choose(namespace: &[u8], wanted: Option<u32>) -> Result<u8, NvmeToolError> {
    let Some(wanted) = wanted else { return Ok(format_index(namespace) as u8) };
    let count = (number(namespace, 25, 1) as usize + 1).min(64);
    let matches = |index: &usize| {
        let format = number(namespace, 128 + index * 4, 4);
        let (metadata, shift) = (format & 0xffff, format >> 16 & 0xff);
        metadata == 0 && 1u64.checked_shl(shift as u32) == Some(wanted.into())
    };
    let expected = "that of a format without metadata; id-ns lists them";
    let none = || NvmeToolError::Value { what: "the block size", value: wanted.into(), expected };
    (0..count).find(matches).map(|index| index as u8).ok_or_else(none)
}

/// `sanitize`.
pub fn sanitize(sanitize: &Sanitize) -> Result<(), ToolError> {
    let device = &sanitize.device;
    let mut target = device.open()?;
    if !sanitize.force {
        target.back_end.check_unused(Nsid::ALL)?;
    }
    confirm(
        &format!("Sanitizing {}: all data of all its namespaces is lost.", device.device),
        sanitize.force,
    )?;
    let mut command = Command::new(SANITIZE, Nsid::NONE);
    command.cdw10[0] = u32::from(sanitize.sanact)
        | u32::from(sanitize.ause) << 3
        | u32::from(sanitize.owpass) << 4
        | u32::from(sanitize.oipbp) << 8
        | u32::from(sanitize.no_dealloc) << 9;
    command.cdw10[1] = sanitize.ovrpat;
    target.back_end.ask(&command, Transfer::None)?;
    device.print(
        || "The sanitize operation has begun; get-log -i 0x81 -l 512 tells how far it is\n".to_owned(),
        || json!({ "sanact": sanitize.sanact }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_size_finds_its_format_without_metadata() {
        let mut namespace = vec![0; 4096];
        (namespace[25], namespace[26]) = (2, 1);
        namespace[128..140].copy_from_slice(&[0, 0, 9, 0, 8, 0, 12, 0, 0, 0, 12, 0]);
        assert_eq!(choose(&namespace, Some(512)).unwrap(), 0);
        assert_eq!(choose(&namespace, Some(4096)).unwrap(), 2);
        assert_eq!(choose(&namespace, None).unwrap(), 1, "that in use");
        assert!(choose(&namespace, Some(1024)).unwrap_err().to_string().contains("1024"));
        assert!(choose(&[0xff; 4096], Some(0)).is_err());
    }
}
