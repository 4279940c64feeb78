//! The queue of a namespace in one lane: commands of the block layer become NVMe commands in a ring of their own.
//!
//! A lane that waits has the kernel watch that ring from the lane's own; one that polls looks at it each turn.
//!
//! Invariants, on which the calls of [`CommandRing::push`] stand:
//! - A command that was pushed keeps its payload until it is ended here, which happens only when its entry has completed.
//! - A slot's vector and range are changed only before its entry is pushed, and the lists are never resized.
//! - Whoever drops the queue waits for all entries; where that cannot be had, commands and lists are leaked.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_dma::{MemRegion, Payload};
use corelane_engine::aio::{AioContext, CqeSink, PlainOp, Readiness, Ring, SinkId};
use corelane_engine::block::{
    BlockError, Command as Request, Errno, IoError, IoResult, LeafQueue, LeafTable, Op, ReqFlags, Tag,
};

use super::Device;
use super::ring::{CommandRing, Data, Ended};
use super::sysfs::has_fixed_buffers;
use crate::file::fixed::{FixedBuffers, Piece, pieces};
use crate::nvme::spec::Lba;
use crate::nvme::spec::command::{CONTROL_DEALLOCATE, CONTROL_FUA, Command};
use crate::nvme::spec::opcode::io;

/// Most commands of one queue: as many as a ring has entries.
const MAX_TAGS: u32 = 32_768;
/// Most blocks of a command, which counts them in 16 bits from 0.
const MAX_BLOCKS: u64 = 1 << 16;
/// How long the cancelling of the watch is waited for, before it is asked for again.
const ROUND: Duration = Duration::from_millis(1);

/// See the module's documentation.
pub struct UringQueue {
    table: LeafTable,
    ring: CommandRing,
    fixed: FixedBuffers,
    /// By tag.
    vectors: Box<[Vec<libc::iovec>]>,
    /// By tag: the range of a deallocation.
    ranges: Box<[[u64; 2]]>,
    watch: Watch,
    device: Arc<Device>,
}

/// What of a request was found to be done.
enum Made {
    /// A command, and where its data is.
    Command(Command, Data),
    /// It needs none.
    Ended(IoResult),
}

impl UringQueue {
    /// Opens the queue for the commands of `table` in the lane of `ctx`.
    ///
    /// # Errors
    /// [`BlockError::Range`] for a number of tags out of range, [`BlockError::Open`] with what the kernel says to the ring.
    pub fn open(device: &Arc<Device>, ctx: &AioContext, table: LeafTable) -> Result<UringQueue, BlockError> {
        let tags = table.tags();
        if !(1..=MAX_TAGS).contains(&tags) {
            let expected = format!("from 1 to {MAX_TAGS}");
            return Err(BlockError::Range { what: "the queue depth", value: tags.into(), expected });
        }
        let (entries, fixed) = (tags.next_power_of_two(), has_fixed_buffers());
        let ring = CommandRing::new(device.file.as_fd(), entries, device.iopoll, fixed);
        let ring = ring.map_err(|error| BlockError::Open {
            filename: device.name.clone(),
            reason: format!("a ring for NVMe commands, which Linux has from 5.19 on: {error}"),
        })?;
        Ok(UringQueue {
            table,
            ring,
            fixed: FixedBuffers::default(),
            vectors: (0..tags).map(|_| Vec::new()).collect(),
            ranges: vec![[0; 2]; tags as usize].into_boxed_slice(),
            watch: Watch::new(ctx),
            device: Arc::clone(device),
        })
    }

    /// Sends what is pending. True if a command has ended already.
    fn send(&mut self) -> bool {
        let UringQueue { table, ring, fixed, vectors, ranges, device, .. } = self;
        let mut slots = table.borrow();
        let mut ended = false;
        while let Some((tag, request)) = slots.take_pending() {
            let at = tag.0 as usize;
            let made = match (request.op(), vectors.get_mut(at), ranges.get_mut(at)) {
                (Op::Discard, _, Some(range)) => deallocate(device, request, range),
                (Op::Read | Op::Write, Some(vector), _) => transfer(device, request, vector, fixed),
                _ => without_data(device, request),
            };
            let (command, data) = match made {
                Made::Command(command, data) => (command, data),
                Made::Ended(result) => {
                    ended |= slots.end(tag, result);
                    continue;
                }
            };
            // SAFETY: the data is the request's payload, which its slot keeps until it is ended, named directly or by
            // the slot's vector; or the slot's range. The invariants of this module hold for all three. The payload is as
            // long as the request, and whole blocks, which `transfer` has checked. The device goes after the ring.
            if !unsafe { ring.push(tag.0, &command, data) } {
                slots.put_back(tag);
                break;
            }
        }
        ended
    }

