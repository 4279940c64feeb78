//! [`Link`]: the way of a lane's commands to the controller: a queue pair of its own, or another lane's.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use corelane_engine::aio::AioContext;

use super::share::{Guest, HOST_SLOTS, Host};
use crate::nvme::bus::BusError;
use crate::nvme::controller::NvmeController;
use crate::nvme::error::NvmeError;
use crate::nvme::options::Polling;
use crate::nvme::queue::pair::QueuePair;
use crate::nvme::spec::command::Command;

/// How long a lane waits for a queue while others open or close theirs: longer than they may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[allow(clippy::large_enum_variant)] // There is one in a lane, and it is not moved.
pub enum Link {
    /// Own queues, which other lanes may use as well.
    Own(Own),
    /// Another lane's.
    Guest(Guest),
}

/// Queues of this lane.
pub struct Own {
    pub pair: QueuePair,
    pub host: Host,
}

/// Where a command can be put.
pub trait Way {
    /// Whether there is no room for another.
    fn is_full(&self) -> bool;

    /// Puts a command there. False, and nothing is done, if there is no room.
    fn push(&mut self, tag: u32, command: &mut Command) -> bool;
}

impl Way for QueuePair {
    #[inline(always)]
    fn is_full(&self) -> bool {
        QueuePair::is_full(self)
    }

    #[inline(always)]
    fn push(&mut self, tag: u32, command: &mut Command) -> bool {
        let room = !self.is_full();
        if room {
            QueuePair::push(self, tag, command);
        }
        room
    }
}

impl Way for Guest {
    fn is_full(&self) -> bool {
        Guest::is_full(self)
    }

    fn push(&mut self, tag: u32, command: &mut Command) -> bool {
        Guest::push(self, tag, command)
    }
}

impl Link {
    /// The best way that there is, for the tags `0..tags`. Blocks.
    ///
    /// # Errors
    /// Those of creating queues; [`NvmeError::Unusable`] where there is neither a queue nor a lane that has one.
    pub fn open(
        controller: &Arc<NvmeController>,
        ctx: &AioContext,
        tags: u32,
        poll: Polling,
    ) -> Result<Link, NvmeError> {
        let lane = (poll != Polling::On).then(|| ctx.handle());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(pair) = controller.create_queues(tags, HOST_SLOTS, lane.as_ref())? {
                let host = Host::open(controller.hosts(), ctx, tags);
                return Ok(Link::Own(Own { pair, host }));
            }
            if let Some(port) = controller.hosts().choose() {
                return Ok(Link::Guest(Guest::new(port, ctx)));
            }
            // Those that have the queues are just opening or closing them.
            controller.control().settled()?;
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        Err(NvmeError::Unusable {
            address: controller.address().to_owned(),
            what: "the number of I/O queues that can be had",
            value: 0,
            expected: "at least 1".to_owned(),
        })
    }

    /// How many commands have not come back, those of guests included.
    #[inline(always)]
    pub fn in_flight(&self) -> u32 {
        match self {
            Link::Own(own) => own.pair.in_flight(),
            Link::Guest(guest) => guest.in_flight(),
        }
    }

    /// Where commands go.
    pub fn way(&mut self) -> &mut dyn Way {
        match self {
            Link::Own(own) => &mut own.pair,
            Link::Guest(guest) => guest,
        }
    }

    /// Has the controller, or the host, look at what was pushed.
    ///
    /// # Errors
    /// Those of the bus.
    #[inline(always)]
    pub fn tell(&mut self) -> Result<(), BusError> {
        match self {
            Link::Own(own) => {
                own.host.serve(&mut own.pair);
                own.pair.tell_pushed()
            }
            Link::Guest(guest) => {
                guest.tell();
                Ok(())
            }
        }
    }

    /// Whether something has come back.
    #[inline(always)]
    pub fn has_completion(&self) -> bool {
        match self {
            Link::Own(own) => own.pair.has_completion(),
            Link::Guest(guest) => guest.has_answer(),
        }
    }
}
