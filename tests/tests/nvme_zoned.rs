//! Zoned namespaces: the driver, its commands and the block layer on the controller model.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;

use corelane_dma::{Backing, DmaBuffer, IoBuf, Payload};
use corelane_drivers::nvme::commands::{CommandError, CommandOptions, NvmeCommands, ReportOptions};
use corelane_drivers::nvme::spec::zone::{Zone, ZoneAction, ZoneFilter, ZoneState};
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{
    BackendOptions, BlockBackend, Channel, DeviceChange, Errno, IoError, Op, Request, ZoneLimits,
};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig, ZoneConfig};
use corelane_tests::Seed;
use rand::RngExt;

const BLOCK: usize = 4096;
/// Linux's numbers for what it makes of the statuses.
const EIO: i32 = 5;
const EROFS: i32 = 30;
const EOVERFLOW: i32 = 75;
const ETOOMANYREFS: i32 = 109;
/// Blocks of a zone, and how many of them can be written.
const ZONE: u64 = 64;
const CAPACITY: u64 = 48;
const ZONES: u64 = 40;

struct Rig {
    model: Arc<Model>,
    controller: Arc<NvmeController>,
    backend: BlockBackend,
    channel: Channel,
    commands: NvmeCommands,
    ctx: AioContext,
}

fn zones() -> ZoneConfig {
    ZoneConfig {
        capacity_bytes: CAPACITY * BLOCK as u64,
        max_open: 3,
        max_active: 5,
        extension_bytes: 64,
        ..ZoneConfig::new(ZONE * BLOCK as u64)
    }
}

