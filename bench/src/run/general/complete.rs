//! What a completion means: counting, checking, and what follows from it.

use corelane_dma::{IoBuf, Payload};
use corelane_engine::block::{Completion, Errno, IoError, Request};

use super::{General, Purpose};
use crate::run::meter::Meter;
use crate::run::token::Token;
use crate::workload::{Io, VerifyError};

impl<M: Meter> General<'_, '_, M> {
    /// Takes a completion in. `now_ns` is since the start, where anything needs it.
    pub(super) fn complete(&mut self, completion: Completion, now_ns: u64) {
        let Completion { token, result, payload } = completion;
        let token = Token::from_raw(token);
        let index = token.slot();
        let Some(slot) = self.slots.get_mut(index) else { return };
        if let Payload::One(buf) = payload {
            slot.buf = Some(buf);
        }
        let (file, io, then, purpose) = (slot.file, slot.io, slot.then.take(), slot.purpose);
        let error = result.err();
        match purpose {
            Purpose::Nothing => return,
            Purpose::Sync => {
                if error.is_none() {
                    self.meter.synced(&mut self.session.stats, token);
                }
            }
            Purpose::Work | Purpose::Check(_) => {
                if error.is_none() {
                    self.count(token, &io, now_ns);
                }
                if let Some(zones) = &mut self.session.files[file].zones
                    && matches!(purpose, Purpose::Work)
                {
                    zones.ended(&io, error.is_none());
                }
                let checked = self.check(index, error.is_none());
                if let Err(bad) = checked {
                    self.complain(file, &bad);
                }
            }
        }
        if let Some(error) = error {
            self.failed(file, token, &io, error);
        }
        match then {
            Some((write, stamp)) if error.is_none() && !self.stopped => {
                self.issue_then(index as u32, file, write, stamp);
            }
            _ => self.release(index),
        }
    }

    fn count(&mut self, token: Token, io: &Io, now_ns: u64) {
        let direction = io.direction;
        self.session.stats.record_done(direction, u64::from(io.bytes));
        self.meter.done(&mut self.session.stats, token);
        let latencies = self.meter.last();
        if self.pacing.is_needed() {
            self.pacing.completed(latencies.map(|latencies| latencies.total_ns()), now_ns);
        }
        if let Some(latencies) = latencies.filter(|_| !self.logs.is_empty()) {
            self.logs.add(self.session.elapsed_ms(), io, latencies);
        }
    }

    /// Tells the checks of the file that the slot's I/O has ended.
    fn check(&mut self, index: usize, ok: bool) -> Result<(), VerifyError> {
        let slot = &self.slots[index];
        let Some(checks) = self.checks.get_mut(slot.file) else { return Ok(()) };
        let buf: Option<&IoBuf> = slot.buf.as_ref();
        match slot.purpose {
            Purpose::Check(extent) => checks.check_ended(&slot.io, &extent, ok, buf),
            _ => checks.ended(&slot.io, slot.stamp, ok, buf),
        }
    }

    #[cold]
    fn complain(&mut self, file: usize, bad: &VerifyError) {
        let spec = self.session.spec;
        self.session.stats.errors.record(libc::EILSEQ);
        self.complaints.add(&spec.name, &self.session.files[file].path, bad);
        if spec.verify.as_ref().is_some_and(|verify| verify.fatal) {
            self.session
                .note_failure(libc::EILSEQ, "verify: a bad block ends the job (verify_fatal)".to_owned());
            self.stopped = true;
        }
    }

    #[cold]
    fn failed(&mut self, file: usize, token: Token, io: &Io, error: IoError) {
        let path = self.session.files[file].path.clone();
        if !self.session.request_failed(&path, token, io.offset, error) {
            self.stopped = true;
        }
    }

    /// The channel has a place for each slot, so this means that it does not keep its own rule.
    #[cold]
    pub(super) fn not_taken(&mut self, request: Request) {
        let Request { token, payload, .. } = request;
        self.reaped.push_back(Completion { token, result: Err(Errno::EBUSY.into()), payload });
    }

    fn release(&mut self, index: usize) {
        self.slots[index].purpose = Purpose::Nothing;
        self.free.push(index as u32);
        self.in_flight -= 1;
    }
}
