//! Tests in a virtual machine: an NVMe controller that nobody here wrote, behind an IOMMU, bound to vfio-pci.
//!
//! A [`Machine`] says which controllers QEMU has. A [`Case`] is a test that runs in one of them; the cases of a machine
//! share a boot, each in a process of its own. The guest is a Debian kernel, which `tests/run` unpacks below the target
//! folder, and an initramfs with our own statically linked binaries: `vm-guest` is its init, which runs the cases and
//! tells the host over a virtio-serial port ([`protocol`]) what came of them. A case may ask the host for things that only
//! QEMU can do to a machine, such as to pull a device out.
//!
//! The other way round, a machine may have controllers of our own `nvme-model`, for Linux's driver: they are [`Served`].
//!
//! `tests/tests/vm.rs` makes an ordinary test of every case. `docs/testing.md` says how to run one by hand.

mod archive;
mod binaries;
mod boot;
mod case;
pub mod cases;
mod guest;
mod host;
mod image;
mod later;
mod machine;
pub mod machines;
mod place;
pub mod protocol;
mod qemu;
mod qmp;
mod servers;
mod session;
mod system;

pub use binaries::build;
pub use boot::{Boot, BootError};
pub use case::{Case, find_case};
pub use guest::{Guest, PciFunction, guest_main};
pub use machine::{Controller, Machine, Medium, Namespace, Place, Served};
pub use place::folder;
pub use session::{Report, Session};
pub use system::{System, Unavailable};
