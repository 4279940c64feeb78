//! Faults of all kinds in QEMU's NVMe controllers, and what our driver makes of them. `docs/nvme.md` says with which errno a
//! request ends for which of them.

mod media;
mod plug;

use std::time::Duration;

use crate::vm::{Case, Guest, machines};

/// The tables of the cases.
pub const TABLES: [&[Case]; 2] = [media::CASES, plug::CASES];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::FAULTS, run, limit: Duration::from_secs(60) }
}
