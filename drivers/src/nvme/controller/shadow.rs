//! The memory of shadow doorbells and event indices: a page each (Doorbell Buffer Config, Base 5.8), laid out as the
//! doorbells themselves are.
//!
//! The admin queue has none. A queue whose doorbells lie beyond the page has none either.

use std::sync::Mutex;

use corelane_dma::MmioRegion;

use super::registers::PAGE_BYTES;
use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::bell::Shadow;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::spec::command::{Command, DataPointer};
use crate::nvme::spec::opcode::admin;
use crate::nvme::spec::register::{DOORBELLS, cq_doorbell, sq_doorbell};
use crate::nvme::spec::{Nsid, Qid};

/// See the module's documentation.
pub struct ShadowMemory {
    /// The two pages, as what they are used for: words that both sides write.
    words: MmioRegion,
    stride_bytes: u64,
    iova: u64,
    /// Only kept. Its lock makes it shareable.
    _memory: Mutex<HostMemory>,
}

impl ShadowMemory {
    /// Makes both pages.
    ///
    /// # Errors
    /// Those of memory.
    pub fn new(bus: &dyn Bus, stride_bytes: u64) -> Result<ShadowMemory, NvmeError> {
        let memory = HostMemory::new(bus, 2 * PAGE_BYTES)?;
        let words = MmioRegion::from_region(memory.buffer().region().clone())?;
        Ok(ShadowMemory { words, stride_bytes, iova: memory.iova(), _memory: Mutex::new(memory) })
    }

    /// The command that tells the controller of them.
    pub fn command(&self) -> Command {
        let data = DataPointer { prp1: self.iova, prp2: self.iova + PAGE_BYTES as u64 };
        Command::new(admin::DOORBELL_BUFFER_CONFIG, Nsid::NONE).with_data(data)
    }

    /// The shadows of a queue pair about to be created, set to 0: of the submission tail and the completion head.
    pub fn of(&self, qid: Qid) -> (Option<Shadow>, Option<Shadow>) {
        (
            self.at(sq_doorbell(qid, self.stride_bytes) - DOORBELLS),
            self.at(cq_doorbell(qid, self.stride_bytes) - DOORBELLS),
        )
    }

    fn at(&self, offset: u64) -> Option<Shadow> {
        if offset >= PAGE_BYTES as u64 {
            return None;
        }
        let value = self.words.register32(offset).ok()?;
        let event = self.words.register32(PAGE_BYTES as u64 + offset).ok()?;
        value.write(0);
        event.write(0);
        Some(Shadow { value, event })
    }
}
