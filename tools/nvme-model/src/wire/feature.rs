//! Feature identifiers (NVMe base 2.0, section 5.27.1; NVM command set 1.0, section 4.1.3).

#![allow(missing_docs)] // The names are the specification's own.

pub const ARBITRATION: u8 = 0x01;
pub const POWER_MANAGEMENT: u8 = 0x02;
pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
pub const ERROR_RECOVERY: u8 = 0x05;
pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
pub const NUMBER_OF_QUEUES: u8 = 0x07;
pub const INTERRUPT_COALESCING: u8 = 0x08;
pub const INTERRUPT_VECTOR: u8 = 0x09;
pub const WRITE_ATOMICITY: u8 = 0x0A;
pub const ASYNC_EVENT: u8 = 0x0B;
pub const HOST_MEMORY_BUFFER: u8 = 0x0D;
pub const HOST_BEHAVIOR: u8 = 0x16;

/// How many bytes Host Behavior Support has (base 2.0, 5.27.1.18).
pub const HOST_BEHAVIOR_BYTES: usize = 512;
/// Where they have LBAFEE, without which formats with guards of more than 16 bits are not served (NVM command set 1.0,
/// 4.1.3.6).
pub const LBAFEE: usize = 2;
pub const COMMAND_SET_PROFILE: u8 = 0x19;

/// Those that the controller has.
pub const SUPPORTED: [u8; 13] = [
    ARBITRATION,
    POWER_MANAGEMENT,
    TEMPERATURE_THRESHOLD,
    ERROR_RECOVERY,
    VOLATILE_WRITE_CACHE,
    NUMBER_OF_QUEUES,
    INTERRUPT_COALESCING,
    INTERRUPT_VECTOR,
    WRITE_ATOMICITY,
    ASYNC_EVENT,
    HOST_MEMORY_BUFFER,
    HOST_BEHAVIOR,
    COMMAND_SET_PROFILE,
];
