//! A folder for a test's files, on an ordinary file system, removed when the test ends.
//!
//! tmpfs will not do: it knows no `O_DIRECT` on older kernels, and io_uring hands each of its requests to a worker
//! thread.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use tempfile::TempDir;

use crate::{Lack, skip};

/// The folder. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// A new empty folder: below `CORELANE_SCRATCH` if that is set, else beside the test's own binary, else below
    /// `/var/tmp` or the working folder. `None`, after saying that the test is skipped, when all of these are in memory.
    ///
    /// # Panics
    /// When no folder can be made there.
    pub fn new() -> Option<Scratch> {
        let given = std::env::var_os("CORELANE_SCRATCH").map(PathBuf::from);
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let candidates = [given, beside, Some("/var/tmp".into()), std::env::current_dir().ok()];
        let Some(parent) = candidates.into_iter().flatten().find(|folder| is_ordinary(folder)) else {
            skip(Lack::OrdinaryFileSystem, "set CORELANE_SCRATCH to a folder that is not in memory");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("corelane-scratch-").tempdir_in(&parent);
        let folder =
            folder.unwrap_or_else(|err| panic!("cannot make a folder in {}: {err}", parent.display()));
        Some(Scratch { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a file of `len_bytes` bytes, all of it a hole.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn hole(&self, name: &str, len_bytes: u64) -> PathBuf {
        let path = self.path().join(name);
        let made = File::create_new(&path).and_then(|file| file.set_len(len_bytes));
        made.unwrap_or_else(|err| panic!("cannot make {} of {len_bytes} bytes: {err}", path.display()));
        path
    }

    /// Makes a file that holds `content`.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap_or_else(|err| panic!("cannot write {}: {err}", path.display()));
        path
    }
}

/// Whether files in `folder` are stored elsewhere than in memory (magic numbers of `statfs(2)`).
fn is_ordinary(folder: &Path) -> bool {
    const TMPFS_MAGIC: i128 = 0x0102_1994;
    const RAMFS_MAGIC: i128 = 0x8584_58f6;
    statfs(folder).is_ok_and(|of| !matches!(i128::from(of.f_type), TMPFS_MAGIC | RAMFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_guard() {
        let Some(scratch) = Scratch::new() else { return };
        let hole = scratch.hole("hole", 1 << 20);
        assert_eq!(hole.metadata().unwrap().len(), 1 << 20);
        assert_eq!(std::fs::read(scratch.file("full", b"content")).unwrap(), b"content");
        drop(scratch);
        assert!(!hole.exists());
    }

    #[test]
    fn memory_is_no_ordinary_file_system() {
        if Path::new("/dev/shm").is_dir() && !is_ordinary(Path::new("/dev/shm")) {
            assert!(is_ordinary(Path::new("/proc")), "only what is known to be in memory is refused");
        }
        assert!(!is_ordinary(Path::new("/no/such/folder")));
    }
}
