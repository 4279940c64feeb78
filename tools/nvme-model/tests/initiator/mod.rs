//! The smallest initiator: queues filled by hand, commands as sixteen double words, nothing shared with the model but the
//! memory. For tests only.
#![allow(dead_code)] // Each test file uses its part.

use std::time::{Duration, Instant};

use corelane_dma::{Backing, CellArray, DeviceMemory, DmaBuffer, MemRegion, WordArray};
use corelane_engine::block::BlockBackend;
use corelane_nvme_model::{Device, Model, ModelConfig, Region};

/// Where the initiator's memory lies for the controller.
pub const IOVA: u64 = 0x1_0000_0000;
/// How much there is of it.
pub const MEMORY_BYTES: usize = 64 << 20;
/// The page size that it sets (CC.MPS = 0).
pub const PAGE: u64 = 4096;
/// Where tests put data; below lie the queues.
pub const DATA: u64 = IOVA + (40 << 20);

/// A completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    pub result: u32,
    pub sq_head: u16,
    pub sq_id: u16,
    pub cid: u16,
    /// SCT in bits 10:8, SC in 7:0.
    pub status: u16,
    pub dnr: bool,
}

/// A command, by double words.
#[derive(Clone, Copy)]
pub struct Cmd(pub [u32; 16]);

impl Cmd {
    pub fn new(opcode: u8, nsid: u32) -> Cmd {
        let mut dwords = [0; 16];
        dwords[0] = u32::from(opcode);
        dwords[1] = nsid;
        Cmd(dwords)
    }

    pub fn set(mut self, dword: usize, value: u32) -> Cmd {
        self.0[dword] = value;
        self
    }

    pub fn prp(self, prp1: u64, prp2: u64) -> Cmd {
        let halves = |value: u64| (value as u32, (value >> 32) as u32);
        let ((a, b), (c, d)) = (halves(prp1), halves(prp2));
        self.set(6, a).set(7, b).set(8, c).set(9, d)
    }

    /// SLBA and NLB (not 0's based) of the commands that have them.
    pub fn blocks(self, first: u64, count: u32) -> Cmd {
        self.set(10, first as u32).set(11, (first >> 32) as u32).set(12, count - 1)
    }

    fn words(self, cid: u16) -> [u64; 8] {
        let mut dwords = self.0;
        dwords[0] |= u32::from(cid) << 16;
        std::array::from_fn(|word| u64::from(dwords[2 * word]) | u64::from(dwords[2 * word + 1]) << 32)
    }
}

/// A queue pair as the host sees it.
struct Pair {
    sq: WordArray<8>,
    cq: WordArray<2>,
    tail: usize,
    head: usize,
    phase: u64,
}

/// See the module.
pub struct Initiator {
    pub model: Model,
    pub memory: DeviceMemory,
    doorbells: CellArray,
    pairs: Vec<Option<Pair>>,
    next_cid: u16,
}

/// Entries of the admin queues.
const ADMIN_ENTRIES: usize = 16;
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

impl Initiator {
    /// A controller that is mapped but not enabled.
    pub fn disabled(config: ModelConfig) -> Initiator {
        Initiator::with_nodes(config, Vec::new())
    }

    /// The same, over nodes of the block layer.
    pub fn with_nodes(config: ModelConfig, nodes: Vec<BlockBackend>) -> Initiator {
        let stride = 4 << config.doorbell_stride;
        let model = Model::with_nodes(config, nodes).unwrap();
        let region = MemRegion::from_buffer(DmaBuffer::new(MEMORY_BYTES, 4096, Backing::Pages).unwrap());
        let memory = DeviceMemory::of(&region);
        let shared = model.doorbell_memory();
        let len = shared.len_bytes as usize;
        let mapped = DeviceMemory::map_fd(shared.fd, shared.fd_offset_bytes, len, true).unwrap();
        let doorbells = CellArray::new(mapped, stride, len / stride).unwrap();
        let pairs = std::iter::repeat_with(|| None).take(66).collect();
        let initiator = Initiator { model, memory, doorbells, pairs, next_cid: 1 };
        initiator.map_memory();
        initiator
    }

