//! [`Lane`]: the queue of commands in one lane, and what is in flight in it.
//!
//! Invariants:
//! - A flight keeps its memory until its completion came, its queue was deleted, or the controller provably stopped; where
//!   none of these can be had, the memory is leaked.
//! - Nothing is borrowed while a waker runs.
//! - The commands of one order are pushed together and told of by one doorbell, so that fused ones stay side by side.
#![allow(clippy::result_large_err)] // The memory of a command comes back with its error.

mod away;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use corelane_dma::{CoherentArray, DmaError, Payload};
use corelane_engine::aio::{AioContext, Poller, Readiness, Sleep};
use corelane_engine::block::{Errno, IoError};

use super::error::CommandError;
use super::memory::{Direction, Finder, Placed};
use crate::nvme::controller::NvmeController;
use crate::nvme::controller::registers::PAGE_BYTES;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::queue::pair::QueuePair;
use crate::nvme::queue::prp::{self, ENTRIES, List};
use crate::nvme::recovery::control::{Control, LaneGuard};
use crate::nvme::recovery::watch::Watched;
use crate::nvme::spec::command::Command;

/// How long a lane that is dropped waits for what is in flight, before the deletion of its queue aborts that.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A command to be sent, with its memory.
pub struct Order {
    pub name: &'static str,
    pub command: Command,
    pub direction: Direction,
    pub data: Payload,
    pub metadata: Payload,
}

/// What became of it, and its memory.
#[derive(Debug)]
pub struct Answer {
    /// Dwords 0 and 1 of the completion, or why there was none.
    pub result: Result<u64, CommandError>,
    /// The data that the command was given.
    pub data: Payload,
    /// The metadata that it was given.
    pub metadata: Payload,
}

/// A command that the controller has, or has answered.
struct Flight {
    data: Placed,
    metadata: Placed,
    direction: Direction,
    ended: Option<Result<u64, IoError>>,
    waker: Option<Waker>,
    /// Nobody waits for it any more.
    orphan: bool,
}

struct State {
    /// `None` once it was given up with its controller.
    pair: Option<QueuePair>,
    flights: Box<[Option<Flight>]>,
    free: Vec<u32>,
    /// Who waits for room.
    waiters: VecDeque<Waker>,
    lists: CoherentArray<u64>,
    lists_memory: Option<HostMemory>,
    finder: Finder,
}

/// See the module's documentation.
pub struct Lane {
    state: RefCell<State>,
    watched: Arc<Watched>,
    control: Arc<Control>,
    controller: Arc<NvmeController>,
    list_pages: usize,
    timeout: Duration,
    ctx: AioContext,
    guard: LaneGuard,
}

impl Lane {
    /// Creates a queue for the commands of a namespace, up to `depth` at once, of up to `max_transfer` bytes each. Blocks.
    ///
    /// # Errors
    /// [`NvmeError::Unusable`] where all queue numbers are in use, and those of creating queues.
    pub fn open(
        controller: &Arc<NvmeController>,
        watched: Arc<Watched>,
        (depth, max_transfer): (u32, u64),
        timeout: Duration,
        ctx: &AioContext,
    ) -> Result<Lane, NvmeError> {
        let control = Arc::clone(controller.control());
        control.settled()?;
        let bus = controller.bus();
        // A queue takes one command less than it has entries.
        let depth = depth.clamp(1, controller.queue_entries(depth + 1) - 1);
        let list_pages = prp::list_pages(max_transfer);
        let memory = HostMemory::new(bus.as_ref(), depth as usize * list_pages * PAGE_BYTES)?;
        let lists = memory.array(0, depth as usize * list_pages * ENTRIES)?;
        let pair = create(controller, depth)?;
        let guard = control.join(ctx);
        let state = State {
            pair: Some(pair),
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            waiters: VecDeque::new(),
            lists,
            lists_memory: Some(memory),
            finder: Finder::new(bus.dma(), bus.backing()),
        };
        Ok(Lane {
            state: RefCell::new(state),
            watched,
            control,
            controller: Arc::clone(controller),
            list_pages,
            timeout,
            ctx: ctx.clone(),
            guard,
        })
    }

