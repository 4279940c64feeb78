//! Identify (NVMe base 2.0, section 5.17; NVM command set 1.0, section 4.1.5).
//!
//! Invariant: what is told is what the commands do: limits, optional commands and sizes come from the same configuration.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, IntoBytes};

use super::log::ERROR_ENTRIES;
use crate::check::Checker;
use crate::config::ModelConfig;
use crate::namespace::{Namespace, Store};
use crate::pci::VENDOR_ID;
use crate::protection::Guard;
use crate::violation::Rule;
use crate::wire::command::{Command, NSID_ALL};
use crate::wire::identify::{
    Controller, IDENTIFY_BYTES, IndependentNamespace, LbaFormat, Namespace as NamespaceData, NvmController,
    ZonedNamespace, cns, csi,
};
use crate::wire::register::VERSION;
use crate::wire::status::Status;
use crate::worker::Worker;
use crate::zone::ZoneConfig;

/// The controller's identifier within its subsystem.
const CNTLID: u16 = 1;

impl Worker {
    /// Identify (5.17).
    pub(super) fn identify(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        check.reserved(command, 10, &[0xFFFF_00FF, 0xFF00_FFFF, 0, 0, 0x7F, 0]);
        let (which, nsid) = (command.dword(10) as u8, command.nsid());
        let csi = command.dword(11) >> 24;
        let csi_matters = matches!(which, cns::CS_NAMESPACE | cns::CS_CONTROLLER | cns::CS_ACTIVE_NAMESPACES);
        let zoned = csi_matters && csi == u32::from(csi::ZONED) && self.shared.config.has_zones();
        if csi_matters && csi != 0 && !zoned {
            return Err(unknown(check, which, csi));
        }
        let bytes = match which {
            cns::CONTROLLER => self.controller(),
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => self.of_namespace(nsid, check, namespace_data)?,
            cns::CS_NAMESPACE => self.of_command_set(nsid, zoned, check)?,
            cns::INDEPENDENT_NAMESPACE => self.of_namespace(nsid, check, independent_data)?,
            cns::DESCRIPTORS => self.of_namespace(nsid, check, |namespace, eui64| {
                descriptors(eui64, if namespace.config.zones.is_some() { csi::ZONED } else { csi::NVM })
            })?,
            cns::ACTIVE_NAMESPACES | cns::ALLOCATED_NAMESPACES => {
                self.namespace_list(nsid, None, which == cns::ALLOCATED_NAMESPACES, check)?
            }
            cns::CS_ACTIVE_NAMESPACES => self.namespace_list(nsid, Some(zoned), false, check)?,
            cns::CS_CONTROLLER if zoned => zoned_controller(&self.shared.config),
            cns::CS_CONTROLLER => nvm_controller(&self.shared.config),
            cns::COMMAND_SETS if self.shared.config.has_zones() => command_sets(),
            cns::CONTROLLERS => controller_list(command.dword(10)),
            cns::NAMESPACE_CONTROLLERS => {
                self.of_namespace(nsid, check, |_, _| vec![0; IDENTIFY_BYTES])?;
                controller_list(command.dword(10))
            }
            _ => return Err(unknown(check, which, csi)),
        };
        self.send(command, &bytes, check)?;
        Ok(0)
    }

    /// What `build` says of a namespace and its EUI-64.
    fn of_namespace(
        &self,
        nsid: u32,
        check: &Checker<'_>,
        build: impl FnOnce(&Namespace, [u8; 8]) -> Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        let namespace = nsid.checked_sub(1).and_then(|index| self.shared.namespaces.get(index as usize));
        let namespace = namespace.ok_or_else(|| {
            let text = format!("there is no namespace {nsid:#x}");
            check.refuse(Status::INVALID_NAMESPACE, Rule::Namespace, text)
        })?;
        if !namespace.is_attached() {
            // As of one that is not active (5.17.2.1).
            return Ok(vec![0; IDENTIFY_BYTES]);
        }
        Ok(build(namespace, eui64(&self.shared.config, nsid)))
    }

