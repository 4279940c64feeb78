//! The commands of the zoned namespace command set (Zoned Namespace Command Set 1.1, section 3.4), and what zones mean for
//! those of the NVM command set.
//!
//! Invariant: a zone's write pointer moves when the data has been written, and not before.

use super::{DWORD12, Io, IoContext};
use crate::check::Checker;
use crate::config::NamespaceConfig;
use crate::namespace::Namespace;
use crate::violation::Rule;
use crate::wire::command::{Command, nvm, zoned};
use crate::wire::status::Status;
use crate::zone::{Action, State, Zones};

/// A zone descriptor, and the header of a report.
const DESCRIPTOR_BYTES: usize = 64;
/// Zone type: to be written in order.
const SEQUENTIAL: u8 = 2;
/// Zone attribute: the descriptor extension is valid.
const EXTENSION_VALID: u8 = 1 << 7;
/// The action of Zone Management Send that sets a zone's descriptor extension.
const SET_EXTENSION: u8 = 0x10;
/// Bits of Zone Append's double word 12: as those of Write, and PIREMAP.
const APPEND_DWORD12: u32 = DWORD12 | 1 << 25;

/// The zones of all namespaces, by number.
#[derive(Debug, Default)]
pub(super) struct Zoned {
    namespaces: Vec<Option<Zones>>,
    /// Whether any namespace is zoned.
    pub(super) any: bool,
}

impl Zoned {
    pub(super) fn new(namespaces: &[Namespace]) -> Zoned {
        let zones = |config: &NamespaceConfig| {
            config.zones.as_ref().map(|zones| Zones::new(zones, config.blocks(), config.lba_shift))
        };
        let namespaces: Vec<_> = namespaces.iter().map(|one| zones(&one.config)).collect();
        Zoned { any: namespaces.iter().any(Option::is_some), namespaces }
    }

    fn of(&mut self, nsid: u32) -> Option<&mut Zones> {
        self.namespaces.get_mut((nsid as usize).wrapping_sub(1))?.as_mut()
    }
}

