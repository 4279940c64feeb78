//! The admin queue: commands of the control plane, each with a deadline.
//!
//! Any thread may execute a command. Whoever waits looks at the completion queue itself, under the queue's lock, and puts
//! what it finds for others into their slots; nobody sleeps with the lock held.
//!
//! Invariants:
//! - A slot's command id is the slot's number and a generation, which changes with each use: a completion for anything else
//!   is the controller's fault and ends it.
//! - A slot whose command was not answered in time is not used again, nor is its memory, as long as the controller runs.
//! - A [reset](AdminQueue::reset) of the queue, with the controller stopped, ends all of it: who waits finds another epoch.
//! - What stands (event requests, aborts) nobody waits for; its answer is [news](AdminQueue::news).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::registers::{AdminQueues, PAGE_BYTES};
use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::bell::Bell;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::queue::ring::{CompletionRing, SubmissionRing};
use crate::nvme::recovery::control::{Control, Late};
use crate::nvme::recovery::state::{State, Word};
use crate::nvme::spec::Qid;
use crate::nvme::spec::command::{Command, DataPointer};
use crate::nvme::spec::register::{cq_doorbell, sq_doorbell};
use crate::nvme::spec::status::Status;

/// Entries of both rings: a power of two.
const ENTRIES: u32 = 32;
/// Commands at once: a full ring would look empty.
const SLOTS: usize = ENTRIES as usize - 1;
/// Bits of a command id that name the slot.
const SLOT_BITS: u32 = ENTRIES.trailing_zeros();
/// The submission ring's page, the completion ring's, and one page of data for each slot.
const MEMORY_BYTES: usize = (2 + SLOTS) * PAGE_BYTES;
/// How long a waiting thread looks again and again before it begins to sleep in between.
const SPIN: Duration = Duration::from_micros(30);

/// What a command carries, at most a page.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// Nothing.
    None,
    /// The controller writes so many bytes.
    In(usize),
}

/// How a command succeeded.
#[derive(Debug)]
pub struct Answer {
    /// Dword 0 of the completion.
    pub result: u32,
    /// What the controller wrote.
    pub data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Waiting,
    Done(Status, u32),
    /// Nobody waits any more, but the controller may still answer.
    Abandoned,
    /// Nobody waits for the answer, which is news whenever it comes.
    Standing(Standing),
}

impl Slot {
    /// Whether the controller has the command.
    fn is_in_flight(self) -> bool {
        matches!(self, Slot::Waiting | Slot::Abandoned | Slot::Standing(_))
    }
}

/// A command whose answer nobody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// An Asynchronous Event Request.
    Event,
    /// An Abort of this command.
    Abort(Late),
}

/// The answer to a command that stood.
#[derive(Clone, Copy, Debug)]
pub struct News {
    /// Which command.
    pub of: Standing,
    /// Its status.
    pub status: Status,
    /// Dword 0.
    pub result: u32,
}

/// In which state of the controller a command is executed: no longer than that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permit {
    state: State,
    epoch: u32,
}

impl Permit {
    /// As long as state and epoch are those of `word`.
    pub fn of(word: Word) -> Permit {
        Permit { state: word.state(), epoch: word.epoch() }
    }

    /// The epoch.
    pub fn epoch(self) -> u32 {
        self.epoch
    }
}

/// The admin queue of one controller.
pub struct AdminQueue {
    state: Mutex<Rings>,
    timeout: Duration,
    iova: u64,
}

struct Rings {
    sq: SubmissionRing,
    cq: CompletionRing,
    slots: [Slot; SLOTS],
    generations: [u16; SLOTS],
    memory: HostMemory,
    /// Counts resets of this queue.
    epoch: u32,
    /// What stood and was answered. Bounded by the slots, since it is taken before more is sent.
    news: Vec<News>,
}

