//! Log pages (Base 5.16.1).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::assert_layout;

/// Log page identifiers (Base figure 202).
pub mod page {
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const HEALTH: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects.
    pub const EFFECTS: u8 = 0x05;
}

/// An entry of the error log: 64 bytes (Base 5.16.1.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ErrorEntry {
    /// Counts errors; 0 marks an entry that is not used.
    pub error_count: U64,
    /// The submission queue of the command.
    pub sq_id: U16,
    /// The command.
    pub cid: U16,
    /// The status field, with the phase tag in bit 0.
    pub status_and_phase: U16,
    /// Which byte and bit of the command was wrong.
    pub parameter_location: U16,
    /// The first block concerned.
    pub lba: U64,
    /// The namespace.
    pub nsid: U32,
    /// Whether there is a log page of the vendor.
    pub vendor_page: u8,
    /// The transport's type.
    pub transport: u8,
    reserved_30: [u8; 2],
    /// Information specific to the command.
    pub command_information: U64,
    /// Information specific to the transport.
    pub transport_information: U16,
    reserved_42: [u8; 22],
}

assert_layout!(ErrorEntry, 64, {
    error_count: 0, sq_id: 8, cid: 10, status_and_phase: 12, parameter_location: 14, lba: 16, nsid: 24, vendor_page: 28,
    transport: 29, command_information: 32, transport_information: 40,
});

bitflags::bitflags! {
    /// Critical warnings (Base figure 207).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CriticalWarning: u8 {
        /// The spare capacity is below its threshold.
        const SPARE = 1;
        /// A temperature is beyond its threshold.
        const TEMPERATURE = 1 << 1;
        /// The subsystem's reliability is degraded.
        const RELIABILITY = 1 << 2;
        /// The media are read-only.
        const READ_ONLY = 1 << 3;
        /// The backup of the volatile memory failed.
        const BACKUP = 1 << 4;
        /// The persistent memory region is read-only or unreliable.
        const PERSISTENT_MEMORY = 1 << 5;
    }
}

/// SMART / Health Information: 512 bytes (Base 5.16.1.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HealthLog {
    /// See [`CriticalWarning`].
    pub critical_warning: u8,
    /// In kelvins.
    pub temperature: U16,
    /// In percent.
    pub available_spare: u8,
    /// In percent.
    pub available_spare_threshold: u8,
    /// In percent; may be above 100.
    pub percentage_used: u8,
    /// Of endurance groups.
    pub group_warning: u8,
    reserved_7: [u8; 25],
    /// In units of 1000 × 512 bytes.
    pub data_units_read: [u8; 16],
    /// In units of 1000 × 512 bytes.
    pub data_units_written: [u8; 16],
    /// Commands.
    pub host_reads: [u8; 16],
    /// Commands.
    pub host_writes: [u8; 16],
    /// In minutes.
    pub busy_time: [u8; 16],
    /// How often.
    pub power_cycles: [u8; 16],
    /// Hours.
    pub power_on_hours: [u8; 16],
    /// How often.
    pub unsafe_shutdowns: [u8; 16],
    /// How many.
    pub media_errors: [u8; 16],
    /// How many, over the controller's life.
    pub error_entries: [u8; 16],
    /// In minutes.
    pub warning_temperature_time: U32,
    /// In minutes.
    pub critical_temperature_time: U32,
    /// In kelvins, 0 for a sensor that is not there.
    pub temperature_sensors: [U16; 8],
    reserved_216: [u8; 296],
}

assert_layout!(HealthLog, 512, {
    critical_warning: 0, temperature: 1, available_spare: 3, percentage_used: 5, data_units_read: 32, host_reads: 64,
    busy_time: 96, power_cycles: 112, unsafe_shutdowns: 144, media_errors: 160, warning_temperature_time: 192,
    temperature_sensors: 200,
});

/// Changed Namespace List: 4096 bytes (Base 5.16.1.5). Numbers in rising order, ended by a 0; FFFFFFFFh first if there
/// are more than fit.
pub type ChangedNamespaces = super::identify::NamespaceList;

/// A 128-bit counter of a log page.
pub fn counter(bytes: [u8; 16]) -> u128 {
    u128::from_le_bytes(bytes)
}
