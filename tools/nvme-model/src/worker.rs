//! The polling thread: takes over what hosts changed, and serves the queues.
//!
//! Invariants:
//! - Queues, features, events and logs belong to this thread alone; there is no lock in the serving loop.
//! - CSTS changes here only. When it says that the controller is not ready, no queue exists any more.
//! - A batch is what lay between head and tail when the doorbell was read; a completion is written for each command of
//!   it, or the command is held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use corelane_dma::DeviceMemory;

use crate::admin::events::{Event, Events};
use crate::admin::features::Features;
use crate::admin::host_memory::HostMemory;
use crate::admin::log::ErrorLog;
use crate::backoff::BackOff;
use crate::check::Checker;
use crate::data::{PointerRules, Segments};
use crate::doorbells::{Doorbell, head_cell, tail_cell};
use crate::fault::{Faults, Follow, Spoil};
use crate::interrupt::{Vectors, signal};
use crate::io::{Io, IoContext};
use crate::memory::View;
use crate::node::{Nodes, Token};
use crate::queue::{CompletionQueue, Place, SubmissionQueue};
use crate::queues::Queues;
use crate::shared::{Control, Shared};
use crate::violation::{Rule, Violation};
use crate::wire::command::Completion;
use crate::wire::register::{CSTS_CFS, CSTS_RDY, CSTS_SHST, CSTS_SHST_COMPLETE};
use crate::wire::status::Status;

/// What the controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// CC.EN is 0.
    Disabled,
    /// CC.EN is 1; CSTS.RDY will be 1 from then on.
    Starting(Instant),
    /// Commands are served.
    Ready,
    /// As ready, but the memory of a queue is not mapped. As for a device behind an IOMMU, that is a fault only when the queue
    /// is used before the memory comes back: QEMU takes all of it away and gives it back when a firmware changes what lies
    /// where below 1 MiB.
    CutOff,
    /// CC.EN is 0, but nodes still use the host's memory; CSTS stays as it was until they do not.
    Stopping,
    /// CSTS.CFS is set; nothing is served until the host disables the controller.
    Failed,
}

/// See the module.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: View,
    pub(crate) vectors: Vectors,
    pub(crate) state: State,
    pub(crate) page_bytes: usize,
    pub(crate) queues: Queues,
    pub(crate) features: Features,
    pub(crate) events: Events,
    pub(crate) host_memory: HostMemory,
    pub(crate) errors: ErrorLog,
    /// Changed Namespace List; in order.
    pub(crate) changed: BTreeSet<u32>,
    pub(crate) io: Io,
    pub(crate) nodes: Nodes,
    /// Completions for which there was no room.
    pub(crate) late: Vec<(Token, Status)>,
    /// For admin commands.
    pub(crate) segments: Segments,
    pub(crate) faults: Faults,
    /// What becomes of the data of the admin command that is being carried out.
    pub(crate) spoil: Option<Spoil>,
    /// Queues went without the host's knowing; it may ring their doorbells until it enables the controller again.
    pub(crate) surprised: bool,
    /// The host wants the controller disabled, and no fault is against it.
    pub(crate) disable_due: bool,
    /// Queues whose memory is not mapped.
    cut_off: Vec<(u16, Place)>,
    seen: u64,
    memory_seen: u64,
}

