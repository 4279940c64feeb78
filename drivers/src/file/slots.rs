//! What becomes of each completion of one queue: the end of its command, or the next step towards it.
//!
//! A read or write of one piece that the kernel does whole, which is nearly every one, leaves no trace here: the command is in
//! its slot of the channel's table, and ends there. Only what takes several steps has a [`Progress`] beside it.
//!
//! Invariants, on which the unsafe code of [`ring`](super::ring) stands:
//!
//! - A command that was taken keeps its payload and its vector until it is ended here; neither is moved in memory, changed
//!   or dropped before. For the payload that is the table's own invariant.
//! - For each command at most one entry is in the kernel, and its key is the command's tag. A command is ended only when it
//!   has none there.
//! - The lists are never resized, except that a vector grows before its entry is made.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use corelane_engine::aio::{Cqe, CqeSink};
use corelane_engine::block::{Command, Errno, LeafSlots, LeafTable, Op, ReqFlags, Tag};

use super::OpenFile;
use super::fixed::FixedBuffers;
use super::map;
use super::probe::FileKind;
use super::steps::{Next, Step};

/// How often a command that makes no progress is sent again after EINTR or EAGAIN before the error passes up. Each try
/// takes a turn of the lane at least.
const MAX_RETRIES: u16 = 1000;

/// [`Command::note`] of a read or write of one piece that is in the kernel for the first time. It has no [`Progress`].
pub const PLAIN: u8 = 0;
/// [`Command::note`] of everything else.
pub const STEPWISE: u8 = 1;

/// How far a command has come that takes several steps.
#[derive(Debug)]
pub struct Progress {
    /// Where the next transfer goes, or where the range of the operation starts, in bytes.
    pub offset: u64,
    /// What is left to transfer, or the length of the range, in bytes.
    pub left: u64,
    /// How much of the payload is done, in bytes. Not 0 only in [`Step::Rest`].
    pub done: usize,
    /// What the command waits for.
    pub step: Step,
    /// Tries without progress.
    retries: u16,
}

impl Progress {
    /// Nothing is done yet of `bytes` bytes at `offset`.
    pub const fn new(step: Step, offset: u64, bytes: u64) -> Progress {
        Progress { offset, left: bytes, done: 0, step, retries: 0 }
    }

    /// Moves `bytes` bytes on, at most what is left.
    fn advance(&mut self, bytes: u64) {
        self.offset += bytes;
        self.left -= bytes;
        self.done += bytes as usize;
    }

    /// Moves `bytes` bytes back, at most what is done.
    fn go_back(&mut self, bytes: u64) {
        self.offset -= bytes;
        self.left += bytes;
        self.done -= bytes as usize;
    }

    /// Whether it may be sent once more without having got anywhere.
    fn may_retry(&mut self) -> bool {
        self.retries += 1;
        self.retries <= MAX_RETRIES
    }

    /// Sends a transfer that got nowhere again, or ends it with `errno` when that has been tried often enough.
    fn try_again(&mut self, errno: Errno) -> Next {
        if self.may_retry() { Next::Go(Step::Rest) } else { failed(errno) }
    }
}

/// What a queue keeps beside the commands.
#[derive(Debug)]
pub struct Steps {
    /// By tag; means something where the command's note is [`STEPWISE`].
    pub progress: Box<[Progress]>,
    /// By tag, the segments as the kernel wants them. They grow to the longest vector that was seen and stay so.
    pub iovecs: Box<[Vec<libc::iovec>]>,
    /// Commands to be sent again: the rest of a short transfer, the next step, another try.
    pub again: Vec<u32>,
    /// Memory registered with the ring that reads and writes go to.
    pub fixed: FixedBuffers,
    /// Set when the queue is being dropped: whatever completes is only given up.
    pub closing: bool,
}

/// The commands of a queue, as a sink for completions.
#[derive(Debug)]
pub struct Slots {
    /// The commands. Borrowed before `steps` where both are.
    pub table: LeafTable,
    /// What is kept beside them.
    pub steps: RefCell<Steps>,
    /// The file.
    pub file: Arc<OpenFile>,
}

impl Slots {
    /// Takes the commands of `table`.
    pub fn new(file: Arc<OpenFile>, table: LeafTable) -> Slots {
        let count = table.tags() as usize;
        let steps = Steps {
            progress: (0..count).map(|_| Progress::new(Step::Flush, 0, 0)).collect(),
            iovecs: (0..count).map(|_| Vec::new()).collect(),
            again: Vec::with_capacity(count),
            fixed: FixedBuffers::default(),
            closing: false,
        };
        Slots { table, steps: RefCell::new(steps), file }
    }

    /// Whether any command waits for something in a step for which `which` holds.
    pub fn any_in(&self, which: impl Fn(Step) -> bool) -> bool {
        let slots = self.table.borrow();
        let steps = self.steps.borrow();
        slots.sent().any(|(tag, command)| which(steps.step(tag, command)))
    }

    /// Starts to give everything up: nothing is sent again, and completions go nowhere.
    pub fn close(&self) {
        let slots = &mut self.table.borrow();
        let steps = &mut *self.steps.borrow_mut();
        steps.closing = true;
        for index in std::mem::take(&mut steps.again) {
            slots.end(Tag(index), Ok(()));
        }
    }

