//! Entries for the kernel: the only unsafe code of the file driver.
//!
//! Invariants:
//!
//! - Every entry pushed refers only to memory of its command: segments of its payload, its vector of segments, or a fixed
//!   buffer that holds them. Both are kept, unmoved, until the entry has completed (the invariants of
//!   [`slots`](super::slots)).
//! - The file stays open as long as an entry may be in the kernel: the slots hold an `Arc` of it, and
//!   [`KernelEnd`] waits for every entry before it lets go of them.
//! - Where the wait cannot be carried through, the commands and their memory are leaked rather than freed.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;

use corelane_dma::Payload;
use corelane_engine::aio::{FixedFile, Ring, SinkId};
use corelane_engine::block::{Command, Errno, LeafSlots, Op, ReqFlags, Tag};
use io_uring::{opcode, squeue, types};

use super::OpenFile;
use super::fixed::{FixedBuffers, Piece};
use super::probe::FileKind;
use super::slots::{Progress, STEPWISE, Slots, Steps};
use super::steps::{Next, Step};

/// Write, and complete only when the data is on stable storage (`pwritev2(2)`).
const RWF_DSYNC: i32 = libc::RWF_DSYNC;
/// `BLOCK_URING_CMD_DISCARD`: `_IO(0x12, 0)` of `linux/blkdev.h`.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;
/// `BLKDISCARD`: `_IO(0x12, 119)` of `linux/fs.h`.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// `struct io_uring_sqe` of `linux/io_uring.h` as words, which are written at once: opcode (8 bits), flags (8), ioprio (16)
/// and fd (32); offset; address; length (32) and `rw_flags` (32); user data, which [`Ring::push`] sets; index of the fixed
/// buffer (16), personality (16) and file index (32); and two that reads and writes do not use. The builders of the
/// `io_uring` crate write each field on its own, which took a third of the time of a request here.
#[repr(C)]
struct Sqe([u64; 8]);

const _: () = assert!(size_of::<Sqe>() == size_of::<squeue::Entry>());
const _: () = assert!(align_of::<Sqe>() == align_of::<squeue::Entry>());
const _: () =
    assert!(cfg!(target_endian = "little"), "the words are put together for a little-endian kernel");
// A write's opcode is its read's plus one.
const _: () = assert!(opcode::Write::CODE == opcode::Read::CODE + 1);
const _: () = assert!(opcode::WriteFixed::CODE == opcode::ReadFixed::CODE + 1);

/// A ring, what completions are sent to there, and how the file is named there.
pub struct Lane {
    pub ring: Rc<Ring>,
    sink: SinkId,
    file: Option<FixedFile>,
    fd: i32,
    flags: squeue::Flags,
    /// The first word of an entry for the file, without the opcode.
    head: u64,
}

impl Lane {
    fn new(ring: Rc<Ring>, slots: &Rc<Slots>) -> Lane {
        let file = &slots.file;
        let fixed = if file.fixed_file { ring.register_file(file.fd.as_fd()) } else { None };
        let sink = ring.add_sink(Rc::clone(slots) as Rc<_>);
        let (fd, flags) = match fixed {
            Some(index) => (index.0 as i32, squeue::Flags::FIXED_FILE),
            None => (file.fd.as_raw_fd(), squeue::Flags::empty()),
        };
        let head = u64::from(flags.bits()) << 8 | u64::from(fd.cast_unsigned()) << 32;
        Lane { ring, sink, file: fixed, fd, flags, head }
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.fd)
    }

    /// # Safety
    /// As [`Ring::push`]: the entry refers only to memory that is kept for the command `index`.
    #[inline(always)]
    unsafe fn push(&self, index: u32, entry: squeue::Entry) {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.push(self.sink, u64::from(index), entry) };
    }

    fn close(&self) {
        self.ring.remove_sink(self.sink);
        if let Some(file) = self.file {
            self.ring.unregister_file(file);
        }
    }
}

