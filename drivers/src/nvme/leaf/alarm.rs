//! [`Alarm`]: a read of the queue's eventfd in the lane's ring, which ends the lane's sleep when an interrupt comes.
//!
//! It is armed before the lane may sleep, while something is in flight, and again only once it has fired. An eventfd keeps
//! its count, so an interrupt that comes between the last look at the queue and the sleep ends the sleep as well.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use corelane_engine::aio::{AioContext, CqeSink, PlainOp, Ring, SinkId};

use crate::nvme::interrupt::VectorUse;

/// How long a read that is to end is waited for, before it is signalled again.
const ROUND: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Armed {
    armed: Cell<bool>,
    fired: Cell<bool>,
}

impl CqeSink for Armed {
    fn complete(&self, _key: u64, _result: i32, _flags: u32) {
        self.armed.set(false);
        self.fired.set(true);
    }
}

/// See the module's documentation.
pub struct Alarm {
    armed: Rc<Armed>,
    sink: SinkId,
    ring: Rc<Ring>,
}

impl Alarm {
    /// For the lane of `ctx`.
    pub fn new(ctx: &AioContext) -> Alarm {
        let armed = Rc::new(Armed::default());
        let ring = Rc::clone(ctx.ring());
        let sink = ring.add_sink(Rc::clone(&armed) as Rc<dyn CqeSink>);
        Alarm { armed, sink, ring }
    }

    /// Makes sure that an interrupt ends the lane's sleep.
    #[inline]
    pub fn arm(&self, vector: &VectorUse) {
        if !self.armed.armed.replace(true) {
            self.ring.push_plain(self.sink, 0, PlainOp::DrainEventFd(vector.eventfd()));
        }
    }

    /// Whether no interrupt has come since it was armed.
    pub fn is_waiting(&self) -> bool {
        self.armed.armed.get() && !self.armed.fired.get()
    }

    /// Passes an interrupt on that this lane has taken, in case others wait for the same vector.
    #[inline]
    pub fn pass_on(&self, vector: &VectorUse) {
        if self.armed.fired.replace(false) {
            vector.pass_on();
        }
    }

    /// Ends the read, so that the kernel holds nothing of the queue's.
    pub fn disarm(&self, vector: &VectorUse) {
        // In rounds: another lane with the same vector may take the signal away.
        while self.armed.armed.get() {
            vector.signal();
            if let Err(error) = self.ring.submit_and_wait(1, Some(ROUND)) {
                tracing::error!(%error, "the eventfd of an interrupt could not be disarmed");
                break;
            }
            self.ring.reap();
        }
        vector.pass_on();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.ring.remove_sink(self.sink);
    }
}
