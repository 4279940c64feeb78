//! The messages of vfio-user 0.1, as they lie on the wire (QEMU `docs/interop/vfio-user.rst`; the structures within are
//! those of `<linux/vfio.h>`).
//!
//! Invariants:
//! - Everything is in the byte order of the host (protocol, "Protocol Specification"), so the fields are plain integers.
//! - Sizes and offsets are asserted at compile time. No structure has padding: what is sent was set.
//! - Nothing here judges values; who receives a message does.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's major version that both ends must share.
pub const MAJOR: u16 = 0;
/// The newest minor version known here.
pub const MINOR: u16 = 1;

/// The commands (protocol, "Commands"). A number that is none of them is kept as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

impl Command {
    /// The handshake.
    pub const VERSION: Command = Command(1);
    /// Memory of the client that the server may use.
    pub const DMA_MAP: Command = Command(2);
    /// The end of that.
    pub const DMA_UNMAP: Command = Command(3);
    /// What kind of device it is.
    pub const DEVICE_GET_INFO: Command = Command(4);
    /// A region's size, rights, and what of it can be mapped.
    pub const DEVICE_GET_REGION_INFO: Command = Command(5);
    /// Eventfds that stand for parts of a region.
    pub const DEVICE_GET_REGION_IO_FDS: Command = Command(6);
    /// How many interrupts of a kind there are.
    pub const DEVICE_GET_IRQ_INFO: Command = Command(7);
    /// Where interrupts go.
    pub const DEVICE_SET_IRQS: Command = Command(8);
    /// A read of a region.
    pub const REGION_READ: Command = Command(9);
    /// A write of a region.
    pub const REGION_WRITE: Command = Command(10);
    /// The server reads memory of the client.
    pub const DMA_READ: Command = Command(11);
    /// The server writes memory of the client.
    pub const DMA_WRITE: Command = Command(12);
    /// A reset of the device.
    pub const DEVICE_RESET: Command = Command(13);

    /// The protocol's name of it, without the prefix; "an unknown command" for other numbers.
    pub const fn name(self) -> &'static str {
        match self {
            Command::VERSION => "VERSION",
            Command::DMA_MAP => "DMA_MAP",
            Command::DMA_UNMAP => "DMA_UNMAP",
            Command::DEVICE_GET_INFO => "DEVICE_GET_INFO",
            Command::DEVICE_GET_REGION_INFO => "DEVICE_GET_REGION_INFO",
            Command::DEVICE_GET_REGION_IO_FDS => "DEVICE_GET_REGION_IO_FDS",
            Command::DEVICE_GET_IRQ_INFO => "DEVICE_GET_IRQ_INFO",
            Command::DEVICE_SET_IRQS => "DEVICE_SET_IRQS",
            Command::REGION_READ => "REGION_READ",
            Command::REGION_WRITE => "REGION_WRITE",
            Command::DMA_READ => "DMA_READ",
            Command::DMA_WRITE => "DMA_WRITE",
            Command::DEVICE_RESET => "DEVICE_RESET",
            _ => "an unknown command",
        }
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What every message begins with (protocol, "Header").
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Chosen by who sends the command, and repeated in the reply.
    pub message_id: u16,
    /// See [`Command`].
    pub command: u16,
    /// The whole message in bytes, this header included.
    pub size_bytes: u32,
    /// [`FLAG_TYPE`], [`FLAG_NO_REPLY`], [`FLAG_ERROR`].
    pub flags: u32,
    /// In a reply with [`FLAG_ERROR`]: an errno, or 0 for none in particular.
    pub error: u32,
}

/// The bits of [`Header::flags`] that say what kind of message it is: [`TYPE_COMMAND`] or [`TYPE_REPLY`].
pub const FLAG_TYPE: u32 = 0xf;
/// A command.
pub const TYPE_COMMAND: u32 = 0;
/// A reply.
pub const TYPE_REPLY: u32 = 1;
/// In a command: it is not to be answered.
pub const FLAG_NO_REPLY: u32 = 1 << 4;
/// In a reply: the command failed.
pub const FLAG_ERROR: u32 = 1 << 5;

impl Header {
    /// Its size in bytes.
    pub const BYTES: usize = size_of::<Header>();