/// The kernel's end of a queue: its slots, and the ring or rings that its entries go to.
pub struct KernelEnd {
    slots: Rc<Slots>,
    /// Reads and writes.
    transfers: Lane,
    /// Everything else, where the transfers' ring takes nothing else (IOPOLL).
    operations: Option<Lane>,
    durable: Durable,
}

/// Which transfers must be durable when they complete: [`Rules::durable`](super::steps::Rules::durable), at hand.
struct Durable {
    always: bool,
    if_flagged: ReqFlags,
}

impl Durable {
    #[inline(always)]
    fn of(&self, op: Op, flags: ReqFlags) -> bool {
        op == Op::Write && (self.always | flags.intersects(self.if_flagged))
    }
}

impl KernelEnd {
    /// `operations` is given where it is another ring than that of the transfers.
    pub fn new(slots: Slots, transfers: Rc<Ring>, operations: Option<Rc<Ring>>) -> KernelEnd {
        let rules = &slots.file.rules;
        let if_flagged = if rules.no_flush { ReqFlags::empty() } else { ReqFlags::FUA };
        let durable = Durable { always: rules.always_durable, if_flagged };
        let slots = Rc::new(slots);
        let transfers = Lane::new(transfers, &slots);
        let operations = operations.map(|ring| Lane::new(ring, &slots));
        KernelEnd { slots, transfers, operations, durable }
    }

    pub fn slots(&self) -> &Rc<Slots> {
        &self.slots
    }

    /// The ring of reads and writes.
    pub fn ring(&self) -> &Rc<Ring> {
        &self.transfers.ring
    }

    /// Sends what is pending. True if a command has ended that the channel has yet to look at.
    #[inline(always)]
    pub fn send(&self) -> bool {
        let slots = &mut self.slots.table.borrow();
        let steps = &mut *self.slots.steps.borrow_mut();
        // A lane with one request in flight need not get ready for many.
        if self.send_one(slots, steps) && slots.has_pending() {
            self.send_rest(slots, steps);
        }
        slots.has_ended()
    }

    #[inline(never)]
    fn send_rest(&self, slots: &mut LeafSlots<'_>, steps: &mut Steps) {
        while self.send_one(slots, steps) {}
    }

    /// Sends the next command; false if there is none.
    #[inline(always)]
    fn send_one(&self, slots: &mut LeafSlots<'_>, steps: &mut Steps) -> bool {
        let Some((tag, command)) = slots.take_pending() else { return false };
        let (op, flags, offset) = (command.op(), command.flags(), command.offset());
        let (Op::Read | Op::Write, Payload::One(buf)) = (op, command.payload()) else {
            if let Next::Done(result) = self.send_slow(steps, tag, command) {
                slots.end(tag, result);
            }
            return true;
        };
        let piece = Piece { start: buf.addr(), len: buf.len() };
        let dsync = self.durable.of(op, flags);
        let entry = one_entry(&self.transfers, op, piece, offset, dsync, &steps.fixed);
        // SAFETY: the entry refers to the one buffer of the payload, which the command keeps until it is ended.
        unsafe { self.transfers.push(tag.0, entry) };
        true
    }

    /// Takes a command that is not a transfer of one buffer.
    #[cold]
    #[inline(never)]
    fn send_slow(&self, steps: &mut Steps, tag: Tag, command: &mut Command) -> Next {
        let progress = &mut steps.progress[tag.0 as usize];
        *progress = start_slow(&self.slots.file, command);
        command.set_note(STEPWISE);
        let next = first(&self.slots.file, command, progress);
        if let Next::Go(step) = next {
            steps.go(tag, step);
        }
        next
    }

    /// Sends the commands that wait to be sent (again). `call` is given those whose next step is a system call for another
    /// thread: tag, offset and length in bytes.
    #[inline]
    pub fn resume(&self, call: impl FnMut(Tag, u64, u64)) {
        if !self.slots.steps.borrow().again.is_empty() {
            self.resume_slow(call);
        }
    }

