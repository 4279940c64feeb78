//! Our NVMe driver on QEMU's controllers, through VFIO.

mod commands;
mod controllers;
mod data;
mod lanes;
mod memory;
mod metadata;
pub(super) mod rig;
mod zoned;

use std::time::Duration;

use crate::vm::{Case, Guest, machines};

/// The tables of the cases.
pub const TABLES: [&[Case]; 7] = [
    commands::CASES,
    controllers::CASES,
    data::CASES,
    lanes::CASES,
    memory::CASES,
    metadata::CASES,
    zoned::CASES,
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::NVME, run, limit: Duration::from_secs(120) }
}
