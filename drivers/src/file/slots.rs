//! The commands in flight of one queue, one slot per tag, and what becomes of each completion.
//!
//! Invariants, on which the unsafe code of [`ring`](super::ring) stands:
//!
//! - A slot whose step is not [`Step::Free`] owns its payload and its vector until the kernel's completion for it has been
//!   delivered; neither is moved in memory, changed or dropped before.
//! - The table is never resized, and a busy slot takes no second command.
//! - For each slot at most one entry is in the kernel, and its key is the slot's index.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use corelane_dma::Payload;
use corelane_engine::aio::{Cqe, CqeSink};
use corelane_engine::block::{Errno, IoResult, LeafCompletion, Op, ReqFlags, Tag};

use super::OpenFile;
use super::fixed::FixedBuffers;
use super::map;
use super::probe::FileKind;
use super::steps::{Next, Step};

/// How often a command that makes no progress is sent again after EINTR or EAGAIN before the error passes up. Each try
/// takes a turn of the lane at least.
const MAX_RETRIES: u16 = 1000;

/// One command.
#[derive(Debug)]
pub struct Slot {
    /// Its memory.
    pub payload: Payload,
    /// Where the next transfer goes, or where the range of the operation starts, in bytes.
    pub offset: u64,
    /// What is left to transfer, or the length of the range, in bytes.
    pub left: u64,
    /// How much of the payload is done, in bytes. Not 0 only in [`Step::Rest`].
    pub done: usize,
    /// What the slot waits for.
    pub step: Step,
    /// What the command does.
    pub op: Op,
    /// How.
    pub flags: ReqFlags,
    /// Tries without progress. 0 in a free slot, and where the step is [`Step::Transfer`].
    retries: u16,
}

