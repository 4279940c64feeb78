//! [`Dress`]: what commands of the block layer say of the metadata of their blocks, and the memory that this takes; and where
//! the controller is to place what they write.
//!
//! Invariant: no byte of the zeroes is ever written, and none of the sink is ever looked at, so that all commands of a lane use
//! the same, however many there are at once. The memory stays mapped until the controller is done with the last of them.

use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::namespace::Namespace;
use crate::nvme::namespace::metadata::Metadata;
use crate::nvme::placement::Placing;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::opcode::io;

/// See the module's documentation.
pub struct Dress {
    metadata: Metadata,
    placing: Option<Placing>,
    /// Zeroes to be written, and behind them a place for what is read.
    memory: Option<HostMemory>,
    zeroes: u64,
    sink: u64,
}

impl Dress {
    /// For commands of this namespace.
    ///
    /// # Errors
    /// Those of memory.
    pub fn new(bus: &dyn Bus, namespace: &Namespace) -> Result<Dress, NvmeError> {
        let metadata = namespace.metadata;
        let blocks = namespace.limits.transfer_bound() >> namespace.block_shift;
        // PRP entries or not: a buffer of metadata starts on a dword (Base 3.3.3.1, MPTR).
        let half = (blocks * metadata.beside()).next_multiple_of(4);
        let memory = if half > 0 { Some(HostMemory::new(bus, 2 * half as usize)?) } else { None };
        let zeroes = memory.as_ref().map_or(0, HostMemory::iova);
        Ok(Dress { metadata, placing: namespace.placing.clone(), memory, zeroes, sink: zeroes + half })
    }

    /// Whether there is metadata, of whatever kind, or a place for what is written.
    pub fn says_something(&self) -> bool {
        self.metadata != Metadata::default() || self.placing.is_some()
    }

    /// Bytes of metadata behind each block's data.
    pub fn behind(&self) -> u64 {
        self.metadata.behind()
    }

    /// Says it. Every command with blocks that goes the long way comes through here.
    pub fn dress(&self, command: &mut Command) {
        if let Some(protection) = self.metadata.protection {
            protection.leave_to_controller(command);
        }
        if let Some(placing) = &self.placing {
            placing.place(command);
        }
        if self.memory.is_some() {
            command.metadata = match command.opcode {
                io::READ => self.sink,
                io::WRITE => self.zeroes,
                _ => 0,
            };
        }
    }

    /// Gives the memory up without unmapping it: the controller may use it for ever.
    pub fn leak(&mut self) {
        std::mem::forget(self.memory.take());
    }
}