/// Tells everybody when the thread ends, however it ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set_ended();
    }
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, nodes: Nodes) -> Worker {
        Worker {
            view: shared.memory.view(),
            vectors: shared.interrupts.snapshot(),
            state: State::Disabled,
            page_bytes: 4096,
            queues: Queues::new(shared.config.max_queue_pairs),
            features: Features::new(&shared.config),
            events: Events::default(),
            host_memory: HostMemory::default(),
            errors: ErrorLog::default(),
            changed: BTreeSet::new(),
            io: Io::new(&shared.namespaces),
            nodes,
            segments: Segments::default(),
            late: Vec::new(),
            faults: Faults::default(),
            spoil: None,
            surprised: false,
            disable_due: false,
            cut_off: Vec::new(),
            // Generation 0 is what was before the thread; it takes over once in any case.
            seen: u64::MAX,
            memory_seen: 0,
            shared,
        }
    }

    /// Serves until the model ends.
    pub(crate) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        let mut back_off = BackOff::new(self.shared.config.idle);
        loop {
            if self.shared.generation() != self.seen {
                if self.shared.is_stopping() {
                    return self.wait_for_jobs();
                }
                self.take_over();
                back_off.reset();
            }
            if self.turn() {
                back_off.reset();
            } else if back_off.wait() {
                self.going_to_sleep();
            }
        }
    }

    /// One look at everything. Returns whether there was something to do.
    #[inline]
    fn turn(&mut self) -> bool {
        match self.state {
            State::Ready if !self.faults.none() => {
                let worked = self.serve_with_faults();
                self.follow_time() || worked
            }
            State::Ready => {
                let admin = self.serve_admin();
                let io = self.serve_io();
                admin || io
            }
            State::Starting(at) => {
                let now = Instant::now() >= at;
                if now {
                    self.become_ready();
                }
                now || self.follow_time()
            }
            State::Stopping => {
                let done = self.jobs_are_done();
                if done {
                    self.state = State::Disabled;
                    self.follow_registers();
                }
                done
            }
            State::CutOff => self.follow_cut_off() || self.follow_time(),
            State::Disabled | State::Failed => self.follow_time(),
        }
    }

    /// Works with what was changed from now on.
    fn take_over(&mut self) {
        let generation = self.shared.generation();
        self.vectors = self.shared.interrupts.snapshot();
        let changes = self.shared.memory_changes.load(Ordering::Acquire);
        if self.memory_seen != changes {
            self.memory_seen = changes;
            self.view = self.shared.memory.view();
            self.check_queue_memory();
            self.check_host_memory();
        }
        if let Some(script) = self.shared.control().script.take() {
            self.faults.set_script(script);
        }
        self.follow_registers();
        self.take_changes();
        self.scan_doorbells();
        self.seen = generation;
        self.shared.set_seen(generation);
    }

    /// Starts, stops or shuts down as the host asked.
    pub(crate) fn follow_registers(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut control = shared.control();
        if !self.follow_requests(&mut control) {
            return;
        }
        if control.function_reset || self.disable_due {
            self.drop_queues();
        }
        control.stopping = self.state == State::Stopping;
        if control.stopping {
            return;
        }
        if std::mem::take(&mut control.function_reset) {
            control.registers.function_reset();
            control.pci.reset();
        }
        if self.state == State::Disabled && control.registers.cc.enabled() {
            self.start(&mut control);
        }
        let registers = &mut control.registers;
        if self.state == State::Disabled {
            registers.controller_reset();
        }
        if registers.cc.shn() != 0 {
            self.host_memory_at_shutdown();
            registers.csts = registers.csts & !CSTS_SHST | CSTS_SHST_COMPLETE;
        }
    }

    /// Makes the admin queues, and becomes ready in time.
    fn start(&mut self, control: &mut Control) {
        if std::mem::take(&mut self.surprised) {
            self.clear_doorbells();
        }
        let failed = match (self.follow_enable(), self.create_admin_queues(&control.registers)) {
            (Follow::Gone, _) => return self.go(control),
            (Follow::Fail, _) => true,
            (Follow::At(at), Ok(())) => {
                self.state = State::Starting(at);
                false
            }
            (Follow::At(_), Err(violation)) => {
                self.shared.violations.add(violation);
                true
            }
        };
        if failed {
            control.registers.csts |= CSTS_CFS;
            self.state = State::Failed;
        }
    }

    fn become_ready(&mut self) {
        self.state = if self.cut_off.is_empty() { State::Ready } else { State::CutOff };
        self.shared.control().registers.csts |= CSTS_RDY;
    }

    /// Stops everything for good, until the host disables the controller.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
        self.shared.control().registers.csts |= CSTS_CFS;
    }

    /// Forgets all queues and what a controller reset loses.
    pub(crate) fn drop_queues(&mut self) {
        self.state = if self.jobs_are_done() { State::Disabled } else { State::Stopping };
        self.queues.clear();
        self.cut_off.clear();
        self.late.clear();
        self.features = Features::new(&self.shared.config);
        self.io.set_extended_formats(false);
        self.events = Events::default();
        self.lose_host_memory();
        if let Some(buffer) = &self.shared.memory_buffer {
            // What was there is lost. It is writable, and no longer than itself.
            let _ = DeviceMemory::of(buffer).fill(0, buffer.len(), 0xFF);
        }
        self.changed.clear();
        self.faults.queues_are_gone();
        self.clear_doorbells();
    }

    fn clear_doorbells(&self) {
        let cells = self.shared.doorbells.cells();
        (0..cells.len()).for_each(|cell| cells.store(cell, 0));
    }

    /// Finds the queues' memory again after mappings changed.
    fn check_queue_memory(&mut self) {
        self.cut_off = self.queues.map_again(&mut self.view);
        self.state = match self.state {
            State::Ready if !self.cut_off.is_empty() => State::CutOff,
            State::CutOff if self.cut_off.is_empty() => State::Ready,
            state => state,
        };
    }

    /// A queue that is used without its memory is the end. Returns whether one is.
    fn follow_cut_off(&mut self) -> bool {
        let finishes = self.nodes.outstanding() + self.late.len() > 0;
        if !finishes && !self.queues.are_used(&self.shared.violations) {
            return false;
        }
        for (queue, place) in std::mem::take(&mut self.cut_off) {
            let detail = format!("the memory of a queue in use at {:#x} is not mapped", place.iova);
            self.shared.violations.add(Violation {
                rule: Rule::DmaFault,
                queue: Some(queue),
                cid: None,
                detail,
            });
        }
        self.fail();
        true
    }

    /// Looks at the doorbells that serving does not look at: of queues that do not exist, and of completion queues with
    /// room.
    fn scan_doorbells(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (cells, violations) = (shared.doorbells.cells(), &shared.violations);
        for cell in 0..cells.len() {
            let queue = (cell / 2) as u16;
            let is_tail = cell == tail_cell(queue);
            if is_tail && let Some(sq) = self.queues.sq(queue) {
                if sq.is_bad() {
                    self.events.raise(Event::INVALID_DOORBELL_VALUE);
                }
            } else if !is_tail && let Some(cq) = self.queues.cq(queue) {
                if !cq.look(violations) {
                    self.events.raise(Event::INVALID_DOORBELL_VALUE);
                }
            } else if cells.load(cell) != 0 && !self.surprised {
                let kind = if is_tail { "tail" } else { "head" };
                let detail = format!(
                    "the {kind} doorbell of a queue that does not exist was set to {}",
                    cells.load(cell)
                );
                violations.add(Violation {
                    rule: Rule::DoorbellRegister,
                    queue: Some(queue),
                    cid: None,
                    detail,
                });
                cells.store(cell, 0);
                self.events.raise(Event::INVALID_DOORBELL_REGISTER);
            }
        }
    }

    /// What is due before the thread stops looking all the time.
    fn going_to_sleep(&mut self) {
        if self.state == State::Ready {
            self.scan_doorbells();
            self.queues.ask_for_doorbells();
        }
    }

    #[inline]
    fn serve_admin(&mut self) -> bool {
        let Some(sq) = self.queues.sq(0) else { return false };
        let tail = sq.tail(&self.shared.violations);
        let due = tail != sq.head || self.events.is_due();
        due && self.serve_admin_until(tail)
    }

    #[cold]
    fn serve_admin_until(&mut self, tail: u32) -> bool {
        let shared = Arc::clone(&self.shared);
        let violations = &shared.violations;
        let mut posted = self.deliver_events();
        while self.state == State::Ready
            && let Some((sq, cq)) = self.queues.pair(0)
            && sq.head != tail
            && cq.has_room(violations)
            && let Some(command) = sq.fetch()
        {
            let cid = command.cid();
            let fresh = sq.cids.begin(cid);
            let check = Checker::new(violations, 0, cid);
            let outcome = if fresh { self.admin(&command, &check) } else { Some((cid_conflict(&check), 0)) };
            let Some((sq, cq)) = self.queues.pair(0) else { break };
            match outcome {
                Some((status, result)) => {
                    let sq_head = sq.head as u16;
                    cq.post(&Completion { result, sq_head, sq_id: 0, cid, status });
                    posted = true;
                    if !status.is_success() {
                        self.errors.add(&command, 0, status);
                    }
                }
                None => sq.cids.hold_last(),
            }
        }
        if let Some((sq, cq)) = self.queues.pair(0) {
            sq.cids.end_batch();
            if let Some(vector) = cq.vector.filter(|_| posted) {
                signal(&self.vectors, vector);
            }
        }
        posted
    }

    /// Answers held event requests. Returns whether it did.
    pub(crate) fn deliver_events(&mut self) -> bool {
        let mut posted = false;
        while self.events.is_due()
            && let Some((sq, cq)) = self.queues.pair(0)
            && cq.has_room(&self.shared.violations)
            && let Some((cid, result)) = self.events.take()
        {
            sq.cids.release(cid);
            let (sq_head, status) = (sq.head as u16, Status::SUCCESS);
            cq.post(&Completion { result: result.into(), sq_head, sq_id: 0, cid, status });
            posted = true;
        }
        posted
    }

    #[inline]
    fn serve_io(&mut self) -> bool {
        let mut worked = self.nodes.outstanding() + self.late.len() > 0 && self.finish_held();
        let Worker { shared, queues, view, io, nodes, vectors, errors, page_bytes, late, .. } = self;
        let rules = PointerRules { page_bytes: *page_bytes, sgls: shared.config.sgls };
        let mut context = IoContext { shared, view, rules, nodes, queue: (0, 0) };
        for index in 0..queues.active_len() {
            let Some((sq, cq)) = queues.active(index) else { continue };
            let tail = sq.tail(&shared.violations);
            if tail == sq.head {
                continue;
            }
            if serve_queue(sq, cq, tail, io, &mut context, errors) {
                worked = true;
                if let Some(vector) = cq.vector {
                    signal(vectors, vector);
                }
            }
        }
        late.append(&mut io.ended);
        worked
    }

    /// Where the doorbells of a new I/O queue are read.
    pub(crate) fn doorbell_of(&self, queue: u16, is_tail: bool) -> Doorbell {
        let cell = if is_tail { tail_cell(queue) } else { head_cell(queue) };
        let register = Doorbell::new(self.shared.doorbells.cells(), cell);
        register.store(0);
        match self.queues.shadow() {
            Some(shadow) if queue != 0 => Doorbell::new(shadow, cell),
            _ => register,
        }
    }
}

