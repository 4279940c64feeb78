//! The tables of registered files and buffers: sparse, made at the first use, with a free list.

use std::io;

use super::config::{RingConfig, memlock_limit};
use crate::aio::AioError;

/// The most that one registered buffer may hold (the kernel's limit: 1 GiB). Split what is larger.
pub const MAX_BUFFER_BYTES: usize = 1 << 30;

/// The index of a registered file, for `io_uring::types::Fixed`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FixedFile(pub u32);

pub(super) struct Tables {
    pub files: Table,
    pub buffers: Table,
}

impl Tables {
    pub fn new(config: &RingConfig) -> Self {
        Self {
            files: Table::new("registered files", config.fixed_files),
            buffers: Table::new("registered buffers", config.fixed_buffers.into()),
        }
    }
}

/// Which entries of a sparse table are in use. Those below `fresh` that are not in `free` are.
pub(super) struct Table {
    what: &'static str,
    size: u32,
    made: bool,
    fresh: u32,
    free: Vec<u32>,
}

impl Table {
    fn new(what: &'static str, size: u32) -> Self {
        Self { what, size, made: false, fresh: 0, free: Vec::new() }
    }

    /// An entry that is free; `make` makes the table of so many entries if there is none yet.
    pub fn take(&mut self, make: impl FnOnce(u32) -> io::Result<()>) -> Result<u32, AioError> {
        if !self.made && self.size > 0 {
            make(self.size).map_err(|source| AioError::Register { what: self.what, source })?;
            self.made = true;
        }
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        if self.fresh == self.size {
            return Err(AioError::TableFull { what: self.what, size: self.size });
        }
        self.fresh += 1;
        Ok(self.fresh - 1)
    }

    pub fn give_back(&mut self, index: u32) {
        debug_assert!(index < self.fresh && !self.free.contains(&index));
        self.free.push(index);
    }
}

pub(super) fn explain_buffer(len_bytes: usize, source: io::Error) -> AioError {
    if source.kind() == io::ErrorKind::OutOfMemory {
        let len_bytes = len_bytes as u64;
        AioError::MemLock { what: "a registered buffer", len_bytes, limit: memlock_limit(), source }
    } else {
        AioError::Register { what: "a buffer", source }
    }
}
