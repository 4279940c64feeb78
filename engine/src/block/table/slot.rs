//! What a slot of the table holds.

use corelane_dma::Payload;

use crate::block::driver::LeafCommand;
use crate::block::request::{Op, ReqFlags};

/// Where a slot's request is, and who is told when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(in crate::block) enum State {
    /// The slot is free.
    Free,
    /// A request of the slow path that is not yet counted as touching its range: it waits for a serialising request.
    Waiting,
    /// A request that waits for the end of a drained section; nobody waits for it.
    Held,
    /// A request of the slow path that touches its range: serialising requests wait for it.
    Tracked,
    /// Waits for room in the leaf queue. It counts as touching its range, as all that follow do.
    Pending,
    /// The leaf queue has it.
    Sent,
    /// Ended; its memory waits to be taken.
    Ended,
}

/// Who is told when a slot's request ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(in crate::block) enum Target {
    /// The channel's batch of completions.
    Batch,
    /// A future: outcome and waker are in the cold half.
    Future,
    /// Nobody: the future was dropped. The memory is released when the device is done with it.
    Orphan,
}

/// A request or command in its slot, on a cache line of its own.
///
/// As a leaf queue sees it, it satisfies the driver's limits: aligned, within the device, within `max_transfer` and
/// `max_iov`, memory aligned; flags only those the driver supports, never `NO_FALLBACK`.
// In this order: a request that is sent again sets state and note in one store.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Command {
    pub(in crate::block) payload: Payload,
    pub(in crate::block) offset: u64,
    pub(in crate::block) bytes: u64,
    pub(in crate::block) token: u64,
    pub(in crate::block) generation: u16,
    pub(in crate::block) state: State,
    pub(super) note: u8,
    pub(in crate::block) op: Op,
    /// The flags that go down.
    pub(in crate::block) flags: ReqFlags,
    /// The flags that the request came with.
    pub(in crate::block) asked: ReqFlags,
    pub(in crate::block) target: Target,
}

const _: () = assert!(size_of::<Command>() == 64);

impl Command {
    pub(super) const fn free() -> Command {
        Command {
            payload: Payload::None,
            offset: 0,
            bytes: 0,
            token: 0,
            generation: 0,
            op: Op::Flush,
            flags: ReqFlags::empty(),
            asked: ReqFlags::empty(),
            state: State::Free,
            target: Target::Batch,
            note: 0,
        }
    }

    /// What to do.
    #[inline(always)]
    pub fn op(&self) -> Op {
        self.op
    }

    /// How.
    #[inline(always)]
    pub fn flags(&self) -> ReqFlags {
        self.flags
    }

    /// Where, in bytes.
    #[inline(always)]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How much, in bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The memory.
    #[inline(always)]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The memory, for a queue that fills it itself. It must not be exchanged for another.
    #[inline(always)]
    pub fn payload_mut(&mut self) -> &mut Payload {
        &mut self.payload
    }

    /// A number that changes from one use of the slot to the next.
    #[inline(always)]
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// The leaf queue's own mark on the command; 0 when it comes.
    #[inline(always)]
    pub fn note(&self) -> u8 {
        self.note
    }

    /// Marks the command.
    #[inline(always)]
    pub fn set_note(&mut self, note: u8) {
        self.note = note;
    }

    /// Puts a request in. The slot is free, so it has no payload that would have to be dropped; looking whether it has
    /// would cost more than all the rest.
    #[inline(always)]
    pub(super) fn fill(&mut self, request: Filling, state: State, target: Target) {
        let Filling { op, flags, asked, offset, bytes, payload, token } = request;
        std::mem::forget(std::mem::replace(&mut self.payload, payload));
        (self.offset, self.bytes, self.token) = (offset, bytes, token);
        (self.op, self.flags, self.asked) = (op, flags, asked);
        (self.state, self.target, self.note) = (state, target, 0);
    }
}

/// What goes into a slot: a request, or a command with no token.
pub(in crate::block) struct Filling {
    pub(in crate::block) op: Op,
    pub(in crate::block) flags: ReqFlags,
    pub(in crate::block) asked: ReqFlags,
    pub(in crate::block) offset: u64,
    pub(in crate::block) bytes: u64,
    pub(in crate::block) payload: Payload,
    pub(in crate::block) token: u64,
}

impl From<LeafCommand> for Filling {
    fn from(command: LeafCommand) -> Filling {
        let LeafCommand { op, flags, offset, bytes, payload } = command;
        Filling { op, flags, asked: flags, offset, bytes, payload, token: 0 }
    }
}
