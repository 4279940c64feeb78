//! The lane's eventfd, read through the ring so that a write to it ends the lane's sleep.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::ring::{CqeSink, PlainOp, Ring, SinkId};
use super::shared::Shared;

/// Whether the read is in flight.
#[derive(Default)]
struct Armed(Cell<bool>);

impl CqeSink for Armed {
    fn complete(&self, _key: u64, _result: i32, _flags: u32) {
        self.0.set(false);
    }
}

/// The read of the eventfd. It is armed before the lane first sleeps, and again only once it has fired.
pub(super) struct WakeSource {
    armed: Rc<Armed>,
    sink: SinkId,
}

impl WakeSource {
    pub fn new(ring: &Ring) -> Self {
        let armed = Rc::new(Armed::default());
        let sink = ring.add_sink(Rc::clone(&armed) as Rc<dyn CqeSink>);
        Self { armed, sink }
    }

    #[inline]
    pub fn arm(&self, ring: &Ring, shared: &Shared) {
        if !self.armed.0.replace(true) {
            ring.push_plain(self.sink, 0, PlainOp::DrainEventFd(shared.eventfd()));
        }
    }

    /// Waits until the read is over, so that the kernel holds nothing of the lane's.
    pub fn disarm(&self, ring: &Ring, shared: &Arc<Shared>) {
        if self.armed.0.get() {
            shared.write_eventfd();
        }
        while self.armed.0.get() {
            if let Err(error) = ring.submit_and_wait(1, None) {
                tracing::error!(%error, "the lane's eventfd could not be disarmed");
                break;
            }
            ring.reap();
        }
        ring.remove_sink(self.sink);
    }
}
