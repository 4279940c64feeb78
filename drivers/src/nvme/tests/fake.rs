//! A controller of a few hundred lines that does what a script says: everything happens within the call that rings a
//! doorbell or writes a register, so that nothing depends on time.
//!
//! It moves no data. What it is for is what no proper controller does.

mod bar;
mod script;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use corelane_dma::{
    AddressSpace, Backing, CoherentBuffer, DmaError, DmaMapper, Iova, IovaConstraints, MemRegion, MmioRegion,
};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::{FromZeros, IntoBytes};

use bar::Bar;
pub use script::{CAP, Script};

use crate::nvme::bus::{Bus, BusError, Doorbell, Notices, SendDoorbell};
use crate::nvme::spec::command::Command;
use crate::nvme::spec::completion::Completion;
use crate::nvme::spec::feature;
use crate::nvme::spec::identify::{IdentifyController, NamespaceList, cns};
use crate::nvme::spec::namespace::IdentifyNamespace;
use crate::nvme::spec::opcode::admin;
use crate::nvme::spec::register;

#[derive(Clone, Copy, Default)]
struct Ring {
    iova: u64,
    entries: u32,
    at: u32,
    /// Of a completion ring: written this often around.
    turned: bool,
}

#[derive(Default)]
struct State {
    cc: u32,
    csts: u32,
    aqa: u32,
    admin: [u64; 2],
    sqs: BTreeMap<u16, Ring>,
    cqs: BTreeMap<u16, Ring>,
    gone: bool,
    /// Values that CC was given, in order.
    configured: Vec<u32>,
    /// I/O commands, in order.
    commands: Vec<Command>,
    resets: u32,
    aborts: Vec<u16>,
    /// Opcodes of admin commands, in order.
    asked: Vec<u8>,
    /// Doorbells of queues that there are not.
    strays: u32,
    /// What it was told of the host (Host Behavior Support), and how many eventfds it got, each time.
    behavior: Vec<[u8; 3]>,
    eventfds: Vec<usize>,
    /// The pages of shadow doorbells that it was told of.
    shadow: Vec<u64>,
    /// Of these, how many were mapped when CC was last written.
    shadow_at_end: usize,
}

/// Somebody who is about to ring a doorbell of this queue says so, and waits.
struct Hold {
    qid: u16,
    came: SyncSender<()>,
    go_on: Receiver<()>,
}

type Maps = Arc<Mutex<BTreeMap<u64, MemRegion>>>;

/// See the module's documentation.
pub struct Fake {
    script: Script,
    state: Mutex<State>,
    maps: Maps,
    space: Arc<AddressSpace>,
    this: OnceLock<Weak<Fake>>,
    hold: Mutex<Option<Hold>>,
    /// Every access to a register is one to this, too.
    pub bar: Bar,
    /// The eventfds of the host's error and of its wish to have the function back.
    pub notices: [OwnedFd; 2],
}

struct Mapper(Maps);

impl DmaMapper for Mapper {
    fn constraints(&self) -> IovaConstraints {
        IovaConstraints {
            page_bytes: 4096,
            ranges: vec![0x10_0000..=0xffff_ffff],
            max_mappings: None,
            needs_fd: false,
        }
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
        self.0.lock().unwrap().insert(iova.0, region.clone());
        Ok(())
    }

    fn unmap(&self, iova: Iova, _len_bytes: u64) -> Result<(), DmaError> {
        self.0.lock().unwrap().remove(&iova.0);
        Ok(())
    }

    fn describe(&self) -> String {
        "fake".to_owned()
    }
}

