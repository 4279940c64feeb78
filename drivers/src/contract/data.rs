//! Checks of what commands do to the data.

use std::rc::Rc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_engine::block::{Op, ReqFlags};

use super::SPAN_BYTES;
use super::rig::{Rig, Violation, bytes_of, ensure};

const PLAIN: ReqFlags = ReqFlags::empty();

/// Bytes that tell where and in which round they were written.
fn pattern(offset: u64, round: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| ((offset + i).wrapping_mul(31) ^ ((offset + i) >> 9) ^ (round * 77)) as u8)
        .collect()
}

fn same(got: &[u8], expected: &[u8], offset: u64) -> Result<(), Violation> {
    let differs = got.iter().zip(expected).position(|(got, expected)| got != expected);
    match differs {
        None if got.len() == expected.len() => Ok(()),
        None => Err(Violation::new(format!("{} bytes came back instead of {}", got.len(), expected.len()))),
        Some(at) => Err(Violation::new(format!(
            "byte {} reads {:#04x} instead of {:#04x}",
            offset + at as u64,
            got[at],
            expected[at]
        ))),
    }
}

/// Rounds of random blocks written by all tags at once, then everything read by all tags.
pub fn read_back(rig: &mut Rig) -> Result<(), Violation> {
    let block = rig.block_bytes;
    let blocks = SPAN_BYTES / block as u64;
    let mut last_round = vec![None; blocks as usize];
    for round in 0..8 {
        let mut used = vec![false; blocks as usize];
        for tag in 0..rig.tags {
            let at = rig.below(blocks);
            if std::mem::replace(&mut used[at as usize], true) {
                continue;
            }
            last_round[at as usize] = Some(round);
            let offset = at * block as u64;
            let mut payload = rig.block(block)?;
            payload.copy_from(0, &pattern(offset, round, block))?;
            rig.submit(tag, Op::Write, PLAIN, (offset, block as u64), payload)?;
        }
        rig.wait_for_all()?;
    }
    let written: Vec<(u64, u64)> = last_round
        .iter()
        .enumerate()
        .filter_map(|(at, round)| round.map(|round| (at as u64 * block as u64, round)))
        .collect();
    for batch in written.chunks(rig.tags as usize) {
        for (tag, (offset, _)) in batch.iter().enumerate() {
            let payload = rig.block(block)?;
            rig.submit(tag as u32, Op::Read, PLAIN, (*offset, block as u64), payload)?;
        }
        for completion in rig.wait_for_all()? {
            let (offset, round) = batch[completion.tag.0 as usize];
            if rig.keeps_data {
                same(&bytes_of(&completion.payload)?, &pattern(offset, round, block), offset)?;
            }
        }
    }
    Ok(())
}

/// Vectors of segments of several lengths, against reads and writes of one buffer.
pub fn vectors(rig: &mut Rig) -> Result<(), Violation> {
    let (unit, block) = (rig.unit, rig.block_bytes);
    let shapes: [&[usize]; 4] =
        [&[block], &[unit, block], &[block, unit, block], &[unit, unit, unit, unit, unit, unit, unit, unit]];
    for (round, shape) in shapes.into_iter().enumerate() {
        if shape.len() > (rig.limits.max_iov as usize).min(2 * rig.tags as usize) {
            continue;
        }
        let len: usize = shape.iter().sum();
        if rig.limits.max_transfer != 0 && len > rig.limits.max_transfer as usize {
            continue;
        }
        let offset = rig.below(8) * unit as u64;
        let expected = pattern(offset, round as u64, len);
        let mut payload = rig.vector(shape)?;
        payload.copy_from(0, &expected)?;
        drop(rig.must(Op::Write, PLAIN, (offset, len as u64), payload)?);
        if rig.keeps_data {
            // By single buffers,
            for at in (0..len).step_by(unit) {
                let got = rig.read(offset + at as u64, unit)?;
                same(&got, &expected[at..at + unit], offset + at as u64)?;
            }
        }
        // and by a vector.
        let payload = rig.vector(shape)?;
        let payload = rig.must(Op::Read, PLAIN, (offset, len as u64), payload)?;
        if rig.keeps_data {
            same(&bytes_of(&payload)?, &expected, offset)?;
        }
    }
    Ok(())
}

/// The longest transfer, up to 1 MiB, in memory that is aligned as little as may be.
pub fn long(rig: &mut Rig) -> Result<(), Violation> {
    let skip = rig.limits.min_mem_alignment as usize;
    let len = rig.limits.transfer_bound().min(SPAN_BYTES / 2) as usize / rig.unit * rig.unit;
    let region = Rc::new(MemRegion::from_buffer(DmaBuffer::new(skip + len, 4096, Backing::Pages)?));
    let expected = pattern(0, 9, len);
    let mut buf = IoBuf::lease(&region, skip, len)?;
    buf.copy_from(0, &expected)?;
    let mut payload = rig.must(Op::Write, PLAIN, (0, len as u64), Payload::One(buf))?;
    payload.fill(0, len, 0)?;
    let payload = rig.must(Op::Read, PLAIN, (0, len as u64), payload)?;
    if rig.keeps_data { same(&bytes_of(&payload)?, &expected, 0) } else { Ok(()) }
}

