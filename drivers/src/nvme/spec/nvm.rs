//! Optional commands of the NVM command set: Compare, Verify, Write Uncorrectable, Copy, and fused operations.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::command::Command;
use super::opcode::io;
use super::{Lba, Nsid, assert_layout};

/// FUSE = 01b in the flags: the first command of a fused operation (Base 3.3.3.1).
pub const FLAGS_FUSED_FIRST: u8 = 0b01;
/// FUSE = 10b in the flags: the second command of a fused operation, in the next entry of the same queue.
pub const FLAGS_FUSED_SECOND: u8 = 0b10;
/// The most source ranges that a Copy can have: they are counted in 8 bits from 0 (NVM 3.2.2).
pub const COPY_MAX_RANGES: usize = 256;

/// A source range of Copy, in descriptor format 0: 32 bytes (NVM 3.2.2, figure 33).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CopyDescriptor {
    reserved_0: [u8; 8],
    /// SLBA: the first block.
    pub start: U64,
    /// NLB: how many blocks, counted from 0.
    pub blocks_less_one: U16,
    reserved_18: [u8; 6],
    /// EILBRT: the expected initial reference tag.
    pub reference_tag: U32,
    /// ELBAT: the expected application tag.
    pub application_tag: U16,
    /// ELBATM: which bits of it count.
    pub application_mask: U16,
}

assert_layout!(CopyDescriptor, 32, {
    start: 8, blocks_less_one: 16, reference_tag: 24, application_tag: 28, application_mask: 30,
});

impl CopyDescriptor {
    /// `blocks` blocks from `start` on, from 1 to 65,536.
    pub fn new(start: Lba, blocks: u32) -> CopyDescriptor {
        CopyDescriptor {
            start: U64::new(start.0),
            blocks_less_one: U16::new(blocks.wrapping_sub(1) as u16),
            ..CopyDescriptor::default()
        }
    }
}

impl Command {
    /// Copy of `ranges` source ranges, from 1 to [`COPY_MAX_RANGES`], in descriptor format 0, one after the other to
    /// `destination` (NVM 3.2.2).
    pub fn copy(nsid: Nsid, destination: Lba, ranges: u32) -> Command {
        let mut command = Command::new(io::COPY, nsid);
        command.cdw10[0] = destination.0 as u32;
        command.cdw10[1] = (destination.0 >> 32) as u32;
        command.cdw10[2] = ranges.wrapping_sub(1) & 0xff;
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_laid_out_as_the_specification_draws_it() {
        let descriptor = CopyDescriptor::new(Lba(0x1_2345_6789), 65_536);
        let bytes = descriptor.as_bytes();
        assert_eq!(bytes[..8], [0; 8]);
        assert_eq!(bytes[8..18], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(bytes[18..], [0; 14]);
        let command = Command::copy(Nsid(3), Lba(1 << 33 | 7), 256);
        assert_eq!((command.opcode, command.nsid), (0x19, 3));
        assert_eq!(command.cdw10, [7, 2, 255, 0, 0, 0]);
    }
}
