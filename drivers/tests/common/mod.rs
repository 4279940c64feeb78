//! What the tests of several files share: scratch files and loop devices.
#![allow(dead_code)] // Each test binary uses a part.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, MemRegion, Payload};
use corelane_drivers::file::{FileDriver, FileOptions};
use corelane_engine::aio::{AioConfig, AioContext, Wait};
use corelane_engine::block::{
    BlockDriver, CommandTable, IoResult, LeafCommand, LeafQueue, Op, ReqFlags, Tag,
};
use tempfile::TempDir;

/// Says that a test, or a part of it, is skipped, in the words that `tests/run` knows.
#[allow(clippy::print_stdout)] // The line is for whoever runs the tests.
pub fn skip(lack: &str, reason: impl fmt::Display) {
    println!("SKIPPED: {lack}: {reason}");
}

/// A folder on an ordinary file system: `CORELANE_SCRATCH`, or the target folder, as the temporary one may be in memory.
pub fn scratch_dir() -> TempDir {
    let given = std::env::var_os("CORELANE_SCRATCH").map(PathBuf::from);
    let folder = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    tempfile::Builder::new()
        .prefix("corelane-")
        .tempdir_in(folder)
        .expect("the scratch folder can be written")
}

/// A sparse file of this length.
pub fn sparse_file(dir: &TempDir, name: &str, length: u64) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path).and_then(|file| file.set_len(length)).expect("a scratch file can be made");
    path
}

/// A file that has data all over.
pub fn full_file(dir: &TempDir, name: &str, length: usize) -> PathBuf {
    let path = dir.path().join(name);
    let bytes: Vec<u8> = (0..length).map(|i| (i ^ (i >> 8)) as u8).collect();
    std::fs::write(&path, bytes).expect("a scratch file can be written");
    path
}

/// Whether a program of this name can be started; says that the test is skipped if not.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skip(program, "it is not installed");
    }
    found
}

/// Opens, or says that the test is skipped where the file system has no `O_DIRECT`.
pub fn open_or_skip(options: &FileOptions) -> Option<FileDriver> {
    match FileDriver::open(options) {
        Ok(driver) => Some(driver),
        Err(error) if error.to_string().contains("O_DIRECT") => {
            skip("direct I/O", error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A loop device over a file; taken down with the value.
pub struct LoopDevice {
    pub path: PathBuf,
}

impl LoopDevice {
    /// Sets one up over `file` with direct I/O and this logical block size, or says why the test is skipped.
    pub fn over(file: &Path, block_bytes: u32) -> Option<LoopDevice> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size", &block_bytes.to_string()])
            .arg(file)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let name = String::from_utf8_lossy(&output.stdout);
                Some(LoopDevice { path: PathBuf::from(name.trim()) })
            }
            Ok(output) => {
                skip("loop device", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(err) => {
                skip("loop device", format_args!("losetup: {err}"));
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Nothing can be done if it fails; the device goes with the machine.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Memory of this length, aligned for everybody.
pub fn payload(len: usize) -> Payload {
    Payload::One(IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).expect("there is memory")))
}

/// Memory of this length that starts `skip` bytes behind a page.
pub fn payload_at(skip: usize, len: usize) -> Payload {
    let buffer = DmaBuffer::new(skip + len, 4096, Backing::Pages).expect("there is memory");
    let region = Rc::new(MemRegion::from_buffer(buffer));
    Payload::One(IoBuf::lease(&region, skip, len).expect("it lies within"))
}

/// A queue and the event loop that it is in.
pub struct Lane {
    queue: Box<dyn LeafQueue>,
    commands: CommandTable,
    ctx: AioContext,
}

impl Lane {
    pub fn open(driver: &dyn BlockDriver, tags: u32) -> Lane {
        let ctx = AioContext::new(&AioConfig::default()).expect("an event loop");
        let (commands, table) = CommandTable::new(tags);
        Lane { queue: driver.open_queue(&ctx, table).expect("a queue"), commands, ctx }
    }

    /// One command alone, with its result and memory.
    pub fn one(&mut self, op: Op, flags: ReqFlags, at: (u64, u64), payload: Payload) -> (IoResult, Payload) {
        let command = LeafCommand { op, flags, offset: at.0, bytes: at.1, payload };
        assert!(self.commands.put(Tag(0), command).is_ok(), "the tag is free");
        let mut out = Vec::new();
        while out.is_empty() {
            self.queue.commit();
            self.ctx.turn(Wait::No);
            self.queue.reap();
            out = self.commands.take_ended();
        }
        let done = out.remove(0);
        (done.result, done.payload)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut memory = payload(bytes.len());
        memory.copy_from(0, bytes).expect("it fits");
        let at = (offset, bytes.len() as u64);
        assert_eq!(self.one(Op::Write, ReqFlags::empty(), at, memory).0, Ok(()));
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let (result, memory) = self.one(Op::Read, ReqFlags::empty(), (offset, len as u64), payload(len));
        assert_eq!(result, Ok(()));
        let mut bytes = vec![0; len];
        memory.copy_to(0, &mut bytes).expect("it fits");
        bytes
    }
}
