//! The queue of a file in one lane.
//!
//! Requests go to the lane's own ring, which the loop enters once per turn for all queues, so committing costs nothing
//! there. With IOPOLL or SQPOLL, whose set-up flags the lane's ring cannot have, the queue has a ring of its own, and the
//! lane spins while something is in flight in it. What an IOPOLL ring does not take (everything but reads and writes)
//! still goes to the lane's ring.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_engine::aio::{AioContext, AioError, Readiness, Ring, RingConfig, offload};
use corelane_engine::block::{
    BlockError, CommandTable, Errno, IoError, LeafCommand, LeafQueue, LeafTable, Op, ReqFlags, Tag,
};

use super::OpenFile;
use super::fixed::{Piece, pieces};
use super::ring::{KernelEnd, discard_call, ring_abilities};
use super::slots::Slots;

/// Most commands of one queue. It bounds the table of slots; a ring that has less room takes them in turns.
const MAX_TAGS: u32 = 1 << 20;
/// Most entries of a ring (`io_uring_setup(2)`).
const MAX_RING_ENTRIES: u32 = 32_768;

/// A file's end in one lane.
pub struct FileQueue {
    kernel: KernelEnd,
    ctx: AioContext,
    own_ring: bool,
    calls: Arc<Calls>,
}

/// Counts system calls on helper threads, so that the queue can wait for them when it goes.
#[derive(Default)]
struct Calls {
    count: Mutex<u32>,
    changed: Condvar,
}

/// One call on a helper thread; ends when it is dropped, whether or not it ran.
struct CallGuard(Arc<Calls>);

impl Calls {
    fn begin(self: &Arc<Calls>) -> CallGuard {
        *self.count.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
        CallGuard(Arc::clone(self))
    }

    fn wait_for_all(&self) {
        let mut count = self.count.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while *count > 0 {
            count = self.changed.wait(count).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        self.0.changed.notify_all();
    }
}

impl FileQueue {
    /// Opens the queue for the commands of `table` in the lane of `ctx`.
    ///
    /// # Errors
    /// [`BlockError::Range`] for a number of tags out of range, [`BlockError::Open`] where polling is asked for and the
    /// device cannot, or what the kernel says to a ring of its own.
    pub fn open(file: &Arc<OpenFile>, ctx: &AioContext, table: LeafTable) -> Result<FileQueue, BlockError> {
        let tags = table.tags();
        if !(1..=MAX_TAGS).contains(&tags) {
            let expected = format!("from 1 to {MAX_TAGS}");
            return Err(BlockError::Range { what: "the queue depth", value: tags.into(), expected });
        }
        let shared = ctx.ring();
        let own = if file.iopoll || file.sqpoll.is_some() { Some(own_ring(file, tags)?) } else { None };
        let operations = file.iopoll.then(|| Rc::clone(shared));
        let own_ring = own.is_some();
        let transfers = own.unwrap_or_else(|| Rc::clone(shared));
        note_abilities(file, operations.as_ref().unwrap_or(&transfers));
        if file.iopoll {
            try_polling(file, &transfers)?;
        }
        let kernel = KernelEnd::new(Slots::new(Arc::clone(file), table), transfers, operations);
        Ok(FileQueue { kernel, ctx: ctx.clone(), own_ring, calls: Arc::default() })
    }

    fn resume(&self) {
        self.kernel.resume(|tag, offset, bytes| self.discard_elsewhere(tag, offset, bytes));
    }

    /// Has a helper thread discard a range, and completes the command with what it says.
    #[cold]
    fn discard_elsewhere(&self, tag: Tag, offset: u64, bytes: u64) {
        let file = Arc::clone(&self.kernel.slots().file);
        let slots = Rc::downgrade(self.kernel.slots());
        let guard = self.calls.begin();
        let call = offload(move || {
            let _until_the_end = guard;
            discard_call(file.fd.as_fd(), offset, bytes)
        });
        // Detached: if the queue goes first, nobody is left to tell.
        drop(self.ctx.spawn(async move {
            let errno = call.await;
            if let Some(slots) = slots.upgrade() {
                slots.complete_call(tag, errno);
            }
        }));
    }

    fn register_piece(&self, piece: Piece) -> Result<(), BlockError> {
        let fixed = &mut self.kernel.slots().steps.borrow_mut().fixed;
        if fixed.again(piece) {
            return Ok(());
        }
        if fixed.overlaps(piece) {
            return Err(BlockError::Range {
                what: "the start of the memory to register",
                value: piece.start as u64,
                expected: "outside what is registered already, or exactly the same range".to_owned(),
            });
        }
        let index = self.kernel.ring().register_buffer(piece.start as *mut u8, piece.len)?;
        fixed.insert(piece, index);
        Ok(())
    }

