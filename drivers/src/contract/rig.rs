//! What a check drives: a queue as a poller of an event loop, with its own book of what is in flight.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_dma::{Backing, BlockPool, IoVector, Payload};
use corelane_engine::aio::{AioConfig, AioContext, Poller, PollerId, Readiness, Wait};
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, CommandTable, Errno, IoResult, LeafCommand, LeafCompletion,
    LeafQueue, Op, ReqFlags, Tag,
};

use super::{ContractOptions, Factory, SPAN_BYTES};

/// How long nothing may happen with commands in flight.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a driver breaks the contract.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{check}: {detail}")]
pub struct Violation {
    /// The check.
    pub check: &'static str,
    /// What happened, and what should have.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(detail: impl Into<String>) -> Violation {
        Violation { check: "set-up", detail: detail.into() }
    }

    pub(super) fn within(mut self, check: &'static str) -> Violation {
        self.check = check;
        self
    }
}

impl From<BlockError> for Violation {
    fn from(error: BlockError) -> Violation {
        Violation::new(error.to_string())
    }
}

impl From<corelane_dma::DmaError> for Violation {
    fn from(error: corelane_dma::DmaError) -> Violation {
        Violation::new(error.to_string())
    }
}

/// A violation unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($detail:tt)+) => {
        if !$condition {
            return Err(Violation::new(format!($($detail)+)));
        }
    };
}
pub(super) use ensure;

/// The queue in the loop, and its table: what it ends waits there for the rig to look at.
struct QueuePoller {
    // First to go: it may hold the table's memory.
    queue: RefCell<Box<dyn LeafQueue>>,
    commands: CommandTable,
    ended: RefCell<Vec<LeafCompletion>>,
}

impl Poller for QueuePoller {
    fn commit(&self) -> Readiness {
        self.queue.borrow_mut().commit()
    }

    fn reap(&self) -> bool {
        self.queue.borrow_mut().reap();
        let ended = self.commands.take_ended();
        let any = !ended.is_empty();
        self.ended.borrow_mut().extend(ended);
        any
    }
}

/// What a tag is busy with.
#[derive(Clone, PartialEq, Eq, Debug)]
struct InFlight {
    segments: Vec<(usize, usize)>,
}

/// A driver, a lane, a queue, and the book of what is in flight.
pub(super) struct Rig {
    poller: Option<Rc<QueuePoller>>,
    id: Option<PollerId>,
    driver: Box<dyn BlockDriver>,
    ctx: AioContext,
    busy: Vec<Option<InFlight>>,
    commands: u64,
    unsupported: Vec<&'static str>,
    /// Random numbers: SplitMix64.
    random: u64,
    pub tags: u32,
    pub keeps_data: bool,
    /// Unit of everything that the checks do: aligned for offsets, lengths and memory.
    pub unit: usize,
    /// Blocks of memory, aligned to `unit`, each `block_bytes` long.
    pub pool: BlockPool,
    pub block_bytes: usize,
    pub limits: BlockLimits,
}

impl Rig {
    pub fn new(factory: Factory<'_>, options: &ContractOptions) -> Result<Rig, Violation> {
        let driver = factory()?;
        let limits = *driver.limits();
        let length = driver.length()?;
        ensure!(length >= SPAN_BYTES, "the device has {length} bytes, but needs at least {SPAN_BYTES}");
        ensure!(options.tags >= 2, "a queue of {} tags is too short to check", options.tags);
        let unit = limits.request_alignment.max(limits.min_mem_alignment).max(512) as usize;
        let block_bytes = unit.max(4096);
        ensure!(
            limits.max_transfer == 0 || limits.max_transfer as usize >= block_bytes,
            "max_transfer is too small"
        );
        // Twice the depth: one set in flight, one to look at.
        let pool = BlockPool::new(block_bytes, 2 * options.tags as usize, block_bytes, Backing::Pages)?;
        let ctx =
            AioContext::new(&AioConfig::default()).map_err(|error| Violation::new(error.to_string()))?;
        let mut rig = Rig {
            poller: None,
            id: None,
            driver,
            ctx,
            busy: vec![None; options.tags as usize],
            commands: 0,
            unsupported: Vec::new(),
            random: options.seed,
            tags: options.tags,
            keeps_data: options.keeps_data,
            unit,
            pool,
            block_bytes,
            limits,
        };
        rig.open_queue()?;
        Ok(rig)
    }

