//! `corelane nvme zns`: commands of zoned namespaces (Zoned Namespace Command Set Specification 1.1, "ZNS").

use corelane_drivers::nvme::Transfer;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::identify::cns;
use serde_json::json;

use super::args::{Device, Zns, Zone};
use super::back_end::BackEnd;
use super::fields::{hexadecimal_or_not, number};
use super::show::{identify, log};
use super::{NvmeToolError, confirm};
use crate::ToolError;

/// The identifier of the command set (Base figure 274).
const COMMAND_SET_ZONED: u8 = 2;
/// Zone Management Send (ZNS 3.4.3), Zone Management Receive (ZNS 3.4.2), Zone Append (ZNS 3.4.1).
const MANAGEMENT_SEND: u8 = 0x79;
const MANAGEMENT_RECEIVE: u8 = 0x7a;
const APPEND: u8 = 0x7d;
/// The log page of changed zones (ZNS 4.1.2).
const CHANGED_ZONES: u8 = 0xbf;
/// The header of a report, as long as a descriptor.
const HEADER_BYTES: usize = log::ZONE_BYTES;
/// A report that fits whatever MDTS a controller has.
const REPORT_BYTES: usize = 4096;

/// Zone send actions (ZNS figure 41).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Close = 1,
    Finish = 2,
    Open = 3,
    Reset = 4,
    Offline = 5,
}

/// Runs a subcommand.
///
/// # Errors
/// As the other commands.
pub fn run(zns: &Zns) -> Result<(), ToolError> {
    match zns {
        Zns::IdCtrl(device) => {
            let bytes = device.open()?.back_end.identify(
                cns::COMMAND_SET_CONTROLLER,
                Nsid::NONE,
                COMMAND_SET_ZONED,
            )?;
            device.print(|| identify::zoned_controller(&bytes), || identify::zoned_controller_json(&bytes))
        }
        Zns::IdNs(device) => {
            let mut target = device.open()?;
            let nsid = target.one_namespace()?;
            let bytes = target.back_end.identify(cns::COMMAND_SET_NAMESPACE, nsid, COMMAND_SET_ZONED)?;
            let namespace = target.identify_namespace(nsid)?;
            device.print(|| identify::zoned(&bytes, &namespace), || identify::zoned_json(&bytes, &namespace))
        }
        Zns::ReportZones { device, start_lba, descs, state } => report(device, *start_lba, *descs, *state),
        Zns::OpenZone(zone) => send(zone, Action::Open, "zns-open-zone"),
        Zns::CloseZone(zone) => send(zone, Action::Close, "zns-close-zone"),
        Zns::FinishZone(zone) => send(zone, Action::Finish, "zns-finish-zone"),
        Zns::ResetZone(zone) => send(zone, Action::Reset, "zns-reset-zone"),
        Zns::OfflineZone(zone) => send(zone, Action::Offline, "zns-offline-zone"),
        Zns::ChangedZoneList(device) => {
            let mut target = device.open()?;
            let nsid = target.one_namespace()?;
            let zones = log::changed_zones(&target.back_end.log(CHANGED_ZONES, nsid, 0, 4096)?);
            let lines = || {
                zones.iter().map(|slba| format!("zone slba:{}\n", hexadecimal_or_not(*slba, true))).collect()
            };
            device.print(lines, || json!({ "changed_zones": zones }))
        }
        Zns::ZoneAppend { device, zslba, data } => append(device, *zslba, data),
    }
}

/// A report from `start_lba` on: the header's count, and at most as many descriptors as fit. With `partial` the count is that
/// of what the report holds.
fn receive(
    back_end: &mut dyn BackEnd,
    nsid: Nsid,
    start_lba: u64,
    state: u8,
    partial: bool,
) -> Result<(u64, Vec<u8>), NvmeToolError> {
    let mut command = Command::new(MANAGEMENT_RECEIVE, nsid);
    (command.cdw10[0], command.cdw10[1]) = (start_lba as u32, (start_lba >> 32) as u32);
    command.cdw10[2] = (REPORT_BYTES / 4 - 1) as u32;
    command.cdw10[3] = u32::from(partial) << 16 | u32::from(state) << 8;
    let mut report = vec![0; REPORT_BYTES];
    back_end.ask_io(&command, Transfer::In(&mut report))?;
    let zones = report.split_off(HEADER_BYTES);
    Ok((number(&report, 0, 8), zones))
}

