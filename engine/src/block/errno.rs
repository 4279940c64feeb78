//! Error values of the block layer.
//!
//! A request ends with an [`IoError`]: eight bytes, `Copy`, so that the hot path carries it for nothing. The control
//! plane (open, register, truncate) ends with a [`BlockError`], which says what was wrong and what would be right.

use std::fmt;
use std::num::NonZeroI32;
use std::sync::OnceLock;

use super::limits::LimitsError;

/// An errno value of Linux (`errno(3)`), never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroI32);

macro_rules! errnos {
    ($($name:ident = $libc:ident, $doc:literal;)*) => {
        impl Errno {
            $(#[doc = $doc] pub const $name: Errno = Errno::from_const(libc::$libc);)*
        }
    };
}

errnos! {
    EIO = EIO, "Input/output error; also what QEMU answers for a request outside the device.";
    EPERM = EPERM, "Operation not permitted: a write to a read-only node (QEMU's `bdrv_co_write_req_prepare`).";
    EINVAL = EINVAL, "Invalid argument.";
    ENOMEDIUM = ENOMEDIUM, "No medium: the backend is closed.";
    ENOTSUP = ENOTSUP, "The device cannot do this operation and a fall-back was not allowed.";
    ENOSPC = ENOSPC, "No space left on the device.";
    ENOMEM = ENOMEM, "Out of memory.";
    ECANCELED = ECANCELED, "The request was cancelled.";
    ENODEV = ENODEV, "The device is gone.";
    EAGAIN = EAGAIN, "Resource temporarily unavailable.";
    EINTR = EINTR, "Interrupted.";
    ETIMEDOUT = ETIMEDOUT, "The request's deadline passed.";
    EBUSY = EBUSY, "Resource busy.";
    EOPNOTSUPP = EOPNOTSUPP, "Operation not supported (the same number as ENOTSUP on Linux).";
}

impl Errno {
    const fn from_const(raw: i32) -> Errno {
        match NonZeroI32::new(raw) {
            Some(value) => Errno(value),
            None => panic!("an errno is never zero"),
        }
    }

    /// From a raw positive or negative errno; zero, which is no error, becomes `EIO`.
    pub fn from_raw(raw: i32) -> Errno {
        NonZeroI32::new(raw.saturating_abs()).map_or(Errno::EIO, Errno)
    }

    /// The positive number.
    pub const fn raw(self) -> i32 {
        self.0.get()
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {})", self.0, std::io::Error::from_raw_os_error(self.raw()))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.raw()).fmt(f)
    }
}

impl From<&std::io::Error> for Errno {
    fn from(err: &std::io::Error) -> Errno {
        err.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

/// How one request failed: the errno, and the device's own status where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub struct IoError {
    /// What went wrong, in Linux's terms.
    pub errno: Errno,
    /// The driver's own code, 0 if it has none. For NVMe: status code type << 8 | status code. In the highest bit
    /// [`DO_NOT_RETRY`](Self::DO_NOT_RETRY).
    pub device_status: u32,
}

/// What names the codes of devices; see [`IoError::name_statuses_by`].
static STATUS_NAMES: OnceLock<fn(u32) -> Option<&'static str>> = OnceLock::new();

impl IoError {
    /// In `device_status`: the device says that the same request would fail again.
    pub const DO_NOT_RETRY: u32 = 1 << 31;

    /// Whether the device says that the same request would fail again.
    pub const fn do_not_retry(self) -> bool {
        self.device_status & IoError::DO_NOT_RETRY != 0
    }

    /// Lets messages name the codes in `device_status`. The first call counts: there is one kind of device with codes.
    pub fn name_statuses_by(name: fn(u32) -> Option<&'static str>) {
        // A second driver instance says the same again.
        let _ = STATUS_NAMES.set(name);
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.device_status & !IoError::DO_NOT_RETRY;
        let named = STATUS_NAMES.get().and_then(|name| name(status));
        match (status, named) {
            (0, _) => self.errno.fmt(f),
            (_, Some(name)) => write!(f, "{} (device status {status:#x}: {name})", self.errno),
            (_, None) => write!(f, "{} (device status {status:#x})", self.errno),
        }
    }
}

impl From<Errno> for IoError {
    fn from(errno: Errno) -> IoError {
        IoError { errno, device_status: 0 }
    }
}

/// The outcome of one request.
pub type IoResult = Result<(), IoError>;

/// How an operation on the control plane failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Opening or probing the device failed.
    #[error("cannot open '{filename}': {reason}")]
    Open {
        /// What was to be opened.
        filename: String,
        /// Why it could not be, and what would be right.
        reason: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, on which object.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The driver reports limits that contradict one another.
    #[error("driver '{driver}' reports impossible limits: {source}")]
    Limits {
        /// The driver's format name.
        driver: &'static str,
        /// Which rule is broken.
        source: LimitsError,
    },
    /// A value is outside its range.
    #[error("{what} is {value}, but must be {expected}")]
    Range {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: String,
    },
    /// The driver cannot do this.
    #[error("driver '{driver}' does not support {what}")]
    Unsupported {
        /// The driver's format name.
        driver: &'static str,
        /// The operation.
        what: &'static str,
    },
    /// Somebody else holds the image in a way that excludes this use.
    #[error("cannot lock '{filename}': {reason}")]
    Locked {
        /// The image.
        filename: String,
        /// Who or what holds it, and how to go on.
        reason: String,
    },
    /// The backend is read-only.
    #[error("'{node}' is read-only")]
    ReadOnly {
        /// The node's name.
        node: String,
    },
    /// The backend was closed.
    #[error("'{node}' is closed")]
    Closed {
        /// The node's name.
        node: String,
    },
    /// A memory operation failed.
    #[error(transparent)]
    Memory(#[from] corelane_dma::DmaError),
    /// The event loop refused.
    #[error(transparent)]
    Aio(#[from] crate::aio::AioError),
}
