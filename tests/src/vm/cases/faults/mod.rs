//! Faults of all kinds in QEMU's NVMe controllers, and what our driver makes of them. `docs/nvme.md` says with which errno a
//! request ends for which of them.

mod events;
mod load;
mod media;
mod namespaces;
mod plug;
mod recovery;
mod rig;
mod stray;

use std::time::Duration;

use crate::vm::{Case, Guest, machines};

/// The tables of the cases.
pub const TABLES: [&[Case]; 6] =
    [events::CASES, media::CASES, namespaces::CASES, plug::CASES, recovery::CASES, stray::CASES];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::FAULTS, run, limit: Duration::from_secs(120) }
}
