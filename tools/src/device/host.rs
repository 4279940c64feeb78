//! The machine as its files tell of it: sysfs, procfs, /dev and the modules' folder.
//!
//! Invariant: nothing here looks anywhere but below the roots, and nothing is changed but through [`Host::tell`], so that
//! tests can make a machine up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use corelane_dma::vfio::Roots;

use super::DeviceError;

/// How a value is written to a file of the kernel.
type Write = dyn Fn(&Path, &str) -> io::Result<()>;

/// A machine.
pub struct Host {
    /// sysfs, devtmpfs and procfs.
    pub roots: Roots,
    /// The kernels' modules, a folder for each release.
    pub modules: PathBuf,
    write: Box<Write>,
}

impl Host {
    /// This machine.
    pub fn real() -> Host {
        Host {
            roots: Roots::default(),
            modules: PathBuf::from("/lib/modules"),
            write: Box::new(|path, text| fs::write(path, text)),
        }
    }

    /// A machine below `root`, of which `kernel` does what a kernel does when a file is written.
    #[cfg(test)]
    pub fn made_up(root: &Path, kernel: Box<Write>) -> Host {
        let roots = Roots { sys: root.join("sys"), dev: root.join("dev"), proc: root.join("proc") };
        Host { roots, modules: root.join("lib/modules"), write: kernel }
    }

    /// A path below sysfs.
    pub fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.roots.sys.join(path)
    }

    /// A path below procfs.
    pub fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.roots.proc.join(path)
    }

    /// A path below /dev.
    pub fn dev(&self, path: impl AsRef<Path>) -> PathBuf {
        self.roots.dev.join(path)
    }

    /// Writes a value to a file of the kernel.
    ///
    /// # Errors
    /// [`DeviceError::Write`] with the path and the value.
    pub fn tell(&self, path: &Path, text: &str) -> Result<(), DeviceError> {
        (self.write)(path, text).map_err(|source| DeviceError::Write {
            path: path.to_owned(),
            text: text.trim_end().to_owned(),
            source,
        })
    }
}

/// A file's text without the spaces around it; `None` where it cannot be read or is empty.
pub fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// A file's number, in decimal.
pub fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path)?.parse().ok()
}

/// A file's number as sysfs writes what it has in hexadecimal, `0x1b36`.
pub fn hex(path: impl AsRef<Path>) -> Option<u32> {
    u32::from_str_radix(text(path)?.trim_start_matches("0x"), 16).ok()
}

/// The last part of what a link points to.
pub fn link_name(link: impl AsRef<Path>) -> Option<String> {
    fs::read_link(link).ok()?.file_name()?.to_str().map(str::to_owned)
}

/// The names in a folder, sorted; none where there is no such folder.
pub fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