/// Serves the entries up to `tail`, or as many as there is room for completions. Returns whether there were any.
#[inline]
fn serve_queue(
    sq: &mut SubmissionQueue,
    cq: &mut CompletionQueue,
    tail: u32,
    io: &mut Io,
    context: &mut IoContext<'_>,
    errors: &mut ErrorLog,
) -> bool {
    let shared = context.shared;
    context.queue = (sq.id, sq.serial);
    let mut posted = false;
    while sq.head != tail && cq.has_room(&shared.violations) {
        let Some(command) = sq.fetch() else { break };
        let cid = command.cid();
        let check = Checker::new(&shared.violations, sq.id, cid);
        let fresh = sq.cids.begin(cid);
        let ended = if fresh { io.carry_out(&command, context, &check) } else { Some(cid_conflict(&check)) };
        let Some(status) = ended else {
            sq.cids.hold_last();
            sq.held += 1;
            continue;
        };
        if !status.is_success() {
            errors.add(&command, sq.id, status);
        }
        let result = io.take_result();
        cq.post(&Completion { result, sq_head: sq.head as u16, sq_id: sq.id, cid, status });
        posted = true;
    }
    io.end_batch(&Checker::new(&shared.violations, sq.id, 0));
    sq.cids.end_batch();
    posted
}

#[cold]
pub(crate) fn cid_conflict(check: &Checker<'_>) -> Status {
    check.refuse(
        Status::CID_CONFLICT,
        Rule::CidReuse,
        "its identifier belongs to a command in flight".to_owned(),
    )
}
