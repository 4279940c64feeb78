//! What a caller submits and gets back.
//!
//! A [`Request`] owns its memory from `submit` to its [`Completion`]; nobody else holds a reference to it meanwhile.

use corelane_dma::{IoBuf, IoVector, Payload};

use super::errno::IoResult;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Op {
    /// Read `bytes` at `offset` into the payload.
    Read,
    /// Write the payload at `offset`.
    Write,
    /// Make everything that completed before durable.
    Flush,
    /// Make the range read as zeroes.
    WriteZeroes,
    /// Tell the device that the range is no longer needed; afterwards its content is undefined.
    Discard,
}

impl Op {
    /// How many kinds there are.
    pub const COUNT: usize = 5;

    /// Whether the operation is on a range, with no memory.
    #[inline(always)]
    pub(super) const fn is_range(self) -> bool {
        !matches!(self, Op::Read | Op::Write)
    }

    /// Whether the operation changes the device's content (and so is refused on a read-only node).
    pub const fn modifies(self) -> bool {
        matches!(self, Op::Write | Op::WriteZeroes | Op::Discard)
    }
}

bitflags::bitflags! {
    /// Modifiers of a request, with QEMU's names (`BDRV_REQ_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct ReqFlags: u8 {
        /// Complete only when the data is on stable storage.
        const FUA = 1;
        /// Write zeroes: the device may deallocate the range.
        const MAY_UNMAP = 2;
        /// Write zeroes: fail with ENOTSUP rather than write zeroes by hand.
        const NO_FALLBACK = 4;
    }
}

/// One request. See [`Op`] for what each kind needs.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// How.
    pub flags: ReqFlags,
    /// Where, in bytes from the start of the node. Any value: byte granularity.
    pub offset: u64,
    /// How much, in bytes. For reads and writes it is the payload's length.
    pub bytes: u64,
    /// The memory, for reads and writes.
    pub payload: Payload,
    /// The caller's own value, given back with the completion.
    pub token: u64,
}

impl Request {
    /// Reads `buf.len()` bytes at `offset`.
    #[inline]
    pub fn read(offset: u64, buf: IoBuf) -> Request {
        Request::one(Op::Read, offset, buf)
    }

    /// Writes `buf.len()` bytes at `offset`.
    #[inline]
    pub fn write(offset: u64, buf: IoBuf) -> Request {
        Request::one(Op::Write, offset, buf)
    }

    /// Reads into a scattered vector.
    pub fn readv(offset: u64, vector: Box<IoVector>) -> Request {
        Request::many(Op::Read, offset, vector)
    }

    /// Writes a scattered vector.
    pub fn writev(offset: u64, vector: Box<IoVector>) -> Request {
        Request::many(Op::Write, offset, vector)
    }

    /// Makes all completed writes durable.
    pub fn flush() -> Request {
        Request::bare(Op::Flush, 0, 0)
    }

    /// Makes `bytes` bytes at `offset` read as zeroes.
    pub fn write_zeroes(offset: u64, bytes: u64) -> Request {
        Request::bare(Op::WriteZeroes, offset, bytes)
    }

    /// Discards `bytes` bytes at `offset`.
    pub fn discard(offset: u64, bytes: u64) -> Request {
        Request::bare(Op::Discard, offset, bytes)
    }

    /// The same request with `flags` added.
    #[inline]
    #[must_use]
    pub fn with_flags(mut self, flags: ReqFlags) -> Request {
        self.flags |= flags;
        self
    }

    /// The same request with the caller's value `token`.
    #[inline]
    #[must_use]
    pub fn with_token(mut self, token: u64) -> Request {
        self.token = token;
        self
    }

    #[inline]
    fn one(op: Op, offset: u64, buf: IoBuf) -> Request {
        let bytes = buf.len() as u64;
        Request { op, flags: ReqFlags::empty(), offset, bytes, payload: Payload::One(buf), token: 0 }
    }

    fn many(op: Op, offset: u64, vector: Box<IoVector>) -> Request {
        let bytes = vector.len_bytes() as u64;
        Request { op, flags: ReqFlags::empty(), offset, bytes, payload: Payload::Many(vector), token: 0 }
    }

    fn bare(op: Op, offset: u64, bytes: u64) -> Request {
        Request { op, flags: ReqFlags::empty(), offset, bytes, payload: Payload::None, token: 0 }
    }
}

/// The end of a request: its outcome and its memory.
#[derive(Debug)]
pub struct Completion {
    /// The value that the request carried.
    pub token: u64,
    /// How it went. A read or write that succeeds transferred every byte.
    pub result: IoResult,
    /// The memory that the request carried.
    pub payload: Payload,
}

/// A request that was not taken, because as many as the channel holds are in flight. Nothing was done with it.
#[derive(Debug)]
pub struct Rejected(pub Request);
