//! Status codes (NVMe base 2.0, section 3.3.3.2.1 and its figures; NVM command set 1.0, section 3.1).

use std::fmt;

/// A completion's status without the phase tag: SC in bits 7:0, SCT in 10:8, CRD in 12:11, M in 13, DNR in 14.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

/// Do Not Retry.
pub const DNR: u16 = 1 << 14;
/// More: the error log has more to say.
pub const MORE: u16 = 1 << 13;

const fn generic(code: u16) -> Status {
    Status(code)
}
const fn specific(code: u16) -> Status {
    Status(1 << 8 | code)
}
const fn media(code: u16) -> Status {
    Status(2 << 8 | code)
}

#[allow(missing_docs)] // The names are the specification's own.
impl Status {
    pub const SUCCESS: Status = generic(0x00);
    pub const INVALID_OPCODE: Status = generic(0x01);
    pub const INVALID_FIELD: Status = generic(0x02);
    pub const CID_CONFLICT: Status = generic(0x03);
    pub const DATA_TRANSFER_ERROR: Status = generic(0x04);
    pub const INTERNAL_ERROR: Status = generic(0x06);
    pub const ABORT_REQUESTED: Status = generic(0x07);
    pub const ABORTED_SQ_DELETION: Status = generic(0x08);
    pub const FAILED_FUSED: Status = generic(0x09);
    pub const MISSING_FUSED: Status = generic(0x0A);
    pub const INVALID_NAMESPACE: Status = generic(0x0B);
    pub const COMMAND_SEQUENCE: Status = generic(0x0C);
    pub const INVALID_SGL_SEGMENT: Status = generic(0x0D);
    pub const INVALID_SGL_COUNT: Status = generic(0x0E);
    pub const SGL_LENGTH_INVALID: Status = generic(0x0F);
    pub const SGL_TYPE_INVALID: Status = generic(0x11);
    pub const PRP_OFFSET_INVALID: Status = generic(0x13);
    pub const PLACEMENT_DISABLED: Status = generic(0x29);
    pub const LBA_OUT_OF_RANGE: Status = generic(0x80);
    pub const CAPACITY_EXCEEDED: Status = generic(0x81);

    pub const CQ_INVALID: Status = specific(0x00);
    pub const INVALID_QUEUE_ID: Status = specific(0x01);
    pub const INVALID_QUEUE_SIZE: Status = specific(0x02);
    pub const AER_LIMIT: Status = specific(0x05);
    pub const INVALID_VECTOR: Status = specific(0x08);
    pub const INVALID_LOG_PAGE: Status = specific(0x09);
    pub const INVALID_QUEUE_DELETION: Status = specific(0x0C);
    pub const FEATURE_NOT_SAVEABLE: Status = specific(0x0D);
    pub const FEATURE_NOT_CHANGEABLE: Status = specific(0x0E);

    pub const INVALID_PROTECTION: Status = specific(0x81);
    pub const INVALID_COMMAND_SET: Status = specific(0x2C);

    pub const SIZE_LIMIT: Status = specific(0x83);

    // Zoned Namespace Command Set 1.1, figure 15.
    pub const ZONE_BOUNDARY: Status = specific(0xB8);
    pub const ZONE_FULL: Status = specific(0xB9);
    pub const ZONE_READ_ONLY: Status = specific(0xBA);
    pub const ZONE_OFFLINE: Status = specific(0xBB);
    pub const ZONE_INVALID_WRITE: Status = specific(0xBC);
    pub const TOO_MANY_ACTIVE: Status = specific(0xBD);
    pub const TOO_MANY_OPEN: Status = specific(0xBE);
    pub const ZONE_INVALID_TRANSITION: Status = specific(0xBF);

    pub const WRITE_FAULT: Status = media(0x80);
    pub const READ_ERROR: Status = media(0x81);
    pub const GUARD_CHECK: Status = media(0x82);
    pub const APPLICATION_CHECK: Status = media(0x83);
    pub const REFERENCE_CHECK: Status = media(0x84);
    pub const COMPARE_FAILURE: Status = media(0x85);

    /// The same, not to be retried.
    #[must_use]
    pub const fn dnr(self) -> Status {
        Status(self.0 | DNR)
    }

    /// Whether it reports success.
    pub const fn is_success(self) -> bool {
        self.0 & 0x7FF == 0
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dnr = if self.0 & DNR != 0 { " DNR" } else { "" };
        write!(f, "Status({:x}h/{:02x}h{dnr})", self.0 >> 8 & 7, self.0 & 0xFF)
    }
}
