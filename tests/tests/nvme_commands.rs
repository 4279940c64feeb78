//! What a namespace can do beyond reads and writes, by the driver's typed methods on the controller model.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, MemRegion, Payload};
use corelane_drivers::nvme::commands::{BlockRange, CommandError, CommandOptions, NvmeCommands};
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::opcode::io;
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend, Channel, Errno};
use corelane_nvme_model::{CopyLimits, Model, ModelBus, ModelConfig, NamespaceConfig};
use corelane_tests::Seed;
use rand::RngExt;

const BLOCK: usize = 512;
const BLOCKS: u64 = 4096;

struct Rig {
    model: Arc<Model>,
    controller: Arc<NvmeController>,
    backend: BlockBackend,
    channel: Channel,
    commands: NvmeCommands,
    ctx: AioContext,
}

fn start(config: ModelConfig) -> Rig {
    let namespace = NamespaceConfig {
        lba_shift: 9,
        copy: CopyLimits { range_blocks: 7, blocks: 20, ranges_less_one: 3 },
        ..NamespaceConfig::ram(BLOCKS * BLOCK as u64)
    };
    let model = Arc::new(Model::new(ModelConfig { namespaces: vec![namespace], ..config }).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
    let driver = NvmeDriver::open(&controller, Nsid(1), &NvmeOptions::default()).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = backend.channel(&ctx, 8).unwrap();
    let commands = NvmeCommands::open(&controller, Nsid(1), &CommandOptions::default(), &ctx).unwrap();
    Rig { model, controller, backend, channel, commands, ctx }
}

fn all() -> ModelConfig {
    ModelConfig { fused: true, vsl: 2, wusl: 1, ..ModelConfig::new(Vec::new()) }
}

fn filled(byte: u8, len: usize) -> IoBuf {
    let mut buffer = IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).unwrap());
    buffer.fill(0, len, byte).unwrap();
    buffer
}

impl Rig {
    fn write(&self, block: u64, byte: u8, blocks: usize) {
        let (result, _) =
            self.ctx.block_on(self.channel.write_at(block * BLOCK as u64, filled(byte, blocks * BLOCK)));
        result.unwrap();
    }

    fn read(&self, block: u64) -> Result<u8, Errno> {
        let (result, buffer) =
            self.ctx.block_on(self.channel.read_at(block * BLOCK as u64, filled(0xEE, BLOCK)));
        let mut byte = [0];
        buffer.copy_to(BLOCK - 1, &mut byte).unwrap();
        result.map(|()| byte[0]).map_err(|error| error.errno)
    }

    fn end(self) {
        drop((self.channel, self.commands));
        self.ctx.shutdown();
        drop(self.backend);
        assert_eq!(self.model.take_violations(), [], "what the model has against the driver");
    }
}

#[test]
fn data_is_compared_in_memory_of_every_kind() {
    let rig = start(all());
    rig.write(10, 5, 16);
    let region = Rc::new(MemRegion::from_buffer(DmaBuffer::new(1 << 16, 4096, Backing::Pages).unwrap()));
    rig.ctx.block_on(rig.backend.register_buf(&region)).unwrap();
    let lease = |at: usize, len: usize| {
        let mut buffer = IoBuf::lease(&region, at, len).unwrap();
        buffer.fill(0, len, 5).unwrap();
        buffer
    };
    let scattered = |parts: [IoBuf; 2]| {
        let mut vector = IoVector::new();
        parts.into_iter().for_each(|part| vector.push(part));
        Payload::from(vector)
    };
    let memory = [
        Payload::from(filled(5, 16 * BLOCK)),
        Payload::from(lease(4, 16 * BLOCK)),
        Payload::from(lease(0, 16 * BLOCK)),
        scattered([lease(0, 4096), lease(8192, 4096)]),
        scattered([lease(0, 100), lease(8192, 16 * BLOCK - 100)]),
        scattered([filled(5, 512), lease(8192, 15 * BLOCK)]),
    ];
    for mut memory in memory {
        // They overlap.
        memory.fill(0, 16 * BLOCK, 5).unwrap();
        let (result, same) = rig.ctx.block_on(rig.commands.compare(Lba(10), memory));
        assert!(result.unwrap());
        memory = same;
        assert_eq!(memory.len_bytes(), 16 * BLOCK);
        memory.fill(16 * BLOCK - 1, 1, 6).unwrap();
        let (result, _) = rig.ctx.block_on(rig.commands.compare(Lba(10), memory));
        assert!(!result.unwrap(), "the last byte differs");
    }
    rig.ctx.block_on(rig.backend.unregister_buf(&region)).unwrap();
    rig.end();
}

