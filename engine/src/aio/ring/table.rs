//! The tables of registered files and buffers: sparse, made at the first use, with a free list.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Ring;
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

fn explain_buffer(len_bytes: usize, source: io::Error) -> AioError {
    if source.kind() == io::ErrorKind::OutOfMemory {
        let len_bytes = len_bytes as u64;
        AioError::MemLock { what: "a registered buffer", len_bytes, limit: memlock_limit(), source }
    } else {
        AioError::Register { what: "a buffer", source }
    }
}

impl Ring {
    /// Registers a file, so that the kernel need not look its descriptor up each time (`IOSQE_FIXED_FILE`). `None` when
    /// the table is full or the kernel refuses; I/O by descriptor works then.
    pub fn register_file(&self, fd: BorrowedFd<'_>) -> Option<FixedFile> {
        let mut tables = self.tables.borrow_mut();
        let file = tables.files.take(|size| self.submitter.register_files_sparse(size)).ok()?;
        match self.submitter.register_files_update(file, &[fd.as_raw_fd()]) {
            Ok(_) => Some(FixedFile(file)),
            Err(error) => {
                tracing::debug!(%error, "a file could not be registered with the ring");
                tables.files.give_back(file);
                None
            }
        }
    }

    /// Undoes [`register_file`](Self::register_file). Requests in flight keep the file until they end.
    pub fn unregister_file(&self, file: FixedFile) {
        if self.submitter.register_files_update(file.0, &[-1]).is_ok() {
            self.tables.borrow_mut().files.give_back(file.0);
        }
    }

    /// Registers memory for `ReadFixed` and `WriteFixed`, 1 to [`MAX_BUFFER_BYTES`] bytes. The kernel pins its pages
    /// until [`unregister_buffer`](Self::unregister_buffer), so that a mapping that goes away earlier harms nobody but
    /// wastes memory.
    ///
    /// # Errors
    /// [`AioError::BadConfig`] for a length out of range, [`AioError::TableFull`], [`AioError::MemLock`], or
    /// [`AioError::Register`]. Ordinary reads and writes of the memory work all the same.
    pub fn register_buffer(&self, start: *mut u8, len_bytes: usize) -> Result<u16, AioError> {
        if len_bytes == 0 || len_bytes > MAX_BUFFER_BYTES {
            let value = len_bytes as u64;
            return Err(AioError::BadConfig { field: "buffer length", value, allowed: "1 byte to 1 GiB" });
        }
        let mut tables = self.tables.borrow_mut();
        let index = tables.buffers.take(|size| self.submitter.register_buffers_sparse(size))?;
        self.set_buffer(index, start, len_bytes).map_err(|source| {
            tables.buffers.give_back(index);
            explain_buffer(len_bytes, source)
        })?;
        Ok(index as u16)
    }

    /// Undoes [`register_buffer`](Self::register_buffer). Requests in flight keep the pages until they end.
    pub fn unregister_buffer(&self, index: u16) {
        if self.set_buffer(index.into(), std::ptr::null_mut(), 0).is_ok() {
            self.tables.borrow_mut().buffers.give_back(index.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_pinned_names_the_limit_and_its_remedy() {
        let error = explain_buffer(1 << 21, rustix::io::Errno::NOMEM.into());
        assert!(matches!(error, AioError::MemLock { len_bytes: 0x20_0000, .. }));
        let text = error.to_string();
        assert!(text.contains(&format!("RLIMIT_MEMLOCK is {}", memlock_limit())), "{text}");
        assert!(text.contains("ulimit -l"), "{text}");
        let other = explain_buffer(4096, rustix::io::Errno::FAULT.into());
        assert!(matches!(other, AioError::Register { what: "a buffer", .. }), "{other}");
    }

    #[test]
    fn entries_are_used_again_and_the_table_is_made_once() {
        let mut table = Table::new("things", 3);
        let mut made = 0;
        let mut take = |table: &mut Table| {
            table.take(|size| {
                made += size;
                Ok(())
            })
        };
        assert_eq!((0..3).map(|_| take(&mut table).unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(matches!(take(&mut table), Err(AioError::TableFull { what: "things", size: 3 })));
        table.give_back(1);
        assert_eq!(take(&mut table).unwrap(), 1);
        assert_eq!(made, 3);
        let refused = Table::new("things", 1).take(|_| Err(io::Error::from(io::ErrorKind::InvalidInput)));
        assert!(matches!(refused, Err(AioError::Register { what: "things", .. })));
        let none = Table::new("things", 0).take(|_| panic!("nothing to make"));
        assert!(matches!(none, Err(AioError::TableFull { size: 0, .. })));
    }
}