    /// Maps all memory for the controller.
    pub fn map_memory(&self) {
        self.model.dma_map(IOVA, self.memory.clone()).unwrap();
    }

    /// A controller that is ready for admin commands.
    pub fn new(config: ModelConfig) -> Initiator {
        let mut initiator = Initiator::disabled(config);
        initiator.enable();
        initiator
    }

    pub fn read32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.model.read(Region::Bar0, offset, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn write32(&self, offset: u64, value: u32) {
        self.model.write(Region::Bar0, offset, &value.to_le_bytes()).unwrap();
    }

    pub fn write64(&self, offset: u64, value: u64) {
        self.model.write(Region::Bar0, offset, &value.to_le_bytes()).unwrap();
    }

    /// Waits until CSTS has the bits.
    pub fn wait_status(&self, mask: u32, bits: u32) {
        let started = Instant::now();
        while self.read32(0x1C) & mask != bits {
            assert!(started.elapsed() < PATIENCE, "CSTS is {:#x}", self.read32(0x1C));
            std::thread::yield_now();
        }
    }

    /// Where queue `id` lies: two times 256 KiB each.
    pub fn queue_iova(id: u16, completion: bool) -> u64 {
        IOVA + u64::from(id) * 0x8_0000 + if completion { 0x4_0000 } else { 0 }
    }

    pub fn enable(&mut self) {
        let last = ADMIN_ENTRIES as u32 - 1;
        self.write32(0x24, last << 16 | last);
        self.write64(0x28, Self::queue_iova(0, false));
        self.write64(0x30, Self::queue_iova(0, true));
        self.write32(0x14, 0x0046_0001);
        self.wait_status(1, 1);
        self.add_pair(0, [ADMIN_ENTRIES; 2]);
    }

    pub fn disable(&mut self) {
        self.write32(0x14, 0x0046_0000);
        self.wait_status(1, 0);
        self.pairs.fill_with(|| None);
    }

    fn at(&self, iova: u64) -> usize {
        (iova - IOVA) as usize
    }

    fn add_pair(&mut self, id: u16, [sq_entries, cq_entries]: [usize; 2]) {
        let (sq, cq) = (self.at(Self::queue_iova(id, false)), self.at(Self::queue_iova(id, true)));
        self.memory.fill(sq, sq_entries * 64, 0).unwrap();
        self.memory.fill(cq, cq_entries * 16, 0).unwrap();
        let sq = WordArray::new(self.memory.part(sq, sq_entries * 64).unwrap(), sq_entries).unwrap();
        let cq = WordArray::new(self.memory.part(cq, cq_entries * 16).unwrap(), cq_entries).unwrap();
        self.pairs[usize::from(id)] = Some(Pair { sq, cq, tail: 0, head: 0, phase: 1 });
    }

    /// Makes an I/O queue pair, without interrupts, and expects that it works.
    pub fn make_pair(&mut self, id: u16, entries: usize) {
        self.make_pair_with(id, entries, 1);
    }

    /// As `make_pair`, with double word 11 of Create I/O Completion Queue.
    pub fn make_pair_with(&mut self, id: u16, entries: usize, cq_dword11: u32) {
        self.make_uneven_pair(id, [entries, entries], cq_dword11);
    }

    /// As `make_pair_with`, with so many entries for commands and so many for completions.
    pub fn make_uneven_pair(&mut self, id: u16, entries: [usize; 2], cq_dword11: u32) {
        self.add_pair(id, entries);
        let [sq_dword10, cq_dword10] = entries.map(|entries| (entries as u32 - 1) << 16 | u32::from(id));
        let cq = Cmd::new(5, 0).prp(Self::queue_iova(id, true), 0).set(10, cq_dword10).set(11, cq_dword11);
        assert_eq!(self.admin(cq).status, 0);
        let sq = Cmd::new(1, 0).prp(Self::queue_iova(id, false), 0).set(10, sq_dword10);
        assert_eq!(self.admin(sq.set(11, u32::from(id) << 16 | 1)).status, 0);
    }

    /// Writes a command without ringing. Returns its identifier.
    pub fn push(&mut self, queue: u16, command: Cmd) -> u16 {
        let cid = self.next_cid;
        self.next_cid = self.next_cid % 0xFFF0 + 1;
        self.push_as(queue, command, cid);
        cid
    }

    pub fn push_as(&mut self, queue: u16, command: Cmd, cid: u16) {
        let pair = self.pairs[usize::from(queue)].as_mut().unwrap();
        assert!(pair.sq.publish(pair.tail, &command.words(cid)));
        pair.tail = (pair.tail + 1) % pair.sq.len();
    }

    /// Rings the tail doorbell.
    pub fn ring(&self, queue: u16) {
        let tail = self.pairs[usize::from(queue)].as_ref().unwrap().tail;
        self.doorbells.store(2 * usize::from(queue), tail as u32);
    }

    /// Returns when the controller has fetched what was rung before: its thread has taken over twice, and served between.
    pub fn settle(&self) {
        self.model.violations();
        self.model.violations();
    }

    /// Writes any doorbell: 2 * queue for the tail, 2 * queue + 1 for the head.
    pub fn write_doorbell(&self, cell: usize, value: u32) {
        self.doorbells.store(cell, value);
    }

    /// Takes the next completion if there is one.
    pub fn poll(&mut self, queue: u16) -> Option<Done> {
        let pair = self.pairs[usize::from(queue)].as_mut().unwrap();
        let [first, second] = pair.cq.load(pair.head).unwrap();
        if second >> 48 & 1 != pair.phase {
            return None;
        }
        // The phase tag was seen, so what was written before it is there; read again to have it.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        let first = pair.cq.load(pair.head).unwrap_or([first, second])[0];
        pair.head += 1;
        if pair.head == pair.cq.len() {
            (pair.head, pair.phase) = (0, pair.phase ^ 1);
        }
        self.doorbells.store(2 * usize::from(queue) + 1, pair.head as u32);
        let status = (second >> 49) as u16;
        Some(Done {
            result: first as u32,
            sq_head: second as u16,
            sq_id: (second >> 16) as u16,
            cid: (second >> 32) as u16,
            status: status & 0x7FF,
            dnr: status >> 14 & 1 != 0,
        })
    }

    /// Waits for the next completion.
    pub fn wait(&mut self, queue: u16) -> Done {
        let started = Instant::now();
        loop {
            if let Some(done) = self.poll(queue) {
                return done;
            }
            assert!(started.elapsed() < PATIENCE, "no completion: {:?}", self.model.violations());
            std::thread::yield_now();
        }
    }

    /// One command and its completion.
    pub fn run(&mut self, queue: u16, command: Cmd) -> Done {
        let cid = self.push(queue, command);
        self.ring(queue);
        let done = self.wait(queue);
        assert_eq!((done.cid, done.sq_id), (cid, queue));
        done
    }

    pub fn admin(&mut self, command: Cmd) -> Done {
        self.run(0, command)
    }

    /// Identify with this CNS into `DATA`; the 4,096 bytes.
    pub fn identify(&mut self, cns: u32, nsid: u32) -> Vec<u8> {
        let done = self.admin(Cmd::new(6, nsid).prp(DATA, 0).set(10, cns));
        assert_eq!(done.status, 0);
        self.bytes(DATA, 4096)
    }

    pub fn bytes(&self, iova: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.copy_to(self.at(iova), &mut bytes).unwrap();
        bytes
    }

    pub fn put(&self, iova: u64, bytes: &[u8]) {
        self.memory.copy_from(self.at(iova), bytes).unwrap();
    }

    /// Fails the test if a rule was broken.
    pub fn assert_clean(&self) {
        let violations = self.model.violations();
        assert!(violations.is_empty(), "{violations:?}");
    }

    /// The rules that were broken since this was last asked.
    pub fn rules(&self) -> Vec<corelane_nvme_model::Rule> {
        self.model.take_violations().iter().map(|violation| violation.rule).collect()
    }
}
