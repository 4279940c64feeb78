//! What runs in a context: tasks, bottom halves, timers, pollers, blocking operations, waits for descriptors.

use std::cell::Cell;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AioContext;
use crate::aio::bh::{BhHeader, BottomHalf, Callback};
use crate::aio::fd::{FdReady, Interest};
use crate::aio::offload::{Offload, offload};
use crate::aio::poller::{Poller, PollerId};
use crate::aio::ready::Work;
use crate::aio::task::{JoinHandle, TaskId, joinable};
use crate::aio::timer::{Expiry, Sleep, TimerId};

impl AioContext {
    /// Runs a future in this lane. It is first polled in the next turn, or later in this one.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let (handle, body) = joinable(future);
        self.start(body);
        handle
    }

    /// Runs a future that another thread awaits: the lane does not end before it does.
    pub(in crate::aio) fn spawn_awaited(&self, future: impl Future<Output = ()> + 'static) {
        let context = self.clone();
        self.0.awaited.set(self.0.awaited.get() + 1);
        self.start(Box::pin(async move {
            future.await;
            context.0.awaited.set(context.0.awaited.get() - 1);
        }));
    }

    fn start(&self, body: Pin<Box<dyn Future<Output = ()>>>) {
        let id = self.0.tasks.borrow_mut().add(body, &self.0.shared);
        self.0.ready.push(Work::Task(id));
    }

    /// How many tasks there are that are not done.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.0.tasks.borrow().len()
    }

    /// Queues a task of this context, from this thread.
    #[inline]
    pub(in crate::aio) fn wake_task(&self, id: TaskId) {
        if id == TaskId::MAIN {
            self.0.main_woken.set(true);
        } else if self.0.tasks.borrow_mut().queue(id) {
            self.0.ready.push(Work::Task(id));
        }
    }

    /// Makes a bottom half: a callback that can be scheduled again and again, from any thread.
    pub fn new_bh(&self, callback: impl Fn() + 'static) -> BottomHalf {
        let mut table = self.0.bottom_halves.borrow_mut();
        let index = table.iter().position(Option::is_none).unwrap_or_else(|| {
            table.push(None);
            table.len() - 1
        });
        let header = BhHeader::new(index, Arc::clone(&self.0.shared));
        let callback = Rc::new(Callback { header, call: Box::new(callback), alive: Cell::new(true) });
        table[index] = Some(Rc::clone(&callback));
        drop(table);
        BottomHalf::new(self.clone(), callback)
    }

    pub(in crate::aio) fn push_bh(&self, callback: &Rc<Callback>) {
        self.0.ready.push(Work::BottomHalf(Rc::clone(callback)));
    }

    pub(in crate::aio) fn remove_bh(&self, index: usize) {
        let removed = self.0.bottom_halves.borrow_mut().get_mut(index).and_then(Option::take);
        drop(removed);
    }

    /// Runs a closure once, in the next pass over the ready queue.
    pub fn schedule_bh(&self, callback: impl FnOnce() + 'static) {
        self.0.ready.push(Work::Once(Box::new(callback)));
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let now = Instant::now();
        // A time that the clock cannot tell is for ever; thirty years come close.
        let deadline = now.checked_add(duration).unwrap_or(now + Duration::from_secs(1 << 30));
        self.sleep_until(deadline)
    }

    /// Completes when `deadline` is past.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep::new(self.clone(), deadline)
    }

    /// Runs a closure when `deadline` is past. It runs in the lane's turn, not before the work that is ready then.
    pub fn add_timer(&self, deadline: Instant, callback: impl FnOnce() + 'static) -> TimerId {
        self.0.timers.add(deadline, Expiry::Call(Box::new(callback)))
    }

    /// Cancels a timer. False if it has expired or was cancelled before.
    pub fn cancel_timer(&self, timer: TimerId) -> bool {
        self.0.timers.remove(timer).is_some()
    }

    /// Completes when a descriptor has one of the events, with those that it has. Any descriptor that `poll(2)` takes:
    /// eventfds, sockets, pipes. The kernel looks once; ask again for more.
    pub fn readiness<'fd>(&self, fd: BorrowedFd<'fd>, interest: Interest) -> FdReady<'fd> {
        FdReady::new(self.clone(), fd, interest)
    }

    /// Runs an operation that may block on a helper thread, as [`offload`](crate::aio::offload()) does.
    pub fn offload<T, F>(&self, operation: F) -> Offload<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        offload(operation)
    }

    /// Has a poller asked in every turn. One that is added or removed during a turn counts from the next one on.
    pub fn add_poller(&self, poller: Rc<dyn Poller>) -> PollerId {
        self.0.pollers.add(poller)
    }

    /// Asks a poller no more.
    pub fn remove_poller(&self, id: PollerId) {
        self.0.pollers.remove(id);
    }
}
