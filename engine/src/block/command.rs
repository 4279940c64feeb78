//! What the slow path needs of the lane: commands to the device, and bounce buffers.
//!
//! Invariant: whoever waits here for an internal slot or a bounce buffer holds no ended command of his own, and a
//! command in flight ends by itself; so the waits cannot form a circle.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use corelane_dma::{BlockPool, IoBuf, Payload};

use super::channel::ChannelInner;
use super::driver::{LeafCommand, Tag};
use super::errno::{Errno, IoError, IoResult};
use super::future::IoFuture;
use super::table::{Filling, Target};

/// Size of a bounce buffer in bytes, unless `request_alignment` needs a larger one.
const BOUNCE_BYTES: usize = 128 << 10;

/// Bounce buffers of a channel.
const BOUNCE_COUNT: usize = 8;

/// A command in flight.
pub(super) type Command = IoFuture<(IoResult, Payload)>;

impl ChannelInner {
    /// Sends a command under an internal slot.
    pub(super) fn start_command(self: &Rc<Self>, tag: Tag, command: LeafCommand) -> Command {
        self.with_state(|state| state.stats.commands += 1);
        let mut table = self.table.borrow_mut();
        table.send_as(tag, Filling::from(command), Target::Future);
        let name = table.name(tag);
        drop(table);
        IoFuture::sent(Rc::clone(self), name)
    }

    /// A free internal slot, if there is one.
    pub(super) fn try_tag(&self) -> Option<Tag> {
        self.table.borrow_mut().take_internal()
    }

    /// A free internal slot.
    pub(super) async fn tag(&self) -> Tag {
        poll_fn(|cx| match self.try_tag() {
            Some(tag) => Poll::Ready(tag),
            None => {
                self.wait_for_tag(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Sends a command and waits for its end.
    pub(super) async fn command(self: &Rc<Self>, command: LeafCommand) -> (IoResult, Payload) {
        let tag = self.tag().await;
        self.start_command(tag, command).await
    }

    /// The largest piece that goes through one bounce buffer: whole blocks, within the device's transfer limit.
    pub(super) fn bounce_bytes(&self) -> u64 {
        let limits = &self.node.limits;
        let size = (BOUNCE_BYTES as u64).max(limits.request_alignment.into());
        size.min(limits.transfer_bound())
    }

    /// A free bounce buffer, if there is one.
    pub(super) fn try_bounce(&self) -> Result<Option<IoBuf>, IoError> {
        let fresh = self.with_state(|state| state.bounce.is_none());
        if fresh {
            self.create_bounce_pool()?;
        }
        Ok(self.with_state(|state| state.bounce.as_ref().and_then(BlockPool::take)))
    }

    /// A free bounce buffer.
    pub(super) async fn bounce(&self) -> Result<IoBuf, IoError> {
        poll_fn(|cx| match self.try_bounce() {
            Ok(Some(buf)) => Poll::Ready(Ok(buf)),
            Ok(None) => {
                self.with_state(|state| state.bounce_waiters.push_back(cx.waker().clone()));
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    /// Gives bounce memory back and lets one who waits for it go on.
    pub(super) fn return_bounce(&self, payload: Payload) {
        drop(payload);
        let next = self.with_state(|state| state.bounce_waiters.pop_front());
        if let Some(waker) = next {
            waker.wake();
        }
    }

    /// Made at first use, since most channels never bounce.
    fn create_bounce_pool(&self) -> Result<(), IoError> {
        let limits = &self.node.limits;
        let align = (limits.opt_mem_alignment as usize).max(4096);
        let size = BOUNCE_BYTES.max(limits.request_alignment as usize).next_multiple_of(align);
        let memory = self.node.driver.memory();
        let pool = BlockPool::new_or_fallback(size, BOUNCE_COUNT, align, memory).map_err(|error| {
            tracing::error!(node = %self.node.name, %error, "no memory for bounce buffers");
            IoError::from(Errno::ENOMEM)
        })?;
        self.register_region(&pool.region());
        self.with_state(|state| state.bounce = Some(pool));
        Ok(())
    }
}