    /// Which command it belongs to.
    pub const fn command(&self) -> Command {
        Command(self.command)
    }

    /// Whether it is a reply.
    pub const fn is_reply(&self) -> bool {
        self.flags & FLAG_TYPE == TYPE_REPLY
    }

    /// Whether it is a command.
    pub const fn is_command(&self) -> bool {
        self.flags & FLAG_TYPE == TYPE_COMMAND
    }
}

/// The fixed part of `VERSION`; text in JSON, ended by a NUL, may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Version {
    /// Must be the same on both ends.
    pub major: u16,
    /// In the reply at most what was proposed.
    pub minor: u16,
}

/// `DMA_MAP`; the descriptor of the memory travels with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaMap {
    /// The size of this structure.
    pub argsz: u32,
    /// [`DMA_READABLE`] and [`DMA_WRITABLE`].
    pub flags: u32,
    /// Where in the descriptor's file the memory starts.
    pub offset: u64,
    /// The address by which the device knows it.
    pub address: u64,
    /// How long it is.
    pub size: u64,
}

/// In [`DmaMap::flags`]: the device may read the memory.
pub const DMA_READABLE: u32 = 1 << 0;
/// In [`DmaMap::flags`]: the device may write the memory.
pub const DMA_WRITABLE: u32 = 1 << 1;

/// `DMA_UNMAP`, and its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaUnmap {
    /// The largest reply that the client takes.
    pub argsz: u32,
    /// [`UNMAP_ALL`] or 0.
    pub flags: u32,
    /// As when it was mapped.
    pub address: u64,
    /// As when it was mapped.
    pub size: u64,
}

/// In [`DmaUnmap::flags`]: all mappings, address and size being 0 (`VFIO_DMA_UNMAP_FLAG_ALL`; QEMU sends it).
pub const UNMAP_ALL: u32 = 1 << 1;

/// `DEVICE_GET_INFO`, and its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    /// In the command the largest reply that the client takes; in the reply its size.
    pub argsz: u32,
    /// [`DEVICE_RESETS`] and [`DEVICE_PCI`].
    pub flags: u32,
    /// How many regions there are.
    pub num_regions: u32,
    /// How many kinds of interrupts there are.
    pub num_irqs: u32,
}

/// In [`DeviceInfo::flags`]: `DEVICE_RESET` works.
pub const DEVICE_RESETS: u32 = 1 << 0;
/// In [`DeviceInfo::flags`]: a PCI device.
pub const DEVICE_PCI: u32 = 1 << 1;

/// `DEVICE_GET_REGION_INFO`, and its reply, behind which capabilities may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionInfo {
    /// In the command the largest reply that the client takes; in the reply what all of it would take.
    pub argsz: u32,
    /// `REGION_*`.
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// Where the first capability is, counted from the start of this structure; 0: there is none.
    pub cap_offset: u32,
    /// The region's length.
    pub size: u64,
    /// What is added to an offset in the region to get one in the descriptor's file.
    pub offset: u64,
}

/// In [`RegionInfo::flags`]: it can be read.
pub const REGION_READ: u32 = 1 << 0;
/// In [`RegionInfo::flags`]: it can be written.
pub const REGION_WRITE: u32 = 1 << 1;
/// In [`RegionInfo::flags`]: it, or the areas that a capability names, can be mapped.
pub const REGION_MMAP: u32 = 1 << 2;
/// In [`RegionInfo::flags`]: it has capabilities.
pub const REGION_CAPS: u32 = 1 << 3;

/// What a capability of a region begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapHeader {
    /// [`CAP_SPARSE_MMAP`] or another.
    pub id: u16,
    /// The version of that capability.
    pub version: u16,
    /// Where the next is, counted from the start of [`RegionInfo`]; 0: this is the last.
    pub next: u32,
}

/// The capability that lists which areas can be mapped (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`).
pub const CAP_SPARSE_MMAP: u16 = 1;

/// What follows the header of [`CAP_SPARSE_MMAP`]; the areas follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseHeader {
    /// How many areas follow.
    pub nr_areas: u32,
    /// 0.
    pub reserved: u32,
}

/// A part of a region that can be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseArea {
    /// Where it starts in the region.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