    /// Opens a queue. The last one must have been dropped.
    pub fn open_queue(&mut self) -> Result<(), Violation> {
        let (commands, table) = CommandTable::new(self.tags);
        let queue = RefCell::new(self.driver.open_queue(&self.ctx, table)?);
        let poller = Rc::new(QueuePoller { queue, commands, ended: RefCell::default() });
        self.id = Some(self.ctx.add_poller(Rc::clone(&poller) as Rc<dyn Poller>));
        self.poller = Some(poller);
        Ok(())
    }

    /// Drops the queue, with whatever is in flight.
    pub fn drop_queue(&mut self) {
        if let Some(id) = self.id.take() {
            self.ctx.remove_poller(id);
        }
        self.poller = None;
        self.busy.fill(None);
    }

    fn poller(&self) -> Result<Rc<QueuePoller>, Violation> {
        self.poller.clone().ok_or_else(|| Violation::new("the queue was dropped"))
    }

    /// Lets the check use the queue directly.
    pub fn with_queue<T>(&self, f: impl FnOnce(&mut dyn LeafQueue) -> T) -> Result<T, Violation> {
        Ok(f(&mut **self.poller()?.queue.borrow_mut()))
    }

    pub fn driver(&self) -> &dyn BlockDriver {
        &*self.driver
    }

    pub fn commands(&self) -> u64 {
        self.commands
    }

