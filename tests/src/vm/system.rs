//! What the host needs for virtual machines: QEMU, and a kernel that `tests/vm-kernel` unpacked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::later::Later;
use super::{Machine, place};

const QEMU: &str = "qemu-system-x86_64";
/// The first QEMU whose NVMe controller has all the options that the machines use.
const QEMU_AT_LEAST: u32 = 10;
/// In the order in which the kernel takes them.
const MODULES: [&str; 5] = [
    "virt/lib/irqbypass",
    "drivers/vfio/vfio",
    "drivers/vfio/vfio_iommu_type1",
    "drivers/vfio/pci/vfio-pci-core",
    "drivers/vfio/pci/vfio-pci",
];

/// Why there can be no virtual machine here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// QEMU and a kernel.
#[derive(Clone, Debug)]
pub struct System {
    /// The host's QEMU.
    qemu: PathBuf,
    /// QEMU 11 and programs for its guests.
    later: Option<Later>,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Modules to insert, in this order.
    pub modules: Vec<PathBuf>,
}

impl System {
    /// Looks for them.
    ///
    /// # Errors
    /// What there is not.
    pub fn find() -> Result<System, Unavailable> {
        let lacks = |what: &str, hint: &str| Unavailable(format!("{what}; {hint}"));
        if cfg!(not(target_arch = "x86_64")) {
            return Err(Unavailable("the machines are x86-64".to_owned()));
        }
        let by_run = "tests/run gets it on Debian, as root and without CORELANE_NO_INSTALL";
        let printed = Command::new(QEMU)
            .arg("--version")
            .output()
            .map_err(|err| lacks(&format!("{QEMU}: {err}"), by_run))?;
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        match major_version(&printed) {
            Some(major) if major >= QEMU_AT_LEAST => {}
            _ => return Err(lacks(&format!("{QEMU} is not version {QEMU_AT_LEAST} or later"), by_run)),
        }
        let unpacked = unpacked()
            .ok_or_else(|| lacks("there is no image to boot", "tests/vm-kernel gets one on Debian"))?;
        let (kernel, modules) = contents(&unpacked).ok_or_else(|| {
            lacks(&format!("{} is not complete", unpacked.display()), "remove it and run tests/run")
        })?;
        Ok(System { qemu: QEMU.into(), later: Later::find(), kernel, modules })
    }

    /// Whether there is all that a machine needs besides.
    ///
    /// # Errors
    /// What there is not.
    pub fn can_run(&self, machine: &Machine) -> Result<(), Unavailable> {
        if !machine.is_later() || self.later.is_some() {
            return Ok(());
        }
        Err(Unavailable("there is no QEMU 11; tests/vm-later gets it on Debian".to_owned()))
    }

    /// The folder of later programs that a machine runs with, if it does.
    pub fn later_for(&self, machine: &Machine) -> Option<&Later> {
        self.later.as_ref().filter(|_| machine.is_later())
    }

    /// QEMU for a machine, to be given arguments.
    ///
    /// # Errors
    /// When there is none.
    pub fn qemu_for(&self, machine: &Machine) -> io::Result<Command> {
        self.can_run(machine).map_err(|lacking| io::Error::other(lacking.to_string()))?;
        self.later_for(machine).map_or_else(|| Ok(Command::new(&self.qemu)), Later::qemu)
    }
}

/// Of a text like `QEMU emulator version 10.0.2 (Debian ...)`.
fn major_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once(" version ")?;
    version.split('.').next()?.parse().ok()
}

/// The folder that the last kernel was unpacked to.
fn unpacked() -> Option<PathBuf> {
    let folder = place::folder().join("kernel");
    let name = std::fs::read_to_string(folder.join("current")).ok()?;
    Some(folder.join(name.trim()))
}

/// The image and the modules in the unpacked package.
fn contents(unpacked: &Path) -> Option<(PathBuf, Vec<PathBuf>)> {
    let kernel = only_one(&unpacked.join("boot"), "vmlinuz-")?;
    // A merged /usr or not.
    let folder = ["lib/modules", "usr/lib/modules"].iter().find_map(|at| only_one(&unpacked.join(at), ""))?;
    let modules = MODULES.map(|name| {
        ["ko.xz", "ko.zst", "ko"]
            .map(|end| folder.join(format!("kernel/{name}.{end}")))
            .into_iter()
            .find(|path| path.exists())
    });
    Some((kernel, modules.into_iter().collect::<Option<_>>()?))
}

fn only_one(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    });
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some(10));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn an_unpacked_package_is_looked_through() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(contents(folder.path()), None);
        let make = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        make("boot/vmlinuz-6");
        make("boot/config-6");
        for name in MODULES {
            assert_eq!(contents(folder.path()), None, "without {name}");
            make(&format!("lib/modules/6/kernel/{name}.ko.xz"));
        }
        let (kernel, modules) = contents(folder.path()).unwrap();
        assert_eq!(kernel, folder.path().join("boot/vmlinuz-6"));
        assert_eq!(modules.len(), MODULES.len());
    }
}
