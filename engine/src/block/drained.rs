//! Drained sections (QEMU's `bdrv_drained_begin` and `bdrv_drained_end`): a node with nothing in flight, and what is submitted
//! meanwhile held back in its lane.
//!
//! Invariants:
//!
//! - A section raises the node's `attention`, so that no request takes the fast path. It begins before the lanes are asked, and
//!   each answers by a message: what a lane sends after its answer was held back.
//! - A lane with requests held back raises `attention` by itself until it has started them, so that none overtakes them when the
//!   section ends.
//! - A request that is held back touches nothing and is waited for by nobody, so that sections and serialising requests do not
//!   wait for it in a circle.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::channel::ChannelInner;
use super::driver::Tag;
use super::node::{Attention, Node};
use super::request::Request;
use super::slow;

/// A node is drained as long as this lives; it may be dropped in any thread. Sections nest: the node works again when the last
/// one has ended.
#[must_use = "the section ends when this is dropped"]
pub struct DrainedSection {
    node: Arc<Node>,
    _attention: Attention,
}

impl DrainedSection {
    /// Holds back what is submitted from now on. What is in flight still is.
    pub(super) fn begin(node: &Arc<Node>) -> DrainedSection {
        let section = DrainedSection { node: Arc::clone(node), _attention: Attention::raise(node) };
        node.begin_drained();
        section
    }

    /// Waits until nothing is in flight in any lane.
    pub(super) async fn settle(&self) {
        slow::ask_lanes(&self.node, None).await;
    }
}

impl Drop for DrainedSection {
    fn drop(&mut self) {
        self.node.end_drained();
    }
}

impl std::fmt::Debug for DrainedSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DrainedSection").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// Ready when no section is open, or the node is closed, which lets nothing wait.
struct Undrained<'a>(&'a Node);

impl Future for Undrained<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.poll_undrained(cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl ChannelInner {
    /// Whether what is submitted now has to wait: in a drained section, or behind what waits already.
    pub(super) fn holds(&self) -> bool {
        self.node.is_drained() || self.with_state(|state| !state.held.is_empty())
    }

    /// Holds a request back, whose slot says so already.
    pub(super) fn hold(self: &Rc<Self>, tag: Tag, request: Request) {
        let first = self.with_state(|state| {
            state.stats.held += 1;
            state.held.push_back((tag, request));
            state.held.len() == 1
        });
        if first {
            self.ctx.spawn(resume(Rc::clone(self), Attention::raise(&self.node)));
        }
    }

    /// Starts a request that was held back. What is wrong with it shows now: the node may have another length, or be closed.
    fn start_held(self: &Rc<Self>, tag: Tag, request: Request) {
        self.table.borrow_mut().unhold(tag);
        let checked = slow::check(&self.node, &request);
        match self.with_state(|state| state.stats.count_slow(&request, checked)) {
            Some(result) => self.finish(tag, result, request.payload),
            None => drop(self.ctx.spawn(slow::run(Rc::clone(self), tag, request))),
        }
    }
}

/// Starts what was held back, oldest first, when it may.
async fn resume(channel: Rc<ChannelInner>, attention: Attention) {
    loop {
        Undrained(&channel.node).await;
        // A handler that is told of an end may open the next section.
        let next = channel.with_state(|state| state.held.pop_front());
        let Some((tag, request)) = next else { break };
        channel.start_held(tag, request);
    }
    // Whoever submits from now on does so after all of them.
    drop(attention);
}
