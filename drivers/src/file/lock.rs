//! Image locking as QEMU does it, so that QEMU and Corelane exclude each other on the same image.
//!
//! A user of an image has two sets of permissions: those that it takes, and those that it lets others take at the same
//! time. QEMU (`block/file-posix.c`, since 2.10) writes both into the file's lock table as shared locks on single
//! bytes by open file description (`F_OFD_SETLK`): byte 100 + *n* for permission *n* taken, byte 200 + *n* for
//! permission *n* not shared. After that it asks, without taking it, whether it would get an exclusive lock: on 200 + *n* for
//! each permission that it takes (does anybody not share it?), and on 100 + *n* for each that it does not share (has
//! anybody taken it?). Both sides set first and ask second, so of two that come at once at least one is refused.
//!
//! The bytes need not exist in the file, and nothing is ever written to them. The locks belong to the open file
//! description: they go when the last descriptor of it is closed, however the process ends.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, fcntl};

use super::holder;
use super::options::Locking;
use corelane_engine::block::BlockError;

/// First byte of those that say which permissions are taken (QEMU's `RAW_LOCK_PERM_BASE`).
const TAKEN_BASE: i64 = 100;
/// First byte of those that say which permissions are not shared (QEMU's `RAW_LOCK_SHARED_BASE`).
const UNSHARED_BASE: i64 = 200;

bitflags::bitflags! {
    /// QEMU's permissions (`BLK_PERM_*`); the bit number is the lock byte's offset from its base.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Permissions: u8 {
        /// Read, and rely on what is read.
        const CONSISTENT_READ = 1;
        /// Write.
        const WRITE = 2;
        /// Write what is there already.
        const WRITE_UNCHANGED = 4;
        /// Change the length.
        const RESIZE = 8;
    }
}

impl Permissions {
    /// QEMU's name of a single permission, as its error messages have it.
    fn name(self) -> &'static str {
        match self {
            Permissions::CONSISTENT_READ => "consistent read",
            Permissions::WRITE => "write",
            Permissions::WRITE_UNCHANGED => "write unchanged",
            _ => "resize",
        }
    }

    fn byte(self, base: i64) -> i64 {
        base + i64::from(self.bits().trailing_zeros())
    }
}

/// What a user of an image takes and shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// Permissions taken.
    pub taken: Permissions,
    /// Permissions that others may have meanwhile.
    pub shared: Permissions,
}

impl LockRequest {
    /// What a QEMU disk device takes and shares: a reader reads, a writer also writes; others may read and write what is
    /// there already, and with `share_rw` do anything.
    pub fn new(read_only: bool, share_rw: bool) -> LockRequest {
        let mut taken = Permissions::CONSISTENT_READ;
        if !read_only {
            taken |= Permissions::WRITE;
        }
        let shared = match share_rw {
            true => Permissions::all(),
            false => Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED,
        };
        LockRequest { taken, shared }
    }
}

/// Locks the open image `fd` or says who is in the way. `filename` is for messages.
///
/// The locks live as long as the open file description, or until [`release`]. Returns whether there are any.
///
/// # Errors
/// [`BlockError::Locked`] when another user excludes this one, or, unless `locking` is `auto`, when the kernel or the file
/// system cannot lock.
pub fn acquire(
    fd: BorrowedFd<'_>,
    filename: &str,
    request: LockRequest,
    locking: Locking,
) -> Result<bool, BlockError> {
    if locking == Locking::Off {
        return Ok(false);
    }
    let outcome = set(fd, request).and_then(|()| check(fd, request));
    let Err(refusal) = outcome else { return Ok(true) };
    release(fd);
    match refusal {
        Refusal::Unable(err) if locking == Locking::Auto => {
            tracing::warn!(filename, error = %err, "the image is not locked: the file system cannot");
            Ok(false)
        }
        refusal => Err(refusal.explain(fd, filename)),
    }
}

