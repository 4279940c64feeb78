//! `admin-passthru` and `io-passthru`: any command, as it is given.

use std::io::{Read, Write};
use std::path::Path;

use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::{Nsid, opcode};
use corelane_drivers::nvme::{PassthroughAnswer, Transfer};
use serde_json::json;

use super::args::Passthru;
use super::back_end::succeeded;
use super::change::{FORMAT_NVM, SANITIZE};
use super::fields::{dump, hex};
use super::{NvmeToolError, confirm};
use crate::ToolError;

/// Namespace Management (Base 5.23), of which select 1 deletes.
const NAMESPACE_MANAGEMENT: u8 = 0x0d;

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    None,
    In,
    Out,
}

/// Prints bytes as they are.
///
/// # Errors
/// Those of the output.
pub fn raw(bytes: &[u8]) -> Result<(), ToolError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Runs a command.
///
/// # Errors
/// Those of files, of the back end, and the controller's refusal.
pub fn run(passthru: &Passthru, is_admin: bool) -> Result<(), ToolError> {
    let mut command = Command::new(passthru.opcode, passthru.device.namespace_id.map_or(Nsid::NONE, Nsid));
    command.cdw2 = [passthru.cdw2, passthru.cdw3];
    let Passthru { cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, .. } = *passthru;
    command.cdw10 = [cdw10, cdw11, cdw12, cdw13, cdw14, cdw15];
    let way = way(passthru)?;
    if passthru.show_command || passthru.dry_run {
        show(&command, passthru)?;
    }
    if passthru.dry_run {
        return Ok(());
    }
    if is_admin && loses_data(&command) {
        let what =
            format!("Opcode {:#04x} to {}: data may be lost.", passthru.opcode, passthru.device.device);
        confirm(&what, passthru.force)?;
    }
    let mut data = vec![0; passthru.data_len as usize];
    let mut metadata = vec![0; passthru.metadata_len as usize];
    if way == Way::Out {
        fill(&mut data, passthru.input_file.as_deref())?;
        if !metadata.is_empty() {
            fill(&mut metadata, passthru.metadata.as_deref())?;
        }
    }
    let mut target = passthru.device.open()?;
    if !is_admin && passthru.device.namespace_id.is_none() {
        command.nsid = target.one_namespace()?.0;
    }
    let (lent, lent_metadata) = (transfer(way, &mut data), transfer(way, &mut metadata));
    let back_end = &mut target.back_end;
    let answer = match is_admin {
        true => back_end.admin(&command, lent, lent_metadata)?,
        false => back_end.io(&command, lent, lent_metadata)?,
    };
    succeeded(answer)?;
    if way == Way::In {
        for (path, bytes) in [(&passthru.input_file, &data), (&passthru.metadata, &metadata)] {
            if let Some(path) = path {
                std::fs::write(path, bytes)
                    .map_err(|source| NvmeToolError::File { path: path.clone(), source })?;
            }
        }
    }
    report(passthru, is_admin, answer, if way == Way::In { &data } else { &[] })
}

fn transfer(way: Way, bytes: &mut [u8]) -> Transfer<'_> {
    match way {
        _ if bytes.is_empty() => Transfer::None,
        Way::None => Transfer::None,
        Way::In => Transfer::In(bytes),
        Way::Out => Transfer::Out(bytes),
    }
}

fn way(passthru: &Passthru) -> Result<Way, NvmeToolError> {
    match (passthru.read, passthru.write, passthru.data_len) {
        (true, ..) => Ok(Way::In),
        (_, true, _) => Ok(Way::Out),
        (.., 0) if passthru.metadata_len == 0 => Ok(Way::None),
        (.., value) => {
            let expected = "0 unless --read or --write says which way it goes";
            Err(NvmeToolError::Value { what: "the length of the data", value: value.into(), expected })
        }
    }
}

