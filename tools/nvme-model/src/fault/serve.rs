//! Serving queues with faults: one command at a time, each looked up in the script.
//!
//! Invariant: after a fault that takes the queues away, no queue that was looked at before is used again.

use super::due::Held;
use super::live::Stuck;
use super::{Fault, Span, WrongCid};
use crate::admin::events::Event;
use crate::check::Checker;
use crate::data::PointerRules;
use crate::interrupt::signal;
use crate::io::IoContext;
use crate::node::Token;
use crate::wire::command::{Command, Completion};
use crate::wire::status::Status;
use crate::worker::{State, Worker, cid_conflict};

/// What becomes of data that goes to the host.
#[derive(Debug)]
pub(crate) enum Spoil {
    /// These bytes are there instead.
    Bytes(usize, Vec<u8>),
    /// Only so many arrive.
    Truncate(usize),
}

impl Spoil {
    /// Spoils the data.
    pub(crate) fn spoil(&self, data: &mut Vec<u8>) {
        match self {
            Spoil::Truncate(len_bytes) => data.truncate(*len_bytes),
            Spoil::Bytes(at, bytes) => {
                for (place, byte) in data.iter_mut().skip(*at).zip(bytes) {
                    *place = *byte;
                }
            }
        }
    }
}

/// How a completion differs from the right one.
#[derive(Clone, Copy, Default)]
struct Alteration {
    cid: Option<u16>,
    sq_id: Option<u16>,
    sq_head: Option<u16>,
    result: Option<u32>,
    invisible: bool,
    twice: bool,
    silent: bool,
}

/// Errors that chance chooses from: generic, media and path related ones, retryable or not.
const STATUSES: [u16; 12] =
    [0x001, 0x002, 0x004, 0x006, 0x007, 0x080, 0x082, 0x084, 0x280, 0x281, 0x282, 0x371];

impl Worker {
    /// One look at all queues.
    #[cold]
    pub(crate) fn serve_with_faults(&mut self) -> bool {
        let mut worked = self.finish_due();
        self.late.append(&mut self.io.ended);
        worked |= !self.late.is_empty() && self.finish_held();
        worked |= self.deliver_events_and_signal();
        worked |= self.serve_one_queue(0);
        let ids: Vec<u16> = (1..=self.queues.max_id()).filter(|id| self.queues.sq(*id).is_some()).collect();
        for id in ids {
            worked |= self.serve_one_queue(id);
        }
        worked
    }

    /// Serves what a queue has, as long as it and the controller are there.
    fn serve_one_queue(&mut self, id: u16) -> bool {
        let Some(sq) = self.queues.sq(id) else { return false };
        let (serial, tail) = (sq.serial, sq.tail(&self.shared.violations));
        let (mut worked, mut posted) = (false, false);
        while self.state == State::Ready && !self.faults.is_stuck(serial) {
            let violations = &self.shared.violations;
            let Some((sq, cq)) = self.queues.pair(id).filter(|(sq, _)| sq.serial == serial) else { break };
            if sq.head == tail || !cq.has_room(violations) {
                break;
            }
            let Some(command) = sq.fetch() else { break };
            worked = true;
            posted |= self.serve_one(id, serial, &command);
        }
        if id != 0 {
            self.io.end_batch(&Checker::new(&self.shared.violations, id, 0));
        }
        if let Some((sq, cq)) = self.queues.pair(id) {
            sq.cids.end_batch();
            if let Some(vector) = cq.vector.filter(|_| posted) {
                signal(&self.vectors, vector);
            }
        }
        worked
    }

