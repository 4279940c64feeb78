//! What a scripted controller does wrong.

use crate::nvme::spec::command::Command;
use crate::nvme::spec::completion::Completion;
use crate::nvme::spec::identify::IdentifyController;
use crate::nvme::spec::namespace::IdentifyNamespace;

/// What goes wrong, if anything.
#[derive(Clone, Copy)]
pub struct Script {
    /// CAP.
    pub cap: u64,
    /// It does not become ready.
    pub never_ready: bool,
    /// It reports a fatal error when it is enabled.
    pub fatal: bool,
    /// It does not become disabled again.
    pub never_disabled: bool,
    /// It does not say that it is shut down.
    pub never_shut_down: bool,
    /// It cannot be reset.
    pub no_reset: bool,
    /// All reads are all ones from the first I/O command on.
    pub vanishes: bool,
    /// Admin commands with this opcode are refused with this status field.
    pub refuse: Option<(u8, u16)>,
    /// Which admin commands are not answered.
    pub ignore: fn(&Command) -> bool,
    /// How many interrupts it has. None ever comes.
    pub interrupts: u32,
    /// The vendor in its configuration space; 0 for a function that is not there.
    pub vendor: u16,
    /// What it says of itself.
    pub identify: fn(&mut IdentifyController),
    /// What it says of its namespace.
    pub namespace: fn(&mut IdentifyNamespace),
    /// Its active namespaces.
    pub active: [u32; 3],
    /// The completions of an I/O command, the so-manieth of all from 0: what is written for it.
    pub complete: fn(usize, Completion) -> Vec<Completion>,
    /// What an Abort of the queue's command does: dword 0 of its completion, and completions for the command.
    pub abort: fn(u16) -> (u32, Vec<Completion>),
}

/// 64 entries, ready within 500 ms, NVM command set.
pub const CAP: u64 = 63 | 1 << 16 | 1 << 24 | 1 << 37;

impl Default for Script {
    fn default() -> Script {
        Script {
            cap: CAP,
            never_ready: false,
            fatal: false,
            never_disabled: false,
            never_shut_down: false,
            no_reset: false,
            vanishes: false,
            refuse: None,
            ignore: |_| false,
            interrupts: 0,
            vendor: 0,
            identify: |_| {},
            namespace: |_| {},
            active: [1, 0, 0],
            complete: |_, completion| vec![completion],
            abort: |_| (1, Vec::new()),
        }
    }
}
