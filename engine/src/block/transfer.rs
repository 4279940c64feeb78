//! Moving a range of bytes by commands that satisfy the device's limits.
//!
//! A transfer keeps a window of commands in flight. It waits for a resource only when its window is empty, as
//! [`super::command`] demands.

use std::collections::VecDeque;
use std::rc::Rc;

use corelane_dma::{IoBuf, Payload, SharedPayload};

use super::channel::ChannelInner;
use super::command::Command;
use super::driver::{LeafCommand, Tag};
use super::errno::{Errno, IoError, IoResult};
use super::request::{Op, ReqFlags};

/// Commands of one request in flight at once; one alone where it writes to a zone.
const WINDOW: usize = 8;

/// Reads into, or writes from, one payload; without a payload it writes zeroes.
pub(super) struct Transfer<'a> {
    channel: &'a Rc<ChannelInner>,
    op: Op,
    flags: ReqFlags,
    shared: Option<&'a SharedPayload>,
}

/// The next command: how many bytes, and the caller's memory if it can be used as it is.
struct Piece {
    bytes: u64,
    direct: Option<Payload>,
}

/// A command in flight; `bounced` tells where in the payload its data belongs.
struct InFlight {
    command: Command,
    bounced: Option<(u64, u64)>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        channel: &'a Rc<ChannelInner>,
        op: Op,
        flags: ReqFlags,
        shared: Option<&'a SharedPayload>,
    ) -> Transfer<'a> {
        Transfer { channel, op, flags, shared }
    }

    /// Transfers whole blocks at `offset`; the memory is at `pos` in the payload. After an error no further command
    /// is sent; the first error is the result.
    pub(super) async fn aligned(&self, offset: u64, pos: u64, bytes: u64) -> IoResult {
        let zoned = self.channel.node.limits.zoned;
        // A zone is written in order.
        let most = if zoned.is_some() && self.op == Op::Write { 1 } else { WINDOW };
        let mut window: VecDeque<InFlight> = VecDeque::with_capacity(most);
        let (mut result, mut done, mut commands) = (Ok(()), 0, 0u64);
        while done < bytes && result.is_ok() {
            if window.len() == most {
                result = self.settle(window.pop_front()).await;
                continue;
            }
            let in_zone = zoned.map_or(u64::MAX, |zones| zones.until_boundary(offset + done));
            let piece = self.next_piece(pos + done, (bytes - done).min(in_zone));
            let (piece_bytes, at) = (piece.bytes, pos + done);
            match self.begin(piece, offset + done, at, &mut window).await {
                Ok(()) => (done, commands) = (done + piece_bytes, commands + 1),
                Err(error) => result = Err(error),
            }
        }
        while let Some(front) = window.pop_front() {
            result = result.and(self.settle(Some(front)).await);
        }
        if commands > 1 {
            self.channel.with_state(|state| state.stats.split += 1);
        }
        result
    }

    /// Transfers `bytes` at `offset` by way of the whole blocks `start..start + len`, which fit one bounce buffer.
    /// For a write the caller holds the range alone.
    pub(super) async fn padded(&self, start: u64, len: u64, offset: u64, pos: u64, bytes: u64) -> IoResult {
        let mut buf = self.channel.bounce().await?;
        shorten(&mut buf, len)?;
        let span = Payload::One(buf).share();
        let result = self.padded_with(&span, (start, len), offset, (pos, bytes)).await;
        if let Ok(payload) = span.try_unwrap() {
            self.channel.return_bounce(payload);
        }
        result
    }

    async fn padded_with(
        &self,
        span: &SharedPayload,
        (start, len): (u64, u64),
        offset: u64,
        (pos, bytes): (u64, u64),
    ) -> IoResult {
        self.channel.with_state(|state| {
            state.stats.bounced += 1;
            state.stats.padded += u64::from(self.op == Op::Read);
        });
        let inner = offset - start;
        if self.op == Op::Read {
            self.block_command(Op::Read, start, span.slice(0, len as usize)?).await?;
            return copy(span, inner, self.shared, pos, bytes, Op::Read);
        }
        self.read_edges(span, (start, len), inner, inner + bytes).await?;
        copy(span, inner, self.shared, pos, bytes, Op::Write)?;
        self.block_command(Op::Write, start, span.slice(0, len as usize)?).await
    }

    /// Reads the blocks of the span that the bytes `from..to` (counted from its start) do not cover whole.
    async fn read_edges(
        &self,
        span: &SharedPayload,
        (start, len): (u64, u64),
        from: u64,
        to: u64,
    ) -> IoResult {
        let limits = &self.channel.node.limits;
        let align = u64::from(limits.request_alignment);
        let last = len - align;
        let (head, tail) = (from > 0, to < len && (last > 0 || from == 0));
        if tail && !last.is_multiple_of(limits.min_mem_alignment.into()) {
            // The last block's place in the buffer is not aligned: it comes with all that is before it.
            return self.block_command(Op::Read, start, span.slice(0, len as usize)?).await;
        }
        if head {
            self.block_command(Op::Read, start, span.slice(0, align as usize)?).await?;
        }
        if tail {
            self.block_command(Op::Read, start + last, span.slice(last as usize, align as usize)?).await?;
        }
        Ok(())
    }

    async fn block_command(&self, op: Op, offset: u64, payload: Payload) -> IoResult {
        let flags = if op == Op::Write { self.flags } else { ReqFlags::empty() };
        let bytes = payload.len_bytes() as u64;
        self.channel.command(LeafCommand { op, flags, offset, bytes, payload }).await.0
    }

    /// How far the caller's memory can be used as it is, or how much to bounce.
    fn next_piece(&self, pos: u64, bytes: u64) -> Piece {
        let limits = &self.channel.node.limits;
        let bounce = Piece { bytes: bytes.min(self.channel.bounce_bytes()), direct: None };
        let Some(shared) = self.shared else { return bounce };
        let mut bytes = bytes.min(limits.transfer_bound());
        let Ok(mut payload) = shared.slice(pos as usize, bytes as usize) else { return bounce };
        let max_iov = limits.max_iov as usize;
        if payload.as_bufs().len() > max_iov {
            let align = u64::from(limits.request_alignment);
            let fitting: u64 = payload.as_bufs().iter().take(max_iov).map(|buf| buf.len() as u64).sum();
            bytes = fitting / align * align;
            match shared.slice(pos as usize, bytes as usize) {
                Ok(shorter) if bytes > 0 => payload = shorter,
                _ => return bounce,
            }
        }
        let mask = limits.min_mem_alignment as usize - 1;
        let aligned = |buf: &IoBuf| (buf.addr() | buf.len()) & mask == 0;
        // A single segment's length is bound by the request's alignment only.
        let usable = match payload.as_bufs() {
            [only] => only.addr() & mask == 0,
            bufs => bufs.iter().all(aligned),
        };
        if usable { Piece { bytes, direct: Some(payload) } } else { bounce }
    }

    /// Sends a piece. Resources that are taken are first sought by ending the oldest command in the window.
    async fn begin(
        &self,
        piece: Piece,
        offset: u64,
        pos: u64,
        window: &mut VecDeque<InFlight>,
    ) -> Result<(), IoError> {
        let Piece { bytes, direct } = piece;
        let (payload, bounced) = match direct {
            Some(payload) => (payload, None),
            None => (self.bounced_payload(pos, bytes, window).await?, Some((pos, bytes))),
        };
        let tag = match self.find_tag(window).await {
            Ok(tag) => tag,
            Err(error) => {
                if bounced.is_some() {
                    self.channel.return_bounce(payload);
                }
                return Err(error);
            }
        };
        let command = LeafCommand { op: self.op, flags: self.flags, offset, bytes, payload };
        window.push_back(InFlight { command: self.channel.start_command(tag, command), bounced });
        Ok(())
    }

    async fn bounced_payload(
        &self,
        pos: u64,
        bytes: u64,
        window: &mut VecDeque<InFlight>,
    ) -> Result<Payload, IoError> {
        let mut buf = loop {
            match self.channel.try_bounce()? {
                Some(buf) => break buf,
                None if window.is_empty() => break self.channel.bounce().await?,
                None => self.settle(window.pop_front()).await?,
            }
        };
        self.channel.with_state(|state| state.stats.bounced += 1);
        shorten(&mut buf, bytes)?;
        if self.op == Op::Read {
            return Ok(Payload::One(buf));
        }
        let span = Payload::One(buf).share();
        copy(&span, 0, self.shared, pos, bytes, Op::Write)?;
        span.try_unwrap().map_err(|_| IoError::from(Errno::EIO))
    }

    async fn find_tag(&self, window: &mut VecDeque<InFlight>) -> Result<Tag, IoError> {
        loop {
            match self.channel.try_tag() {
                Some(tag) => return Ok(tag),
                None if window.is_empty() => return Ok(self.channel.tag().await),
                None => self.settle(window.pop_front()).await?,
            }
        }
    }

    /// Waits for a command; data that was read into a bounce buffer goes where it belongs.
    async fn settle(&self, in_flight: Option<InFlight>) -> IoResult {
        let Some(InFlight { command, bounced }) = in_flight else { return Ok(()) };
        let (mut result, payload) = command.await;
        let Some((pos, bytes)) = bounced else { return result };
        let span = payload.share();
        if self.op == Op::Read && result.is_ok() {
            result = copy(&span, 0, self.shared, pos, bytes, Op::Read);
        }
        if let Ok(payload) = span.try_unwrap() {
            self.channel.return_bounce(payload);
        }
        result
    }
}

/// Copies `bytes` between `span` (from `inner` on) and the payload (from `pos` on): out of the span for a read, into it
/// for a write. Without a payload the span is zeroed.
fn copy(
    span: &SharedPayload,
    inner: u64,
    shared: Option<&SharedPayload>,
    pos: u64,
    bytes: u64,
    op: Op,
) -> IoResult {
    let (inner, pos, bytes) = (inner as usize, pos as usize, bytes as usize);
    match (shared, op) {
        (None, _) => span.fill(inner, bytes, 0)?,
        (Some(shared), Op::Read) => shared.copy_payload(pos, &span.slice(inner, bytes)?, 0, bytes)?,
        (Some(shared), _) => shared.copy_to_payload(pos, &mut span.slice(inner, bytes)?, 0, bytes)?,
    }
    Ok(())
}

fn shorten(buf: &mut IoBuf, bytes: u64) -> IoResult {
    buf.set_len(bytes as usize)?;
    Ok(())
}

/// An index outside a payload would be this module's own mistake; it ends the request, not the process.
impl From<corelane_dma::DmaError> for IoError {
    fn from(error: corelane_dma::DmaError) -> IoError {
        tracing::error!(%error, "the slow path computed a wrong range");
        Errno::EIO.into()
    }
}
