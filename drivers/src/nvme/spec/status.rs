//! Status codes: what they are called, and which errno stands for them.
//!
//! The field (Base 3.3.3.2.1) has a code, a code type that says which table the code is of, how long to wait before a
//! retry, whether the error log has more, and whether a retry is of use at all.

use std::fmt;

use corelane_engine::block::{Errno, IoError};

/// The status field of a completion: 15 bits (Base 3.3.3.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

/// Code types (Base figure 93).
pub mod code_type {
    /// Of any command.
    pub const GENERIC: u8 = 0;
    /// Of the command in question.
    pub const COMMAND_SPECIFIC: u8 = 1;
    /// The medium or the data.
    pub const MEDIA: u8 = 2;
    /// The path to the medium.
    pub const PATH: u8 = 3;
    /// Of the vendor.
    pub const VENDOR: u8 = 7;
}

impl Status {
    /// Everything went well.
    pub const SUCCESS: Status = Status(0);
    /// Invalid Command Opcode.
    pub const INVALID_OPCODE: Status = Status::of(code_type::GENERIC, 0x01);
    /// Invalid Field in Command.
    pub const INVALID_FIELD: Status = Status::of(code_type::GENERIC, 0x02);
    /// Command Aborted due to SQ Deletion.
    pub const ABORTED_SQ_DELETION: Status = Status::of(code_type::GENERIC, 0x08);
    /// Command Abort Requested.
    pub const ABORT_REQUESTED: Status = Status::of(code_type::GENERIC, 0x07);
    /// Invalid Namespace or Format.
    pub const INVALID_NAMESPACE: Status = Status::of(code_type::GENERIC, 0x0b);

    /// The status with this type and code, and nothing else set.
    pub const fn of(code_type: u8, code: u8) -> Status {
        Status((code_type as u16 & 0b111) << 8 | code as u16)
    }

    /// SC.
    pub const fn code(self) -> u8 {
        self.0 as u8
    }

    /// SCT.
    pub const fn code_type(self) -> u8 {
        (self.0 >> 8 & 0b111) as u8
    }

    /// CRD: which of the controller's delays to keep before a retry, 0 for none.
    pub const fn retry_delay(self) -> u8 {
        (self.0 >> 11 & 0b11) as u8
    }

    /// M: the error log has more to say.
    pub const fn more(self) -> bool {
        self.0 >> 13 & 1 == 1
    }

    /// DNR: the same command would fail again.
    pub const fn do_not_retry(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    /// Whether the command succeeded.
    #[inline(always)]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether the code is of a kind that may pass: the same command may succeed later, if DNR does not deny it. Codes that
    /// find a fault with the command itself are of no such kind.
    pub const fn may_pass(self) -> bool {
        match (self.code_type(), self.code()) {
            // Transfer, power loss, internal, aborted, sanitize, interrupted, transport, not ready, format.
            (code_type::GENERIC, 0x04..=0x08 | 0x1d | 0x21 | 0x22 | 0x24 | 0x82 | 0x84) => true,
            // Write Fault, Unrecovered Read Error.
            (code_type::MEDIA, 0x80 | 0x81) => true,
            // All but the persistent loss of access.
            (code_type::PATH, code) => code != 0x01,
            (code_type::VENDOR, _) => true,
            _ => false,
        }
    }

    /// Whether type and code are the same, whatever else is set.
    pub const fn is(self, other: Status) -> bool {
        (self.0 ^ other.0) & 0x7ff == 0
    }

    /// The specification's name, if it has one for this code.
    pub fn name(self) -> Option<&'static str> {
        self.entry().map(|entry| entry.1)
    }

    /// What Linux calls such an error.
    pub fn errno(self) -> Errno {
        self.entry().map_or(Errno::EIO, |entry| Errno::from_raw(entry.2))
    }

    /// As the error of a request: the errno, and in `device_status` code type << 8 | code, with
    /// [`IoError::DO_NOT_RETRY`] where the controller says so.
    #[cold]
    pub fn to_io_error(self) -> IoError {
        let dnr = if self.do_not_retry() { IoError::DO_NOT_RETRY } else { 0 };
        IoError { errno: self.errno(), device_status: u32::from(self.0 & 0x7ff) | dnr }
    }