    /// Serves a command, with its fault if it gets one. Returns whether there is something to signal.
    fn serve_one(&mut self, id: u16, serial: u64, command: &Command) -> bool {
        let cid = command.cid();
        let Some(sq) = self.queues.sq(id) else { return false };
        if !sq.cids.begin(cid) {
            let check = Checker::new(&self.shared.violations, id, cid);
            let status = cid_conflict(&check);
            return self.post_altered(id, command, (status, 0), Alteration::default());
        }
        // The halves of a fused operation end together, as they are.
        let fault = match command.fuse() {
            0 => self.faults.of_command(id, command, &self.shared.namespaces),
            _ => None,
        };
        let Some(fault) = fault else {
            return self.carry_out_and_post(id, command, Alteration::default());
        };
        tracing::debug!(queue = id, cid, opcode = command.opcode(), ?fault, "a fault");
        self.shared.fault_counts.add(&fault);
        self.make(fault, id, serial, command)
    }

    fn make(&mut self, fault: Fault, id: u16, serial: u64, command: &Command) -> bool {
        let token = Token { sq_id: id, serial, cid: command.cid() };
        match fault {
            Fault::Delay(span) => {
                let ended = self.execute_to_the_end(id, command);
                self.hold(token, span, command, Some(ended));
                false
            }
            Fault::Late(span) => {
                self.hold(token, span, command, None);
                false
            }
            Fault::Drop => {
                self.execute_to_the_end(id, command);
                self.keep_cid(id);
                false
            }
            Fault::Lose => {
                self.keep_cid(id);
                false
            }
            Fault::Status { status, carried_out } => {
                if carried_out {
                    self.execute_to_the_end(id, command);
                }
                let by_chance = STATUSES[self.faults.below(STATUSES.len() as u64) as usize];
                let dnr = (self.faults.below(2) as u16) << 14;
                let status = Status(status.unwrap_or(by_chance | dnr));
                self.post_altered(id, command, (status, 0), Alteration::default())
            }
            Fault::StuckDoorbell(span) => {
                let until = span.map(|span| self.faults.after(span));
                self.faults.stuck.push(Stuck { serial, until });
                self.carry_out_and_post(id, command, Alteration::default())
            }
            Fault::Corrupt(bytes) => {
                let (at, bytes) = bytes.unwrap_or_else(|| self.random_bytes());
                self.carry_out_spoiled(id, command, Spoil::Bytes(at, bytes))
            }
            Fault::Truncate(len_bytes) => self.carry_out_spoiled(id, command, Spoil::Truncate(len_bytes)),
            Fault::Fatal => {
                self.fail();
                false
            }
            Fault::Vanish(span) => {
                self.vanish(span);
                false
            }
            Fault::SelfReset => {
                self.reset_itself();
                false
            }
            Fault::Event { kind, info, log_page } => {
                self.events.raise(Event::new(kind, info, log_page));
                self.carry_out_and_post(id, command, Alteration::default())
            }
            Fault::Notice(notice) => {
                self.shared.notices.give(notice);
                self.carry_out_and_post(id, command, Alteration::default())
            }
            // Refused by the script's check.
            Fault::Never => self.carry_out_and_post(id, command, Alteration::default()),
            other => {
                let alteration = self.alteration(&other, id, command.cid());
                self.carry_out_and_post(id, command, alteration)
            }
        }
    }

    /// What a fault makes of the completion.
    fn alteration(&self, fault: &Fault, id: u16, cid: u16) -> Alteration {
        let none = Alteration::default();
        match *fault {
            Fault::Duplicate => Alteration { twice: true, ..none },
            Fault::Result(result) => Alteration { result: Some(result), ..none },
            Fault::Phase => Alteration { invisible: true, ..none },
            Fault::SqId(sq_id) => Alteration { sq_id: Some(sq_id), ..none },
            Fault::SqHead(sq_head) => Alteration { sq_head: Some(sq_head), ..none },
            Fault::NoInterrupt => Alteration { silent: true, ..none },
            Fault::Cid(wrong) => {
                let last = self.faults.last.iter().find(|(queue, _)| *queue == id);
                let cid = match wrong {
                    WrongCid::Near => cid ^ 0x8000,
                    WrongCid::Last => last.map_or(cid ^ 0x8000, |(_, cid)| *cid),
                    WrongCid::Fixed(cid) => cid,
                };
                Alteration { cid: Some(cid), ..none }
            }
            _ => none,
        }
    }

