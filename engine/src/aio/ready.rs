//! What a context has to run: tasks that were woken, bottom halves that were scheduled, closures to be called once.
//!
//! Invariant: `count` is the list's length, so that a turn with nothing to run pays one load. Nothing is borrowed while
//! what was taken out runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::bh::Callback;
use super::task::TaskId;

/// What stands in the queue.
pub(super) enum Work {
    Task(TaskId),
    BottomHalf(Rc<Callback>),
    Once(Box<dyn FnOnce()>),
}

/// The queue, oldest first.
pub(super) struct ReadyQueue {
    list: RefCell<VecDeque<Work>>,
    count: Cell<usize>,
}

impl ReadyQueue {
    pub fn new() -> Self {
        Self { list: RefCell::new(VecDeque::with_capacity(64)), count: Cell::new(0) }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.count.get()
    }

    #[inline]
    pub fn push(&self, work: Work) {
        self.list.borrow_mut().push_back(work);
        self.count.set(self.count.get() + 1);
    }

    #[inline]
    pub fn pop(&self) -> Option<Work> {
        let work = self.list.borrow_mut().pop_front()?;
        self.count.set(self.count.get() - 1);
        Some(work)
    }

    /// Takes everything out, to be dropped.
    pub fn take_all(&self) -> VecDeque<Work> {
        self.count.set(0);
        std::mem::take(&mut *self.list.borrow_mut())
    }
}
