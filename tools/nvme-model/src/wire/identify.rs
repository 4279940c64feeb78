//! Identify data structures (NVMe base 2.0, section 5.17.2; NVM command set 1.0, section 4.1.5).

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// What an Identify command asks for (figure 273).
#[allow(missing_docs)] // The names are the specification's own.
pub mod cns {
    pub const NAMESPACE: u8 = 0x00;
    pub const CONTROLLER: u8 = 0x01;
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    pub const DESCRIPTORS: u8 = 0x03;
    pub const CS_NAMESPACE: u8 = 0x05;
    pub const CS_CONTROLLER: u8 = 0x06;
    pub const CS_ACTIVE_NAMESPACES: u8 = 0x07;
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    pub const CONTROLLERS: u8 = 0x13;
    pub const COMMAND_SETS: u8 = 0x1C;
}

/// The identifiers of command sets (base figure 274).
#[allow(missing_docs)] // The names are the specification's own.
pub mod csi {
    pub const NVM: u8 = 0;
    pub const ZONED: u8 = 2;
}

/// The length of every Identify answer.
pub const IDENTIFY_BYTES: usize = 4096;

/// Identify Controller (base 5.17.2.1, figure 275).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the specification's own.
pub struct Controller {
    pub vid: U16,
    pub ssvid: U16,
    pub sn: [u8; 20],
    pub mn: [u8; 40],
    pub fr: [u8; 8],
    pub rab: u8,
    pub ieee: [u8; 3],
    pub cmic: u8,
    pub mdts: u8,
    pub cntlid: U16,
    pub ver: U32,
    pub rtd3r: U32,
    pub rtd3e: U32,
    pub oaes: U32,
    pub ctratt: U32,
    pub rrls: U16,
    pub reserved_102: [u8; 9],
    pub cntrltype: u8,
    pub fguid: [u8; 16],
    pub crdt: [U16; 3],
    pub reserved_134: [u8; 122],
    pub oacs: U16,
    pub acl: u8,
    pub aerl: u8,
    pub frmw: u8,
    pub lpa: u8,
    pub elpe: u8,
    pub npss: u8,
    pub avscc: u8,
    pub apsta: u8,
    pub wctemp: U16,
    pub cctemp: U16,
    pub mtfa: U16,
    pub hmpre: U32,
    pub hmmin: U32,
    pub tnvmcap: U128,
    pub unvmcap: U128,
    pub rpmbs: U32,
    pub edstt: U16,
    pub dsto: u8,
    pub fwug: u8,
    pub kas: U16,
    pub reserved_322: [u8; 10],
    pub hmminds: U32,
    pub hmmaxd: U16,
    pub reserved_338: U16,
    pub endgidmax: U16,
    pub reserved_342: [u8; 170],
    pub sqes: u8,
    pub cqes: u8,
    pub maxcmd: U16,
    pub nn: U32,
    pub oncs: U16,
    pub fuses: U16,
    pub fna: u8,
    pub vwc: u8,
    pub awun: U16,
    pub awupf: U16,
    pub icsvscc: u8,
    pub nwpc: u8,
    pub acwu: U16,
    pub ocfs: U16,
    pub sgls: U32,
    pub mnan: U32,
    pub reserved_544: [u8; 224],
    pub subnqn: [u8; 256],
    pub reserved_1024: [u8; 1024],
    /// Power state descriptor 0; the controller has one power state.
    pub psd0: [u8; 32],
    pub reserved_2080: [u8; 2016],
}
const _: () = assert!(size_of::<Controller>() == IDENTIFY_BYTES);
const _: () = assert!(offset_of!(Controller, cntrltype) == 111 && offset_of!(Controller, oacs) == 256);
const _: () = assert!(offset_of!(Controller, hmminds) == 332 && offset_of!(Controller, endgidmax) == 340);
const _: () = assert!(offset_of!(Controller, sqes) == 512 && offset_of!(Controller, sgls) == 536);
const _: () = assert!(offset_of!(Controller, subnqn) == 768 && offset_of!(Controller, psd0) == 2048);

