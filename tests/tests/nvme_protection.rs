//! Namespaces with metadata: as nodes, for which the controller makes and checks protection information and other metadata is
//! zeroes, and by commands with a buffer for it.

use std::sync::Arc;
use std::time::Duration;

use corelane_dma::{Backing, DmaBuffer, IoBuf, Payload};
use corelane_drivers::contract::{ContractOptions, SPAN_BYTES, check};
use corelane_drivers::nvme::commands::{Checks, CommandError, CommandOptions, NvmeCommands};
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::opcode::io;
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_drivers::nvme::{
    ControllerOptions, NvmeController, NvmeDriver, NvmeError, NvmeOptions, Transfer,
};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver, Channel, IoError};
use corelane_nvme_model::{Guard, Model, ModelBus, ModelConfig, NamespaceConfig, Protection};

const BLOCK: usize = 512;
const EILSEQ: i32 = 84;

fn start(
    metadata_bytes: u16,
    metadata_extended: bool,
    protection: Option<Protection>,
) -> (Arc<Model>, Arc<NvmeController>) {
    start_under("", metadata_bytes, metadata_extended, protection)
}

/// With these faults.
fn start_under(
    faults: &str,
    metadata_bytes: u16,
    metadata_extended: bool,
    protection: Option<Protection>,
) -> (Arc<Model>, Arc<NvmeController>) {
    let namespace = NamespaceConfig {
        lba_shift: 9,
        metadata_bytes,
        metadata_extended,
        protection,
        ..NamespaceConfig::ram(SPAN_BYTES)
    };
    let config = ModelConfig { wzsl: 5, ..ModelConfig::new(vec![namespace]) };
    let model = Arc::new(Model::new(config).unwrap());
    model.set_faults(faults.parse().unwrap()).unwrap();
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    (model, controller)
}

fn open(controller: &Arc<NvmeController>) -> Result<NvmeDriver, String> {
    NvmeDriver::open(controller, Nsid(1), &NvmeOptions::default()).map_err(|error| error.to_string())
}

fn commands(controller: &Arc<NvmeController>, ctx: &AioContext) -> NvmeCommands {
    NvmeCommands::open(controller, Nsid(1), &CommandOptions::default(), ctx).unwrap()
}

fn filled(byte: u8, len: usize) -> IoBuf {
    let mut buffer = IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).unwrap());
    buffer.fill(0, len, byte).unwrap();
    buffer
}

fn bytes(payload: &Payload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len_bytes()];
    payload.copy_to(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn protection_information_is_left_to_the_controller() {
    let cases = [
        (Guard::Crc16, 8, 1, false, false),
        (Guard::Crc16, 8, 2, true, true),
        (Guard::Crc16, 8, 3, false, true),
        (Guard::Crc32, 16, 1, true, false),
        (Guard::Crc64, 16, 1, false, false),
        (Guard::Crc64, 16, 3, true, false),
    ];
    for (guard, pi_bytes, kind, extended, first) in cases {
        let (model, controller) = start(pi_bytes, extended, Some(Protection { kind, guard, first }));
        let factory = || {
            let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default())?;
            Ok(Box::new(driver) as Box<dyn BlockDriver>)
        };
        let options = ContractOptions { tags: 16, seed: 1, keeps_data: true };
        let report =
            check(&factory, &options).unwrap_or_else(|violation| panic!("{guard:?} {kind}: {violation}"));
        assert_eq!(report.unsupported, Vec::<&str>::new());

        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let backend =
            BlockBackend::new(Arc::new(open(&controller).unwrap()), BackendOptions::default()).unwrap();
        let channel = backend.channel(&ctx, 8).unwrap();
        let commands = commands(&controller, &ctx);
        // Each block has its own number, wherever a transfer begins, and however long it is.
        ctx.block_on(channel.write_at(100 * 512, filled(7, 600 << 10))).0.unwrap();
        ctx.block_on(commands.verify(Lba(0), commands.blocks())).unwrap();
        for block in [100, 101, 1299] {
            let unit = BLOCK + if extended { usize::from(pi_bytes) } else { 0 };
            let beside = if extended { Payload::None } else { filled(0, pi_bytes.into()).into() };
            let checks = if kind == 3 { Checks::GUARD } else { Checks::GUARD_AND_REFERENCE };
            let answer = ctx.block_on(commands.read(Lba(block), filled(0, unit).into(), beside, checks));
            answer.result.unwrap();
            let (data, metadata) = (bytes(&answer.data), bytes(&answer.metadata));
            assert_eq!(data[..BLOCK], [7; BLOCK]);
            let pi = if extended { &data[BLOCK..] } else { &metadata[..] };
            let tag = pi[pi.len() - 4..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            assert_eq!(tag, if kind == 3 { 0 } else { block }, "{guard:?} {kind} {pi:x?}");
        }
        drop((channel, commands));
        ctx.shutdown();
        drop(backend);
        assert_eq!(model.take_violations(), [], "{guard:?} {kind}");
    }
}

/// A block's metadata and data, as they are stored.
struct Stored {
    data: Payload,
    metadata: Payload,
}

/// What a test needs to spoil blocks, and to see it found.
struct Spoiler<'a> {
    ctx: &'a AioContext,
    commands: NvmeCommands,
    channel: Channel,
}

