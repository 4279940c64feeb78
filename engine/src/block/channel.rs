//! A backend in one lane: what a caller submits to and reaps from.
//!
//! The life of a request here: [`Channel::submit`] takes a slot; if the [`Plan`] admits the request it goes to the leaf
//! queue as it stands, otherwise a task in the same lane carries it out ([`super::slow`]). The lane's loop calls
//! [`Poller::commit`] once a turn for the whole batch, then [`Poller::reap`]; what ended is either in the batch that
//! [`Channel::drain`] hands out or wakes its future.
//!
//! Invariants:
//!
//! - At most `depth` requests are in flight or waiting to be drained, so the batch never grows.
//! - No borrow of the state is held while foreign code (a callback, a waker) runs.
//! - A slot that the device may still use is never released, even if its future is dropped.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use corelane_dma::{BlockPool, Payload};

use super::counters::ChannelStats;
use super::driver::{LeafCommand, LeafCompletion, LeafQueue, Tag};
use super::errno::{BlockError, IoResult};
use super::future::IoFuture;
use super::node::{Answer, LaneEntry, Node};
use super::plan::Plan;
use super::request::{Completion, Op, Rejected, Request};
use super::slots::{Phase, SlotName, SlotTable, Target};
use super::slow;
use crate::aio::{AioContext, Poller, PollerId};

mod reap;

/// Slots for the commands into which the slow path cuts requests.
const INTERNAL_SLOTS: u32 = 32;

/// Largest depth of a channel: as many commands as an NVMe queue can name (NVMe base specification, CAP.MQES).
pub const MAX_DEPTH: u32 = 65_536;

thread_local! {
    /// The channels of this thread, for messages from other lanes.
    static CHANNELS: RefCell<HashMap<u64, Weak<ChannelInner>>> = RefCell::default();
}

/// A [`BlockBackend`](super::BlockBackend) in one lane. Not `Send`: it belongs to the lane that opened it.
///
/// While a channel is open its lane has to keep turning: other lanes' serialising requests ask it what is in flight.
/// Dropping a channel lets what is in flight finish; completions that were not drained are dropped.
pub struct Channel {
    inner: Rc<ChannelInner>,
}

type Handler = Box<dyn FnMut(Completion)>;

pub(super) struct ChannelInner {
    /// Itself, to start tasks from where only a reference is at hand.
    this: Weak<ChannelInner>,
    pub(super) node: Arc<Node>,
    pub(super) ctx: AioContext,
    id: u64,
    depth: usize,
    state: RefCell<State>,
    handler: RefCell<Option<Handler>>,
    has_handler: Cell<bool>,
    poller: Cell<Option<PollerId>>,
    closing: Cell<bool>,
}

pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) slots: SlotTable,
    pub(super) leaf: Box<dyn LeafQueue>,
    pub(super) stats: ChannelStats,
    /// Commands that the leaf queue had no room for, oldest first.
    backlog: VecDeque<(Tag, LeafCommand)>,
    /// Completed requests of batches, to be drained. `spare` and `reaped` are of the same capacity, and exchanged for it.
    done: Vec<LeafCompletion>,
    spare: Vec<LeafCompletion>,
    reaped: Vec<LeafCompletion>,
    /// Requests that the device turned out not to support, to be carried out by other means.
    fall_back: Vec<Tag>,
    wakes: Vec<Waker>,
    clear_waits: Vec<ClearWait>,
    /// Futures that wait for a slot, oldest first, by ticket. One whose ticket is not here was called.
    slot_waiters: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    /// What is to be dropped when nothing is borrowed: it may run foreign code.
    answered: Vec<ClearWait>,
    orphaned: Vec<Payload>,
    tag_waiters: VecDeque<Waker>,
    pub(super) bounce: Option<BlockPool>,
    pub(super) bounce_waiters: VecDeque<Waker>,
}

/// Requests that somebody waits for, and how to tell him.
struct ClearWait {
    names: Vec<SlotName>,
    _answer: Answer,
}

