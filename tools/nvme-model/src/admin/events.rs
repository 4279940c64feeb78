//! Asynchronous events (NVMe base 2.0, section 5.2).
//!
//! Invariants: an event goes out only by a request that the host left here; after it has, events of its type wait until the
//! host reads the log page that it names. An event that waits already is not added again.

use std::collections::VecDeque;

use super::Outcome;
use crate::check::Checker;
use crate::violation::Rule;
use crate::wire::command::Command;
use crate::wire::log;
use crate::wire::status::Status;
use crate::worker::Worker;

/// An event: its type (0: error, 1: SMART, 2: notice), its information, and the log page that says more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    kind: u8,
    info: u8,
    log_page: u8,
}

impl Event {
    /// Write to Invalid Doorbell Register.
    pub(crate) const INVALID_DOORBELL_REGISTER: Event = Event { kind: 0, info: 0, log_page: log::ERRORS };
    /// Invalid Doorbell Write Value.
    pub(crate) const INVALID_DOORBELL_VALUE: Event = Event { kind: 0, info: 1, log_page: log::ERRORS };

    /// Namespace Attribute Changed.
    pub(crate) const NAMESPACES: Event = Event { kind: 2, info: 0, log_page: log::CHANGED_NAMESPACES };

    /// A warning of the health log, by its bit there (figures 152 and 207).
    pub(crate) fn of_warning(bit: u32) -> Event {
        let info = match bit {
            0 => 2,
            1 => 1,
            _ => 0,
        };
        Event { kind: 1, info, log_page: log::SMART }
    }

    /// Any event.
    pub(crate) fn new(kind: u8, info: u8, log_page: u8) -> Event {
        Event { kind, info, log_page }
    }

    /// Double word 0 of the completion.
    fn result(self) -> u32 {
        u32::from(self.kind) | u32::from(self.info) << 8 | u32::from(self.log_page) << 16
    }
}

/// Requests and events that wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The requests' command identifiers.
    held: VecDeque<u16>,
    waiting: VecDeque<Event>,
    /// Types of which one went out and whose log page has not been read, as bits.
    masked: u8,
}

impl Events {
    /// Something happened that the host wants to know.
    pub(crate) fn raise(&mut self, event: Event) {
        if !self.waiting.contains(&event) {
            self.waiting.push_back(event);
        }
    }

    /// Whether there is a request and an event for it.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        !self.held.is_empty() && self.waiting.iter().any(|event| self.masked >> event.kind & 1 == 0)
    }

    /// Takes a request and the event for it: the command and double word 0 of its completion.
    pub(crate) fn take(&mut self) -> Option<(u16, u32)> {
        let place = self.waiting.iter().position(|event| self.masked >> event.kind & 1 == 0)?;
        let cid = self.held.pop_front()?;
        let event = self.waiting.remove(place)?;
        self.masked |= 1 << event.kind;
        Some((cid, event.result()))
    }

    /// Takes the request away that the host aborts.
    pub(crate) fn cancel(&mut self, cid: u16) -> bool {
        let place = self.held.iter().position(|held| *held == cid);
        place.and_then(|place| self.held.remove(place)).is_some()
    }

    /// The host read a log page without retaining the event.
    pub(crate) fn log_was_read(&mut self, log_page: u8) {
        let kind = match log_page {
            log::ERRORS => 0,
            log::SMART => 1,
            log::CHANGED_NAMESPACES => 2,
            _ => return,
        };
        self.masked &= !(1 << kind);
    }
}

impl Worker {
    /// Asynchronous Event Request (5.2): held until there is something to tell.
    pub(super) fn async_event_request(&mut self, command: &Command, check: &Checker<'_>) -> Outcome {
        check.reserved(command, 6, &[0; 10]);
        let limit = usize::from(self.shared.config.aerl) + 1;
        if self.events.held.len() >= limit {
            let text = format!("more than {limit} event requests");
            return Some((check.refuse(Status::AER_LIMIT, Rule::Sequence, text), 0));
        }
        self.events.held.push_back(command.cid());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_goes_out_once_until_its_log_is_read() {
        let mut events = Events::default();
        events.raise(Event::INVALID_DOORBELL_VALUE);
        events.raise(Event::INVALID_DOORBELL_VALUE);
        assert!(!events.is_due(), "nobody asked");
        events.held.extend([5, 6]);
        assert_eq!(events.take(), Some((5, 0x1_0100)));
        events.raise(Event::INVALID_DOORBELL_REGISTER);
        assert!(!events.is_due(), "its type is masked");
        events.log_was_read(log::SMART);
        assert_eq!(events.take(), None);
        events.log_was_read(log::ERRORS);
        assert_eq!(events.take(), Some((6, 0x1_0000)));
        assert!(!events.cancel(6));
    }
}
