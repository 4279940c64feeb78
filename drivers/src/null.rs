//! The `null` driver: a device that does nothing, for measuring everything above it. Named and sized as QEMU's
//! `null-co`.
//!
//! Without a latency every command is done when it is submitted. With one, commands wait in the order of their
//! submission, which is that of their deadlines as the latency is the same for all; one timer stands for the first of
//! them, and the clock is read once per batch.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_engine::aio::{AioContext, Readiness, TimerId};
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, Errno, IoResult, LeafCommand, LeafCompletion, LeafQueue,
    MAX_LENGTH_BYTES, Op, ReqFlags, Tag,
};

use crate::done::hand_over;

/// How the device appears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NullOptions {
    /// Length in bytes; QEMU's `size`, 1 GiB if nothing is said.
    pub size_bytes: u64,
    /// How long each command takes at least, in nanoseconds; QEMU's `latency-ns`. It ends with the first turn of the
    /// lane after that.
    pub latency_ns: u64,
    /// Whether reads fill the memory with zeroes; QEMU's `read-zeroes`. Else they leave it as it is.
    pub read_zeroes: bool,
}

impl Default for NullOptions {
    fn default() -> NullOptions {
        NullOptions { size_bytes: 1 << 30, latency_ns: 0, read_zeroes: false }
    }
}

/// A device that does nothing.
#[derive(Debug)]
pub struct NullDriver {
    options: NullOptions,
    limits: BlockLimits,
}

impl NullDriver {
    /// Makes the device.
    ///
    /// # Errors
    /// [`BlockError::Range`] for a length that no device may have.
    pub fn open(options: &NullOptions) -> Result<NullDriver, BlockError> {
        if options.size_bytes > MAX_LENGTH_BYTES {
            return Err(BlockError::Range {
                what: "the size of a null device",
                value: options.size_bytes,
                expected: format!("at most {MAX_LENGTH_BYTES} bytes"),
            });
        }
        Ok(NullDriver { options: *options, limits: BlockLimits::default() })
    }
}

impl BlockDriver for NullDriver {
    fn format_name(&self) -> &'static str {
        "null"
    }

    fn limits(&self) -> &BlockLimits {
        &self.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        Ok(self.options.size_bytes)
    }

    fn supported_write_flags(&self) -> ReqFlags {
        ReqFlags::FUA
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        Some(ReqFlags::FUA | ReqFlags::MAY_UNMAP)
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn allocated_size(&self) -> Result<u64, BlockError> {
        Ok(0)
    }

    fn open_queue(&self, ctx: &AioContext, tags: u32) -> Result<Box<dyn LeafQueue>, BlockError> {
        let read_zeroes = self.options.read_zeroes;
        let tags = tags as usize;
        let instant = NullQueue { read_zeroes, tags, done: Vec::with_capacity(tags) };
        if self.options.latency_ns == 0 {
            return Ok(Box::new(instant));
        }
        Ok(Box::new(DelayedQueue {
            inner: instant,
            latency: Duration::from_nanos(self.options.latency_ns),
            fresh: Vec::with_capacity(tags),
            waiting: VecDeque::with_capacity(tags),
            ctx: ctx.clone(),
            due: Rc::new(Cell::new(false)),
            timer: None,
        }))
    }
}

/// The device in one lane, without latency.
struct NullQueue {
    read_zeroes: bool,
    tags: usize,
    /// What is done; at most one entry per tag, so that it never grows.
    done: Vec<LeafCompletion>,
}

impl NullQueue {
    #[inline]
    fn carry_out(&self, command: &mut LeafCommand) -> IoResult {
        if self.read_zeroes && command.op == Op::Read {
            let len = command.payload.len_bytes();
            // The range is the payload's own.
            command.payload.fill(0, len, 0).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    }
}

impl LeafQueue for NullQueue {
    #[inline]
    fn submit(&mut self, tag: Tag, mut command: LeafCommand) -> Result<(), LeafCommand> {
        if self.done.len() >= self.tags {
            return Err(command);
        }
        let result = self.carry_out(&mut command);
        self.done.push(LeafCompletion::new(tag, result, command.payload));
        Ok(())
    }

    #[inline]
    fn commit(&mut self) -> Readiness {
        if self.done.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    #[inline]
    fn reap(&mut self, out: &mut Vec<LeafCompletion>) {
        hand_over(&mut self.done, out, self.tags);
    }
}

/// The device in one lane, with latency.
struct DelayedQueue {
    inner: NullQueue,
    latency: Duration,
    /// Submitted since the last commit; their latency starts there.
    fresh: Vec<LeafCompletion>,
    /// Waiting, each with its deadline, in the order of the deadlines.
    waiting: VecDeque<(Instant, LeafCompletion)>,
    ctx: AioContext,
    /// Set by the timer when the first deadline has passed.
    due: Rc<Cell<bool>>,
    /// The timer of the first deadline, while it is armed.
    timer: Option<TimerId>,
}

impl DelayedQueue {
    /// Starts the clock of what was submitted, and ends what is due.
    fn advance(&mut self) {
        let now = Instant::now();
        if self.due.replace(false) {
            self.timer = None;
        }
        while let Some((_, completion)) = self.waiting.pop_front_if(|(deadline, _)| *deadline <= now) {
            self.inner.done.push(completion);
        }
        // A deadline beyond what the clock can tell is never; 30 years are as good.
        let deadline = now.checked_add(self.latency).unwrap_or(now + Duration::from_secs(1 << 30));
        self.waiting.extend(self.fresh.drain(..).map(|completion| (deadline, completion)));
        self.arm();
    }

    fn arm(&mut self) {
        let Some((deadline, _)) = self.waiting.front() else { return };
        if self.timer.is_none() {
            let due = Rc::clone(&self.due);
            self.timer = Some(self.ctx.add_timer(*deadline, move || due.set(true)));
        }
    }
}

impl LeafQueue for DelayedQueue {
    #[inline]
    fn submit(&mut self, tag: Tag, mut command: LeafCommand) -> Result<(), LeafCommand> {
        let taken = self.fresh.len() + self.waiting.len() + self.inner.done.len();
        if taken >= self.inner.tags {
            return Err(command);
        }
        let result = self.inner.carry_out(&mut command);
        self.fresh.push(LeafCompletion::new(tag, result, command.payload));
        Ok(())
    }

    #[inline]
    fn commit(&mut self) -> Readiness {
        if !self.fresh.is_empty() || self.due.get() {
            self.advance();
        }
        self.inner.commit()
    }

    #[inline]
    fn reap(&mut self, out: &mut Vec<LeafCompletion>) {
        self.inner.reap(out);
    }
}

impl Drop for DelayedQueue {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.ctx.cancel_timer(timer);
        }
    }
}