#[test]
fn compare_and_write_is_one_operation() {
    let rig = start(all());
    assert_eq!(rig.commands.atomic_writes().compare_and_write_bytes, Some(8 * 512));
    let step = |expected: u8, new: u8| {
        let work =
            rig.commands.compare_and_write(Lba(7), filled(expected, BLOCK).into(), filled(new, BLOCK).into());
        rig.ctx.block_on(work).0.unwrap()
    };
    assert!(step(0, 1));
    assert!(!step(0, 2));
    assert_eq!(rig.read(7), Ok(1));
    assert!(step(1, 2));
    assert_eq!(rig.read(7), Ok(2));
    let (expected, new) = (filled(0, 9 * BLOCK).into(), filled(0, 9 * BLOCK).into());
    let error = rig.ctx.block_on(rig.commands.compare_and_write(Lba(7), expected, new)).0.unwrap_err();
    assert!(error.to_string().contains("at most 4096 bytes, to be atomic (ACWU)"), "{error}");
    let (expected, new) = (filled(0, BLOCK).into(), filled(0, 2 * BLOCK).into());
    let error = rig.ctx.block_on(rig.commands.compare_and_write(Lba(7), expected, new)).0.unwrap_err();
    assert!(matches!(error, CommandError::Argument { value: 512, .. }), "{error}");
    rig.end();
}

/// Many tasks add to one counter, each by comparing and writing: none of the additions is lost.
#[test]
fn a_counter_in_a_block_is_raised_by_many_at_once() {
    const TASKS: usize = 6;
    const EACH: u64 = 10;
    let Rig { model, controller, backend, channel, commands, ctx } = start(all());
    let commands = Rc::new(commands);
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let commands = Rc::clone(&commands);
            ctx.spawn(async move {
                let (mut done, mut seen) = (0, 0_u64);
                while done < EACH {
                    let block = |value: u64| {
                        let mut buffer = filled(0, BLOCK);
                        buffer.copy_from(0, &value.to_le_bytes()).unwrap();
                        Payload::from(buffer)
                    };
                    let (won, ..) = commands.compare_and_write(Lba(3), block(seen), block(seen + 1)).await;
                    match won.unwrap() {
                        true => (done, seen) = (done + 1, seen + 1),
                        // Somebody else was first: it is larger now.
                        false => seen += 1,
                    }
                }
            })
        })
        .collect();
    ctx.block_on(async {
        for task in tasks {
            task.await;
        }
    });
    let (result, buffer) = ctx.block_on(channel.read_at(3 * BLOCK as u64, filled(0, BLOCK)));
    result.unwrap();
    let mut value = [0; 8];
    buffer.copy_to(0, &mut value).unwrap();
    assert_eq!(u64::from_le_bytes(value), TASKS as u64 * EACH);
    Rig { model, controller, backend, channel, commands: Rc::into_inner(commands).unwrap(), ctx }.end();
}

#[test]
fn bad_blocks_are_made_found_and_mended() {
    let rig = start(all());
    rig.write(100, 3, 64);
    let verify = |start, blocks| rig.ctx.block_on(rig.commands.verify(Lba(start), blocks));
    assert_eq!(rig.commands.abilities().max_verify_blocks, Some(32), "VSL is 16 KiB");
    verify(0, BLOCKS).unwrap();
    // More than one command's worth (WUSL is 8 KiB).
    rig.ctx.block_on(rig.commands.write_uncorrectable(Lba(110), 40)).unwrap();
    assert_eq!(
        [109, 110, 149, 150].map(|block| rig.read(block)),
        [Ok(3), Err(Errno::EIO), Err(Errno::EIO), Ok(3)]
    );
    let error = verify(0, BLOCKS).unwrap_err();
    assert_eq!(error.status().map(|status| status.0), Some(0x281));
    assert!(
        error.to_string().starts_with("Verify failed") && error.to_string().contains("Unrecovered"),
        "{error}"
    );
    verify(150, 100).unwrap();
    rig.write(110, 4, 40);
    verify(0, BLOCKS).unwrap();
    let error = verify(BLOCKS, 1).unwrap_err();
    assert!(error.to_string().contains("within the namespace's 4096"), "{error}");
    verify(BLOCKS, 0).unwrap();
    rig.end();
}

#[test]
fn copies_are_equal_to_what_they_are_copies_of() {
    for seed in Seed::sequences(2) {
        let rig = start(all());
        let mut rng = seed.rng();
        let half = BLOCKS as usize / 2 * BLOCK;
        let mut expected = vec![0_u8; 2 * half];
        rng.fill(&mut expected[..half]);
        let mut source = filled(0, half);
        source.copy_from(0, &expected[..half]).unwrap();
        rig.ctx.block_on(rig.channel.write_at(0, source)).0.unwrap();
        for _ in 0..8 {
            // From the lower half to the upper, so that they do not overlap.
            let count = rng.random_range(0..10);
            let ranges: Vec<BlockRange> = (0..count)
                .map(|_| {
                    let blocks = rng.random_range(0..60);
                    BlockRange { start: Lba(rng.random_range(0..BLOCKS / 2 - blocks)), blocks }
                })
                .collect();
            let total: u64 = ranges.iter().map(|range| range.blocks).sum();
            let to = rng.random_range(BLOCKS / 2..=BLOCKS - total);
            rig.ctx.block_on(rig.commands.copy(&ranges, Lba(to))).unwrap();
            let copied = ranges.iter().flat_map(|range| range.start.0..range.start.0 + range.blocks);
            for (from, to) in copied.zip(to..) {
                let from = from as usize * BLOCK;
                expected.copy_within(from..from + BLOCK, to as usize * BLOCK);
            }
        }
        let (result, all) = rig.ctx.block_on(rig.channel.read_at(0, filled(0, 2 * half)));
        result.unwrap();
        let mut found = vec![0; 2 * half];
        all.copy_to(0, &mut found).unwrap();
        let first = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!(first, None, "where copies differ from what they are copies of");
        rig.end();
    }
}

