//! What all lanes share of an opened device, and how one request excludes others from a range across lanes.
//!
//! Invariants:
//!
//! - `attention` is not zero while a serialising request is in flight, or the node is drained, closed or has failed. The fast
//!   path reads it once per request and writes nothing shared.
//! - A serialising request waits for every earlier overlapping one (in the order of the list), then for every request
//!   that a lane has tracked; a tracked request never waits for a serialising one. So nobody waits in a circle.
//! - A lane checks the list and tracks its request without giving up the thread in between, and a serialising request
//!   asks each lane by a message after it has raised `attention`; so each overlapping request either is tracked before
//!   the question is answered, or sees the entry.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use corelane_dma::{DmaError, MemRegion, Registered, RegisteredTable};
use crossbeam::utils::CachePadded;

use super::driver::{BlockDriver, ChangeHook, DeviceChange};
use super::errno::{BlockError, IoError};
use super::limits::{BlockLimits, MAX_LENGTH_BYTES};
use super::zoned::ZoneOrder;
use crate::aio::AioHandle;

/// What the fast path reads; on a cache line of its own, since it is written rarely and read by every lane.
#[derive(Debug)]
struct Shared {
    length: AtomicU64,
    attention: AtomicU32,
    closed: AtomicBool,
    /// How many drained sections are open.
    drained: AtomicU32,
}

/// See the module's documentation.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) driver: Arc<dyn BlockDriver>,
    pub(super) limits: BlockLimits,
    pub(super) read_only: bool,
    pub(super) force_fua: bool,
    /// Of a zoned node.
    pub(super) zone_order: ZoneOrder,
    shared: CachePadded<Shared>,
    control: Mutex<Control>,
    /// How requests end since the device is another.
    failed: OnceLock<IoError>,
    hooks: Mutex<Vec<Arc<ChangeHook>>>,
}

#[derive(Default)]
pub(super) struct Control {
    pub(super) lanes: Vec<LaneEntry>,
    /// Written and read under this lock together with `lanes`, so that each lane is told of each region once.
    pub(super) regions: RegisteredTable,
    serial: Vec<SerialEntry>,
    /// Who waits for the end of all drained sections.
    undrained: Vec<Waker>,
    next_id: u64,
}

/// A channel of the node and the lane that it lives in.
#[derive(Clone)]
pub(super) struct LaneEntry {
    pub(super) channel: u64,
    pub(super) handle: AioHandle,
}

struct SerialEntry {
    id: u64,
    start: u64,
    end: u64,
    waiters: Vec<Waker>,
}

impl Node {
    pub(super) fn new(
        name: String,
        driver: Arc<dyn BlockDriver>,
        read_only: bool,
        force_fua: bool,
    ) -> Result<Arc<Node>, BlockError> {
        let limits = *driver.limits();
        let format = driver.format_name();
        limits.validate().map_err(|source| BlockError::Limits { driver: format, source })?;
        let length = driver.length()?;
        if length > MAX_LENGTH_BYTES {
            let expected = format!("at most {MAX_LENGTH_BYTES}");
            return Err(BlockError::Range { what: "the device's length in bytes", value: length, expected });
        }
        let shared = Shared {
            length: AtomicU64::new(length),
            attention: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            drained: AtomicU32::new(0),
        };
        let read_only = read_only || driver.read_only();
        let (shared, control) = (CachePadded::new(shared), Mutex::default());
        let zone_order = ZoneOrder::default();
        let (failed, hooks) = (OnceLock::new(), Mutex::default());
        let node = Arc::new(Node {
            name,
            driver,
            limits,
            read_only,
            force_fua,
            zone_order,
            shared,
            control,
            failed,
            hooks,
        });
        let told = Arc::downgrade(&node);
        node.driver.on_change(Box::new(move |change| {
            if let Some(node) = told.upgrade() {
                node.changed(change);
            }
        }));
        // It may have changed since it was asked.
        node.set_length(node.driver.length()?.min(MAX_LENGTH_BYTES));
        Ok(node)
    }

    /// The device has changed by itself.
    fn changed(&self, change: DeviceChange) {
        match change {
            DeviceChange::Resized { length_bytes } => self.set_length(length_bytes.min(MAX_LENGTH_BYTES)),
            // `attention` stays raised for good.
            DeviceChange::Failed { error } => {
                if self.failed.set(error).is_err() {
                    return;
                }
                self.shared.attention.fetch_add(1, Ordering::SeqCst);
            }
        }
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hooks.iter().for_each(|hook| hook(change));
    }

    /// How requests end since the device is not any more what was opened.
    pub(super) fn failed(&self) -> Option<IoError> {
        self.failed.get().copied()
    }

