//! What a channel counts. Tests assert on these, so each says exactly when it rises.

use super::errno::{Errno, IoResult};
use super::request::{Op, Request};

/// Counts of one channel since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelStats {
    /// Requests that went to the device as they came, by [`Op`]: no copy, no task.
    pub fast: [u64; Op::COUNT],
    /// Requests that the slow path handled, by [`Op`], whether they succeeded or not.
    pub slow: [u64; Op::COUNT],
    /// Requests refused before they reached anything: out of range, read-only, closed, malformed.
    pub refused: u64,
    /// Requests that waited for the end of a [drained section](super::DrainedSection).
    pub held: u64,
    /// Requests whose range was widened to `request_alignment`.
    pub padded: u64,
    /// Device commands that used a bounce buffer.
    pub bounced: u64,
    /// Requests that took more than one device command because of `max_transfer`, `max_iov` or a limit of theirs.
    pub split: u64,
    /// Requests that excluded others from their range for a time.
    pub serialised: u64,
    /// Commands that the slow path sent to the device.
    pub commands: u64,
    /// Write-zeroes that were carried out by writing zeroes.
    pub zeroes_written: u64,
    /// Flushes sent to emulate FUA.
    pub fua_flushes: u64,
    /// Completions that named a tag which was not in flight: the device's or driver's fault.
    pub bogus: u64,
}

impl ChannelStats {
    /// Requests of `op` that took the fast path.
    pub fn fast_of(&self, op: Op) -> u64 {
        self.fast[op as usize]
    }

    /// Counts a request of the slow path that was `checked`. Says how it has ended, if there is nothing to do.
    pub(super) fn count_slow(&mut self, request: &Request, checked: Result<(), Errno>) -> Option<IoResult> {
        if let Err(errno) = checked {
            self.refused += 1;
            return Some(Err(errno.into()));
        }
        self.slow[request.op as usize] += 1;
        (request.bytes == 0 && request.op != Op::Flush).then_some(Ok(()))
    }

    /// Requests of `op` that took the slow path.
    pub fn slow_of(&self, op: Op) -> u64 {
        self.slow[op as usize]
    }
}