fn report(device: &Device, start_lba: u64, most: Option<u32>, state: u8) -> Result<(), ToolError> {
    let mut target = device.open()?;
    let nsid = target.one_namespace()?;
    let back_end = &mut *target.back_end;
    let (count, _) = receive(back_end, nsid, start_lba, state, false)?;
    let wanted = most.map_or(count, |most| count.min(most.into()));
    let mut zones: Vec<u8> = Vec::new();
    let mut from = start_lba;
    while ((zones.len() / log::ZONE_BYTES) as u64) < wanted {
        let (here, found) = receive(back_end, nsid, from, state, true)?;
        let here = (here as usize).min(found.len() / log::ZONE_BYTES);
        let Some(last) = here.checked_sub(1).map(|last| &found[last * log::ZONE_BYTES..]) else { break };
        // Behind the last zone's start: reports begin with the zone that the block is in, or the next.
        let next = number(last, 16, 8).saturating_add(number(last, 8, 8).max(1));
        zones.extend(&found[..here * log::ZONE_BYTES]);
        if next <= from {
            break;
        }
        from = next;
    }
    zones.truncate(usize::try_from(wanted).unwrap_or(usize::MAX).saturating_mul(log::ZONE_BYTES));
    device.print(|| log::zones(&zones, wanted), || log::zones_json(&zones, wanted))
}

fn send(zone: &Zone, action: Action, name: &str) -> Result<(), ToolError> {
    let device = &zone.device;
    let mut target = device.open()?;
    let nsid = target.one_namespace()?;
    if [Action::Reset, Action::Offline].contains(&action) {
        let which = if zone.select_all {
            "all zones".to_owned()
        } else {
            format!("the zone at block {}", zone.start_lba)
        };
        confirm(&format!("{action:?} of {which} of {nsid}: data there is lost."), zone.force)?;
    }
    let mut command = Command::new(MANAGEMENT_SEND, nsid);
    (command.cdw10[0], command.cdw10[1]) = (zone.start_lba as u32, (zone.start_lba >> 32) as u32);
    command.cdw10[3] = u32::from(zone.select_all) << 8 | action as u32;
    target.back_end.ask_io(&command, Transfer::None)?;
    let (all, slba) = (u32::from(zone.select_all), hexadecimal_or_not(zone.start_lba, true));
    device.print(
        || format!("{name}: Success, action:{} zone:{slba} all:{all} nsid:{}\n", action as u32, nsid.0),
        || json!({ "action": action as u32, "slba": zone.start_lba, "all": all, "nsid": nsid.0 }),
    )
}

fn append(device: &Device, zslba: u64, path: &std::path::Path) -> Result<(), ToolError> {
    let data = std::fs::read(path).map_err(|source| NvmeToolError::File { path: path.to_owned(), source })?;
    let mut target = device.open()?;
    let nsid = target.one_namespace()?;
    let block_bytes = 1usize << identify::block_shift(&target.identify_namespace(nsid)?).min(16);
    let blocks = data.len() / block_bytes;
    if blocks == 0 || blocks > 65_536 || !data.len().is_multiple_of(block_bytes) {
        let expected = "one of whole blocks, at least one and at most 65536";
        return Err(
            NvmeToolError::Value { what: "the file's length", value: data.len() as u64, expected }.into()
        );
    }
    let mut command = Command::new(APPEND, nsid);
    (command.cdw10[0], command.cdw10[1]) = (zslba as u32, (zslba >> 32) as u32);
    command.cdw10[2] = (blocks - 1) as u32;
    let lba = target.back_end.ask_io(&command, Transfer::Out(&data))?;
    device.print(
        || format!("Success appended data to LBA {lba:x}\n"),
        || json!({ "lba": lba, "blocks": blocks }),
    )
}
