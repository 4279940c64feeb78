//! A lane's way through a reset of the controller, and its end with one that is given up.
//!
//! Invariant: a flight ends here only once the controller provably uses its memory no more, or has that memory leaked.

use std::task::Waker;

use corelane_engine::block::Errno;

use super::{Lane, State, end};
use crate::nvme::controller::admin::Permit;
use crate::nvme::queue::pair::QueuePair;
use crate::nvme::recovery::state::State as ControlState;

impl Lane {
    /// Ends everything with a controller that is given up, once it uses no memory any more. Who is to be woken.
    pub(super) fn give_up(&self, lost: bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(mut pair) = state.pair.take() else { return wakers };
        if lost {
            tracing::error!(controller = self.controller.address(), "memory that it may still use is leaked");
            pair.leak();
            std::mem::forget(state.lists_memory.take());
        }
        let error = self.control.request_error();
        for tag in 0..state.flights.len() as u32 {
            let slot = state.flights.get_mut(tag as usize);
            if let Some(flight) = slot.and_then(Option::as_mut).filter(|flight| flight.ended.is_none())
                && lost
            {
                std::mem::take(&mut flight.data).leak();
                std::mem::take(&mut flight.metadata).leak();
            }
            end(&mut state.flights, &mut state.free, tag, Err(error), &mut wakers);
        }
        wakers.extend(state.waiters.drain(..));
        wakers
    }

    /// Whether the controller runs, and knows these queues.
    pub(super) fn is_known(&self, pair: &QueuePair) -> bool {
        let word = self.control.word();
        word.state() == ControlState::Running && word.epoch() == pair.epoch()
    }

    /// Whether doorbells may be rung: the controller knows the queues, and is not stopped before the guard's end.
    pub(super) fn may_ring(&self) -> bool {
        self.guard.begin();
        let joined = self.is_joined();
        if !joined {
            self.guard.end();
        }
        joined
    }

    pub(super) fn is_joined(&self) -> bool {
        self.state.borrow().pair.as_ref().is_some_and(|pair| self.is_known(pair))
    }

    /// The controller was reset: what was in flight has failed, since nobody knows whether it was done, and is not sent again.
    /// Who is to be woken.
    fn pull_back(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut state = self.state.borrow_mut();
        let State { pair, flights, free, waiters, .. } = &mut *state;
        let Some(pair) = pair else { return wakers };
        let error = Errno::EIO.into();
        pair.pull_back(|tag, _| end(flights, free, tag, Err(error), &mut wakers));
        wakers.extend(waiters.drain(..));
        wakers
    }

    /// Has the queues made again in a controller that was reset. Blocks, as making them did.
    fn join(&self) {
        let word = self.control.word();
        let mut state = self.state.borrow_mut();
        let Some(pair) = &mut state.pair else { return };
        let Some(plan) = pair.plan() else { return };
        match self.controller.create_both(Permit::of(word), plan) {
            Ok(()) => pair.joined(word.epoch()),
            Err(error) => self.control.fail(word.epoch(), &error),
        }
    }

    /// A turn with a controller that does not run, or has forgotten the queues. Who is to be woken.
    pub(super) fn commit_away(&self) -> Vec<Waker> {
        let word = self.control.word();
        match word.state() {
            ControlState::Stopped => self.give_up(false),
            ControlState::Lost => self.give_up(true),
            // The lane is woken when it is over.
            ControlState::Stopping => Vec::new(),
            ControlState::Quiet | ControlState::Starting => self.pull_back(),
            ControlState::Running => {
                let wakers = self.pull_back();
                self.join();
                wakers
            }
        }
    }
}
