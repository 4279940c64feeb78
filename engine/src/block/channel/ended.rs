//! A request that has ended, still in its slot: taken out, or sent again as it is.

use std::rc::Rc;

use corelane_dma::Payload;

use super::{Channel, ChannelInner};
use crate::block::errno::IoResult;
use crate::block::request::{Completion, Rejected, Request};
use crate::block::table::{Done, Target};

/// A request of the channel that has ended. Dropped, it gives its memory up.
#[must_use = "it holds a place of the channel"]
pub struct Ended<'a> {
    channel: &'a Rc<ChannelInner>,
    done: Done,
}

impl Channel {
    /// As [`drain`](Self::drain), but leaves each request where it is until `each` has decided what becomes of it. A loop
    /// that reads or writes one place after the other with the same buffers moves no memory this way. How many it was.
    #[inline(always)]
    pub fn drain_in_place(&self, mut each: impl FnMut(Ended<'_>)) -> usize {
        let channel = &self.inner;
        channel.drain_done(|done| each(Ended { channel, done }))
    }
}

impl Ended<'_> {
    /// The value that the request carried.
    #[inline(always)]
    pub fn token(&self) -> u64 {
        self.done.token
    }

    /// How it went. A read or write that succeeded transferred every byte.
    #[inline(always)]
    pub fn result(&self) -> IoResult {
        self.done.result()
    }

    /// Where it was, in bytes.
    pub fn offset(&self) -> u64 {
        self.channel.table.borrow_mut().get_mut(self.done.tag).map_or(0, |slot| slot.offset)
    }

    /// Takes it out of the channel.
    #[inline(always)]
    pub fn take(self) -> Completion {
        let (channel, done) = (self.channel, self.done);
        std::mem::forget(self);
        channel.table.borrow_mut().finish(done)
    }

    /// Submits the same request again, with its memory and token, but at `offset` (bytes). It never lacks room.
    #[inline(always)]
    pub fn again(self, offset: u64) {
        let (channel, done) = (self.channel, self.done);
        std::mem::forget(self);
        let mut table = channel.table.borrow_mut();
        let admits = |bytes| channel.plan.admits_again(offset, bytes, channel.node.length());
        if done.plain
            && !channel.node.needs_attention()
            && let Some(op) = table.send_again(done.tag, offset, admits)
        {
            let fast = &channel.fast[op as usize];
            fast.set(fast.get() + 1);
            return;
        }
        drop(table);
        channel.enter_again(done, offset);
    }
}

impl ChannelInner {
    /// An ended request is submitted again by the general way.
    #[cold]
    #[inline(never)]
    fn enter_again(self: &Rc<Self>, done: Done, offset: u64) {
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.get_mut(done.tag) else { return };
        let (op, flags, bytes) = (slot.op, slot.asked, slot.bytes);
        let Completion { token, payload, .. } = table.finish(done);
        drop(table);
        let request = Request { op, flags, offset, bytes, payload, token };
        // Its place has just become free, and nobody else ran since.
        if let Err(Rejected(request)) = self.enter(request, Target::Batch) {
            drop(request);
        }
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let completion = self.channel.table.borrow_mut().finish(self.done);
        let payload: Payload = completion.payload;
        drop(payload);
    }
}
