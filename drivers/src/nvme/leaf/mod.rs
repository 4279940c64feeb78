//! The queue of a namespace in one lane, as the block layer sees it.
//!
//! A turn of the lane: [`commit`](LeafQueue::commit) makes commands of what is pending and rings one doorbell;
//! [`reap`](LeafQueue::reap) takes completions, ends their requests, and tells the controller once.
//!
//! Invariants:
//! - A request ends when its completion came, or when the controller provably uses its memory no more ([`close`]).
//! - The table is not borrowed while anything but this queue's own code runs.

mod alarm;
mod away;
mod close;
mod issue;
mod lane_dma;
mod layout;
mod link;
mod metadata;
mod parts;
pub mod share;

use std::sync::Arc;

use corelane_dma::MemRegion;
use corelane_engine::aio::{AioContext, Readiness};
use corelane_engine::block::{BlockError, LeafQueue, LeafSlots, LeafTable, Tag};

use alarm::Alarm;
use away::{Away, Verdict};
use issue::{Issuer, Offer, PLAIN};
use link::{Link, Own, Way};
use share::HOST_SLOTS;

use super::controller::NvmeController;
use super::error::NvmeError;
use super::namespace::Namespace;
use super::options::Polling;
use super::queue::pair::MAX_TAGS;
use super::recovery::control::{Control, LaneGuard};
use super::recovery::state::{State, Word};
use super::recovery::watch::Watched;

/// How often an adaptive queue looks in vain before it waits for the interrupt: some 50 µs of a lane that does nothing else.
const ADAPTIVE_LOOKS: u32 = 1000;

/// Of a controller that is started for the first time, so that it has no queues: no commit finds it as it was.
const NEVER: Word = Word::new(State::Starting);

/// A namespace's end in one lane.
pub struct NvmeQueue {
    table: LeafTable,
    link: Link,
    issuer: Issuer,
    control: Arc<Control>,
    /// State and tick of the controller as they were acted on; as long as nothing has changed, all is well.
    word: Word,
    /// The same, of the last turn in which something had changed.
    changed: Word,
    watched: Arc<Watched>,
    poll: Polling,
    /// Looks in vain since the last completion.
    idle_looks: u32,
    alarm: Option<Alarm>,
    /// What goes beyond sending once, and what is to be sent again.
    away: Away,
    tags: u32,
    ctx: AioContext,
    controller: Arc<NvmeController>,
    lane: LaneGuard,
}

impl NvmeQueue {
    /// Opens the queue in the lane of `ctx`. Blocks for as long as the controller takes to create queues.
    ///
    /// # Errors
    /// [`BlockError::Range`] for too many tags; else what the controller or memory have against it.
    pub fn open(
        controller: &Arc<NvmeController>,
        (namespace, watched): (&Namespace, &Arc<Watched>),
        poll: Polling,
        ctx: &AioContext,
        table: LeafTable,
    ) -> Result<NvmeQueue, BlockError> {
        let tags = table.tags();
        if tags > MAX_TAGS - HOST_SLOTS {
            let expected =
                format!("at most {}, so that each command has a number of its own", MAX_TAGS - HOST_SLOTS);
            return Err(BlockError::Range { what: "the queue depth", value: tags.into(), expected });
        }
        let failed = |error: NvmeError| error.into_open(controller.address());
        controller.control().settled().map_err(failed)?;
        let issuer = Issuer::new(controller.bus().as_ref(), namespace, tags).map_err(failed)?;
        let link = Link::open(controller, ctx, tags, poll).map_err(failed)?;
        let control = Arc::clone(controller.control());
        let lane = control.join(ctx);
        let away = Away::new(controller, &link, tags, ctx);
        let mut queue = NvmeQueue {
            table,
            link,
            issuer,
            control,
            // The first commit compares epochs.
            word: NEVER,
            changed: NEVER,
            watched: Arc::clone(watched),
            poll,
            idle_looks: 0,
            alarm: None,
            away,
            tags,
            ctx: ctx.clone(),
            controller: Arc::clone(controller),
            lane,
        };
        queue.set_alarm()?;
        Ok(queue)
    }

    /// Prepares for interrupts, if they are wanted.
    fn set_alarm(&mut self) -> Result<(), BlockError> {
        let Link::Own(Own { pair, .. }) = &self.link else { return Ok(()) };
        match (self.poll, pair.vector()) {
            (Polling::On, _) => {}
            (_, Some(_)) => self.alarm = Some(Alarm::new(&self.ctx)),
            (Polling::Adaptive, None) => self.poll = Polling::On,
            (Polling::Off, None) => {
                let reason = "it has no interrupts (MSI-X), which poll=off needs; use poll=on".to_owned();
                return Err(BlockError::Open { filename: self.controller.address().to_owned(), reason });
            }
        }
        Ok(())
    }

    /// How the lane will learn of what is in flight.
    #[inline(always)]
    fn readiness(&mut self) -> Readiness {
        if self.link.in_flight() == 0 {
            return self.readiness_of_idle();
        }
        if self.poll == Polling::On { Readiness::Spin } else { self.readiness_by_interrupt() }
    }

    /// With nothing in flight there is room, unless other guests have taken all that the host has; nobody tells when they
    /// give it back.
    #[inline(always)]
    fn readiness_of_idle(&self) -> Readiness {
        let blocked =
            matches!(self.link, Link::Guest(_)) && (self.away.has_due() || self.table.borrow().has_pending());
        if blocked { Readiness::Spin } else { Readiness::Idle }
    }

