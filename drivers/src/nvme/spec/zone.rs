//! The zoned namespace command set: identify data, zone descriptors, reports and commands (Zoned Namespace Command Set
//! Specification, revision 1.1, "ZNS").

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::command::Command;
use super::opcode::io;
use super::{Lba, Nsid, assert_layout};

/// A zone descriptor's length in bytes, and that of a report's header (ZNS figures 36 and 37).
pub const DESCRIPTOR_BYTES: usize = 64;

/// The zones of an LBA format: 16 bytes (ZNS figure 49).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ZoneFormat {
    /// ZSZE: the size of each zone in blocks.
    pub zsze: U64,
    /// ZDES: the length of a descriptor extension in units of 64 bytes; 0: there is none.
    pub zdes: u8,
    reserved: [u8; 7],
}

/// A zoned namespace (ZNS figure 48).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyZonedNamespace {
    /// ZOC: bit 0 says that zones differ in capacity, and that it changes.
    pub zoc: U16,
    /// OZCS: bit 0 says that reads may cross from zone to zone.
    pub ozcs: U16,
    /// MAR: most active zones, counted from 0; all ones for no limit.
    pub mar: U32,
    /// MOR: most open zones, counted from 0; all ones for no limit.
    pub mor: U32,
    reserved_12: [u8; 2804],
    /// LBAFE0 to LBAFE63.
    pub formats: [ZoneFormat; 64],
    /// Of the vendor.
    pub vendor: [u8; 256],
}

assert_layout!(ZoneFormat, 16, { zsze: 0, zdes: 8 });
assert_layout!(IdentifyZonedNamespace, 4096, { zoc: 0, ozcs: 2, mar: 4, mor: 8, formats: 2816, vendor: 3840 });

impl IdentifyZonedNamespace {
    /// A limit that is counted from 0, with all ones for none; 0 for none.
    pub fn limit(field: U32) -> u32 {
        field.get().wrapping_add(1)
    }
}

/// What a controller says of the zoned command set (ZNS figure 50).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyZonedController {
    /// ZASL: the largest Zone Append as a power of two of the smallest memory page; 0: as MDTS.
    pub zasl: u8,
    reserved: [u8; 4095],
}

assert_layout!(IdentifyZonedController, 4096, { zasl: 0 });

/// The state of a zone (ZNS figure 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ZoneState {
    /// Nothing is written.
    Empty,
    /// Opened by a write.
    ImplicitlyOpen,
    /// Opened on purpose.
    ExplicitlyOpen,
    /// Partly written.
    Closed,
    /// It can only be read.
    ReadOnly,
    /// Nothing more can be written until it is reset.
    Full,
    /// It can be neither read nor written, for good.
    Offline,
    /// A value that the specification does not define.
    Unknown(u8),
}

impl ZoneState {
    /// By its number, which has four bits.
    pub fn of(number: u8) -> ZoneState {
        match number & 0xf {
            0x1 => ZoneState::Empty,
            0x2 => ZoneState::ImplicitlyOpen,
            0x3 => ZoneState::ExplicitlyOpen,
            0x4 => ZoneState::Closed,
            0xd => ZoneState::ReadOnly,
            0xe => ZoneState::Full,
            0xf => ZoneState::Offline,
            other => ZoneState::Unknown(other),
        }
    }

    /// Whether the write pointer means something.
    pub fn has_pointer(self) -> bool {
        matches!(
            self,
            ZoneState::Empty | ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed
        )
    }
}

/// A zone, as a report describes it (ZNS figure 37). What it says is not checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// ZSLBA: its first block.
    pub start: Lba,
    /// ZCAP: how many blocks of it can be written.
    pub capacity: u64,
    /// WP: the block to be written next; `None` in states where it means nothing.
    pub pointer: Option<Lba>,
    /// ZS.
    pub state: ZoneState,
    /// ZT: whether it has to be written in order (2), which is the only type there is.
    pub sequential: bool,
    /// ZA: attributes.
    pub attributes: ZoneAttributes,
    /// The descriptor extension, where it was asked for and is valid.
    pub extension: Option<Vec<u8>>,
}

bitflags::bitflags! {
    /// ZA: attributes of a zone.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ZoneAttributes: u8 {
        /// ZFC: the controller finished it.
        const FINISHED_BY_CONTROLLER = 1;
        /// FZR: it should be finished.
        const FINISH_RECOMMENDED = 1 << 1;
        /// RZR: it should be reset.
        const RESET_RECOMMENDED = 1 << 2;
        /// ZDEV: its descriptor extension is valid.
        const EXTENSION_VALID = 1 << 7;
    }
}

