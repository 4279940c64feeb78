//! Ends of a queue other than its requests' own completions: a controller that is given up, a host that goes, the drop.
//!
//! A request's memory is given back only after one of these: its completion, the deletion of its submission queue, the
//! controller's provable stop. Where none can be had, it is leaked.

use std::thread;
use std::time::{Duration, Instant};

use corelane_dma::{IoBuf, IoVector, Payload};
use corelane_engine::aio::Readiness;
use corelane_engine::block::{Errno, IoError, Tag};

use super::NvmeQueue;
use super::issue::Offer;
use super::link::{Link, Own};
use crate::nvme::controller::control::State;
use crate::nvme::controller::wait_until_over;
use crate::nvme::error::NvmeError;
use crate::nvme::spec::status::Status;

/// How long a queue that is dropped waits for what is in flight, before its deletion aborts that.
const DRAIN_TIME: Duration = Duration::from_secs(5);

impl NvmeQueue {
    /// A turn with a controller that is given up: once it uses no memory any more, everything ends.
    #[cold]
    pub(super) fn commit_failed(&mut self) -> Readiness {
        match self.control.state() {
            // The lane is woken when it is over.
            State::Running | State::Stopping => return Readiness::Idle,
            state => self.end_all(self.control.request_error(), state == State::Lost),
        }
        if self.table.borrow().has_ended() { Readiness::Ready } else { Readiness::Idle }
    }

    /// Ends all that is pending and sent. With `leak` the controller may still use the memory.
    fn end_all(&mut self, error: IoError, leak: bool) {
        let mut slots = self.table.borrow();
        while let Some((tag, _)) = slots.take_pending() {
            slots.end(tag, Err(error));
        }
        let sent: Vec<Tag> = slots.sent().map(|(tag, _)| tag).collect();
        for tag in sent {
            if let Some(part) = self.issuer.parts.get_mut(tag.0 as usize)
                && leak
            {
                part.leak();
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
        self.returned.clear();
        if let Link::Own(own) = &mut self.link {
            own.host.shut(self.controller.hosts());
            own.host.abort(Status::ABORTED_SQ_DELETION);
        }
    }

    /// Gets a queue, or another host, after the host has gone.
    #[cold]
    pub(super) fn relink(&mut self) {
        // Its share of the old port ends before the search for a new one.
        match Link::open(&self.controller, &self.ctx, self.tags, self.poll) {
            Ok(link) => self.link = link,
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

    /// Sends once more what a host has returned. From its start, since nobody was told of a part.
    #[cold]
    pub(super) fn resend(&mut self) {
        let mut slots = self.table.borrow();
        while let Some(tag) = self.returned.pop() {
            let Some(request) = slots.get_mut(tag) else { continue };
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
                    self.returned.push(tag);
                    return;
                }
            }
        }
    }

    /// Waits for what is in flight, for a while.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_TIME;
        while self.link.in_flight() > 0 && self.control.is_running() && Instant::now() < deadline {
            self.take_completions();
            if let Err(error) = self.link.tell() {
                self.control.fail(&error.into());
            }
            thread::sleep(Duration::from_micros(20));
        }
    }

    /// Ends the use of the controller. What becomes of it.
    fn let_go(&mut self) -> State {
        if self.control.is_running() {
            let left = self.link.in_flight();
            match &mut self.link {
                Link::Own(own) => {
                    let deleted = own.pair.delete();
                    own.host.abort(Status::ABORTED_SQ_DELETION);
                    // Otherwise the controller is being stopped.
                    if deleted.is_ok() {
                        return State::Running;
                    }
                }
                Link::Guest(_) if left == 0 => return State::Running,
                Link::Guest(_) => self.control.fail(&NvmeError::Unanswered {
                    address: self.controller.address().to_owned(),
                    command: "an I/O command in another lane's queue",
                    timeout_ms: DRAIN_TIME.as_millis() as u64,
                }),
            }
        }
        let over = wait_until_over(&self.control);
        if let Link::Own(own) = &mut self.link {
            own.host.abort(Status::ABORTED_SQ_DELETION);
        }
        over
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
        let state = self.let_go();
        if state != State::Lost {
            return;
        }
        tracing::error!(controller = self.controller.address(), "memory that it may still use is leaked");
        if let Link::Own(own) = &mut self.link {
            own.pair.leak();
        }
        self.issuer.lists.leak();
        self.issuer.parts.iter_mut().for_each(super::parts::Part::leak);
        // A further handle that never goes keeps the table, and with it the memory of its commands.
        std::mem::forget(self.table.view());
    }
}