    /// A completion that is not simply a transfer of everything.
    #[cold]
    #[inline(never)]
    fn complete_slow(&self, slots: &mut LeafSlots<'_>, tag: Tag, result: i32) {
        let steps = &mut *self.steps.borrow_mut();
        let (Some(command), Some(progress)) = (slots.get_mut(tag), steps.progress.get_mut(tag.0 as usize))
        else {
            tracing::error!(tag = tag.0, result, "a completion for nothing was ignored");
            return;
        };
        if command.note() == PLAIN {
            *progress = Progress::new(Step::Transfer, command.offset(), command.bytes());
            command.set_note(STEPWISE);
        }
        let next = match progress.step {
            _ if steps.closing => Next::Done(Ok(())),
            Step::Transfer | Step::Rest => self.after_transfer(command, progress, result),
            step => self.after_operation(command.flags(), progress, step, result),
        };
        steps.proceed(slots, tag, next);
    }

    /// A step that is no transfer has ended.
    fn after_operation(&self, flags: ReqFlags, progress: &mut Progress, step: Step, result: i32) -> Next {
        let errno = (result < 0).then(|| Errno::from_raw(result));
        match errno {
            Some(Errno::EINTR | Errno::EAGAIN) if progress.may_retry() => Next::Go(step),
            _ => self.file.rules.after(step, errno, flags),
        }
    }

    /// A transfer has ended otherwise than whole: an error, or short.
    fn after_transfer(&self, command: &mut Command, progress: &mut Progress, result: i32) -> Next {
        let Ok(moved) = u32::try_from(result) else {
            return match Errno::from_raw(result) {
                errno @ (Errno::EINTR | Errno::EAGAIN) => progress.try_again(errno),
                errno => failed(errno),
            };
        };
        let moved = u64::from(moved);
        if moved > progress.left {
            tracing::error!(moved, left = progress.left, "the kernel reports more bytes than it was given");
            return failed(Errno::EIO);
        }
        progress.advance(moved);
        if progress.left == 0 {
            return Next::Done(Ok(()));
        }
        let stray = progress.offset % u64::from(self.file.limits.request_alignment);
        match command.op() {
            // The end of a file is the only place where a transfer stops at an odd offset, and O_DIRECT could not go on
            // from there.
            Op::Read if moved == 0 || stray != 0 => self.at_end(command, progress),
            // Less than a block is no progress for a direct write, which goes on from a whole one.
            Op::Write if moved <= stray => {
                progress.go_back(stray);
                progress.try_again(Errno::EIO)
            }
            _ => {
                progress.go_back(stray);
                progress.retries = 0;
                Next::Go(Step::Rest)
            }
        }
    }

    /// A read met the end. In a regular file whose length is not a whole number of blocks the rest of the last block reads
    /// as zeroes, as in QEMU. Anything further means that the file or device is shorter than it was when the request was
    /// checked: that is an error here (QEMU would make up zeroes for a file), since data is missing.
    fn at_end(&self, command: &mut Command, progress: &mut Progress) -> Next {
        if self.file.kind == FileKind::Block {
            return failed(Errno::EIO);
        }
        let length = match map::length(self.file.fd.as_fd(), FileKind::Regular) {
            Ok(length) => length,
            Err(err) => return failed(Errno::from(&err)),
        };
        let block = u64::from(self.file.limits.request_alignment);
        if length > progress.offset {
            // It has grown since; whole blocks of it can be read.
            progress.go_back((progress.offset % block).min(progress.done as u64));
            return progress.try_again(Errno::EIO);
        }
        if progress.offset + progress.left > length.next_multiple_of(block) {
            return failed(Errno::EIO);
        }
        match command.payload_mut().fill(progress.done, progress.left as usize, 0) {
            Ok(()) => Next::Done(Ok(())),
            Err(_) => failed(Errno::EIO),
        }
    }

    /// The result of a discard that a helper thread has made.
    pub fn complete_call(&self, tag: Tag, errno: Option<Errno>) {
        self.complete_slow(&mut self.table.borrow(), tag, errno.map_or(0, |errno| -errno.raw()));
    }
}

fn failed(errno: Errno) -> Next {
    Next::Done(Err(errno.into()))
}

impl Steps {
    /// What a command waits for.
    pub fn step(&self, tag: Tag, command: &Command) -> Step {
        match self.progress.get(tag.0 as usize) {
            Some(progress) if command.note() != PLAIN => progress.step,
            _ => Step::Transfer,
        }
    }

    /// Carries out what was decided for a command.
    fn proceed(&mut self, slots: &mut LeafSlots<'_>, tag: Tag, next: Next) {
        match next {
            Next::Done(result) => {
                slots.end(tag, result);
            }
            Next::Go(step) => self.go(tag, step),
        }
    }

    /// Has a command sent (again) for its next step.
    pub fn go(&mut self, tag: Tag, step: Step) {
        if let Some(progress) = self.progress.get_mut(tag.0 as usize) {
            progress.step = step;
            self.again.push(tag.0);
        }
    }
}

impl CqeSink for Slots {
    #[inline]
    fn complete(&self, key: u64, result: i32, _flags: u32) {
        self.complete_one(&mut self.table.borrow(), Tag(key as u32), result);
    }

    fn complete_all(&self, cqes: &[Cqe]) {
        let slots = &mut self.table.borrow();
        for cqe in cqes {
            self.complete_one(slots, Tag(cqe.key() as u32), cqe.result());
        }
    }
}

impl Slots {
    #[inline(always)]
    fn complete_one(&self, slots: &mut LeafSlots<'_>, tag: Tag, result: i32) {
        let whole =
            |command: &Command| command.note() == PLAIN && i64::from(result) == command.bytes() as i64;
        if !slots.end_if(tag, whole) {
            self.complete_slow(slots, tag, result);
        }
    }
}
