//! A loop device over a file: a block device for tests, with discard and `O_DIRECT`, detached when the test ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Lack, skip};

/// The device. Dropping it detaches it; the file stays.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a device with logical blocks of `block_bytes` bytes (512 to 4096, a power of two) to `file`, through
    /// direct I/O (`losetup(8)`). `None`, after saying that the test is skipped, where there are no loop devices or
    /// no right to use them.
    ///
    /// # Panics
    /// When `file` is not there, which is the test's own fault.
    pub fn attach(file: &Path, block_bytes: u32) -> Option<LoopDevice> {
        assert!(file.is_file(), "{} is to be attached, but is no file", file.display());
        let mut losetup = Command::new("losetup");
        losetup
            .args(["--find", "--show", "--direct-io=on", "--sector-size"])
            .arg(block_bytes.to_string())
            .arg(file);
        let reason = match losetup.output() {
            Ok(output) if output.status.success() => {
                let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
                return Some(LoopDevice { path });
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "),
            Err(err) => format!("losetup: {err}"),
        };
        skip(Lack::LoopDevice, reason);
        None
    }

    /// The device's file, such as `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device that is still open is detached when it is closed.
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        if !std::thread::panicking() {
            assert!(
                detached.is_ok_and(|status| status.success()),
                "cannot detach {}: run `losetup --detach {}`",
                self.path.display(),
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use super::*;
    use crate::Scratch;

    #[test]
    fn a_device_shows_its_file_and_goes_with_its_guard() {
        let Some(scratch) = Scratch::new() else { return };
        let file = scratch.file("disk", &[7; 1 << 20]);
        let Some(device) = LoopDevice::attach(&file, 4096) else { return };
        let mut opened = std::fs::File::open(device.path()).unwrap();
        assert_eq!(opened.seek(SeekFrom::End(0)).unwrap(), 1 << 20);
        let mut block = [0; 4096];
        opened.rewind().unwrap();
        opened.read_exact(&mut block).unwrap();
        assert_eq!(block, [7; 4096]);
        drop(opened);

        let name = device.path().file_name().unwrap().to_owned();
        drop(device);
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        let now = std::fs::read_to_string(backing).unwrap_or_default();
        assert_ne!(Path::new(now.trim()), file, "the device is still attached");
    }
}
