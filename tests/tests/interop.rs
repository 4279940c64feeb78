//! Files that Corelane writes read the same through QEMU, and the other way round.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, Payload};
use corelane_drivers::file::{CacheMode, FileDriver, FileOptions};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend, Channel, ReqFlags};
use corelane_tests::{Scratch, Seed, foreign_program, run};
use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

const LENGTH: usize = 3 << 20;

/// A range and the byte that fills it.
#[derive(Clone, Copy)]
struct Fill {
    offset: usize,
    bytes: usize,
    byte: u8,
}

fn random_fill(rng: &mut Rng) -> Fill {
    let offset = rng.random_range(0..LENGTH);
    let bytes = rng.random_range(1..=200_000).min(LENGTH - offset);
    Fill { offset, bytes, byte: rng.random_range(0..=255) }
}

/// Runs of equal bytes in the model, for programs that compare with one byte at a time.
fn runs(model: &[u8]) -> Vec<Fill> {
    let mut at = 0;
    model
        .chunk_by(|a, b| a == b)
        .map(|run| {
            at += run.len();
            Fill { offset: at - run.len(), bytes: run.len(), byte: run[0] }
        })
        .collect()
}

fn open(ctx: &AioContext, path: &std::path::Path, cache: CacheMode) -> Rc<Channel> {
    let driver = FileDriver::open(&FileOptions::new(path).cache(cache)).expect("the file opens");
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).expect("a backend");
    Rc::new(backend.channel(ctx, 16).expect("a channel"))
}

fn memory(bytes: usize, byte: u8) -> IoBuf {
    let mut buf = IoBuf::from(DmaBuffer::new(bytes, 4096, Backing::Pages).expect("memory"));
    buf.fill(0, bytes, byte).expect("within the buffer");
    buf
}

async fn write(channel: &Channel, fill: Fill, rng: &mut Rng) {
    let Fill { offset, bytes, byte } = fill;
    let result = match (byte, rng.random_range(0..3)) {
        (0, 0) => channel.write_zeroes(offset as u64, bytes as u64, ReqFlags::empty()).await,
        (0, 1) => channel.write_zeroes(offset as u64, bytes as u64, ReqFlags::MAY_UNMAP).await,
        _ => channel.write_at(offset as u64, memory(bytes, byte)).await.0,
    };
    assert_eq!(result, Ok(()), "{bytes} bytes at {offset}");
}

#[test]
fn what_corelane_writes_qemu_reads() {
    let Some(scratch) = Scratch::new() else { return };
    let (Some(mut qemu_io), Some(mut compare)) = (foreign_program("qemu-io"), foreign_program("qemu-img"))
    else {
        return;
    };
    for (seed, cache) in Seed::sequences(2).zip([CacheMode::Writeback, CacheMode::None].into_iter().cycle()) {
        let mut rng = seed.rng();
        let path = scratch.hole("image", LENGTH as u64);
        let mut model = vec![0; LENGTH];
        let ctx = AioContext::new(&AioConfig::named("writer")).expect("an event loop");
        let channel = open(&ctx, &path, cache);
        ctx.block_on(async {
            for _ in 0..300 {
                let mut fill = random_fill(&mut rng);
                if rng.random_bool(0.3) {
                    fill.byte = 0;
                }
                write(&channel, fill, &mut rng).await;
                model[fill.offset..fill.offset + fill.bytes].fill(fill.byte);
            }
            assert_eq!(channel.flush().await, Ok(()));
        });
        drop(channel);
        ctx.shutdown();
        let expected = scratch.file("model", &model);
        run(compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(&path).arg(&expected));
        // One byte's pattern at a time, each checked by QEMU itself.
        qemu_io.args(["-f", "raw", "-r"]);
        for Fill { offset, bytes, byte } in runs(&model) {
            qemu_io.arg("-c").arg(format!("read -P {byte} {offset} {bytes}"));
        }
        let said = run(qemu_io.arg(&path));
        assert!(!said.contains("verification failed"), "{said}");
        std::fs::remove_file(path).expect("removed");
        std::fs::remove_file(expected).expect("removed");
        (qemu_io, compare) = match (foreign_program("qemu-io"), foreign_program("qemu-img")) {
            (Some(io), Some(img)) => (io, img),
            _ => return,
        };
    }
}

#[test]
fn what_qemu_writes_corelane_reads() {
    let Some(scratch) = Scratch::new() else { return };
    for (seed, cache) in Seed::sequences(2).zip([CacheMode::Writeback, CacheMode::None].into_iter().cycle()) {
        let Some(mut qemu_io) = foreign_program("qemu-io") else { return };
        let mut rng = seed.rng();
        let path = scratch.hole("image", LENGTH as u64);
        let mut model = vec![0; LENGTH];
        qemu_io.args(["-f", "raw"]);
        for _ in 0..200 {
            let Fill { offset, bytes, byte } = random_fill(&mut rng);
            let mut command = String::new();
            let zero = rng.random_bool(0.2);
            let verb = if zero { "write -z".to_owned() } else { format!("write -P {byte}") };
            write!(command, "{verb} {offset} {bytes}").expect("a string takes it");
            qemu_io.arg("-c").arg(command);
            model[offset..offset + bytes].fill(if zero { 0 } else { byte });
        }
        run(qemu_io.arg(&path));
        let ctx = AioContext::new(&AioConfig::named("reader")).expect("an event loop");
        let channel = open(&ctx, &path, cache);
        for _ in 0..300 {
            let Fill { offset, bytes, .. } = random_fill(&mut rng);
            let (result, buf) = ctx.block_on(channel.read_at(offset as u64, memory(bytes, 0xcc)));
            assert_eq!(result, Ok(()));
            let mut read = vec![0; bytes];
            Payload::One(buf).copy_to(0, &mut read).expect("within the buffer");
            assert!(read == model[offset..offset + bytes], "{bytes} bytes at {offset}");
        }
        drop(channel);
        ctx.shutdown();
        std::fs::remove_file(path).expect("removed");
    }
}