/// An LBA format (NVM command set 4.1.5.1, figure 98).
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata bytes of a block.
    pub ms: U16,
    /// Bytes of a block, as a power of two.
    pub lbads: u8,
    /// Relative Performance.
    pub rp: u8,
}

/// Identify Namespace of the NVM command set (NVM command set 4.1.5.1, figure 97).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the specification's own.
pub struct Namespace {
    pub nsze: U64,
    pub ncap: U64,
    pub nuse: U64,
    pub nsfeat: u8,
    pub nlbaf: u8,
    pub flbas: u8,
    pub mc: u8,
    pub dpc: u8,
    pub dps: u8,
    pub nmic: u8,
    pub rescap: u8,
    pub fpi: u8,
    pub dlfeat: u8,
    pub nawun: U16,
    pub nawupf: U16,
    pub nacwu: U16,
    pub nabsn: U16,
    pub nabo: U16,
    pub nabspf: U16,
    pub noiob: U16,
    pub nvmcap: U128,
    pub npwg: U16,
    pub npwa: U16,
    pub npdg: U16,
    pub npda: U16,
    pub nows: U16,
    pub mssrl: U16,
    pub mcl: U32,
    pub msrc: u8,
    pub reserved_81: [u8; 11],
    pub anagrpid: U32,
    pub reserved_96: [u8; 3],
    pub nsattr: u8,
    pub nvmsetid: U16,
    pub endgid: U16,
    pub nguid: [u8; 16],
    pub eui64: [u8; 8],
    pub lbaf: [LbaFormat; 64],
    pub rest: [u8; 3712],
}
const _: () = assert!(size_of::<Namespace>() == IDENTIFY_BYTES);
const _: () = assert!(offset_of!(Namespace, noiob) == 46 && offset_of!(Namespace, nows) == 72);
const _: () = assert!(offset_of!(Namespace, nguid) == 104 && offset_of!(Namespace, lbaf) == 128);

/// Identify Controller of the NVM command set (NVM command set 4.1.5.4, figure 102).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the specification's own.
pub struct NvmController {
    pub vsl: u8,
    pub wzsl: u8,
    pub wusl: u8,
    pub dmrl: u8,
    pub dmrsl: U32,
    pub dmsl: U64,
    pub rest: [u8; 4080],
}
const _: () = assert!(size_of::<NvmController>() == IDENTIFY_BYTES && offset_of!(NvmController, dmsl) == 8);

/// An LBA format extension: the zones that it has (Zoned Namespace Command Set 1.1, section 4.1.5.1).
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct ZoneFormat {
    /// Blocks of a zone.
    pub zsze: U64,
    /// Length of a descriptor extension, in units of 64 bytes.
    pub zdes: u8,
    /// Nothing.
    pub reserved: [u8; 7],
}

/// Identify Namespace of the zoned namespace command set (Zoned Namespace Command Set 1.1, section 4.1.5.1).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the specification's own.
pub struct ZonedNamespace {
    pub zoc: U16,
    pub ozcs: U16,
    pub mar: U32,
    pub mor: U32,
    pub reserved_12: [u8; 2804],
    pub lbafe: [ZoneFormat; 64],
    pub rest: [u8; 256],
}
const _: () = assert!(size_of::<ZonedNamespace>() == IDENTIFY_BYTES);
const _: () = assert!(offset_of!(ZonedNamespace, lbafe) == 2816 && offset_of!(ZonedNamespace, rest) == 3840);

/// I/O Command Set Independent Identify Namespace (base 5.17.2.8, figure 280).
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // The names are the specification's own.
pub struct IndependentNamespace {
    pub nsfeat: u8,
    pub nmic: u8,
    pub rescap: u8,
    pub fpi: u8,
    pub anagrpid: U32,
    pub nsattr: u8,
    pub reserved_9: u8,
    pub nvmsetid: U16,
    pub endgid: U16,
    pub nstat: u8,
    pub rest: [u8; 4081],
}
const _: () = assert!(size_of::<IndependentNamespace>() == IDENTIFY_BYTES);
const _: () = assert!(offset_of!(IndependentNamespace, nstat) == 14);
