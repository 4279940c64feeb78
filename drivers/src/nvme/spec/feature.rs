//! Features (Base 5.27.1).

/// Feature identifiers (Base figure 317).
pub mod id {
    /// Volatile Write Cache (Base 5.27.1.4).
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of Queues (Base 5.27.1.5).
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing (Base 5.27.1.6).
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Asynchronous Event Configuration (Base 5.27.1.8).
    pub const ASYNC_EVENTS: u8 = 0x0b;
    /// Host Memory Buffer (Base 5.27.1.10).
    pub const HOST_MEMORY_BUFFER: u8 = 0x0d;
    /// Host Behavior Support (Base 5.27.1.18).
    pub const HOST_BEHAVIOR: u8 = 0x16;
}

/// Bit 0 of dword 11 of Host Memory Buffer, EHM: the controller has the memory from now on.
pub const HOST_MEMORY_ENABLE: u32 = 1;
/// Bit 1, MR: it is the memory that the controller had before, with what it left there.
pub const HOST_MEMORY_RETURN: u32 = 1 << 1;

/// How many bytes Host Behavior Support has.
pub const HOST_BEHAVIOR_BYTES: usize = 512;
/// Where they have ACRE: 1 for a host that heeds the delays that a controller asks for before a repetition.
pub const HOST_BEHAVIOR_ACRE: usize = 0;
/// Where they have LBAFEE: 1 for a host that knows formats with guards of more than 16 bits (NVM 4.1.3.6).
pub const HOST_BEHAVIOR_LBAFEE: usize = 2;

/// Asks for `queues` submission and as many completion queues, from 1 to 65,535 (Base 5.27.1.5).
pub const fn number_of_queues(queues: u16) -> u32 {
    let count = queues as u32 - 1;
    count << 16 | count
}

/// How many queue pairs were granted by what Number of Queues answered: the smaller of both kinds.
pub const fn granted_queues(result: u32) -> u32 {
    let (submission, completion) = ((result & 0xffff) + 1, (result >> 16) + 1);
    if submission < completion { submission } else { completion }
}

bitflags::bitflags! {
    /// Asynchronous Event Configuration (Base figure 326); the notices have the bits of OAES.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AsyncEvents: u32 {
        /// Spare below its threshold.
        const SPARE = 1;
        /// Temperature beyond its threshold.
        const TEMPERATURE = 1 << 1;
        /// Degraded reliability.
        const RELIABILITY = 1 << 2;
        /// Media turned read-only.
        const READ_ONLY = 1 << 3;
        /// Backup of volatile memory failed.
        const BACKUP = 1 << 4;
        /// Namespaces changed.
        const NAMESPACES = 1 << 8;
        /// Firmware is being activated.
        const FIRMWARE = 1 << 9;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_counted_from_zero_and_the_fewer_kind_decides() {
        assert_eq!(number_of_queues(1), 0);
        assert_eq!(number_of_queues(64), 0x003f_003f);
        assert_eq!(granted_queues(0), 1);
        assert_eq!(granted_queues(0x0003_003f), 4);
        assert_eq!(granted_queues(0x003f_0001), 2);
        assert_eq!(granted_queues(u32::MAX), 65_536);
    }
}
