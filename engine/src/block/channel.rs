//! A backend in one lane: what a caller submits to and reaps from.
//!
//! The life of a request here: [`Channel::submit`] takes a slot in the [table](super::table); if the [`Plan`] admits the
//! request it is pending there as it stands, otherwise a task in the same lane carries it out ([`super::slow`]). The lane's
//! loop calls [`Poller::commit`] once a turn, where the leaf queue takes the whole batch, then [`Poller::reap`]; what ended
//! is either in the batch that [`Channel::drain`] hands out or wakes its future.
//!
//! Invariants:
//!
//! - At most `depth` requests are in flight or waiting to be drained, so the batch never grows.
//! - No borrow of the table or the state is held while foreign code (a callback, a waker) runs, nor two of the same.
//! - A slot that the device may still use is never released, even if its future is dropped.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use corelane_dma::{BlockPool, Payload};

use super::counters::ChannelStats;
use super::driver::{LeafQueue, Tag};
use super::errno::{BlockError, IoResult};
use super::future::IoFuture;
use super::node::{Answer, LaneEntry, Node};
use super::plan::Plan;
use super::request::{Completion, Op, Rejected, ReqFlags, Request};
use super::slow;
use super::table::{Filling, Shared, SlotName, Target};
use crate::aio::{AioContext, Poller, PollerId};

mod ended;
mod reap;

pub use ended::Ended;

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
    pub(super) node: Arc<Node>,
    pub(super) plan: Plan,
    pub(super) table: Rc<Shared>,
    /// Requests that took the fast path, by [`Op`].
    fast: [Cell<u64>; Op::COUNT],
    leaf: RefCell<Box<dyn LeafQueue>>,
    /// Whether the leaf queue's completions come through the lane's ring.
    in_ring: bool,
    watch: Cell<Watch>,
    state: RefCell<State>,
    handler: RefCell<Option<Handler>>,
    poller: Cell<Option<PollerId>>,
    pub(super) ctx: AioContext,
    id: u64,
    depth: usize,
    /// Itself, to start tasks from where only a reference is at hand.
    this: Weak<ChannelInner>,
}

bitflags::bitflags! {
    /// Who has something to do whenever requests end.
    #[derive(Clone, Copy, Debug)]
    struct Watch: u8 {
        /// A handler wants the completions.
        const HANDLER = 1;
        /// The channel was dropped: the lane is left when nothing is in flight.
        const CLOSING = 1 << 1;
        /// Somebody waits for requests to end: `clear_waits` has an entry.
        const AWAITED = 1 << 2;
    }
}

