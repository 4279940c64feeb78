//! Which request goes out next, and why none does.

use corelane_dma::Payload;
use corelane_engine::block::{Op, Rejected, ReqFlags, Request};

use super::checks::{NextCheck, read_of};
use super::pacing::Choice;
use super::{General, Pending, Purpose, Stage};
use crate::run::meter::Meter;
use crate::run::session::LaneFile;
use crate::run::token::Token;
use crate::run::zones::Next;
use crate::workload::{BlockStamp, Direction, Extent, Io, Operations};

/// Why no further request was issued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stall {
    /// The queue is as full as it may be.
    Full,
    /// The batch that goes to the kernel in one go is complete.
    Batch,
    /// Something in flight has to end first.
    Blocked,
    /// Not before this time, in nanoseconds since the start; whether to keep the core busy until then.
    Until(u64, bool),
    /// There is nothing more to do.
    Done,
}

/// What became of an attempt to issue.
enum Step {
    Issued,
    Stall(Stall),
}

impl<M: Meter> General<'_, '_, M> {
    /// Issues requests until something speaks against it.
    pub(super) fn issue(&mut self) -> Stall {
        let depth = self.session.spec.depth;
        let batch = depth.batch_submit.unwrap_or(u32::MAX);
        let mut issued = 0;
        loop {
            if self.in_flight > depth.low {
                if self.draining {
                    return Stall::Full;
                }
            } else {
                self.draining = false;
            }
            if self.in_flight >= self.depth_now() {
                self.draining = depth.low < depth.iodepth;
                return Stall::Full;
            }
            if issued >= batch {
                return Stall::Batch;
            }
            match self.step() {
                Step::Issued => issued += 1,
                Step::Stall(stall) => return stall,
            }
        }
    }

    /// How many may be in flight now.
    fn depth_now(&self) -> u32 {
        match self.stage {
            Stage::Work => self.pacing.depth(),
            Stage::Flush | Stage::Verify => self.session.spec.depth.iodepth,
        }
    }

    fn step(&mut self) -> Step {
        if let Some(file) = self.owed_syncs.pop_front() {
            self.issue_sync(file);
            return Step::Issued;
        }
        match self.stage {
            Stage::Flush => Step::Stall(Stall::Done),
            Stage::Verify => self.step_of_verify(),
            Stage::Work => self.step_of_work(),
        }
    }

    fn step_of_verify(&mut self) -> Step {
        while let Some(checks) = self.checks.get_mut(self.next_file) {
            match checks.next_final() {
                NextCheck::Read(extent) => {
                    self.issue_check(self.next_file, extent);
                    return Step::Issued;
                }
                NextCheck::Wait => return Step::Stall(Stall::Blocked),
                NextCheck::None => self.next_file += 1,
            }
        }
        Step::Stall(Stall::Done)
    }

    fn step_of_work(&mut self) -> Step {
        for file in 0..self.checks.len() {
            match self.checks[file].next_due() {
                NextCheck::Read(extent) => {
                    self.issue_check(file, extent);
                    return Step::Issued;
                }
                NextCheck::Wait => return Step::Stall(Stall::Blocked),
                NextCheck::None => {}
            }
        }
        let now_ns = if self.pacing.is_needed() { self.pacing.now_ns() } else { 0 };
        if let Some((until_ns, spin)) = self.pacing.pause(now_ns) {
            return Step::Stall(Stall::Until(until_ns, spin));
        }
        let pending = match self.held.take() {
            Some(pending) => pending,
            None => match self.generate(now_ns) {
                Ok(pending) => pending,
                Err(stall) => return Step::Stall(stall),
            },
        };
        if self.checks.get(pending.file).is_some_and(|checks| checks.conflicts(&pending.io)) {
            self.held = Some(pending);
            return Step::Stall(Stall::Blocked);
        }
        if let Err(at_ns) = self.charge(&pending, now_ns) {
            self.held = Some(pending);
            return Step::Stall(Stall::Until(at_ns, false));
        }
        self.issue_work(pending);
        Step::Issued
    }

    /// The next I/O of the workload, of the file whose turn it is.
    fn generate(&mut self, now_ns: u64) -> Result<Pending, Stall> {
        // What is to be found again has to come in the generator's own order, whatever the rates.
        let choice =
            if self.checks.is_empty() { self.pacing.choose(self.operations, now_ns) } else { Choice::Any };
        if let Choice::Wait(at_ns) = choice {
            return Err(Stall::Until(at_ns, false));
        }
        if self.left == 0 {
            return Err(Stall::Done);
        }
        for _ in 0..self.session.files.len() {
            let file = self.next_file % self.session.files.len();
            self.next_file = file + 1;
            if self.exhausted[file] {
                continue;
            }
            match self.next_of(file, choice)? {
                Some(io) => return Ok(self.pending(file, io)),
                None => self.exhausted[file] = true,
            }
        }
        Err(Stall::Done)
    }

