//! Identify: the controller's data (Base 5.17.2.1), and what it says of its NVM command set (NVM 4.1.5.4).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::assert_layout;
use super::placement::CTRATT_PLACEMENT;

/// Every identify structure's length in bytes (Base 5.17).
pub const IDENTIFY_BYTES: usize = 4096;

/// Which structure Identify returns (Base figure 273).
pub mod cns {
    /// A namespace, as the NVM command set has it.
    pub const NAMESPACE: u8 = 0x00;
    /// The controller.
    pub const CONTROLLER: u8 = 0x01;
    /// The active namespaces above a number.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// A namespace's identification descriptors.
    pub const DESCRIPTORS: u8 = 0x03;
    /// A namespace, what is specific to its I/O command set.
    pub const COMMAND_SET_NAMESPACE: u8 = 0x05;
    /// The controller, what is specific to an I/O command set.
    pub const COMMAND_SET_CONTROLLER: u8 = 0x06;
    /// The combinations of I/O command sets that the controller can have enabled.
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// The NVM command set's identifier (Base figure 274).
pub const COMMAND_SET_NVM: u8 = 0;
/// The zoned namespace command set's identifier (Base figure 274).
pub const COMMAND_SET_ZONED: u8 = 2;

/// Which I/O command set a namespace has: its identification descriptors (Base 5.17.2.3, figure 277) say so where the
/// controller has several; `None` where they do not.
pub fn command_set_of(descriptors: &[u8]) -> Option<u8> {
    const COMMAND_SET: u8 = 4;
    let mut rest = descriptors;
    while let [kind, len, _, _, more @ ..] = rest
        && *kind != 0
    {
        let (value, next) = more.split_at_checked(usize::from(*len))?;
        if *kind == COMMAND_SET {
            return value.first().copied();
        }
        rest = next;
    }
    None
}

bitflags::bitflags! {
    /// OACS: optional admin commands.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AdminCommands: u16 {
        /// Security Send and Receive.
        const SECURITY = 1;
        /// Format NVM.
        const FORMAT = 1 << 1;
        /// Firmware commands.
        const FIRMWARE = 1 << 2;
        /// Namespace management and attachment.
        const NAMESPACES = 1 << 3;
        /// Device self-test.
        const SELF_TEST = 1 << 4;
        /// Directives.
        const DIRECTIVES = 1 << 5;
        /// Doorbell Buffer Config.
        const DOORBELL_BUFFERS = 1 << 8;
    }
}

bitflags::bitflags! {
    /// ONCS: optional commands of the NVM command set.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct NvmCommands: u16 {
        /// Compare.
        const COMPARE = 1;
        /// Write Uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Dataset Management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Features that are saved.
        const SAVE_FEATURES = 1 << 4;
        /// Reservations.
        const RESERVATIONS = 1 << 5;
        /// Verify.
        const VERIFY = 1 << 7;
        /// Copy.
        const COPY = 1 << 8;
    }
}