    #[inline(never)]
    fn resume_slow(&self, mut call: impl FnMut(Tag, u64, u64)) {
        let slots = &mut self.slots.table.borrow();
        let steps = &mut *self.slots.steps.borrow_mut();
        for index in steps.again.drain(..) {
            let tag = Tag(index);
            let Some(command) = slots.get_mut(tag) else { continue };
            let progress = &steps.progress[index as usize];
            let lane = match (progress.step, &self.operations) {
                (Step::DiscardCall, _) => {
                    call(tag, progress.offset, progress.left);
                    continue;
                }
                (Step::Transfer | Step::Rest, _) | (_, None) => &self.transfers,
                (_, Some(operations)) => operations,
            };
            let entry = match progress.step {
                Step::Transfer | Step::Rest => {
                    let iovecs = &mut steps.iovecs[index as usize];
                    let dsync = self.durable.of(command.op(), command.flags());
                    transfer_entry(lane, command, progress, iovecs, &steps.fixed, dsync)
                }
                _ => operation_entry(lane, progress),
            };
            // SAFETY: a transfer's entry refers to the command's payload or its vector, which stay as they are until it
            // has completed; an operation's entry refers to no memory.
            unsafe { lane.push(index, entry) };
        }
    }

    /// Waits until the kernel has none of our entries. False if that cannot be had.
    fn quiesce(&self) -> bool {
        self.slots.close();
        let own = |step| self.operations.is_none() || matches!(step, Step::Transfer | Step::Rest);
        let wait = |lane: &Lane, which: &dyn Fn(Step) -> bool| {
            while self.slots.any_in(|step| step != Step::DiscardCall && which(step)) {
                if let Err(error) = lane.ring.submit_and_wait(1, None) {
                    tracing::error!(%error, "requests in flight cannot be waited for; their memory is given up");
                    return false;
                }
                lane.ring.reap();
            }
            true
        };
        wait(&self.transfers, &own)
            && self.operations.as_ref().is_none_or(|lane| wait(lane, &|step| !own(step)))
    }
}

impl Drop for KernelEnd {
    fn drop(&mut self) {
        if !self.quiesce() {
            // The kernel may still write the memory of the commands.
            std::mem::forget(Rc::clone(&self.slots));
            return;
        }
        for index in self.slots.steps.borrow_mut().fixed.drain() {
            self.transfers.ring.unregister_buffer(index);
        }
        self.transfers.close();
        if let Some(operations) = &self.operations {
            operations.close();
        }
    }
}

/// Where a command begins that is not a transfer of one buffer.
fn start_slow(file: &OpenFile, command: &Command) -> Progress {
    let (offset, bytes) = (command.offset(), command.bytes());
    let mut progress = Progress::new(Step::Transfer, offset, bytes);
    if command.op() == Op::Discard && file.kind == FileKind::Block {
        // A device discards whole blocks only; what sticks out may stay as it is.
        let block = u64::from(file.logical_block_bytes);
        let end = (offset + bytes) / block * block;
        progress.offset = offset.next_multiple_of(block);
        progress.left = end.saturating_sub(progress.offset);
    }
    progress
}

/// The first step of what is not a transfer of one buffer, or its end where there is nothing to do.
fn first(file: &OpenFile, command: &Command, progress: &Progress) -> Next {
    let block = u64::from(file.logical_block_bytes);
    match command.op() {
        Op::Discard | Op::WriteZeroes if progress.left == 0 => Next::Done(Ok(())),
        // The kernel zeroes whole blocks of a device only.
        Op::WriteZeroes if !(progress.offset | progress.left).is_multiple_of(block) => {
            Next::Done(Err(Errno::ENOTSUP.into()))
        }
        op => file.rules.first(op, command.flags()),
    }
}

