//! The words of the NVMe specification: registers, commands, completions, status codes, identify data, log pages and
//! features, as they lie in memory.
//!
//! Section numbers are those of the NVM Express Base Specification, revision 2.0 ("Base"), the NVM Command Set
//! Specification, revision 1.0 ("NVM"), and the NVMe over PCIe Transport Specification, revision 1.0 ("PCIe").
//!
//! Invariants:
//! - Every structure has the size and the offsets of the specification; constants assert it when this is compiled.
//! - Every bit pattern is a value of its structure: nothing that a device writes is undefined here. What a value means,
//!   and whether it is sensible, is for the reader to check.
//! - Structures of queues are of native integers, since they are on the hot path; NVMe is little-endian, and so is every
//!   machine that this is compiled for. Those of the control plane are of `zerocopy`'s little-endian integers.

#[cfg(not(target_endian = "little"))]
compile_error!("NVMe queue entries are little-endian, and are used here as they lie in memory");

pub mod command;
pub mod completion;
pub mod feature;
pub mod identify;
pub mod log;
pub mod namespace;
pub mod nvm;
pub mod opcode;
pub mod placement;
pub mod protection;
pub mod register;
pub mod status;
pub mod zone;

use std::fmt;

/// Asserts where fields of a structure lie.
macro_rules! assert_layout {
    ($ty:ty, $size:literal, { $($field:ident: $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ty>() == $size);
            $(assert!(std::mem::offset_of!($ty, $field) == $offset);)*
        };
    };
}
pub(crate) use assert_layout;

/// A namespace's number, from 1 up (Base 3.2.1). 0 and all ones have meanings of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nsid(pub u32);

impl Nsid {
    /// No namespace: the command concerns the controller.
    pub const NONE: Nsid = Nsid(0);
    /// All namespaces of the controller.
    pub const ALL: Nsid = Nsid(u32::MAX);

    /// Whether it can name one namespace: from 1 to FFFFFFFEh.
    pub const fn is_one(self) -> bool {
        self.0 != 0 && self.0 != u32::MAX
    }
}

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace {}", self.0)
    }
}

/// A queue's number: 0 is the admin queue, I/O queues count from 1 (Base 3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Qid(pub u16);

impl Qid {
    /// The admin queue.
    pub const ADMIN: Qid = Qid(0);
}

impl fmt::Display for Qid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {}", self.0)
    }
}

/// A command's number, unique in its submission queue while the command is in flight (Base 3.3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cid(pub u16);

/// A logical block address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lba(pub u64);