impl Io {
    /// Carries a command to a zoned namespace out. `None`: it is to no such namespace, or zones mean nothing to it.
    #[cold]
    pub(super) fn carry_out_zoned(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Option<Status> {
        let nsid = command.nsid();
        let zones = self.zoned.of(nsid)?;
        // What it has grown by since has no zones.
        let blocks = context.shared.namespaces.get(nsid as usize - 1)?.blocks().min(zones.blocks());
        let (first, count) = (command.slba(), u64::from(command.dword(12) & 0xFFFF) + 1);
        // What lies outside is refused as on any other namespace.
        let inside = first < blocks && count <= blocks - first;
        let ended = |result: Result<(), Status>| result.err().unwrap_or(Status::SUCCESS);
        match command.opcode() {
            nvm::READ | nvm::COMPARE | nvm::VERIFY if inside => zones.check_read(first, count).err(),
            nvm::WRITE | nvm::WRITE_ZEROES if inside => {
                if let Err(status) = zones.check_write(first, count) {
                    return Some(status);
                }
                let status = self.carry_out_plain(command, context, check)?;
                if status.is_success() {
                    self.zoned.of(nsid)?.written(first, count);
                }
                Some(status)
            }
            // They write as well, which this controller does not do in zones.
            nvm::WRITE_UNCORRECTABLE | nvm::COPY => Some(Status::INVALID_OPCODE.dnr()),
            zoned::APPEND => Some(ended(self.append(command, blocks, context, check))),
            zoned::MANAGEMENT_SEND => Some(ended(self.send_action(command, blocks, context, check))),
            zoned::MANAGEMENT_RECEIVE => Some(ended(self.report(command, blocks, context, check))),
            _ => None,
        }
    }

    /// Zone Append (3.4.1).
    fn append(
        &mut self,
        command: &Command,
        blocks: u64,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        check.reserved(command, 12, &[APPEND_DWORD12, 0]);
        let (nsid, count) = (command.nsid(), u64::from(command.dword(12) & 0xFFFF) + 1);
        let config = &context.shared.config;
        let shift = config.namespaces.get(nsid as usize - 1).map_or(0, |one| one.lba_shift);
        if config.zasl != 0 && count << shift > 4096 << config.zasl {
            let text =
                format!("{} bytes are appended; ZASL allows {}", count << shift, 4096_u64 << config.zasl);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
        }
        let start = self.zone_start(command, blocks, check)?;
        let Some(zones) = self.zoned.of(nsid) else { return Err(Status::INVALID_NAMESPACE) };
        let at = zones.append_at(start, count)?;
        let mut write = *command;
        write.0[0] = (command.word(0) & !0xFF | u64::from(nvm::WRITE)).to_le();
        write.0[5] = at.to_le();
        // The namespace is in memory, so that the write has ended.
        match self.carry_out_plain(&write, context, check) {
            Some(status) if !status.is_success() => return Err(status),
            _ => {}
        }
        if let Some(zones) = self.zoned.of(nsid) {
            zones.written(at, count);
        }
        self.result = at;
        Ok(())
    }

    /// The zone that a command names by its first block.
    fn zone_start(&mut self, command: &Command, blocks: u64, check: &Checker<'_>) -> Result<u64, Status> {
        let start = command.slba();
        let Some(zones) = self.zoned.of(command.nsid()) else { return Err(Status::INVALID_NAMESPACE) };
        if start >= blocks {
            let text = format!("a zone at block {start} of {blocks}");
            return Err(check.refuse(Status::LBA_OUT_OF_RANGE, Rule::Range, text));
        }
        if !start.is_multiple_of(zones.size()) {
            let text = format!("block {start} is no zone's first: zones have {} blocks", zones.size());
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        Ok(start)
    }

    /// Zone Management Send (3.4.3).
    fn send_action(
        &mut self,
        command: &Command,
        blocks: u64,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        check.reserved(command, 12, &[0, 0x1FF, 0, 0]);
        let (number, all) = (command.dword(13) as u8, command.dword(13) >> 8 & 1 == 1);
        let nsid = command.nsid();
        if number == SET_EXTENSION && !all {
            return self.set_extension(command, blocks, context, check);
        }
        let Some(action) = Action::of(number) else {
            let text = format!("there is no zone send action {number:02x}h, or not for all zones");
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        };
        let start = if all { 0 } else { self.zone_start(command, blocks, check)? };
        let Some(zones) = self.zoned.of(nsid) else { return Err(Status::INVALID_NAMESPACE) };
        let gone = match all {
            true => zones.act_on_all(action)?,
            false => Vec::from_iter(zones.act(start, action)?.then_some(start)),
        };
        let size = zones.size();
        let Some(namespace) = context.shared.namespaces.get(nsid as usize - 1) else { return Ok(()) };
        let shift = namespace.config.lba_shift;
        for start in gone {
            let zeroed = namespace.store.zero(start << shift, size << shift, true);
            zeroed.map_err(|_| Status::INTERNAL_ERROR)?;
        }
        Ok(())
    }

    fn set_extension(
        &mut self,
        command: &Command,
        blocks: u64,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        let start = self.zone_start(command, blocks, check)?;
        let len_bytes = self.zoned.of(command.nsid()).map_or(0, |zones| zones.extension_bytes());
        if len_bytes == 0 {
            let text = "zone descriptors have no extension (ZDES is 0)".to_owned();
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        let mut bytes = Vec::new();
        self.read_list(&mut bytes, len_bytes, command, context, check)?;
        match self.zoned.of(command.nsid()) {
            Some(zones) => zones.set_extension(start, &bytes),
            None => Err(Status::INVALID_NAMESPACE),
        }
    }

    /// Zone Management Receive (3.4.2).
    fn report(
        &mut self,
        command: &Command,
        blocks: u64,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        check.reserved(command, 13, &[0x1_FFFF, 0, 0]);
        let (kind, wanted) = (command.dword(13) as u8, (command.dword(13) >> 8) as u8);
        let Some(zones) = self.zoned.of(command.nsid()) else { return Err(Status::INVALID_NAMESPACE) };
        let extension_bytes = zones.extension_bytes();
        let len_bytes = (command.dword(12) as usize).saturating_add(1).saturating_mul(4);
        let mdts = context.shared.config.mdts;
        let right = (kind == 0 || kind == 1 && extension_bytes > 0)
            && wanted <= 7
            && len_bytes >= DESCRIPTOR_BYTES
            && (mdts == 0 || len_bytes <= 4096 << mdts);
        if !right {
            let text = format!("a report of kind {kind}, of zones in state {wanted}, in {len_bytes} bytes");
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        if command.slba() >= blocks {
            let text = format!("a report from block {} of {blocks} on", command.slba());
            return Err(check.refuse(Status::LBA_OUT_OF_RANGE, Rule::Range, text));
        }
        let partial = command.dword(13) >> 16 & 1 == 1;
        let extension = (kind == 1).then_some(extension_bytes);
        let report = make_report(zones, (command.slba(), wanted), extension, len_bytes, partial);
        self.segments.of_command(command, len_bytes, context.rules, context.view, check)?;
        let mut rest = &report[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at(segment.len_bytes.min(rest.len()));
            context.view.write(segment.iova, now).map_err(|fault| check.fault("the report", fault))?;
            rest = later;
        }
        Ok(())
    }
}

/// The states that a report can be limited to, by ZRASF.
fn is_wanted(state: State, wanted: u8) -> bool {
    const STATES: [State; 7] = [
        State::Empty,
        State::ImplicitlyOpen,
        State::ExplicitlyOpen,
        State::Closed,
        State::Full,
        State::ReadOnly,
        State::Offline,
    ];
    wanted == 0 || STATES.get(usize::from(wanted) - 1) == Some(&state)
}

/// A report of `len_bytes` bytes, with extensions of so many bytes where they are asked for.
fn make_report(
    zones: &Zones,
    (from, wanted): (u64, u8),
    extension: Option<usize>,
    len_bytes: usize,
    partial: bool,
) -> Vec<u8> {
    let mut report = vec![0; DESCRIPTOR_BYTES];
    let step = DESCRIPTOR_BYTES + extension.unwrap_or(0);
    let (mut count, mut held) = (0u64, 0u64);
    for zone in zones.from(from).filter(|zone| is_wanted(zone.state, wanted)) {
        count += 1;
        if report.len() + step > len_bytes {
            if partial {
                break;
            }
            continue;
        }
        held += 1;
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        descriptor[0] = SEQUENTIAL;
        descriptor[1] = (zone.state as u8) << 4;
        descriptor[2] = if zone.extension.is_some() { EXTENSION_VALID } else { 0 };
        descriptor[8..16].copy_from_slice(&zone.capacity.to_le_bytes());
        descriptor[16..24].copy_from_slice(&zone.start.to_le_bytes());
        descriptor[24..32].copy_from_slice(&zone.pointer.unwrap_or(u64::MAX).to_le_bytes());
        report.extend_from_slice(&descriptor);
        if let Some(len_bytes) = extension {
            let end = report.len() + len_bytes;
            report.extend_from_slice(zone.extension.unwrap_or_default());
            report.resize(end, 0);
        }
    }
    let told = if partial { held } else { count };
    report[..8].copy_from_slice(&told.to_le_bytes());
    report.resize(len_bytes, 0);
    report
}