    fn take_completions(&mut self) {
        let mut slots = self.table.borrow();
        while let Some((tag, ended)) = self.ring.take() {
            let result = match ended {
                Ended::Status(status) if status.is_success() => Ok(()),
                Ended::Status(status) => Err(status.to_io_error()),
                // The kernel's driver has reset the controller, and says so by an errno of system calls.
                Ended::Errno(errno) if Errno::from_raw(errno) == Errno::EINTR => Err(Errno::EIO.into()),
                Ended::Errno(errno) => Err(IoError::from(Errno::from_raw(errno))),
            };
            if !slots.end(Tag(tag), result) {
                tracing::error!(tag, "a completion for nothing was ignored");
            }
        }
    }

    /// Waits until the kernel has none of our entries. False if that cannot be had.
    fn quiesce(&mut self) -> bool {
        while self.ring.in_flight() > 0 {
            if let Err(error) = self.ring.submit_and_wait()
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "commands in flight cannot be waited for; their memory is given up");
                return false;
            }
            self.take_completions();
        }
        true
    }

    fn fix_piece(&mut self, piece: Piece) -> Result<(), BlockError> {
        if self.fixed.again(piece) || self.fixed.overlaps(piece) {
            return Ok(());
        }
        // SAFETY: registered memory stays mapped until it is unregistered here, or the queue is gone.
        let fixed = unsafe { self.ring.fix(piece.start, piece.len) };
        match fixed {
            Ok(Some(index)) => self.fixed.insert(piece, index),
            // It works without.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, len_bytes = piece.len, "memory cannot be fixed; I/O on it costs more")
            }
        }
        Ok(())
    }
}

/// The first block of a request and how many they are; whole ones.
fn blocks(device: &Device, request: &Request) -> (Lba, u64) {
    let shift = device.namespace.block_shift;
    (Lba(request.offset() >> shift), request.bytes() >> shift)
}

fn fua(device: &Device, request: &Request) -> u32 {
    let wanted = device.namespace.write_cache && request.flags().contains(ReqFlags::FUA);
    if wanted { CONTROL_FUA } else { 0 }
}

/// Leaves protection information to the controller, if there is any, and says where to place what is written, if that was asked
/// for.
fn dress(device: &Device, command: &mut Command) {
    if !device.dressed {
        return;
    }
    if let Some(protection) = device.namespace.metadata.protection {
        protection.leave_to_controller(command);
    }
    if let Some(placing) = &device.namespace.placing {
        placing.place(command);
    }
}

/// A read or write.
fn transfer(device: &Device, request: &Request, vector: &mut Vec<libc::iovec>, fixed: &FixedBuffers) -> Made {
    let (start, count) = blocks(device, request);
    // The controller takes as much memory as the command has blocks, whatever there is of it.
    let named = count << device.namespace.block_shift;
    if request.payload().len_bytes() as u64 != named || !(1..=MAX_BLOCKS).contains(&count) {
        return Made::Ended(Err(Errno::EINVAL.into()));
    }
    let (opcode, control) = match request.op() {
        Op::Read => (io::READ, 0),
        _ => (io::WRITE, fua(device, request)),
    };
    let mut command = Command::transfer(opcode, device.namespace.nsid, start, count as u32, control);
    dress(device, &mut command);
    let data = match request.payload() {
        Payload::One(buf) => match fixed.lookup(buf.addr(), buf.len()) {
            Some(index) => Data::Fixed(buf.addr(), buf.len(), index),
            None => Data::At(buf.addr(), buf.len()),
        },
        payload => {
            vector.clear();
            let segments = payload.segments();
            vector.extend(segments.map(|(ptr, len)| libc::iovec { iov_base: ptr.cast(), iov_len: len }));
            Data::Vector(vector.as_ptr() as usize, vector.len())
        }
    };
    Made::Command(command, data)
}

fn without_data(device: &Device, request: &Request) -> Made {
    let namespace = &device.namespace;
    if request.op() == Op::Flush {
        // Without a volatile cache all that completed is durable.
        return match namespace.write_cache {
            true => Made::Command(Command::new(io::FLUSH, namespace.nsid), Data::None),
            false => Made::Ended(Ok(())),
        };
    }
    let (start, count) = blocks(device, request);
    let whole = (request.offset() | request.bytes()) & ((1 << namespace.block_shift) - 1) == 0;
    if request.op() != Op::WriteZeroes || !whole || !(1..=MAX_BLOCKS).contains(&count) {
        return Made::Ended(Err(Errno::ENOTSUP.into()));
    }
    let unmap = request.flags().contains(ReqFlags::MAY_UNMAP) && namespace.zeroes_deallocate;
    let control = fua(device, request) | if unmap { CONTROL_DEALLOCATE } else { 0 };
    let mut command = Command::transfer(io::WRITE_ZEROES, namespace.nsid, start, count as u32, control);
    dress(device, &mut command);
    Made::Command(command, Data::None)
}