    /// The next I/O of a file; `None` after the last. Its zones may have something against it, or another place for it.
    fn next_of(&mut self, file: usize, choice: Choice) -> Result<Option<Io>, Stall> {
        let ctx = self.session.ctx;
        let LaneFile { generator, zones, .. } = &mut self.session.files[file];
        let mut next = || match choice {
            Choice::Only(direction) => generator.next_in(direction),
            _ => generator.next_io(),
        };
        let Some(zones) = zones else { return Ok(next()) };
        while let Some(io) = zones.take_waiting().or_else(&mut next) {
            match zones.next(ctx, io) {
                Ok(Next::Issue(io)) => return Ok(Some(io)),
                Ok(Next::Wait) => {
                    // The same file again.
                    self.next_file = file;
                    return Err(Stall::Blocked);
                }
                Ok(Next::Skip) => {}
                Ok(Next::End) => break,
                Err(error) => {
                    self.session.note_failure(error.errno(), error.to_string());
                    self.stopped = true;
                    return Err(Stall::Done);
                }
            }
        }
        Ok(None)
    }

    /// With its number, and with the write that follows a trim.
    fn pending(&mut self, file: usize, io: Io) -> Pending {
        self.left -= 1;
        let stamp = self.checks.get_mut(file).and_then(|checks| checks.stamp(&io));
        let mut then = None;
        if self.operations == Operations::TrimWrite && io.direction == Direction::Trim && self.left > 0 {
            let write = self.session.files[file].generator.next_io();
            self.left -= u64::from(write.is_some());
            then =
                write.map(|write| (write, self.checks.get_mut(file).and_then(|checks| checks.stamp(&write))));
        }
        Pending { file, io, stamp, then }
    }

    fn charge(&mut self, pending: &Pending, now_ns: u64) -> Result<(), u64> {
        self.pacing.start(pending.io.direction, pending.io.bytes, now_ns)
    }

    fn issue_work(&mut self, pending: Pending) {
        let Pending { file, io, stamp, then } = pending;
        let Some(index) = self.take_slot() else { return };
        self.send(index, file, io, stamp, Purpose::Work);
        self.slots[index as usize].then = then;
        if io.direction == Direction::Write {
            self.note_write(file);
        }
    }

    /// Sends the write that follows a trim, in the trim's slot.
    pub(super) fn issue_then(&mut self, index: u32, file: usize, io: Io, stamp: Option<BlockStamp>) {
        // The trim has had to wait for the rates of both; the write is charged when it starts.
        let now_ns = if self.pacing.is_needed() { self.pacing.now_ns() } else { 0 };
        let _ = self.pacing.start(io.direction, io.bytes, now_ns);
        self.send(index, file, io, stamp, Purpose::Work);
        self.note_write(file);
    }

    /// Flushes are owed after so many writes.
    fn note_write(&mut self, file: usize) {
        self.writes_issued += 1;
        let work = &self.session.spec.workload;
        for every in [work.fsync_every_writes, work.fdatasync_every_writes] {
            if every > 0 && self.writes_issued.is_multiple_of(u64::from(every)) {
                self.owed_syncs.push_back(file);
            }
        }
    }

    fn issue_check(&mut self, file: usize, extent: Extent) {
        let Some(index) = self.take_slot() else { return };
        self.send(index, file, read_of(&extent), None, Purpose::Check(extent));
    }

    fn issue_sync(&mut self, file: usize) {
        let Some(index) = self.take_slot() else { return };
        let nothing = Io { offset: 0, bytes: 0, direction: Direction::Write };
        let slot = &mut self.slots[index as usize];
        (slot.purpose, slot.file, slot.io, slot.stamp, slot.then) =
            (Purpose::Sync, file, nothing, None, None);
        self.meter.issue(index);
        self.submit(file, Request::flush().with_token(Token::sync(index).raw()));
    }

    /// There is a free slot whenever the queue is not full.
    fn take_slot(&mut self) -> Option<u32> {
        let index = self.free.pop()?;
        self.in_flight += 1;
        Some(index)
    }

    fn send(&mut self, index: u32, file: usize, io: Io, stamp: Option<BlockStamp>, purpose: Purpose) {
        let slot = &mut self.slots[index as usize];
        (slot.purpose, slot.file, slot.io, slot.stamp, slot.then) = (purpose, file, io, stamp, None);
        let payload = match (io.direction, slot.buf.take()) {
            (Direction::Trim, buf) => {
                slot.buf = buf;
                Payload::None
            }
            (_, Some(mut buf)) => {
                // The pool's blocks hold the largest I/O; were they shorter, the block layer would refuse the request.
                let _ = buf.set_len(io.bytes as usize);
                if let (Some(checks), Some(stamp)) = (self.checks.get(file), &stamp) {
                    let _ = checks.fill(&mut buf, stamp);
                }
                Payload::One(buf)
            }
            (_, None) => Payload::None,
        };
        if let Some(checks) = self.checks.get_mut(file) {
            checks.enter(io);
        }
        let op = match io.direction {
            Direction::Read => Op::Read,
            Direction::Write => Op::Write,
            Direction::Trim => Op::Discard,
        };
        self.meter.issue(index);
        let token = Token::new(index, &io).raw();
        let bytes = u64::from(io.bytes);
        self.submit(file, Request { op, flags: ReqFlags::empty(), offset: io.offset, bytes, payload, token });
    }

    fn submit(&mut self, file: usize, request: Request) {
        self.issued += 1;
        if let Err(Rejected(request)) = self.session.files[file].channel.submit(request) {
            self.not_taken(request);
        }
    }
}