#[test]
fn any_other_command_is_carried_as_it_is() {
    let rig = start(all());
    let write = Command::transfer(io::WRITE, Nsid(9), Lba(20), 2, 0);
    let answer = rig.ctx.block_on(rig.commands.submit(write, filled(8, 2 * BLOCK).into(), Payload::None));
    assert_eq!(answer.result.unwrap(), 0);
    assert_eq!([rig.read(21), rig.read(22)], [Ok(8), Ok(0)]);
    let read = Command::transfer(io::READ, Nsid(1), Lba(20), 2, 0);
    let answer = rig.ctx.block_on(rig.commands.submit(read, filled(0, 2 * BLOCK).into(), Payload::None));
    let mut bytes = [0; 2 * BLOCK];
    answer.data.copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, [8; 2 * BLOCK]);
    let submit = |command, data| rig.ctx.block_on(rig.commands.submit(command, data, Payload::None));
    let error = submit(Command::new(0x83, Nsid(1)), Payload::None).result.unwrap_err();
    assert!(error.to_string().contains("moves one way"), "{error}");
    let error = submit(Command::new(io::VERIFY, Nsid(1)), filled(0, BLOCK).into()).result.unwrap_err();
    assert!(error.to_string().contains("nothing moves"), "{error}");
    let error = submit(Command { flags: 1, ..write }, filled(0, BLOCK).into()).result.unwrap_err();
    assert!(matches!(error, CommandError::Argument { what: "its flags", .. }), "{error}");
    let error = submit(write, filled(0, BLOCK).into()).result.unwrap_err();
    assert!(error.to_string().contains("at least the 1024 bytes"), "{error}");
    assert_eq!([rig.read(20), rig.read(21)], [Ok(8); 2], "it was not sent");
    rig.end();
}

#[test]
fn a_controller_without_a_command_says_so() {
    let none =
        ModelConfig { compare: false, verify: false, copy: false, write_uncorrectable: false, ..all() };
    let rig = start(ModelConfig { fused: false, ..none });
    let ctx = &rig.ctx;
    let errors = [
        ctx.block_on(rig.commands.compare(Lba(0), filled(0, BLOCK).into())).0.unwrap_err(),
        ctx.block_on(rig.commands.verify(Lba(0), 1)).unwrap_err(),
        ctx.block_on(rig.commands.write_uncorrectable(Lba(0), 1)).unwrap_err(),
        ctx.block_on(rig.commands.copy(&[], Lba(0))).unwrap_err(),
        ctx.block_on(rig.commands.compare_and_write(
            Lba(0),
            filled(0, BLOCK).into(),
            filled(0, BLOCK).into(),
        ))
        .0
        .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, CommandError::Unsupported { .. }), "{error}");
        assert!(error.to_string().starts_with("model: namespace 1 has no "), "{error}");
    }
    rig.end();
}

#[test]
fn commands_have_a_queue_of_their_own_or_none() {
    let rig = start(ModelConfig { max_queue_pairs: 2, ..all() });
    let open = |depth| {
        let options = CommandOptions { depth, ..CommandOptions::default() };
        NvmeCommands::open(&rig.controller, Nsid(1), &options, &rig.ctx).map(drop)
    };
    let error = open(4).unwrap_err().to_string();
    assert!(error.contains("the number of I/O queues that are free is 0"), "{error}");
    assert!(open(0).unwrap_err().to_string().contains("from 1 to 32768"));
    let Rig { model, controller, backend, channel, commands, ctx } = rig;
    drop(commands);
    let again = NvmeCommands::open(
        &controller,
        Nsid(1),
        &CommandOptions { depth: 1, ..CommandOptions::default() },
        &ctx,
    );
    let commands = again.unwrap();
    // Two commands do not fit into a queue for one.
    let (expected, new) = (filled(0, BLOCK).into(), filled(0, BLOCK).into());
    let error = ctx.block_on(commands.compare_and_write(Lba(0), expected, new)).0.unwrap_err();
    assert!(error.to_string().contains("at least 2"), "{error}");
    Rig { model, controller, backend, channel, commands, ctx }.end();
}

#[test]
fn a_command_that_nobody_waits_for_keeps_its_memory_until_it_ends() {
    let rig = start(all());
    rig.write(5, 1, 1);
    for _ in 0..100 {
        // Polled once, so that it is sent, and dropped.
        let mut compare = Box::pin(rig.commands.compare(Lba(5), filled(1, BLOCK).into()));
        rig.ctx.block_on(std::future::poll_fn(|cx| {
            assert!(compare.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        }));
    }
    let (result, _) = rig.ctx.block_on(rig.commands.compare(Lba(5), filled(1, BLOCK).into()));
    assert!(result.unwrap());
    rig.end();
}