impl Zone {
    /// Reads a descriptor, with what follows it as its extension.
    fn of(descriptor: &[u8; DESCRIPTOR_BYTES], extension: &[u8]) -> Zone {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| descriptor[at + byte]));
        let state = ZoneState::of(descriptor[1] >> 4);
        let attributes = ZoneAttributes::from_bits_truncate(descriptor[2]);
        let valid = attributes.contains(ZoneAttributes::EXTENSION_VALID) && !extension.is_empty();
        Zone {
            start: Lba(word(16)),
            capacity: word(8),
            pointer: state.has_pointer().then(|| Lba(word(24))),
            state,
            sequential: descriptor[0] & 0xf == 2,
            attributes,
            extension: valid.then(|| extension.to_vec()),
        }
    }
}

/// Reads a report (ZNS figures 36 and 38): how many zones the header counts, and the zones whose descriptors are whole, at
/// most as many as it counts. `extension_bytes` is the length of a descriptor's extension in an extended report, 0 in another.
pub fn read_report(bytes: &[u8], extension_bytes: usize) -> (u64, Vec<Zone>) {
    let Some((header, rest)) = bytes.split_at_checked(DESCRIPTOR_BYTES) else { return (0, Vec::new()) };
    let count = u64::from_le_bytes(std::array::from_fn(|byte| header[byte]));
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let zones = rest.chunks_exact(DESCRIPTOR_BYTES.saturating_add(extension_bytes)).take(most);
    let zones = zones.filter_map(|chunk| {
        let (descriptor, extension) = chunk.split_first_chunk::<DESCRIPTOR_BYTES>()?;
        Some(Zone::of(descriptor, extension))
    });
    (count, zones.collect())
}

/// What Zone Management Send does to a zone's state (ZNS figure 41).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ZoneAction {
    /// Closes an open zone.
    Close = 1,
    /// Fills it up.
    Finish = 2,
    /// Opens it, for writes to come.
    Open = 3,
    /// Empties it. Its data is lost.
    Reset = 4,
    /// Takes a read-only zone out of use. Its data is lost.
    Offline = 5,
}

/// ZSA 10h: Set Zone Descriptor Extension.
const SET_EXTENSION: u32 = 0x10;
/// Bit 8 of dword 13 of Zone Management Send: all zones that the action makes sense for.
const SELECT_ALL: u32 = 1 << 8;

/// Which zones a report is to have (ZRASF, ZNS figure 35).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum ZoneFilter {
    /// All.
    #[default]
    All = 0,
    /// Empty ones.
    Empty = 1,
    /// Those opened by a write.
    ImplicitlyOpen = 2,
    /// Those opened on purpose.
    ExplicitlyOpen = 3,
    /// Closed ones.
    Closed = 4,
    /// Full ones.
    Full = 5,
    /// Those that can only be read.
    ReadOnly = 6,
    /// Those out of use.
    Offline = 7,
}

impl Command {
    fn zone(opcode: u8, nsid: Nsid, start: Lba) -> Command {
        let mut command = Command::new(opcode, nsid);
        (command.cdw10[0], command.cdw10[1]) = (start.0 as u32, (start.0 >> 32) as u32);
        command
    }

    /// Zone Management Send to the zone that starts at `start`, or to all zones that the action makes sense for (ZNS 3.4.3).
    pub fn zone_action(nsid: Nsid, start: Option<Lba>, action: ZoneAction) -> Command {
        let mut command = Command::zone(io::ZONE_SEND, nsid, start.unwrap_or(Lba(0)));
        command.cdw10[3] = if start.is_some() { action as u32 } else { SELECT_ALL | action as u32 };
        command
    }

    /// Zone Management Send that sets a zone's descriptor extension (ZNS 3.4.3.1.6). The data is as long as ZDES says.
    pub fn set_zone_extension(nsid: Nsid, start: Lba) -> Command {
        let mut command = Command::zone(io::ZONE_SEND, nsid, start);
        command.cdw10[3] = SET_EXTENSION;
        command
    }

    /// Zone Management Receive: a report of the zones from the one that `from` is in, as far as `len_bytes` bytes hold them, a
    /// multiple of 4 and at least a header; with their descriptor extensions if `extended`. Its count is that of the zones in
    /// it (ZNS 3.4.2).
    pub fn report_zones(
        nsid: Nsid,
        from: Lba,
        filter: ZoneFilter,
        extended: bool,
        len_bytes: u32,
    ) -> Command {
        const PARTIAL: u32 = 1 << 16;
        let mut command = Command::zone(io::ZONE_RECEIVE, nsid, from);
        command.cdw10[2] = (len_bytes / 4).wrapping_sub(1);
        command.cdw10[3] = PARTIAL | (filter as u32) << 8 | u32::from(extended);
        command
    }