    /// What a command set says of a namespace that has it.
    fn of_command_set(&self, nsid: u32, zoned: bool, check: &Checker<'_>) -> Result<Vec<u8>, Status> {
        let wrong = Status::INVALID_COMMAND_SET.dnr();
        let bytes =
            self.of_namespace(nsid, check, |namespace, _| match (&namespace.config.zones, zoned) {
                (None, false) => extended_formats(namespace),
                (Some(zones), true) => zoned_data(zones, namespace.config.lba_shift),
                _ => Vec::new(),
            })?;
        if bytes.is_empty() { Err(wrong) } else { Ok(bytes) }
    }

    /// The active namespaces behind `after`, or all of them, or those that are zoned or not (5.17.2.2).
    fn namespace_list(
        &self,
        after: u32,
        zoned: Option<bool>,
        all: bool,
        check: &Checker<'_>,
    ) -> Result<Vec<u8>, Status> {
        if after >= NSID_ALL - 1 {
            let text = format!("a list of namespaces behind {after:#x}");
            return Err(check.refuse(Status::INVALID_NAMESPACE, Rule::Namespace, text));
        }
        let is_zoned = |namespace: &Namespace| namespace.config.zones.is_some();
        let ids = (1u32..)
            .zip(&self.shared.namespaces)
            .filter(|(nsid, one)| *nsid > after && (all || one.is_attached()))
            .filter(|(_, one)| zoned.is_none_or(|zoned| is_zoned(one) == zoned))
            .map(|(nsid, _)| nsid)
            .take(IDENTIFY_BYTES / 4);
        let mut bytes: Vec<u8> = ids.flat_map(u32::to_le_bytes).collect();
        bytes.resize(IDENTIFY_BYTES, 0);
        Ok(bytes)
    }

    fn controller(&self) -> Vec<u8> {
        let config = &self.shared.config;
        let mut data = Controller::new_zeroed();
        data.vid = U16::new(VENDOR_ID);
        data.ssvid = U16::new(VENDOR_ID);
        put_text(&mut data.sn, &config.serial);
        put_text(&mut data.mn, &config.model);
        put_text(&mut data.fr, &config.firmware);
        data.mdts = config.mdts;
        data.cntlid = U16::new(CNTLID);
        data.ver = U32::new(VERSION);
        // I/O controller.
        data.cntrltype = 1;
        data.oacs = U16::new(u16::from(config.shadow_doorbells) << 8);
        // Namespace attribute notices.
        data.oaes = U32::new(1 << 8);
        data.acl = 3;
        data.aerl = config.aerl;
        // One firmware slot, read only.
        data.frmw = 0b011;
        // Effects log, extended data (offsets) for Get Log Page.
        data.lpa = 0b0110;
        data.elpe = (ERROR_ENTRIES - 1) as u8;
        data.wctemp = U16::new(343);
        data.cctemp = U16::new(353);
        if let Some(wish) = config.host_memory {
            (data.hmpre, data.hmmin) = (U32::new(wish.preferred), U32::new(wish.least));
            (data.hmminds, data.hmmaxd) = (U32::new(wish.least_piece), U16::new(wish.most_pieces));
        }
        let total: u128 = self.shared.namespaces.iter().map(|ns| u128::from(capacity(ns))).sum();
        data.tnvmcap = U128::new(total);
        data.sqes = 0x66;
        data.cqes = 0x44;
        data.nn = U32::new(config.namespaces.len() as u32);
        data.oncs = U16::new(oncs(config));
        let guards = config.namespaces.iter().filter_map(|namespace| namespace.protection);
        let extended = guards.into_iter().any(|protection| protection.guard != Guard::Crc16);
        // ELBAS: the formats are described further by the data of the command set.
        let placed = config.has_placement();
        // FDP, and the endurance groups that go with it.
        let groups = if placed { 1 << 19 | 1 << 4 } else { 0 };
        data.ctratt = U32::new(u32::from(extended) << 15 | groups);
        data.endgidmax = U16::new(placed.into());
        data.fuses = U16::new(u16::from(config.fused));
        data.ocfs = U16::new(u16::from(config.copy));
        let atomic = U16::new(config.atomic_blocks - 1);
        (data.awun, data.awupf, data.acwu) = (atomic, atomic, atomic);
        // Bits 2:1: a flush may name all namespaces.
        data.vwc = 0b110 | u8::from(config.write_cache);
        data.sgls = U32::new(u32::from(config.sgls));
        let nqn = format!("nqn.2026-01.org.corelane:model:{}", config.serial);
        data.subnqn[..nqn.len()].copy_from_slice(nqn.as_bytes());
        // Power state 0: 25 W in hundredths.
        data.psd0[..2].copy_from_slice(&2500_u16.to_le_bytes());
        data.as_bytes().to_vec()
    }
}

