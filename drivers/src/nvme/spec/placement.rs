//! Flexible data placement: which reclaim unit handle the data of a write goes to (Base 2.1, 3.2.4 and 8.1.10; in 2.0 as the
//! technical proposal 4146, "TP4146").

use super::Nsid;
use super::command::Command;
use super::opcode::io;

/// CTRATT bit 19: the controller has flexible data placement.
pub const CTRATT_PLACEMENT: u32 = 1 << 19;
/// DTYPE = 02h (data placement) in bits 23:20 of dword 12 of a write. DSPEC, in bits 31:16 of dword 13, is a placement
/// identifier then.
pub const CONTROL_PLACEMENT: u32 = 0x2 << 20;
impl Command {
    /// Says where a write's data goes.
    pub fn place(&mut self, id: u16) {
        self.cdw10[2] |= CONTROL_PLACEMENT;
        self.cdw10[3] |= u32::from(id) << 16;
    }
}

/// The header of the reclaim unit handle status.
const HEADER_BYTES: usize = 16;
/// A descriptor of it.
const DESCRIPTOR_BYTES: usize = 32;

/// A handle that a namespace can place data by (TP4146, reclaim unit handle status descriptor).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacementHandle {
    /// PID: the placement identifier that writes name.
    pub id: u16,
    /// RUHID: the reclaim unit handle behind it, of the endurance group.
    pub handle: u16,
    /// EARUTR: in how many seconds about the controller takes another reclaim unit by itself; 0 if it does not say.
    pub time_s: u32,
    /// RUAMW: how many blocks can still be written to the reclaim unit.
    pub writable_blocks: u64,
}

/// How many handles a reclaim unit handle status counts, however many of them it holds.
pub fn count_handles(bytes: &[u8]) -> usize {
    bytes.get(14..HEADER_BYTES).map_or(0, |count| usize::from(u16::from_le_bytes([count[0], count[1]])))
}

/// Reads a reclaim unit handle status: the handles whose descriptors are whole, at most as many as it counts.
pub fn read_handles(bytes: &[u8]) -> Vec<PlacementHandle> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Vec::new() };
    let count = u16::from_le_bytes([header[14], header[15]]);
    let handle = |bytes: &[u8; DESCRIPTOR_BYTES]| PlacementHandle {
        id: u16::from_le_bytes([bytes[0], bytes[1]]),
        handle: u16::from_le_bytes([bytes[2], bytes[3]]),
        time_s: u32::from_le_bytes(std::array::from_fn(|at| bytes[4 + at])),
        writable_blocks: u64::from_le_bytes(std::array::from_fn(|at| bytes[8 + at])),
    };
    rest.as_chunks::<DESCRIPTOR_BYTES>().0.iter().take(count.into()).map(handle).collect()
}

/// How long a status with so many handles is, in bytes.
pub const fn handles_bytes(count: usize) -> usize {
    HEADER_BYTES + count * DESCRIPTOR_BYTES
}

impl Command {
    /// I/O Management Receive of the reclaim unit handle status, of `len_bytes` bytes, a multiple of 4 (TP4146).
    pub fn handle_status(nsid: Nsid, len_bytes: u32) -> Command {
        const STATUS: u32 = 0x01;
        let mut command = Command::new(io::MANAGEMENT_RECEIVE, nsid);
        (command.cdw10[0], command.cdw10[1]) = (STATUS, (len_bytes / 4).wrapping_sub(1));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_taken_apart() {
        let mut bytes = vec![0; handles_bytes(2)];
        bytes[14] = 2;
        bytes[16..32].copy_from_slice(&[3, 0, 7, 0, 10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes[48] = 4;
        let first = PlacementHandle { id: 3, handle: 7, time_s: 10, writable_blocks: 256 };
        let second = PlacementHandle { id: 4, handle: 0, time_s: 0, writable_blocks: 0 };
        assert_eq!(read_handles(&bytes), [first, second]);
        assert_eq!((count_handles(&bytes), count_handles(&bytes[..15])), (2, 0));
        assert_eq!(read_handles(&bytes[..50]), [first], "the second is cut off");
        bytes[14] = 1;
        assert_eq!(read_handles(&bytes), [first]);
        assert_eq!(read_handles(&bytes[..15]), []);
    }

    #[test]
    fn a_write_names_type_and_identifier() {
        let mut command = Command::transfer(io::WRITE, Nsid(1), super::super::Lba(0), 8, 0);
        command.place(0x8001);
        assert_eq!(command.cdw10[2..4], [0x0020_0007, 0x8001_0000]);
    }

    #[test]
    fn the_status_is_asked_for_in_dwords() {
        let command = Command::handle_status(Nsid(1), 4096);
        assert_eq!((command.opcode, command.cdw10), (0x12, [1, 1023, 0, 0, 0, 0]));
    }
}
