//! Bottom halves: callbacks that are scheduled now and run in the lane's next pass over its ready queue, once however
//! often they were scheduled until then.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::AioContext;
use super::shared::{Remote, Shared};
use super::signal::Queued;

/// The part of a bottom half that other threads hold.
pub(super) struct BhHeader {
    /// The number of its slot in the context.
    pub index: usize,
    /// Whether it is scheduled and has not run since.
    pub queued: Queued,
    shared: Arc<Shared>,
}

impl BhHeader {
    pub fn new(index: usize, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { index, queued: Queued::new(), shared })
    }
}

/// A callback as the context keeps it.
pub(super) struct Callback {
    pub header: Arc<BhHeader>,
    pub call: Box<dyn Fn()>,
    /// Cleared when its owner drops the [`BottomHalf`].
    pub alive: Cell<bool>,
}

impl Callback {
    /// Runs it if it is scheduled and owned.
    pub fn run(&self) {
        if self.header.queued.leave() && self.alive.get() {
            (self.call)();
        }
    }
}

/// A bottom half of one context. Dropping it deletes it, scheduled or not.
pub struct BottomHalf {
    context: AioContext,
    callback: Rc<Callback>,
}

impl BottomHalf {
    pub(super) fn new(context: AioContext, callback: Rc<Callback>) -> Self {
        Self { context, callback }
    }

    /// Has the callback run soon. Scheduling it again before it ran does nothing.
    pub fn schedule(&self) {
        if self.callback.header.queued.enter() {
            self.context.push_bh(&self.callback);
        }
    }

    /// A handle by which any thread schedules it.
    #[must_use]
    pub fn handle(&self) -> BhHandle {
        BhHandle(Arc::clone(&self.callback.header))
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        self.callback.alive.set(false);
        self.context.remove_bh(self.callback.header.index);
    }
}

/// Schedules a bottom half from any thread. Does nothing once the bottom half or its lane is gone.
#[derive(Clone)]
pub struct BhHandle(Arc<BhHeader>);

impl BhHandle {
    /// Has the callback run soon, in its lane. Scheduling it again before it ran does nothing.
    pub fn schedule(&self) {
        if self.0.queued.enter() {
            self.0.shared.send(Remote::BottomHalf(Arc::clone(&self.0)));
        }
    }
}

impl fmt::Debug for BhHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BhHandle").field("lane", &self.0.shared.id).finish_non_exhaustive()
    }
}
