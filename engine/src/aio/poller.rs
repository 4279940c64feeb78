//! Who is asked in every turn: devices that batch what they send, or whose completions are found by looking.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// How a lane will learn of a poller's completions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Readiness {
    /// Nothing is in flight, or completions will come through the lane's ring.
    Idle,
    /// Something is in flight that only looking finds: the lane does not sleep.
    Spin,
    /// Completions can be reaped now: the lane does not wait.
    Ready,
}

/// Something with work in every turn. It is called with nothing of the context borrowed, so it may use all of it.
pub trait Poller {
    /// Sends what was gathered in this turn: one doorbell, or entries for the ring, which are submitted right after.
    fn commit(&self) -> Readiness;

    /// Takes completions and tells who waits for them. True if there were any.
    fn reap(&self) -> bool;
}

/// Names a poller of one context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PollerId(u64);

type List = Rc<Vec<(PollerId, Rc<dyn Poller>)>>;

/// The pollers: a list that is replaced when it changes, so that a turn can walk it while pollers come and go.
#[derive(Default)]
pub(super) struct Pollers {
    list: RefCell<List>,
    next: Cell<u64>,
}

impl Pollers {
    pub fn add(&self, poller: Rc<dyn Poller>) -> PollerId {
        let id = PollerId(self.next.replace(self.next.get() + 1));
        Rc::make_mut(&mut self.list.borrow_mut()).push((id, poller));
        id
    }

    pub fn remove(&self, id: PollerId) {
        let position = self.list.borrow().iter().position(|(other, _)| *other == id);
        let Some(position) = position else { return };
        let removed = Rc::make_mut(&mut self.list.borrow_mut()).remove(position);
        // Dropped with nothing borrowed: its destructor may use the context.
        drop(removed);
    }

    /// The list as it is now.
    #[inline]
    pub fn now(&self) -> Snapshot {
        Snapshot(Rc::clone(&self.list.borrow()))
    }

    pub fn clear(&self) {
        let list = std::mem::take(&mut *self.list.borrow_mut());
        drop(list);
    }
}

pub(super) struct Snapshot(List);

impl Snapshot {
    #[inline]
    pub fn commit(&self) -> Readiness {
        self.0.iter().fold(Readiness::Idle, |most, (_, poller)| most.max(poller.commit()))
    }

    #[inline]
    pub fn reap(&self) -> bool {
        self.0.iter().fold(false, |any, (_, poller)| poller.reap() | any)
    }
}
