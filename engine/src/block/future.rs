//! Requests as futures. They use the same slots as the batches do.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use corelane_dma::{IoBuf, IoVector, Payload};

use super::channel::{Channel, ChannelInner};
use super::errno::{Errno, IoResult};
use super::request::{ReqFlags, Request};
use super::table::{SlotName, State, Target};

/// What a future resolves to.
pub trait Outcome {
    /// Made of the request's result and of its memory, which is the payload that the request was made with.
    fn new(result: IoResult, payload: Payload) -> Self;
}

impl Outcome for IoResult {
    fn new(result: IoResult, _: Payload) -> IoResult {
        result
    }
}

impl Outcome for (IoResult, Payload) {
    fn new(result: IoResult, payload: Payload) -> (IoResult, Payload) {
        (result, payload)
    }
}

impl Outcome for (IoResult, IoBuf) {
    fn new(result: IoResult, payload: Payload) -> (IoResult, IoBuf) {
        match payload {
            Payload::One(buf) => (result, buf),
            // A driver gives back what it was given, and the slow path puts a payload together again.
            Payload::None | Payload::Many(_) => {
                unreachable!("a request of one buffer completes with one buffer")
            }
        }
    }
}

impl Outcome for (IoResult, Box<IoVector>) {
    fn new(result: IoResult, payload: Payload) -> (IoResult, Box<IoVector>) {
        match payload {
            Payload::Many(vector) => (result, vector),
            Payload::None | Payload::One(_) => {
                unreachable!("a request of a vector completes with the vector")
            }
        }
    }
}

/// A request as a future: resolves to its result and, if it has any, its memory.
///
/// Nothing happens before the first poll. Once polled, the request runs even if the future is dropped; its memory is
/// then released when the device is done with it. A future that outlives its [`Channel`] without having got a slot
/// resolves to `ENOMEDIUM`.
#[must_use = "nothing happens before the first poll"]
pub struct IoFuture<O> {
    channel: Rc<ChannelInner>,
    stage: Stage,
    outcome: PhantomData<fn() -> O>,
}

enum Stage {
    Unsent(Request),
    /// In the queue for a slot, under this ticket unless it was called already.
    Waiting(Request, u64),
    Sent(SlotName),
    Over,
}

/// Resolves to a read's outcome and the buffer that was read into.
pub type ReadAt = IoFuture<(IoResult, IoBuf)>;
/// Resolves to a write's outcome and the buffer that was written.
pub type WriteAt = IoFuture<(IoResult, IoBuf)>;
/// Resolves to a scattered read's or gathered write's outcome and its vector.
pub type VectorAt = IoFuture<(IoResult, Box<IoVector>)>;
/// Resolves to the outcome of a request without memory.
pub type Control = IoFuture<IoResult>;

impl Channel {
    /// Reads `buf.len()` bytes at `offset` (bytes; any alignment).
    pub fn read_at(&self, offset: u64, buf: IoBuf) -> ReadAt {
        IoFuture::new(Rc::clone(self.inner()), Request::read(offset, buf))
    }

    /// Writes `buf` at `offset` (bytes; any alignment).
    pub fn write_at(&self, offset: u64, buf: IoBuf) -> WriteAt {
        IoFuture::new(Rc::clone(self.inner()), Request::write(offset, buf))
    }

    /// Reads into a vector at `offset` (bytes; any alignment).
    pub fn readv_at(&self, offset: u64, vector: Box<IoVector>) -> VectorAt {
        IoFuture::new(Rc::clone(self.inner()), Request::readv(offset, vector))
    }

    /// Writes a vector at `offset` (bytes; any alignment).
    pub fn writev_at(&self, offset: u64, vector: Box<IoVector>) -> VectorAt {
        IoFuture::new(Rc::clone(self.inner()), Request::writev(offset, vector))
    }

    /// Makes what completed before durable.
    pub fn flush(&self) -> Control {
        IoFuture::new(Rc::clone(self.inner()), Request::flush())
    }

    /// Makes `bytes` bytes at `offset` read as zeroes. With `MAY_UNMAP` the device may deallocate them.
    pub fn write_zeroes(&self, offset: u64, bytes: u64, flags: ReqFlags) -> Control {
        IoFuture::new(Rc::clone(self.inner()), Request::write_zeroes(offset, bytes).with_flags(flags))
    }

