//! Submission and completion queue entries (NVMe base 2.0, sections 3.3.3.1 and 3.3.3.2), and opcodes.

/// A submission queue entry: 64 bytes, as eight little-endian words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(pub [u64; 8]);

/// How the data pointer is to be read (base 3.3.3.1, PSDT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataFormat {
    /// Physical Region Pages.
    Prp,
    /// A Scatter Gather List descriptor.
    Sgl,
    /// A value that is reserved.
    Reserved,
}

impl Command {
    /// Double word `index` of the entry.
    #[inline]
    pub fn dword(&self, index: usize) -> u32 {
        let word = u64::from_le(self.0[index / 2]);
        if index.is_multiple_of(2) { word as u32 } else { (word >> 32) as u32 }
    }

    /// Words `index` (of 64 bits) of the entry.
    #[inline]
    pub fn word(&self, index: usize) -> u64 {
        u64::from_le(self.0[index])
    }

    /// Opcode.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.dword(0) as u8
    }

    /// Fused operation; 0 for a normal command.
    #[inline]
    pub fn fuse(&self) -> u32 {
        self.dword(0) >> 8 & 3
    }

    /// Bits 13:10 of the first double word, which are reserved.
    #[inline]
    pub fn reserved_flags(&self) -> u32 {
        self.dword(0) >> 10 & 0xF
    }

    /// How the data pointer is to be read.
    #[inline]
    pub fn data_format(&self) -> DataFormat {
        match self.dword(0) >> 14 & 3 {
            0 => DataFormat::Prp,
            1 | 2 => DataFormat::Sgl,
            _ => DataFormat::Reserved,
        }
    }

    /// Command identifier.
    #[inline]
    pub fn cid(&self) -> u16 {
        (self.dword(0) >> 16) as u16
    }

    /// Namespace identifier.
    #[inline]
    pub fn nsid(&self) -> u32 {
        self.dword(1)
    }

    /// Metadata pointer.
    #[inline]
    pub fn mptr(&self) -> u64 {
        self.word(2)
    }

    /// PRP entry 1.
    #[inline]
    pub fn prp1(&self) -> u64 {
        self.word(3)
    }

    /// PRP entry 2.
    #[inline]
    pub fn prp2(&self) -> u64 {
        self.word(4)
    }

    /// Starting LBA of the commands that have one.
    #[inline]
    pub fn slba(&self) -> u64 {
        self.word(5)
    }
}

/// A completion queue entry, before its phase tag is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Double words 0 and 1: specific to the command.
    pub result: u64,
    /// The head of the submission queue.
    pub sq_head: u16,
    /// The submission queue.
    pub sq_id: u16,
    /// Which command it completes.
    pub cid: u16,
    /// Status, without the phase tag.
    pub status: super::status::Status,
}

impl Completion {
    /// The entry as two little-endian words, with the phase tag in bit 48 of the second.
    #[inline]
    pub fn words(&self, phase: bool) -> [u64; 2] {
        let status = u64::from(self.status.0) << 1 | u64::from(phase);
        let second =
            u64::from(self.sq_head) | u64::from(self.sq_id) << 16 | u64::from(self.cid) << 32 | status << 48;
        [self.result.to_le(), second.to_le()]
    }
}

/// Admin opcodes (base 2.0, section 5).
#[allow(missing_docs)] // The names are the specification's own.
pub mod admin {
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0A;
    pub const ASYNC_EVENT: u8 = 0x0C;
    pub const KEEP_ALIVE: u8 = 0x18;
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7C;
}

/// Opcodes of the NVM command set (NVM command set 1.0, section 3.2).
#[allow(missing_docs)] // The names are the specification's own.
pub mod nvm {
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const WRITE_UNCORRECTABLE: u8 = 0x04;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    pub const VERIFY: u8 = 0x0C;
    pub const MANAGEMENT_RECEIVE: u8 = 0x12;
    pub const COPY: u8 = 0x19;
}

/// Opcodes of the zoned namespace command set (Zoned Namespace Command Set 1.1, section 3.4).
#[allow(missing_docs)] // The names are the specification's own.
pub mod zoned {
    pub const MANAGEMENT_SEND: u8 = 0x79;
    pub const MANAGEMENT_RECEIVE: u8 = 0x7A;
    pub const APPEND: u8 = 0x7D;
}

/// The namespace identifier that means all namespaces (base 3.2.1.2).
pub const NSID_ALL: u32 = 0xFFFF_FFFF;
