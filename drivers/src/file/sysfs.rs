//! The request queue of a block device as sysfs shows it (`/sys/dev/block/MAJOR:MINOR/queue`, kernel documentation
//! `ABI/stable/sysfs-block`). A partition has no queue of its own; its disk's is used.

use std::fs;
use std::path::{Path, PathBuf};

/// Where block devices are listed by number.
const BY_NUMBER: &str = "/sys/dev/block";

/// What a block device says of itself. A value is `None` where the kernel does not have the attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceQueue {
    /// Smallest unit that the device can address, in bytes.
    pub logical_block_size: Option<u64>,
    /// Unit that the device writes without reading, in bytes.
    pub physical_block_size: Option<u64>,
    /// Preferred unit of streaming I/O, in bytes; 0 for none.
    pub optimal_io_size: Option<u64>,
    /// Largest request that the kernel sends to the device, in bytes.
    pub max_bytes: Option<u64>,
    /// Most segments of such a request.
    pub max_segments: Option<u64>,
    /// Unit in which the device discards, in bytes.
    pub discard_granularity: Option<u64>,
    /// Largest discard in bytes; 0 if the device has none.
    pub discard_max_bytes: Option<u64>,
    /// Largest write-zeroes in bytes; 0 if the device has none, so that the kernel writes zeroes itself.
    pub write_zeroes_max_bytes: Option<u64>,
    /// Alignment of memory for DMA, in bytes.
    pub memory_alignment: Option<u64>,
    /// Whether the device is set read-only (`blockdev --setro`); opening it for writing succeeds all the same.
    pub read_only: Option<bool>,
}

impl DeviceQueue {
    /// Reads the queue of the device with this number; nothing is known of a device that sysfs does not list.
    pub fn of(major: u32, minor: u32) -> DeviceQueue {
        DeviceQueue::read(Path::new(BY_NUMBER), major, minor)
    }

    fn read(by_number: &Path, major: u32, minor: u32) -> DeviceQueue {
        let device = by_number.join(format!("{major}:{minor}"));
        let queue =
            if device.join("partition").exists() { device.join("../queue") } else { device.join("queue") };
        let value = |name| attribute(&queue, name);
        DeviceQueue {
            logical_block_size: value("logical_block_size"),
            physical_block_size: value("physical_block_size"),
            optimal_io_size: value("optimal_io_size"),
            max_bytes: value("max_sectors_kb").map(|kib| kib.saturating_mul(1024)),
            max_segments: value("max_segments"),
            discard_granularity: value("discard_granularity"),
            discard_max_bytes: value("discard_max_bytes"),
            write_zeroes_max_bytes: value("write_zeroes_max_bytes"),
            // The attribute is a mask.
            memory_alignment: value("dma_alignment").map(|mask| mask.saturating_add(1)),
            read_only: attribute(&device, "ro").map(|on| on != 0),
        }
    }
}

fn attribute(queue: &Path, name: &str) -> Option<u64> {
    let path: PathBuf = queue.join(name);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, value: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(name), value).unwrap();
    }

    #[test]
    fn a_disk_and_its_partition_have_one_queue() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("devices/sda");
        write(&disk.join("queue"), "logical_block_size", "4096\n");
        write(&disk.join("queue"), "max_sectors_kb", "1280\n");
        write(&disk.join("queue"), "dma_alignment", "3\n");
        write(&disk.join("queue"), "max_segments", "many\n");
        write(&disk.join("sda1"), "partition", "1\n");
        write(&disk.join("sda1"), "ro", "1\n");
        let by_number = root.path().join("dev/block");
        fs::create_dir_all(&by_number).unwrap();
        std::os::unix::fs::symlink(&disk, by_number.join("8:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("sda1"), by_number.join("8:1")).unwrap();

        let expected = DeviceQueue {
            logical_block_size: Some(4096),
            max_bytes: Some(1280 * 1024),
            memory_alignment: Some(4),
            ..DeviceQueue::default()
        };
        assert_eq!(DeviceQueue::read(&by_number, 8, 0), expected);
        let partition = DeviceQueue { read_only: Some(true), ..expected };
        assert_eq!(DeviceQueue::read(&by_number, 8, 1), partition);
        assert_eq!(DeviceQueue::read(&by_number, 9, 9), DeviceQueue::default());
    }
}
