//! Checks of how commands come and go, whatever they do.

use std::rc::Rc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_engine::block::{Op, ReqFlags};

use super::SPAN_BYTES;
use super::rig::{Rig, Violation, bytes_of, ensure};

const PLAIN: ReqFlags = ReqFlags::empty();

/// Where the command of a tag goes: a random block that no other tag has, since a device may store a block in two steps, as
/// QEMU's NVMe controller does with metadata.
fn own_offset(rig: &mut Rig, tag: u32) -> u64 {
    let block = rig.block_bytes as u64;
    // The first blocks are the vector's.
    let first = (2 * rig.unit as u64).div_ceil(block);
    let blocks = SPAN_BYTES / block - first;
    let tags = u64::from(rig.tags);
    let row = rig.below((blocks / tags).max(1));
    (first + (row * tags + u64::from(tag)) % blocks) * block
}

/// Fills every tag with reads and writes of random blocks, the first with a vector and, every other time, the last with
/// a flush.
fn fill(rig: &mut Rig) -> Result<(), Violation> {
    let block = rig.block_bytes as u64;
    let segments = rig.limits.max_iov.min(2) as usize;
    let vector = rig.vector(&[rig.unit, rig.unit][..segments])?;
    rig.submit(0, Op::Write, PLAIN, (0, vector.len_bytes() as u64), vector)?;
    let flushes = rig.below(2) as u32;
    if flushes > 0 {
        rig.submit(rig.tags - 1, Op::Flush, PLAIN, (0, 0), Payload::None)?;
    }
    for tag in 1..rig.tags - flushes {
        let op = if rig.below(2) == 0 { Op::Read } else { Op::Write };
        let offset = own_offset(rig, tag);
        let payload = rig.block(block as usize)?;
        rig.submit(tag, op, PLAIN, (offset, block), payload)?;
    }
    Ok(())
}

/// As many commands as there are tags, many times over; tags go out again as they come in.
pub fn full_depth(rig: &mut Rig) -> Result<(), Violation> {
    fill(rig)?;
    let block = rig.block_bytes as u64;
    let mut left = 50 * u64::from(rig.tags);
    while left > 0 {
        for completion in rig.wait()? {
            ensure!(completion.result.is_ok(), "tag {} failed: {:?}", completion.tag.0, completion.result);
            let offset = own_offset(rig, completion.tag.0);
            let op = if left % 3 == 0 { Op::Write } else { Op::Read };
            let payload = match completion.payload {
                payload if payload.len_bytes() as u64 == block => payload,
                // That of a flush or of a vector.
                _ => rig.block(block as usize)?,
            };
            rig.submit(completion.tag.0, op, PLAIN, (offset, block), payload)?;
            left = left.saturating_sub(1);
        }
    }
    rig.wait_for_all().map(drop)
}

/// A queue dropped with everything in flight, sent or not, gives all memory up, and the next one works.
pub fn drop_busy(rig: &mut Rig) -> Result<(), Violation> {
    let total = rig.pool.total_blocks();
    for sent in [false, true] {
        fill(rig)?;
        if sent {
            rig.with_queue(|queue| queue.commit())?;
        }
        rig.drop_queue();
        let free = rig.pool.free_blocks();
        ensure!(free == total, "{} blocks of memory were not given up with the queue", total - free);
        rig.open_queue()?;
    }
    fill(rig)?;
    rig.wait_for_all().map(drop)
}

/// I/O on memory that is registered, was registered, and lies partly beside what is registered.
pub fn registered(rig: &mut Rig) -> Result<(), Violation> {
    let block = rig.block_bytes;
    let align = block.next_power_of_two();
    let buffer = DmaBuffer::new(4 * block, align, Backing::Memfd)?;
    let whole = Rc::new(MemRegion::from_buffer(buffer));
    let middle = whole.part(block, 2 * block)?;
    rig.with_queue(|queue| queue.register_buf(&middle))??;
    rig.with_queue(|queue| queue.register_buf(&middle))??;
    rig.with_queue(|queue| queue.unregister_buf(&middle))?;
    for round in 0..2_u64 {
        for (index, at) in [0, block, 2 * block, 3 * block, block / 2].into_iter().enumerate() {
            if at % rig.limits.min_mem_alignment as usize != 0 {
                continue;
            }
            let offset = (index * block) as u64;
            let expected: Vec<u8> = (0..block).map(|i| (i as u64 * 7 + offset + round) as u8).collect();
            let mut buf = IoBuf::lease(&whole, at, block)?;
            buf.copy_from(0, &expected)?;
            let mut payload = rig.must(Op::Write, PLAIN, (offset, block as u64), Payload::One(buf))?;
            payload.fill(0, block, 0xee)?;
            let payload = rig.must(Op::Read, PLAIN, (offset, block as u64), payload)?;
            ensure!(
                !rig.keeps_data || bytes_of(&payload)? == expected,
                "the memory at {at} of 4 blocks with the middle two registered reads back differently"
            );
        }
        if round == 0 {
            // The second round goes without the registration.
            rig.with_queue(|queue| queue.unregister_buf(&middle))?;
        }
    }
    Ok(())
}