    /// How many commands there can be at once.
    pub fn depth(&self) -> usize {
        self.state.borrow().flights.len()
    }

    /// Has commands carried out, at most [`depth`](Self::depth) of them, in entries of the queue that follow one another, and waits for their ends.
    pub async fn run<const N: usize>(self: &Rc<Self>, orders: [Order; N]) -> [Answer; N] {
        poll_fn(|cx| self.poll_room(N, cx)).await;
        let names = orders.each_ref().map(|order| order.name);
        let waits = self.send(orders).map(|sent| sent.map(|index| Wait::new(Rc::clone(self), index)));
        let mut answers = Vec::with_capacity(N);
        for (wait, name) in waits.into_iter().zip(names) {
            answers.push(match wait {
                Ok(wait) => wait.await.named(name),
                Err(answer) => answer,
            });
        }
        let mut answers = answers.into_iter();
        names.map(|name| answers.next().unwrap_or_else(|| Raw::lost().named(name)))
    }

    /// Ready when `count` more commands can be sent, or none ever.
    fn poll_room(&self, count: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.pair.is_none() || state.free.len() >= count {
            return Poll::Ready(());
        }
        state.waiters.push_back(cx.waker().clone());
        Poll::Pending
    }

    /// Sends all commands, or none: the flights' numbers, or the memory back.
    fn send<const N: usize>(&self, orders: [Order; N]) -> [Result<u32, Answer>; N] {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if let Err(source) = self.may_send(state.pair.as_ref()) {
            return orders.map(|Order { name: command, data, metadata, .. }| {
                Err(Answer { result: Err(CommandError::Failed { command, source }), data, metadata })
            });
        }
        let names = orders.each_ref().map(|order| order.name);
        let placed = orders.map(|order| self.place(state, order));
        // Once more: from here on to the doorbell nothing blocks, and no controller is stopped.
        self.guard.begin();
        let sent = match placed.iter().all(Result::is_ok) {
            true => self.may_send(state.pair.as_ref()),
            // Another of them cannot be sent.
            false => Err(Errno::ECANCELED.into()),
        };
        if sent.is_err() {
            // Giving memory up may take its time.
            self.guard.end();
        }
        let mut names = names.into_iter();
        let answers = placed.map(|one| match (one, sent, names.next().unwrap_or_default()) {
            (Ok((index, mut command, flight)), Ok(()), _) => {
                if let (Some(pair), Some(slot)) = (&mut state.pair, state.flights.get_mut(index as usize)) {
                    pair.push(index, &mut command);
                    *slot = Some(flight);
                }
                Ok(index)
            }
            (Ok((index, _, flight)), Err(source), command) => {
                state.free.push(index);
                let result = Err(CommandError::Failed { command, source });
                let (data, metadata) = (flight.data.give_up(), flight.metadata.give_up());
                Err(Answer { result, data, metadata })
            }
            (Err(answer), ..) => Err(answer),
        });
        if let (Some(pair), Ok(())) = (&mut state.pair, sent)
            && let Err(error) = pair.tell_pushed()
        {
            self.control.fail(pair.epoch(), &error.into());
        }
        self.guard.end();
        answers
    }

    /// Whether commands can be sent: the controller knows the queues, and the namespace is what was opened.
    fn may_send(&self, pair: Option<&QueuePair>) -> Result<(), IoError> {
        if !pair.is_some_and(|pair| self.is_known(pair)) {
            return Err(self.control.request_error());
        }
        self.watched.failed().map_or(Ok(()), Err)
    }