impl Fake {
    pub fn new(script: Script) -> Arc<Fake> {
        let maps = Maps::default();
        let space = AddressSpace::new(Box::new(Mapper(Arc::clone(&maps)))).unwrap();
        let state = Mutex::default();
        let notices = [0, 1].map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let fake = Arc::new(Fake {
            script,
            state,
            maps,
            space,
            this: OnceLock::new(),
            hold: Mutex::default(),
            bar: Bar::new(),
            notices,
        });
        fake.this.set(Arc::downgrade(&fake)).unwrap();
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The values that CC was given.
    pub fn configured(&self) -> Vec<u32> {
        self.state().configured.clone()
    }

    /// The I/O commands that came.
    pub fn commands(&self) -> Vec<Command> {
        self.state().commands.clone()
    }

    /// What somebody else's reset of the function leaves: it is disabled, and has forgotten everything.
    pub fn forget(&self) {
        let mut state = self.state();
        (state.cc, state.csts) = (0, 0);
        state.sqs.clear();
        state.cqs.clear();
    }

    /// Holds the next ring of a doorbell of this queue up: when it came, and what lets it go on.
    pub fn hold_doorbell(&self, qid: u16) -> (Receiver<()>, SyncSender<()>) {
        let ((came, comes), (go, go_on)) = (sync_channel(1), sync_channel(1));
        *self.hold.lock().unwrap() = Some(Hold { qid, came, go_on });
        (comes, go)
    }

    /// How many doorbells were rung of queues that there are not.
    pub fn strays(&self) -> u32 {
        self.state().strays
    }

    /// Reports a fatal error from now on, until it is disabled.
    pub fn break_down(&self) {
        self.state().csts |= 0b10;
    }

    /// The commands whose abort was asked for.
    pub fn aborts(&self) -> Vec<u16> {
        self.state().aborts.clone()
    }

    /// How many admin commands of this opcode came.
    pub fn asked(&self, opcode: u8) -> usize {
        self.state().asked.iter().filter(|asked| **asked == opcode).count()
    }

    pub fn resets(&self) -> u32 {
        self.state().resets
    }

    /// How many mappings there are.
    pub fn mappings(&self) -> usize {
        self.maps.lock().unwrap().len()
    }

    /// What it was told of the host, each time: the first bytes of Host Behavior Support.
    pub fn behavior(&self) -> Vec<[u8; 3]> {
        self.state().behavior.clone()
    }

    /// How many eventfds it got for its interrupts, each time.
    pub fn eventfds(&self) -> Vec<usize> {
        self.state().eventfds.clone()
    }

    /// How many pages of shadow doorbells were mapped when CC was last written.
    pub fn shadow_at_end(&self) -> usize {
        self.state().shadow_at_end
    }

    fn is_mapped(&self, iova: u64) -> bool {
        let maps = self.maps.lock().unwrap();
        maps.range(..=iova).next_back().is_some_and(|(start, region)| iova - start < region.len() as u64)
    }

    /// The memory at an I/O address, and the offset there.
    fn memory(&self, iova: u64) -> (CoherentBuffer, usize) {
        let maps = self.maps.lock().unwrap();
        let (start, region) = maps.range(..=iova).next_back().expect("a mapped address");
        let offset = (iova - start) as usize;
        assert!(offset < region.len(), "{iova:#x} is not mapped");
        (CoherentBuffer::from_region(region.clone()).unwrap(), offset)
    }

    fn configure(&self, cc: u32) {
        let mut state = self.state();
        state.configured.push(cc);
        state.shadow_at_end = state.shadow.iter().filter(|page| self.is_mapped(**page)).count();
        let (before, now) = (state.cc & 1, cc & 1);
        state.cc = cc;
        if cc & register::Configuration::SHUTDOWN_MASK != 0 && !self.script.never_shut_down {
            state.csts |= 0b1000;
        }
        if before == 0 && now == 1 {
            state.csts = u32::from(!self.script.never_ready) | u32::from(self.script.fatal) << 1;
            let entries = (state.aqa & 0xfff) + 1;
            let [sq, cq] = state.admin;
            state.sqs.insert(0, Ring { iova: sq, entries, ..Ring::default() });
            state.cqs.insert(0, Ring { iova: cq, entries, ..Ring::default() });
        } else if before == 1 && now == 0 && !self.script.never_disabled {
            state.csts = 0;
            state.sqs.clear();
            state.cqs.clear();
        }
    }

    /// Fetches what is new in a submission ring.
    fn ring(&self, qid: u16, tail: u32) {
        loop {
            let mut state = self.state();
            let Some(ring) = state.sqs.get_mut(&qid) else { return };
            if ring.at == tail {
                return;
            }
            let at = ring.iova + u64::from(ring.at) * 64;
            ring.at = (ring.at + 1) % ring.entries;
            let sq_head = ring.at as u16;
            drop(state);
            let (memory, offset) = self.memory(at);
            let command: Command = memory.load(offset).unwrap();
            let mut completion =
                Completion { sq_head, sq_id: qid, cid: command.cid, ..Completion::new_zeroed() };
            if qid == 0 {
                if let Some(done) = self.admin(&command, completion) {
                    self.complete(0, done);
                }
                continue;
            }
            let mut state = self.state();
            let count = state.commands.len();
            state.commands.push(command);
            state.gone |= self.script.vanishes;
            drop(state);
            completion.status_and_phase = 0;
            for completion in (self.script.complete)(count, completion) {
                self.complete(qid, completion);
            }
        }
    }

    fn complete(&self, qid: u16, mut completion: Completion) {
        let mut state = self.state();
        // A doorbell may be rung while the controller is being disabled.
        let Some(ring) = state.cqs.get_mut(&qid) else { return };
        let at = ring.iova + u64::from(ring.at) * 16;
        completion.status_and_phase = completion.status_and_phase & !1 | u16::from(!ring.turned);
        ring.at = (ring.at + 1) % ring.entries;
        ring.turned ^= ring.at == 0;
        drop(state);
        let (memory, offset) = self.memory(at);
        memory.store(offset, &completion).unwrap();
    }

    fn admin(&self, command: &Command, mut completion: Completion) -> Option<Completion> {
        self.state().asked.push(command.opcode);
        if command.opcode == admin::DOORBELL_BUFFER_CONFIG {
            self.state().shadow = vec![command.data.prp1, command.data.prp2];
        }
        if (self.script.ignore)(command) {
            return None;
        }
        if let Some((opcode, status)) = self.script.refuse
            && opcode == command.opcode
        {
            completion.status_and_phase = status << 1;
            return Some(completion);
        }
        if command.opcode == admin::SET_FEATURES && command.cdw10[0] as u8 == feature::id::HOST_BEHAVIOR {
            let (memory, offset) = self.memory(command.data.prp1);
            self.state().behavior.push(memory.load(offset).unwrap());
        }
        let qid = command.cdw10[0] as u16;
        let ring = Ring { iova: command.data.prp1, entries: (command.cdw10[0] >> 16) + 1, ..Ring::default() };
        match command.opcode {
            admin::IDENTIFY => self.identify(command),
            admin::CREATE_CQ => drop(self.state().cqs.insert(qid, ring)),
            admin::CREATE_SQ => drop(self.state().sqs.insert(qid, ring)),
            admin::DELETE_CQ => drop(self.state().cqs.remove(&qid)),
            admin::DELETE_SQ => drop(self.state().sqs.remove(&qid)),
            // Two queue pairs, counted from 0; a write cache that is on.
            admin::SET_FEATURES => completion.result = 0x0001_0001,
            admin::GET_FEATURES => completion.result = 1,
            admin::DOORBELL_BUFFER_CONFIG => {}
            // There never is an event.
            admin::ASYNC_EVENT_REQUEST => return None,
            admin::ABORT => {
                let (sq_id, cid) = (qid, (command.cdw10[0] >> 16) as u16);
                let (result, completions) = (self.script.abort)(cid);
                self.state().aborts.push(cid);
                completion.result = result;
                for completion in completions {
                    self.complete(sq_id, Completion { sq_id, cid, ..completion });
                }
            }
            other => panic!("admin command {other:#x}"),
        }
        Some(completion)
    }

    fn identify(&self, command: &Command) {
        let (memory, offset) = self.memory(command.data.prp1);
        let write = |bytes: &[u8]| memory.copy_from(offset, bytes).unwrap();
        match command.cdw10[0] as u8 {
            cns::CONTROLLER => {
                let mut identify = Box::new(IdentifyController::new_zeroed());
                (identify.sqes, identify.cqes, identify.vwc, identify.mdts) = (0x66, 0x44, 1, 5);
                identify.nn.set(4);
                identify.rtd3e.set(1000);
                (self.script.identify)(&mut identify);
                write(identify.as_bytes());
            }
            cns::NAMESPACE => {
                let mut identify = Box::new(IdentifyNamespace::new_zeroed());
                identify.nsze.set(1 << 20);
                identify.formats[0].data_shift = 12;
                (self.script.namespace)(&mut identify);
                write(identify.as_bytes());
            }
            cns::ACTIVE_NAMESPACES => {
                let mut list = Box::new(NamespaceList::new_zeroed());
                list.nsids.iter_mut().zip(self.script.active).for_each(|(place, nsid)| place.set(nsid));
                write(list.as_bytes());
            }
            other => panic!("identify {other}"),
        }
    }
}

impl SendDoorbell for Fake {
    fn send(&self, offset: u64, value: u32) -> Result<(), BusError> {
        let index = (offset - register::DOORBELLS) / 4;
        let (qid, is_tail) = ((index / 2) as u16, index.is_multiple_of(2));
        let held = self.hold.lock().unwrap().take_if(|hold| hold.qid == qid);
        if let Some(Hold { came, go_on, .. }) = held {
            came.send(()).unwrap();
            go_on.recv().unwrap();
        }
        if !self.bar.write(offset, value) {
            return Ok(());
        }
        let mut state = self.state();
        let queues = if is_tail { &state.sqs } else { &state.cqs };
        state.strays += u32::from(!queues.contains_key(&qid));
        drop(state);
        if is_tail {
            self.ring(qid, value);
        }
        Ok(())
    }
}

impl Bus for Fake {
    fn address(&self) -> &str {
        "fake"
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) -> Result<(), BusError> {
        data.fill(0);
        if offset == 0 {
            data.copy_from_slice(&self.script.vendor.to_le_bytes());
        }
        Ok(())
    }

