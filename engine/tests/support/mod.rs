//! A device for the block layer's tests: RAM that checks each command against its limits, completes late and out of
//! order, and fails where told to.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use corelane_dma::{Backing, BlockPool, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_engine::aio::{AioConfig, AioContext, Readiness};
use corelane_engine::block::{
    BackendOptions, BlockBackend, BlockDriver, BlockError, BlockLimits, Command, Errno, LeafQueue, LeafTable,
    Op, ReqFlags, Tag,
};

/// How the device behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub limits: BlockLimits,
    pub length: u64,
    pub read_only: bool,
    /// Turns of the loop from commit to completion; 0 completes at once.
    pub delay: u32,
    /// Completions come newest first.
    pub reverse: bool,
    pub write_flags: ReqFlags,
    pub zero_flags: Option<ReqFlags>,
    /// The device answers ENOTSUP to write-zeroes and discard though it claims to support them.
    pub rejects_ranges: bool,
    pub discard: bool,
    /// Commands that the queue holds at once.
    pub room: usize,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            limits: BlockLimits::default(),
            length: 1 << 20,
            read_only: false,
            delay: 0,
            reverse: false,
            write_flags: ReqFlags::empty(),
            zero_flags: Some(ReqFlags::MAY_UNMAP),
            rejects_ranges: false,
            discard: true,
            room: usize::MAX,
        }
    }
}

/// The device. Its content and what it saw are shared by all its queues.
pub struct TestDevice {
    pub behaviour: Behaviour,
    pub data: Mutex<Vec<u8>>,
    /// Commands seen, by kind.
    pub seen: [AtomicU64; Op::COUNT],
    pub fua_seen: AtomicU64,
    pub registered: AtomicU32,
    /// How far each zone is written, from its start.
    pub pointers: Mutex<HashMap<u64, u64>>,
    /// Commands that fail with this errno, as (first byte, end, raw errno).
    pub bad: Mutex<Option<(u64, u64, i32)>>,
}

impl TestDevice {
    pub fn new(behaviour: Behaviour) -> Arc<TestDevice> {
        let align = u64::from(behaviour.limits.request_alignment);
        let size = behaviour.length.next_multiple_of(align) as usize;
        Arc::new(TestDevice {
            behaviour,
            data: Mutex::new((0..size).map(|i| (i % 251) as u8).collect()),
            seen: Default::default(),
            fua_seen: AtomicU64::new(0),
            registered: AtomicU32::new(0),
            pointers: Mutex::default(),
            bad: Mutex::new(None),
        })
    }

    pub fn backend(self: &Arc<Self>) -> BlockBackend {
        self.backend_with(BackendOptions::default())
    }

    pub fn backend_with(self: &Arc<Self>, options: BackendOptions) -> BlockBackend {
        BlockBackend::new(Arc::new(Shared(Arc::clone(self))), options).expect("a backend on the test device")
    }

    pub fn seen(&self, op: Op) -> u64 {
        self.seen[op as usize].load(Ordering::Relaxed)
    }
}

struct Shared(Arc<TestDevice>);

impl BlockDriver for Shared {
    fn format_name(&self) -> &'static str {
        "test"
    }

    fn limits(&self) -> &BlockLimits {
        &self.0.behaviour.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        Ok(self.0.behaviour.length)
    }

    fn read_only(&self) -> bool {
        self.0.behaviour.read_only
    }

    fn supported_write_flags(&self) -> ReqFlags {
        self.0.behaviour.write_flags
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        self.0.behaviour.zero_flags
    }

    fn can_discard(&self) -> bool {
        self.0.behaviour.discard
    }

    fn truncate(&self, length_bytes: u64) -> Result<(), BlockError> {
        self.0.data.lock().expect("the content").resize(length_bytes as usize, 0);
        Ok(())
    }

    fn open_queue(&self, _: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        let waiting = Vec::with_capacity(table.tags() as usize);
        Ok(Box::new(TestQueue { device: Arc::clone(&self.0), table, waiting, turn: 0 }))
    }
}

struct TestQueue {
    device: Arc<TestDevice>,
    table: LeafTable,
    waiting: Vec<Waiting>,
    turn: u32,
}

struct Waiting {
    due: u32,
    tag: Tag,
    /// Of a read, which sees the content at the command's start. Anything else takes effect at its end.
    early: Option<Result<(), Errno>>,
}

fn carry_out(device: &TestDevice, command: &mut Command) -> Result<(), Errno> {
    device.seen[command.op() as usize].fetch_add(1, Ordering::Relaxed);
    device.fua_seen.fetch_add(command.flags().contains(ReqFlags::FUA).into(), Ordering::Relaxed);
    let (start, end) = (command.offset(), command.offset() + command.bytes());
    if let Some((bad_start, bad_end, errno)) = *device.bad.lock().expect("the bad range")
        && start < bad_end
        && end > bad_start
    {
        return Err(Errno::from_raw(errno));
    }
    if let Some(zones) = device.behaviour.limits.zoned
        && matches!(command.op(), Op::Write | Op::WriteZeroes)
    {
        let mut pointers = device.pointers.lock().expect("the pointers");
        let pointer = pointers.entry(start / zones.zone_size).or_default();
        if *pointer != start % zones.zone_size {
            return Err(Errno::EIO);
        }
        *pointer += end - start;
    }
    let mut data = device.data.lock().expect("the content");
    let range = start as usize..end as usize;
    match command.op() {
        Op::Read => command.payload_mut().copy_from(0, &data[range]).map_err(|_| Errno::EINVAL)?,
        Op::Write => command.payload().copy_to(0, &mut data[range]).map_err(|_| Errno::EINVAL)?,
        Op::WriteZeroes | Op::Discard if device.behaviour.rejects_ranges => return Err(Errno::ENOTSUP),
        Op::WriteZeroes => data[range].fill(0),
        Op::Discard => {}
        Op::Flush => {}
    }
    Ok(())
}

