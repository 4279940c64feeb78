//! Reads and writes with metadata: of formats that have some, with protection information or without.

use corelane_dma::Payload;

use super::NvmeCommands;
use super::error::CommandError;
use super::lane::{Answer, Order};
use super::memory::Direction;
use super::nvm::equal;
use crate::nvme::spec::Lba;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::opcode::io;
use crate::nvme::spec::protection::{
    CONTROL_CHECK_APPLICATION, CONTROL_CHECK_GUARD, CONTROL_CHECK_REFERENCE, Protection,
};

/// The metadata of a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetadataFormat {
    /// How many bytes each block has, at least 1.
    pub bytes: u16,
    /// Whether it follows each block's data in the same buffer; else it is in a buffer of its own.
    pub extended: bool,
    /// The protection information in it, if that is on.
    pub protection: Option<Protection>,
}

/// What the controller checks of the protection information that comes with a command (PRCHK, NVM 5.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checks {
    /// The guard is that of the data.
    pub guard: bool,
    /// The reference tag is the block's number. Not for type 3.
    pub reference: bool,
    /// The application tag is this one.
    pub application: Option<ApplicationTag>,
}

/// An application tag that is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplicationTag {
    /// The tag.
    pub tag: u16,
    /// Which of its bits count.
    pub mask: u16,
}

impl Checks {
    /// Nothing.
    pub const NONE: Checks = Checks { guard: false, reference: false, application: None };
    /// The guard.
    pub const GUARD: Checks = Checks { guard: true, ..Checks::NONE };
    /// Guard and reference tag.
    pub const GUARD_AND_REFERENCE: Checks = Checks { reference: true, ..Checks::GUARD };

    /// The same, and this application tag.
    #[must_use]
    pub const fn and_application(self, tag: u16, mask: u16) -> Checks {
        Checks { application: Some(ApplicationTag { tag, mask }), ..self }
    }

    /// Sets PRCHK, LBAT and LBATM.
    fn ask(self, command: &mut Command) {
        let bit = |on, bit| if on { bit } else { 0 };
        command.cdw10[2] |= bit(self.guard, CONTROL_CHECK_GUARD)
            | bit(self.reference, CONTROL_CHECK_REFERENCE)
            | bit(self.application.is_some(), CONTROL_CHECK_APPLICATION);
        if let Some(ApplicationTag { tag, mask }) = self.application {
            command.cdw10[5] = u32::from(mask) << 16 | u32::from(tag);
        }
    }
}

const READ: &str = "Read with metadata";
const WRITE: &str = "Write with metadata";
const COMPARE: &str = "Compare with metadata";

impl NvmeCommands {
    /// The metadata of the namespace's format, if it has some.
    pub fn metadata_format(&self) -> Option<&MetadataFormat> {
        self.metadata.as_ref()
    }

    /// Reads blocks with their metadata as they are stored, protection information included. With extended blocks all of it goes
    /// into `data`, and `metadata` is none; else each has a buffer.
    ///
    /// # Errors
    /// In the answer: [`CommandError::Unsupported`] for a format without metadata, [`CommandError::Argument`] for buffers that do
    /// not hold the same number of blocks, or more than a transfer, and those of the command; among them the device statuses
    /// 282h to 284h, where `checks` find what is wrong.
    pub async fn read(&self, start: Lba, data: Payload, metadata: Payload, checks: Checks) -> Answer {
        self.with_metadata((READ, io::READ, Direction::FromDevice), start, (data, metadata), checks).await
    }

    /// Writes blocks with their metadata, as [`read`](Self::read) reads them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn write(&self, start: Lba, data: Payload, metadata: Payload, checks: Checks) -> Answer {
        self.with_metadata((WRITE, io::WRITE, Direction::ToDevice), start, (data, metadata), checks).await
    }

    /// Whether blocks hold this data and metadata, laid out as for [`write`](Self::write) (NVM 3.2.1). Protection information is
    /// checked as `checks` ask for, here and there, and not compared. The memory comes back with the answer.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where there is no Compare, and as [`read`](Self::read).
    pub async fn compare_with_metadata(
        &self,
        start: Lba,
        data: Payload,
        metadata: Payload,
        checks: Checks,
    ) -> (Result<bool, CommandError>, Payload, Payload) {
        if let Err(error) = self.support(self.abilities().compare, COMPARE, "ONCS bit 0") {
            return (Err(error), data, metadata);
        }
        let which = (COMPARE, io::COMPARE, Direction::ToDevice);
        let Answer { result, data, metadata } =
            self.with_metadata(which, start, (data, metadata), checks).await;
        (equal(result), data, metadata)
    }

    async fn with_metadata(
        &self,
        (name, opcode, direction): (&'static str, u8, Direction),
        start: Lba,
        (data, metadata): (Payload, Payload),
        checks: Checks,
    ) -> Answer {
        let checked = self.check_metadata(name, start, (&data, &metadata), checks);
        let (format, blocks) = match checked {
            Ok(checked) => checked,
            Err(error) => return Answer { result: Err(error), data, metadata },
        };
        let mut command = Command::transfer(opcode, self.nsid(), start, blocks, 0);
        checks.ask(&mut command);
        if let Some(protection) = format.protection {
            protection.set_reference(&mut command);
        }
        let [answer] = self.lane.run([Order { name, command, direction, data, metadata }]).await;
        answer
    }

    /// Has the controller check the protection information that is stored, if there is any.
    pub(super) fn check_stored(&self, command: &mut Command) {
        let Some(protection) = self.metadata.and_then(|format| format.protection) else { return };
        let checks = if protection.kind == 3 { Checks::GUARD } else { Checks::GUARD_AND_REFERENCE };
        checks.ask(command);
        protection.set_reference(command);
    }

    fn check_metadata(
        &self,
        command: &'static str,
        start: Lba,
        (data, metadata): (&Payload, &Payload),
        checks: Checks,
    ) -> Result<(MetadataFormat, u32), CommandError> {
        let format =
            self.metadata.ok_or_else(|| self.unsupported(command, "its format, which has no metadata,"))?;
        let argument = |what, value, expected| Err(CommandError::Argument { command, what, value, expected });
        let (block, more) = (self.block_bytes(), u64::from(format.bytes));
        let unit = if format.extended { block + more } else { block };
        let len = data.len_bytes() as u64;
        let (blocks, most) = (len / unit, (self.abilities().max_transfer_blocks << self.block_shift) / unit);
        if blocks * unit != len || !(1..=most).contains(&blocks) {
            return argument("the length of the data", len, format!("from 1 to {most} times {unit} bytes"));
        }
        let (len, expected) = (metadata.len_bytes() as u64, if format.extended { 0 } else { blocks * more });
        if len != expected {
            return argument("the length of the metadata", len, format!("{expected}, for {blocks} blocks"));
        }
        let wrong = |expected: &str| argument("what is to be checked", 1, expected.to_owned());
        match format.protection {
            None if checks != Checks::NONE => return wrong("nothing, without protection information"),
            Some(protection) if protection.kind == 3 && checks.reference => {
                return wrong("no reference tag, which is anything with type 3");
            }
            _ => {}
        }
        self.check_range(command, start, blocks)?;
        Ok((format, blocks as u32))
    }
}