    fn readiness_by_interrupt(&mut self) -> Readiness {
        if self.poll == Polling::Adaptive && self.idle_looks < ADAPTIVE_LOOKS {
            self.idle_looks += 1;
            return Readiness::Spin;
        }
        if let (Link::Own(own), Some(alarm)) = (&self.link, &self.alarm)
            && let Some(vector) = own.pair.vector()
        {
            alarm.arm(vector);
        }
        // Armed first, then the last look.
        if self.link.has_completion() {
            return Readiness::Ready;
        }
        self.lane.watch(true);
        Readiness::Idle
    }

    /// Takes all completions that are there.
    fn take_completions(&mut self) {
        let NvmeQueue { table, link, issuer, away, watched, .. } = self;
        let Link::Own(Own { pair, host }) = link else { return self.take_answers() };
        let mut slots = table.borrow();
        while let Some(taken) = pair.take() {
            let (tag, found) = match taken {
                Ok((tag, found)) => (Tag(tag), found),
                Err(error) => {
                    drop(slots);
                    return self.cannot_go_on(&error);
                }
            };
            let status = found.status();
            if status.is_success() && slots.end_if(tag, |request| request.note() == PLAIN) {
                continue;
            }
            match slots.get_mut(tag) {
                Some(request) => {
                    let result = match away.judge(tag, request, status, pair.age(tag.0)) {
                        // No further part of it is sent to what it was not meant for.
                        Verdict::Ended(result) => watched.failed().map_or(result, Err),
                        Verdict::Again => continue,
                    };
                    if let Some(result) = issuer.completed(pair, tag, request, result) {
                        slots.end(tag, result);
                    }
                }
                None => host.answer(tag.0, away.outcome(status, pair.age(tag.0))),
            }
        }
        drop(slots);
        self.idle_looks = 0;
        if let (Some(alarm), Some(vector)) = (&self.alarm, pair.vector()) {
            alarm.pass_on(vector);
        }
        if let Err(error) = pair.tell_taken() {
            self.cannot_go_on(&error.into());
        }
    }

    /// Nothing more that the controller says is believed, and the lane is not waited for.
    #[cold]
    fn cannot_go_on(&mut self, error: &NvmeError) {
        self.idle_looks = 0;
        let Link::Own(Own { pair, .. }) = &self.link else { return };
        if let (Some(alarm), Some(vector)) = (&self.alarm, pair.vector()) {
            alarm.pass_on(vector);
        }
        self.control.fail(pair.epoch(), error);
    }

    /// Takes what a host has answered.
    #[cold]
    fn take_answers(&mut self) {
        let NvmeQueue { table, link, issuer, away, watched, .. } = self;
        let mut slots = table.borrow();
        loop {
            let Link::Guest(guest) = &mut *link else { return };
            let Some(answer) = guest.take() else { return };
            let tag = Tag(answer.tag);
            let Some(request) = slots.get_mut(tag) else { continue };
            let result = match away.judge_answer(tag, request, answer.outcome) {
                Verdict::Ended(result) => watched.failed().map_or(result, Err),
                Verdict::Again => continue,
            };
            if let Some(result) = issuer.completed(link.way(), tag, request, result) {
                slots.end(tag, result);
            }
        }
    }

    /// Whether doorbells may be rung: the controller is as this lane saw it last, and is not stopped before
    /// [`LaneGuard::end`].
    #[inline(always)]
    fn may_ring(&self) -> bool {
        self.lane.begin();
        let as_seen = self.control.word() == self.word;
        if !as_seen {
            self.lane.end();
        }
        as_seen
    }

    /// Sends what is pending. True if the lane has to look again at once: a command has ended that needs no controller, or that
    /// it cannot serve; or the lane has another link. Only if it [may ring](Self::may_ring).
    #[inline(always)]
    fn send(&mut self) -> bool {
        if let Link::Guest(guest) = &self.link
            && guest.is_orphan()
        {
            // A guest rings nothing, and this blocks.
            self.lane.end();
            self.relink();
            return true;
        }
        if !self.away.is_empty() {
            self.resend();
        }
        let NvmeQueue { table, link, issuer, .. } = self;
        let mut slots = table.borrow();
        let ended = match link {
            Link::Own(own) => send_all(&mut slots, issuer, &mut own.pair),
            Link::Guest(guest) => send_all(&mut slots, issuer, guest),
        };
        drop(slots);
        if let Err(error) = self.link.tell() {
            self.control.fail(self.word.epoch(), &error.into());
        }
        ended
    }
}

/// Sends what is pending, as far as there is room. True if a command has ended already.
#[inline(always)]
fn send_all<W: Way>(slots: &mut LeafSlots<'_>, issuer: &mut Issuer, way: &mut W) -> bool {
    let mut ended = false;
    while let Some((tag, request)) = slots.take_pending() {
        match issuer.offer(way, tag, request) {
            Offer::Taken => {}
            Offer::Ended(result) => ended |= slots.end(tag, result),
            Offer::NoRoom => {
                slots.put_back(tag);
                break;
            }
        }
    }
    ended
}

impl LeafQueue for NvmeQueue {
    #[inline]
    fn commit(&mut self) -> Readiness {
        if !self.may_ring() {
            return self.commit_changed();
        }
        let again = self.send();
        self.lane.end();
        if again { Readiness::Ready } else { self.readiness() }
    }

    #[inline]
    fn reap(&mut self) {
        // What a controller says that is being stopped is not believed.
        if self.link.has_completion() && self.may_ring() {
            self.take_completions();
            self.lane.end();
        }
    }

    fn register_buf(&mut self, region: &MemRegion) -> Result<(), BlockError> {
        self.controller.bus().dma().register(region)?;
        Ok(())
    }

    fn unregister_buf(&mut self, region: &MemRegion) {
        if let Err(error) = self.controller.bus().dma().unregister(region) {
            tracing::warn!(%error, "memory stays registered");
        }
    }
}