/// The controller (Base figure 275).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyController {
    /// VID: PCI vendor.
    pub vid: U16,
    /// SSVID: PCI subsystem vendor.
    pub ssvid: U16,
    /// SN: serial number, ASCII, padded with spaces.
    pub sn: [u8; 20],
    /// MN: model number, ASCII, padded with spaces.
    pub mn: [u8; 40],
    /// FR: firmware revision, ASCII, padded with spaces.
    pub fr: [u8; 8],
    /// RAB.
    pub rab: u8,
    /// IEEE.
    pub ieee: [u8; 3],
    /// CMIC.
    pub cmic: u8,
    /// MDTS: the largest transfer as a power of two of the smallest memory page, 0 for no limit.
    pub mdts: u8,
    /// CNTLID.
    pub cntlid: U16,
    /// VER.
    pub ver: U32,
    /// RTD3R, in microseconds.
    pub rtd3r: U32,
    /// RTD3E: how long a shutdown takes at most, in microseconds; 0 if it does not say.
    pub rtd3e: U32,
    /// OAES: optional asynchronous events.
    pub oaes: U32,
    /// CTRATT.
    pub ctratt: U32,
    /// RRLS.
    pub rrls: U16,
    reserved_102: [u8; 9],
    /// CNTRLTYPE: 1 I/O, 2 discovery, 3 administrative, 0 if it does not say.
    pub cntrltype: u8,
    /// FGUID.
    pub fguid: [u8; 16],
    /// CRDT1 to CRDT3: delays before a retry, in units of 100 ms.
    pub crdt: [U16; 3],
    reserved_134: [u8; 122],
    /// OACS, see [`AdminCommands`].
    pub oacs: U16,
    /// ACL: abort commands at once, counted from 0.
    pub acl: u8,
    /// AERL: asynchronous event requests at once, counted from 0.
    pub aerl: u8,
    /// FRMW.
    pub frmw: u8,
    /// LPA: what log pages can.
    pub lpa: u8,
    /// ELPE: entries of the error log, counted from 0.
    pub elpe: u8,
    /// NPSS.
    pub npss: u8,
    /// AVSCC.
    pub avscc: u8,
    /// APSTA.
    pub apsta: u8,
    /// WCTEMP, in kelvins.
    pub wctemp: U16,
    /// CCTEMP, in kelvins.
    pub cctemp: U16,
    /// MTFA, in units of 100 ms.
    pub mtfa: U16,
    /// HMPRE: preferred host memory buffer, in units of 4 KiB.
    pub hmpre: U32,
    /// HMMIN: least host memory buffer, in units of 4 KiB.
    pub hmmin: U32,
    /// TNVMCAP, in bytes.
    pub tnvmcap: [u8; 16],
    /// UNVMCAP, in bytes.
    pub unvmcap: [u8; 16],
    reserved_312: [u8; 20],
    /// HMMINDS: least length of a piece of a host memory buffer, in units of 4 KiB; 0 for no such limit.
    pub hmminds: U32,
    /// HMMAXD: most pieces of a host memory buffer; 0 for no such limit.
    pub hmmaxd: U16,
    reserved_338: [u8; 174],
    /// SQES: smallest (bits 3:0) and largest (7:4) submission entry, as powers of two.
    pub sqes: u8,
    /// CQES: the same of completion entries.
    pub cqes: u8,
    /// MAXCMD.
    pub maxcmd: U16,
    /// NN: the largest namespace number.
    pub nn: U32,
    /// ONCS, see [`NvmCommands`].
    pub oncs: U16,
    /// FUSES: bit 0 says that Compare and Write may be fused.
    pub fuses: U16,
    /// FNA.
    pub fna: u8,
    /// VWC: bit 0 says that there is a volatile write cache.
    pub vwc: u8,
    /// AWUN: blocks that are written atomically, counted from 0.
    pub awun: U16,
    /// AWUPF: the same across a loss of power.
    pub awupf: U16,
    /// ICSVSCC.
    pub icsvscc: u8,
    /// NWPC.
    pub nwpc: u8,
    /// ACWU: blocks that a fused Compare and Write treats atomically, counted from 0.
    pub acwu: U16,
    /// OCFS: the formats of descriptors that Copy takes.
    pub ocfs: U16,
    /// SGLS: what SGLs it takes.
    pub sgls: U32,
    /// MNAN.
    pub mnan: U32,
    reserved_544: [u8; 224],
    /// SUBNQN: the subsystem's name, ended by a zero.
    pub subnqn: [u8; 256],
    reserved_1024: [u8; 1024],
    /// PSD0 to PSD31: power states.
    pub power_states: [[u8; 32]; 32],
    /// Of the vendor.
    pub vendor: [u8; 1024],
}

assert_layout!(IdentifyController, 4096, {
    vid: 0, sn: 4, mn: 24, fr: 64, mdts: 77, cntlid: 78, ver: 80, rtd3r: 84, rtd3e: 88, oaes: 92, ctratt: 96,
    cntrltype: 111, crdt: 128, oacs: 256, acl: 258, aerl: 259, lpa: 261, wctemp: 266, mtfa: 270, hmpre: 272,
    tnvmcap: 280, hmminds: 332, hmmaxd: 336, sqes: 512, cqes: 513, maxcmd: 514, nn: 516, oncs: 520, vwc: 525, awun: 526, acwu: 532, ocfs: 534, sgls: 536,
    mnan: 540, subnqn: 768, power_states: 2048, vendor: 3072,
});

/// What of SGLs a controller takes (SGLS, Base figure 275).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SglSupport {
    /// None.
    None,
    /// Addresses and lengths of any alignment.
    Bytes,
    /// Addresses and lengths in dwords.
    Dwords,
}

impl IdentifyController {
    /// OACS.
    pub fn admin_commands(&self) -> AdminCommands {
        AdminCommands::from_bits_truncate(self.oacs.get())
    }

    /// CTRATT bit 19: data can be placed (flexible data placement).
    pub fn has_placement(&self) -> bool {
        self.ctratt.get() & CTRATT_PLACEMENT != 0
    }

    /// ONCS.
    pub fn nvm_commands(&self) -> NvmCommands {
        NvmCommands::from_bits_truncate(self.oncs.get())
    }

    /// SGLS bits 1:0.
    pub fn sgl_support(&self) -> SglSupport {
        match self.sgls.get() & 0b11 {
            0b01 => SglSupport::Bytes,
            0b10 => SglSupport::Dwords,
            _ => SglSupport::None,
        }
    }