impl AdminQueue {
    /// Makes the rings. The controller is told of them by [`queues`](Self::queues).
    ///
    /// # Errors
    /// Those of the bus and of memory.
    pub fn new(bus: &dyn Bus, stride_bytes: u64, timeout: Duration) -> Result<AdminQueue, NvmeError> {
        let memory = HostMemory::new(bus, MEMORY_BYTES)?;
        let sq_bell = Bell::new(bus.doorbell(sq_doorbell(Qid::ADMIN, stride_bytes))?, None);
        let cq_bell = Bell::new(bus.doorbell(cq_doorbell(Qid::ADMIN, stride_bytes))?, None);
        let sq = SubmissionRing::new(&memory, 0, ENTRIES, sq_bell)?;
        let cq = CompletionRing::new(&memory, PAGE_BYTES, ENTRIES, cq_bell)?;
        let iova = memory.iova();
        let rings = Rings {
            sq,
            cq,
            slots: [Slot::Free; SLOTS],
            generations: [0; SLOTS],
            memory,
            epoch: 0,
            news: Vec::with_capacity(SLOTS),
        };
        Ok(AdminQueue { state: Mutex::new(rings), timeout, iova })
    }

    /// Where the rings are.
    pub fn queues(&self) -> AdminQueues {
        AdminQueues { sq: self.iova, cq: self.iova + PAGE_BYTES as u64, entries: ENTRIES as u16 }
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts everything into its first state. The controller has stopped, and nothing is in flight any more.
    pub fn reset(&self) {
        let mut rings = self.lock();
        rings.sq.reset();
        rings.cq.reset();
        rings.slots = [Slot::Free; SLOTS];
        rings.news.clear();
        rings.epoch = rings.epoch.wrapping_add(1);
    }

    /// Waits until none rings a doorbell who has not seen that the state has changed: it is looked at with the lock held.
    pub fn let_bells_end(&self) {
        drop(self.lock());
    }

    /// Sends a command whose answer nobody waits for. False if there is no room.
    ///
    /// # Errors
    /// Those of the bus.
    pub fn send_standing(&self, command: Command, what: Standing) -> Result<bool, NvmeError> {
        let mut rings = self.lock();
        let Some(slot) = rings.send(command, Data::None)? else { return Ok(false) };
        rings.slots[slot] = Slot::Standing(what);
        Ok(true)
    }

    /// How many commands of this kind stand.
    pub fn standing(&self, is: impl Fn(Standing) -> bool) -> usize {
        let rings = self.lock();
        rings.slots.iter().filter(|slot| matches!(slot, Slot::Standing(what) if is(*what))).count()
    }

    /// Looks at the completion queue, and takes what stood and was answered.
    ///
    /// # Errors
    /// [`NvmeError::Absurd`] and those of the bus.
    pub fn news(&self, control: &Control) -> Result<Vec<News>, NvmeError> {
        let mut rings = self.lock();
        rings.reap(control)?;
        Ok(std::mem::take(&mut rings.news))
    }

    /// Executes a command and waits for its answer. Blocks; `name` is for messages. `permit` is for the state that the
    /// controller is in.
    ///
    /// # Errors
    /// [`NvmeError::Refused`] with the status; [`NvmeError::Unanswered`] after the deadline, [`NvmeError::Absurd`] for an
    /// answer to nothing, and those of the bus, after each of which the controller is stopped; [`NvmeError::Stopped`] if
    /// the state has changed.
    pub fn execute(
        &self,
        control: &Control,
        permit: Permit,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, NvmeError> {
        let result = self.attempt(control, permit, name, command, data);
        match &result {
            Ok(_) | Err(NvmeError::Refused { .. } | NvmeError::Stopped { .. } | NvmeError::Memory(_)) => {}
            Err(error) => control.fail(permit.epoch, error),
        }
        result
    }

    fn attempt(
        &self,
        control: &Control,
        permit: Permit,
        name: &'static str,
        command: Command,
        data: Data,
    ) -> Result<Answer, NvmeError> {
        let start = Instant::now();
        let mut pause = Pause::new(start);
        let mut sent = None;
        loop {
            let late = start.elapsed() >= self.timeout;
            let mut rings = self.lock();
            // With the lock held: the queue is reset after the state has changed.
            if Permit::of(control.word()) != permit || control.is_closing() {
                return Err(control.stopped());
            }
            rings.reap(control)?;
            match sent {
                None => sent = rings.send(command, data)?,
                Some(slot) => {
                    if let Slot::Done(status, result) = rings.slots[slot] {
                        return rings.finish(slot, control, name, (status, result), data);
                    }
                }
            }
            if late {
                if let Some(slot) = sent {
                    rings.slots[slot] = Slot::Abandoned;
                }
                let timeout_ms = self.timeout.as_millis() as u64;
                let address = control.address().to_owned();
                return Err(NvmeError::Unanswered { address, command: name, timeout_ms });
            }
            drop(rings);
            pause.wait();
        }
    }
}

/// Looks often at first, then less and less so.
struct Pause {
    start: Instant,
    next: Duration,
}

impl Pause {
    fn new(start: Instant) -> Pause {
        Pause { start, next: Duration::from_micros(10) }
    }

    fn wait(&mut self) {
        if self.start.elapsed() < SPIN {
            std::hint::spin_loop();
            return;
        }
        thread::sleep(self.next);
        self.next = (self.next * 2).min(Duration::from_millis(2));
    }
}

impl Rings {
    fn cid(&self, slot: usize) -> u16 {
        self.generations[slot] << SLOT_BITS | slot as u16
    }

    fn page_at(slot: usize) -> usize {
        (2 + slot) * PAGE_BYTES
    }

    /// Puts the command into a free slot and tells the controller; `None` if there is no free slot.
    fn send(&mut self, mut command: Command, data: Data) -> Result<Option<usize>, NvmeError> {
        let Some(slot) = self.slots.iter().position(|slot| *slot == Slot::Free) else { return Ok(None) };
        let page = Rings::page_at(slot);
        match data {
            Data::None => {}
            Data::In(_) => self.memory.buffer().copy_from(page, &[0; PAGE_BYTES])?,
        }
        if !matches!(data, Data::None) {
            command.data = DataPointer { prp1: self.memory.iova() + page as u64, prp2: 0 };
        }
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        command.cid = self.cid(slot);
        self.slots[slot] = Slot::Waiting;
        self.sq.push(&command);
        self.sq.tell()?;
        Ok(Some(slot))
    }

    /// Puts all completions that are there into their slots.
    fn reap(&mut self, control: &Control) -> Result<(), NvmeError> {
        while let Some(found) = self.cq.take() {
            let slot = usize::from(found.cid()) & (ENTRIES as usize - 1);
            let known = slot < SLOTS && found.cid() == self.cid(slot);
            let wrong = if found.sq_id() != Qid::ADMIN.0 {
                Some(("SQID", u64::from(found.sq_id()), "0, the admin queue".to_owned()))
            } else if found.sq_head() >= self.sq.len() {
                Some(("SQHD", u64::from(found.sq_head()), format!("below {}", self.sq.len())))
            } else if !known || !self.slots[slot].is_in_flight() {
                Some(("CID", u64::from(found.cid()), "that of a command in flight".to_owned()))
            } else {
                None
            };
            if let Some((what, value, expected)) = wrong {
                let (address, of) = (control.address().to_owned(), "an admin completion".to_owned());
                return Err(NvmeError::Absurd { address, of, what, value, expected });
            }
            let (status, result) = (found.status(), self.cq.result(found));
            self.slots[slot] = match self.slots[slot] {
                Slot::Abandoned => Slot::Free,
                Slot::Standing(of) => {
                    self.news.push(News { of, status, result });
                    Slot::Free
                }
                _ => Slot::Done(status, result),
            };
        }
        Ok(self.cq.tell()?)
    }

    fn finish(
        &mut self,
        slot: usize,
        control: &Control,
        name: &'static str,
        (status, result): (Status, u32),
        data: Data,
    ) -> Result<Answer, NvmeError> {
        self.slots[slot] = Slot::Free;
        if !status.is_success() {
            let address = control.address().to_owned();
            return Err(NvmeError::Refused { address, command: name, status });
        }
        let mut bytes = match data {
            Data::In(len_bytes) => vec![0; len_bytes],
            _ => Vec::new(),
        };
        self.memory.buffer().copy_to(Rings::page_at(slot), &mut bytes)?;
        Ok(Answer { result, data: bytes })
    }
}