// Two requests never share a cache line, and the index is a shift.
const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    const fn free() -> Slot {
        Slot {
            payload: Payload::None,
            offset: 0,
            left: 0,
            done: 0,
            step: Step::Free,
            op: Op::Flush,
            flags: ReqFlags::empty(),
            retries: 0,
        }
    }

    /// Takes a read or write.
    #[inline]
    pub fn start_transfer(&mut self, op: Op, flags: ReqFlags, offset: u64, payload: Payload) {
        self.left = payload.len_bytes() as u64;
        // A free slot has no payload, so there is nothing to drop; looking would cost more than all the rest.
        std::mem::forget(std::mem::replace(&mut self.payload, payload));
        self.offset = offset;
        self.step = Step::Transfer;
        self.op = op;
        self.flags = flags;
    }

    /// Frees the slot, with its completion.
    #[inline]
    fn end(&mut self, index: usize, result: IoResult) -> LeafCompletion {
        self.step = Step::Free;
        LeafCompletion::new(Tag(index as u32), result, std::mem::take(&mut self.payload))
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

/// What [`Slots`] holds.
#[derive(Debug)]
pub struct Table {
    /// One slot per tag.
    pub slots: Box<[Slot]>,
    /// For each slot, the segments as the kernel wants them. They grow to the longest vector that was seen and stay so.
    pub iovecs: Box<[Vec<libc::iovec>]>,
    /// What has completed and was not reaped yet.
    pub done: Vec<LeafCompletion>,
    /// Slots to be sent again: the rest of a short transfer, the next step, another try.
    pub again: Vec<u32>,
    /// Memory registered with the ring that reads and writes go to.
    pub fixed: FixedBuffers,
    /// Set when the queue is being dropped: whatever completes is only given up.
    pub closing: bool,
}

/// The slots of a queue, as a sink for completions.
#[derive(Debug)]
pub struct Slots {
    /// The table. Never borrowed while foreign code runs.
    pub table: RefCell<Table>,
    /// The file.
    pub file: Arc<OpenFile>,
}

impl Slots {
    /// Slots for the tags `0..tags`, and room for as many completions.
    pub fn new(file: Arc<OpenFile>, tags: u32) -> Slots {
        let count = tags as usize;
        let table = Table {
            slots: (0..count).map(|_| Slot::free()).collect(),
            iovecs: (0..count).map(|_| Vec::new()).collect(),
            done: Vec::with_capacity(count),
            again: Vec::with_capacity(count),
            fixed: FixedBuffers::default(),
            closing: false,
        };
        Slots { table: RefCell::new(table), file }
    }

    /// Whether any slot waits for the kernel in a step for which `which` holds.
    pub fn any_in(&self, which: impl Fn(Step) -> bool) -> bool {
        self.table.borrow().slots.iter().any(|slot| slot.step != Step::Free && which(slot.step))
    }

    /// Starts to give everything up: nothing is sent again, and completions go nowhere.
    pub fn close(&self) {
        let table = &mut *self.table.borrow_mut();
        table.closing = true;
        for index in std::mem::take(&mut table.again) {
            table.finish(index as usize, Ok(()));
        }
    }

    /// A completion that is not simply a transfer of everything.
    #[cold]
    #[inline(never)]
    fn complete_slow(&self, table: &mut Table, index: usize, result: i32) {
        let Some(slot) = table.slots.get_mut(index) else { return };
        let next = match slot.step {
            Step::Free => {
                tracing::error!(index, result, "a completion for nothing was ignored");
                return;
            }
            _ if table.closing => Next::Done(Ok(())),
            Step::Transfer | Step::Rest => self.after_transfer(slot, result),
            step => self.after_operation(slot, step, result),
        };
        table.proceed(index, next);
    }

    /// A step that is no transfer has ended.
    fn after_operation(&self, slot: &mut Slot, step: Step, result: i32) -> Next {
        let errno = (result < 0).then(|| Errno::from_raw(result));
        match errno {
            Some(Errno::EINTR | Errno::EAGAIN) if slot.may_retry() => Next::Go(step),
            _ => self.file.rules.after(step, errno, slot.flags),
        }
    }

    /// A transfer has ended otherwise than whole: an error, or short.
    fn after_transfer(&self, slot: &mut Slot, result: i32) -> Next {
        let Ok(moved) = u32::try_from(result) else {
            return match Errno::from_raw(result) {
                errno @ (Errno::EINTR | Errno::EAGAIN) => slot.try_again(errno),
                errno => failed(errno),
            };
        };
        let moved = u64::from(moved);
        if moved > slot.left {
            tracing::error!(moved, left = slot.left, "the kernel reports more bytes than it was given");
            return failed(Errno::EIO);
        }
        slot.advance(moved);
        if slot.left == 0 {
            return Next::Done(Ok(()));
        }
        let stray = slot.offset % u64::from(self.file.limits.request_alignment);
        match slot.op {
            // The end of a file is the only place where a transfer stops at an odd offset, and O_DIRECT could not go on
            // from there.
            Op::Read if moved == 0 || stray != 0 => self.at_end(slot),
            // Less than a block is no progress for a direct write, which goes on from a whole one.
            Op::Write if moved <= stray => {
                slot.go_back(stray);
                slot.try_again(Errno::EIO)
            }
            _ => {
                slot.go_back(stray);
                slot.retries = 0;
                Next::Go(Step::Rest)
            }
        }
    }

    /// A read met the end. In a regular file whose length is not a whole number of blocks the rest of the last block reads
    /// as zeroes, as in QEMU. Anything further means that the file or device is shorter than it was when the request was
    /// checked: that is an error here (QEMU would make up zeroes for a file), since data is missing.
    fn at_end(&self, slot: &mut Slot) -> Next {
        if self.file.kind == FileKind::Block {
            return failed(Errno::EIO);
        }
        let length = match map::length(self.file.fd.as_fd(), FileKind::Regular) {
            Ok(length) => length,
            Err(err) => return failed(Errno::from(&err)),
        };
        let block = u64::from(self.file.limits.request_alignment);
        if length > slot.offset {
            // It has grown since; whole blocks of it can be read.
            slot.go_back((slot.offset % block).min(slot.done as u64));
            return slot.try_again(Errno::EIO);
        }
        if slot.offset + slot.left > length.next_multiple_of(block) {
            return failed(Errno::EIO);
        }
        match slot.payload.fill(slot.done, slot.left as usize, 0) {
            Ok(()) => Next::Done(Ok(())),
            Err(_) => failed(Errno::EIO),
        }
    }

    /// The result of a discard that a helper thread has made.
    pub fn complete_call(&self, index: u32, errno: Option<Errno>) {
        let table = &mut *self.table.borrow_mut();
        self.complete_slow(table, index as usize, errno.map_or(0, |errno| -errno.raw()));
    }
}

fn failed(errno: Errno) -> Next {
    Next::Done(Err(errno.into()))
}

impl Table {
    /// Carries out what was decided for a slot.
    pub fn proceed(&mut self, index: usize, next: Next) {
        match next {
            Next::Done(result) => self.finish(index, result),
            Next::Go(step) => {
                self.slots[index].step = step;
                self.again.push(index as u32);
            }
        }
    }

    fn finish(&mut self, index: usize, result: IoResult) {
        let slot = &mut self.slots[index];
        self.done.push(slot.end(index, result));
        (slot.done, slot.retries) = (0, 0);
    }
}

impl CqeSink for Slots {
    fn complete(&self, key: u64, result: i32, _flags: u32) {
        self.complete_one(&mut self.table.borrow_mut(), key as usize, result);
    }

    fn complete_all(&self, cqes: &[Cqe]) {
        let table = &mut *self.table.borrow_mut();
        for cqe in cqes {
            self.complete_one(table, cqe.key() as usize, cqe.result());
        }
    }
}

impl Slots {
    #[inline(always)]
    fn complete_one(&self, table: &mut Table, index: usize, result: i32) {
        match table.slots.get_mut(index) {
            Some(slot) if slot.step == Step::Transfer && i64::from(result) == slot.left as i64 => {
                let completion = slot.end(index, Ok(()));
                table.done.push(completion);
            }
            _ => self.complete_slow(table, index, result),
        }
    }
}
