//! What a job that verifies knows of one of its files: what it wrote where, and what is to be read back.
//!
//! Invariants: I/Os that overlap are never in flight together unless both are reads; a write is recorded when it has
//! completed; so what a read must find is always known.

use std::path::Path;

use corelane_dma::IoBuf;

use crate::options::{JobSpec, VerifySpec};
use crate::run::error::RunError;
use crate::run::{bytes, configs};
use crate::workload::{
    self, Backlog, BlockStamp, Extent, Io, OverlapGuard, Pattern, Verifier, VerifyError, WorkloadConfig,
    WriteCounter, WrittenLog, job_seed, replay,
};

/// How many bad blocks of a job are named; a device that lost everything would fill the disk with messages.
const MAX_NAMED: u64 = 50;

/// What is known of one file.
pub struct Checks {
    verifier: Verifier,
    counter: WriteCounter,
    written: WrittenLog,
    backlog: Option<Backlog>,
    guard: OverlapGuard,
    /// A block of the backlog that is being read back, and how far that is.
    current: Option<(BlockStamp, u64)>,
    /// How far the last pass over everything is; `None` before it.
    final_at: Option<u64>,
}

/// What to check next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextCheck {
    /// Read this.
    Read(Extent),
    /// Something in flight has to end first.
    Wait,
    /// Nothing is due.
    None,
}

impl Checks {
    /// For a job that verifies, on a file with this workload.
    ///
    /// # Errors
    /// When the blocks cannot be verified as asked.
    pub fn new(spec: &JobSpec, verify: &VerifySpec, workload: &WorkloadConfig) -> Result<Checks, RunError> {
        let pattern = match &verify.pattern {
            Some(pattern) => Some(Pattern::new(&pattern.bytes, &pattern.offset_fields)?),
            None => None,
        };
        let seed = job_seed(workload.seed, workload.job_index);
        let smallest = workload.sizes.get(workload::Direction::Write).min_bytes();
        let kind = configs::verify_kind(verify.method);
        let verifier = Verifier::new(kind, pattern, seed, workload.job_index, smallest)?;
        let backlog = verify.backlog_blocks.filter(|_| verify.do_verify && !verify.only);
        Ok(Checks {
            verifier,
            counter: WriteCounter::new(),
            written: WrittenLog::new(),
            backlog: backlog.map(|blocks| Backlog::new(usize::try_from(blocks).unwrap_or(usize::MAX), 0)),
            guard: OverlapGuard::with_depth(spec.depth.iodepth as usize),
            current: None,
            final_at: None,
        })
    }

    /// Takes what an earlier run with the same options wrote as written. `writes` is how many writes it did, where that
    /// is known.
    ///
    /// # Errors
    /// When the options do not say how far the run went.
    pub fn assume_written(&mut self, workload: &WorkloadConfig, writes: Option<u64>) -> Result<(), RunError> {
        self.written = replay(workload, writes)?;
        Ok(())
    }

    /// How blocks are made and checked.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Numbers an I/O; each that the generator made, in its order.
    pub fn stamp(&mut self, io: &Io) -> Option<BlockStamp> {
        self.counter.stamp(io)
    }

    /// Whether an I/O has to wait for one in flight.
    pub fn conflicts(&self, io: &Io) -> bool {
        self.guard.conflicts(io)
    }

    /// An I/O goes into flight. A write's bytes are nobody's from now on.
    pub fn enter(&mut self, io: Io) {
        self.guard.enter(io);
    }

    /// Fills the buffer of a write.
    ///
    /// # Errors
    /// When the buffer is not as long as the block.
    pub fn fill(&self, buf: &mut IoBuf, stamp: &BlockStamp) -> Result<(), VerifyError> {
        bytes::make(buf, |bytes| self.verifier.fill(bytes, stamp))
    }

    /// An I/O has ended. Says what is wrong with what a read found.
    ///
    /// # Errors
    /// The first bad block in what was read.
    pub fn ended(
        &mut self,
        io: &Io,
        stamp: Option<BlockStamp>,
        ok: bool,
        buf: Option<&IoBuf>,
    ) -> Result<(), VerifyError> {
        self.guard.leave(io);
        match (io.direction, stamp) {
            (workload::Direction::Read, _) => match buf {
                Some(buf) if ok => bytes::look(buf, |bytes| {
                    self.written.check_read(&self.verifier, io.offset, bytes).map(drop)
                }),
                _ => Ok(()),
            },
            (workload::Direction::Write, Some(stamp)) if ok => {
                self.written.record(stamp);
                if let Some(backlog) = &mut self.backlog {
                    backlog.push(stamp);
                }
                Ok(())
            }
            _ => {
                self.written.forget(io.offset, u64::from(io.bytes));
                Ok(())
            }
        }
    }

    /// A check's read has ended.
    ///
    /// # Errors
    /// When the bytes are not those that were written.
    pub fn check_ended(
        &mut self,
        io: &Io,
        extent: &Extent,
        ok: bool,
        buf: Option<&IoBuf>,
    ) -> Result<(), VerifyError> {
        self.guard.leave(io);
        match buf {
            Some(buf) if ok => bytes::look(buf, |bytes| extent.check(&self.verifier, bytes)),
            _ => Ok(()),
        }
    }

