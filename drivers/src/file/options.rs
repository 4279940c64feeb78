//! How a file is to be opened: the options of QEMU's `file`/`host_device` drivers that this driver has, with QEMU's
//! names and defaults.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How the host's page cache and the device's write cache are used: QEMU's `cache=` table.
///
/// | mode | `O_DIRECT` | a write completes | flush |
/// | --- | --- | --- | --- |
/// | `none` | yes | when the device's cache has it | `fdatasync` |
/// | `writeback` | no | when the page cache has it | `fdatasync` |
/// | `writethrough` | no | when it is on stable storage | nothing left to do |
/// | `directsync` | yes | when it is on stable storage | nothing left to do |
/// | `unsafe` | no | when the page cache has it | ignored |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CacheMode {
    /// Past the page cache; the device's own write cache is used.
    None,
    /// Through the page cache; QEMU's default.
    #[default]
    Writeback,
    /// Through the page cache, each write on stable storage before it completes.
    Writethrough,
    /// Past the page cache, each write on stable storage before it completes.
    Directsync,
    /// Through the page cache, flushes ignored: for data that may be lost.
    Unsafe,
}

impl CacheMode {
    /// Every mode, in the order of QEMU's manual.
    pub const ALL: [CacheMode; 5] = [
        CacheMode::None,
        CacheMode::Writeback,
        CacheMode::Writethrough,
        CacheMode::Directsync,
        CacheMode::Unsafe,
    ];

    /// The name in options.
    pub const fn name(self) -> &'static str {
        match self {
            CacheMode::None => "none",
            CacheMode::Writeback => "writeback",
            CacheMode::Writethrough => "writethrough",
            CacheMode::Directsync => "directsync",
            CacheMode::Unsafe => "unsafe",
        }
    }

    /// Whether the file is opened with `O_DIRECT` (QEMU's `cache.direct`).
    pub const fn direct(self) -> bool {
        matches!(self, CacheMode::None | CacheMode::Directsync)
    }

    /// Whether a completed write may still be in a volatile cache (QEMU's `cache.writeback`).
    pub const fn write_cache(self) -> bool {
        !matches!(self, CacheMode::Writethrough | CacheMode::Directsync)
    }

    /// Whether flushes are ignored (QEMU's `cache.no-flush`).
    pub const fn no_flush(self) -> bool {
        matches!(self, CacheMode::Unsafe)
    }
}

/// An option's value that is none of those that it takes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{option}={value} is not known; it takes {expected}")]
pub struct OptionError {
    /// The option.
    pub option: &'static str,
    /// What was given.
    pub value: String,
    /// What it takes.
    pub expected: &'static str,
}

impl FromStr for CacheMode {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<CacheMode, OptionError> {
        CacheMode::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| OptionError {
            option: "cache",
            value: text.to_owned(),
            expected: "none, writeback, writethrough, directsync or unsafe",
        })
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the image is locked against other users: QEMU's `locking=`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Locking {
    /// Lock; an image that cannot be locked is not opened.
    On,
    /// Do not lock.
    Off,
    /// Lock where the kernel and the file system can, go on with a warning where they cannot.
    #[default]
    Auto,
}

impl FromStr for Locking {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Locking, OptionError> {
        match text {
            "on" => Ok(Locking::On),
            "off" => Ok(Locking::Off),
            "auto" => Ok(Locking::Auto),
            _ => Err(OptionError { option: "locking", value: text.to_owned(), expected: "on, off or auto" }),
        }
    }
}

/// What becomes of discards: QEMU's `discard=`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DiscardMode {
    /// They succeed and do nothing, and writing zeroes never deallocates; QEMU's default.
    #[default]
    Ignore,
    /// They deallocate.
    Unmap,
}

impl FromStr for DiscardMode {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<DiscardMode, OptionError> {
        match text {
            "ignore" | "off" => Ok(DiscardMode::Ignore),
            "unmap" | "on" => Ok(DiscardMode::Unmap),
            _ => Err(OptionError {
                option: "discard",
                value: text.to_owned(),
                expected: "ignore (off) or unmap (on)",
            }),
        }
    }
}