    /// It has one thing that can be written: whether memory accesses are decoded.
    fn config_write(&self, _offset: u32, _data: &[u8]) -> Result<(), BusError> {
        self.bar.restore();
        Ok(())
    }

    fn registers_len(&self) -> u64 {
        0x4000
    }

    fn read32(&self, offset: u64) -> Result<u32, BusError> {
        let state = self.state();
        if state.gone || !self.bar.is_there(offset) {
            return Ok(u32::MAX);
        }
        Ok(match offset {
            register::VS => 0x0001_0300,
            register::CC => state.cc,
            register::CSTS => state.csts,
            register::CRTO => u32::MAX,
            other => panic!("a read of {other:#x}"),
        })
    }

    fn read64(&self, offset: u64) -> Result<u64, BusError> {
        assert_eq!(offset, register::CAP);
        Ok(self.script.cap)
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BusError> {
        match offset {
            _ if !self.bar.write(offset, value) => {}
            register::CC => self.configure(value),
            register::AQA => self.state().aqa = value,
            other => panic!("a write to {other:#x}"),
        }
        Ok(())
    }

    fn write64(&self, offset: u64, value: u64) -> Result<(), BusError> {
        self.state().admin[usize::from(offset == register::ACQ)] = value;
        Ok(())
    }

    fn doorbell(&self, offset: u64) -> Result<Doorbell, BusError> {
        let this = self.this.get().and_then(Weak::upgrade).expect("it is alive");
        Ok(Doorbell::Message { sender: this, offset })
    }

    fn interrupts(&self) -> u32 {
        self.script.interrupts
    }

    fn set_interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        self.state().eventfds.push(eventfds.len());
        Ok(())
    }

    fn notices(&self) -> Notices<'_> {
        let [error, removal] = &self.notices;
        Notices { error: Some(error.as_fd()), removal: Some(removal.as_fd()) }
    }

    fn reset(&self) -> Result<(), BusError> {
        if self.script.no_reset {
            return Err(BusError::Unsupported { address: "fake".to_owned(), what: "reset" });
        }
        let mut state = self.state();
        (state.cc, state.csts, state.resets) = (0, 0, state.resets + 1);
        state.sqs.clear();
        state.cqs.clear();
        Ok(())
    }

    fn dma(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    fn backing(&self) -> Backing {
        Backing::Pages
    }

    fn bar_memory(&self, _bar: u32, _offset: u64, _len_bytes: u64) -> Option<MmioRegion> {
        None
    }
}
