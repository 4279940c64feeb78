//! Who may touch which bytes when, so that what a read must find is defined.
//!
//! Inside a job: of two I/Os in flight over the same bytes, one of them a write or a trim, the device may do either
//! first. [`OverlapGuard`] lets the runner hold the second back until the first has completed (fio's
//! `serialize_overlap`), which a job that verifies must do. The held I/O stays the next one: order and numbers of the
//! writes do not change, so a replay still fits.
//!
//! Between jobs: fio lets clones of a job (`numjobs`) write over each other in one file and then reports each other's
//! blocks as errors. Here a job that writes and verifies gets its own part of the region, from [`partition`]; it does as
//! much I/O as without it ([`Limit::Bytes`](super::Limit) of the whole size), so passes over its part repeat. Reads
//! of such a job stay in its part, too, as only there it knows what to find. Jobs that do not verify share the region
//! as in fio.

use super::config::{Direction, Region, WorkloadError};
use super::generator::Io;

/// The I/Os of one job in flight.
///
/// Searches linearly: the depth of a verifying job is small beside the cost of its checksums.
#[derive(Clone, Debug, Default)]
pub struct OverlapGuard {
    in_flight: Vec<Io>,
}

impl OverlapGuard {
    /// For at most `depth` I/Os in flight without allocation.
    pub fn with_depth(depth: usize) -> Self {
        Self { in_flight: Vec::with_capacity(depth) }
    }

    /// Whether `io` must wait: it overlaps one in flight, and not both are reads.
    pub fn conflicts(&self, io: &Io) -> bool {
        let changes = io.direction != Direction::Read;
        self.in_flight.iter().any(|other| {
            (changes || other.direction != Direction::Read)
                && io.offset < other.end()
                && other.offset < io.end()
        })
    }

    /// Notes that `io` is in flight.
    pub fn enter(&mut self, io: Io) {
        self.in_flight.push(io);
    }

    /// Notes that `io` has completed. An I/O that never entered changes nothing.
    pub fn leave(&mut self, io: &Io) {
        if let Some(at) = self.in_flight.iter().position(|other| other == io) {
            self.in_flight.swap_remove(at);
        }
    }

    /// How many are in flight.
    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }
}

/// The part of `region` that job `job_index` of `jobs` has to itself: consecutive parts in units of `unit_bytes` (the
/// block alignment) from the region's start, alike but for one unit. A rest of less than a unit belongs to nobody.
///
/// # Errors
/// [`WorkloadError::TooManyJobs`] when there is no unit for each job, or no job of that index.
pub fn partition(
    region: Region,
    job_index: u32,
    jobs: u32,
    unit_bytes: u64,
) -> Result<Region, WorkloadError> {
    let size_bytes = region.size_bytes;
    let units = size_bytes.checked_div(unit_bytes).unwrap_or(0);
    if job_index >= jobs || units < u64::from(jobs) {
        let needed_bytes = unit_bytes.saturating_mul(u64::from(jobs));
        return Err(WorkloadError::TooManyJobs { job_index, jobs, size_bytes, unit_bytes, needed_bytes });
    }
    let (each, more) = (units / u64::from(jobs), units % u64::from(jobs));
    let index = u64::from(job_index);
    let first = each * index + index.min(more);
    let count = each + u64::from(index < more);
    let offset_bytes = region.offset_bytes.saturating_add(first * unit_bytes);
    Ok(Region { offset_bytes, size_bytes: count * unit_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn io(direction: Direction, offset: u64, bytes: u32) -> Io {
        Io { offset, bytes, direction }
    }

    #[test]
    fn only_reads_may_overlap() {
        let mut guard = OverlapGuard::with_depth(4);
        let (read, write) = (io(Direction::Read, 0, 4096), io(Direction::Write, 8192, 4096));
        guard.enter(read);
        guard.enter(write);
        assert!(!guard.conflicts(&io(Direction::Read, 2048, 4096)));
        assert!(guard.conflicts(&io(Direction::Write, 4095, 1)));
        assert!(!guard.conflicts(&io(Direction::Write, 4096, 4096)));
        assert!(guard.conflicts(&io(Direction::Read, 4096, 4097)));
        assert!(guard.conflicts(&io(Direction::Trim, 12_287, 512)));
        assert!(!guard.conflicts(&io(Direction::Trim, 12_288, 512)));
        guard.leave(&write);
        guard.leave(&write);
        assert_eq!(guard.len(), 1);
        assert!(!guard.conflicts(&io(Direction::Write, 8192, 4096)));
        guard.leave(&read);
        assert!(guard.is_empty());
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_and_leave_less_than_a_unit(
            (offset, size) in (0u64..1 << 40, 0u64..1 << 40),
            (jobs, unit) in (1u32..200, 1u64..1 << 20),
        ) {
            let region = Region { offset_bytes: offset, size_bytes: size };
            let parts: Result<Vec<Region>, _> = (0..jobs).map(|job| partition(region, job, jobs, unit)).collect();
            let Ok(parts) = parts else {
                prop_assert!(size / unit < u64::from(jobs));
                return Ok(());
            };
            let mut at = offset;
            for part in &parts {
                prop_assert_eq!(part.offset_bytes, at);
                prop_assert!(part.size_bytes > 0 && part.size_bytes % unit == 0);
                at += part.size_bytes;
            }
            prop_assert!(at <= offset + size && offset + size - at < unit);
            prop_assert!(parts[0].size_bytes - parts[parts.len() - 1].size_bytes <= unit);
        }
    }

    #[test]
    fn too_many_jobs_are_told_what_they_need() {
        let region = Region { offset_bytes: 0, size_bytes: 4096 };
        let error = partition(region, 0, 3, 2048).unwrap_err().to_string();
        assert!(error.contains("size=6144"), "{error}");
        assert!(partition(region, 3, 3, 512).is_err());
        assert!(partition(region, 0, 1, 0).is_err());
    }
}