/// Whether an admin command may lose data.
fn loses_data(command: &Command) -> bool {
    let deletes = command.opcode == NAMESPACE_MANAGEMENT && command.cdw10[0] & 0xf == 1;
    deletes || [FORMAT_NVM, SANITIZE].contains(&command.opcode)
}

/// Reads as many bytes as there are; the rest stays zero.
fn fill(bytes: &mut [u8], path: Option<&Path>) -> Result<(), NvmeToolError> {
    let failed =
        |source| NvmeToolError::File { path: path.unwrap_or(Path::new("standard input")).to_owned(), source };
    let mut source: Box<dyn Read> = match path {
        Some(path) => Box::new(std::fs::File::open(path).map_err(failed)?),
        None => Box::new(std::io::stdin().lock()),
    };
    let mut at = 0;
    while at < bytes.len() {
        match source.read(&mut bytes[at..]).map_err(failed)? {
            0 => break,
            got => at += got,
        }
    }
    Ok(())
}

fn show(command: &Command, passthru: &Passthru) -> Result<(), ToolError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "opcode       : {:02x}\nnsid         : {:08x}", command.opcode, command.nsid)?;
    for (number, dword) in [(2, command.cdw2[0]), (3, command.cdw2[1])] {
        writeln!(out, "cdw{number:<10}: {dword:08x}")?;
    }
    for (index, dword) in command.cdw10.iter().enumerate() {
        writeln!(out, "cdw{:<10}: {dword:08x}", index + 10)?;
    }
    writeln!(out, "data_len     : {:08x}\nmetadata_len : {:08x}", passthru.data_len, passthru.metadata_len)?;
    Ok(())
}

fn report(
    passthru: &Passthru,
    is_admin: bool,
    answer: PassthroughAnswer,
    data: &[u8],
) -> Result<(), ToolError> {
    if passthru.raw_binary {
        return raw(data);
    }
    let kind = if is_admin { "Admin" } else { "IO" };
    let name = if is_admin { admin_name(passthru.opcode) } else { io_name(passthru.opcode) };
    let to_file = passthru.input_file.is_some();
    passthru.device.print(
        || {
            let head = format!("{kind} Command {name} is Success and result: {:#010x}\n", answer.result);
            if data.is_empty() || to_file { head } else { head + &dump(data) }
        },
        || json!({ "opcode": passthru.opcode, "result": answer.result, "data": hex(data) }),
    )
}

fn admin_name(code: u8) -> &'static str {
    match code {
        opcode::admin::GET_LOG_PAGE => "Get Log Page",
        opcode::admin::IDENTIFY => "Identify",
        opcode::admin::SET_FEATURES => "Set Features",
        opcode::admin::GET_FEATURES => "Get Features",
        NAMESPACE_MANAGEMENT => "Namespace Management",
        0x10 => "Firmware Commit",
        0x11 => "Firmware Image Download",
        0x14 => "Device Self-test",
        0x15 => "Namespace Attachment",
        0x19 => "Directive Send",
        0x1a => "Directive Receive",
        FORMAT_NVM => "Format NVM",
        0x81 => "Security Send",
        0x82 => "Security Receive",
        SANITIZE => "Sanitize",
        0xc0.. => "Vendor Specific",
        _ => "Unknown",
    }
}

fn io_name(code: u8) -> &'static str {
    match code {
        opcode::io::FLUSH => "Flush",
        opcode::io::WRITE => "Write",
        opcode::io::READ => "Read",
        opcode::io::WRITE_UNCORRECTABLE => "Write Uncorrectable",
        opcode::io::COMPARE => "Compare",
        opcode::io::WRITE_ZEROES => "Write Zeroes",
        opcode::io::DATASET_MANAGEMENT => "Dataset Management",
        opcode::io::VERIFY => "Verify",
        opcode::io::COPY => "Copy",
        0x79 => "Zone Management Send",
        0x7a => "Zone Management Receive",
        0x7d => "Zone Append",
        0x80.. => "Vendor Specific",
        _ => "Unknown",
    }
}
