//! What the kernel says of a namespace, in sysfs. It is said of the block device; the character device `ng0n1` belongs to the
//! block device `nvme0n1`. A namespace that the kernel's block layer does not serve has none.

use std::fs;
use std::path::Path;

use rustix::fs::{major, minor};

use super::MIN_PAGE_SHIFT;

/// What is known; `None` where the kernel does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kernel {
    /// The largest command with data, in bytes.
    pub max_bytes: Option<u64>,
    /// Most segments of memory of a command.
    pub max_segments: Option<u32>,
    /// Whether there are queues to poll.
    pub can_poll: Option<bool>,
}

impl Kernel {
    /// Of the character device with this number.
    pub fn of(rdev: u64) -> Kernel {
        Kernel::read(Path::new("/sys"), &format!("{}:{}", major(rdev), minor(rdev)))
    }

    /// The largest command with data that needs no more segments than there may be, wherever its memory begins: a segment for
    /// each page, and one more. The kernel refuses what needs more.
    pub fn max_segment_bytes(&self) -> Option<u64> {
        self.max_segments.map(|count| u64::from(count.saturating_sub(1).max(1)) << MIN_PAGE_SHIFT)
    }

    fn read(sysfs: &Path, number: &str) -> Kernel {
        let Ok(device) = fs::canonicalize(sysfs.join("dev/char").join(number)) else {
            return Kernel::default();
        };
        let name = device.file_name().and_then(|name| name.to_str());
        let Some(rest) = name.and_then(|name| name.strip_prefix("ng")) else { return Kernel::default() };
        let queue = sysfs.join("class/block").join(format!("nvme{rest}")).join("queue");
        let value = |name: &str| fs::read_to_string(queue.join(name)).ok()?.trim().parse::<u64>().ok();
        Kernel {
            max_bytes: value("max_hw_sectors_kb")
                .map(|kib| kib.saturating_mul(1024))
                .filter(|bytes| *bytes > 0),
            max_segments: value("max_segments").and_then(|count| u32::try_from(count).ok()),
            can_poll: value("io_poll").map(|on| on != 0),
        }
    }
}

/// Whether the running kernel takes fixed buffers and polling for these commands, which it has from 6.1 on; 5.19 and 6.0
/// refuse the former request by request.
pub fn has_fixed_buffers() -> bool {
    fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| is_at_least(&release, (6, 1)))
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        let at_least = |release| is_at_least(release, (6, 1));
        assert!(at_least("6.1.0-13-amd64") && at_least("6.12.90+deb13\n") && at_least("7.0"));
        assert!(!at_least("5.19.0") && !at_least("6.0.19") && !at_least("6") && !at_least("next-1"));
    }

    #[test]
    fn limits_are_those_of_the_block_device_beside_it() {
        let sysfs = tempfile::tempdir().expect("a folder");
        let at = |path: &str| sysfs.path().join(path);
        let queue = at("class/block/nvme3n2/queue");
        for folder in [&queue, &at("devices/nvme3/ng3n2"), &at("dev/char")] {
            fs::create_dir_all(folder).expect("a folder in it");
        }
        symlink(at("devices/nvme3/ng3n2"), at("dev/char/237:1")).expect("a link");
        for (name, value) in [("max_hw_sectors_kb", "512\n"), ("max_segments", "127\n"), ("io_poll", "0\n")] {
            fs::write(queue.join(name), value).expect("a file in it");
        }
        let expected = Kernel { max_bytes: Some(512 << 10), max_segments: Some(127), can_poll: Some(false) };
        assert_eq!(Kernel::read(sysfs.path(), "237:1"), expected);
        assert_eq!(expected.max_segment_bytes(), Some(126 << 12));
        assert_eq!(Kernel::read(sysfs.path(), "237:2"), Kernel::default());
    }
}
