//! The file driver from outside: what can be opened, what it says of itself, and how errors of the device come up.

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Lane, LoopDevice, full_file, open_or_skip, scratch_dir, skip, sparse_file};
use corelane_dma::Payload;
use corelane_drivers::file::{CacheMode, DiscardMode, FileDriver, FileKind, FileOptions, Locking};
use corelane_engine::block::{BlockDriver, BlockError, Errno, Op, ReqFlags, StatusFlags};

fn unmapping(path: &Path, cache: CacheMode) -> FileOptions {
    FileOptions::new(path).cache(cache).discard(DiscardMode::Unmap)
}

fn open_error(options: &FileOptions) -> String {
    match FileDriver::open(options) {
        Err(error @ BlockError::Open { .. }) => error.to_string(),
        other => panic!("{options:?} should not open, but: {other:?}"),
    }
}

#[test]
fn what_cannot_be_opened_says_why_and_what_would_do() {
    let dir = scratch_dir();
    let missing = open_error(&FileOptions::new(dir.path().join("missing")));
    assert!(missing.contains("missing'") && missing.contains("not created"), "{missing}");
    let folder = open_error(&FileOptions::new(dir.path()).read_only(true));
    assert!(folder.contains("directory"), "{folder}");
    let tty = open_error(&FileOptions::new("/dev/null"));
    assert!(tty.contains("character device"), "{tty}");
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let fifo = open_error(&FileOptions::new(fifo));
    assert!(fifo.contains("neither a regular file nor a block device"), "{fifo}");
    let path = sparse_file(&dir, "image", 1 << 20);
    let polled = open_error(&FileOptions::new(&path).iopoll(true));
    assert!(polled.contains("cache=none"), "{polled}");
    let no_direct = open_error(&FileOptions::new("/proc/version").cache(CacheMode::None).read_only(true));
    assert!(no_direct.contains("cache=writeback"), "{no_direct}");
}

#[test]
fn a_buffered_file_is_byte_granular_and_a_direct_one_as_the_kernel_says() {
    let dir = scratch_dir();
    let path = full_file(&dir, "image", 1 << 20);
    let buffered = FileDriver::open(&FileOptions::new(&path)).unwrap();
    assert_eq!(buffered.format_name(), "file");
    assert_eq!((buffered.limits().request_alignment, buffered.limits().min_mem_alignment), (1, 1));
    assert_eq!(buffered.limits().max_iov, 1024);
    assert!(buffered.write_cache());
    drop(buffered);
    let Some(direct) = open_or_skip(&FileOptions::new(&path).cache(CacheMode::Directsync)) else { return };
    let limits = *direct.limits();
    limits.validate().unwrap();
    assert!((512..=65536).contains(&limits.request_alignment), "{limits:?}");
    assert!(limits.opt_mem_alignment >= 4096);
    assert!(!direct.write_cache());
    // The alignment found really is one: a block at an odd block, in memory that is aligned so and no better.
    let (align, memory) = (u64::from(limits.request_alignment), limits.min_mem_alignment as usize);
    let mut lane = Lane::open(&direct, 4);
    let payload = common::payload_at(memory, align as usize);
    let (result, _) = lane.one(Op::Read, ReqFlags::empty(), (align, align), payload);
    assert_eq!(result, Ok(()), "{limits:?}");
}

