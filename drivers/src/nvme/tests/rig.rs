//! A queue of one lane on a scripted controller, and what drives it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{
    BlockDriver, CommandTable, IoResult, LeafCommand, LeafCompletion, LeafQueue, Op, ReqFlags, Tag,
};

use super::fake::{Fake, Script};
use super::start;
use crate::nvme::spec::Nsid;
use crate::nvme::{NvmeController, NvmeDriver, NvmeOptions, Polling};

/// A queue of one lane, and what drives it.
pub struct Rig {
    // First: it lets go of the table.
    pub queue: Box<dyn LeafQueue>,
    pub table: CommandTable,
    pub ctx: AioContext,
    pub region: Rc<MemRegion>,
    pub controller: Arc<NvmeController>,
    pub fake: Arc<Fake>,
}

impl Rig {
    pub fn new(script: Script, tags: u32) -> Rig {
        Rig::polling(script, tags, Polling::On)
    }

    pub fn polling(script: Script, tags: u32, poll: Polling) -> Rig {
        let (fake, controller) = start(script);
        let controller = controller.unwrap();
        let options = NvmeOptions { poll, ..NvmeOptions::default() };
        let driver = NvmeDriver::open(&controller, Nsid(1), &options).unwrap();
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let (table, leaf) = CommandTable::new(tags);
        let mut queue = driver.open_queue(&ctx, leaf).unwrap();
        let buffer = DmaBuffer::new(tags as usize * 4096, 4096, Backing::Pages).unwrap();
        let region = Rc::new(MemRegion::from_buffer(buffer));
        queue.register_buf(&region).unwrap();
        Rig { queue, table, ctx, region, controller, fake }
    }

    pub fn put(&self, tag: u32, op: Op) {
        let buf = IoBuf::lease(&self.region, tag as usize * 4096, 4096).unwrap();
        let payload = if matches!(op, Op::Read | Op::Write) { Payload::One(buf) } else { Payload::None };
        let (offset, bytes) = (u64::from(tag) * 4096, 4096);
        let command = LeafCommand { op, flags: ReqFlags::empty(), offset, bytes, payload };
        self.table.put(Tag(tag), command).unwrap();
    }

    /// One turn of the lane.
    pub fn turn(&mut self) {
        self.queue.commit();
        self.queue.reap();
        self.ctx.turn(Wait::No);
    }

    /// Turns until `count` commands have ended.
    pub fn ended(&mut self, count: usize) -> Vec<LeafCompletion> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut ended = Vec::new();
        while ended.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} commands ended", ended.len());
            self.turn();
            ended.extend(self.table.take_ended());
        }
        self.turn();
        ended.extend(self.table.take_ended());
        assert_eq!((ended.len(), self.table.bogus()), (count, 0));
        ended.sort_by_key(|completion| completion.tag);
        ended
    }
}

pub fn results(ended: &[LeafCompletion]) -> Vec<IoResult> {
    ended.iter().map(|completion| completion.result).collect()
}
