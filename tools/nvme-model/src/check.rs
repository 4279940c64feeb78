//! Checking one command: what it breaks is recorded, and refused where the specification says so.

use crate::memory::Fault;
use crate::violation::{Rule, Violation, Violations};
use crate::wire::command::Command;
use crate::wire::status::Status;

/// The command that is being carried out, for the record.
#[derive(Clone, Copy)]
pub(crate) struct Checker<'a> {
    violations: &'a Violations,
    queue: u16,
    cid: u16,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(violations: &'a Violations, queue: u16, cid: u16) -> Checker<'a> {
        Checker { violations, queue, cid }
    }

    /// The command's identifier.
    pub(crate) fn cid(&self) -> u16 {
        self.cid
    }

    /// Records what the command breaks; it goes on.
    #[cold]
    pub(crate) fn note(&self, rule: Rule, detail: String) {
        let (queue, cid) = (Some(self.queue), Some(self.cid));
        self.violations.add(Violation { rule, queue, cid, detail });
    }

    /// Records what the command breaks, and gives the status that it ends with (not to be retried).
    #[cold]
    pub(crate) fn refuse(&self, status: Status, rule: Rule, detail: String) -> Status {
        self.note(rule, detail);
        status.dnr()
    }

    /// The status of a command that names memory which is not mapped.
    #[cold]
    pub(crate) fn fault(&self, what: &str, fault: Fault) -> Status {
        let Fault { iova, read_only } = fault;
        let why = if read_only { "may only be read" } else { "is not mapped" };
        self.refuse(
            Status::DATA_TRANSFER_ERROR,
            Rule::DmaFault,
            format!("{what}: I/O address {iova:#x} {why}"),
        )
    }

    /// Records every bit that is set outside of what `defined` says of the double words `first`, `first` + 1, ...
    #[inline]
    pub(crate) fn reserved(&self, command: &Command, first: usize, defined: &[u32]) {
        for (index, defined) in defined.iter().enumerate() {
            let extra = command.dword(first + index) & !defined;
            if extra != 0 {
                self.reserved_bits(first + index, extra);
            }
        }
    }

    #[cold]
    fn reserved_bits(&self, dword: usize, bits: u32) {
        self.note(
            Rule::ReservedField,
            format!("bits {bits:#x} of double word {dword} are reserved and must be 0"),
        );
    }
}
