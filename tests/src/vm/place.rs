//! Where the virtual machines' files are: `vm` below the target folder.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The folder, made when it is not there.
///
/// # Panics
/// When it cannot be made.
pub fn folder() -> PathBuf {
    let folder = target().join("vm");
    std::fs::create_dir_all(&folder).unwrap_or_else(|err| panic!("cannot make {}: {err}", folder.display()));
    folder
}

/// The target folder: `CARGO_TARGET_DIR`, or where the running binary is, or else the workspace's `target`.
fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a workspace");
    // Cargo takes a relative one from where it runs; `tests/run` runs it in the workspace.
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |given| workspace.join(given))
}

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a workspace")
}

/// Holds the lock on `path`, a file that is made for it, until the guard is dropped. Other processes wait.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}