    fn unregister_piece(&self, piece: Piece) {
        let unused = self.kernel.slots().steps.borrow_mut().fixed.remove(piece);
        if let Some(index) = unused {
            self.kernel.ring().unregister_buffer(index);
        }
    }
}

/// A ring with the flags that the options ask for.
fn own_ring(file: &OpenFile, tags: u32) -> Result<Rc<Ring>, BlockError> {
    let config = RingConfig {
        entries: tags.next_power_of_two().min(MAX_RING_ENTRIES),
        iopoll: file.iopoll,
        sqpoll_idle_ms: file.sqpoll.map(|sqpoll| sqpoll.idle_ms),
        sqpoll_core: file.sqpoll.and_then(|sqpoll| sqpoll.cpu),
        fixed_files: 1,
        ..RingConfig::default()
    };
    Ok(Ring::new(&config)?)
}

/// Reads the first block once: neither the kernel nor sysfs says beforehand whether all of file system, device and its
/// driver can poll.
fn try_polling(file: &Arc<OpenFile>, transfers: &Rc<Ring>) -> Result<(), BlockError> {
    let block = file.limits.request_alignment.max(4096) as usize;
    let buffer = DmaBuffer::new(block, file.limits.opt_mem_alignment as usize, Backing::Pages)?;
    let payload = Payload::One(IoBuf::from(buffer));
    let command =
        LeafCommand { op: Op::Read, flags: ReqFlags::empty(), offset: 0, bytes: block as u64, payload };
    let (commands, table) = CommandTable::new(1);
    // A new table takes a command on its first tag.
    if commands.put(Tag(0), command).is_err() {
        return Ok(());
    }
    let kernel = KernelEnd::new(Slots::new(Arc::clone(file), table), Rc::clone(transfers), None);
    kernel.send();
    loop {
        kernel.ring().submit_and_wait(1, None)?;
        kernel.ring().reap();
        kernel.resume(|_, _, _| {});
        let Some(completion) = commands.take_ended().pop() else { continue };
        return match completion.result {
            Err(IoError { errno: Errno::ENOTSUP, .. }) => Err(BlockError::Open {
                filename: file.filename.clone(),
                reason: "its device or file system cannot poll for completions, so leave iopoll out (an NVMe device \
                         can if its driver was loaded with poll_queues=1 or more)"
                    .to_owned(),
            }),
            // An unreadable block is no reason: requests will tell.
            _ => Ok(()),
        };
    }
}

/// Takes note of operations that the kernel's io_uring does not have at all.
fn note_abilities(file: &OpenFile, operations: &Ring) {
    let (fallocate, discard_command) = ring_abilities(operations);
    let abilities = &file.rules.abilities;
    if !fallocate {
        for ability in [&abilities.zero_range, &abilities.punch_hole, &abilities.allocate] {
            ability.store(false, Ordering::Relaxed);
        }
    }
    if !discard_command {
        abilities.discard_command.store(false, Ordering::Relaxed);
    }
}

impl LeafQueue for FileQueue {
    fn commit(&mut self) -> Readiness {
        let ended = self.kernel.send();
        self.resume();
        let mut readiness = Readiness::Idle;
        if self.own_ring {
            readiness = commit_own(self.kernel.ring());
        }
        if ended { Readiness::Ready } else { readiness }
    }

    #[inline]
    fn reap(&mut self) {
        if self.own_ring {
            self.kernel.ring().reap();
        }
    }

    fn completes_in_ring(&self) -> bool {
        !self.own_ring
    }

    fn register_buf(&mut self, region: &MemRegion) -> Result<(), BlockError> {
        let mut registered = Vec::new();
        for piece in pieces(region.addr(), region.len()) {
            if let Err(error) = self.register_piece(piece) {
                registered.into_iter().for_each(|piece| self.unregister_piece(piece));
                return Err(error);
            }
            registered.push(piece);
        }
        Ok(())
    }

    fn unregister_buf(&mut self, region: &MemRegion) {
        pieces(region.addr(), region.len()).for_each(|piece| self.unregister_piece(piece));
    }
}

/// Sends what waits in a ring of our own and, with IOPOLL, asks the device once.
fn commit_own(ring: &Ring) -> Readiness {
    if let Err(error) = ring.submit() {
        complain(&error);
    }
    if ring.in_flight() > 0 { Readiness::Spin } else { Readiness::Idle }
}

/// The entries stay queued, and every turn tries again.
#[cold]
fn complain(error: &AioError) {
    tracing::error!(%error, "a file's own ring cannot be submitted");
}

impl Drop for FileQueue {
    fn drop(&mut self) {
        self.calls.wait_for_all();
    }
}
