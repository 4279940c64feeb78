//! Which device a job works on and how it is opened.

use std::path::PathBuf;

/// Device, files and the way they are opened.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSpec {
    /// Which driver serves the requests (`ioengine`).
    pub engine: EngineKind,
    /// The files of `filename`, split at `:` (`\:` is a colon); with [`EngineKind::Nvme`] the namespaces, split at `,`. Empty: names are made from `filename_format`; see
    /// [`crate::options::JobSpec::file_paths`]. Several files are taken in turn, a request each (fio's `roundrobin`).
    pub filenames: Vec<String>,
    /// The directories of `directory`, split at `:`. Relative file names lie in the first; made names are spread over
    /// all of them, clone by clone. Empty: the working directory.
    pub directories: Vec<PathBuf>,
    /// How names are made when `filenames` is empty: `$jobname`, `$jobnum` (the clone, from 0), `$filenum` (always 0).
    pub filename_format: String,
    /// The length a file is made with, or is to have at least (`filesize`), in bytes, at least 1. `None`: `size`.
    pub file_size_bytes: Option<u64>,
    /// The cache mode (`cache`, or as `direct` and `sync` imply). Always agrees with the two.
    pub cache: CacheMode,
    /// O_DIRECT (`direct=1`, `buffered=0`): the page cache is bypassed.
    pub direct: bool,
    /// Whether every write waits for stable storage (`sync`).
    pub sync: SyncMode,
    /// Drop the file's pages from the page cache before the job starts (`invalidate`); meaningless with `direct`.
    pub invalidate: bool,
    /// Image locking against a second writer (`locking`), QEMU's rule.
    pub locking: LockingMode,
    /// Delete the files which the job used when it has ended (`unlink`). Never a block device.
    pub unlink: bool,
    /// Register the I/O buffers with the ring (`fixedbufs`).
    pub fixed_buffers: bool,
    /// Register the file with the ring (`registerfiles`).
    pub registered_files: bool,
    /// A ring with IORING_SETUP_IOPOLL (`hipri`); only together with `direct`.
    pub hipri: bool,
    /// A ring whose submissions a kernel thread picks up (`sqthread_poll`); `None`: no such thread.
    pub sq_thread: Option<SqThread>,
    /// How a lane waits for completions (`poll`, `poll_max_ns`).
    pub polling: CompletionPolling,
    /// The CPU of a controller model's thread (`model_cpu`); `None`: any.
    pub model_cpu: Option<u32>,
    /// How long an NVMe command may take, in milliseconds (`nvme_io_timeout`).
    pub nvme_io_timeout_ms: u64,
    /// How long an NVMe admin command may take, in milliseconds (`nvme_admin_timeout`).
    pub nvme_admin_timeout_ms: u64,
    /// Whether NVMe submission queues are put into the controller's memory (`nvme_cmb`).
    pub nvme_queues_in_controller: bool,
    /// By which placement handles writes go (`dataplacement`, `fdp`, `plids`), by turns; all if the list is empty. `None`: by none.
    pub placement: Option<Vec<u16>>,
    /// The most memory that an NVMe controller gets for itself, in bytes (`nvme_host_memory`).
    pub nvme_host_memory_bytes: u64,
}

/// Which driver serves the job (`ioengine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// Files and block devices through io_uring: the `file` driver.
    #[default]
    IoUring,
    /// The `null` driver: completes at once, stores nothing, and leaves a reader's buffers as they are.
    Null,
    /// The `mem` driver: a RAM disk of the job's `filesize` or `size`, gone when the job ends.
    Mem,
    /// The `nvme` driver: namespaces of NVMe controllers driven from user space.
    Nvme,
    /// The `nvme_uring` driver: namespaces through the kernel's NVMe driver, by their character devices.
    NvmeUring,
}

impl EngineKind {
    /// The name as `ioengine=` takes it and reports print it.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::IoUring => "io_uring",
            EngineKind::Null => "null",
            EngineKind::Mem => "mem",
            EngineKind::Nvme => "nvme",
            EngineKind::NvmeUring => "nvme_uring",
        }
    }
}

/// QEMU's cache modes: whether the page cache is bypassed, whether a write is stable when it completes, and whether
/// a flush is obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// O_DIRECT; stable after a flush.
    None,
    /// Page cache; stable after a flush.
    Writeback,
    /// Page cache; every write is stable when it completes.
    Writethrough,
    /// O_DIRECT; every write is stable when it completes.
    Directsync,
    /// Page cache; flushes are ignored.
    Unsafe,
}

impl CacheMode {
    /// The name as `cache=` takes it.
    pub fn name(self) -> &'static str {
        match self {
            CacheMode::None => "none",
            CacheMode::Writeback => "writeback",
            CacheMode::Writethrough => "writethrough",
            CacheMode::Directsync => "directsync",
            CacheMode::Unsafe => "unsafe",
        }
    }

    /// Whether the mode bypasses the page cache.
    pub fn direct(self) -> bool {
        matches!(self, CacheMode::None | CacheMode::Directsync)
    }

    /// Whether every write is stable when it completes.
    pub fn synchronous(self) -> bool {
        matches!(self, CacheMode::Writethrough | CacheMode::Directsync)
    }
}

/// Whether every write waits for stable storage (`sync`; open(2)).
///
/// `Sync` and `Dsync` run alike: the cache modes that they imply make each write wait as O_DSYNC does (RWF_DSYNC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// It does not.
    #[default]
    None,
    /// What fio opens with O_SYNC. Here each write waits as with `Dsync`, and the job gets a note that says so.
    Sync,
    /// As with O_DSYNC: data and the metadata that reading it back needs.
    Dsync,
}

/// Image locking (`locking`), as QEMU's option of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockingMode {
    /// Lock where the file system can.
    #[default]
    Auto,
    /// Lock, or fail.
    On,
    /// Do not lock.
    Off,
}

/// The kernel's submission thread (IORING_SETUP_SQPOLL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SqThread {
    /// The CPU it is bound to (`sqthread_poll_cpu`); `None`: any.
    pub cpu: Option<u32>,
}

/// How a lane waits for completions (`poll`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompletionPolling {
    /// Sleep in io_uring_enter at once.
    #[default]
    Interrupt,
    /// Look again for a while that adapts to what is seen, at most `max_ns` nanoseconds, then sleep (QEMU's rule).
    Adaptive {
        /// Upper bound of the time spent looking, nanoseconds (`poll_max_ns`), at least 1.
        max_ns: u64,
    },
    /// Never sleep while requests are in flight.
    Busy,
}
