//! Use of the disks under the jobs' files, from sysfs (kernel: Documentation/block/stat.rst).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Counters of a disk over a run. Entries of pairs are reads, writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Requests done.
    pub ios: [u64; 2],
    /// Requests merged into others by the kernel.
    pub merges: [u64; 2],
    /// Milliseconds that requests waited, summed over requests.
    pub ticks_ms: [u64; 2],
    /// Milliseconds that all requests spent in the queue.
    pub in_queue_ms: u64,
    /// Milliseconds in which at least one request was in flight.
    pub busy_ms: u64,
}

/// One disk's use over a run.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskUse {
    /// Kernel name, as `vda`.
    pub name: String,
    /// Its counters.
    pub counters: DiskCounters,
    /// Length of the run in milliseconds.
    pub elapsed_ms: u64,
    /// Disks that this one is made of (device mapper, md).
    pub parts: Vec<DiskUse>,
}

impl DiskUse {
    /// Time in which the disk was busy, per cent, at most 100.
    pub fn busy_percent(&self) -> f64 {
        if self.elapsed_ms == 0 {
            return 0.0;
        }
        (self.counters.busy_ms as f64 * 100.0 / self.elapsed_ms as f64).min(100.0)
    }

    /// Means of the parts' counters, and the busiest part's per cent; `None` when the disk has no parts.
    pub(super) fn parts_mean(&self) -> Option<(DiskCounters, f64)> {
        let count = u64::try_from(self.parts.len()).ok().filter(|&count| count > 0)?;
        let mean = |of: &dyn Fn(&DiskCounters) -> u64| {
            self.parts.iter().map(|part| of(&part.counters)).sum::<u64>() / count
        };
        let counters = DiskCounters {
            ios: [mean(&|part| part.ios[0]), mean(&|part| part.ios[1])],
            merges: [mean(&|part| part.merges[0]), mean(&|part| part.merges[1])],
            ticks_ms: [mean(&|part| part.ticks_ms[0]), mean(&|part| part.ticks_ms[1])],
            in_queue_ms: mean(&|part| part.in_queue_ms),
            busy_ms: mean(&|part| part.busy_ms),
        };
        let busiest = self.parts.iter().map(DiskUse::busy_percent).fold(0.0, f64::max);
        Some((counters, busiest))
    }
}

/// Disks of a run, with their counters at its start.
#[derive(Clone, Debug)]
pub struct DiskWatch {
    disks: Vec<WatchedDisk>,
    start: Instant,
}

#[derive(Clone, Debug)]
struct WatchedDisk {
    name: String,
    /// Its directory in sysfs.
    directory: PathBuf,
    start: DiskCounters,
    parts: Vec<WatchedDisk>,
}

impl DiskWatch {
    /// Finds the disks under `files` (regular files, directories or block devices) and reads their counters. A file
    /// that does not exist counts as the directory it would be in; a file on no disk (tmpfs, overlay) is left out.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut disks: Vec<WatchedDisk> = Vec::new();
        for directory in files.into_iter().filter_map(disk_directory) {
            if disks.iter().all(|disk| disk.directory != directory) {
                disks.extend(WatchedDisk::open(directory));
            }
        }
        DiskWatch { disks, start: Instant::now() }
    }

    /// What the disks did since the watch began.
    pub fn report(&self) -> Vec<DiskUse> {
        let elapsed_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.disks.iter().map(|disk| disk.report(elapsed_ms)).collect()
    }
}

impl WatchedDisk {
    /// `None` when the device has no counters (network file systems' pseudo devices).
    fn open(directory: PathBuf) -> Option<Self> {
        let name = directory.file_name()?.to_string_lossy().into_owned();
        let start = read_counters(&directory)?;
        let parts = fs::read_dir(directory.join("slaves"))
            .map(|entries| {
                entries
                    .filter_map(|entry| fs::canonicalize(entry.ok()?.path()).ok())
                    .filter_map(|path| WatchedDisk::open(whole_disk(path)))
                    .collect()
            })
            .unwrap_or_default();
        Some(WatchedDisk { name, directory, start, parts })
    }

