//! Zoned nodes: what their zones demand ([`ZoneLimits`]), and writes to a zone one after the other ([`ZoneOrder`]).
//!
//! Invariants:
//! - Of the writes to a zone that have entered, only the first is carried out; it leaves when it is dropped, however it ended.
//! - Within a lane, writes enter in the order in which they were submitted.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::errno::Errno;
use super::node::Node;
use super::request::{Op, Request};

/// What a zoned node demands, whose zones have all to be written in order (QEMU's `BLK_Z_HM`, host-managed). Bytes throughout,
/// but for numbers of zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneLimits {
    /// The size of a zone, a multiple of `request_alignment`. The last zone may be shorter.
    pub zone_size: u64,
    /// How much of each zone can be written, at most `zone_size`; 0 if zones differ or it is not known, so that only their
    /// descriptions tell.
    pub zone_capacity: u64,
    /// Most open zones; 0 for no limit.
    pub max_open: u32,
    /// Most active zones, which are the open and the closed ones; 0 for no limit.
    pub max_active: u32,
    /// The largest append; a multiple of `request_alignment`, at most `zone_size`.
    pub max_append: u32,
    /// Whether the device takes reads that cross from one zone into the next.
    pub cross_reads: bool,
}

impl ZoneLimits {
    /// Whether a range, which is not empty, lies in more than one zone.
    pub fn crosses(&self, offset: u64, bytes: u64) -> bool {
        bytes > self.until_boundary(offset)
    }

    /// How many bytes there are from `offset` to the end of its zone.
    pub fn until_boundary(&self, offset: u64) -> u64 {
        self.zone_size - offset % self.zone_size
    }

    /// Whether a request can be carried out on zones with blocks of `align` bytes at all: writes have to be whole blocks within
    /// one zone, since what lies around them cannot be written again.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn check(&self, request: &Request, align: u32) -> Result<(), Errno> {
        let writes = matches!(request.op, Op::Write | Op::WriteZeroes) && request.bytes > 0;
        let whole = (request.offset | request.bytes).is_multiple_of(align.into());
        if writes && (!whole || self.crosses(request.offset, request.bytes)) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// The writes to a node's zones, in order.
#[derive(Default)]
pub(super) struct ZoneOrder {
    queues: Mutex<HashMap<u64, VecDeque<Entry>>>,
}

struct Entry {
    id: u64,
    waker: Option<Waker>,
}

impl ZoneOrder {
    fn queues(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<Entry>>> {
        // Each critical section is a plain list operation, so that the lists are good even after a panic.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters behind the writes to the same zone that have entered. Ready when they are through; it is this one's turn until it
    /// is dropped.
    pub(super) fn enter(node: &Arc<Node>, zone: u64) -> Turn {
        let id = node.control().next_id();
        node.zone_order.queues().entry(zone).or_default().push_back(Entry { id, waker: None });
        Turn { node: Arc::clone(node), zone, id }
    }
}

/// See [`ZoneOrder::enter`].
pub(super) struct Turn {
    node: Arc<Node>,
    zone: u64,
    id: u64,
}

impl Future for &Turn {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut queues = self.node.zone_order.queues();
        let Some(queue) = queues.get_mut(&self.zone) else { return Poll::Ready(()) };
        match queue.iter_mut().position(|entry| entry.id == self.id) {
            Some(place @ 1..) => {
                queue[place].waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.node.zone_order.queues();
        let Some(queue) = queues.get_mut(&self.zone) else { return };
        queue.retain(|entry| entry.id != self.id);
        let next = queue.front_mut().and_then(|entry| entry.waker.take());
        if queue.is_empty() {
            queues.remove(&self.zone);
        }
        drop(queues);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_crosses_where_its_ends_lie_in_different_zones(
            zone in 1..100u64, offset in 0..1000u64, bytes in 1..300u64,
        ) {
            let limits = ZoneLimits {
                zone_size: zone, zone_capacity: 0, max_open: 0, max_active: 0, max_append: 1, cross_reads: false,
            };
            let last = offset + bytes - 1;
            prop_assert_eq!(limits.crosses(offset, bytes), offset / zone != last / zone);
            let left = limits.until_boundary(offset);
            prop_assert!((1..=zone).contains(&left) && (offset + left).is_multiple_of(zone));
        }
    }
}