impl Spoiler<'_> {
    fn read(&self, block: u64, pi_bytes: u16) -> Stored {
        let read = self.commands.read(
            Lba(block),
            filled(0, BLOCK).into(),
            filled(0, pi_bytes.into()).into(),
            Checks::NONE,
        );
        let answer = self.ctx.block_on(read);
        answer.result.unwrap();
        Stored { data: answer.data, metadata: answer.metadata }
    }

    fn write(&self, block: u64, stored: Stored, checks: Checks) -> (Result<(), CommandError>, Stored) {
        let write = self.commands.write(Lba(block), stored.data, stored.metadata, checks);
        let answer = self.ctx.block_on(write);
        (answer.result.map(|_| ()), Stored { data: answer.data, metadata: answer.metadata })
    }

    /// What eight blocks read end with.
    fn read_all(&self) -> Result<(), IoError> {
        self.ctx.block_on(self.channel.read_at(0, filled(0, 8 * BLOCK))).0
    }

    fn write_all(&self) {
        self.ctx.block_on(self.channel.write_at(0, filled(3, 8 * BLOCK))).0.unwrap();
    }
}

fn spoil(guard: Guard, pi_bytes: u16, kind: u8) {
    let (_model, controller) = start(pi_bytes, false, Some(Protection { kind, guard, first: false }));
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(open(&controller).unwrap()), BackendOptions::default()).unwrap();
    let channel = backend.channel(&ctx, 8).unwrap();
    let spoiler = Spoiler { ctx: &ctx, commands: commands(&controller, &ctx), channel };
    let found = |status: u32, name: &str| {
        let error = spoiler.read_all().expect_err(name);
        let seen = (error.errno.raw(), error.device_status & 0x7ff);
        assert_eq!(seen, (EILSEQ, status), "{guard:?} {kind}: {error}");
        assert!(error.to_string().contains(name), "{error}");
        let verified = ctx.block_on(spoiler.commands.verify(Lba(0), 8));
        assert_eq!(verified.unwrap_err().status().map(|status| u32::from(status.0)), Some(status));
        // Writing it anew mends it.
        spoiler.write_all();
        spoiler.read_all().unwrap();
    };
    spoiler.write_all();

    // Other data under the old guard: refused if it is checked, and found later if not.
    let mut other = spoiler.read(5, pi_bytes);
    other.data.fill(9, 1, 4).unwrap();
    let (refused, other) = spoiler.write(5, other, Checks::GUARD);
    assert_eq!(refused.unwrap_err().status().map(|status| status.0), Some(0x282));
    spoiler.write(5, other, Checks::NONE).0.unwrap();
    found(0x282, "Guard Check");

    // A block that lies where another belongs; type 3 has nothing to tell it by.
    let block = spoiler.read(1, pi_bytes);
    spoiler.write(5, block, Checks::GUARD).0.unwrap();
    match kind {
        3 => spoiler.read_all().unwrap(),
        _ => found(0x284, "Reference Tag Check"),
    }

    // An application tag is checked for who asks for it. Nodes do not: it belongs to whoever wrote it.
    let mut tagged = spoiler.read(2, pi_bytes);
    let at = match guard {
        Guard::Crc16 => 2,
        Guard::Crc32 => 4,
        Guard::Crc64 => 8,
    };
    tagged.metadata.fill(at, 2, 0x5a).unwrap();
    spoiler.write(2, tagged, Checks::GUARD).0.unwrap();
    spoiler.read_all().unwrap();
    let ask = |tag, mask| {
        let (data, metadata) = (filled(0, BLOCK).into(), filled(0, pi_bytes.into()).into());
        let checks = Checks::GUARD.and_application(tag, mask);
        ctx.block_on(spoiler.commands.read(Lba(2), data, metadata, checks)).result
    };
    ask(0x5a5a, 0xffff).unwrap();
    ask(0x5a00, 0xff00).unwrap();
    let error = ask(0, 0xffff).unwrap_err();
    assert_eq!(error.status().map(|status| status.0), Some(0x283), "{error}");
    assert!(error.to_string().contains("Application Tag Check"), "{error}");
    drop(spoiler);
    ctx.shutdown();
}