impl Channel {
    pub(super) fn open(ctx: &AioContext, node: &Arc<Node>, depth: u32) -> Result<Channel, BlockError> {
        if depth == 0 || depth > MAX_DEPTH - INTERNAL_SLOTS {
            let expected = format!("1 to {}", MAX_DEPTH - INTERNAL_SLOTS);
            return Err(BlockError::Range { what: "a channel's depth", value: depth.into(), expected });
        }
        if node.is_closed() {
            return Err(BlockError::Closed { node: node.name.clone() });
        }
        let tags = depth + INTERNAL_SLOTS;
        let leaf = node.driver.open_queue(ctx, tags)?;
        let state = State::new(node, leaf, depth);
        let inner = Rc::new_cyclic(|this| ChannelInner {
            this: Weak::clone(this),
            node: Arc::clone(node),
            ctx: ctx.clone(),
            id: node.control().next_id(),
            depth: depth as usize,
            state: RefCell::new(state),
            handler: RefCell::default(),
            has_handler: Cell::new(false),
            poller: Cell::new(None),
            closing: Cell::new(false),
        });
        inner.join_lane();
        Ok(Channel { inner })
    }

    /// Submits a request. It goes to the device at the end of this turn of the loop; its completion comes out of
    /// [`drain`](Self::drain) or goes to the handler. A request that is wrong (out of range, read-only, closed) is
    /// taken too, and completes with an error.
    ///
    /// # Errors
    /// The request itself, untouched, if as many as the channel's depth are in flight or not yet drained.
    #[inline(always)]
    #[allow(clippy::result_large_err)] // The request is moved back, not an error report.
    pub fn submit(&self, request: Request) -> Result<(), Rejected> {
        self.inner.enter(request, Target::Batch).map(drop)
    }

    /// Submits a request as a future, which waits for a free slot if there is none. Nothing happens before the first
    /// poll. A future that is dropped leaves its request to finish by itself.
    pub fn start(&self, request: Request) -> IoFuture<(IoResult, Payload)> {
        IoFuture::new(Rc::clone(&self.inner), request)
    }

    /// Hands the completed requests to `each`, which may submit again.
    #[inline(always)]
    pub fn drain(&self, each: impl FnMut(Completion)) {
        self.inner.drain(each);
    }

    /// How many completed requests wait to be drained.
    pub fn completed(&self) -> usize {
        self.inner.state.borrow().done.len()
    }

    /// Requests in flight, those not counted that have completed.
    pub fn in_flight(&self) -> usize {
        self.inner.state.borrow().slots.public_in_use()
    }

    /// Most requests at once.
    pub fn depth(&self) -> usize {
        self.inner.depth
    }

    /// From now on `handler` gets each completion as the loop reaps it, instead of [`drain`](Self::drain). It may
    /// submit; it may not set another handler.
    pub fn set_handler(&self, handler: impl FnMut(Completion) + 'static) {
        *self.inner.handler.borrow_mut() = Some(Box::new(handler));
        self.inner.has_handler.set(true);
    }

    /// What was counted so far.
    pub fn stats(&self) -> ChannelStats {
        self.inner.state.borrow().stats
    }

    /// The lane that the channel belongs to.
    pub fn context(&self) -> &AioContext {
        &self.inner.ctx
    }

    pub(super) fn inner(&self) -> &Rc<ChannelInner> {
        &self.inner
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.inner.closing.set(true);
        // A handler may own things that own this channel.
        let handler = self.inner.handler.try_borrow_mut().ok().and_then(|mut handler| handler.take());
        drop(handler);
        // Futures without a slot are told that they will get none.
        self.inner.with_state(|state| {
            let waiters = std::mem::take(&mut state.slot_waiters);
            state.wakes.extend(waiters.into_iter().map(|(_, waker)| waker));
        });
        self.inner.run_wakes();
        self.inner.leave_lane_when_idle();
    }
}

impl State {
    fn new(node: &Node, leaf: Box<dyn LeafQueue>, depth: u32) -> State {
        let tags = (depth + INTERNAL_SLOTS) as usize;
        State {
            plan: Plan::new(&*node.driver, &node.limits, node.read_only, node.force_fua),
            slots: SlotTable::new(depth, INTERNAL_SLOTS),
            leaf,
            stats: ChannelStats::default(),
            backlog: VecDeque::with_capacity(tags),
            done: Vec::with_capacity(tags),
            spare: Vec::with_capacity(tags),
            reaped: Vec::with_capacity(tags),
            fall_back: Vec::new(),
            wakes: Vec::with_capacity(tags),
            clear_waits: Vec::new(),
            slot_waiters: VecDeque::new(),
            next_ticket: 0,
            answered: Vec::new(),
            orphaned: Vec::new(),
            tag_waiters: VecDeque::new(),
            bounce: None,
            bounce_waiters: VecDeque::new(),
        }
    }