    /// FUSES bit 0: Compare and Write may be fused.
    pub fn can_compare_and_write(&self) -> bool {
        self.fuses.get() & 1 == 1
    }

    /// OCFS bit 0: Copy takes descriptors of format 0.
    pub fn copies_format_0(&self) -> bool {
        self.ocfs.get() & 1 == 1
    }

    /// CTRATT bit 15 (ELBAS): namespaces may have formats with guards of more than 16 bits.
    pub fn has_extended_formats(&self) -> bool {
        self.ctratt.get() >> 15 & 1 == 1
    }

    /// VWC bit 0.
    pub fn has_write_cache(&self) -> bool {
        self.vwc & 1 == 1
    }

    /// The largest transfer in bytes, if there is a limit that a number can hold.
    pub fn max_transfer_bytes(&self, min_page_shift: u32) -> Option<u64> {
        match u32::from(self.mdts) {
            0 => None,
            mdts => 1u64.checked_shl(min_page_shift.saturating_add(mdts)),
        }
    }

    /// Whether entries of queue may have 64 and 16 bytes, as the NVM command set needs.
    pub fn has_usual_entries(&self) -> bool {
        let within = |sizes: u8, size: u8| sizes & 0xf <= size && size <= sizes >> 4;
        within(self.sqes, 6) && within(self.cqes, 4)
    }
}

/// Text of a fixed-length field, without its padding; what is not printable ASCII becomes `?`.
pub fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let readable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
    field[..end].iter().map(readable).collect::<String>().trim_end().to_owned()
}

/// What a controller says of the NVM command set (NVM 4.1.5.4, figure 102). Sizes are powers of two of the smallest
/// memory page, 0 for no limit.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyNvmController {
    /// VSL: the largest Verify.
    pub vsl: u8,
    /// WZSL: the largest Write Zeroes.
    pub wzsl: u8,
    /// WUSL: the largest Write Uncorrectable.
    pub wusl: u8,
    /// DMRL: most ranges of a Dataset Management, 0 for 256.
    pub dmrl: u8,
    /// DMRSL: most blocks of a range, 0 for no limit.
    pub dmrsl: U32,
    /// DMSL: most blocks of all ranges together, 0 for no limit.
    pub dmsl: zerocopy::little_endian::U64,
    reserved: [u8; 4080],
}

assert_layout!(IdentifyNvmController, 4096, { vsl: 0, wzsl: 1, wusl: 2, dmrl: 3, dmrsl: 4, dmsl: 8 });

/// The active namespace list: numbers in rising order, ended by a 0 (Base 5.17.2.2).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamespaceList {
    /// The numbers.
    pub nsids: [U32; 1024],
}

assert_layout!(NamespaceList, 4096, { nsids: 0 });

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn transfers_are_counted_in_pages() {
        let mut identify = IdentifyController::new_zeroed();
        assert_eq!(identify.max_transfer_bytes(12), None);
        identify.mdts = 7;
        assert_eq!(identify.max_transfer_bytes(12), Some(512 << 10));
        identify.mdts = 255;
        assert_eq!(identify.max_transfer_bytes(12), None);
    }

    #[test]
    fn entry_sizes_must_include_the_usual() {
        let mut identify = IdentifyController::new_zeroed();
        assert!(!identify.has_usual_entries());
        (identify.sqes, identify.cqes) = (0x66, 0x44);
        assert!(identify.has_usual_entries());
        (identify.sqes, identify.cqes) = (0x76, 0x33);
        assert!(!identify.has_usual_entries());
    }

    #[test]
    fn the_command_set_is_found_among_descriptors() {
        let eui64 = [1, 8, 0, 0, 2, 3, 4, 5, 6, 7, 8, 9];
        let all = [&eui64[..], &[4, 1, 0, 0, 2], &[0; 40]].concat();
        assert_eq!(command_set_of(&all), Some(2));
        assert_eq!(command_set_of(&all[..13]), None, "cut off");
        assert_eq!(command_set_of(&eui64), None);
        assert_eq!(command_set_of(&[0; 4096]), None);
        assert_eq!(command_set_of(&[4, 200, 0, 0, 2]), None, "longer than there is");
        assert_eq!(command_set_of(&[9, 0, 0, 0, 4, 1, 0, 0, 0]), Some(0));
    }

    #[test]
    fn text_is_trimmed_and_made_harmless() {
        assert_eq!(text(b"QEMU NVMe Ctrl      "), "QEMU NVMe Ctrl");
        assert_eq!(text(b"a\x1bb\0rest"), "a?b");
        assert_eq!(text(b"    "), "");
    }
}
