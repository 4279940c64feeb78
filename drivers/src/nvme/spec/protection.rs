//! Protection information (NVM 2.1.2.4 and 5.2): what a format keeps with each block so that data and place can be checked, and
//! how a command says what is to be done with it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::assert_layout;
use super::command::Command;
use super::namespace::IdentifyNamespace;
use super::opcode::io;

/// PRACT: bit 29 of dword 12. The controller makes protection information for what is written, and checks and removes that of
/// what is read, where the metadata is nothing else (NVM 5.2.2).
pub const CONTROL_PRACT: u32 = 1 << 29;
/// PRCHK bit 2: bit 28 of dword 12. The guard is checked.
pub const CONTROL_CHECK_GUARD: u32 = 1 << 28;
/// PRCHK bit 1: bit 27 of dword 12. The application tag is checked.
pub const CONTROL_CHECK_APPLICATION: u32 = 1 << 27;
/// PRCHK bit 0: bit 26 of dword 12. The reference tag is checked.
pub const CONTROL_CHECK_REFERENCE: u32 = 1 << 26;

/// A namespace, what is specific to the NVM command set (CNS 05h, NVM 4.1.5.3, figure 100).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyNvmNamespace {
    /// LBSTM.
    pub lbstm: U64,
    /// PIC.
    pub pic: u8,
    reserved_9: [u8; 3],
    /// ELBAF0 to ELBAF63: STS in bits 6:0, PIF in bits 8:7.
    pub formats: [U32; 64],
    reserved_268: [u8; 3828],
}

assert_layout!(IdentifyNvmNamespace, 4096, { lbstm: 0, pic: 8, formats: 12 });

/// The guard of protection information (PIF): a checksum of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// CRC-16 T10-DIF; the protection information has 8 bytes.
    Crc16,
    /// CRC-32C; 16 bytes.
    Crc32,
    /// CRC-64/NVME; 16 bytes.
    Crc64,
}

/// Protection information that is on (DPS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection {
    /// Its type: 1 and 2, where the reference tag is the block's number, or 3, where it is anything.
    pub kind: u8,
    /// Its guard.
    pub guard: Guard,
    /// How many bits the reference tag has, from 16 to 80: what the storage tag leaves.
    pub reference_bits: u32,
    /// DPS bit 3: it is the first bytes of the metadata, not the last.
    pub first: bool,
}

/// Words of DPS or of an extended format that mean nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Undefined {
    /// Which field.
    pub what: &'static str,
    /// Its value.
    pub value: u64,
    /// What would be right.
    pub expected: &'static str,
}

impl Protection {
    /// What a namespace says, if it is on. `extended` is what it says of extended formats, where it has these.
    ///
    /// # Errors
    /// [`Undefined`] for types, guards and storage tags that there are not.
    pub fn of(
        identify: &IdentifyNamespace,
        extended: Option<&IdentifyNvmNamespace>,
    ) -> Result<Option<Protection>, Undefined> {
        let kind = identify.dps & 0b111;
        if kind == 0 {
            return Ok(None);
        }
        if kind > 3 {
            return Err(Undefined { what: "DPS", value: kind.into(), expected: "from 0 to 3" });
        }
        let format =
            extended.and_then(|all| all.formats.get(identify.format_index())).map_or(0, |word| word.get());
        let (guard, tag_bits) = match format >> 7 & 0b11 {
            0 => (Guard::Crc16, 32),
            1 => (Guard::Crc32, 80),
            2 => (Guard::Crc64, 48),
            value => return Err(Undefined { what: "PIF", value: value.into(), expected: "from 0 to 2" }),
        };
        let storage_bits = format & 0x7f;
        // The storage tag may take 32 of 32, 64 of 80, and 48 of 48 bits.
        if storage_bits > tag_bits.min(64) {
            let expected = "no more than there is room for";
            return Err(Undefined { what: "STS", value: storage_bits.into(), expected });
        }
        let first = identify.dps >> 3 & 1 == 1;
        Ok(Some(Protection { kind, guard, reference_bits: tag_bits - storage_bits, first }))
    }

    /// How many bytes it has.
    pub const fn bytes(self) -> u16 {
        match self.guard {
            Guard::Crc16 => 8,
            Guard::Crc32 | Guard::Crc64 => 16,
        }
    }

