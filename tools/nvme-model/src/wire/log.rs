//! Log pages (NVMe base 2.0, section 5.16.1).

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Supported Log Pages (5.16.1.1).
pub const SUPPORTED: u8 = 0x00;
/// Error Information (5.16.1.2).
pub const ERRORS: u8 = 0x01;
/// SMART / Health Information (5.16.1.3).
pub const SMART: u8 = 0x02;
/// Firmware Slot Information (5.16.1.4).
pub const FIRMWARE: u8 = 0x03;
/// Changed Namespace List (5.16.1.5).
pub const CHANGED_NAMESPACES: u8 = 0x04;
/// Commands Supported and Effects (5.16.1.6).
pub const EFFECTS: u8 = 0x05;

/// An entry of the Error Information log (figure 206).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct ErrorEntry {
    /// Error Count, from 1 on.
    pub count: U64,
    /// Submission Queue ID.
    pub sq_id: U16,
    /// Command ID.
    pub cid: U16,
    /// Status field with the phase tag in bit 0.
    pub status: U16,
    /// Parameter Error Location; FFFFh if it is none of the command's.
    pub parameter: U16,
    /// LBA.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// Vendor specific log page, transport, reserved, command specific, more.
    pub rest: [u8; 36],
}
const _: () = assert!(size_of::<ErrorEntry>() == 64 && offset_of!(ErrorEntry, nsid) == 24);

/// SMART / Health Information (figure 207).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct Smart {
    /// Critical Warning.
    pub critical_warning: u8,
    /// Composite Temperature in Kelvin.
    pub temperature: U16,
    /// Available Spare in percent.
    pub available_spare: u8,
    /// Available Spare Threshold in percent.
    pub spare_threshold: u8,
    /// Percentage Used.
    pub percentage_used: u8,
    /// Endurance Group Critical Warning Summary.
    pub endurance_warning: u8,
    /// Reserved.
    pub reserved: [u8; 25],
    /// Data Units Read, in thousands of 512 bytes, rounded up.
    pub data_units_read: U128,
    /// Data Units Written.
    pub data_units_written: U128,
    /// Host Read Commands.
    pub host_reads: U128,
    /// Host Write Commands.
    pub host_writes: U128,
    /// Controller Busy Time in minutes.
    pub busy_minutes: U128,
    /// Power Cycles.
    pub power_cycles: U128,
    /// Power On Hours.
    pub power_on_hours: U128,
    /// Unsafe Shutdowns.
    pub unsafe_shutdowns: U128,
    /// Media and Data Integrity Errors.
    pub media_errors: U128,
    /// Number of Error Information Log Entries.
    pub error_entries: U128,
    /// Warning and critical temperature times, sensors, thermal management, reserved.
    pub rest: [u8; 320],
}
const _: () = assert!(size_of::<Smart>() == 512 && offset_of!(Smart, data_units_read) == 32);
const _: () = assert!(offset_of!(Smart, error_entries) == 176);
