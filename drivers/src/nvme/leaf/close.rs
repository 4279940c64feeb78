//! Ends of a queue other than its requests' own completions: a controller that is given up, a host that goes, the drop.
//!
//! A request's memory is given back only after one of these: its completion, the deletion of its submission queue, the
//! controller's provable stop. Where none can be had, it is leaked.

use std::thread;
use std::time::{Duration, Instant};

use corelane_dma::{IoBuf, IoVector, Payload};
use corelane_engine::block::{Errno, IoError, Tag};

use super::NvmeQueue;
use super::issue::{Offer, PLAIN};
use super::link::{Link, Own};
use crate::nvme::error::NvmeError;
use crate::nvme::recovery::state::State;
use crate::nvme::spec::status::Status;

/// How long a queue that is dropped waits for what is in flight, before its deletion aborts that.
const DRAIN_TIME: Duration = Duration::from_secs(5);

impl NvmeQueue {
    /// Ends all that is pending and sent. With `leak` the controller may still use the memory.
    pub(super) fn end_all(&mut self, error: IoError, leak: bool) {
        let mut slots = self.table.borrow();
        while let Some((tag, _)) = slots.take_pending() {
            slots.end(tag, Err(error));
        }
        let sent: Vec<Tag> = slots.sent().map(|(tag, _)| tag).collect();
        for tag in sent {
            // Also where the lane goes on: the next request under this tag must not find a mapping of the last one's memory.
            if let Some(part) = self.issuer.parts.get_mut(tag.0 as usize) {
                if leak { part.leak() } else { part.clear() }
            }
            if let Some(request) = slots.get_mut(tag)
                && leak
            {
                let empty = match request.payload() {
                    Payload::None => Payload::None,
                    Payload::One(_) => Payload::One(IoBuf::empty()),
                    Payload::Many(_) => Payload::from(IoVector::new()),
                };
                std::mem::forget(std::mem::replace(request.payload_mut(), empty));
            }
            slots.end(tag, Err(error));
        }
        // These were among the sent.
        self.away.take_all().for_each(drop);
        if let Link::Own(own) = &mut self.link {
            own.host.shut(self.controller.hosts());
            own.host.abort(Status::ABORTED_SQ_DELETION);
        }
    }

    /// Ends all that is pending or waits to be sent again.
    pub(super) fn end_unsent(&mut self, error: IoError) {
        let mut slots = self.table.borrow();
        while let Some((tag, _)) = slots.take_pending() {
            slots.end(tag, Err(error));
        }
        for tag in self.away.take_all() {
            if let Some(part) = self.issuer.parts.get_mut(tag.0 as usize) {
                part.clear();
            }
            slots.end(tag, Err(error));
        }
    }

    /// Gets a queue, or another host, after the host has gone.
    #[cold]
    pub(super) fn relink(&mut self) {
        // Its share of the old port ends before the search for a new one.
        match Link::open(&self.controller, &self.ctx, self.tags, self.poll) {
            Ok(link) => {
                self.away.relinked(&link);
                self.link = link;
            }
            // Later, when it has been brought back or given up.
            Err(NvmeError::Stopped { .. }) if self.control.word() != self.word => return,
            Err(error) => {
                tracing::error!(controller = self.controller.address(), %error, "a lane is without a queue");
                self.end_all(Errno::EIO.into(), false);
                return;
            }
        }
        if let Err(error) = self.set_alarm() {
            tracing::error!(controller = self.controller.address(), %error, "a lane polls from now on");
            self.poll = super::Polling::On;
        }
    }

    /// Sends again what is due. From its start, since nobody was told of a part.
    #[cold]
    pub(super) fn resend(&mut self) {
        let mut due = self.away.take_due();
        let mut slots = self.table.borrow();
        while let Some(tag) = due.pop() {
            let Some(request) = slots.get_mut(tag) else { continue };
            request.set_note(PLAIN);
            if let Some(part) = self.issuer.parts.get_mut(tag.0 as usize) {
                part.clear();
            }
            let offer = match &mut self.link {
                Link::Own(own) => self.issuer.offer(&mut own.pair, tag, request),
                Link::Guest(guest) => self.issuer.offer(guest, tag, request),
            };
            match offer {
                Offer::Taken => {}
                Offer::Ended(result) => {
                    slots.end(tag, result);
                }
                Offer::NoRoom => {
                    due.push(tag);
                    break;
                }
            }
        }
        due.into_iter().for_each(|tag| self.away.send_again(tag));
    }

    /// Whether what is in flight can come back: the controller runs, and knows these queues.
    fn may_complete(&self) -> bool {
        let word = self.control.word();
        let known = match &self.link {
            Link::Own(own) => own.pair.epoch() == word.epoch(),
            Link::Guest(_) => true,
        };
        word.state() == State::Running && known
    }

    /// Waits for what is in flight, for a while.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_TIME;
        while self.link.in_flight() > 0 && Instant::now() < deadline {
            self.lane.begin();
            let may_complete = self.may_complete();
            if may_complete {
                self.take_completions();
                if let Err(error) = self.link.tell() {
                    self.control.fail(self.word.epoch(), &error.into());
                }
            }
            self.lane.end();
            if !may_complete {
                return;
            }
            thread::sleep(Duration::from_micros(20));
        }
    }

    /// Ends the use of the controller. Whether it uses none of this queue's memory any more.
    fn let_go(&mut self) -> bool {
        if let (Some(epoch), Link::Own(own)) = (self.away.finish_joining(), &mut self.link) {
            own.pair.joined(epoch);
        }
        let word = self.control.word();
        match &mut self.link {
            Link::Own(own) => {
                // If it cannot be deleted, the controller is being stopped, or was.
                let deleted = word.state() == State::Running && own.pair.delete().is_ok();
                let free = deleted || self.control.wait_until_stopped(own.pair.epoch());
                own.host.abort(Status::ABORTED_SQ_DELETION);
                if free {
                    self.controller.give_back(own.pair.qid());
                }
                free
            }
            Link::Guest(guest) if guest.in_flight() == 0 => true,
            Link::Guest(guest) => {
                guest.abandon();
                let (address, timeout_ms) =
                    (self.controller.address().to_owned(), DRAIN_TIME.as_millis() as u64);
                let command = "an I/O command in another lane's queue";
                self.control.fail(word.epoch(), &NvmeError::Unanswered { address, command, timeout_ms });
                let sent_in = match word.state() {
                    State::Running => word.epoch(),
                    // It was stopped since they were sent.
                    _ => word.epoch().wrapping_sub(1),
                };
                self.control.wait_until_stopped(sent_in)
            }
        }
    }
}

impl Drop for NvmeQueue {
    fn drop(&mut self) {
        if let Link::Own(own) = &mut self.link {
            own.host.shut(self.controller.hosts());
        }
        // From here on the queue is looked at without being told to.
        if let (Link::Own(Own { pair, .. }), Some(alarm)) = (&self.link, &self.alarm)
            && let Some(vector) = pair.vector()
        {
            alarm.disarm(vector);
        }
        self.drain();
        if self.let_go() {
            return;
        }
        tracing::error!(controller = self.controller.address(), "memory that it may still use is leaked");
        if let Link::Own(own) = &mut self.link {
            own.pair.leak();
        }
        self.issuer.lists.leak();
        self.issuer.dress.leak();
        self.issuer.parts.iter_mut().for_each(super::parts::Part::leak);
        // A further handle that never goes keeps the table, and with it the memory of its commands.
        std::mem::forget(self.table.view());
    }
}
