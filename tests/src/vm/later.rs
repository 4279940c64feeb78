//! Programs of a later Debian, which `tests/vm-later` unpacked into a folder: QEMU 11, and what its guests run. They need
//! nothing of the host but its kernel: the folder's own loader starts them with the folder's own libraries.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::place;

const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];
/// Where libraries are, and those that only others of them know the place of.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph"];
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
/// Where programs look for the loader.
const LOADER_NAME: &str = "/lib64/ld-linux-x86-64.so.2";
const QEMU: &str = "qemu-system-x86_64";
/// Where QEMU's firmware is.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Later {
    folder: PathBuf,
}

impl Later {
    /// The folder, if it is there and complete.
    pub fn find() -> Option<Later> {
        let all = place::folder().join("later");
        let name = std::fs::read_to_string(all.join("current")).ok()?;
        let later = Later { folder: all.join(name.trim()) };
        (later.folder.join(LOADER).exists() && later.program(QEMU).is_ok()).then_some(later)
    }

    /// QEMU, to be given arguments.
    ///
    /// # Errors
    /// When it is not in the folder.
    pub fn qemu(&self) -> io::Result<Command> {
        let mut command = self.loader();
        command.arg(self.program(QEMU)?);
        for folder in FIRMWARE {
            command.arg("-L").arg(self.folder.join(folder));
        }
        Ok(command)
    }

    /// Where a program is.
    ///
    /// # Errors
    /// When it is not in the folder.
    pub fn program(&self, name: &str) -> io::Result<PathBuf> {
        let mut found = PROGRAMS.iter().map(|folder| self.folder.join(folder).join(name));
        found.find(|path| path.is_file()).ok_or_else(|| {
            io::Error::other(format!(
                "{} has no {name}: remove it and run tests/vm-later",
                self.folder.display()
            ))
        })
    }

    /// The libraries that a program needs, and the loader: where each is, and its path in a guest, without the slash in front.
    ///
    /// # Errors
    /// When the loader cannot be started, or does not find one of them.
    pub fn libraries_of(&self, program: &Path) -> io::Result<Vec<(PathBuf, String)>> {
        let output = self.loader().arg("--list").arg(program).output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        // The loader itself is printed with the name that programs know it by.
        let paths = printed.split_whitespace().filter(|word| word.starts_with('/') && *word != LOADER_NAME);
        let inside = |path: &str| Path::new(path).strip_prefix(&self.folder).ok().map(Path::to_owned);
        let outside: Vec<_> = paths.clone().filter(|path| inside(path).is_none()).collect();
        if !output.status.success() || printed.contains("not found") || !outside.is_empty() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let what = format!("{} does not have its libraries from the folder", program.display());
            return Err(io::Error::other(format!("{what}:\n{printed}{errors}")));
        }
        let libraries = paths.filter_map(|path| Some((path.into(), inside(path)?.display().to_string())));
        let loader = (self.folder.join(LOADER), LOADER_NAME.trim_start_matches('/').to_owned());
        Ok(libraries.filter(|(path, _)| *path != loader.0).chain([loader.clone()]).collect())
    }

    /// The loader, told where libraries are.
    fn loader(&self) -> Command {
        let folders = LIBRARIES.map(|folder| self.folder.join(folder).display().to_string());
        let mut command = Command::new(self.folder.join(LOADER));
        command.arg("--library-path").arg(folders.join(":"));
        command
    }
}