/// What only the slow path, futures and other lanes touch.
pub(super) struct State {
    /// All but the fast path's counters.
    pub(super) stats: ChannelStats,
    wakes: Vec<Waker>,
    clear_waits: Vec<ClearWait>,
    /// Futures that wait for a slot, oldest first, by ticket. One whose ticket is not here was called.
    slot_waiters: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    /// What a drained section holds back, oldest first.
    pub(super) held: VecDeque<(Tag, Request)>,
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
        let table = Shared::new(depth, INTERNAL_SLOTS);
        let leaf = node.driver.open_queue(ctx, table.leaf())?;
        let inner = Rc::new_cyclic(|this| ChannelInner {
            node: Arc::clone(node),
            plan: Plan::new(&*node.driver, &node.limits, node.read_only, node.force_fua),
            table,
            fast: Default::default(),
            in_ring: leaf.completes_in_ring(),
            leaf: RefCell::new(leaf),
            watch: Cell::new(Watch::empty()),
            state: RefCell::new(State::new((depth + INTERNAL_SLOTS) as usize)),
            handler: RefCell::default(),
            poller: Cell::new(None),
            ctx: ctx.clone(),
            id: node.control().next_id(),
            depth: depth as usize,
            this: Weak::clone(this),
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

    /// Whether the request would go to the device as it stands, with no copy and no split. Says nothing about whether it
    /// is right.
    pub fn admits(&self, request: &Request) -> bool {
        let node = &self.inner.node;
        !node.needs_attention() && self.inner.plan.admits(request, node.length())
    }

    /// Gives the device at once what was submitted, rather than at the end of the turn, so that it works while the caller does
    /// what need not come first. Does nothing for a device behind the lane's ring, which gets it when the kernel is entered.
    #[inline]
    pub fn send(&self) {
        self.inner.send();
    }

    /// Does at once, for this channel alone, what a turn of the loop does for all: sends what was submitted, and takes what
    /// has completed. A device whose completions are found by looking is looked at until there is one, at most `looks`
    /// times; another is not waited for. True if there is something to drain.
    ///
    /// A loop that serves one device may call this between turns, which it still owes the lane: tasks, timers and other
    /// lanes' messages are served by [`AioContext::turn`] only. Completions of a device that does not complete at once come
    /// with the turn as well.
    #[inline]
    pub fn poll(&self, looks: u32) -> bool {
        self.inner.poll(looks)
    }

    /// Hands the completed requests to `each`, which may submit again.
    #[inline(always)]
    pub fn drain(&self, each: impl FnMut(Completion)) {
        self.inner.drain(each);
    }

    /// How many completed requests wait to be drained.
    pub fn completed(&self) -> usize {
        self.inner.table.borrow().completed()
    }

    /// Requests in flight, those not counted that have completed.
    pub fn in_flight(&self) -> usize {
        self.inner.table.borrow().in_flight()
    }

    /// Most requests at once.
    pub fn depth(&self) -> usize {
        self.inner.depth
    }

    /// From now on `handler` gets each completion as the loop reaps it, instead of [`drain`](Self::drain). It may
    /// submit; it may not set another handler.
    pub fn set_handler(&self, handler: impl FnMut(Completion) + 'static) {
        *self.inner.handler.borrow_mut() = Some(Box::new(handler));
        self.inner.set_watch(Watch::HANDLER, true);
    }

    /// What was counted so far.
    pub fn stats(&self) -> ChannelStats {
        let mut stats = self.inner.state.borrow().stats;
        for (count, fast) in stats.fast.iter_mut().zip(&self.inner.fast) {
            *count = fast.get();
        }
        stats.bogus = self.inner.table.borrow().bogus;
        stats
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
        self.inner.set_watch(Watch::CLOSING, true);
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
    fn new(tags: usize) -> State {
        State {
            stats: ChannelStats::default(),
            wakes: Vec::with_capacity(tags),
            clear_waits: Vec::new(),
            slot_waiters: VecDeque::new(),
            next_ticket: 0,
            held: VecDeque::new(),
            tag_waiters: VecDeque::new(),
            bounce: None,
            bounce_waiters: VecDeque::new(),
        }
    }
}

impl ChannelInner {
    /// Takes a slot for the request and starts it.
    #[inline(always)]
    #[allow(clippy::result_large_err)] // The request is moved back, not an error report.
    pub(super) fn enter(self: &Rc<Self>, request: Request, target: Target) -> Result<SlotName, Rejected> {
        if self.node.needs_attention() || !self.plan.admits(&request, self.node.length()) {
            return self.enter_slow(request, target);
        }
        let op = request.op;
        let leaf_flags = self.plan.leaf_flags(op, request.flags);
        let name = self.table.borrow_mut().send(Admitted { request, leaf_flags }, target);
        match name {
            Ok(name) => {
                let fast = &self.fast[op as usize];
                fast.set(fast.get() + 1);
                Ok(name)
            }
            Err(Admitted { request, .. }) => Err(Rejected(request)),
        }
    }

    /// A request that the device cannot take as it is.
    #[cold]
    #[inline(never)]
    #[allow(clippy::result_large_err)] // The request is moved back, not an error report.
    fn enter_slow(self: &Rc<Self>, request: Request, target: Target) -> Result<SlotName, Rejected> {
        let bare = Filling {
            op: request.op,
            flags: request.flags,
            asked: request.flags,
            offset: request.offset,
            bytes: request.bytes,
            payload: Payload::None,
            token: request.token,
        };
        let holds = self.holds();
        let mut table = self.table.borrow_mut();
        let Some(name) = table.take_waiting(bare, target, holds) else { return Err(Rejected(request)) };
        if holds {
            drop(table);
            self.hold(name.tag, request);
            return Ok(name);
        }
        let mut state = self.state.borrow_mut();
        match state.stats.count_slow(&request, slow::check(&self.node, &request)) {
            Some(result) => table.refuse(name.tag, result, request.payload),
            None => {
                drop((table, state));
                self.ctx.spawn(slow::run(Rc::clone(self), name.tag, request));
            }
        }
        Ok(name)
    }

    fn set_watch(&self, watch: Watch, on: bool) {
        let mut all = self.watch.get();
        all.set(watch, on);
        self.watch.set(all);
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
        self.watch.get().contains(Watch::CLOSING)
    }

    /// `waker` is woken when an internal slot may be free.
    pub(super) fn wait_for_tag(&self, waker: &Waker) {
        let waker = waker.clone();
        self.state.borrow_mut().tag_waiters.push_back(waker);
    }

    /// A slot was released outside of the fast path: one who waits for a slot of its kind may go on.
    pub(super) fn slot_released(&self) {
        self.with_state(|state| {
            state.wakes.extend(state.slot_waiters.pop_front().map(|(_, waker)| waker));
            state.wakes.extend(state.tag_waiters.pop_front());
        });
        self.run_wakes();
    }

    /// Answers when every request that is in flight now, or every one that overlaps `range`, has ended.
    pub(super) fn when_clear(&self, range: Option<(u64, u64)>, answer: Answer) {
        let table = self.table.borrow();
        let names = match range {
            Some((start, end)) => table.overlapping(start, end),
            // What is held back is ended by closing alone.
            None => table.active(self.node.is_closed()),
        };
        drop(table);
        if !names.is_empty() {
            self.set_watch(Watch::AWAITED, true);
            self.state.borrow_mut().clear_waits.push(ClearWait { names, _answer: answer });
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
        if let Err(error) = self.leaf.borrow_mut().register_buf(region) {
            tracing::warn!(node = %self.node.name, %error, "memory is not registered in this lane");
        }
    }

    pub(super) fn unregister_region(&self, region: &corelane_dma::MemRegion) {
        self.leaf.borrow_mut().unregister_buf(region);
    }

    fn leave_lane_when_idle(&self) {
        // Nobody will drain them any more.
        self.drain(drop);
        if self.table.borrow().in_use() > 0 {
            return;
        }
        if let Some(poller) = self.poller.take() {
            self.node.control().lanes.retain(|lane| lane.channel != self.id);
            CHANNELS.with_borrow_mut(|channels| channels.remove(&self.id));
            self.ctx.remove_poller(poller);
        }
    }
}

/// A request that the plan has admitted, with the flags that go down.
struct Admitted {
    request: Request,
    leaf_flags: ReqFlags,
}

impl From<Admitted> for Filling {
    #[inline(always)]
    fn from(Admitted { request, leaf_flags }: Admitted) -> Filling {
        let Request { op, flags, offset, bytes, payload, token } = request;
        Filling { op, flags: leaf_flags, asked: flags, offset, bytes, payload, token }
    }
}