    /// One more to be told of changes.
    pub(super) fn add_hook(&self, hook: ChangeHook) {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(hook));
    }

    /// The node's length in bytes.
    #[inline]
    pub(super) fn length(&self) -> u64 {
        self.shared.length.load(Ordering::Relaxed)
    }

    pub(super) fn set_length(&self, length: u64) {
        self.shared.length.store(length, Ordering::Release);
    }

    /// Whether requests have to take the slow path, where they look closer.
    #[inline]
    pub(super) fn needs_attention(&self) -> bool {
        self.shared.attention.load(Ordering::Acquire) != 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Refuses requests from now on. `attention` stays raised for good.
    pub(super) fn mark_closed(&self) {
        if !self.shared.closed.swap(true, Ordering::SeqCst) {
            self.shared.attention.fetch_add(1, Ordering::SeqCst);
            self.wake_undrained();
        }
    }

    /// Whether requests are held back.
    pub(super) fn is_drained(&self) -> bool {
        self.shared.drained.load(Ordering::SeqCst) > 0 && !self.is_closed()
    }

    /// Opens a drained section.
    pub(super) fn begin_drained(&self) {
        self.shared.drained.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends one.
    pub(super) fn end_drained(&self) {
        if self.shared.drained.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wake_undrained();
        }
    }

    fn wake_undrained(&self) {
        // Who looks under the lock before this is in the list; who does after it sees what has changed.
        let waiters = std::mem::take(&mut self.control().undrained);
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Whether requests are not held back; if they are, `waker` is woken when that may have changed.
    pub(super) fn poll_undrained(&self, waker: &Waker) -> bool {
        let mut control = self.control();
        if self.is_drained() {
            control.undrained.push(waker.clone());
            return false;
        }
        true
    }

    /// The control half. Poison means that a panic happened between two consistent states: each critical section
    /// below is a plain list operation, so the list is still good.
    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lanes that have a channel on this node now.
    pub(super) fn lanes(&self) -> Vec<LaneEntry> {
        self.control().lanes.clone()
    }

    /// Counts a registration of `region`; returns whether it is new, and the lanes to tell of it then.
    pub(super) fn register_region(
        &self,
        region: &MemRegion,
    ) -> Result<(Registered, Vec<LaneEntry>), DmaError> {
        let control = self.control();
        let registered = control.regions.register(region, ())?;
        Ok((registered, control.lanes.clone()))
    }

    /// Undoes one registration; returns what nobody counts on any more, and the lanes to tell of it.
    pub(super) fn unregister_region(
        &self,
        region: &MemRegion,
    ) -> Result<(Vec<MemRegion>, Vec<LaneEntry>), DmaError> {
        let control = self.control();
        let unused = control.regions.unregister(region.addr(), region.len())?;
        Ok((unused.into_iter().map(|(region, ())| region).collect(), control.lanes.clone()))
    }

    /// Puts a serialising request on `start..end` into the list, behind those that are there. The earlier ones that
    /// overlap are returned; the request may start when they are gone.
    pub(super) fn enter_serial(self: &Arc<Node>, start: u64, end: u64) -> (SerialGuard, Vec<SerialGone>) {
        let attention = Attention::raise(self);
        // One critical section for both: of two requests that come at once, exactly one is the earlier.
        let mut control = self.control();
        let earlier = control.overlaps(self, start, end);
        let id = control.next_id();
        control.serial.push(SerialEntry { id, start, end, waiters: Vec::new() });
        drop(control);
        (SerialGuard { id, attention }, earlier)
    }

    /// The serialising requests in flight that overlap `start..end`.
    pub(super) fn serial_overlaps(self: &Arc<Node>, start: u64, end: u64) -> Vec<SerialGone> {
        self.control().overlaps(self, start, end)
    }
}

impl Control {
    /// A number that was not given out before.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn overlaps(&self, node: &Arc<Node>, start: u64, end: u64) -> Vec<SerialGone> {
        let overlapping = self.serial.iter().filter(|entry| entry.start < end && entry.end > start);
        overlapping.map(|entry| SerialGone { node: Arc::clone(node), id: entry.id }).collect()
    }
}

/// Keeps requests off the fast path until it is dropped.
pub(super) struct Attention(Arc<Node>);

impl Attention {
    pub(super) fn raise(node: &Arc<Node>) -> Attention {
        node.shared.attention.fetch_add(1, Ordering::SeqCst);
        Attention(Arc::clone(node))
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.0.shared.attention.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keeps others off the range until it is dropped.
pub(super) struct SerialGuard {
    id: u64,
    attention: Attention,
}

impl Drop for SerialGuard {
    fn drop(&mut self) {
        let mut control = self.attention.0.control();
        let gone = control.serial.iter().position(|entry| entry.id == self.id);
        let waiters = gone.map(|index| control.serial.remove(index).waiters);
        drop(control);
        for waker in waiters.into_iter().flatten() {
            waker.wake();
        }
    }
}

/// Ready when a serialising request is gone.
pub(super) struct SerialGone {
    node: Arc<Node>,
    id: u64,
}

impl Future for SerialGone {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut control = self.node.control();
        let Some(entry) = control.serial.iter_mut().find(|entry| entry.id == self.id) else {
            return Poll::Ready(());
        };
        if !entry.waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            entry.waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Counts the lanes that have yet to answer a question; ready when all have.
#[derive(Default)]
pub(super) struct Answers {
    shared: Arc<AnswersShared>,
}

#[derive(Default)]
struct AnswersShared {
    missing: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

/// One lane's answer: given by dropping it. So a lane that is gone, or a channel that is, answers too.
pub(super) struct Answer(Arc<AnswersShared>);

impl Answers {
    /// An answer more to wait for.
    pub(super) fn expect(&self) -> Answer {
        self.shared.missing.fetch_add(1, Ordering::SeqCst);
        Answer(Arc::clone(&self.shared))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.0.missing.fetch_sub(1, Ordering::SeqCst) == 1 {
            let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Future for Answers {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The waker is stored before the count is read: an answer in between finds it.
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        match self.shared.missing.load(Ordering::SeqCst) {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}
