//! A file that stands for BAR 0: once it is cut off, each access to it raises SIGBUS, as those of a function do that does not
//! decode memory accesses.

use std::os::fd::{AsFd, OwnedFd};

use corelane_dma::MmioRegion;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const LEN_BYTES: u64 = 0x4000;

/// See the module's documentation.
pub struct Bar {
    file: OwnedFd,
    /// Zeroes, and what was written, as long as it is there.
    region: MmioRegion,
}

impl Bar {
    pub fn new() -> Bar {
        let file = memfd_create("bar0", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, LEN_BYTES).unwrap();
        let region = MmioRegion::from_fd(file.as_fd(), 0, LEN_BYTES as usize).unwrap();
        Bar { file, region }
    }

    /// From now on each access faults.
    pub fn cut(&self) {
        ftruncate(&self.file, 0).unwrap();
    }

    /// It can be accessed again.
    pub fn restore(&self) {
        ftruncate(&self.file, LEN_BYTES).unwrap();
    }

    /// Reads a register. Whether it is there: the file has no register that reads as all ones.
    pub fn is_there(&self, offset: u64) -> bool {
        self.region.read32(offset).unwrap() != u32::MAX
    }

    /// Writes a register. Whether it is there.
    pub fn write(&self, offset: u64, value: u32) -> bool {
        self.region.write32(offset, value & 0xffff).unwrap();
        self.is_there(offset)
    }
}
