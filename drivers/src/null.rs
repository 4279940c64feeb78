//! The `null` driver: a device that does nothing, for measuring everything above it. Named and sized as QEMU's
//! `null-co`.
//!
//! Without a latency every command is done when it is sent. With one, commands wait in the order of their
//! submission, which is that of their deadlines as the latency is the same for all; one timer stands for the first of
//! them, and the clock is read once per batch.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_engine::aio::{AioContext, Readiness, TimerId};
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, Command, Errno, IoResult, LeafQueue, LeafTable, MAX_LENGTH_BYTES,
    Op, ReqFlags, Tag,
};

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

    fn open_queue(&self, ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        let instant = NullQueue { read_zeroes: self.options.read_zeroes, table };
        if self.options.latency_ns == 0 {
            return Ok(Box::new(instant));
        }
        let tags = instant.table.tags() as usize;
        Ok(Box::new(DelayedQueue {
            inner: instant,
            latency: Duration::from_nanos(self.options.latency_ns),
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
    table: LeafTable,
}

impl NullQueue {
    #[inline(always)]
    fn carry_out(read_zeroes: bool, command: &mut Command) -> IoResult {
        if read_zeroes && command.op() == Op::Read {
            let payload = command.payload_mut();
            // The range is the payload's own.
            payload.fill(0, payload.len_bytes(), 0).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    }
}

impl LeafQueue for NullQueue {
    fn commit(&mut self) -> Readiness {
        let mut slots = self.table.borrow();
        while let Some((tag, command)) = slots.take_pending() {
            let result = NullQueue::carry_out(self.read_zeroes, command);
            slots.end(tag, result);
        }
        if slots.has_ended() { Readiness::Ready } else { Readiness::Idle }
    }
}

/// The device in one lane, with latency.
struct DelayedQueue {
    inner: NullQueue,
    latency: Duration,
    /// Waiting, each with its deadline and its outcome, in the order of the deadlines.
    waiting: VecDeque<(Instant, Tag, IoResult)>,
    ctx: AioContext,
    /// Set by the timer when the first deadline has passed.
    due: Rc<Cell<bool>>,
    /// The timer of the first deadline, while it is armed.
    timer: Option<TimerId>,
}

impl DelayedQueue {
    /// Starts the clock of what is pending, and ends what is due.
    fn advance(&mut self) {
        let now = Instant::now();
        if self.due.replace(false) {
            self.timer = None;
        }
        let mut slots = self.inner.table.borrow();
        while let Some((_, tag, result)) = self.waiting.pop_front_if(|(deadline, ..)| *deadline <= now) {
            slots.end(tag, result);
        }
        // A deadline beyond what the clock can tell is never; 30 years are as good.
        let deadline = now.checked_add(self.latency).unwrap_or(now + Duration::from_secs(1 << 30));
        while let Some((tag, command)) = slots.take_pending() {
            let result = NullQueue::carry_out(self.inner.read_zeroes, command);
            self.waiting.push_back((deadline, tag, result));
        }
        drop(slots);
        self.arm();
    }

    fn arm(&mut self) {
        let Some((deadline, ..)) = self.waiting.front() else { return };
        if self.timer.is_none() {
            let due = Rc::clone(&self.due);
            self.timer = Some(self.ctx.add_timer(*deadline, move || due.set(true)));
        }
    }
}

impl LeafQueue for DelayedQueue {
    fn commit(&mut self) -> Readiness {
        let fresh = self.inner.table.borrow().has_pending();
        if fresh || self.due.get() {
            self.advance();
        }
        if self.inner.table.borrow().has_ended() { Readiness::Ready } else { Readiness::Idle }
    }
}

impl Drop for DelayedQueue {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.ctx.cancel_timer(timer);
        }
    }
}