/// `DEVICE_GET_IRQ_INFO`, and its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqInfo {
    /// In the command the largest reply that the client takes; in the reply its size.
    pub argsz: u32,
    /// [`IRQ_EVENTFD`] and others.
    pub flags: u32,
    /// Which kind.
    pub index: u32,
    /// How many there are of it.
    pub count: u32,
}

/// In [`IrqInfo::flags`]: eventfds can be signalled.
pub const IRQ_EVENTFD: u32 = 1 << 0;

/// `DEVICE_SET_IRQS`; descriptors travel with it, or booleans (a byte each) follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqSet {
    /// The size of this structure and of what follows it.
    pub argsz: u32,
    /// One of `IRQ_DATA_*` and one of `IRQ_ACTION_*`.
    pub flags: u32,
    /// Which kind.
    pub index: u32,
    /// The first.
    pub start: u32,
    /// How many; 0, with [`IRQ_DATA_NONE`], for all.
    pub count: u32,
}

/// In [`IrqSet::flags`]: no data.
pub const IRQ_DATA_NONE: u32 = 1 << 0;
/// In [`IrqSet::flags`]: a boolean for each.
pub const IRQ_DATA_BOOL: u32 = 1 << 1;
/// In [`IrqSet::flags`]: an eventfd for each, or none at all to take them away.
pub const IRQ_DATA_EVENTFD: u32 = 1 << 2;
/// In [`IrqSet::flags`]: mask.
pub const IRQ_ACTION_MASK: u32 = 1 << 3;
/// In [`IrqSet::flags`]: unmask.
pub const IRQ_ACTION_UNMASK: u32 = 1 << 4;
/// In [`IrqSet::flags`]: signal, or with eventfds: what is signalled.
pub const IRQ_ACTION_TRIGGER: u32 = 1 << 5;

/// `REGION_READ` and `REGION_WRITE`, and their replies; the data follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionAccess {
    /// Where in the region.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// How many bytes.
    pub count: u32,
}

/// The region that is BAR 0 (`VFIO_PCI_BAR0_REGION_INDEX`); the other BARs follow it.
pub const REGION_BAR0: u32 = 0;
/// The region that is the configuration space (`VFIO_PCI_CONFIG_REGION_INDEX`).
pub const REGION_CONFIG: u32 = 7;
/// How many regions a PCI device has at least: six BARs, the ROM, the configuration space, VGA.
pub const NUM_REGIONS: u32 = 9;
/// The interrupts of kind INTx (`VFIO_PCI_INTX_IRQ_INDEX`).
pub const IRQ_INTX: u32 = 0;
/// The interrupts of kind MSI-X (`VFIO_PCI_MSIX_IRQ_INDEX`).
pub const IRQ_MSIX: u32 = 2;
/// The error notice (`VFIO_PCI_ERR_IRQ_INDEX`).
pub const IRQ_ERR: u32 = 3;
/// The request to let go of the device (`VFIO_PCI_REQ_IRQ_INDEX`).
pub const IRQ_REQ: u32 = 4;
/// How many kinds of interrupts a PCI device has.
pub const NUM_IRQS: u32 = 5;

const _: () = {
    assert!(size_of::<Header>() == 16 && offset_of!(Header, flags) == 8 && offset_of!(Header, error) == 12);
    assert!(size_of::<Version>() == 4);
    assert!(size_of::<DmaMap>() == 32 && offset_of!(DmaMap, offset) == 8 && offset_of!(DmaMap, size) == 24);
    assert!(size_of::<DmaUnmap>() == 24 && offset_of!(DmaUnmap, address) == 8);
    assert!(size_of::<DeviceInfo>() == 16);
    assert!(size_of::<RegionInfo>() == 32 && offset_of!(RegionInfo, cap_offset) == 12);
    assert!(offset_of!(RegionInfo, size) == 16 && offset_of!(RegionInfo, offset) == 24);
    assert!(size_of::<CapHeader>() == 8 && size_of::<SparseHeader>() == 8 && size_of::<SparseArea>() == 16);
    assert!(size_of::<IrqInfo>() == 16 && size_of::<IrqSet>() == 20);
    assert!(size_of::<RegionAccess>() == 16 && offset_of!(RegionAccess, count) == 12);
};