#[cold]
fn unknown(check: &Checker<'_>, which: u8, csi: u32) -> Status {
    let text = format!("there is no identify data {which:02x}h of command set {csi:02x}h");
    check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text)
}

/// Optional NVM Command Support.
fn oncs(config: &ModelConfig) -> u16 {
    let select = 1 << 4;
    u16::from(config.compare)
        | u16::from(config.write_uncorrectable) << 1
        | u16::from(config.deallocate) << 2
        | u16::from(config.write_zeroes) << 3
        | select
        | u16::from(config.verify) << 7
        | u16::from(config.copy) << 8
}

fn put_text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    // The configuration was checked: it fits.
    field[..text.len()].copy_from_slice(text.as_bytes());
}

fn capacity(namespace: &Namespace) -> u64 {
    namespace.blocks() << namespace.lba_shift()
}

/// A locally administered EUI-64 that differs by serial number and namespace: hosts take two namespaces with the same one
/// for one namespace with two paths.
fn eui64(config: &ModelConfig, nsid: u32) -> [u8; 8] {
    // FNV-1a; all that matters is that serial numbers differ.
    let hash = config
        .serial
        .bytes()
        .fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut bytes = [0x02, 0xC0, 0, 0, 0, 0, 0, 0];
    bytes[2..6].copy_from_slice(&hash.to_be_bytes());
    // There are at most 1,024 namespaces.
    bytes[6..].copy_from_slice(&(nsid as u16).to_be_bytes());
    bytes
}

fn namespace_data(namespace: &Namespace, eui64: [u8; 8]) -> Vec<u8> {
    let config = &namespace.config;
    let mut data = NamespaceData::new_zeroed();
    let blocks = U64::new(namespace.blocks());
    (data.nsze, data.ncap, data.nuse) = (blocks, blocks, blocks);
    let optimal = config.write_blocks > 0 || config.deallocate_blocks > 0;
    // OPTPERF: the preferred granularities are told.
    data.nsfeat = u8::from(optimal) << 4;
    data.flbas = u8::from(config.metadata_extended) << 4;
    data.mc = if config.metadata_bytes > 0 { 1 << u8::from(!config.metadata_extended) } else { 0 };
    if let Some(protection) = config.protection {
        // All types, at either end.
        data.dpc = 0b1_1111;
        data.dps = protection.kind | u8::from(protection.first) << 3;
    }
    // Deallocated blocks read as zeroes; Write Zeroes can deallocate. Of what is not kept here nothing is promised.
    let keeps = matches!(namespace.store, Store::Zero | Store::Ram(_));
    data.dlfeat = if keeps { 0b1001 } else { 0 };
    data.noiob = U16::new(config.io_boundary_blocks);
    data.nvmcap = U128::new(capacity(namespace).into());
    let less_one = |blocks: u16| U16::new(blocks.saturating_sub(1));
    (data.npwg, data.npwa, data.nows) = {
        let blocks = less_one(config.write_blocks);
        (blocks, blocks, blocks)
    };
    (data.npdg, data.npda) = (less_one(config.deallocate_blocks), less_one(config.deallocate_blocks));
    data.mssrl = U16::new(config.copy.range_blocks);
    data.mcl = U32::new(config.copy.blocks);
    data.msrc = config.copy.ranges_less_one;
    data.endgid = U16::new(config.placement.is_some().into());
    data.eui64 = eui64;
    data.nguid[..8].copy_from_slice(&eui64);
    data.lbaf[0] = LbaFormat { ms: U16::new(config.metadata_bytes), lbads: namespace.lba_shift(), rp: 0 };
    data.as_bytes().to_vec()
}

