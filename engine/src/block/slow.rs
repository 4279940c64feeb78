//! The slow path: requests that the device cannot take as they are.
//!
//! Each is a task in the request's own lane. It first makes sure of its range (waits for serialising requests, or
//! becomes one), then sends the device commands that satisfy its limits: widened to whole blocks by read-modify-write,
//! through bounce buffers where memory is not aligned, cut at `max_transfer` and `max_iov`.

use std::rc::Rc;

use corelane_dma::{IoBuf, IoVector, Payload, SharedPayload};

use super::channel::ChannelInner;
use super::driver::{LeafCommand, Tag};
use super::errno::{Errno, IoError, IoResult};
use super::limits::MAX_REQUEST_BYTES;
use super::node::{Answers, Node, SerialGuard};
use super::plan;
use super::request::{Op, ReqFlags, Request};
use super::table::{Command, State};
use super::transfer::Transfer;
use super::zoned::{Turn, ZoneOrder};

/// Whether the request makes sense at all; the errno is QEMU's for the same mistake.
pub(super) fn check(node: &Node, request: &Request) -> Result<(), Errno> {
    if node.is_closed() {
        return Err(Errno::ENOMEDIUM);
    }
    if let Some(error) = node.failed() {
        return Err(error.errno);
    }
    let carries_data = matches!(request.op, Op::Read | Op::Write);
    let expected = if carries_data { request.bytes } else { 0 };
    if request.payload.len_bytes() as u64 != expected {
        return Err(Errno::EINVAL);
    }
    if carries_data && request.bytes > MAX_REQUEST_BYTES {
        return Err(Errno::EIO);
    }
    if request.op != Op::Flush && !plan::in_range(request, node.length()) {
        return Err(Errno::EIO);
    }
    if request.op.modifies() && node.read_only {
        return Err(Errno::EPERM);
    }
    node.limits.zoned.map_or(Ok(()), |zones| zones.check(request, node.limits.request_alignment))
}

/// Carries one request out and ends it.
pub(super) async fn run(channel: Rc<ChannelInner>, tag: Tag, request: Request) {
    let Request { op, flags, offset, bytes, payload, .. } = request;
    let job = Job { channel: &channel, tag, flags, offset, bytes };
    let (result, payload) = match op {
        Op::Read | Op::Write => {
            let empty = match payload {
                Payload::Many(_) => Payload::from(IoVector::new()),
                _ => Payload::One(IoBuf::empty()),
            };
            let shared = payload.share();
            let result = if op == Op::Read { job.read(&shared).await } else { job.write(&shared).await };
            // Every command has ended. A queue that cannot stop its device keeps what the device may still use for ever; then
            // the caller gets no memory back, as from the fast path.
            (result, shared.try_unwrap().unwrap_or(empty))
        }
        Op::Flush => (job.flush().await, payload),
        Op::WriteZeroes => (job.write_zeroes().await, payload),
        Op::Discard => (job.discard().await, payload),
    };
    channel.finish(tag, result, payload);
}