#[test]
fn a_loop_device_says_what_sysfs_says() {
    let dir = scratch_dir();
    let file = full_file(&dir, "disk", 4 << 20);
    for block_bytes in [512_u32, 4096] {
        let Some(device) = LoopDevice::over(&file, block_bytes) else { return };
        let name = device.path.file_name().unwrap().to_str().unwrap().to_owned();
        let sysfs = |attribute: &str| -> u64 {
            let text = std::fs::read_to_string(format!("/sys/block/{name}/queue/{attribute}")).unwrap();
            text.trim().parse().unwrap()
        };
        let driver = FileDriver::open(&unmapping(&device.path, CacheMode::None)).unwrap();
        let limits = *driver.limits();
        assert_eq!((driver.kind(), driver.format_name()), (FileKind::Block, "host_device"));
        assert_eq!(limits.request_alignment, block_bytes);
        assert_eq!(limits.max_hw_transfer, sysfs("max_sectors_kb") * 1024);
        assert_eq!(u64::from(limits.max_hw_iov), sysfs("max_segments"));
        assert_eq!(
            u64::from(limits.pdiscard_alignment),
            sysfs("discard_granularity").max(block_bytes.into())
        );
        assert!(limits.max_pdiscard <= sysfs("discard_max_bytes") && limits.max_pdiscard > 0);
        assert_eq!(driver.can_discard(), sysfs("discard_max_bytes") > 0);
        assert_eq!(driver.length().unwrap(), 4 << 20);
        assert_eq!(driver.allocated_size().unwrap(), 4 << 20);
        driver.truncate(4 << 20).unwrap();
        assert!(matches!(driver.truncate(8 << 20), Err(BlockError::Unsupported { .. })));
        let status = driver.block_status(0, 4 << 20).unwrap();
        assert_eq!((status.flags, status.bytes), (StatusFlags::DATA, 4 << 20));
    }
}

#[test]
fn a_device_set_read_only_is_not_opened_for_writing() {
    let dir = scratch_dir();
    let file = full_file(&dir, "disk", 1 << 20);
    let Some(device) = LoopDevice::over(&file, 512) else { return };
    let set = |how: &str| Command::new("blockdev").arg(how).arg(&device.path).status().unwrap().success();
    assert!(set("--setro"));
    let error = open_error(&FileOptions::new(&device.path));
    assert!(error.contains("read-only"), "{error}");
    let driver = FileDriver::open(&FileOptions::new(&device.path).read_only(true)).unwrap();
    assert!(driver.read_only());
    assert!(set("--setrw"));
}

#[test]
fn length_and_holes_of_a_file_change_with_it() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let driver = FileDriver::open(&FileOptions::new(&path)).unwrap();
    assert_eq!((driver.length().unwrap(), driver.allocated_size().unwrap()), (1 << 20, 0));
    let mut lane = Lane::open(&driver, 4);
    lane.write(256 << 10, &[5; 64 << 10]);
    let at = |offset| {
        let status = driver.block_status(offset, 4 << 20).unwrap();
        (status.flags, status.bytes)
    };
    assert_eq!(at(0), (StatusFlags::ZERO, 256 << 10));
    assert_eq!(at(256 << 10), (StatusFlags::DATA, 64 << 10));
    driver.truncate(3 << 20).unwrap();
    assert_eq!(driver.length().unwrap(), 3 << 20);
    assert_eq!(lane.read(2 << 20, 4096), [0; 4096]);
    driver.truncate(300 << 10).unwrap();
    assert_eq!(driver.length().unwrap(), 300 << 10);
    drop((lane, driver));
    let driver = FileDriver::open(&FileOptions::new(&path).read_only(true)).unwrap();
    assert!(matches!(driver.truncate(0), Err(BlockError::ReadOnly { .. })));
}

/// Losetup's capacity is taken anew, as when a disk is resized under the system.
#[test]
fn a_device_that_shrank_fails_reads_and_writes_beyond_its_end() {
    let dir = scratch_dir();
    for cache in [CacheMode::None, CacheMode::Writeback] {
        let file = full_file(&dir, "disk", 4 << 20);
        let Some(device) = LoopDevice::over(&file, 512) else { return };
        let driver = FileDriver::open(&unmapping(&device.path, cache)).unwrap();
        let mut lane = Lane::open(&driver, 4);
        assert_eq!(lane.read(3 << 20, 4096).len(), 4096);
        File::options().write(true).open(&file).and_then(|file| file.set_len(1 << 20)).unwrap();
        assert!(Command::new("losetup").arg("-c").arg(&device.path).status().unwrap().success());
        assert_eq!(driver.length().unwrap(), 1 << 20);
        let plain = ReqFlags::empty();
        for (op, offset) in [(Op::Read, 3 << 20), (Op::Read, (1 << 20) - 4096), (Op::Write, 3 << 20)] {
            let (result, _) = lane.one(op, plain, (offset, 8192), common::payload(8192));
            let errno = result.expect_err("there is nothing any more").errno;
            let expected = if op == Op::Read { Errno::EIO } else { Errno::ENOSPC };
            assert_eq!(errno, expected, "{cache}: {op:?} at {offset}");
        }
        assert_eq!(lane.read(0, 4096).len(), 4096);
    }
}

