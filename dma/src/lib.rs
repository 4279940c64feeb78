//! Memory for Corelane: what requests carry, what devices are allowed to use, and where it comes from.
//!
//! - [`DmaBuffer`] is mapped memory: ordinary pages, huge pages, or a memfd that other processes can map.
//! - [`IoBuf`] is the memory of one request (or a segment of it), moved into `submit` and given back by the completion;
//!   [`IoVector`] is a list of them and [`Payload`] what a request carries. [`BlockPool`] hands them out without
//!   allocating.
//! - [`MemRegion`] is memory that can be registered with devices and leased by several lanes.
//!   [`RegisteredTable`] counts registrations, and [`LookupCache`] is a lane's quick view of it. [`guest`] makes regions of
//!   a virtual machine's memory.
//! - [`AddressSpace`] is what devices behind one IOMMU see of it all: it gives each registered region an [`Iova`] and maps it
//!   through a [`DmaMapper`].
//! - [`DeviceMemory`] is memory as a program that plays a device sees it.
//! - [`vfio`] opens PCI devices that this process drives by itself, behind an IOMMU.
//! - [`MmioRegion`] is a device's registers, [`CoherentBuffer`] memory that a driver and a device share all the time.
//! - [`Arena`] is memory that all lanes read and write, as a RAM disk's.
//! - [`fence_all_threads`] is a memory barrier that spares the hot path its own.
//!
//! The crate knows nothing of requests. Its law is that **no Rust reference exists to memory that a device, a guest,
//! another process or another lane may write**: such memory is only copied, by the functions of one module (`raw`).

mod arena;
mod buffer;
mod coherent;
mod device;
mod error;
mod fault;
mod fence;
pub mod guest;
mod hugepages;
mod iobuf;
mod iova;
mod mmap;
mod mmio;
mod payload;
mod pool;
mod raw;
mod region;
mod registered;
mod space;
mod vector;
pub mod vfio;

pub use arena::Arena;
pub use buffer::{Backing, DmaBuffer};
pub use coherent::{CoherentArray, CoherentBuffer};
pub use device::{CellArray, DeviceMemory, WordArray};
pub use error::DmaError;
pub use fault::register_faults;
pub use fence::fence_all_threads;
pub use hugepages::HugePages;
pub use iobuf::IoBuf;
pub use iova::{Iova, IovaAllocator};
pub use mmio::{Mmio32, MmioRegion};
pub use payload::{Payload, SharedPayload};
pub use pool::BlockPool;
pub use region::{MemOwner, MemRegion};
pub use registered::{Attachment, Hit, LookupCache, Registered, RegisteredTable};
pub use space::{AddressSpace, DmaMapper, IovaConstraints, MapperId, ReservedIova, TempMapping};
pub use vector::IoVector;
