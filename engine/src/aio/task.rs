//! Tasks: futures that live in one lane, and the wakers that reach them from anywhere.
//!
//! A wake-up in the task's own lane sets a flag in the task's slot and queues its number: no atomic operation. One
//! from elsewhere sets the atomic flag of the task's header and goes through the lane's remote queue. Either way a
//! task stands in a queue at most once.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::current;
use super::shared::{Remote, Shared};
use super::signal::Queued;

/// Names a task of one context. Slots are used again, generations are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    /// The future that `block_on` runs, which has no slot.
    pub const MAIN: Self = Self { index: u32::MAX, generation: 0 };
}

/// What a waker holds.
pub(super) struct TaskHeader {
    pub id: TaskId,
    /// Whether the task stands in the remote queue.
    pub queued: Queued,
    shared: Arc<Shared>,
}

impl TaskHeader {
    pub fn new(id: TaskId, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { id, queued: Queued::new(), shared })
    }

    /// Queues the task if this is its lane.
    #[inline]
    fn wake_here(&self) -> bool {
        current::with(|context| {
            let here = Arc::ptr_eq(context.shared(), &self.shared);
            if here {
                context.wake_task(self.id);
            }
            here
        })
        .unwrap_or(false)
    }
}

impl Wake for TaskHeader {
    #[inline]
    fn wake(self: Arc<Self>) {
        if !self.wake_here() && self.queued.enter() {
            let shared = Arc::clone(&self.shared);
            shared.send(Remote::Task(self));
        }
    }

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.wake_here() && self.queued.enter() {
            self.shared.send(Remote::Task(Arc::clone(self)));
        }
    }
}

/// A task's future with its waker. Out of its slot while it is polled, so that nothing is borrowed then.
pub(super) struct Body {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

impl Body {
    pub fn poll(&mut self) -> Poll<()> {
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    /// Whether the task stands in the local queue.
    queued: bool,
    body: Option<Body>,
}

/// The tasks of one context.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Tasks {
    /// Takes a future in, queued already: the caller puts the number into the queue.
    pub fn add(&mut self, future: Pin<Box<dyn Future<Output = ()>>>, shared: &Arc<Shared>) -> TaskId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("a lane has fewer than 2^32 tasks")
        });
        let slot = &mut self.slots[index as usize];
        let id = TaskId { index, generation: slot.generation };
        slot.queued = true;
        slot.body = Some(Body { future, waker: TaskHeader::new(id, Arc::clone(shared)).into() });
        id
    }

    fn slot(&mut self, id: TaskId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    /// Marks a task as queued. True if the caller must queue it: it lives and was not queued yet.
    #[inline]
    pub fn queue(&mut self, id: TaskId) -> bool {
        self.slot(id).is_some_and(|slot| !std::mem::replace(&mut slot.queued, true))
    }

    /// Takes a queued task out to be polled.
    #[inline]
    pub fn take(&mut self, id: TaskId) -> Option<Body> {
        let slot = self.slot(id)?;
        slot.queued = false;
        slot.body.take()
    }

    /// Puts a task back that is not done.
    #[inline]
    pub fn put_back(&mut self, id: TaskId, body: Body) {
        if let Some(slot) = self.slot(id) {
            slot.body = Some(body);
        }
    }

    /// Forgets a task that is done.
    pub fn remove(&mut self, id: TaskId) {
        if let Some(slot) = self.slot(id) {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(id.index);
        }
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes all tasks out for good, to be dropped with nothing borrowed.
    pub fn take_all(&mut self) -> Vec<Body> {
        let slots = std::mem::take(self).slots;
        slots.into_iter().filter_map(|slot| slot.body).collect()
    }
}

struct Outcome<T> {
    value: Cell<Option<T>>,
    waiter: Cell<Option<Waker>>,
    done: Cell<bool>,
}

/// The result of a task, as a future of the same lane. Dropping it lets the task run on by itself.
///
/// A task that panics takes its lane with it, and a task that is dropped because its context ends leaves its handle
/// pending for ever; nobody in that lane is left to notice.
pub struct JoinHandle<T>(Rc<Outcome<T>>);

impl<T> JoinHandle<T> {
    /// Whether the task is done.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.done.get()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.0.value.take() {
            return Poll::Ready(value);
        }
        self.0.waiter.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// Wraps a future so that its result goes to a handle.
pub(super) fn joinable<T: 'static>(
    future: impl Future<Output = T> + 'static,
) -> (JoinHandle<T>, Pin<Box<dyn Future<Output = ()>>>) {
    let outcome =
        Rc::new(Outcome { value: Cell::new(None), waiter: Cell::new(None), done: Cell::new(false) });
    let handle = JoinHandle(Rc::clone(&outcome));
    let body = async move {
        let value = future.await;
        outcome.value.set(Some(value));
        outcome.done.set(true);
        if let Some(waiter) = outcome.waiter.take() {
            waiter.wake();
        }
    };
    (handle, Box::pin(body))
}