    fn report(&self, elapsed_ms: u64) -> DiskUse {
        let now = read_counters(&self.directory).unwrap_or(self.start);
        DiskUse {
            name: self.name.clone(),
            counters: now.since(&self.start),
            elapsed_ms,
            parts: self.parts.iter().map(|part| part.report(elapsed_ms)).collect(),
        }
    }
}

impl DiskCounters {
    fn since(&self, start: &DiskCounters) -> Self {
        let pair = |now: [u64; 2], before: [u64; 2]| {
            [now[0].wrapping_sub(before[0]), now[1].wrapping_sub(before[1])]
        };
        DiskCounters {
            ios: pair(self.ios, start.ios),
            merges: pair(self.merges, start.merges),
            ticks_ms: pair(self.ticks_ms, start.ticks_ms),
            in_queue_ms: self.in_queue_ms.wrapping_sub(start.in_queue_ms),
            busy_ms: self.busy_ms.wrapping_sub(start.busy_ms),
        }
    }

    /// Reads a line of the form of `/sys/block/*/stat`.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let &[reads, read_merges, _, read_ms, writes, write_merges, _, write_ms, _, busy_ms, in_queue_ms, ..] =
            fields.as_slice()
        else {
            return None;
        };
        Some(DiskCounters {
            ios: [reads, writes],
            merges: [read_merges, write_merges],
            ticks_ms: [read_ms, write_ms],
            in_queue_ms,
            busy_ms,
        })
    }
}

fn read_counters(directory: &Path) -> Option<DiskCounters> {
    DiskCounters::parse(&fs::read_to_string(directory.join("stat")).ok()?)
}

/// sysfs directory of the whole disk under a file.
fn disk_directory(file: &Path) -> Option<PathBuf> {
    let parent = || match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let metadata = fs::metadata(file).or_else(|_| fs::metadata(parent())).ok()?;
    let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let directory = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(whole_disk(directory))
}

/// A partition's directory lies in its disk's.
fn whole_disk(directory: PathBuf) -> PathBuf {
    match directory.parent() {
        Some(parent) if directory.join("partition").exists() => parent.to_path_buf(),
        _ => directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_field_by_field() {
        let counters = DiskCounters::parse("  10 1 80 7 20 2 160 9 0 15 16 0 0 0 0 0 0\n").unwrap();
        assert_eq!(
            counters,
            DiskCounters { ios: [10, 20], merges: [1, 2], ticks_ms: [7, 9], in_queue_ms: 16, busy_ms: 15 }
        );
        assert_eq!(DiskCounters::parse("1 2 3"), None);
    }

    #[test]
    fn busy_time_never_exceeds_the_run() {
        let counters = DiskCounters { busy_ms: 300, ..DiskCounters::default() };
        let disk = |elapsed_ms| DiskUse { name: "x".into(), counters, elapsed_ms, parts: Vec::new() };
        assert_eq!(disk(200).busy_percent(), 100.0);
        assert_eq!(disk(600).busy_percent(), 50.0);
        assert_eq!(disk(0).busy_percent(), 0.0);
    }

    #[test]
    #[allow(clippy::print_stdout)] // a skipped test says so
    fn the_disk_under_a_file_is_found_once() {
        let here = std::env::current_dir().unwrap();
        let watch = DiskWatch::new([here.as_path(), here.join("not-there").as_path()]);
        let disks = watch.report();
        if disks.is_empty() {
            println!("SKIPPED: the working directory is on no disk that sysfs knows");
            return;
        }
        assert_eq!(disks.len(), 1);
        assert!(Path::new("/sys/block").join(&disks[0].name).exists(), "{disks:?}");
    }
}