    /// Hands a command to the leaf queue, behind those that it had no room for.
    #[inline(always)]
    pub(super) fn send(&mut self, tag: Tag, command: LeafCommand) {
        if !self.backlog.is_empty() {
            self.keep_back(tag, command);
        } else if let Err(command) = self.leaf.submit(tag, command) {
            self.keep_back(tag, command);
        }
    }

    #[cold]
    fn keep_back(&mut self, tag: Tag, command: LeafCommand) {
        self.backlog.push_back((tag, command));
    }

    fn send_backlog(&mut self) {
        while let Some((tag, command)) = self.backlog.pop_front() {
            if let Err(command) = self.leaf.submit(tag, command) {
                self.backlog.push_front((tag, command));
                return;
            }
        }
    }

    /// Ends the request in `tag`'s slot, whose phase the caller has checked.
    #[inline]
    fn end(&mut self, tag: Tag, result: IoResult, payload: Payload) {
        let Some(slot) = self.slots.get_mut(tag) else { return };
        match slot.target {
            Target::Batch => {
                let mut completion = LeafCompletion::new(tag, result, payload);
                completion.token = slot.token;
                self.slots.release(tag);
                self.done.push(completion);
            }
            Target::Future => {
                slot.phase = Phase::Ended;
                if let Some(cold) = self.slots.cold_mut(tag) {
                    cold.outcome = Some((result, payload));
                    self.wakes.extend(cold.waker.take());
                }
            }
            Target::Orphan => {
                self.orphaned.push(payload);
                self.release(tag);
            }
        }
    }

    /// Releases a slot and lets one who waits for a slot of its kind go on.
    pub(super) fn release(&mut self, tag: Tag) {
        self.slots.release(tag);
        self.wakes.extend(self.slot_waiters.pop_front().map(|(_, waker)| waker));
        self.wakes.extend(self.tag_waiters.pop_front());
    }

    /// Sets those aside to be answered whose requests have all ended.
    #[cold]
    fn settle_clear_waits(&mut self) {
        let slots = &self.slots;
        let ended = self.clear_waits.extract_if(.., |wait| {
            wait.names.retain(|name| slots.is_active(*name));
            wait.names.is_empty()
        });
        self.answered.extend(ended);
    }
}

