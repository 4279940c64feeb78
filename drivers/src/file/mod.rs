//! The `file` driver: regular files and block devices through io_uring.
//!
//! [`FileDriver::open`] opens, locks and probes; each lane then has a queue of its own on the lane's ring. The way of a
//! read: `queue` takes the command, `slots` keeps its memory, `ring` makes the kernel's entry; the completion comes
//! back to `slots`, which ends it, continues it where it was short, or, for everything but reads and writes, asks
//! `steps` for the next way to try.
//!
//! Needs Linux 5.11 (the event loop's ring). Newer kernels add: alignments told by `statx` (6.1), discards on
//! block devices through the ring (6.12).

pub(crate) mod fixed;
mod holder;
mod lock;
mod map;
mod options;
mod probe;
mod queue;
mod ring;
mod slots;
mod steps;
mod sysfs;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use corelane_engine::aio::AioContext;
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, BlockStatus, LeafQueue, LeafTable, ReqFlags,
};

pub use options::{CacheMode, DiscardMode, FileOptions, Locking, OptionError, SqPoll};
pub use probe::FileKind;

use lock::LockRequest;
use probe::Probe;
use queue::FileQueue;
use steps::{Abilities, Rules};

/// An open file and what is known of it; shared by the driver and its queues.
#[derive(Debug)]
struct OpenFile {
    fd: OwnedFd,
    filename: String,
    kind: FileKind,
    limits: BlockLimits,
    logical_block_bytes: u32,
    read_only: bool,
    /// Whether other users are told by locks.
    locked: bool,
    /// Held while the length is being changed.
    resizing: Mutex<()>,
    write_cache: bool,
    fixed_file: bool,
    iopoll: bool,
    sqpoll: Option<SqPoll>,
    rules: Rules,
}

/// A regular file or block device. See [`FileOptions`] for how it can be opened.
#[derive(Debug)]
pub struct FileDriver {
    file: Arc<OpenFile>,
}

impl FileDriver {
    /// Opens, locks and probes a file. Blocks; control plane.
    ///
    /// # Errors
    /// - [`BlockError::Open`] when it cannot be opened, is of the wrong kind, or the options do not fit it.
    /// - [`BlockError::Locked`] when another user excludes this one; the message says who and what may be done.
    pub fn open(options: &FileOptions) -> Result<FileDriver, BlockError> {
        let filename = options.filename.display().to_string();
        let refuse =
            |reason: &str| BlockError::Open { filename: filename.clone(), reason: reason.to_owned() };
        let direct = options.cache.direct();
        if options.iopoll && !direct {
            return Err(refuse("polling for completions (iopoll) needs cache=none or cache=directsync"));
        }
        let fd = open_fd(options)
            .map_err(|err| probe::explain_open(&filename, &err, direct, options.read_only))?;
        let mut found = probe::probe(fd.as_fd(), &filename, direct)?;
        if options.iopoll {
            found.restrict_to_polling();
        }
        if found.read_only && !options.read_only {
            return Err(refuse(
                "the device is set read-only (see blockdev --setrw); open it with read-only=on",
            ));
        }
        let request = LockRequest::new(options.read_only, options.share_rw);
        let locked = lock::acquire(fd.as_fd(), &filename, request, options.locking)?;
        let mut file = OpenFile::new(fd, filename, options, &found);
        file.locked = locked;
        file.limits
            .validate()
            .map_err(|source| BlockError::Limits { driver: file.kind.format_name(), source })?;
        Ok(FileDriver { file: Arc::new(file) })
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        self.file.kind
    }

    /// The name that it was opened by.
    pub fn filename(&self) -> &str {
        &self.file.filename
    }
}

