//! Who uses a block device: mounts, swap, and what the kernel has built on it (LVM, MD, dm-crypt, bcache, ...), on the whole
//! device and on each partition.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::function::Disk;
use super::host::{Host, names, text};
use super::signature::{self, Signature};

/// A use of a block device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Use {
    /// A file system of it is mounted.
    Mounted {
        /// The device or partition.
        device: String,
        /// Where.
        path: String,
        /// As what.
        filesystem: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The device or partition.
        device: String,
    },
    /// Another block device lies on it.
    Held {
        /// The device or partition.
        device: String,
        /// The device above.
        holder: String,
        /// Whose that is.
        by: String,
    },
    /// Somebody has opened it for himself alone, as ZFS does; or it cannot be known.
    Exclusive {
        /// The device.
        device: String,
    },
}

/// All that is known of the uses of a disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Usage {
    /// The block device.
    #[serde(flatten)]
    pub disk: Disk,
    /// Who uses it.
    pub users: Vec<Use>,
    /// What its contents begin with.
    pub signatures: Vec<Signature>,
    /// Why its contents could not be looked at.
    pub unreadable: Option<String>,
}

impl Usage {
    /// Finds out.
    pub fn of(host: &Host, disk: &Disk) -> Usage {
        let (mut signatures, mut unreadable) = (Vec::new(), None);
        for device in devices(disk) {
            match signature::find(&host.dev(device), device) {
                Ok(found) => signatures.extend(found),
                Err(error) => unreadable = Some(format!("{device}: {error}")),
            }
        }
        Usage { disk: disk.clone(), users: users(host, disk), signatures, unreadable }
    }

    /// Whether nobody uses it, and it holds nothing that is recognised.
    pub fn is_free(&self) -> bool {
        self.users.is_empty() && self.signatures.is_empty() && self.unreadable.is_none()
    }

    /// In words: who uses it and what it holds.
    pub fn describe(&self) -> Vec<String> {
        let users = self.users.iter().map(ToString::to_string);
        let contents = self.signatures.iter().map(ToString::to_string);
        let unknown = self.unreadable.iter().map(|why| format!("cannot be looked at: {why}"));
        users.chain(contents).chain(unknown).collect()
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Use::Mounted { device, path, filesystem } => {
                write!(f, "{device} is mounted at {path} ({filesystem})")
            }
            Use::Swap { device } => write!(f, "{device} is used as swap"),
            Use::Held { device, holder, by } => write!(f, "{device} is used by {holder} ({by})"),
            Use::Exclusive { device } => write!(f, "{device} is held open exclusively"),
        }
    }
}

/// The disk and its partitions.
fn devices(disk: &Disk) -> impl Iterator<Item = &str> {
    [disk.name.as_str()].into_iter().chain(disk.partitions.iter().map(String::as_str))
}

fn users(host: &Host, disk: &Disk) -> Vec<Use> {
    let mounts = fs::read_to_string(host.proc("self/mountinfo")).unwrap_or_default();
    let swaps = fs::read_to_string(host.proc("swaps")).unwrap_or_default();
    let mut found = Vec::new();
    for device in devices(disk) {
        let folder = match device == disk.name {
            true => host.sys("block").join(device),
            false => host.sys("block").join(&disk.name).join(device),
        };
        let number = text(folder.join("dev")).unwrap_or_default();
        found.extend(mounts.lines().filter_map(|line| mount(line, device, &number)));
        if swaps.lines().skip(1).any(|line| is_node(&unescape(first_word(line)), device)) {
            found.push(Use::Swap { device: device.to_owned() });
        }
        for holder in names(folder.join("holders")) {
            let by = owner_of(host, &holder);
            found.push(Use::Held { device: device.to_owned(), holder, by });
        }
    }
    found
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

fn is_node(path: &str, device: &str) -> bool {
    Path::new(path).parent() == Some(Path::new("/dev"))
        && Path::new(path).file_name().is_some_and(|name| name == device)
}

/// A line of mountinfo (proc_pid_mountinfo(5)), if it is of this device: by number, or by the name of what is mounted, since
/// btrfs has numbers of its own.
fn mount(line: &str, device: &str, number: &str) -> Option<Use> {
    let (before, behind) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let (found, path) = (*before.get(2)?, *before.get(4)?);
    let mut behind = behind.split(' ');
    let (filesystem, source) = (behind.next()?, behind.next()?);
    let is_it = (!number.is_empty() && found == number) || is_node(&unescape(source), device);
    is_it.then(|| Use::Mounted {
        device: device.to_owned(),
        path: unescape(path),
        filesystem: filesystem.to_owned(),
    })
}

/// Undoes the kernel's octal escapes of spaces and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let octal = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                (bytes, rest) = (
                    {
                        bytes.push(value);
                        bytes
                    },
                    &behind[3..],
                )
            }
            _ => {
                (bytes, rest) = (
                    {
                        bytes.push(byte);
                        bytes
                    },
                    behind,
                )
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whose a device is that lies on another: by device-mapper's uuid, or by its name.
fn owner_of(host: &Host, holder: &str) -> String {
    let folder = host.sys("block").join(holder);
    let name = text(folder.join("dm/name")).unwrap_or_default();
    let uuid = text(folder.join("dm/uuid")).unwrap_or_default();
    match uuid.split('-').next().unwrap_or_default() {
        "LVM" => format!("LVM, {name}"),
        "CRYPT" => format!("dm-crypt, {name}"),
        "mpath" => format!("device-mapper multipath, {name}"),
        _ if !name.is_empty() => format!("device mapper, {name}"),
        _ if holder.starts_with("md") => "MD".to_owned(),
        _ if holder.starts_with("bcache") => "bcache".to_owned(),
        _ => "the kernel".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let ext4 = r"36 35 259:2 / /mnt/a\040b rw,noatime shared:1 - ext4 /dev/root rw";
        let btrfs = "37 35 0:31 /sub /data rw - btrfs /dev/nvme0n1p2 rw";
        let found = mount(ext4, "nvme0n1p1", "259:2").expect("by number");
        assert_eq!(found.to_string(), "nvme0n1p1 is mounted at /mnt/a b (ext4)");
        assert!(mount(btrfs, "nvme0n1p2", "259:3").is_some());
        assert_eq!(mount(btrfs, "nvme0n1p1", "259:2"), None);
        assert_eq!(mount("nonsense", "nvme0n1", ""), None);
        assert_eq!(mount(ext4, "nvme0n1", ""), None, "an unknown number is none");
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"\9\04"), r"\9\04");
    }
}