    /// Tells the device that `bytes` bytes at `offset` are no longer needed.
    pub fn discard(&self, offset: u64, bytes: u64) -> Control {
        IoFuture::new(Rc::clone(self.inner()), Request::discard(offset, bytes))
    }
}

impl<O> IoFuture<O> {
    pub(super) fn new(channel: Rc<ChannelInner>, request: Request) -> IoFuture<O> {
        IoFuture { channel, stage: Stage::Unsent(request), outcome: PhantomData }
    }

    /// The future of a command that was sent already.
    pub(super) fn sent(channel: Rc<ChannelInner>, name: SlotName) -> IoFuture<O> {
        IoFuture { channel, stage: Stage::Sent(name), outcome: PhantomData }
    }

    /// Tries to get a slot. Gives the request back if there never will be one: the channel is closed.
    fn send(&mut self, request: Request, ticket: Option<u64>, cx: &Context<'_>) -> Option<Request> {
        if self.channel.is_closing() {
            return Some(request);
        }
        self.stage = match self.channel.enter(request, Target::Future) {
            Ok(name) => {
                if let Some(ticket) = ticket {
                    self.channel.leave_queue(ticket);
                }
                Stage::Sent(name)
            }
            Err(rejected) => Stage::Waiting(rejected.0, self.channel.wait_for_slot(ticket, cx.waker())),
        };
        None
    }

    /// The outcome, if the request has ended; otherwise leaves the waker. Wakers are cloned and dropped, as foreign code,
    /// without a borrow.
    fn take(&self, name: SlotName, cx: &Context<'_>) -> Option<(IoResult, Payload)> {
        let mut table = self.channel.table.borrow_mut();
        let outcome = table.cold_mut(name.tag).and_then(|cold| cold.outcome.take());
        let ended = outcome.map(|result| (result, table.release(name.tag)));
        drop(table);
        if ended.is_some() {
            self.channel.slot_released();
            return ended;
        }
        let mut table = self.channel.table.borrow_mut();
        let known = table.cold_mut(name.tag).and_then(|cold| cold.waker.as_ref());
        let known = known.is_some_and(|waker| waker.will_wake(cx.waker()));
        drop(table);
        if !known {
            let waker = cx.waker().clone();
            let mut table = self.channel.table.borrow_mut();
            let old = table.cold_mut(name.tag).and_then(|cold| cold.waker.replace(waker));
            drop(table);
            drop(old);
        }
        None
    }
}

impl<O: Outcome> Future for IoFuture<O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let refused = match std::mem::replace(&mut this.stage, Stage::Over) {
            Stage::Unsent(request) => this.send(request, None, cx),
            Stage::Waiting(request, ticket) => this.send(request, Some(ticket), cx),
            stage => {
                this.stage = stage;
                None
            }
        };
        if let Some(Request { payload, .. }) = refused {
            return Poll::Ready(O::new(Err(Errno::ENOMEDIUM.into()), payload));
        }
        let Stage::Sent(name) = this.stage else {
            assert!(!matches!(this.stage, Stage::Over), "a future is not polled after it was ready");
            return Poll::Pending;
        };
        match this.take(name, cx) {
            Some((result, payload)) => {
                this.stage = Stage::Over;
                Poll::Ready(O::new(result, payload))
            }
            None => Poll::Pending,
        }
    }
}

impl<O> Drop for IoFuture<O> {
    fn drop(&mut self) {
        match self.stage {
            Stage::Waiting(_, ticket) => self.channel.pass_slot_on(ticket),
            Stage::Sent(name) => {
                let mut table = self.channel.table.borrow_mut();
                let Some(slot) = table.get_mut(name.tag) else { return };
                slot.target = Target::Orphan;
                let settled = slot.state == State::Ended
                    && table.cold_mut(name.tag).is_some_and(|cold| cold.outcome.is_some());
                let cold = table.cold_mut(name.tag).map(std::mem::take);
                let payload = settled.then(|| table.release(name.tag));
                drop(table);
                // Memory is released, and wakers run, without a borrow.
                drop((cold, payload));
                if settled {
                    self.channel.slot_released();
                }
            }
            Stage::Unsent(_) | Stage::Over => {}
        }
    }
}