impl OpenFile {
    fn new(fd: OwnedFd, filename: String, options: &FileOptions, found: &Probe) -> OpenFile {
        let cache = options.cache;
        OpenFile {
            fd,
            filename,
            kind: found.kind,
            limits: found.limits,
            logical_block_bytes: found.logical_block_bytes,
            read_only: options.read_only,
            locked: false,
            resizing: Mutex::new(()),
            write_cache: cache.write_cache(),
            fixed_file: options.fixed_file,
            iopoll: options.iopoll,
            sqpoll: options.sqpoll,
            rules: Rules {
                kind: found.kind,
                buffered: !cache.direct(),
                no_flush: cache.no_flush(),
                always_durable: !cache.write_cache(),
                unmap: options.discard == DiscardMode::Unmap && found.discard,
                abilities: Abilities::default(),
            },
        }
    }
}

impl OpenFile {
    fn failed(&self, what: &str, source: io::Error) -> BlockError {
        BlockError::Io { what: format!("{what} '{}'", self.filename), source }
    }

    /// Changes the length of a regular file, unless somebody forbids it by a lock.
    fn resize(&self, length_bytes: u64) -> Result<(), BlockError> {
        let _one_at_a_time = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let resize = || rustix::fs::ftruncate(&self.fd, length_bytes);
        let outcome = match self.locked {
            true => lock::while_resizing(self.fd.as_fd(), &self.filename, resize)?,
            false => resize(),
        };
        outcome.map_err(|errno| self.failed("changing the length of", errno.into()))
    }
}

impl Drop for OpenFile {
    /// A ring that is being taken down may keep the file open a little longer than we do; its locks must not stay.
    fn drop(&mut self) {
        lock::release(self.fd.as_fd());
    }
}

fn open_fd(options: &FileOptions) -> io::Result<OwnedFd> {
    let direct = if options.cache.direct() { libc::O_DIRECT } else { 0 };
    // O_NONBLOCK keeps the opening of a FIFO from waiting for its other end; for files and disks it means nothing.
    let file = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(direct | libc::O_NONBLOCK)
        .open(&options.filename)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(file.into())
}

impl BlockDriver for FileDriver {
    fn format_name(&self) -> &'static str {
        self.file.kind.format_name()
    }

    fn limits(&self) -> &BlockLimits {
        &self.file.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        map::length(self.file.fd.as_fd(), self.file.kind)
            .map_err(|err| self.file.failed("asking for the length of", err))
    }

    fn read_only(&self) -> bool {
        self.file.read_only
    }

    fn write_cache(&self) -> bool {
        self.file.write_cache
    }

    fn supported_write_flags(&self) -> ReqFlags {
        ReqFlags::FUA
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        self.file.rules.can_write_zeroes().then_some(ReqFlags::FUA | ReqFlags::MAY_UNMAP)
    }

    fn can_discard(&self) -> bool {
        self.file.rules.can_discard()
    }

    fn open_queue(&self, ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        Ok(Box::new(FileQueue::open(&self.file, ctx, table)?))
    }

    /// A block device keeps its length; asking for the one that it has succeeds.
    fn truncate(&self, length_bytes: u64) -> Result<(), BlockError> {
        if self.file.read_only {
            return Err(BlockError::ReadOnly { node: self.file.filename.clone() });
        }
        match self.file.kind {
            FileKind::Regular => self.file.resize(length_bytes),
            FileKind::Block if self.length()? == length_bytes => Ok(()),
            FileKind::Block => {
                Err(BlockError::Unsupported { driver: self.format_name(), what: "changing the length" })
            }
        }
    }

    fn allocated_size(&self) -> Result<u64, BlockError> {
        map::allocated(self.file.fd.as_fd(), self.file.kind)
            .map_err(|err| self.file.failed("asking for the allocated size of", err))
    }

    fn block_status(&self, offset: u64, bytes: u64) -> Result<BlockStatus, BlockError> {
        map::status(self.file.fd.as_fd(), self.file.kind, offset, bytes)
            .map_err(|err| self.file.failed("asking for the holes of", err))
    }
}