    pub fn unsupported(&self) -> Vec<&'static str> {
        self.unsupported.clone()
    }

    /// A random number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// A block of the pool with `len` bytes showing.
    pub fn block(&self, len: usize) -> Result<Payload, Violation> {
        let mut buf =
            self.pool.take().ok_or_else(|| Violation::new("memory that was given up did not come back"))?;
        buf.set_len(len)?;
        Ok(Payload::One(buf))
    }

    /// A vector of blocks with these lengths.
    pub fn vector(&self, lens: &[usize]) -> Result<Payload, Violation> {
        let mut vector = IoVector::new();
        for len in lens {
            if let Payload::One(buf) = self.block(*len)? {
                vector.push(buf);
            }
        }
        Ok(Payload::from(vector))
    }

    /// Submits a command on a tag that must be free.
    pub fn submit(
        &mut self,
        tag: u32,
        op: Op,
        flags: ReqFlags,
        at: (u64, u64),
        payload: Payload,
    ) -> Result<(), Violation> {
        let place = &mut self.busy[tag as usize];
        ensure!(place.is_none(), "tag {tag} is in use");
        let carried = payload.len_bytes() as u64;
        ensure!(
            carried == at.1 || !matches!(op, Op::Read | Op::Write),
            "{op:?} of {} bytes with memory for {carried}",
            at.1
        );
        *place = Some(InFlight { segments: segments(&payload) });
        let command = LeafCommand { op, flags, offset: at.0, bytes: at.1, payload };
        let refused = self.poller()?.commands.put(Tag(tag), command).is_err();
        ensure!(!refused, "the tag {tag}, whose command has ended, is not free");
        self.commands += 1;
        Ok(())
    }

    /// Waits for the next completions, at least one, and checks them against the book.
    pub fn wait(&mut self) -> Result<Vec<LeafCompletion>, Violation> {
        let poller = self.poller()?;
        let deadline = Instant::now() + PATIENCE;
        // It only has to end the lane's sleep.
        let timer = self.ctx.add_timer(deadline, || {});
        while poller.ended.borrow().is_empty() {
            self.ctx.turn(Wait::Yes);
            ensure!(Instant::now() < deadline, "nothing completed within {PATIENCE:?}");
        }
        self.ctx.cancel_timer(timer);
        let bogus = poller.commands.bogus();
        ensure!(bogus == 0, "{bogus} commands were ended that the queue did not have");
        let done = std::mem::take(&mut *poller.ended.borrow_mut());
        for completion in &done {
            self.book(completion)?;
        }
        Ok(done)
    }

    fn book(&mut self, completion: &LeafCompletion) -> Result<(), Violation> {
        let tag = completion.tag.0;
        let Some(place) = self.busy.get_mut(tag as usize) else {
            return Err(Violation::new(format!("a completion for tag {tag}, which was never used")));
        };
        let Some(expected) = place.take() else {
            return Err(Violation::new(format!("a completion for tag {tag}, which has nothing in flight")));
        };
        let came = segments(&completion.payload);
        ensure!(
            expected.segments == came,
            "tag {tag} came with {:x?} and went with {came:x?}",
            expected.segments
        );
        Ok(())
    }

    /// How many commands are in flight.
    pub fn in_flight(&self) -> usize {
        self.busy.iter().flatten().count()
    }

    /// Waits for everything; each command must have succeeded.
    pub fn wait_for_all(&mut self) -> Result<Vec<LeafCompletion>, Violation> {
        let mut all = Vec::new();
        while self.in_flight() > 0 {
            all.extend(self.wait()?);
        }
        if let Some(failed) = all.iter().find(|completion| completion.result.is_err()) {
            return Err(Violation::new(format!("tag {} failed: {:?}", failed.tag.0, failed.result)));
        }
        // Anything more would be a completion too many.
        self.ctx.turn(Wait::No);
        let poller = self.poller()?;
        let strays = poller.ended.borrow().len() as u64 + poller.commands.bogus();
        ensure!(strays == 0, "{strays} completions more than commands");
        Ok(all)
    }

    /// One command alone, on a tag by chance.
    pub fn one(
        &mut self,
        op: Op,
        flags: ReqFlags,
        at: (u64, u64),
        payload: Payload,
    ) -> Result<(IoResult, Payload), Violation> {
        let tag = self.below(u64::from(self.tags)) as u32;
        self.submit(tag, op, flags, at, payload)?;
        let mut done = self.wait()?;
        ensure!(done.len() == 1, "{} completions of one command", done.len());
        let LeafCompletion { result, payload, .. } = done.remove(0);
        Ok((result, payload))
    }

    /// As [`one`](Self::one), for what must succeed.
    pub fn must(
        &mut self,
        op: Op,
        flags: ReqFlags,
        at: (u64, u64),
        payload: Payload,
    ) -> Result<Payload, Violation> {
        let (result, payload) = self.one(op, flags, at, payload)?;
        ensure!(result.is_ok(), "{op:?} with {flags:?} of {} bytes at {} failed: {result:?}", at.1, at.0);
        Ok(payload)
    }

    /// As [`one`](Self::one), for what may also be answered with ENOTSUP: false then.
    pub fn may(
        &mut self,
        what: &'static str,
        op: Op,
        flags: ReqFlags,
        at: (u64, u64),
    ) -> Result<bool, Violation> {
        match self.one(op, flags, at, Payload::None)?.0 {
            Ok(()) => Ok(true),
            Err(error) if error.errno == Errno::ENOTSUP => {
                self.unsupported.push(what);
                Ok(false)
            }
            Err(error) => {
                Err(Violation::new(format!("{what} of {} bytes at {} failed: {error}", at.1, at.0)))
            }
        }
    }

    /// Reads a range that is not longer than a block.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Violation> {
        let payload = self.block(len)?;
        let payload = self.must(Op::Read, ReqFlags::empty(), (offset, len as u64), payload)?;
        bytes_of(&payload)
    }

    /// Writes a range that is not longer than a block.
    pub fn write(&mut self, offset: u64, flags: ReqFlags, bytes: &[u8]) -> Result<(), Violation> {
        let mut payload = self.block(bytes.len())?;
        payload.copy_from(0, bytes)?;
        self.must(Op::Write, flags, (offset, bytes.len() as u64), payload).map(drop)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drop_queue();
        self.ctx.shutdown();
    }
}

/// Address and length of every buffer of a payload.
fn segments(payload: &Payload) -> Vec<(usize, usize)> {
    payload.as_bufs().iter().map(|buf| (buf.addr(), buf.len())).collect()
}

/// A copy of a payload's bytes.
pub(super) fn bytes_of(payload: &Payload) -> Result<Vec<u8>, Violation> {
    let mut bytes = vec![0; payload.len_bytes()];
    payload.copy_to(0, &mut bytes)?;
    Ok(bytes)
}
