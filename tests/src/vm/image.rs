//! The guest's initramfs: our programs, the kernel's modules, and programs of the host with their libraries.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use super::binaries::{GUEST, OWN};
use super::{Machine, System};
use crate::program::find;

/// Where the modules are in the guest; their names begin with the order to insert them in.
pub const MODULES: &str = "modules";
const FOLDERS: [&str; 9] = ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "huge"];

/// Writes the initramfs of `machine` to `path`, with our programs from the folder `binaries`.
///
/// # Errors
/// When a file cannot be read or written, or the machine wants a program that the host does not have.
pub fn write(path: &Path, machine: &Machine, system: &System, binaries: &Path) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.file("init", &read(&binaries.join(GUEST))?)?;
    for name in OWN {
        archive.file(&format!("bin/{name}"), &read(&binaries.join(name))?)?;
    }
    for (order, module) in system.modules.iter().enumerate() {
        let name = module.file_name().expect("a module is a file").display();
        archive.file(&format!("{MODULES}/{order}-{name}"), &read(module)?)?;
    }
    let later = system.later_for(machine);
    // Where each is, and its path in the guest.
    let mut libraries = BTreeSet::new();
    // For a shell in the guest; nothing else needs it.
    if let Some(busybox) = find("busybox") {
        let needed = libraries_of(&busybox)?;
        // Libraries of two systems cannot stand side by side.
        if later.is_none() || needed.is_empty() {
            archive.file("bin/busybox", &read(&busybox)?)?;
            libraries.extend(needed);
        }
    }
    for name in machine.programs {
        let program = match later {
            Some(later) => later.program(name)?,
            None => find(name).ok_or_else(|| io::Error::other(format!("{name} is not installed")))?,
        };
        archive.file(&format!("bin/{name}"), &read(&program)?)?;
        libraries.extend(match later {
            Some(later) => later.libraries_of(&program)?,
            None => libraries_of(&program)?,
        });
    }
    for (library, in_guest) in libraries {
        archive.file(&in_guest, &read(&library)?)?;
    }
    archive.finish().map(drop)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|err| io::Error::other(format!("{}: {err}", path.display())))
}

/// The shared libraries of a program of the host, and its loader, as `ldd` names them, with their paths in the guest; none for
/// a static one.
fn libraries_of(program: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let output = Command::new("ldd").arg(program).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let paths = printed.split_whitespace().filter(|word| word.starts_with('/'));
    let paths = paths.map(|word| word.trim_end_matches(':')).filter(|path| Path::new(path) != program);
    Ok(paths.map(|path| (PathBuf::from(path), path.trim_start_matches('/').to_owned())).collect())
}