/// A deallocation of the whole blocks in the range.
fn deallocate(device: &Device, request: &Request, range: &mut [u64; 2]) -> Made {
    let shift = device.namespace.block_shift;
    let first = request.offset().div_ceil(1 << shift);
    let end = request.offset().saturating_add(request.bytes()) >> shift;
    let Some(count) = end.checked_sub(first).filter(|count| *count > 0) else { return Made::Ended(Ok(())) };
    let Ok(count) = u32::try_from(count) else { return Made::Ended(Err(Errno::EINVAL.into())) };
    // No attributes, length, first block (see `DsmRange`).
    *range = [u64::from(count) << 32, first];
    let data = Data::At(range.as_ptr() as usize, size_of_val(range));
    Made::Command(Command::deallocate(device.namespace.nsid, 1), data)
}

impl LeafQueue for UringQueue {
    fn commit(&mut self) -> Readiness {
        let ended = self.send();
        let polls = self.device.iopoll && self.ring.in_flight() > 0;
        if (polls || self.ring.has_pushed())
            && let Err(error) = self.ring.submit()
        {
            complain(&error);
        }
        if ended {
            return Readiness::Ready;
        }
        if self.ring.in_flight() == 0 {
            return Readiness::Idle;
        }
        if self.device.iopoll || self.ring.has_pushed() {
            return Readiness::Spin;
        }
        self.watch.arm(&self.ring);
        // Armed first, then the last look.
        if self.ring.has_completion() { Readiness::Ready } else { Readiness::Idle }
    }

    fn reap(&mut self) {
        if self.ring.has_completion() {
            self.take_completions();
        }
    }

    fn register_buf(&mut self, region: &MemRegion) -> Result<(), BlockError> {
        pieces(region.addr(), region.len()).try_for_each(|piece| self.fix_piece(piece))
    }

    fn unregister_buf(&mut self, region: &MemRegion) {
        for piece in pieces(region.addr(), region.len()) {
            if let Some(index) = self.fixed.remove(piece) {
                self.ring.unfix(index);
            }
        }
    }
}

/// The entries stay in the ring, and every turn tries again.
#[cold]
fn complain(error: &std::io::Error) {
    use std::io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    if !matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock) {
        tracing::error!(%error, "a ring of NVMe commands cannot be submitted");
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        self.watch.end();
        if !self.quiesce() {
            // The controller may still use the memory of the commands and of the lists.
            std::mem::forget(std::mem::take(&mut self.vectors));
            std::mem::forget(std::mem::take(&mut self.ranges));
            std::mem::forget(self.table.view());
        }
    }
}

/// The lane's ring watching the ring of commands, so that a completion ends the lane's sleep.
struct Watch {
    armed: Rc<Armed>,
    sink: SinkId,
    lane: Rc<Ring>,
}

/// What the lane's ring has of a watch.
#[derive(Default)]
struct Armed {
    watching: Cell<bool>,
    cancelling: Cell<u32>,
}

impl CqeSink for Armed {
    fn complete(&self, key: u64, _result: i32, _flags: u32) {
        if key == WATCH {
            self.watching.set(false);
        } else {
            self.cancelling.set(self.cancelling.get().saturating_sub(1));
        }
    }
}

const WATCH: u64 = 0;
const CANCEL: u64 = 1;

impl Watch {
    fn new(ctx: &AioContext) -> Watch {
        let armed = Rc::new(Armed::default());
        let lane = Rc::clone(ctx.ring());
        let sink = lane.add_sink(Rc::clone(&armed) as Rc<dyn CqeSink>);
        Watch { armed, sink, lane }
    }

    /// Makes sure that a completion ends the lane's sleep.
    fn arm(&self, ring: &CommandRing) {
        if !self.armed.watching.replace(true) {
            self.lane.push_plain(self.sink, WATCH, PlainOp::Poll(ring.fd(), libc::POLLIN as u32));
        }
    }

    /// Ends the watch, so that the kernel holds nothing of the queue's.
    fn end(&self) {
        let Armed { watching, cancelling } = &*self.armed;
        while watching.get() || cancelling.get() > 0 {
            if watching.get() && cancelling.get() == 0 {
                cancelling.set(1);
                self.lane.push_plain(self.sink, CANCEL, PlainOp::Cancel(self.sink, WATCH));
            }
            if let Err(error) = self.lane.submit_and_wait(1, Some(ROUND)) {
                tracing::error!(%error, "the watch of a ring could not be ended");
                break;
            }
            self.lane.reap();
        }
        self.lane.remove_sink(self.sink);
    }
}
