//! Who is asked in every turn: devices that batch what they send, or whose completions are found by looking.

use std::cell::{Cell, Ref, RefCell};
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

type Entry = (PollerId, Rc<dyn Poller>);

/// The pollers. A turn walks `active`, which nobody changes meanwhile; `list` is what it will be in the next turn.
#[derive(Default)]
pub(super) struct Pollers {
    list: RefCell<Vec<Entry>>,
    active: RefCell<Vec<Entry>>,
    changed: Cell<bool>,
    next: Cell<u64>,
}

impl Pollers {
    pub fn add(&self, poller: Rc<dyn Poller>) -> PollerId {
        let id = PollerId(self.next.replace(self.next.get() + 1));
        self.list.borrow_mut().push((id, poller));
        self.changed.set(true);
        id
    }

    pub fn remove(&self, id: PollerId) {
        let position = self.list.borrow().iter().position(|(other, _)| *other == id);
        let Some(position) = position else { return };
        let removed = self.list.borrow_mut().remove(position);
        self.changed.set(true);
        self.refresh();
        // Dropped with nothing borrowed: its destructor may use the context.
        drop(removed);
    }

    /// Those to be asked in the turn that begins.
    #[inline]
    pub fn now(&self) -> Asked<'_> {
        if self.changed.get() {
            self.refresh();
        }
        Asked(self.active.borrow())
    }

    /// Makes the changes effective, unless a turn is under way: then the next one does.
    #[cold]
    #[inline(never)]
    fn refresh(&self) {
        let Ok(mut active) = self.active.try_borrow_mut() else { return };
        let fresh = self.list.borrow().clone();
        let old = std::mem::replace(&mut *active, fresh);
        self.changed.set(false);
        drop(active);
        drop(old);
    }

    pub fn clear(&self) {
        let list = std::mem::take(&mut *self.list.borrow_mut());
        self.changed.set(true);
        self.refresh();
        drop(list);
    }
}

/// The pollers of one turn.
pub(super) struct Asked<'a>(Ref<'a, Vec<Entry>>);

impl Asked<'_> {
    #[inline]
    pub fn commit(&self) -> Readiness {
        self.0.iter().fold(Readiness::Idle, |most, (_, poller)| most.max(poller.commit()))
    }

    #[inline]
    pub fn reap(&self) -> bool {
        self.0.iter().fold(false, |any, (_, poller)| poller.reap() | any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counts(Cell<u32>);

    impl Poller for Counts {
        fn commit(&self) -> Readiness {
            self.0.set(self.0.get() + 1);
            Readiness::Idle
        }

        fn reap(&self) -> bool {
            false
        }
    }

    #[test]
    fn changes_within_a_turn_count_from_the_next_one_on() {
        let pollers = Pollers::default();
        let (one, two) = (Rc::new(Counts(Cell::new(0))), Rc::new(Counts(Cell::new(0))));
        let first = pollers.add(Rc::clone(&one) as Rc<dyn Poller>);
        {
            let turn = pollers.now();
            pollers.add(Rc::clone(&two) as Rc<dyn Poller>);
            pollers.remove(first);
            turn.commit();
        }
        assert_eq!((one.0.get(), two.0.get()), (1, 0));
        pollers.now().commit();
        assert_eq!((one.0.get(), two.0.get()), (1, 1));
        assert_eq!(Rc::strong_count(&one), 1, "what was removed is dropped");
    }

    #[test]
    fn what_is_removed_between_turns_is_dropped_at_once() {
        let pollers = Pollers::default();
        let one = Rc::new(Counts(Cell::new(0)));
        let id = pollers.add(Rc::clone(&one) as Rc<dyn Poller>);
        pollers.now().commit();
        pollers.remove(id);
        assert_eq!(Rc::strong_count(&one), 1);
        pollers.add(Rc::clone(&one) as Rc<dyn Poller>);
        pollers.now().commit();
        pollers.clear();
        assert_eq!(Rc::strong_count(&one), 1);
    }
}
