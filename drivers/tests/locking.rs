//! The image locks, among Corelane's own openings and against QEMU's programs.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{LoopDevice, have, scratch_dir, sparse_file};
use corelane_drivers::file::{FileDriver, FileOptions, Locking};
use corelane_engine::block::{BlockDriver, BlockError};

fn writer(path: &Path) -> FileOptions {
    FileOptions::new(path)
}

fn reader(path: &Path) -> FileOptions {
    FileOptions::new(path).read_only(true)
}

/// The reason for which an opening is refused.
fn refusal(options: &FileOptions) -> String {
    match FileDriver::open(options) {
        Err(BlockError::Locked { filename, reason }) => {
            assert_eq!(filename, options.filename.display().to_string());
            reason
        }
        other => panic!("{options:?} should be refused, but: {other:?}"),
    }
}

/// Whether qemu-io can open the image and read a sector, and what it says.
fn qemu_reads(path: &Path, options: &[&str]) -> (bool, String) {
    let output = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "read 0 512"])
        .args(options)
        .arg(path)
        .output()
        .expect("qemu-io starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success() && said.contains("512/512"), said)
}

/// A qemu-io that has the image open until it is dropped.
struct QemuHolds {
    child: Child,
}

impl QemuHolds {
    fn open(path: &Path, options: &[&str]) -> QemuHolds {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw"])
            .args(options)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io starts");
        // Once it answers it has opened the image.
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"length\n").expect("qemu-io reads commands");
        let stdout = child.stdout.take().expect("a pipe");
        let answer = BufReader::new(stdout).lines().map_while(Result::ok).find(|line| line.contains("MiB"));
        assert!(answer.is_some(), "qemu-io could not open {}", path.display());
        child.stdin = Some(stdin);
        QemuHolds { child }
    }
}

impl Drop for QemuHolds {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_second_writer_in_this_process_is_refused() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let first = FileDriver::open(&writer(&path)).unwrap();
    let reason = refusal(&writer(&path));
    assert!(reason.contains("this process itself"), "{reason}");
    assert!(
        reason.contains("\"write\"") && reason.contains("share-rw=on") && reason.contains("locking=off"),
        "{reason}"
    );
    refusal(&reader(&path));
    // A refused opening leaves nothing behind.
    drop(first);
    let first = FileDriver::open(&writer(&path)).unwrap();
    FileDriver::open(&writer(&path).locking(Locking::Off)).unwrap();
    drop(first);
    FileDriver::open(&writer(&path).locking(Locking::On)).unwrap();
}

#[test]
fn readers_share_and_exclude_writers() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let first = FileDriver::open(&reader(&path)).unwrap();
    let second = FileDriver::open(&reader(&path)).unwrap();
    let reason = refusal(&writer(&path));
    assert!(reason.contains("shares no \"write\""), "{reason}");
    drop((first, second));
    FileDriver::open(&writer(&path)).unwrap();
}

#[test]
fn those_who_share_may_all_write() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let first = FileDriver::open(&writer(&path).share_rw(true)).unwrap();
    let second = FileDriver::open(&writer(&path).share_rw(true)).unwrap();
    let reason = refusal(&writer(&path));
    assert!(reason.contains("has the \"write\" permission"), "{reason}");
    drop((first, second));
}

#[test]
fn the_length_is_changed_only_where_nobody_minds() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let first = FileDriver::open(&writer(&path).share_rw(true)).unwrap();
    let second = FileDriver::open(&writer(&path).share_rw(true)).unwrap();
    first.truncate(2 << 20).unwrap();
    second.truncate(3 << 20).unwrap();
    drop(second);
    // QEMU's writers that share the image mind; a lock on this byte says so (QEMU's RAW_LOCK_SHARED_BASE + 3).
    let minds = File::options().read(true).write(true).open(&path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 203,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&minds, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let error = first.truncate(4 << 20).unwrap_err().to_string();
    assert!(error.contains("\"resize\""), "{error}");
    assert_eq!(first.length().unwrap(), 3 << 20);
    drop(minds);
    first.truncate(4 << 20).unwrap();
}

#[test]
fn qemu_is_refused_what_corelane_does_not_share() {
    if !have("qemu-io") {
        return;
    }
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let corelane = FileDriver::open(&writer(&path)).unwrap();
    let (opened, said) = qemu_reads(&path, &[]);
    assert!(!opened && said.contains("Failed to get \"write\" lock"), "{said}");
    let (opened, said) = qemu_reads(&path, &["-r"]);
    assert!(opened, "a reader that shares everything is let in by both: {said}");
    drop(corelane);
    let (opened, said) = qemu_reads(&path, &[]);
    assert!(opened, "{said}");

    let corelane = FileDriver::open(&reader(&path)).unwrap();
    let (opened, said) = qemu_reads(&path, &[]);
    assert!(!opened && said.contains("Failed to get \"write\" lock"), "{said}");
    drop(corelane);

    let corelane = FileDriver::open(&writer(&path).share_rw(true)).unwrap();
    let (opened, said) = qemu_reads(&path, &[]);
    assert!(opened, "{said}");
    drop(corelane);
}

#[test]
fn corelane_is_refused_what_qemu_has() {
    if !have("qemu-io") {
        return;
    }
    let dir = scratch_dir();
    let path = sparse_file(&dir, "image", 1 << 20);
    let qemu = QemuHolds::open(&path, &[]);
    let reason = refusal(&writer(&path));
    assert!(reason.contains(&format!("process {} (qemu-io)", qemu.child.id())), "{reason}");
    assert!(reason.contains("has the \"write\" permission"), "{reason}");
    refusal(&reader(&path));
    FileDriver::open(&writer(&path).share_rw(true)).unwrap();
    drop(qemu);
    FileDriver::open(&writer(&path)).unwrap();

    let qemu = QemuHolds::open(&path, &["-r"]);
    FileDriver::open(&writer(&path)).expect("a reader of QEMU's that shares everything");
    drop(qemu);
}

#[test]
fn block_devices_are_locked_too() {
    let dir = scratch_dir();
    let path = sparse_file(&dir, "disk", 1 << 20);
    let Some(device) = LoopDevice::over(&path, 512) else { return };
    let corelane = FileDriver::open(&writer(&device.path)).unwrap();
    refusal(&writer(&device.path));
    if have("qemu-io") {
        let (opened, said) = qemu_reads(&device.path, &[]);
        assert!(!opened && said.contains("Failed to get \"write\" lock"), "{said}");
        drop(corelane);
        let qemu = QemuHolds::open(&device.path, &[]);
        refusal(&writer(&device.path));
        drop(qemu);
    }
}
