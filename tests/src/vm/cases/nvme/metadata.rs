//! Namespaces whose blocks have metadata, on QEMU's controller: protection information, which it makes and checks, and other.

use std::process::Command;

use corelane_dma::Payload;
use corelane_drivers::nvme::commands::{Checks, CommandOptions, NvmeCommands};
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_engine::aio::{AioConfig, AioContext};

use super::case;
use super::rig::{POLL, assert_same, backend, check_contract, memory, pattern, pattern_bytes, start};
use crate::run;
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::metadata_of_a_node_is_zeroes", other_metadata),
    case("nvme::protection_information_keeps_the_contract", contract),
    case("nvme::protection_information_is_made_and_checked", protection),
    case("nvme::the_bench_tool_runs_on_protected_blocks", bench),
];

const BLOCK: usize = 512;

/// Behind each block, and beside the data.
fn other_metadata(guest: &Guest) {
    let controller = start(guest, "metadata");
    for nsid in 1..=2 {
        check_contract(&controller, nsid, &POLL, &[2, 32]);
    }
}

/// Guards of 16 and 64 bits, beside the data and behind it, at both ends of the metadata, and with more metadata than that.
fn contract(guest: &Guest) {
    let controller = start(guest, "protected");
    for nsid in [1, 3, 4, 5] {
        check_contract(&controller, nsid, &POLL, &[2, 32]);
    }
}

/// What a payload holds.
fn bytes(payload: &Payload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len_bytes()];
    payload.copy_to(0, &mut bytes).expect("as long as that");
    bytes
}

fn protection(guest: &Guest) {
    let controller = start(guest, "protected");
    for (nsid, extended, pi_bytes, tagged) in [(1, false, 8, true), (2, true, 16, false), (3, true, 8, true)]
    {
        let backend = backend(&controller, nsid, &POLL);
        let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
        let channel = backend.channel(&ctx, 8).expect("a channel");
        let commands =
            NvmeCommands::open(&controller, Nsid(nsid), &CommandOptions::default(), &ctx).expect("a queue");
        let format = commands.metadata_format().expect("it has metadata");
        assert_eq!((usize::from(format.bytes), format.extended), (pi_bytes, extended));

        // Several commands, each with its own first tag.
        let len = 1500 * BLOCK;
        ctx.block_on(channel.write_at(70_000 * BLOCK as u64, pattern(2, len))).0.expect("it is written");
        let (result, read) = ctx.block_on(channel.read_at(70_000 * BLOCK as u64, memory(len)));
        result.expect("its guards and tags are right");
        assert_same(&bytes(&read.into()), &pattern_bytes(2, len));

        // As the device has it.
        let unit = BLOCK + if extended { pi_bytes } else { 0 };
        let beside = || if extended { Payload::None } else { memory(pi_bytes).into() };
        let read = commands.read(Lba(71_234), memory(unit).into(), beside(), Checks::GUARD);
        let answer = ctx.block_on(read);
        answer.result.expect("it is read with its metadata");
        let all = [bytes(&answer.data), bytes(&answer.metadata)].concat();
        assert_same(&all[..BLOCK], &pattern_bytes(2, len)[1234 * BLOCK..1235 * BLOCK]);
        let tag = all[all.len() - 4..].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        assert_eq!(tag, if tagged { 71_234 } else { 0 }, "namespace {nsid}");

        // Another block's data and metadata in this one's place.
        let write = commands.write(Lba(71_300), answer.data, answer.metadata, Checks::GUARD);
        let answer = ctx.block_on(write);
        answer.result.expect("it is written");
        let spoilt = |expected: Option<(i32, u32)>| {
            let (result, _) = ctx.block_on(channel.read_at(71_300 * BLOCK as u64, memory(BLOCK)));
            let found = result.err().map(|error| (error.errno.raw(), error.device_status & 0x7ff));
            assert_eq!(found, expected, "namespace {nsid}");
        };
        const EILSEQ: i32 = 84;
        spoilt(tagged.then_some((EILSEQ, 0x284)));

        // Other data under that guard: refused if it is checked, and found later if not.
        let mut data = answer.data;
        data.fill(100, 1, 0xa5).expect("within the block");
        let answer = ctx.block_on(commands.write(Lba(71_300), data, answer.metadata, Checks::GUARD));
        let status = answer.result.expect_err("a wrong guard").status();
        assert_eq!(status.map(|status| status.0), Some(0x282), "namespace {nsid}");
        let write = commands.write(Lba(71_300), answer.data, answer.metadata, Checks::NONE);
        ctx.block_on(write).result.expect("it is written unseen");
        spoilt(Some((EILSEQ, 0x282)));
        drop((channel, commands));
        ctx.shutdown();
    }
}

fn bench(guest: &Guest) {
    for (name, count) in [("metadata", 2), ("protected", 5)] {
        let function = guest.function(name);
        function.bind_vfio();
        for nsid in 1..=count {
            let mut command = Command::new("corelane-bench");
            command.args(["--name=j", "--ioengine=nvme", "--rw=randwrite", "--bs=4k", "--iodepth=16"]);
            command.args(["--size=2m", "--verify=crc32c", "--output-format=json"]);
            let printed = run(command.arg(format!("--filename={}/{nsid}", function.address())));
            let report: serde_json::Value =
                serde_json::from_str(&printed).unwrap_or_else(|err| panic!("{err} in {printed}"));
            let job = &report["jobs"][0];
            assert_eq!((&job["error"], &job["write"]["total_ios"]), (&0.into(), &512.into()), "{job}");
        }
    }
}