/// Flushes, alone and among writes, and writes that must be durable where the driver has them.
pub fn durable(rig: &mut Rig) -> Result<(), Violation> {
    let block = rig.block_bytes as u64;
    rig.must(Op::Flush, PLAIN, (0, 0), Payload::None)?;
    if rig.driver().supported_write_flags().contains(ReqFlags::FUA) {
        let bytes = pattern(block, 3, block as usize);
        rig.write(block, ReqFlags::FUA, &bytes)?;
        if rig.keeps_data {
            same(&rig.read(block, block as usize)?, &bytes, block)?;
        }
        let segments = rig.limits.max_iov.min(2) as usize;
        let payload = rig.vector(&[rig.unit, rig.unit][..segments])?;
        let len = payload.len_bytes() as u64;
        drop(rig.must(Op::Write, ReqFlags::FUA, (0, len), payload)?);
    }
    for tag in 0..rig.tags {
        if tag % 2 == 0 {
            let payload = rig.block(block as usize)?;
            rig.submit(tag, Op::Write, PLAIN, (u64::from(tag) * block, block), payload)?;
        } else {
            rig.submit(tag, Op::Flush, PLAIN, (0, 0), Payload::None)?;
        }
    }
    rig.wait_for_all().map(drop)
}

/// Three blocks of data, of which the middle is to be zeroed or discarded.
fn prepare(rig: &mut Rig, unit: u64) -> Result<Vec<u8>, Violation> {
    let bytes: Vec<u8> = pattern(0, 5, 3 * unit as usize).iter().map(|byte| byte | 1).collect();
    write_all(rig, &bytes)?;
    Ok(bytes)
}

/// Writes from the start of the device, block by block.
fn write_all(rig: &mut Rig, bytes: &[u8]) -> Result<(), Violation> {
    for (index, chunk) in bytes.chunks(rig.block_bytes).enumerate() {
        rig.write((index * rig.block_bytes) as u64, PLAIN, chunk)?;
    }
    Ok(())
}

fn read_all(rig: &mut Rig, len: usize) -> Result<Vec<u8>, Violation> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let step = rig.block_bytes.min(len - bytes.len());
        bytes.extend(rig.read(bytes.len() as u64, step)?);
    }
    Ok(bytes)
}

/// Zeroes a range in all the ways that the driver has: it reads as zeroes, its neighbours as before.
pub fn write_zeroes(rig: &mut Rig) -> Result<(), Violation> {
    let Some(supported) = rig.driver().supported_zero_flags() else { return Ok(()) };
    let unit = u64::from(rig.limits.pwrite_zeroes_alignment).max(rig.block_bytes as u64);
    let ways = [
        ("write zeroes", PLAIN),
        ("write zeroes with MAY_UNMAP", ReqFlags::MAY_UNMAP),
        ("write zeroes with FUA", ReqFlags::FUA),
        ("write zeroes with MAY_UNMAP and FUA", ReqFlags::MAY_UNMAP | ReqFlags::FUA),
    ];
    for (what, flags) in ways {
        if !supported.contains(flags) {
            continue;
        }
        let mut expected = prepare(rig, unit)?;
        if !rig.may(what, Op::WriteZeroes, flags, (unit, unit))? || !rig.keeps_data {
            continue;
        }
        expected[unit as usize..2 * unit as usize].fill(0);
        let got = read_all(rig, expected.len())?;
        same(&got, &expected, 0).map_err(|found| Violation::new(format!("{what}: {}", found.detail)))?;
    }
    Ok(())
}

/// Discards a range: its neighbours read as before, and it can be written again.
pub fn discard(rig: &mut Rig) -> Result<(), Violation> {
    if !rig.driver().can_discard() {
        return Ok(());
    }
    let unit = u64::from(rig.limits.pdiscard_alignment).max(rig.block_bytes as u64);
    ensure!(3 * unit <= SPAN_BYTES, "discards in units of {unit} bytes need a longer span");
    let expected = prepare(rig, unit)?;
    if !rig.may("discard", Op::Discard, PLAIN, (unit, unit))? || !rig.keeps_data {
        return Ok(());
    }
    let got = read_all(rig, expected.len())?;
    let (middle, end) = (unit as usize, 2 * unit as usize);
    same(&got[..middle], &expected[..middle], 0)?;
    same(&got[end..], &expected[end..], end as u64)?;
    write_all(rig, &expected)?;
    same(&read_all(rig, expected.len())?, &expected, 0)
}