    fn entry(self) -> Option<&'static Entry> {
        let table = match self.code_type() {
            code_type::GENERIC => GENERIC,
            code_type::COMMAND_SPECIFIC => COMMAND_SPECIFIC,
            code_type::MEDIA => MEDIA,
            code_type::PATH => PATH,
            _ => &[],
        };
        table.iter().find(|entry| entry.0 == self.code())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.code_type()) {
            (Some(name), _) => f.write_str(name)?,
            (None, code_type::VENDOR) => f.write_str("vendor's status")?,
            (None, _) => f.write_str("unknown status")?,
        }
        write!(f, " (sct {:#x}, sc {:#04x}", self.code_type(), self.code())?;
        if self.do_not_retry() { f.write_str(", do not retry)") } else { f.write_str(")") }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#06x}: {self})", self.0)
    }
}

/// Code, name, errno. The errnos follow what Linux's block layer makes of the codes.
type Entry = (u8, &'static str, i32);

/// Base figure 94, NVM figure 13.
const GENERIC: &[Entry] = &[
    (0x00, "Successful Completion", libc::EIO),
    (0x01, "Invalid Command Opcode", libc::EOPNOTSUPP),
    (0x02, "Invalid Field in Command", libc::EINVAL),
    (0x03, "Command ID Conflict", libc::EIO),
    (0x04, "Data Transfer Error", libc::EIO),
    (0x05, "Commands Aborted due to Power Loss Notification", libc::ECANCELED),
    (0x06, "Internal Error", libc::EIO),
    (0x07, "Command Abort Requested", libc::ECANCELED),
    (0x08, "Command Aborted due to SQ Deletion", libc::ECANCELED),
    (0x09, "Command Aborted due to Failed Fused Command", libc::ECANCELED),
    (0x0a, "Command Aborted due to Missing Fused Command", libc::ECANCELED),
    (0x0b, "Invalid Namespace or Format", libc::ENODEV),
    (0x0c, "Command Sequence Error", libc::EIO),
    (0x0d, "Invalid SGL Segment Descriptor", libc::EINVAL),
    (0x0e, "Invalid Number of SGL Descriptors", libc::EINVAL),
    (0x0f, "Data SGL Length Invalid", libc::EINVAL),
    (0x10, "Metadata SGL Length Invalid", libc::EINVAL),
    (0x11, "SGL Descriptor Type Invalid", libc::EINVAL),
    (0x12, "Invalid Use of Controller Memory Buffer", libc::EINVAL),
    (0x13, "PRP Offset Invalid", libc::EINVAL),
    (0x14, "Atomic Write Unit Exceeded", libc::EINVAL),
    (0x15, "Operation Denied", libc::EPERM),
    (0x16, "SGL Offset Invalid", libc::EINVAL),
    (0x18, "Host Identifier Inconsistent Format", libc::EINVAL),
    (0x19, "Keep Alive Timer Expired", libc::EIO),
    (0x1a, "Keep Alive Timeout Invalid", libc::EINVAL),
    (0x1b, "Command Aborted due to Preempt and Abort", libc::ECANCELED),
    (0x1c, "Sanitize Failed", libc::EIO),
    (0x1d, "Sanitize In Progress", libc::EBUSY),
    (0x1e, "SGL Data Block Granularity Invalid", libc::EINVAL),
    (0x1f, "Command Not Supported for Queue in CMB", libc::EOPNOTSUPP),
    (0x20, "Namespace is Write Protected", libc::EROFS),
    (0x21, "Command Interrupted", libc::EAGAIN),
    (0x22, "Transient Transport Error", libc::EAGAIN),
    (0x23, "Command Prohibited by Command and Feature Lockdown", libc::EPERM),
    (0x24, "Admin Command Media Not Ready", libc::EAGAIN),
    (0x29, "Flexible Data Placement Disabled", libc::EOPNOTSUPP),
    (0x2a, "Invalid Placement Handle List", libc::EINVAL),
    (0x80, "LBA Out of Range", libc::EIO),
    (0x81, "Capacity Exceeded", libc::ENOSPC),
    (0x82, "Namespace Not Ready", libc::EAGAIN),
    (0x83, "Reservation Conflict", libc::EBADE),
    (0x84, "Format In Progress", libc::EBUSY),
    (0x85, "Invalid Value Size", libc::EINVAL),
    (0x86, "Invalid Key Size", libc::EINVAL),
    (0x87, "KV Key Does Not Exist", libc::ENOENT),
    (0x88, "Unrecovered Error", libc::EIO),
    (0x89, "Key Exists", libc::EEXIST),
];

/// Base figure 95, NVM figure 14.
const COMMAND_SPECIFIC: &[Entry] = &[
    (0x00, "Completion Queue Invalid", libc::EINVAL),
    (0x01, "Invalid Queue Identifier", libc::EINVAL),
    (0x02, "Invalid Queue Size", libc::EINVAL),
    (0x03, "Abort Command Limit Exceeded", libc::EBUSY),
    (0x05, "Asynchronous Event Request Limit Exceeded", libc::EBUSY),
    (0x06, "Invalid Firmware Slot", libc::EINVAL),
    (0x07, "Invalid Firmware Image", libc::EINVAL),
    (0x08, "Invalid Interrupt Vector", libc::EINVAL),
    (0x09, "Invalid Log Page", libc::EINVAL),
    (0x0a, "Invalid Format", libc::EINVAL),
    (0x0b, "Firmware Activation Requires Conventional Reset", libc::EIO),
    (0x0c, "Invalid Queue Deletion", libc::EINVAL),
    (0x0d, "Feature Identifier Not Saveable", libc::EINVAL),
    (0x0e, "Feature Not Changeable", libc::EINVAL),
    (0x0f, "Feature Not Namespace Specific", libc::EINVAL),
    (0x10, "Firmware Activation Requires NVM Subsystem Reset", libc::EIO),
    (0x11, "Firmware Activation Requires Controller Level Reset", libc::EIO),
    (0x12, "Firmware Activation Requires Maximum Time Violation", libc::EIO),
    (0x13, "Firmware Activation Prohibited", libc::EPERM),
    (0x14, "Overlapping Range", libc::EINVAL),
    (0x15, "Namespace Insufficient Capacity", libc::ENOSPC),
    (0x16, "Namespace Identifier Unavailable", libc::EINVAL),
    (0x18, "Namespace Already Attached", libc::EEXIST),
    (0x19, "Namespace Is Private", libc::EPERM),
    (0x1a, "Namespace Not Attached", libc::ENODEV),
    (0x1b, "Thin Provisioning Not Supported", libc::EOPNOTSUPP),
    (0x1c, "Controller List Invalid", libc::EINVAL),
    (0x1d, "Device Self-test In Progress", libc::EBUSY),
    (0x1e, "Boot Partition Write Prohibited", libc::EPERM),
    (0x1f, "Invalid Controller Identifier", libc::EINVAL),
    (0x20, "Invalid Secondary Controller State", libc::EINVAL),
    (0x21, "Invalid Number of Controller Resources", libc::EINVAL),
    (0x22, "Invalid Resource Identifier", libc::EINVAL),
    (0x23, "Sanitize Prohibited While Persistent Memory Region is Enabled", libc::EPERM),
    (0x24, "ANA Group Identifier Invalid", libc::EINVAL),
    (0x25, "ANA Attach Failed", libc::EIO),
    (0x26, "Insufficient Capacity", libc::ENOSPC),
    (0x27, "Namespace Attachment Limit Exceeded", libc::EBUSY),
    (0x28, "Prohibition of Command Execution Not Supported", libc::EOPNOTSUPP),
    (0x29, "I/O Command Set Not Supported", libc::EOPNOTSUPP),
    (0x2a, "I/O Command Set Not Enabled", libc::EOPNOTSUPP),
    (0x2b, "I/O Command Set Combination Rejected", libc::EINVAL),
    (0x2c, "Invalid I/O Command Set", libc::EINVAL),
    (0x2d, "Identifier Unavailable", libc::EINVAL),
    (0x80, "Conflicting Attributes", libc::EINVAL),
    (0x81, "Invalid Protection Information", libc::EINVAL),
    (0x82, "Attempted Write to Read Only Range", libc::EROFS),
    (0x83, "Command Size Limit Exceeded", libc::EINVAL),
    (0xb8, "Zoned Boundary Error", libc::EIO),
    (0xb9, "Zone Is Full", libc::EIO),
    (0xba, "Zone Is Read Only", libc::EROFS),
    (0xbb, "Zone Is Offline", libc::EIO),
    (0xbc, "Zone Invalid Write", libc::EIO),
    (0xbd, "Too Many Active Zones", libc::EOVERFLOW),
    (0xbe, "Too Many Open Zones", libc::ETOOMANYREFS),
    (0xbf, "Invalid Zone State Transition", libc::EIO),
];

/// Base figure 97, NVM figure 15.
const MEDIA: &[Entry] = &[
    (0x80, "Write Fault", libc::EIO),
    (0x81, "Unrecovered Read Error", libc::EIO),
    (0x82, "End-to-end Guard Check Error", libc::EILSEQ),
    (0x83, "End-to-end Application Tag Check Error", libc::EILSEQ),
    (0x84, "End-to-end Reference Tag Check Error", libc::EILSEQ),
    (0x85, "Compare Failure", libc::EIO),
    (0x86, "Access Denied", libc::EACCES),
    (0x87, "Deallocated or Unwritten Logical Block", libc::EIO),
    (0x88, "End-to-end Storage Tag Check Error", libc::EILSEQ),
];

/// Base figure 98.
const PATH: &[Entry] = &[
    (0x00, "Internal Path Error", libc::ENOLINK),
    (0x01, "Asymmetric Access Persistent Loss", libc::ENOLINK),
    (0x02, "Asymmetric Access Inaccessible", libc::ENOLINK),
    (0x03, "Asymmetric Access Transition", libc::EAGAIN),
    (0x60, "Controller Pathing Error", libc::ENOLINK),
    (0x70, "Host Pathing Error", libc::ENOLINK),
    (0x71, "Command Aborted By Host", libc::ECANCELED),
];

/// The name of an [`IoError`]'s `device_status`, for the block layer's messages.
pub fn describe(device_status: u32) -> Option<&'static str> {
    Status((device_status & 0x7ff) as u16).name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_apart() {
        let status = Status(0x4000 | 0x2000 | 0b10 << 11 | 2 << 8 | 0x81);
        assert_eq!((status.code_type(), status.code(), status.retry_delay()), (2, 0x81, 2));
        assert!(status.more() && status.do_not_retry() && !status.is_success());
        assert!(status.is(Status::of(code_type::MEDIA, 0x81)) && !status.is(Status::SUCCESS));
        assert!(Status(0b11 << 11).is_success(), "a delay alone is no error");
    }

    #[test]
    fn what_may_pass_is_not_the_fault_of_the_command() {
        for status in
            [Status::INVALID_OPCODE, Status::INVALID_FIELD, Status::INVALID_NAMESPACE, Status::of(0, 0x80)]
        {
            assert!(!status.may_pass(), "{status}");
        }
        for field in (0..0x800).map(Status).filter(|status| status.may_pass()) {
            let passes = [libc::EIO, libc::EAGAIN, libc::EBUSY, libc::ECANCELED, libc::ENOLINK];
            assert!(passes.contains(&field.errno().raw()), "{field} is {}", field.errno());
        }
        assert!(Status::of(code_type::MEDIA, 0x81).may_pass() && Status::ABORT_REQUESTED.may_pass());
    }

    #[test]
    fn errors_name_the_status_and_keep_the_retry_bit() {
        let error = Status(0x4000 | 2 << 8 | 0x81).to_io_error();
        assert_eq!((error.errno, error.device_status & 0xffff), (Errno::EIO, 0x281));
        assert!(error.do_not_retry());
        assert!(!Status(2 << 8 | 0x81).to_io_error().do_not_retry());
        assert_eq!(Status(0x4000 | 0x80).to_string(), "LBA Out of Range (sct 0x0, sc 0x80, do not retry)");
        assert_eq!(Status(7 << 8 | 3).to_string(), "vendor's status (sct 0x7, sc 0x03)");
    }

    #[test]
    fn tables_are_in_order_and_no_code_stands_twice() {
        for table in [GENERIC, COMMAND_SPECIFIC, MEDIA, PATH] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
            assert!(table.iter().all(|entry| entry.2 > 0));
        }
    }

    #[test]
    fn every_field_has_an_errno() {
        for field in 0..0x8000 {
            assert!(Status(field).errno().raw() > 0);
        }
    }
}