/// One request of the slow path.
pub(super) struct Job<'a> {
    pub(super) channel: &'a Rc<ChannelInner>,
    tag: Tag,
    pub(super) flags: ReqFlags,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Job<'_> {
    fn node(&self) -> &Rc<ChannelInner> {
        self.channel
    }

    async fn read(&self, shared: &SharedPayload) -> IoResult {
        let (start, len) = self.cover();
        self.track(start, start + len).await;
        self.check_range()?;
        let transfer = Transfer::new(self.channel, Op::Read, ReqFlags::empty(), Some(shared));
        self.pieces(&transfer).await
    }

    /// On a zoned node, waits for the earlier writes to the same zone.
    async fn turn(&self) -> Option<Turn> {
        let node = &self.channel.node;
        let turn = ZoneOrder::enter(node, self.offset / node.limits.zoned?.zone_size);
        (&turn).await;
        Some(turn)
    }

    async fn write(&self, shared: &SharedPayload) -> IoResult {
        let _turn = self.turn().await;
        let (fua, flush_after) = self.fua(self.node().node.driver.supported_write_flags());
        let transfer = Transfer::new(self.channel, Op::Write, fua, Some(shared));
        let _exclusive = self.claim().await;
        self.check_range()?;
        self.pieces(&transfer).await?;
        self.flush_if(flush_after).await
    }

    /// Cuts the range into what needs whole blocks around it and what does not.
    async fn pieces(&self, transfer: &Transfer<'_>) -> IoResult {
        let (offset, bytes) = (self.offset, self.bytes);
        let (start, len) = self.cover();
        if (start, len) == (offset, bytes) {
            return transfer.aligned(offset, 0, bytes).await;
        }
        let in_one = self.channel.node.limits.zoned.is_none_or(|zones| !zones.crosses(start, len));
        if len <= self.channel.bounce_bytes() && in_one {
            return transfer.padded(start, len, offset, 0, bytes).await;
        }
        let align = u64::from(self.channel.node.limits.request_alignment);
        let head = (align - offset % align) % align;
        let tail = (offset + bytes) % align;
        let middle = bytes - head - tail;
        if head > 0 {
            transfer.padded(start, align, offset, 0, head).await?;
        }
        if middle > 0 {
            transfer.aligned(offset + head, head, middle).await?;
        }
        if tail > 0 {
            let last = offset + head + middle;
            transfer.padded(last, align, last, head + middle, tail).await?;
        }
        Ok(())
    }

    async fn flush(&self) -> IoResult {
        let flush = LeafCommand {
            op: Op::Flush,
            flags: ReqFlags::empty(),
            offset: 0,
            bytes: 0,
            payload: Payload::None,
        };
        self.channel.command(flush).await.0
    }

    async fn flush_if(&self, needed: bool) -> IoResult {
        if !needed {
            return Ok(());
        }
        self.channel.with_state(|state| state.stats.fua_flushes += 1);
        self.flush().await
    }

    async fn write_zeroes(&self) -> IoResult {
        let _turn = self.turn().await;
        let supported = self.node().node.driver.supported_zero_flags();
        let (fua, flush_after) = self.fua(supported.unwrap_or_else(ReqFlags::empty));
        let (write_fua, flush_after_write) = self.fua(self.node().node.driver.supported_write_flags());
        let flush_after = flush_after || flush_after_write;
        let (start, len) = self.cover();
        let aligned = (start, len) == (self.offset, self.bytes);
        if !aligned && self.flags.contains(ReqFlags::NO_FALLBACK) {
            return Err(Errno::ENOTSUP.into());
        }
        let zeroes = Transfer::new(self.channel, Op::Write, write_fua, None);
        let _exclusive = self.claim().await;
        self.check_range()?;
        let align = u64::from(self.channel.node.limits.request_alignment);
        let (head, tail) = ((align - self.offset % align) % align, (self.offset + self.bytes) % align);
        // Inside one block, or two with nothing between them.
        if head + tail > self.bytes || len <= align {
            if aligned {
                self.zero_range(&zeroes, fua, supported, start, len).await?;
            } else {
                zeroes.padded(start, len.min(align), self.offset, 0, self.bytes).await?;
            }
            return self.flush_if(flush_after).await;
        }
        if head > 0 {
            zeroes.padded(start, align, self.offset, 0, head).await?;
        }
        let middle = self.bytes - head - tail;
        self.zero_range(&zeroes, fua, supported, self.offset + head, middle).await?;
        if tail > 0 {
            let last = self.offset + self.bytes - tail;
            zeroes.padded(last, align, last, 0, tail).await?;
        }
        self.flush_if(flush_after).await
    }

    /// Zeroes whole blocks: by the device where it can, else by writing zeroes.
    async fn zero_range(
        &self,
        zeroes: &Transfer<'_>,
        fua: ReqFlags,
        supported: Option<ReqFlags>,
        offset: u64,
        bytes: u64,
    ) -> IoResult {
        let limits = &self.channel.node.limits;
        let rule = (u64::from(limits.zeroes_alignment()), limits.zeroes_bound());
        let mut done = 0;
        while done < bytes {
            let piece = fragment(offset + done, bytes - done, rule);
            let device_can = self.channel.plan.may_support(Op::WriteZeroes);
            let result = match supported {
                Some(flags) if device_can => {
                    let flags = self.flags & flags & ReqFlags::MAY_UNMAP | fua;
                    self.range_command(Op::WriteZeroes, flags, offset + done, piece).await
                }
                _ => Err(Errno::ENOTSUP.into()),
            };
            match result {
                Err(IoError { errno: Errno::ENOTSUP, .. }) if !self.flags.contains(ReqFlags::NO_FALLBACK) => {
                    self.channel.with_state(|state| state.stats.zeroes_written += 1);
                    zeroes.aligned(offset + done, 0, piece).await?;
                }
                result => result?,
            }
            done += piece;
        }
        Ok(())
    }

    /// Whole blocks are discarded; what is left over at the ends stays, as does what the device cannot discard.
    async fn discard(&self) -> IoResult {
        let limits = &self.channel.node.limits;
        let align = u64::from(limits.request_alignment);
        let start = self.offset.next_multiple_of(align);
        let end = (self.offset + self.bytes) / align * align;
        if start >= end || !self.node().node.driver.can_discard() {
            return Ok(());
        }
        self.track(start, end).await;
        self.check_range()?;
        let rule = (u64::from(limits.discard_alignment()), limits.discard_bound());
        let mut at = start;
        while at < end {
            let piece = fragment(at, end - at, rule);
            match self.range_command(Op::Discard, ReqFlags::empty(), at, piece).await {
                Err(IoError { errno: Errno::ENOTSUP, .. }) => {}
                result => result?,
            }
            at += piece;
        }
        Ok(())
    }

    async fn range_command(&self, op: Op, flags: ReqFlags, offset: u64, bytes: u64) -> IoResult {
        if (offset, bytes) != (self.offset, self.bytes) {
            self.channel.with_state(|state| state.stats.split += 1);
        }
        self.channel.command(LeafCommand { op, flags, offset, bytes, payload: Payload::None }).await.0
    }

    /// What of FUA goes down with the command, and whether a flush has to stand in for it.
    fn fua(&self, supported: ReqFlags) -> (ReqFlags, bool) {
        let node = &self.channel.node;
        if !self.flags.contains(ReqFlags::FUA) && !node.force_fua {
            return (ReqFlags::empty(), false);
        }
        if supported.contains(ReqFlags::FUA) {
            return (ReqFlags::FUA, false);
        }
        (ReqFlags::empty(), node.driver.write_cache())
    }

    fn cover(&self) -> (u64, u64) {
        self.channel.node.limits.cover(self.offset, self.bytes)
    }

    /// Whether the range is still within the device: it may have been cut off while the request waited.
    fn check_range(&self) -> IoResult {
        let length = self.channel.node.length();
        if self.offset <= length && self.bytes <= length - self.offset {
            Ok(())
        } else {
            Err(Errno::EIO.into())
        }
    }

    /// Makes sure of the range for a write: alone if blocks are read, changed and written back.
    async fn claim(&self) -> Option<SerialGuard> {
        let (start, len) = self.cover();
        if (start, len) == (self.offset, self.bytes) {
            self.track(start, start + len).await;
            return None;
        }
        self.channel.with_state(|state| state.stats.padded += 1);
        Some(serialise(self.channel, start, start + len).await)
    }

    /// Waits for the serialising requests on the range, then counts as touching it. A request that fell back from the
    /// fast path is tracked since then; it must not wait for those who wait for it.
    async fn track(&self, start: u64, end: u64) {
        let tracked = |slot: &mut Command| slot.state == State::Tracked;
        if self.channel.table.borrow_mut().get_mut(self.tag).is_some_and(tracked) {
            return;
        }
        loop {
            let earlier = self.channel.node.serial_overlaps(start, end);
            if earlier.is_empty() {
                // The same turn of this thread as the look at the list: see `node`'s invariants.
                if let Some(slot) = self.channel.table.borrow_mut().get_mut(self.tag) {
                    (slot.offset, slot.bytes, slot.state) = (start, end - start, State::Tracked);
                }
                return;
            }
            for gone in earlier {
                gone.await;
            }
        }
    }
}