#[test]
fn what_was_spoilt_on_the_medium_fails_with_its_name() {
    for (guard, pi_bytes) in [(Guard::Crc16, 8), (Guard::Crc32, 16), (Guard::Crc64, 16)] {
        for kind in 1..=3 {
            spoil(guard, pi_bytes, kind);
        }
    }
}

/// Formats with metadata that is not protection information, or not that alone.
fn other_formats() -> Vec<(u16, bool, Option<Protection>)> {
    let protection = |kind, guard, first| Some(Protection { kind, guard, first });
    vec![
        (8, false, None),
        (8, true, None),
        (64, true, None),
        (16, false, protection(1, Guard::Crc16, false)),
        (16, true, protection(2, Guard::Crc16, true)),
        (24, true, protection(1, Guard::Crc64, false)),
        (128, false, protection(3, Guard::Crc32, true)),
    ]
}

#[test]
fn a_node_writes_zeroes_for_other_metadata() {
    for (more, extended, protection) in other_formats() {
        let (model, controller) = start(more, extended, protection);
        let factory = || {
            let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default())?;
            Ok(Box::new(driver) as Box<dyn BlockDriver>)
        };
        let options = ContractOptions { tags: 16, seed: 2, keeps_data: true };
        check(&factory, &options).unwrap_or_else(|violation| panic!("{more} {protection:?}: {violation}"));

        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let backend =
            BlockBackend::new(Arc::new(open(&controller).unwrap()), BackendOptions::default()).unwrap();
        let channel = backend.channel(&ctx, 8).unwrap();
        let commands = commands(&controller, &ctx);
        let unit = BLOCK + if extended { usize::from(more) } else { 0 };
        let beside = |byte, count: usize| match extended {
            true => Payload::None,
            false => filled(byte, count * usize::from(more)).into(),
        };
        // Over metadata that somebody has left.
        let left = commands.write(Lba(50), filled(0xee, 100 * unit).into(), beside(0xee, 100), Checks::NONE);
        ctx.block_on(left).result.unwrap();
        ctx.block_on(channel.write_at(0, filled(7, 400 << 10))).0.unwrap();
        let (result, read) = ctx.block_on(channel.read_at(0, filled(0, 400 << 10)));
        result.unwrap();
        assert!(bytes(&read.into()).iter().all(|byte| *byte == 7));
        ctx.block_on(commands.verify(Lba(0), 800)).unwrap();
        for block in [0, 60, 149, 799] {
            let answer =
                ctx.block_on(commands.read(Lba(block), filled(1, unit).into(), beside(1, 1), Checks::NONE));
            answer.result.unwrap();
            let (data, metadata) = (bytes(&answer.data), bytes(&answer.metadata));
            assert!(data[..BLOCK].iter().all(|byte| *byte == 7));
            let metadata = if extended { &data[BLOCK..] } else { &metadata[..] };
            let pi = protection.map_or(0, |one| if one.guard == Guard::Crc16 { 8 } else { 16 });
            let rest = match protection {
                Some(Protection { first: true, .. }) => &metadata[pi..],
                _ => &metadata[..metadata.len() - pi],
            };
            assert!(rest.iter().all(|byte| *byte == 0), "{more} {protection:?}: {metadata:x?}");
        }
        drop((channel, commands));
        ctx.shutdown();
        drop(backend);
        assert_eq!(model.take_violations(), [], "{more} {protection:?}");
    }
}