    /// Finds a number and the memory for a command. There is a number: there was room.
    fn place(&self, state: &mut State, order: Order) -> Result<(u32, Command, Flight), Answer> {
        let Order { name, mut command, direction, data, metadata } = order;
        let failed = |source, data, metadata| {
            let result = Err(CommandError::Memory { command: name, source });
            Answer { result, data, metadata }
        };
        let Some(&index) = state.free.last() else {
            return Err(failed(
                DmaError::NoIova { len_bytes: 0, free_bytes: 0, largest_bytes: 0 },
                data,
                metadata,
            ));
        };
        let first = index as usize * self.list_pages * ENTRIES;
        let iova = state.lists_memory.as_ref().map_or(0, HostMemory::iova) + first as u64 * 8;
        let list = List { entries: &state.lists, first, len: self.list_pages * ENTRIES, iova };
        let data = match data.len_bytes() {
            0 => Placed::nothing(data),
            _ => match state.finder.data(data, direction, &list) {
                Ok((pointer, placed)) => {
                    command.data = pointer;
                    placed
                }
                Err((error, data)) => return Err(failed(error, data, metadata)),
            },
        };
        let metadata = match metadata.len_bytes() {
            0 => Placed::nothing(metadata),
            _ => match state.finder.contiguous(metadata, direction) {
                Ok((iova, placed)) => {
                    command.metadata = iova;
                    placed
                }
                Err((error, metadata)) => return Err(failed(error, data.give_up(), metadata)),
            },
        };
        state.free.pop();
        let flight = Flight { data, metadata, direction, ended: None, waker: None, orphan: false };
        Ok((index, command, flight))
    }

