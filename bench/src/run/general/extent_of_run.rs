//! How far an earlier run came, for `verify_only`: from the options where they say it, from the headers in the file
//! where the run was ended by its time.
//!
//! A run issues its writes in their order and finishes those in flight, so the highest number in the file says how many
//! there were. Were the last blocks lost altogether, this would not notice; a run that its time ended promises no more.

use corelane_dma::BlockPool;
use corelane_engine::aio::AioContext;
use corelane_engine::block::{Channel, IoResult, Request};

use crate::options::JobSpec;
use crate::run::bytes;
use crate::run::error::RunError;
use crate::run::session::LaneFile;
use crate::workload::{BlockSizes, Direction, Generator, HeaderScan, Verifier, VerifyKind, WorkloadConfig};

/// How many writes an earlier run with these options did on this file; `None`: all that the options ask for.
///
/// # Errors
/// When the workload is impossible, or the file cannot be read.
pub fn writes_done(
    spec: &JobSpec,
    file: &LaneFile,
    verifier: &Verifier,
    ctx: &AioContext,
    pool: &BlockPool,
) -> Result<Option<u64>, RunError> {
    if let Some(ios) = spec.end.number_ios {
        return Ok(Some(writes_among(&file.workload, ios)?));
    }
    if spec.end.runtime.is_none() || verifier.kind() == VerifyKind::Pattern {
        return Ok(None);
    }
    let found = highest_write(&file.workload, &file.channel, verifier, ctx, pool)
        .map_err(|source| RunError::File { what: "read", path: file.path.clone(), source, hint: "" })?;
    // Without a single block of the run in the file, what is missing is to be named.
    Ok(found.map(|sequence| sequence + 1))
}

/// How many of the first `ios` I/Os of a workload are writes.
fn writes_among(workload: &WorkloadConfig, ios: u64) -> Result<u64, RunError> {
    let most = usize::try_from(ios).unwrap_or(usize::MAX);
    let generator = Generator::new(workload)?;
    Ok(generator.take(most).filter(|io| io.direction == Direction::Write).count() as u64)
}

fn highest_write(
    workload: &WorkloadConfig,
    channel: &Channel,
    verifier: &Verifier,
    ctx: &AioContext,
    pool: &BlockPool,
) -> std::io::Result<Option<u64>> {
    let region = workload.region;
    let end = region.offset_bytes + region.size_bytes;
    let longest = workload.sizes.get(Direction::Write).max_bytes();
    let mut scan = HeaderScan::new(region.offset_bytes, end, grain_bytes(workload), longest);
    while let Some((offset, bytes)) = scan.want() {
        let Some(mut buf) = pool.take() else { break };
        let len = (bytes as usize).min(buf.len());
        let _ = buf.set_len(len);
        let (result, payload): (IoResult, _) = ctx.block_on(channel.start(Request::read(offset, buf)));
        result.map_err(|error| std::io::Error::from_raw_os_error(error.errno.raw()))?;
        if let [buf] = payload.as_bufs() {
            bytes::look(buf, |bytes| scan.feed(verifier, bytes));
        }
    }
    Ok(scan.highest_sequence())
}

/// What every block starts at a multiple of, from the start of the region.
fn grain_bytes(workload: &WorkloadConfig) -> u32 {
    let sizes = match workload.sizes.get(Direction::Write) {
        BlockSizes::Split(table) => table.iter().fold(0, |grain, (bytes, _)| gcd(grain, *bytes)),
        sizes => sizes.min_bytes(),
    };
    workload.align_bytes.get(Direction::Write).map_or(sizes, |align| gcd(sizes, align))
}

/// The greatest common divisor; that of 0 and a number is the number.
fn gcd(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Operations, Order, PerDirection, Region};

    fn workload(sizes: BlockSizes, align: Option<u32>) -> WorkloadConfig {
        let region = Region { offset_bytes: 0, size_bytes: 1 << 20 };
        let base =
            WorkloadConfig::new(Order::Random, Operations::ReadWrite { read_percent: 50 }, region, 4096);
        WorkloadConfig { sizes: PerDirection::all(sizes), align_bytes: PerDirection::all(align), ..base }
    }

    #[test]
    fn the_grain_divides_every_place() {
        assert_eq!(grain_bytes(&workload(BlockSizes::Fixed(4096), None)), 4096);
        assert_eq!(grain_bytes(&workload(BlockSizes::Fixed(4096), Some(512))), 512);
        assert_eq!(grain_bytes(&workload(BlockSizes::Split(vec![(4096, 1), (6144, 1)]), None)), 2048);
        let range = BlockSizes::Range { min: 1024, max: 8192, unaligned: false };
        assert_eq!(grain_bytes(&workload(range, None)), 1024);
    }

    #[test]
    fn writes_are_counted_as_the_run_made_them() {
        let workload = workload(BlockSizes::Fixed(4096), None);
        let by_hand =
            Generator::new(&workload).unwrap().take(100).filter(|io| io.direction == Direction::Write);
        assert_eq!(writes_among(&workload, 100).unwrap(), by_hand.count() as u64);
        assert_eq!(writes_among(&workload, 0).unwrap(), 0);
    }
}