/// What else the formats are like (NVM command set 4.1.5.3): the protection information's format.
fn extended_formats(namespace: &Namespace) -> Vec<u8> {
    let mut bytes = vec![0; IDENTIFY_BYTES];
    let format = namespace.config.protection.map_or(0, |protection| protection.guard.format());
    bytes[12..16].copy_from_slice(&format.to_le_bytes());
    bytes
}

fn independent_data(_: &Namespace, _: [u8; 8]) -> Vec<u8> {
    let mut data = IndependentNamespace::new_zeroed();
    // Ready.
    data.nstat = 1;
    data.as_bytes().to_vec()
}

/// Namespace Identification Descriptors (5.17.2.3): EUI-64 and the command set.
fn descriptors(eui64: [u8; 8], csi: u8) -> Vec<u8> {
    const EUI64: u8 = 1;
    const COMMAND_SET: u8 = 4;
    let mut bytes = vec![EUI64, 8, 0, 0];
    bytes.extend_from_slice(&eui64);
    bytes.extend_from_slice(&[COMMAND_SET, 1, 0, 0, csi]);
    bytes.resize(IDENTIFY_BYTES, 0);
    bytes
}

fn nvm_controller(config: &ModelConfig) -> Vec<u8> {
    let mut data = NvmController::new_zeroed();
    data.vsl = config.vsl;
    data.wzsl = config.wzsl;
    data.wusl = config.wusl;
    data.dmrl = config.dmrl;
    data.dmrsl = U32::new(config.dmrsl);
    data.dmsl = U64::new(config.dmsl);
    data.as_bytes().to_vec()
}

/// Identify Namespace of the zoned command set (Zoned Namespace Command Set 1.1, section 4.1.5.1). Limits are counted from 0,
/// and all ones is none.
fn zoned_data(zones: &ZoneConfig, lba_shift: u8) -> Vec<u8> {
    let mut data = ZonedNamespace::new_zeroed();
    data.ozcs = U16::new(u16::from(zones.cross_reads));
    (data.mar, data.mor) =
        (U32::new(zones.max_active.wrapping_sub(1)), U32::new(zones.max_open.wrapping_sub(1)));
    data.lbafe[0].zsze = U64::new(zones.zone_bytes >> lba_shift);
    data.lbafe[0].zdes = (zones.extension_bytes / 64) as u8;
    data.as_bytes().to_vec()
}

/// Identify Controller of the zoned command set (4.1.5.2): ZASL alone.
fn zoned_controller(config: &ModelConfig) -> Vec<u8> {
    let mut bytes = vec![0; IDENTIFY_BYTES];
    bytes[0] = config.zasl;
    bytes
}

/// The combinations of command sets (base 5.17.2.16): one, of both.
fn command_sets() -> Vec<u8> {
    let mut bytes = vec![0; IDENTIFY_BYTES];
    bytes[0] = 1 << csi::NVM | 1 << csi::ZONED;
    bytes
}

/// The controllers from CNTID on: this one (5.17.2.12).
fn controller_list(dword10: u32) -> Vec<u8> {
    let from = (dword10 >> 16) as u16;
    let mut bytes = vec![0; IDENTIFY_BYTES];
    if from <= CNTLID {
        bytes[0] = 1;
        bytes[2..4].copy_from_slice(&CNTLID.to_le_bytes());
    }
    bytes
}
