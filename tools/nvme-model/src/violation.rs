//! What an initiator did that the specification forbids.
//!
//! Invariant: the list is bounded, so that an initiator cannot fill the memory; the count goes on.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// A rule that was broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// A doorbell value that lies outside its queue, or a head that passes the tail (base 3.3.1.4).
    DoorbellValue,
    /// A doorbell of a queue that does not exist was written (base 3.3.1.4).
    DoorbellRegister,
    /// A reserved field is not zero.
    ReservedField,
    /// A field has a value that the specification does not define or the controller did not offer.
    InvalidField,
    /// A PRP entry has an offset where none may be, or is not aligned (base 4.1.1).
    PrpOffset,
    /// An SGL that is not well-formed (base 4.1.2).
    SglFormat,
    /// A transfer to or from an I/O address where no memory is mapped, or against the mapping's direction.
    DmaFault,
    /// A queue with an invalid base address, size, identifier or vector.
    QueueCreation,
    /// A queue that does not exist is used or deleted, or one is deleted too early.
    QueueUse,
    /// A command identifier was used again while its command was in flight (base 3.3.3.1).
    CidReuse,
    /// An opcode that the controller does not have.
    Opcode,
    /// A namespace that does not exist or is not active.
    Namespace,
    /// Blocks outside the namespace, or more than the controller takes at once.
    Range,
    /// A register written out of turn: a queue register while enabled, CC.EN set before RDY was seen clear, a reserved
    /// bit, an access of a wrong size.
    Register,
    /// A fused operation that is not one: a half is missing, or the halves do not fit together (base 3.4.2).
    Fused,
    /// Memory that the controller has for itself (a host memory buffer) was changed, unmapped, or not taken back in time (base
    /// 8.9).
    HostMemory,
    /// Commands out of order: queues asked for after queues were created, too many event requests.
    Sequence,
}

/// One thing that the initiator did wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule was broken.
    pub rule: Rule,
    /// The submission queue, where a command or a queue is meant.
    pub queue: Option<u16>,
    /// The command, where one is meant.
    pub cid: Option<u16>,
    /// What was found, and what would be right.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.rule)?;
        if let Some(queue) = self.queue {
            write!(f, " queue {queue}")?;
        }
        if let Some(cid) = self.cid {
            write!(f, " command {cid:#x}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// How many are kept.
const KEPT: usize = 1000;

/// The record of violations, written by all threads of the model.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    list: Mutex<Vec<Violation>>,
}

impl Violations {
    /// Adds one, unless there are too many already.
    #[cold]
    pub(crate) fn add(&self, violation: Violation) {
        tracing::debug!(%violation, "the initiator broke a rule");
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < KEPT {
            list.push(violation);
        }
    }

    /// All that are kept.
    pub(crate) fn all(&self) -> Vec<Violation> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that are kept, and forgets them.
    pub(crate) fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