    /// The reference tag of a block, as far as 64 bits hold it; 0 for type 3.
    pub const fn reference_of(self, block: u64) -> u64 {
        match self.kind {
            3 => 0,
            _ if self.reference_bits >= 64 => block,
            _ => block & ((1 << self.reference_bits) - 1),
        }
    }

    /// Has the controller make the protection information of what is written, and check and remove that of what is read.
    /// `command` has blocks, and nothing of this yet.
    pub fn leave_to_controller(self, command: &mut Command) {
        command.cdw10[2] |= CONTROL_PRACT;
        // Write Zeroes checks nothing.
        if command.opcode != io::WRITE_ZEROES {
            command.cdw10[2] |=
                CONTROL_CHECK_GUARD | if self.kind == 3 { 0 } else { CONTROL_CHECK_REFERENCE };
        }
        self.set_reference(command);
    }

    /// Sets the reference tag that the first block has or is to get (ILBRT, EILBRT; NVM 5.2.1.4): dword 14, and dwords 3 and 2
    /// above it where the guard is longer.
    pub fn set_reference(self, command: &mut Command) {
        let block = u64::from(command.cdw10[0]) | u64::from(command.cdw10[1]) << 32;
        let reference = self.reference_of(block);
        command.cdw10[4] = reference as u32;
        command.cdw2[1] = (reference >> 32) as u32;
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;
    use crate::nvme::spec::{Lba, Nsid};

    fn protection(dps: u8, format: u32) -> Result<Option<Protection>, Undefined> {
        let mut identify = IdentifyNamespace::new_zeroed();
        let mut extended = IdentifyNvmNamespace::new_zeroed();
        (identify.dps, identify.flbas, identify.nlbaf) = (dps, 3, 4);
        extended.formats[3].set(format);
        Protection::of(&identify, Some(&extended))
    }

    #[test]
    fn formats_say_which_guard_and_tags_there_are() {
        let on = |dps, format| protection(dps, format).unwrap().unwrap();
        assert_eq!(protection(0b1000, 1 << 7), Ok(None));
        let plain = on(1, 0);
        assert_eq!((plain.kind, plain.guard, plain.reference_bits, plain.bytes()), (1, Guard::Crc16, 32, 8));
        let long = on(0b1010, 2 << 7 | 16);
        assert_eq!((long.kind, long.first, long.guard, long.reference_bits), (2, true, Guard::Crc64, 32));
        let middle = on(3, 1 << 7);
        assert_eq!((middle.guard, middle.reference_bits, middle.bytes()), (Guard::Crc32, 80, 16));
        for (dps, format, what) in
            [(4, 0, "DPS"), (1, 3 << 7, "PIF"), (1, 33, "STS"), (1, 1 << 7 | 65, "STS")]
        {
            assert_eq!(protection(dps, format).unwrap_err().what, what);
        }
    }

    #[test]
    fn reference_tags_are_block_numbers_as_far_as_there_is_room() {
        let (block, blocks) = (Lba(0x1234_5678_9abc), 8);
        let words = |dps, format, opcode| {
            let mut command = Command::transfer(opcode, Nsid(1), block, blocks, 0);
            protection(dps, format).unwrap().unwrap().leave_to_controller(&mut command);
            (command.cdw10[2], command.cdw10[4], command.cdw2)
        };
        assert_eq!(words(1, 0, io::READ), (0x3400_0007, 0x5678_9abc, [0, 0]));
        assert_eq!(words(3, 0, io::WRITE), (0x3000_0007, 0, [0, 0]));
        assert_eq!(words(1, 0, io::WRITE_ZEROES), (0x2000_0007, 0x5678_9abc, [0, 0]));
        assert_eq!(words(2, 2 << 7, io::READ), (0x3400_0007, 0x5678_9abc, [0, 0x1234]));
        assert_eq!(words(2, 2 << 7 | 32, io::READ), (0x3400_0007, 0x9abc, [0, 0]));
        assert_eq!(words(1, 1 << 7, io::READ), (0x3400_0007, 0x5678_9abc, [0, 0x1234]));
    }
}
