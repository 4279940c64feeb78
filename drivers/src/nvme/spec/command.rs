//! Submission queue entries (Base 3.3.3.1) and what commands point to.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::assert_layout;
use super::opcode::{admin, io};
use super::{Lba, Nsid, Qid};

/// A submission queue entry: 64 bytes (Base 3.3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Command {
    /// OPC.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// CID.
    pub cid: u16,
    /// NSID.
    pub nsid: u32,
    /// Command dwords 2 and 3.
    pub cdw2: [u32; 2],
    /// MPTR: metadata.
    pub metadata: u64,
    /// DPTR: where the data is.
    pub data: DataPointer,
    /// Command dwords 10 to 15.
    pub cdw10: [u32; 6],
}

assert_layout!(Command, 64, { opcode: 0, flags: 1, cid: 2, nsid: 4, cdw2: 8, metadata: 16, data: 24, cdw10: 40 });

/// DPTR: two PRP entries (Base 4.1.1), or one SGL descriptor in the same 16 bytes (Base 4.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DataPointer {
    /// PRP entry 1; the address of an SGL descriptor.
    pub prp1: u64,
    /// PRP entry 2; length and type of an SGL descriptor.
    pub prp2: u64,
}

/// An SGL descriptor: 16 bytes (Base 4.1.2, figure 94).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SglDescriptor {
    /// Where.
    pub address: u64,
    /// Length in bits 31:0, zero in 55:32, type in 63:60, sub type in 59:56.
    pub length_and_type: u64,
}

assert_layout!(SglDescriptor, 16, { address: 0, length_and_type: 8 });

impl SglDescriptor {
    /// A piece of data (type 0h, sub type 0h: an address).
    pub const fn data_block(address: u64, len_bytes: u32) -> SglDescriptor {
        SglDescriptor { address, length_and_type: len_bytes as u64 }
    }

    /// The last segment of descriptors (type 3h), of `len_bytes` bytes.
    pub const fn last_segment(address: u64, len_bytes: u32) -> SglDescriptor {
        SglDescriptor { address, length_and_type: 0x30 << 56 | len_bytes as u64 }
    }

    /// As the data pointer of a command.
    pub const fn as_data_pointer(self) -> DataPointer {
        DataPointer { prp1: self.address, prp2: self.length_and_type }
    }
}

/// PSDT = 01b: the data pointer is an SGL, metadata is contiguous (Base 3.3.3.1).
pub const FLAGS_SGL: u8 = 0b01 << 6;

/// Bit 30 of dword 12 of a write: force unit access (NVM 3.2.6). The high bit of the 16-bit control field.
pub const CONTROL_FUA: u32 = 1 << 30;
/// Bit 25 of dword 12 of Write Zeroes: the blocks may be deallocated (NVM 3.2.8).
pub const CONTROL_DEALLOCATE: u32 = 1 << 25;
/// Bit 2 of dword 11 of Dataset Management: deallocate (NVM 3.2.3).
pub const DSM_DEALLOCATE: u32 = 1 << 2;
/// The most ranges of one Dataset Management command (NVM 3.2.3).
pub const DSM_MAX_RANGES: usize = 256;

/// A range of Dataset Management: 16 bytes (NVM 3.2.3, figure 42).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes: none.
    pub attributes: U32,
    /// Length in blocks, not counted from 0.
    pub blocks: U32,
    /// First block.
    pub start: U64,
}

assert_layout!(DsmRange, 16, { attributes: 0, blocks: 4, start: 8 });

impl Command {
    /// A command with nothing but its opcode and namespace.
    pub fn new(opcode: u8, nsid: Nsid) -> Command {
        Command { opcode, nsid: nsid.0, ..Command::default() }
    }

    /// The same with this data pointer.
    #[must_use]
    pub fn with_data(mut self, data: DataPointer) -> Command {
        self.data = data;
        self
    }

    /// A read or write of `blocks` blocks, from 1 to 65,536; `control` is the upper half of dword 12.
    #[inline(always)]
    pub fn transfer(opcode: u8, nsid: Nsid, start: Lba, blocks: u32, control: u32) -> Command {
        let mut command = Command::new(opcode, nsid);
        command.cdw10[0] = start.0 as u32;
        command.cdw10[1] = (start.0 >> 32) as u32;
        command.cdw10[2] = control | blocks.wrapping_sub(1) & 0xffff;
        command
    }

    /// Dataset Management of `ranges` ranges, from 1 to [`DSM_MAX_RANGES`], that deallocates.
    pub fn deallocate(nsid: Nsid, ranges: u32) -> Command {
        let mut command = Command::new(io::DATASET_MANAGEMENT, nsid);
        command.cdw10[0] = ranges.wrapping_sub(1) & 0xff;
        command.cdw10[1] = DSM_DEALLOCATE;
        command
    }

    /// Identify (Base 5.17).
    pub fn identify(cns: u8, nsid: Nsid, command_set: u8) -> Command {
        let mut command = Command::new(admin::IDENTIFY, nsid);
        command.cdw10[0] = u32::from(cns);
        command.cdw10[1] = u32::from(command_set) << 24;
        command
    }