    fn hold(&mut self, token: Token, span: Span, command: &Command, ended: Option<(Status, u64)>) {
        let at = self.faults.after(span);
        self.faults.held.push(Held { token, at, command: *command, ended });
        self.keep_cid(token.sq_id);
    }

    /// Keeps the identifier that was taken last in use.
    fn keep_cid(&mut self, id: u16) {
        if let Some(sq) = self.queues.sq(id) {
            sq.cids.hold_last();
        }
    }

    /// Up to sixteen bytes somewhere in 4 KiB.
    fn random_bytes(&mut self) -> (usize, Vec<u8>) {
        let (at, count) = (self.faults.below(4096) as usize, 1 + self.faults.below(16));
        (at, (0..count).map(|_| self.faults.below(256) as u8).collect())
    }

    fn carry_out_spoiled(&mut self, id: u16, command: &Command, spoil: Spoil) -> bool {
        self.spoil = Some(spoil);
        let posted = self.carry_out_and_post(id, command, Alteration::default());
        self.spoil = None;
        posted
    }

    fn carry_out_and_post(&mut self, id: u16, command: &Command, alteration: Alteration) -> bool {
        match self.execute(id, command) {
            Some(ended) => self.post_altered(id, command, ended, alteration),
            // It is an event request or a half of a fused operation, and waits.
            None => {
                self.keep_cid(id);
                if let Some(sq) = self.queues.sq(id).filter(|_| id != 0) {
                    sq.held += 1;
                }
                false
            }
        }
    }

    /// Carries a command out, and takes an event request back that would be answered later.
    fn execute_to_the_end(&mut self, id: u16, command: &Command) -> (Status, u64) {
        self.execute(id, command).unwrap_or_else(|| {
            self.events.cancel(command.cid());
            (Status::SUCCESS, 0)
        })
    }

    /// Carries a command out. `None`: it is an event request, and waits.
    pub(super) fn execute(&mut self, id: u16, command: &Command) -> Option<(Status, u64)> {
        let shared = std::sync::Arc::clone(&self.shared);
        let check = Checker::new(&shared.violations, id, command.cid());
        if id == 0 {
            return self.admin(command, &check);
        }
        let serial = self.queues.sq(id)?.serial;
        let rules = PointerRules { page_bytes: self.page_bytes, sgls: shared.config.sgls };
        let Worker { view, nodes, io, .. } = self;
        let mut context = IoContext { shared: &shared, view, rules, nodes, queue: (id, serial) };
        io.carry_out(command, &mut context, &check).map(|status| (status, io.take_result()))
    }

    fn post_altered(&mut self, id: u16, command: &Command, ended: (Status, u64), how: Alteration) -> bool {
        let (status, result) = ended;
        if !status.is_success() {
            self.errors.add(command, id, status);
        }
        let violations = &self.shared.violations;
        let Some((sq, cq)) = self.queues.pair(id) else { return false };
        let completion = Completion {
            result: how.result.map_or(result, u64::from),
            sq_head: how.sq_head.unwrap_or(sq.head as u16),
            sq_id: how.sq_id.unwrap_or(id),
            cid: how.cid.unwrap_or(command.cid()),
            status,
        };
        if how.invisible {
            cq.post_invisible(&completion);
        } else {
            cq.post(&completion);
        }
        if how.twice && cq.has_room(violations) {
            cq.post(&completion);
        }
        // The host knows of no end of these.
        if how.cid.is_some() || how.invisible {
            sq.cids.hold_last();
        }
        self.faults.last.retain(|(queue, _)| *queue != id);
        self.faults.last.push((id, command.cid()));
        !how.silent
    }
}