/// Submission by a kernel thread (`IORING_SETUP_SQPOLL`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SqPoll {
    /// How long the thread spins without work before it sleeps, in milliseconds.
    pub idle_ms: u32,
    /// The CPU that it runs on, or wherever the scheduler puts it.
    pub cpu: Option<u32>,
}

impl Default for SqPoll {
    /// The kernel's own default: one second, any CPU.
    fn default() -> SqPoll {
        SqPoll { idle_ms: 1000, cpu: None }
    }
}

/// How to open a file or block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileOptions {
    /// What to open.
    pub filename: PathBuf,
    /// How caches are used.
    pub cache: CacheMode,
    /// Open for reading only; writes are refused.
    pub read_only: bool,
    /// Whether to lock the image.
    pub locking: Locking,
    /// Let others write the image at the same time (QEMU's device option `share-rw`). The locks are still taken, so
    /// that somebody who does not share notices.
    pub share_rw: bool,
    /// What becomes of discards.
    pub discard: DiscardMode,
    /// Poll the device for completions instead of waiting for interrupts (`IORING_SETUP_IOPOLL`). Needs `O_DIRECT`.
    pub iopoll: bool,
    /// Let a kernel thread submit (`IORING_SETUP_SQPOLL`).
    pub sqpoll: Option<SqPoll>,
    /// Register the file with the ring, which spares the kernel a look-up per request.
    pub fixed_file: bool,
}

impl FileOptions {
    /// QEMU's defaults: `cache=writeback`, read and write, `locking=auto`, `discard=ignore`, no polling.
    pub fn new(filename: impl Into<PathBuf>) -> FileOptions {
        FileOptions {
            filename: filename.into(),
            cache: CacheMode::default(),
            read_only: false,
            locking: Locking::default(),
            share_rw: false,
            discard: DiscardMode::default(),
            iopoll: false,
            sqpoll: None,
            fixed_file: true,
        }
    }

    /// The same with another cache mode.
    #[must_use]
    pub fn cache(mut self, cache: CacheMode) -> FileOptions {
        self.cache = cache;
        self
    }

    /// The same for reading only, or not.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> FileOptions {
        self.read_only = read_only;
        self
    }

    /// The same with another locking mode.
    #[must_use]
    pub fn locking(mut self, locking: Locking) -> FileOptions {
        self.locking = locking;
        self
    }

    /// The same with other writers allowed, or not.
    #[must_use]
    pub fn share_rw(mut self, share_rw: bool) -> FileOptions {
        self.share_rw = share_rw;
        self
    }

    /// The same with another discard mode.
    #[must_use]
    pub fn discard(mut self, discard: DiscardMode) -> FileOptions {
        self.discard = discard;
        self
    }

    /// The same with completions polled, or not.
    #[must_use]
    pub fn iopoll(mut self, iopoll: bool) -> FileOptions {
        self.iopoll = iopoll;
        self
    }

    /// The same with submission by a kernel thread, or not.
    #[must_use]
    pub fn sqpoll(mut self, sqpoll: Option<SqPoll>) -> FileOptions {
        self.sqpoll = sqpoll;
        self
    }

    /// The same with the file registered with the ring, or not.
    #[must_use]
    pub fn fixed_file(mut self, fixed_file: bool) -> FileOptions {
        self.fixed_file = fixed_file;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_modes_follow_qemus_table() {
        // (name, cache.direct, cache.writeback, cache.no-flush) from QEMU's manual page on -drive.
        let table = [
            ("none", true, true, false),
            ("writeback", false, true, false),
            ("writethrough", false, false, false),
            ("directsync", true, false, false),
            ("unsafe", false, true, true),
        ];
        for (name, direct, writeback, no_flush) in table {
            let mode: CacheMode = name.parse().unwrap();
            assert_eq!(mode.to_string(), name);
            assert_eq!(
                (mode.direct(), mode.write_cache(), mode.no_flush()),
                (direct, writeback, no_flush),
                "{name}"
            );
        }
    }

    #[test]
    fn unknown_values_name_what_is_known() {
        let error = "wb".parse::<CacheMode>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cache=wb is not known; it takes none, writeback, writethrough, directsync or unsafe"
        );
        assert!("maybe".parse::<Locking>().unwrap_err().to_string().contains("on, off or auto"));
        assert!("".parse::<DiscardMode>().unwrap_err().to_string().contains("unmap"));
    }
}