/// A file system in memory of 256 KiB, taken down with the value.
struct TinyFileSystem {
    path: PathBuf,
}

impl TinyFileSystem {
    fn mount(path: PathBuf) -> Option<TinyFileSystem> {
        std::fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(TinyFileSystem { path }),
            other => {
                skip("kernel", format_args!("a small file system cannot be mounted: {other:?}"));
                None
            }
        }
    }
}

impl Drop for TinyFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

#[test]
fn a_full_file_system_is_told_and_what_fitted_is_kept() {
    let dir = scratch_dir();
    let Some(tiny) = TinyFileSystem::mount(dir.path().join("tiny")) else { return };
    let path = tiny.path.join("image");
    File::create(&path).and_then(|file| file.set_len(1 << 20)).unwrap();
    let driver = FileDriver::open(&unmapping(&path, CacheMode::Writeback)).unwrap();
    let mut lane = Lane::open(&driver, 4);
    // The kernel writes what fits, which is a short write, and refuses the rest.
    let (result, _) = lane.one(Op::Write, ReqFlags::empty(), (0, 1 << 20), common::payload(1 << 20));
    assert_eq!(result.unwrap_err().errno, Errno::ENOSPC);
    // A discard makes room again.
    let (result, _) = lane.one(Op::Discard, ReqFlags::empty(), (0, 1 << 20), Payload::None);
    assert_eq!(result, Ok(()));
    lane.write(512 << 10, &[9; 4096]);
    assert_eq!(lane.read(512 << 10, 4096), [9; 4096]);
    drop((lane, driver));
}

#[test]
fn discards_of_parts_of_a_block_of_a_device_leave_it() {
    let dir = scratch_dir();
    let file = full_file(&dir, "disk", 1 << 20);
    let Some(device) = LoopDevice::over(&file, 4096) else { return };
    let driver = FileDriver::open(&unmapping(&device.path, CacheMode::Writeback)).unwrap();
    let mut lane = Lane::open(&driver, 4);
    let before = lane.read(0, 16384);
    for (offset, bytes) in [(100, 50), (4095, 2), (4097, 8190)] {
        let (result, _) = lane.one(Op::Discard, ReqFlags::empty(), (offset, bytes), Payload::None);
        assert_eq!(result, Ok(()));
        if bytes < 4096 {
            assert!(lane.read(0, 16384) == before, "{bytes} bytes at {offset}");
        }
    }
    let after = lane.read(0, 16384);
    assert!(after[..8192] == before[..8192] && after[12288..] == before[12288..]);
    // The kernel zeroes whole blocks only.
    let (result, _) = lane.one(Op::WriteZeroes, ReqFlags::empty(), (100, 50), Payload::None);
    assert_eq!(result.unwrap_err().errno, Errno::ENOTSUP);
}

#[test]
fn a_discard_gives_the_space_of_a_file_back() {
    let dir = scratch_dir();
    let path = full_file(&dir, "image", 1 << 20);
    for (mode, kept) in [(DiscardMode::Ignore, true), (DiscardMode::Unmap, false)] {
        let driver = FileDriver::open(&FileOptions::new(&path).discard(mode)).unwrap();
        assert_eq!(driver.can_discard(), !kept);
        let before = driver.allocated_size().unwrap();
        let mut lane = Lane::open(&driver, 4);
        let (result, _) = lane.one(Op::Discard, ReqFlags::empty(), (0, 1 << 20), Payload::None);
        assert_eq!(result, Ok(()));
        assert_eq!(driver.allocated_size().unwrap() == before, kept, "{mode:?}");
        assert_eq!(driver.length().unwrap(), 1 << 20);
    }
}

#[test]
fn two_openings_without_locks_see_each_others_writes() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let unlocked = FileOptions::new(&path).locking(Locking::Off);
    let (first, second) = (FileDriver::open(&unlocked).unwrap(), FileDriver::open(&unlocked).unwrap());
    Lane::open(&first, 2).write(0, &[1, 2, 3]);
    assert_eq!(Lane::open(&second, 2).read(0, 3), [1, 2, 3]);
}