/// The entry for a transfer of one contiguous piece.
#[inline(always)]
fn one_entry(
    lane: &Lane,
    op: Op,
    piece: Piece,
    offset: u64,
    dsync: bool,
    fixed: &FixedBuffers,
) -> squeue::Entry {
    let (read, buf_index) = match fixed.lookup(piece.start, piece.len) {
        Some(index) => (opcode::ReadFixed::CODE, index),
        None => (opcode::Read::CODE, 0),
    };
    let opcode = read + u8::from(op != Op::Read);
    let rw_flags = if dsync { RWF_DSYNC as u64 } else { 0 };
    let sqe = Sqe([
        lane.head | u64::from(opcode),
        offset,
        piece.start as u64,
        // Requests are shorter than 2 GiB. Of a longer one this would be too little, which is a short transfer.
        u64::from(piece.len as u32) | rw_flags << 32,
        0,
        u64::from(buf_index),
        0,
        0,
    ]);
    // SAFETY: both are the kernel's `struct io_uring_sqe` in `repr(C)`, of one size and alignment; every bit pattern is
    // a valid entry, whatever the kernel will say to it.
    unsafe { std::mem::transmute::<Sqe, squeue::Entry>(sqe) }
}

/// The entry for what is left of a transfer.
fn transfer_entry(
    lane: &Lane,
    command: &Command,
    progress: &Progress,
    iovecs: &mut Vec<libc::iovec>,
    fixed: &FixedBuffers,
    dsync: bool,
) -> squeue::Entry {
    let mut skip = progress.done;
    iovecs.clear();
    iovecs.reserve(command.payload().as_bufs().len());
    for (ptr, len) in command.payload().segments() {
        if skip >= len {
            skip -= len;
            continue;
        }
        iovecs.push(libc::iovec { iov_base: ptr.wrapping_add(skip).cast(), iov_len: len - skip });
        skip = 0;
    }
    if let [only] = iovecs[..] {
        let piece = Piece { start: only.iov_base as usize, len: only.iov_len };
        return one_entry(lane, command.op(), piece, progress.offset, dsync, fixed);
    }
    let (fd, vector, count) = (lane.fd(), iovecs.as_ptr(), iovecs.len() as u32);
    let entry = match command.op() {
        Op::Read => opcode::Readv::new(fd, vector, count).offset(progress.offset).build(),
        _ => {
            let rw_flags = if dsync { RWF_DSYNC } else { 0 };
            opcode::Writev::new(fd, vector, count).offset(progress.offset).rw_flags(rw_flags).build()
        }
    };
    entry.flags(lane.flags)
}

/// The entry for a step that is no transfer.
fn operation_entry(lane: &Lane, progress: &Progress) -> squeue::Entry {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let fd = lane.fd();
    let fallocate =
        |mode| opcode::Fallocate::new(fd, progress.left).offset(progress.offset).mode(mode).build();
    let entry = match progress.step {
        Step::Flush | Step::ZeroSync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Step::ZeroRange => fallocate(libc::FALLOC_FL_ZERO_RANGE),
        Step::ZeroAllocate => fallocate(0),
        Step::ZeroPunch | Step::ZeroPunchFirst | Step::DiscardPunch => fallocate(PUNCH),
        Step::DiscardCommand => {
            // The start goes where other commands have an address, the length in the first bytes of the command.
            let mut length = [0; 16];
            length[..8].copy_from_slice(&progress.left.to_ne_bytes());
            opcode::UringCmd16::new(fd, BLOCK_URING_CMD_DISCARD)
                .addr(Some(progress.offset))
                .cmd(length)
                .build()
        }
        Step::Transfer | Step::Rest | Step::DiscardCall => opcode::Nop::new().build(),
    };
    entry.flags(lane.flags)
}

/// Opcodes that the steps need beyond reads, writes and syncs, and whether the ring knows them:
/// `fallocate` and the discard command.
pub fn ring_abilities(ring: &Ring) -> (bool, bool) {
    (ring.supports(opcode::Fallocate::CODE), ring.supports(opcode::UringCmd16::CODE))
}

/// Discards a range of a block device by `ioctl(BLKDISCARD)`. Blocks.
pub fn discard_call(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> Option<Errno> {
    let range = [offset, bytes];
    loop {
        // SAFETY: BLKDISCARD reads two 64-bit numbers from the pointer, which are there.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
        if result == 0 {
            return None;
        }
        let errno = Errno::from(&std::io::Error::last_os_error());
        if errno != Errno::EINTR {
            return Some(errno);
        }
    }
}
