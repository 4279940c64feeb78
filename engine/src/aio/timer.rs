//! Timers: an ordered map by deadline. Setting and cancelling one costs O(log n); a turn without timers costs a load.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::AioContext;

/// Names a timer of one context.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId {
    deadline: Instant,
    number: u64,
}

/// What happens when a timer expires.
pub(super) enum Expiry {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
}

impl Expiry {
    pub fn run(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Call(call) => call(),
        }
    }
}

#[derive(Default)]
pub(super) struct Timers {
    map: RefCell<BTreeMap<TimerId, Expiry>>,
    count: Cell<usize>,
    number: Cell<u64>,
}

impl Timers {
    pub fn add(&self, deadline: Instant, expiry: Expiry) -> TimerId {
        let id = TimerId { deadline, number: self.number.replace(self.number.get() + 1) };
        let mut map = self.map.borrow_mut();
        map.insert(id, expiry);
        self.count.set(map.len());
        id
    }

    /// The timer's action, for the caller to drop with nothing borrowed.
    pub fn remove(&self, id: TimerId) -> Option<Expiry> {
        let mut map = self.map.borrow_mut();
        let expiry = map.remove(&id);
        self.count.set(map.len());
        expiry
    }

    /// Replaces a waker. False if the timer has expired.
    fn rearm(&self, id: TimerId, waker: &Waker) -> bool {
        match self.map.borrow_mut().get_mut(&id) {
            Some(Expiry::Wake(old)) => {
                old.clone_from(waker);
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// How long until the next one, if there is any. Reads the clock then.
    #[inline]
    pub fn wait(&self) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        let (first, _) = self.map.borrow().first_key_value().map(|(id, _)| (*id, ()))?;
        Some(first.deadline.saturating_duration_since(Instant::now()))
    }

    /// Runs those that have expired, in order of their deadlines, and of their making where those are equal. One that
    /// an action adds waits for the next turn, so that it cannot keep the turn here.
    pub fn expire(&self) -> bool {
        let now = Instant::now();
        let newest = self.number.get();
        let mut any = false;
        while let Some(expiry) = self.pop(now, newest) {
            any = true;
            expiry.run();
        }
        any
    }

    fn pop(&self, now: Instant, newest: u64) -> Option<Expiry> {
        let mut map = self.map.borrow_mut();
        let entry = map.first_entry()?;
        if entry.key().deadline > now || entry.key().number >= newest {
            return None;
        }
        let expiry = entry.remove();
        self.count.set(map.len());
        Some(expiry)
    }

    pub fn clear(&self) {
        let map = std::mem::take(&mut *self.map.borrow_mut());
        self.count.set(0);
        drop(map);
    }
}

/// Completes once its deadline is past; made by [`AioContext::sleep_until`]. Dropping it cancels.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    context: AioContext,
    deadline: Instant,
    timer: Option<TimerId>,
}

impl Sleep {
    pub(super) fn new(context: AioContext, deadline: Instant) -> Self {
        Self { context, deadline, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timers = self.context.timers();
        match self.timer {
            Some(id) if timers.rearm(id, cx.waker()) => Poll::Pending,
            Some(_) => {
                self.timer = None;
                Poll::Ready(())
            }
            None if self.deadline <= Instant::now() => Poll::Ready(()),
            None => {
                let id = timers.add(self.deadline, Expiry::Wake(cx.waker().clone()));
                self.timer = Some(id);
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer {
            drop(self.context.timers().remove(id));
        }
    }
}
