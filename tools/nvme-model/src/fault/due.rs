//! Completions that come late.
//!
//! Invariants: a held command's identifier stays in use. It is completed once: when its time has come and there is room, or
//! when the host aborts it; or never, if its queue goes.

use std::time::Instant;

use super::Faults;
use crate::interrupt::signal;
use crate::node::Token;
use crate::wire::command::{Command, Completion};
use crate::wire::status::Status;
use crate::worker::Worker;

/// A command whose completion is held back.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) at: Instant,
    pub(super) command: Command,
    /// How it ended; `None` if it is still to be carried out.
    pub(super) ended: Option<(Status, u64)>,
}

impl Faults {
    fn take_due(&mut self, now: Instant) -> Option<Held> {
        let place = self.held.iter().position(|held| held.at <= now)?;
        Some(self.held.swap_remove(place))
    }

    fn take(&mut self, token: Token) -> Option<Held> {
        let place = self.held.iter().position(|held| held.token == token)?;
        Some(self.held.swap_remove(place))
    }
}

impl Worker {
    /// Completes what is due. Returns whether there was something.
    pub(super) fn finish_due(&mut self) -> bool {
        if self.faults.held.is_empty() {
            return false;
        }
        let now = Instant::now();
        let mut worked = false;
        let mut waiting = Vec::new();
        while let Some(mut held) = self.faults.take_due(now) {
            let Token { sq_id, serial, .. } = held.token;
            if self.queues.sq(sq_id).is_none_or(|sq| sq.serial != serial) {
                continue;
            }
            let ended = match held.ended {
                Some(ended) => Some(ended),
                None => self.execute(sq_id, &held.command),
            };
            // An event request that was carried out is held elsewhere from then on.
            let Some(ended) = ended else { continue };
            held.ended = Some(ended);
            if self.complete_held(&held, ended) {
                worked = true;
            } else {
                waiting.push(held);
            }
        }
        self.faults.held.append(&mut waiting);
        worked
    }

    /// Answers event requests. Returns whether it did.
    pub(super) fn deliver_events_and_signal(&mut self) -> bool {
        let delivered = self.events.is_due() && self.deliver_events();
        if delivered && let Some(vector) = self.queues.cq(0).and_then(|cq| cq.vector) {
            signal(&self.vectors, vector);
        }
        delivered
    }

    /// Posts the completion of a held command. False if there is no room.
    fn complete_held(&mut self, held: &Held, (status, result): (Status, u64)) -> bool {
        let Token { sq_id, cid, .. } = held.token;
        let Some((sq, cq)) = self.queues.pair(sq_id) else { return true };
        if !cq.has_room(&self.shared.violations) {
            return false;
        }
        sq.cids.release(cid);
        cq.post(&Completion { result, sq_head: sq.head as u16, sq_id, cid, status });
        if let Some(vector) = cq.vector {
            signal(&self.vectors, vector);
        }
        if !status.is_success() {
            self.errors.add(&held.command, sq_id, status);
        }
        true
    }

    /// Aborts a command that is held. False if there is none such.
    pub(crate) fn abort_held(&mut self, sq_id: u16, cid: u16) -> bool {
        let Some(serial) = self.queues.sq(sq_id).map(|sq| sq.serial) else { return false };
        let Some(mut held) = self.faults.take(Token { sq_id, serial, cid }) else { return false };
        held.ended = Some((Status::ABORT_REQUESTED, 0));
        if !self.complete_held(&held, (Status::ABORT_REQUESTED, 0)) {
            held.at = Instant::now();
            self.faults.held.push(held);
        }
        true
    }
}
