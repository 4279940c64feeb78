//! Commands that nodes carry out: how they end.
//!
//! Invariants: a status that comes back for a queue that does not exist any more, or for a later one with the same
//! identifier, is dropped. One for which the completion queue has no room waits. Before a queue is gone or the controller
//! is disabled, the jobs have come back, so that nodes use no memory that the host takes back.

use crate::interrupt::signal;
use crate::node::Token;
use crate::wire::command::{Command, Completion};
use crate::wire::status::Status;
use crate::worker::Worker;

impl Worker {
    /// Completes what nodes are done with. Returns whether there was something.
    #[cold]
    pub(crate) fn finish_held(&mut self) -> bool {
        let mut done = std::mem::take(&mut self.late);
        done.append(&mut self.nodes.done());
        let mut posted = false;
        for (token, status) in done {
            posted |= self.finish(token, status);
        }
        posted
    }

    fn finish(&mut self, token: Token, status: Status) -> bool {
        let Token { sq_id, serial, cid } = token;
        let Some((sq, cq)) = self.queues.pair(sq_id).filter(|(sq, _)| sq.serial == serial) else {
            return false;
        };
        if !cq.has_room(&self.shared.violations) {
            self.late.push((token, status));
            return false;
        }
        sq.cids.release(cid);
        sq.held -= 1;
        cq.post(&Completion { result: 0, sq_head: sq.head as u16, sq_id, cid, status });
        if let Some(vector) = cq.vector {
            signal(&self.vectors, vector);
        }
        if !status.is_success() {
            self.errors.add(&Command([u64::from(cid) << 16, 0, 0, 0, 0, 0, 0, 0]), sq_id, status);
        }
        true
    }

    /// Waits until nodes are done with the commands of a queue that is being deleted.
    pub(crate) fn wait_for_queue(&mut self, sq_id: u16) {
        while self.queues.sq(sq_id).is_some_and(|sq| sq.held > 0) && self.nodes.outstanding() > 0 {
            self.finish_held();
            std::thread::yield_now();
        }
    }

    /// Waits until nodes are done with everything.
    pub(crate) fn wait_for_jobs(&mut self) {
        while !self.jobs_are_done() {
            std::thread::yield_now();
        }
    }

    /// Whether nodes are done with everything; what comes back is dropped.
    pub(crate) fn jobs_are_done(&mut self) -> bool {
        self.nodes.done();
        self.nodes.outstanding() == 0
    }
}
