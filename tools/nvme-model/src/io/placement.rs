//! Flexible data placement (TP4146; NVMe base 2.1, section 8.1.10): what a write says of where its data goes is checked and
//! counted, and a host is told by what it can say so.
//!
//! All namespaces with placement are of one endurance group, in which it is on.

use std::sync::PoisonError;

use super::{DWORD12, DWORD13, Io, IoContext, Step, namespace};
use crate::check::Checker;
use crate::namespace::Namespace;
use crate::shared::Shared;
use crate::violation::Rule;
use crate::wire::command::{Command, nvm};
use crate::wire::status::Status;

/// DTYPE, in bits 23:20 of double word 12, and its value for data placement.
const DTYPE: u32 = 0xF << 20;
const PLACEMENT: u32 = 2 << 20;
/// DSPEC, in bits 31:16 of double word 13.
const DSPEC: u32 = 0xFFFF << 16;
/// The management operation of I/O Management Receive: reclaim unit handle status.
const STATUS: u32 = 1;
/// The header of the status, and a descriptor.
const HEADER_BYTES: usize = 16;
const DESCRIPTOR_BYTES: usize = 32;
/// The size of a reclaim unit in blocks.
const UNIT_BLOCKS: u64 = 1 << 16;

/// Looks at what a read or write says beyond its blocks: where the data goes, or what is reserved.
#[cold]
pub(super) fn look(
    command: &Command,
    namespace: &Namespace,
    shared: &Shared,
    check: &Checker<'_>,
) -> Result<(), Status> {
    check.reserved(command, 2, &[0; 4]);
    if command.opcode() != nvm::WRITE || command.dword(12) & DTYPE == 0 {
        check.reserved(command, 12, &[DWORD12, DWORD13]);
        return Ok(());
    }
    check.reserved(command, 12, &[DWORD12 | DTYPE, DWORD13 | DSPEC]);
    let Some(config) = namespace.config.placement.filter(|_| command.dword(12) & DTYPE == PLACEMENT) else {
        let text = format!("directive type {:x}h, which is not enabled", (command.dword(12) & DTYPE) >> 20);
        return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
    };
    let id = (command.dword(13) >> 16) as u16;
    if !config.identifiers().any(|(known, _)| known == id) {
        // It is placed as if it had none (base 2.1, 8.1.10), but no host should do that.
        check.note(Rule::InvalidField, format!("there is no placement identifier {id:#x}"));
        return Ok(());
    }
    let blocks = u64::from(command.dword(12) & 0xFFFF) + 1;
    let mut placements = shared.placements.lock().unwrap_or_else(PoisonError::into_inner);
    *placements.entry((command.nsid(), id)).or_default() += blocks;
    Ok(())
}

impl Io {
    /// I/O Management Receive (base 2.1, 7.3).
    pub(super) fn management_receive(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        check.reserved(command, 2, &[0; 4]);
        check.reserved(command, 10, &[0xFFFF_00FF, 0xFFFF_FFFF, 0, 0, 0, 0]);
        if command.dword(10) & 0xFF != STATUS {
            let text = format!("there is no management operation {:02x}h", command.dword(10) & 0xFF);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        let shared = context.shared;
        let len_bytes = (u64::from(command.dword(11)) + 1) * 4;
        let mdts = shared.config.mdts;
        if len_bytes > if mdts == 0 { u64::from(u32::MAX) } else { 4096 << mdts } {
            let text = format!("{len_bytes} bytes; MDTS allows {}", 4096_u64 << mdts);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
        }
        let namespace = namespace(command.nsid(), shared, check)?;
        let Some(config) = namespace.config.placement else { return Err(Status::PLACEMENT_DISABLED.dnr()) };
        let placements = shared.placements.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; HEADER_BYTES];
        let mut count = 0u16;
        for (id, handle) in config.identifiers() {
            let written = placements.get(&(command.nsid(), id)).copied().unwrap_or(0);
            let mut descriptor = [0; DESCRIPTOR_BYTES];
            descriptor[..2].copy_from_slice(&id.to_le_bytes());
            descriptor[2..4].copy_from_slice(&handle.to_le_bytes());
            descriptor[8..16].copy_from_slice(&(UNIT_BLOCKS - written % UNIT_BLOCKS).to_le_bytes());
            bytes.extend_from_slice(&descriptor);
            count += 1;
        }
        drop(placements);
        bytes[14..16].copy_from_slice(&count.to_le_bytes());
        bytes.resize(len_bytes as usize, 0);
        self.segments.of_command(command, bytes.len(), context.rules, context.view, check)?;
        let mut rest = &bytes[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at(segment.len_bytes.min(rest.len()));
            context.view.write(segment.iova, now).map_err(|fault| check.fault("the status", fault))?;
            rest = later;
        }
        Ok(Step::Done)
    }
}
