//! Compare, Verify, Copy and what else there is beyond reads and writes, on QEMU's controller.

use corelane_drivers::nvme::commands::{BlockRange, CommandError, CommandOptions, NvmeCommands};
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_engine::aio::{AioConfig, AioContext};

use super::case;
use super::rig::{POLL, assert_same, backend, bytes_of, memory, pattern, pattern_bytes, start};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::blocks_are_compared_verified_and_copied", commands),
    case("nvme::atomic_write_units_are_reported", atomics),
];

const BLOCK: usize = 512;

fn commands(guest: &Guest) {
    let controller = start(guest, "default");
    let backend = backend(&controller, 1, &POLL);
    let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
    let channel = backend.channel(&ctx, 8).expect("a channel");
    let commands =
        NvmeCommands::open(&controller, Nsid(1), &CommandOptions::default(), &ctx).expect("a queue");
    let abilities = *commands.abilities();
    assert!(abilities.compare && abilities.copy.is_some(), "{abilities:?}");
    assert!(!abilities.compare_and_write, "QEMU fuses nothing");

    let len = 300 * BLOCK;
    ctx.block_on(channel.write_at(0, pattern(1, len))).0.expect("it is written");
    assert!(ctx.block_on(commands.compare(Lba(0), pattern(1, len).into())).0.expect("it is compared"));
    assert!(!ctx.block_on(commands.compare(Lba(1), pattern(1, len).into())).0.expect("it is compared"));
    // QEMU has a Verify, but does not say so.
    match (abilities.max_verify_blocks, ctx.block_on(commands.verify(Lba(0), commands.blocks()))) {
        (Some(_), Ok(())) | (None, Err(CommandError::Unsupported { .. })) => {}
        (most, verified) => panic!("{verified:?} with {most:?}"),
    }

    // More blocks than one Copy takes (MSSRL and MCL are 128).
    let from = [BlockRange { start: Lba(0), blocks: 200 }, BlockRange { start: Lba(250), blocks: 50 }];
    ctx.block_on(commands.copy(&from, Lba(1000))).expect("it is copied");
    let (result, copied) = ctx.block_on(channel.read_at(1000 * BLOCK as u64, memory(250 * BLOCK)));
    result.expect("it is read");
    let source = pattern_bytes(1, len);
    assert_same(&bytes_of(&copied), &[&source[..200 * BLOCK], &source[250 * BLOCK..]].concat());

    let error = ctx.block_on(commands.write_uncorrectable(Lba(0), 1)).expect_err("QEMU has no such command");
    assert!(matches!(error, CommandError::Unsupported { .. }), "{error}");
    drop((channel, commands));
    ctx.shutdown();
}

fn atomics(guest: &Guest) {
    let open = |name| {
        let controller = start(guest, name);
        let driver = super::rig::driver(&controller, 1, &POLL);
        *driver.atomic_writes()
    };
    let plain = open("default");
    assert_eq!((plain.normal_bytes, plain.power_fail_bytes), (512, 512));
    assert_eq!((plain.boundary_bytes, plain.compare_and_write_bytes), (None, None));
    let atomic = open("atomic");
    assert_eq!((atomic.normal_bytes, atomic.power_fail_bytes), (32 * 512, 8 * 512));
}
