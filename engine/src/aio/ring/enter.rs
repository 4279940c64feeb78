//! What an enter of the kernel waits for, and what its refusals mean.

use std::io;
use std::time::Duration;

/// What an enter waits for.
#[derive(Clone, Copy)]
pub(super) struct Until {
    /// So many completions.
    pub want: u32,
    pub timeout: Option<Duration>,
    /// Not to be accounted as waiting for I/O.
    pub quiet: bool,
}

impl Until {
    pub const NOW: Self = Self { want: 0, timeout: None, quiet: false };
}

/// Sorts the errors of `io_uring_enter(2)`: those that pass by themselves count as nothing taken.
#[cold]
pub(super) fn refused(error: io::Error) -> io::Result<usize> {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        // A signal; the time is over; no memory for requests; reap first.
        Some(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY) => Ok(0),
        _ => Err(error),
    }
}