    /// Get Log Page of `len_bytes` bytes, a multiple of 4, from `offset_bytes` on (Base 5.16).
    pub fn log_page(page: u8, nsid: Nsid, offset_bytes: u64, len_bytes: u32) -> Command {
        let mut command = Command::new(admin::GET_LOG_PAGE, nsid);
        let dwords = (len_bytes / 4).wrapping_sub(1);
        command.cdw10[0] = dwords << 16 | u32::from(page);
        command.cdw10[1] = dwords >> 16;
        command.cdw10[2] = offset_bytes as u32;
        command.cdw10[3] = (offset_bytes >> 32) as u32;
        command
    }

    /// Asynchronous Event Request, which is answered when there is one (Base 5.2).
    pub fn event_request() -> Command {
        Command::new(admin::ASYNC_EVENT_REQUEST, Nsid::NONE)
    }

    /// Abort of the command `cid` of queue `qid` (Base 5.1).
    pub fn abort(qid: Qid, cid: u16) -> Command {
        let mut command = Command::new(admin::ABORT, Nsid::NONE);
        command.cdw10[0] = u32::from(cid) << 16 | u32::from(qid.0);
        command
    }

    /// Set Features, for this power cycle (Base 5.27).
    pub fn set_feature(feature: u8, nsid: Nsid, value: u32) -> Command {
        let mut command = Command::new(admin::SET_FEATURES, nsid);
        command.cdw10[0] = u32::from(feature);
        command.cdw10[1] = value;
        command
    }

    /// Get Features, the current value (Base 5.15).
    pub fn get_feature(feature: u8, nsid: Nsid) -> Command {
        let mut command = Command::new(admin::GET_FEATURES, nsid);
        command.cdw10[0] = u32::from(feature);
        command
    }

    /// Create I/O Completion Queue, contiguous, with interrupts by `vector` if there is one (Base 5.4).
    pub fn create_cq(qid: Qid, entries: u32, vector: Option<u16>) -> Command {
        let mut command = Command::new(admin::CREATE_CQ, Nsid::NONE);
        command.cdw10[0] = (entries - 1) << 16 | u32::from(qid.0);
        command.cdw10[1] = match vector {
            Some(vector) => u32::from(vector) << 16 | 0b11,
            None => 0b01,
        };
        command
    }

    /// Create I/O Submission Queue, contiguous, that completes in the queue of the same number (Base 5.5).
    pub fn create_sq(qid: Qid, entries: u32) -> Command {
        let mut command = Command::new(admin::CREATE_SQ, Nsid::NONE);
        command.cdw10[0] = (entries - 1) << 16 | u32::from(qid.0);
        command.cdw10[1] = u32::from(qid.0) << 16 | 0b01;
        command
    }

    /// Delete I/O Submission Queue or Completion Queue (Base 5.7, 5.6).
    pub fn delete_queue(opcode: u8, qid: Qid) -> Command {
        let mut command = Command::new(opcode, Nsid::NONE);
        command.cdw10[0] = u32::from(qid.0);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_laid_out_as_the_specification_draws_it() {
        let mut command = Command::transfer(io::READ, Nsid(7), Lba(0x1_2345_6789), 8, 0)
            .with_data(DataPointer { prp1: 0x1000, prp2: 0x2000 });
        command.cid = 0xabcd;
        let bytes = command.as_bytes();
        assert_eq!(bytes[..8], [2, 0, 0xcd, 0xab, 7, 0, 0, 0]);
        assert_eq!(bytes[24..40], [0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[40..52], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn the_largest_transfer_fits_its_field() {
        let command = Command::transfer(io::WRITE, Nsid(1), Lba(0), 65_536, CONTROL_FUA);
        assert_eq!(command.cdw10[2], 0x4000_ffff);
    }

    #[test]
    fn queue_commands_carry_size_number_and_vector() {
        let cq = Command::create_cq(Qid(3), 1024, Some(5));
        assert_eq!((cq.cdw10[0], cq.cdw10[1]), (1023 << 16 | 3, 5 << 16 | 3));
        assert_eq!(Command::create_cq(Qid(3), 2, None).cdw10[1], 1);
        let sq = Command::create_sq(Qid(3), 64);
        assert_eq!((sq.cdw10[0], sq.cdw10[1]), (63 << 16 | 3, 3 << 16 | 1));
    }

    #[test]
    fn an_abort_names_queue_and_command() {
        assert_eq!(Command::abort(Qid(3), 0x1234).cdw10[..2], [0x1234_0003, 0]);
    }

    #[test]
    fn log_pages_are_counted_in_dwords() {
        let command = Command::log_page(2, Nsid::ALL, 1 << 33, 512);
        assert_eq!(command.cdw10[..4], [127 << 16 | 2, 0, 0, 2]);
        assert_eq!(Command::log_page(1, Nsid::ALL, 0, 1 << 20).cdw10[..2], [0xffff << 16 | 1, 3]);
    }

    #[test]
    fn sgl_descriptors_have_their_type_in_the_last_byte() {
        let data = SglDescriptor::data_block(0x1234, 512);
        assert_eq!(data.as_bytes()[8..], [0, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(SglDescriptor::last_segment(0, 32).as_bytes()[15], 0x30);
    }
}
