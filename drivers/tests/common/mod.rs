//! What the tests of several files share: scratch files and loop devices.
#![allow(dead_code)] // Each test binary uses a part.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use corelane_drivers::file::{FileDriver, FileOptions};
use tempfile::TempDir;

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
        println!("SKIPPED: {program}: it is not installed");
    }
    found
}

/// Opens, or says that the test is skipped where the file system has no `O_DIRECT`.
pub fn open_or_skip(options: &FileOptions) -> Option<FileDriver> {
    match FileDriver::open(options) {
        Ok(driver) => Some(driver),
        Err(error) if error.to_string().contains("O_DIRECT") => {
            println!("SKIPPED: direct I/O: {error}");
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
                println!("SKIPPED: loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(err) => {
                println!("SKIPPED: loop device: {err}");
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