    /// Takes all completions that are there. Who is to be woken.
    fn take_completions(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(pair) = &mut state.pair else { return wakers };
        if !pair.has_completion() {
            return wakers;
        }
        let mut fault = None;
        while let Some(taken) = pair.take() {
            match taken {
                Ok((tag, found)) => {
                    let status = found.status();
                    let result =
                        if status.is_success() { Ok(pair.result(found)) } else { Err(status.to_io_error()) };
                    // Whatever it says, it is not of what was meant.
                    let result = self.watched.failed().map_or(result, Err);
                    end(&mut state.flights, &mut state.free, tag, result, &mut wakers);
                }
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        let fault = fault.or_else(|| pair.tell_taken().err().map(NvmeError::from));
        if let Some(error) = fault {
            self.control.fail(pair.epoch(), &error);
        }
        // The numbers of flights without a waiter are free now.
        wakers.extend(state.waiters.drain(..));
        wakers
    }

    /// Has those who wait for room look again.
    fn room_was_made(&self) {
        let waiters: Vec<Waker> = self.state.borrow_mut().waiters.drain(..).collect();
        waiters.into_iter().for_each(Waker::wake);
    }

    fn in_flight(&self) -> u32 {
        self.state.borrow().pair.as_ref().map_or(0, QueuePair::in_flight)
    }

    /// An answer did not come in time: the controller is stopped.
    #[cold]
    fn out_of_time(&self) {
        let epoch = self.state.borrow().pair.as_ref().map_or(0, QueuePair::epoch);
        let error = NvmeError::Unanswered {
            address: self.controller.address().to_owned(),
            command: "an I/O command",
            timeout_ms: self.timeout.as_millis() as u64,
        };
        self.control.fail(epoch, &error);
    }
}

fn create(controller: &Arc<NvmeController>, depth: u32) -> Result<QueuePair, NvmeError> {
    controller.create_queues(depth + 1, 0, None)?.ok_or_else(|| NvmeError::Unusable {
        address: controller.address().to_owned(),
        what: "the number of I/O queues that are free",
        value: 0,
        expected: "at least 1, since these commands have a queue of their own: close a channel".to_owned(),
    })
}

/// Ends a flight, if there is one under this number that has not ended.
fn end(
    flights: &mut [Option<Flight>],
    free: &mut Vec<u32>,
    tag: u32,
    result: Result<u64, IoError>,
    wakers: &mut Vec<Waker>,
) {
    let Some(slot) = flights.get_mut(tag as usize) else { return };
    let Some(flight) = slot.as_mut().filter(|flight| flight.ended.is_none()) else { return };
    flight.ended = Some(result);
    wakers.extend(flight.waker.take());
    if flight.orphan {
        *slot = None;
        free.push(tag);
    }
}

impl Poller for Lane {
    fn commit(&self) -> Readiness {
        if !self.is_joined() {
            let wakers = self.commit_away();
            let ready = if wakers.is_empty() { Readiness::Idle } else { Readiness::Ready };
            wakers.into_iter().for_each(Waker::wake);
            return ready;
        }
        if self.in_flight() == 0 { Readiness::Idle } else { Readiness::Spin }
    }

    fn reap(&self) -> bool {
        if !self.may_ring() {
            return false;
        }
        let wakers = self.take_completions();
        self.guard.end();
        let any = !wakers.is_empty();
        wakers.into_iter().for_each(Waker::wake);
        any
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let deadline = Instant::now() + DRAIN_TIME;
        while self.in_flight() > 0 && Instant::now() < deadline && self.may_ring() {
            let wakers = self.take_completions();
            self.guard.end();
            wakers.into_iter().for_each(Waker::wake);
            thread::sleep(Duration::from_micros(20));
        }
        let mut lost = false;
        if let Some(mut pair) = self.state.get_mut().pair.take() {
            // A deletion that fails has the controller stopped.
            let deleted = self.is_known(&pair) && pair.delete().is_ok();
            lost = !deleted && !self.control.wait_until_stopped(pair.epoch());
            if !lost {
                self.controller.give_back(pair.qid());
            }
            self.state.get_mut().pair = Some(pair);
        }
        self.give_up(lost);
    }
}

/// An answer without the command's name.
struct Raw {
    result: Result<u64, IoError>,
    data: Payload,
    metadata: Payload,
}

impl Raw {
    fn lost() -> Raw {
        Raw { result: Err(Errno::EIO.into()), data: Payload::None, metadata: Payload::None }
    }

    fn named(self, command: &'static str) -> Answer {
        let result = self.result.map_err(|source| CommandError::Failed { command, source });
        Answer { result, data: self.data, metadata: self.metadata }
    }
}

impl Flight {
    fn land(self) -> Raw {
        let Flight { data, metadata, direction, ended, .. } = self;
        let mut result = ended.unwrap_or(Err(Errno::EIO.into()));
        let mut back = |placed: Placed| match result {
            Ok(_) => placed.take_back(direction).unwrap_or_else(|_| {
                result = Err(Errno::EIO.into());
                Payload::None
            }),
            Err(_) => placed.give_up(),
        };
        let (data, metadata) = (back(data), back(metadata));
        Raw { result, data, metadata }
    }
}

/// Waits for the end of a flight.
struct Wait {
    lane: Rc<Lane>,
    index: u32,
    sleep: Option<Pin<Box<Sleep>>>,
    taken: bool,
}

impl Wait {
    fn new(lane: Rc<Lane>, index: u32) -> Wait {
        let sleep = Some(Box::pin(lane.ctx.sleep(lane.timeout)));
        Wait { lane, index, sleep, taken: false }
    }
}

impl Future for Wait {
    type Output = Raw;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Raw> {
        let this = self.get_mut();
        let mut state = this.lane.state.borrow_mut();
        let Some(slot) = state.flights.get_mut(this.index as usize) else { return Poll::Ready(Raw::lost()) };
        match slot {
            Some(flight) if flight.ended.is_none() => flight.waker = Some(cx.waker().clone()),
            _ => {
                this.taken = true;
                let flight = slot.take();
                state.free.push(this.index);
                drop(state);
                this.lane.room_was_made();
                return Poll::Ready(flight.map_or_else(Raw::lost, Flight::land));
            }
        }
        drop(state);
        if let Some(sleep) = &mut this.sleep
            && sleep.as_mut().poll(cx).is_ready()
        {
            this.sleep = None;
            this.lane.out_of_time();
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.lane.state.borrow_mut();
        let Some(slot) = state.flights.get_mut(self.index as usize) else { return };
        if let Some(flight) = slot.as_mut().filter(|flight| flight.ended.is_none()) {
            (flight.orphan, flight.waker) = (true, None);
            return;
        }
        let ended = slot.take();
        if ended.is_some() {
            state.free.push(self.index);
        }
        drop(state);
        drop(ended);
        self.lane.room_was_made();
    }
}