fn start(zones: ZoneConfig) -> Rig {
    let zoned = NamespaceConfig { zones: Some(zones), ..NamespaceConfig::ram(ZONES * ZONE * BLOCK as u64) };
    let namespaces = vec![zoned, NamespaceConfig::ram(1 << 20)];
    let model = Arc::new(Model::new(ModelConfig { zasl: 2, ..ModelConfig::new(namespaces) }).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = backend.channel(&ctx, 16).unwrap();
    let commands = NvmeCommands::open(&controller, Nsid(1), &CommandOptions::default(), &ctx).unwrap();
    Rig { model, controller, backend, channel, commands, ctx }
}

fn filled(byte: u8, blocks: usize) -> IoBuf {
    let mut buffer = IoBuf::from(DmaBuffer::new(blocks * BLOCK, 4096, Backing::Pages).unwrap());
    buffer.fill(0, blocks * BLOCK, byte).unwrap();
    buffer
}

impl Rig {
    fn write(&self, block: u64, byte: u8, blocks: usize) -> Result<(), IoError> {
        self.ctx.block_on(self.channel.write_at(block * BLOCK as u64, filled(byte, blocks))).0
    }

    fn read(&self, block: u64, blocks: usize) -> Vec<u8> {
        let (result, buffer) =
            self.ctx.block_on(self.channel.read_at(block * BLOCK as u64, filled(0xEE, blocks)));
        result.unwrap();
        (0..blocks)
            .map(|block| {
                let mut byte = [0];
                buffer.copy_to(block * BLOCK + 77, &mut byte).unwrap();
                byte[0]
            })
            .collect()
    }

    fn report(&self, from: u64, options: ReportOptions) -> Vec<Zone> {
        self.ctx.block_on(self.commands.report_zones(Lba(from), options)).unwrap()
    }

    fn act(&self, action: ZoneAction, zone: u64) -> Result<(), CommandError> {
        self.ctx.block_on(self.commands.zone_action(action, Some(Lba(zone * ZONE))))
    }

    fn append(&self, zone: u64, byte: u8, blocks: usize) -> Result<Lba, CommandError> {
        self.ctx.block_on(self.commands.append(Lba(zone * ZONE), filled(byte, blocks).into())).0
    }

    fn end(self) {
        drop((self.channel, self.commands));
        self.ctx.shutdown();
        drop((self.backend, self.controller));
        assert_eq!(self.model.take_violations(), [], "what the model has against the driver");
    }
}

fn code(error: &CommandError) -> (u16, i32) {
    let CommandError::Failed { source, .. } = error else { panic!("{error}") };
    ((source.device_status & 0x7ff) as u16, source.errno.raw())
}

#[test]
fn the_block_layer_sees_the_zones() {
    let rig = start(zones());
    let block = BLOCK as u64;
    let expected = ZoneLimits {
        zone_size: ZONE * block,
        zone_capacity: CAPACITY * block,
        max_open: 3,
        max_active: 5,
        max_append: 4 * BLOCK as u32,
        cross_reads: false,
    };
    assert_eq!(rig.backend.limits().zoned, Some(expected));
    assert_eq!(rig.commands.zones().unwrap().extension_bytes, 64);
    let plain = NvmeDriver::open(&rig.controller, Nsid(2), &NvmeOptions::default()).unwrap();
    assert_eq!(plain.zones(), None);
    let plain = BlockBackend::new(Arc::new(plain), BackendOptions::default()).unwrap();
    assert_eq!(plain.limits().zoned, None);
    rig.end();
}

#[test]
fn writes_move_the_pointer_and_reads_cross_zones() {
    let rig = start(zones());
    rig.write(ZONE - 64, 1, 48).unwrap();
    rig.write(ZONE, 2, 3).unwrap();
    assert_eq!(rig.read(ZONE - 17, 19), [&[1][..], &[0; 16], &[2, 2]].concat());
    let error = rig.write(ZONE, 2, 1).unwrap_err();
    assert_eq!((error.errno, error.device_status & 0x7ff), (Errno::EIO, 0x1bc));
    assert!(error.to_string().contains("Zone Invalid Write"), "{error}");
    assert_eq!(rig.write(2 * ZONE - 1, 2, 2).unwrap_err().errno, Errno::EINVAL);
    let zeroes = Request::write_zeroes((ZONE + 3) * BLOCK as u64, 4 * BLOCK as u64);
    rig.ctx.block_on(rig.channel.start(zeroes)).0.unwrap();
    let zone = &rig.report(ZONE, ReportOptions { most: Some(1), ..ReportOptions::default() })[0];
    assert_eq!((zone.state, zone.pointer), (ZoneState::ImplicitlyOpen, Some(Lba(ZONE + 7))));
    rig.end();
}

/// Many writes at once: the block layer keeps the order that a zone demands.
#[test]
fn a_queue_of_writes_fills_zones() {
    let rig = start(zones());
    let mut next = 0;
    let mut ended = 0;
    while ended < 3 * CAPACITY {
        while next < 3 * CAPACITY {
            let (zone, block) = (next % 3, next / 3);
            let at = (zone * ZONE + block) * BLOCK as u64;
            if rig.channel.submit(Request::write(at, filled(block as u8 + 1, 1))).is_err() {
                break;
            }
            next += 1;
        }
        rig.ctx.turn(corelane_engine::aio::Wait::No);
        rig.channel.drain(|end| {
            end.result.unwrap();
            ended += 1;
        });
    }
    for zone in 0..3 {
        let expected: Vec<u8> = (1..=CAPACITY as u8).collect();
        assert_eq!(rig.read(zone * ZONE, CAPACITY as usize), expected);
    }
    let full = ReportOptions { filter: ZoneFilter::Full, ..ReportOptions::default() };
    assert_eq!(rig.report(0, full).len(), 3);
    assert_eq!(rig.channel.stats().fast_of(Op::Write), 0);
    rig.end();
}

#[test]
fn actions_change_states_and_limits_are_told_apart() {
    let rig = start(zones());
    for zone in 0..3 {
        rig.act(ZoneAction::Open, zone).unwrap();
    }
    assert_eq!(code(&rig.act(ZoneAction::Open, 3).unwrap_err()), (0x1be, ETOOMANYREFS));
    rig.act(ZoneAction::Close, 0).unwrap();
    rig.write(3 * ZONE, 1, 1).unwrap();
    rig.act(ZoneAction::Close, 3).unwrap();
    rig.append(4, 1, 1).unwrap();
    assert_eq!(code(&rig.append(5, 1, 1).unwrap_err()), (0x1bd, EOVERFLOW));
    let error = rig.write(5 * ZONE, 1, 1).unwrap_err();
    assert_eq!(error.errno.raw(), EOVERFLOW);
    rig.act(ZoneAction::Finish, 1).unwrap();
    assert_eq!(code(&rig.act(ZoneAction::Open, 1).unwrap_err()), (0x1bf, EIO));
    let states: Vec<ZoneState> =
        rig.report(0, ReportOptions::default()).iter().map(|zone| zone.state).collect();
    let expected = [
        ZoneState::Closed,
        ZoneState::Full,
        ZoneState::ExplicitlyOpen,
        ZoneState::Closed,
        ZoneState::ImplicitlyOpen,
        ZoneState::Empty,
    ];
    assert_eq!(states[..6], expected);
    assert_eq!(states.len() as u64, ZONES);
    rig.ctx.block_on(rig.commands.zone_action(ZoneAction::Reset, None)).unwrap();
    let empty = ReportOptions { filter: ZoneFilter::Empty, ..ReportOptions::default() };
    assert_eq!(rig.report(0, empty).len() as u64, ZONES);
    assert_eq!(rig.read(3 * ZONE, 1), [0]);
    rig.end();
}

#[test]
fn dead_zones_have_errors_of_their_own() {
    let rig = start(ZoneConfig { read_only: 1, offline: 1, ..zones() });
    let error = rig.write((ZONES - 2) * ZONE, 1, 1).unwrap_err();
    assert_eq!((error.device_status & 0x7ff, error.errno.raw()), (0x1ba, EROFS));
    let error = rig.write((ZONES - 1) * ZONE, 1, 1).unwrap_err();
    assert_eq!((error.device_status & 0x7ff, error.errno.raw()), (0x1bb, EIO));
    assert_eq!(rig.read((ZONES - 2) * ZONE, 1), [0]);
    rig.act(ZoneAction::Offline, ZONES - 2).unwrap();
    let offline = ReportOptions { filter: ZoneFilter::Offline, ..ReportOptions::default() };
    assert_eq!(rig.report(0, offline).len(), 2);
    rig.end();
}

#[test]
fn descriptor_extensions_come_with_extended_reports() {
    let rig = start(zones());
    let bytes: Vec<u8> = (0..64).collect();
    rig.ctx.block_on(rig.commands.set_zone_extension(Lba(2 * ZONE), &bytes)).unwrap();
    let extended = ReportOptions { extended: true, ..ReportOptions::default() };
    let found = rig.report(0, extended);
    assert_eq!(found.len() as u64, ZONES);
    assert_eq!((found[2].state, found[2].extension.as_ref()), (ZoneState::Closed, Some(&bytes)));
    assert_eq!(found[1].extension, None);
    let error = rig.ctx.block_on(rig.commands.set_zone_extension(Lba(0), &bytes[1..])).unwrap_err();
    assert!(error.to_string().contains("64 bytes"), "{error}");
    rig.end();
}

#[test]
fn what_no_zone_takes_is_not_sent() {
    let rig = start(zones());
    assert!(matches!(rig.act(ZoneAction::Open, ZONES), Err(CommandError::Argument { .. })));
    let off = rig.ctx.block_on(rig.commands.zone_action(ZoneAction::Open, Some(Lba(3)))).unwrap_err();
    assert!(off.to_string().contains("a multiple of 64"), "{off}");
    let long = rig.append(0, 1, 5).unwrap_err();
    assert!(long.to_string().contains("from 1 to 4 blocks"), "{long}");
    let plain = NvmeCommands::open(&rig.controller, Nsid(2), &CommandOptions::default(), &rig.ctx).unwrap();
    let error = rig.ctx.block_on(plain.report_zones(Lba(0), ReportOptions::default())).unwrap_err();
    assert!(matches!(error, CommandError::Unsupported { .. }), "{error}");
    drop(plain);
    rig.end();
}

/// Tasks append to a few zones at the same time: every block is where its answer says, once.
#[test]
fn appends_from_many_tasks_are_all_found() {
    let Rig { model, controller, backend, channel, commands, ctx } = start(zones());
    let commands = Rc::new(commands);
    let tasks: Vec<_> = (0..9u64)
        .map(|task| {
            let commands = Rc::clone(&commands);
            ctx.spawn(async move {
                let mut places = Vec::new();
                for step in 0..16u8 {
                    let byte = (task as u8) << 4 | step;
                    let data = Payload::from(filled(byte, 1));
                    let at = commands.append(Lba(task % 3 * ZONE), data).await.0.unwrap();
                    places.push((at.0, byte));
                }
                places
            })
        })
        .collect();
    let mut all: HashMap<u64, u8> = HashMap::new();
    for task in tasks {
        for (at, byte) in ctx.block_on(task) {
            assert_eq!(all.insert(at, byte), None, "two appends went to block {at}");
        }
    }
    let commands = Rc::try_unwrap(commands).unwrap();
    let rig = Rig { model, controller, backend, channel, commands, ctx };
    for (at, byte) in &all {
        assert_eq!(rig.read(*at, 1), [*byte]);
    }
    assert_eq!(all.len(), 9 * 16);
    rig.end();
}

/// Random writes, appends and actions, against what the reports and the data say.
#[test]
fn random_work_is_what_reports_say() {
    for seed in Seed::sequences(6) {
        let mut rng = seed.rng();
        let rig = start(ZoneConfig { max_open: rng.random_range(1..4), max_active: 4, ..zones() });
        let mut written: Vec<Vec<u8>> = vec![Vec::new(); 6];
        for byte in 0..80u8 {
            let zone = rng.random_range(0..6u64);
            let known = &mut written[zone as usize];
            let blocks = rng.random_range(1..5usize);
            let at = zone * ZONE + known.len() as u64;
            let done = match rng.random_range(0..8) {
                0..=2 => rig.write(at, byte, blocks).is_ok(),
                3..=5 => rig.append(zone, byte, blocks).inspect(|place| assert_eq!(place.0, at)).is_ok(),
                6 => {
                    let actions =
                        [ZoneAction::Open, ZoneAction::Close, ZoneAction::Reset, ZoneAction::Finish];
                    let action = actions[rng.random_range(0..4usize)];
                    match rig.act(action, zone) {
                        Ok(()) if action == ZoneAction::Reset => known.clear(),
                        Ok(()) if action == ZoneAction::Finish => known.resize(CAPACITY as usize, 0),
                        _ => {}
                    }
                    false
                }
                _ => {
                    assert!(rig.write(at + 1, byte, 1).is_err(), "seed {seed:?}: not at the pointer");
                    false
                }
            };
            if done {
                known.extend(std::iter::repeat_n(byte, blocks));
            }
        }
        for (zone, shown) in rig.report(0, ReportOptions::default()).iter().take(6).enumerate() {
            let known = &written[zone];
            let pointer = shown.pointer.map_or(CAPACITY, |at| at.0 - shown.start.0);
            assert_eq!(pointer, known.len() as u64, "seed {seed:?}: {shown:?}");
            if !known.is_empty() {
                assert_eq!(rig.read(shown.start.0, known.len()), *known, "seed {seed:?}");
            }
        }
        rig.end();
    }
}

#[test]
fn writes_that_wait_for_their_turn_end_once_when_their_namespace_goes() {
    let rig = start(zones());
    let (told, failed) = channel();
    rig.backend.on_change(move |change| {
        if let DeviceChange::Failed { error } = change {
            told.send(error).unwrap();
        }
    });
    for token in 0..8 {
        let request = Request::write(token * BLOCK as u64, filled(1, 1)).with_token(token);
        rig.channel.submit(request).map_err(drop).unwrap();
    }
    // The first goes to the controller. The lane does not turn until the namespace is known to be gone.
    rig.ctx.turn(Wait::No);
    rig.model.set_attached(1, false).unwrap();
    assert_eq!(failed.recv().unwrap().errno, Errno::ENODEV);
    let mut ends = Vec::new();
    while ends.len() < 8 {
        rig.ctx.turn(Wait::Yes);
        rig.channel.drain(|end| ends.push((end.token, end.result)));
    }
    rig.ctx.block_on(rig.backend.drain());
    rig.channel.drain(|end| ends.push((end.token, end.result)));
    assert!(ends.iter().map(|(token, _)| *token).eq(0..8), "each once, in order: {ends:?}");
    assert!(ends[1..].iter().all(|(_, result)| *result == Err(Errno::ENODEV.into())), "{ends:?}");
    assert_eq!((rig.write(0, 1, 1), rig.channel.in_flight()), (Err(Errno::ENODEV.into()), 0));
    rig.end();
}