    /// What the backlog wants to be read back now. The extent counts as taken when it is given.
    pub fn next_due(&mut self) -> NextCheck {
        loop {
            let (stamp, from) = match self.current {
                Some(current) => current,
                None => match self.backlog.as_mut().and_then(Backlog::pop) {
                    Some(stamp) => (stamp, stamp.offset),
                    None => return NextCheck::None,
                },
            };
            self.current = Some((stamp, from));
            let next = self.written.rest_of(&stamp).find(|extent| extent.offset >= from);
            match next {
                None => self.current = None,
                Some(extent) if self.guard.conflicts(&read_of(&extent)) => return NextCheck::Wait,
                Some(extent) => {
                    self.current = Some((stamp, extent.end()));
                    return NextCheck::Read(extent);
                }
            }
        }
    }

    /// Starts the last pass: over what the backlog has left, or over everything.
    pub fn begin_final(&mut self) {
        match &mut self.backlog {
            Some(backlog) => backlog.finish(),
            None => self.final_at = Some(0),
        }
    }

    /// The next of the last pass.
    pub fn next_final(&mut self) -> NextCheck {
        let Some(from) = self.final_at else { return self.next_due() };
        match self.written.next_extent(from) {
            Some(extent) => {
                self.final_at = Some(extent.end());
                NextCheck::Read(extent)
            }
            None => NextCheck::None,
        }
    }
}

/// The read that fetches an extent.
pub fn read_of(extent: &Extent) -> Io {
    Io { offset: extent.offset, bytes: extent.bytes, direction: workload::Direction::Read }
}

/// Names bad blocks, the first so many.
#[derive(Default)]
pub struct Complaints {
    count: u64,
}

impl Complaints {
    /// Tells the user of a bad block, in one line.
    pub fn add(&mut self, job: &str, path: &Path, error: &VerifyError) {
        self.count += 1;
        match self.count {
            ..=MAX_NAMED => crate::run::say(&format!("job {job}: '{}': {error}", path.display())),
            n if n == MAX_NAMED + 1 => {
                crate::run::say(&format!("job {job}: further bad blocks are only counted"))
            }
            _ => {}
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{GlobalSpec, parse_job_text};
    use crate::workload::{Direction, Operations, Order, Region};

    fn checks(options: &str) -> Checks {
        let text = format!("[j]\nrw=randwrite\nsize=1m\nverify=crc32c\n{}\n", options.replace(' ', "\n"));
        let plan = parse_job_text(Path::new("test"), &text, &GlobalSpec::default()).unwrap();
        let spec = &plan.jobs[0];
        let region = Region { offset_bytes: 0, size_bytes: 1 << 20 };
        let workload = WorkloadConfig::new(Order::Random, Operations::Write, region, 4096);
        Checks::new(spec, spec.verify.as_ref().unwrap(), &workload).unwrap()
    }

    fn write(offset: u64) -> Io {
        Io { offset, bytes: 4096, direction: Direction::Write }
    }

    /// A write from its start to its end.
    fn done(checks: &mut Checks, io: Io) {
        let stamp = checks.stamp(&io);
        checks.enter(io);
        checks.ended(&io, stamp, true, None).unwrap();
    }

    #[test]
    fn the_backlog_is_due_after_so_many_writes_in_their_order() {
        let mut checks = checks("verify_backlog=2");
        done(&mut checks, write(8192));
        assert_eq!(checks.next_due(), NextCheck::None);
        done(&mut checks, write(0));
        for offset in [8192, 0] {
            let NextCheck::Read(extent) = checks.next_due() else { panic!("nothing is due") };
            assert_eq!(extent.offset, offset);
        }
        assert_eq!(checks.next_due(), NextCheck::None);
        done(&mut checks, write(4096));
        assert_eq!(checks.next_due(), NextCheck::None);
        checks.begin_final();
        assert!(matches!(checks.next_final(), NextCheck::Read(extent) if extent.offset == 4096));
        assert_eq!(checks.next_final(), NextCheck::None);
    }

    #[test]
    fn a_check_waits_for_the_write_over_it_and_then_skips_what_is_gone() {
        let mut checks = checks("verify_backlog=1");
        let over = write(2048);
        let stamp = checks.stamp(&over);
        checks.enter(over);
        done(&mut checks, write(0));
        assert_eq!(checks.next_due(), NextCheck::Wait);
        checks.ended(&over, stamp, true, None).unwrap();
        let NextCheck::Read(extent) = checks.next_due() else { panic!("nothing is due") };
        assert_eq!((extent.offset, extent.bytes), (0, 2048));
    }

    #[test]
    fn without_a_backlog_everything_is_read_at_the_end() {
        let mut checks = checks("iodepth=4");
        for offset in [8192, 0, 4096] {
            done(&mut checks, write(offset));
        }
        let failed = write(4096);
        let stamp = checks.stamp(&failed);
        checks.enter(failed);
        checks.ended(&failed, stamp, false, None).unwrap();
        checks.begin_final();
        let mut seen = Vec::new();
        while let NextCheck::Read(extent) = checks.next_final() {
            seen.push(extent.offset);
        }
        assert_eq!(seen, [0, 8192], "what failed is unknown");
    }

    #[test]
    fn what_overlaps_is_not_in_flight_together() {
        let mut checks = checks("iodepth=4");
        checks.enter(write(0));
        assert!(checks.conflicts(&write(4095)));
        assert!(!checks.conflicts(&write(4096)));
    }
}