#[test]
fn commands_carry_metadata() {
    for (more, extended, protection) in other_formats() {
        let (model, controller) = start(more, extended, protection);
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        let commands = commands(&controller, &ctx);
        let format = *commands.metadata_format().unwrap();
        assert_eq!(
            (format.bytes, format.extended, format.protection.is_some()),
            (more, extended, protection.is_some())
        );
        let bytes_of_blocks = |count: usize| count * (BLOCK + if extended { usize::from(more) } else { 0 });
        let beside = |byte, count: usize| match extended {
            true => Payload::None,
            false => filled(byte, count * usize::from(more)).into(),
        };
        let write =
            commands.write(Lba(3), filled(1, bytes_of_blocks(40)).into(), beside(2, 40), Checks::NONE);
        ctx.block_on(write).result.unwrap();
        let read = commands.read(Lba(3), filled(0, bytes_of_blocks(40)).into(), beside(0, 40), Checks::NONE);
        let answer = ctx.block_on(read);
        answer.result.unwrap();
        assert!(bytes(&answer.data).iter().all(|byte| *byte == 1));
        assert!(bytes(&answer.metadata).iter().all(|byte| *byte == 2));
        for (byte, more_byte, same) in [(1, 2, true), (9, 2, false), (1, 3, extended)] {
            let data = filled(byte, bytes_of_blocks(40)).into();
            let compare = commands.compare_with_metadata(Lba(3), data, beside(more_byte, 40), Checks::NONE);
            assert_eq!(ctx.block_on(compare).0.unwrap(), same, "{byte} {more_byte} {more} {protection:?}");
        }
        // What does not fit is refused before it is sent.
        let argument = |data: usize, metadata: Payload, checks: Checks| {
            let read = commands.read(Lba(3), filled(0, data).into(), metadata, checks);
            match ctx.block_on(read).result {
                Err(CommandError::Argument { what, .. }) => what,
                other => panic!("{other:?}"),
            }
        };
        let whole = bytes_of_blocks(1);
        assert_eq!(argument(whole - 4, Payload::None, Checks::NONE), "the length of the data");
        assert_eq!(argument(whole, filled(0, 4).into(), Checks::NONE), "the length of the metadata");
        let unchecked = match protection {
            None => Checks::GUARD,
            Some(Protection { kind: 3, .. }) => Checks::GUARD_AND_REFERENCE,
            Some(_) => Checks::NONE,
        };
        if unchecked != Checks::NONE {
            assert_eq!(argument(whole, beside(0, 1), unchecked), "what is to be checked");
        }
        let plain = ctx.block_on(commands.compare(Lba(3), filled(1, BLOCK).into())).0;
        assert!(matches!(plain, Err(CommandError::Unsupported { .. })));
        passthrough_needs_room(&controller, whole, if extended { 0 } else { more.into() });
        drop(commands);
        ctx.shutdown();
        assert_eq!(model.take_violations(), []);
    }
}

const LONG: Option<Protection> = Some(Protection { kind: 1, guard: Guard::Crc64, first: false });

#[test]
fn long_guards_are_not_used_where_the_controller_does_not_hear_of_them() {
    let (model, controller) = start_under("set-features.16=status:0/02:dnr", 16, false, LONG);
    let error = open(&controller).map(drop).expect_err("its blocks cannot be read");
    assert!(error.contains("refuses to hear that this driver knows such formats"), "{error}");
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let commands = NvmeCommands::open(&controller, Nsid(1), &CommandOptions::default(), &ctx);
    assert!(commands.is_err_and(|other| error.ends_with(&other.to_string())));
    assert_eq!(model.take_violations(), []);
    // Others can be.
    let short = Some(Protection { kind: 1, guard: Guard::Crc16, first: false });
    let (model, controller) = start_under("set-features.16=status:0/02:dnr", 8, false, short);
    assert_eq!(open(&controller).map(drop), Ok(()));
    assert_eq!(model.take_violations(), []);
}

#[test]
fn a_controller_that_does_not_hear_of_long_guards_after_a_reset_is_reset_again() {
    let (model, controller) = start(16, false, LONG);
    let driver = open(&controller).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
    let channel = backend.channel(&ctx, 4).unwrap();
    model.set_faults("write:1=fatal;set-features.16:1=status:0/02:dnr".parse().unwrap()).unwrap();
    let (result, _) = ctx.block_on(channel.write_at(0, filled(7, BLOCK)));
    let refused = model.faults_made().into_iter().find(|(fault, _)| *fault == "status");
    // The reset that it did not hear of them after does not count.
    assert_eq!((result, refused, controller.resets()), (Ok(()), Some(("status", 1)), 1));
    assert_eq!(model.take_violations(), []);
}

/// Reads a block, which has so many bytes, by passthrough.
fn passthrough_needs_room(controller: &Arc<NvmeController>, whole: usize, beside: usize) {
    let mut queue = controller.open_passthrough(Duration::from_secs(30)).unwrap();
    let mut read = |data: usize, metadata: usize| {
        let command = Command::transfer(io::READ, Nsid(1), Lba(3), 1, 0);
        let (mut data, mut metadata) = (vec![0; data], vec![0; metadata]);
        match queue.execute(command, Transfer::In(&mut data), Transfer::In(&mut metadata)) {
            Err(NvmeError::NotAllowed { what, .. }) => Err(what),
            answer => Ok(answer.unwrap().status.is_success()),
        }
    };
    assert_eq!(read(whole, beside), Ok(true));
    assert_eq!(read(whole - 1, beside), Err("the length of the data"));
    if beside > 0 {
        assert_eq!(read(whole, beside - 1), Err("the length of the metadata"));
    }
}