/// Takes the permission to resize for as long as `resize` runs, for an image that is locked. QEMU, too, has it only then.
///
/// # Errors
/// [`BlockError::Locked`] when another user does not share it; `resize` has not run then.
pub fn while_resizing<T>(
    fd: BorrowedFd<'_>,
    filename: &str,
    resize: impl FnOnce() -> T,
) -> Result<T, BlockError> {
    let request = LockRequest { taken: Permissions::RESIZE, shared: Permissions::all() };
    let outcome = set(fd, request).and_then(|()| check(fd, request)).map(|()| resize());
    unlock(fd, Permissions::RESIZE.byte(TAKEN_BASE), 1);
    outcome.map_err(|refusal| refusal.explain(fd, filename))
}

impl Refusal {
    fn explain(self, fd: BorrowedFd<'_>, filename: &str) -> BlockError {
        let reason = match self {
            Refusal::Unable(err) => {
                format!(
                    "the file system refuses locks ({err}); use locking=off if nobody else uses the image"
                )
            }
            Refusal::Conflict(conflict) => conflict.reason(&holder::describe(fd, conflict.byte())),
        };
        BlockError::Locked { filename: filename.to_owned(), reason }
    }
}

/// Why the locks were not granted.
enum Refusal {
    /// Another user is in the way.
    Conflict(Conflict),
    /// Locking as such failed.
    Unable(io::Error),
}

/// The permission over which two users conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Conflict {
    /// We want it; somebody does not share it.
    NotSharedByOther(Permissions),
    /// Somebody has it; we do not share it.
    TakenByOther(Permissions),
}

impl Conflict {
    fn byte(self) -> i64 {
        match self {
            Conflict::NotSharedByOther(permission) => permission.byte(UNSHARED_BASE),
            Conflict::TakenByOther(permission) => permission.byte(TAKEN_BASE),
        }
    }

    fn reason(self, holder: &impl fmt::Display) -> String {
        let what = match self {
            Conflict::NotSharedByOther(permission) => {
                format!("{holder} uses the image and shares no \"{}\" permission", permission.name())
            }
            Conflict::TakenByOther(permission) => {
                format!(
                    "{holder} has the \"{}\" permission, which this use does not share",
                    permission.name()
                )
            }
        };
        format!(
            "{what}; end that use first, or let both sides share the image (share-rw=on), \
             or go without protection (locking=off)"
        )
    }
}

/// Sets the shared locks that tell others what we take and do not share.
fn set(fd: BorrowedFd<'_>, request: LockRequest) -> Result<(), Refusal> {
    let taken = request.taken.iter().map(Conflict::TakenByOther);
    let unshared = (!request.shared).iter().map(Conflict::NotSharedByOther);
    for conflict in taken.chain(unshared) {
        fcntl(fd, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_RDLCK, conflict.byte()))).map_err(|errno| {
            match errno {
                // An exclusive lock on the byte itself: nobody who follows the protocol takes one.
                nix::Error::EAGAIN | nix::Error::EACCES => Refusal::Conflict(conflict),
                other => Refusal::Unable(other.into()),
            }
        })?;
    }
    Ok(())
}

/// Asks whether anybody else's locks exclude this use.
fn check(fd: BorrowedFd<'_>, request: LockRequest) -> Result<(), Refusal> {
    let wanted = request.taken.iter().map(Conflict::NotSharedByOther);
    let unshared = (!request.shared).iter().map(Conflict::TakenByOther);
    for conflict in wanted.chain(unshared) {
        let mut probe = byte_lock(libc::F_WRLCK, conflict.byte());
        fcntl(fd, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(|errno| Refusal::Unable(errno.into()))?;
        if i32::from(probe.l_type) != libc::F_UNLCK {
            return Err(Refusal::Conflict(conflict));
        }
    }
    Ok(())
}

/// Gives up every lock byte, or does nothing if there are none.
pub fn release(fd: BorrowedFd<'_>) {
    unlock(fd, TAKEN_BASE, UNSHARED_BASE + 8 - TAKEN_BASE);
}

fn unlock(fd: BorrowedFd<'_>, byte: i64, count: i64) {
    let lock = libc::flock { l_len: count, ..byte_lock(libc::F_UNLCK, byte) };
    // The close of the descriptor does it at the latest.
    if let Err(errno) = fcntl(fd, FcntlArg::F_OFD_SETLK(&lock)) {
        tracing::debug!(%errno, "lock bytes are given up only on close");
    }
}

/// A lock of one byte. `l_pid` must be zero for locks by open file description (`fcntl(2)`).
fn byte_lock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}
