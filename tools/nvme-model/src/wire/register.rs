//! Controller registers (NVMe base 2.0, section 3.1.3; PCIe transport 1.0, section 3.1.2 for their places).

/// Controller Capabilities (base 3.1.3.1).
pub const CAP: u64 = 0x00;
/// Version (base 3.1.3.2).
pub const VS: u64 = 0x08;
/// Interrupt Mask Set (base 3.1.3.3).
pub const INTMS: u64 = 0x0C;
/// Interrupt Mask Clear (base 3.1.3.4).
pub const INTMC: u64 = 0x10;
/// Controller Configuration (base 3.1.3.5).
pub const CC: u64 = 0x14;
/// Controller Status (base 3.1.3.6).
pub const CSTS: u64 = 0x1C;
/// NVM Subsystem Reset (base 3.1.3.7).
pub const NSSR: u64 = 0x20;
/// Admin Queue Attributes (base 3.1.3.8).
pub const AQA: u64 = 0x24;
/// Admin Submission Queue Base Address (base 3.1.3.9).
pub const ASQ: u64 = 0x28;
/// Admin Completion Queue Base Address (base 3.1.3.10).
pub const ACQ: u64 = 0x30;
/// Controller Memory Buffer Location (base 3.1.3.12).
pub const CMBLOC: u64 = 0x38;
/// Controller Memory Buffer Size (base 3.1.3.13).
pub const CMBSZ: u64 = 0x3C;
/// Controller Memory Buffer Memory Space Control (base 3.1.3.14).
pub const CMBMSC: u64 = 0x50;
/// Controller Memory Buffer Status (base 3.1.3.15).
pub const CMBSTS: u64 = 0x58;
/// Controller Ready Timeouts (base 3.1.3.21).
pub const CRTO: u64 = 0x68;
/// The end of what this controller has of registers; the rest up to the doorbells is reserved and reads as zero.
pub const REGISTERS_END: u64 = 0x70;
/// Where the doorbells start (PCIe transport 3.1.2).
pub const DOORBELLS: u64 = 0x1000;

/// The version that the controller reports: 2.0.0.
pub const VERSION: u32 = 0x0002_0000;

/// What the capabilities are made of.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    /// Maximum Queue Entries Supported, 0's based.
    pub mqes: u16,
    /// Timeout in units of 500 ms.
    pub to: u8,
    /// Doorbell Stride: 2 ^ (2 + DSTRD) bytes.
    pub dstrd: u8,
    /// Memory Page Size Minimum: 2 ^ (12 + MPSMIN) bytes.
    pub mpsmin: u8,
    /// Memory Page Size Maximum: 2 ^ (12 + MPSMAX) bytes.
    pub mpsmax: u8,
    /// Whether there is a controller memory buffer (CMBS).
    pub memory_buffer: bool,
    /// Whether there are I/O command sets besides the NVM command set (CSS bit 6).
    pub command_sets: bool,
}

impl Cap {
    /// The register: contiguous queues required, round robin only, the NVM command set (and others), ready with media (CRWMS).
    pub fn bits(self) -> u64 {
        let cqr = 1 << 16;
        let css_nvm = 1 << 37;
        let crwms = 1 << 59;
        u64::from(self.mqes)
            | cqr
            | u64::from(self.to) << 24
            | u64::from(self.dstrd & 0xF) << 32
            | css_nvm
            | u64::from(self.command_sets) << 43
            | u64::from(self.mpsmin & 0xF) << 48
            | u64::from(self.mpsmax & 0xF) << 52
            | u64::from(self.memory_buffer) << 57
            | crwms
    }
}

/// Controller Configuration.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cc(pub u32);

impl Cc {
    /// What may be set at all (CRIME is reserved without CAP.CRMS.CRIMS).
    pub const DEFINED: u32 = 0x00FF_FFF1;
    /// What may change only while the controller is disabled: CSS, MPS, AMS.
    pub const FIXED_WHILE_ENABLED: u32 = 0x0000_3FF0;
    /// Enable.
    pub fn enabled(self) -> bool {
        self.0 & 1 != 0
    }
    /// I/O Command Set Selected.
    pub fn css(self) -> u32 {
        self.0 >> 4 & 7
    }
    /// Memory Page Size.
    pub fn mps(self) -> u8 {
        (self.0 >> 7 & 0xF) as u8
    }
    /// Arbitration Mechanism Selected.
    pub fn ams(self) -> u32 {
        self.0 >> 11 & 7
    }
    /// Shutdown Notification.
    pub fn shn(self) -> u32 {
        self.0 >> 14 & 3
    }
    /// I/O Submission Queue Entry Size, as a power of two.
    pub fn iosqes(self) -> u32 {
        self.0 >> 16 & 0xF
    }
    /// I/O Completion Queue Entry Size, as a power of two.
    pub fn iocqes(self) -> u32 {
        self.0 >> 20 & 0xF
    }
}

/// Controller Status: ready.
pub const CSTS_RDY: u32 = 1;
/// Controller Status: fatal.
pub const CSTS_CFS: u32 = 1 << 1;
/// Controller Status: shutdown processing complete (SHST = 10b).
pub const CSTS_SHST_COMPLETE: u32 = 2 << 2;
/// Controller Status: the mask of SHST.
pub const CSTS_SHST: u32 = 3 << 2;

/// Admin Queue Attributes: what may be set.
pub const AQA_DEFINED: u32 = 0x0FFF_0FFF;

/// The number of entries of the admin submission queue.
pub fn asqs(aqa: u32) -> u32 {
    (aqa & 0xFFF) + 1
}

/// The number of entries of the admin completion queue.
pub fn acqs(aqa: u32) -> u32 {
    (aqa >> 16 & 0xFFF) + 1
}
