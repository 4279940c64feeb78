//! Completion queue entries (Base 3.3.3.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::assert_layout;
use super::status::Status;

/// A completion queue entry: 16 bytes (Base 3.3.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(8))]
pub struct Completion {
    /// Dword 0: what the command answers.
    pub result: u32,
    /// Dword 1.
    pub result_high: u32,
    /// SQHD: how far the controller has read the submission queue.
    pub sq_head: u16,
    /// SQID: which submission queue the command came from.
    pub sq_id: u16,
    /// CID.
    pub cid: u16,
    /// The phase tag in bit 0, the status above it.
    pub status_and_phase: u16,
}

assert_layout!(Completion, 16, {
    result: 0, result_high: 4, sq_head: 8, sq_id: 10, cid: 12, status_and_phase: 14,
});

impl Completion {
    /// Where SQHD, SQID, CID, phase and status lie: 8 bytes.
    pub const SECOND_HALF: usize = 8;

    /// The status.
    pub const fn status(self) -> Status {
        Status(self.status_and_phase >> 1)
    }

    /// The phase tag (Base 3.3.3.2.2).
    pub const fn phase(self) -> bool {
        self.status_and_phase & 1 == 1
    }
}