/// Excludes everybody else from the range, in every lane, until the guard is dropped.
async fn serialise(channel: &Rc<ChannelInner>, start: u64, end: u64) -> SerialGuard {
    channel.with_state(|state| state.stats.serialised += 1);
    let (guard, earlier) = channel.node.enter_serial(start, end);
    for gone in earlier {
        gone.await;
    }
    ask_lanes(&channel.node, Some((start, end))).await;
    guard
}

/// Waits until every lane has seen the end of what it has in flight now: what is tracked on `range`, or everything.
pub(super) async fn ask_lanes(node: &Node, range: Option<(u64, u64)>) {
    let answers = Answers::default();
    for lane in node.lanes() {
        let (id, answer) = (lane.channel, answers.expect());
        if let Some(channel) = ChannelInner::of_this_thread(id) {
            channel.when_clear(range, answer);
            continue;
        }
        let question = move |_: &crate::aio::AioContext| {
            if let Some(channel) = ChannelInner::of_this_thread(id) {
                channel.when_clear(range, answer);
            }
        };
        // A lane that has ended has nothing in flight: the answer is given as the message is dropped.
        let _ = lane.handle.post(Box::new(question)).await;
    }
    answers.await;
}

/// The next piece of a range: up to the alignment first, then whole units up to the bound, then the rest.
fn fragment(offset: u64, bytes: u64, (align, max): (u64, u64)) -> u64 {
    let head = offset % align;
    if head != 0 {
        return bytes.min(align - head);
    }
    match bytes.min(max) / align * align {
        0 => bytes,
        whole => whole,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fragment;

    proptest! {
        #[test]
        fn fragments_tile_the_range(
            offset in 0..1u64 << 40, bytes in 1..1u64 << 20, align in 1u64..8192, units in 1u64..64,
        ) {
            let (mut at, end, max) = (offset, offset + bytes, align * units);
            while at < end {
                let piece = fragment(at, end - at, (align, max));
                prop_assert!(piece > 0 && piece <= max.max(align) && at + piece <= end);
                let whole = at.is_multiple_of(align) && piece.is_multiple_of(align);
                prop_assert!(whole || piece < align, "{at} + {piece} crosses a boundary of {align}");
                at += piece;
            }
        }
    }
}