/// The block layer promises all of this; see `Command`.
fn check(device: &TestDevice, command: &Command) {
    let behaviour = &device.behaviour;
    let limits = &behaviour.limits;
    let align = u64::from(limits.request_alignment);
    let end = command.offset().checked_add(command.bytes()).expect("no overflow");
    let size = device.data.lock().expect("the content").len() as u64;
    assert!(end <= size, "{command:?} ends beyond the device");
    assert_eq!((command.offset() | command.bytes()) & (align - 1), 0, "{command:?} is not aligned");
    let flags = match command.op() {
        Op::Write => behaviour.write_flags,
        Op::WriteZeroes => behaviour.zero_flags.expect("write-zeroes is supported"),
        _ => ReqFlags::empty(),
    };
    assert!(flags.contains(command.flags()), "{command:?} has flags that are not supported");
    if let Some(zones) = limits.zoned.filter(|_| command.op() != Op::Flush) {
        let crosses = zones.crosses(command.offset(), command.bytes());
        assert!(!crosses || zones.cross_reads && command.op() == Op::Read, "{command:?} crosses zones");
    }
    match command.op() {
        Op::Read | Op::Write => {
            assert_eq!(command.payload().len_bytes() as u64, command.bytes());
            assert!(
                command.bytes() > 0 && command.bytes() <= limits.transfer_bound(),
                "{command:?} is too long"
            );
            let bufs = command.payload().as_bufs();
            assert!(bufs.len() <= limits.max_iov as usize, "{command:?} has too many segments");
            let mask = limits.min_mem_alignment as usize - 1;
            for buf in bufs {
                assert_eq!(buf.addr() & mask, 0, "{command:?} has unaligned memory");
                assert!(bufs.len() == 1 || buf.len() & mask == 0, "{command:?} has an unaligned segment");
            }
        }
        Op::WriteZeroes => assert!(command.bytes() <= limits.zeroes_bound()),
        Op::Discard => assert!(behaviour.discard && command.bytes() <= limits.discard_bound()),
        Op::Flush => {}
    }
}

impl LeafQueue for TestQueue {
    fn commit(&mut self) -> Readiness {
        let device = &*self.device;
        let mut slots = self.table.borrow();
        while let Some((tag, command)) = slots.take_pending() {
            check(device, command);
            if self.waiting.len() >= device.behaviour.room {
                slots.put_back(tag);
                break;
            }
            // The widest race that a device can make of it.
            let early = (command.op() == Op::Read).then(|| carry_out(device, command));
            let due = self.turn + device.behaviour.delay;
            self.waiting.push(Waiting { due, tag, early });
        }
        self.turn += 1;
        match self.waiting.is_empty() {
            true => Readiness::Idle,
            false => Readiness::Spin,
        }
    }

    fn reap(&mut self) {
        let mut slots = self.table.borrow();
        let mut index = 0;
        if self.device.behaviour.reverse {
            self.waiting.reverse();
        }
        while index < self.waiting.len() {
            if self.waiting[index].due < self.turn {
                let Waiting { tag, early, .. } = self.waiting.remove(index);
                let command = slots.get_mut(tag).expect("the queue has it");
                let result = early.unwrap_or_else(|| carry_out(&self.device, command));
                assert!(slots.end(tag, result.map_err(Into::into)));
            } else {
                index += 1;
            }
        }
    }

    fn register_buf(&mut self, _: &MemRegion) -> Result<(), BlockError> {
        self.device.registered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unregister_buf(&mut self, _: &MemRegion) {
        self.device.registered.fetch_sub(1, Ordering::Relaxed);
    }
}

pub fn context() -> AioContext {
    AioContext::new(&AioConfig::default()).expect("an event loop")
}

/// A buffer of `len` bytes that starts `skew` bytes after an aligned address.
pub fn buffer(len: usize, skew: usize) -> IoBuf {
    let mut whole = IoBuf::from(DmaBuffer::new(len + skew, 4096, Backing::Pages).expect("memory"));
    if skew == 0 { whole } else { whole.split_off(skew).expect("a split within the buffer") }
}

pub fn filled(len: usize, skew: usize, byte: u8) -> IoBuf {
    let mut buf = buffer(len, skew);
    buf.fill(0, len, byte).expect("within the buffer");
    buf
}

pub fn bytes_of(payload: &Payload) -> Vec<u8> {
    let mut out = vec![0; payload.len_bytes()];
    payload.copy_to(0, &mut out).expect("within the payload");
    out
}

pub fn pool(block: usize, count: usize) -> BlockPool {
    BlockPool::new(block, count, 4096, Backing::Pages).expect("memory")
}
