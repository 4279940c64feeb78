//! Which part of its file each clone of a job works in, and how long the file must be for that. Pure arithmetic.
//!
//! Rules, fio's where it has any: `size` is the length from `offset` on, shared out over several files unless `filesize`
//! is given; a percentage is of the file's length; clone *i* starts `i * offset_increment` later. A clone of a job that
//! verifies what it writes works in a part of its own where the clones share a file.

use std::path::Path;

use super::error::RunError;
use crate::options::{DirectionMix, Extent, JobSpec};
use crate::workload::{Region, partition};

/// Longest file that the kernel addresses.
const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// What there is to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The file's or device's length in bytes; `None`: there is no such file yet.
    pub length_bytes: Option<u64>,
    /// Whether the length can be changed: not that of a block device.
    pub can_grow: bool,
}

/// The regions of a job's clones in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The length that the file must have at least.
    pub file_bytes: u64,
    /// By clone.
    pub regions: Vec<Region>,
    /// What `size` came to, for limits that are a share of it: the region before it was divided among clones.
    pub size_bytes: u64,
}

/// Resolves `offset`, `size` and the like of `spec` for the file at `path`, one of `files` of the job. `shared` says
/// that all clones work on this file.
///
/// # Errors
/// [`RunError::Size`] where the length is not known, is too short for the region, or cannot be divided.
pub fn resolve(
    spec: &JobSpec,
    path: &Path,
    present: Present,
    files: u64,
    shared: bool,
) -> Result<Layout, RunError> {
    let workload = &spec.workload;
    let wanted = spec.target.file_size_bytes;
    let whole = match present.length_bytes {
        Some(length) if length > 0 => length.max(wanted.filter(|_| present.can_grow).unwrap_or(0)),
        _ => wanted.unwrap_or(0),
    };
    let refuse = |what: String, right: &str| RunError::Size { path: path.into(), what, right: right.into() };
    let is_share = |extent: Extent| matches!(extent, Extent::Percent(_));
    let needs_length = workload.size.is_none_or(is_share) || is_share(workload.offset);
    if whole == 0 && needs_length {
        let what = if present.length_bytes.is_some() { "the file is empty" } else { "there is no such file" };
        return Err(refuse(
            format!("{what}, and no size says how long it is to be"),
            "give size=, such as size=256m",
        ));
    }
    let start = start_bytes(spec, whole);
    let increment = workload.offset_increment.resolve_bytes(whole);
    let size_bytes = match workload.size {
        Some(Extent::Bytes(bytes)) if wanted.is_none() => bytes / files.max(1),
        Some(size) => size.resolve_bytes(whole),
        None => {
            whole.saturating_sub(start.saturating_add(increment.saturating_mul(u64::from(spec.num_jobs) - 1)))
        }
    };
    if size_bytes == 0 {
        return Err(refuse(
            format!("nothing is left of {whole} bytes behind offset {start}"),
            "give a smaller offset or a larger size",
        ));
    }
    let region = |clone: u32| -> Region {
        let offset_bytes = start.saturating_add(increment.saturating_mul(u64::from(clone)));
        Region { offset_bytes, size_bytes }
    };
    let regions: Vec<Region> = (0..spec.num_jobs).map(region).collect();
    let end = regions.iter().map(|region| region.offset_bytes.saturating_add(size_bytes)).max().unwrap_or(0);
    let file_bytes = end.max(wanted.unwrap_or(0));
    if file_bytes > MAX_FILE_BYTES {
        return Err(refuse(format!("the job reaches to byte {file_bytes}"), "at most 2^63 - 1 is possible"));
    }
    let length = present.length_bytes.unwrap_or(0);
    if !present.can_grow && file_bytes > length {
        return Err(refuse(
            format!("the job reaches to byte {file_bytes}, but the device has {length}"),
            "give a smaller offset, size or offset_increment",
        ));
    }
    let regions = if shared { own_parts(spec, path, regions, increment)? } else { regions };
    Ok(Layout { file_bytes, regions, size_bytes })
}

/// Where clone 0 starts. A percentage is aligned up to the smallest block.
fn start_bytes(spec: &JobSpec, whole: u64) -> u64 {
    let offset = spec.workload.offset;
    let bytes = offset.resolve_bytes(whole);
    match offset {
        Extent::Bytes(_) => bytes,
        Extent::Percent(_) => bytes.checked_next_multiple_of(min_block_bytes(spec)).unwrap_or(bytes),
    }
}

/// The smallest block of the directions that the job uses.
pub fn min_block_bytes(spec: &JobSpec) -> u64 {
    used_blocks(spec).map(|blocks| blocks.min_bytes()).min().unwrap_or(1).max(1)
}

/// The largest block of the directions that the job uses: what a buffer must hold.
pub fn max_block_bytes(spec: &JobSpec) -> u64 {
    used_blocks(spec).map(|blocks| blocks.max_bytes()).max().unwrap_or(1)
}

fn used_blocks(spec: &JobSpec) -> impl Iterator<Item = &crate::options::BlockSizes> {
    use crate::options::Access;
    let blocks = &spec.workload.blocks;
    let rw = spec.workload.rw;
    [(Access::Read, &blocks.read), (Access::Write, &blocks.write), (Access::Trim, &blocks.trim)]
        .into_iter()
        .filter(move |(access, _)| rw.uses(*access))
        .map(|(_, blocks)| blocks)
}

/// Whether the job has to know what its blocks hold: it writes them and reads them back.
pub fn owns_its_blocks(spec: &JobSpec) -> bool {
    let writes = matches!(
        spec.workload.rw.mix,
        DirectionMix::Write | DirectionMix::ReadWrite | DirectionMix::TrimWrite
    );
    spec.verify.is_some() && writes
}

/// Divides a region that all clones share among those that verify.
fn own_parts(
    spec: &JobSpec,
    path: &Path,
    regions: Vec<Region>,
    increment: u64,
) -> Result<Vec<Region>, RunError> {
    let Some(first) = regions.first().copied().filter(|_| owns_its_blocks(spec) && spec.num_jobs > 1) else {
        return Ok(regions);
    };
    if increment >= first.size_bytes {
        return Ok(regions);
    }
    if increment > 0 {
        return Err(RunError::Size {
            path: path.into(),
            what: format!(
                "with verify, the clones' regions of {} bytes overlap, {increment} bytes apart",
                first.size_bytes
            ),
            right: "give an offset_increment of size at least, or none".into(),
        });
    }
    let align = &spec.workload.align_bytes;
    let aligned = [align.read, align.write, align.trim].into_iter().flatten().max();
    let unit = aligned.unwrap_or(0).max(min_block_bytes(spec));
    let parts = (0..spec.num_jobs).map(|clone| partition(first, clone, spec.num_jobs, unit));
    Ok(parts.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests;
