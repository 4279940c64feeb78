//! How much memory an I/O command moves by its own words, so that it is sent only with as much: a controller knows nothing
//! of where a buffer ends.
//!
//! Invariant: commands that count blocks count them in the format that the namespace has now, not in that of when somebody
//! put them together.

use super::commands::MetadataFormat;
use super::controller::NvmeController;
use super::error::NvmeError;
use super::namespace::{geometry, metadata};
use super::spec::Nsid;
use super::spec::command::Command;
use super::spec::namespace::{IdentifyNamespace, LbaFormat};
use super::spec::opcode::io;
use super::spec::protection::{CONTROL_PRACT, Protection};

/// What a block of a namespace is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockFormat {
    /// Its data, as a power of two of bytes.
    pub shift: u32,
    /// Its metadata, if it has any.
    pub metadata: Option<MetadataFormat>,
}

impl BlockFormat {
    /// That of a namespace that is said to be so, in the format that is in use. Blocks.
    ///
    /// # Errors
    /// [`NvmeError::Absurd`], and those of an admin command.
    pub fn of(
        controller: &NvmeController,
        nsid: Nsid,
        (identify, format): (&IdentifyNamespace, LbaFormat),
    ) -> Result<BlockFormat, NvmeError> {
        let extended = metadata::extended_formats(controller, nsid, identify)?;
        let address = controller.address();
        let protection = metadata::protection_of(address, nsid, (identify, format), extended.as_deref())?;
        let (bytes, extended) = (format.metadata_bytes.get(), identify.extended_blocks());
        let metadata = (bytes > 0).then_some(MetadataFormat { bytes, extended, protection });
        Ok(BlockFormat { shift: format.data_shift.into(), metadata })
    }

    /// That of a namespace, as the controller says it now; `None` if it has none of this number. Blocks.
    ///
    /// # Errors
    /// As [`of`](Self::of), and [`NvmeError::Absurd`] for what no namespace can be.
    pub fn ask(controller: &NvmeController, nsid: Nsid) -> Result<Option<BlockFormat>, NvmeError> {
        let identify = match controller.identify_namespace(nsid) {
            Ok(identify) if identify.nsze.get() != 0 => identify,
            // One that is not active is all zeroes (Base 5.17.2.1).
            Ok(_) | Err(NvmeError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (format, _) = geometry(controller.address(), nsid, &identify)?;
        BlockFormat::of(controller, nsid, (&identify, format)).map(Some)
    }
}

/// The memory that a command has to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// In bytes, behind the data pointer.
    pub data_bytes: u64,
    /// In bytes, behind the metadata pointer.
    pub metadata_bytes: u64,
}

/// Whether it depends on the format of blocks how much a command moves: they are counted in dword 12, from 0 on.
pub const fn counts_blocks(command: &Command) -> bool {
    matches!(command.opcode, io::READ | io::WRITE | io::COMPARE | io::ZONE_APPEND)
}

/// What a command of the NVM or the zoned command set moves; nothing, where its words do not tell. `format` is of no account
/// unless it [counts blocks](counts_blocks).
pub fn extent(command: &Command, format: Option<BlockFormat>) -> Extent {
    let [first, _, third, ..] = command.cdw10;
    let data = |data_bytes| Extent { data_bytes, metadata_bytes: 0 };
    match (command.opcode, format) {
        // 16 bytes for each range, and 32; both count from 0.
        (io::DATASET_MANAGEMENT, _) => data((u64::from(first & 0xff) + 1) * 16),
        (io::COPY, _) => data((u64::from(third & 0xff) + 1) * 32),
        (io::ZONE_RECEIVE, _) => data((u64::from(third) + 1) * 4),
        (_, Some(BlockFormat { shift, metadata })) if counts_blocks(command) => {
            let blocks = u64::from(third & 0xffff) + 1;
            let more = metadata.map_or(0, |format| moved_bytes(format, third)) * blocks;
            match metadata.is_some_and(|format| format.extended) {
                true => data((blocks << shift) + more),
                false => Extent { data_bytes: blocks << shift, metadata_bytes: more },
            }
        }
        _ => Extent::default(),
    }
}

/// The metadata of a block that moves: with PRACT not what is protection information and nothing else (NVM 5.2.2).
fn moved_bytes(format: MetadataFormat, control: u32) -> u64 {
    let made = control & CONTROL_PRACT != 0 && format.protection.map(Protection::bytes) == Some(format.bytes);
    if made { 0 } else { format.bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::spec::Lba;
    use crate::nvme::spec::protection::Guard;

    fn moved(command: &Command, format: BlockFormat) -> (u64, u64) {
        let Extent { data_bytes, metadata_bytes } = extent(command, Some(format));
        (data_bytes, metadata_bytes)
    }

    #[test]
    fn commands_move_as_many_blocks_as_they_count_in_the_format_in_use() {
        let protection = Protection { kind: 1, guard: Guard::Crc16, reference_bits: 32, first: false };
        let format = |bytes, extended| {
            let metadata = Some(MetadataFormat { bytes, extended, protection: Some(protection) });
            BlockFormat { shift: 12, metadata }
        };
        for opcode in [io::READ, io::WRITE, io::COMPARE, io::ZONE_APPEND] {
            let command = Command::transfer(opcode, Nsid(1), Lba(u64::MAX), 3, 0);
            let mut made = command;
            made.cdw10[2] |= CONTROL_PRACT;
            assert_eq!(moved(&command, BlockFormat { shift: 9, metadata: None }), (1536, 0));
            assert_eq!(moved(&command, format(8, false)), (3 * 4096, 24));
            assert_eq!(moved(&command, format(8, true)), (3 * 4104, 0));
            assert_eq!(moved(&made, format(8, true)), (3 * 4096, 0));
            assert_eq!(moved(&made, format(8, false)), (3 * 4096, 0));
            assert_eq!(moved(&made, format(16, false)), (3 * 4096, 48));
            assert!(counts_blocks(&command));
        }
        let most = Command::transfer(io::READ, Nsid(1), Lba(0), 1 << 16, 0);
        assert_eq!(moved(&most, BlockFormat { shift: 12, metadata: None }), (256 << 20, 0));
    }

    #[test]
    fn commands_with_lists_move_as_many_entries_as_they_count() {
        let with = |opcode, dword: usize, value| {
            let mut command = Command::new(opcode, Nsid(1));
            command.cdw10[dword] = value;
            assert!(!counts_blocks(&command));
            extent(&command, None)
        };
        let data = |data_bytes| Extent { data_bytes, metadata_bytes: 0 };
        assert_eq!(with(io::DATASET_MANAGEMENT, 0, 0xff), data(4096));
        assert_eq!(with(io::COPY, 2, 0x1f03), data(4 * 32));
        assert_eq!(with(io::ZONE_RECEIVE, 2, 1023), data(4096));
        for opcode in [io::FLUSH, io::WRITE_ZEROES, io::VERIFY, 0x81] {
            assert_eq!(with(opcode, 2, 7), data(0));
        }
    }
}