impl ChannelInner {
    /// Takes a slot for the request and starts it.
    #[inline(always)]
    #[allow(clippy::result_large_err)] // The request is moved back, not an error report.
    pub(super) fn enter(self: &Rc<Self>, request: Request, target: Target) -> Result<SlotName, Rejected> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if self.node.needs_attention() || !state.plan.admits(&request, self.node.length()) {
            return self.enter_slow(state, request, target);
        }
        let Some(tag) = state.slots.take(state.done.len()) else { return Err(Rejected(request)) };
        let Request { op, flags, offset, bytes, payload, token } = request;
        if let Some(slot) = state.slots.get_mut(tag) {
            (slot.token, slot.offset, slot.bytes) = (token, offset, bytes);
            (slot.op, slot.flags, slot.target, slot.phase) = (op, flags, target, Phase::Tracked);
        }
        state.stats.fast[op as usize] += 1;
        let flags = state.plan.leaf_flags(op, flags);
        state.send(tag, LeafCommand { op, flags, offset, bytes, payload });
        Ok(state.slots.name(tag))
    }

    /// A request that the device cannot take as it is.
    #[cold]
    #[inline(never)]
    #[allow(clippy::result_large_err)] // The request is moved back, not an error report.
    fn enter_slow(
        self: &Rc<Self>,
        state: &mut State,
        request: Request,
        target: Target,
    ) -> Result<SlotName, Rejected> {
        let Some(tag) = state.slots.take(state.done.len()) else { return Err(Rejected(request)) };
        if let Some(slot) = state.slots.get_mut(tag) {
            (slot.token, slot.offset, slot.bytes) = (request.token, request.offset, request.bytes);
            (slot.op, slot.flags, slot.target) = (request.op, request.flags, target);
            slot.phase = Phase::Waiting;
        }
        let name = state.slots.name(tag);
        match slow::check(&self.node, &request) {
            Err(errno) => {
                state.stats.refused += 1;
                state.end(tag, Err(errno.into()), request.payload);
            }
            Ok(()) if request.bytes == 0 && request.op != Op::Flush => {
                state.stats.slow[request.op as usize] += 1;
                state.end(tag, Ok(()), request.payload);
            }
            Ok(()) => {
                state.stats.slow[request.op as usize] += 1;
                self.ctx.spawn(slow::run(Rc::clone(self), tag, request));
            }
        }
        Ok(name)
    }

    /// Who holds the lane's borrow for a moment. Nothing foreign runs in `f`.
    #[inline]
    pub(super) fn with_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.borrow_mut())
    }

    /// Queues for a slot, or stays in the queue under `ticket`. `waker` is woken when it is this one's turn.
    pub(super) fn wait_for_slot(&self, ticket: Option<u64>, waker: &Waker) -> u64 {
        let waker = waker.clone();
        let mut borrowed = self.state.borrow_mut();
        let state = &mut *borrowed;
        let place = state.slot_waiters.iter_mut().find(|(other, _)| Some(*other) == ticket);
        let (ticket, old) = match place {
            Some((ticket, old)) => (*ticket, Some(std::mem::replace(old, waker))),
            None => {
                state.next_ticket += 1;
                state.slot_waiters.push_back((state.next_ticket, waker));
                (state.next_ticket, None)
            }
        };
        drop(borrowed);
        drop(old);
        ticket
    }

    /// Takes a ticket out of the queue; false if it was called already.
    pub(super) fn leave_queue(&self, ticket: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let place = state.slot_waiters.iter().position(|(other, _)| *other == ticket);
        let gone = place.and_then(|place| state.slot_waiters.remove(place));
        drop(state);
        gone.is_some()
    }

    /// A future that waited goes away. If it was called, the next one is called instead.
    pub(super) fn pass_slot_on(&self, ticket: u64) {
        if self.leave_queue(ticket) {
            return;
        }
        self.with_state(|state| {
            let next = state.slot_waiters.pop_front();
            state.wakes.extend(next.map(|(_, waker)| waker));
        });
        self.run_wakes();
    }

    /// Whether the channel was dropped: no new request gets in.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// `waker` is woken when an internal slot may be free.
    pub(super) fn wait_for_tag(&self, waker: &Waker) {
        let waker = waker.clone();
        self.state.borrow_mut().tag_waiters.push_back(waker);
    }

    /// Answers when every request that is in flight now, or every one that overlaps `range`, has ended.
    pub(super) fn when_clear(&self, range: Option<(u64, u64)>, answer: Answer) {
        let mut state = self.state.borrow_mut();
        let names = match range {
            Some((start, end)) => state.slots.overlapping(start, end),
            None => state.slots.active(),
        };
        if !names.is_empty() {
            state.clear_waits.push(ClearWait { names, _answer: answer });
        }
    }

    /// The channel of this thread with that number.
    pub(super) fn of_this_thread(id: u64) -> Option<Rc<ChannelInner>> {
        CHANNELS.with_borrow(|channels| channels.get(&id).and_then(Weak::upgrade))
    }

    fn join_lane(self: &Rc<Self>) {
        CHANNELS.with_borrow_mut(|channels| channels.insert(self.id, Rc::downgrade(self)));
        let poller: Rc<dyn Poller> = Rc::clone(self) as Rc<dyn Poller>;
        self.poller.set(Some(self.ctx.add_poller(poller)));
        let mut control = self.node.control();
        control.lanes.push(LaneEntry { channel: self.id, handle: self.ctx.handle() });
        let regions = control.regions.entries();
        drop(control);
        for (region, ()) in &regions {
            self.register_region(region);
        }
    }

    /// Registers `region` with the leaf queue. A refusal costs speed, not function, so it is only logged.
    pub(super) fn register_region(&self, region: &corelane_dma::MemRegion) {
        if let Err(error) = self.state.borrow_mut().leaf.register_buf(region) {
            tracing::warn!(node = %self.node.name, %error, "memory is not registered in this lane");
        }
    }

    fn leave_lane_when_idle(&self) {
        if self.state.borrow().slots.in_use() > 0 {
            return;
        }
        if let Some(poller) = self.poller.take() {
            self.node.control().lanes.retain(|lane| lane.channel != self.id);
            CHANNELS.with_borrow_mut(|channels| channels.remove(&self.id));
            self.ctx.remove_poller(poller);
        }
    }
}