    /// Zone Append of `blocks` blocks, from 1 to 65,536, to the zone that starts at `start` (ZNS 3.4.1). Dwords 0 and 1 of the
    /// completion say where they went.
    pub fn zone_append(nsid: Nsid, start: Lba, blocks: u32, control: u32) -> Command {
        Command::transfer(io::ZONE_APPEND, nsid, start, blocks, control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(state: u8, start: u64, pointer: u64) -> Vec<u8> {
        let mut bytes = vec![0; DESCRIPTOR_BYTES];
        (bytes[0], bytes[1], bytes[2]) = (2, state << 4, 0x84);
        bytes[8..16].copy_from_slice(&0xc00u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&start.to_le_bytes());
        bytes[24..32].copy_from_slice(&pointer.to_le_bytes());
        bytes
    }

    fn header(count: u64) -> Vec<u8> {
        let mut bytes = count.to_le_bytes().to_vec();
        bytes.resize(DESCRIPTOR_BYTES, 0);
        bytes
    }

    #[test]
    fn a_report_is_taken_apart() {
        let bytes = [header(2), descriptor(2, 0x1000, 0x1008), descriptor(14, 0x2000, u64::MAX)].concat();
        let (count, zones) = read_report(&bytes, 0);
        assert_eq!((count, zones.len()), (2, 2));
        let first = Zone {
            start: Lba(0x1000),
            capacity: 0xc00,
            pointer: Some(Lba(0x1008)),
            state: ZoneState::ImplicitlyOpen,
            sequential: true,
            attributes: ZoneAttributes::RESET_RECOMMENDED | ZoneAttributes::EXTENSION_VALID,
            extension: None,
        };
        assert_eq!(zones[0], first);
        assert_eq!((zones[1].state, zones[1].pointer), (ZoneState::Full, None));
    }

    #[test]
    fn extensions_lie_behind_their_descriptors() {
        let extension = |byte| vec![byte; 64];
        let mut second = descriptor(1, 0x2000, 0x2000);
        second[2] = 0;
        let bytes =
            [header(2), descriptor(1, 0x1000, 0x1000), extension(7), second, extension(9), vec![0; 100]]
                .concat();
        let (_, zones) = read_report(&bytes, 64);
        assert_eq!(zones.len(), 2);
        assert_eq!(zones[0].extension, Some(extension(7)));
        assert_eq!(zones[1].extension, None, "it is not valid");
    }

    #[test]
    fn a_report_has_what_is_whole_and_counted() {
        let bytes = [header(u64::MAX), descriptor(1, 0, 0), descriptor(1, 8, 8), vec![2; 63]].concat();
        assert_eq!(read_report(&bytes, 0).1.len(), 2);
        assert_eq!(read_report(&bytes[..DESCRIPTOR_BYTES + 10], 0), (u64::MAX, Vec::new()));
        assert_eq!(read_report(&bytes[..10], 0), (0, Vec::new()));
        let counted = [header(1), descriptor(1, 0, 0), descriptor(1, 8, 8)].concat();
        assert_eq!(read_report(&counted, 0).1.len(), 1);
    }

    #[test]
    fn commands_are_laid_out_as_the_specification_draws_them() {
        let one = Command::zone_action(Nsid(3), Some(Lba(1 << 33 | 8)), ZoneAction::Reset);
        assert_eq!((one.opcode, one.nsid, one.cdw10), (0x79, 3, [8, 2, 0, 4, 0, 0]));
        assert_eq!(Command::zone_action(Nsid(3), None, ZoneAction::Open).cdw10, [0, 0, 0, 0x103, 0, 0]);
        assert_eq!(Command::set_zone_extension(Nsid(3), Lba(8)).cdw10, [8, 0, 0, 0x10, 0, 0]);
        let report = Command::report_zones(Nsid(1), Lba(8), ZoneFilter::Full, true, 4096);
        assert_eq!((report.opcode, report.cdw10), (0x7a, [8, 0, 1023, 0x1_0501, 0, 0]));
        let append = Command::zone_append(Nsid(1), Lba(8), 2, 0);
        assert_eq!((append.opcode, append.cdw10), (0x7d, [8, 0, 1, 0, 0, 0]));
    }

    #[test]
    fn limits_count_from_0_and_all_ones_is_none() {
        assert_eq!(IdentifyZonedNamespace::limit(U32::new(0)), 1);
        assert_eq!(IdentifyZonedNamespace::limit(U32::new(u32::MAX)), 0);
    }
}
