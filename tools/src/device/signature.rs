//! Signatures of file systems, partition tables and the like, for the question whether a device may be overwritten.
//!
//! What is found is a reason to refuse; so a table of places and bytes is enough, and nothing is verified further. The places
//! are those of each format's own description; libblkid knows the same and more.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Signature {
    /// The device or partition.
    pub device: String,
    /// What it is, with libblkid's name.
    pub name: &'static str,
    /// Where, in bytes from the start.
    pub offset_bytes: u64,
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} holds {} (found at byte {})", self.device, self.name, self.offset_bytes)
    }
}

/// How much of the start is looked at.
const HEAD_BYTES: usize = 264 << 10;

type Entry = (&'static str, usize, &'static [u8]);

/// Name, place, bytes.
const TABLE: &[Entry] = &[
    ("ext2/3/4", 0x438, b"\x53\xef"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x1_0040, b"_BHRfS_M"),
    ("f2fs", 0x400, b"\x10\x20\xf5\xf2"),
    ("erofs", 0x400, b"\xe2\xe1\xf5\xe0"),
    ("nilfs2", 0x406, b"\x34\x34"),
    ("bcache", 0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ("bcachefs", 0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    ("jfs", 0x8000, b"JFS1"),
    ("reiserfs", 0x1_0034, b"ReIsEr"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("vfat", 0x36, b"FAT12   "),
    ("vfat", 0x36, b"FAT16   "),
    ("vfat", 0x52, b"FAT32   "),
    ("hfsplus", 0x400, b"H+"),
    ("apfs", 32, b"NXSB"),
    ("iso9660", 0x8001, b"CD001"),
    ("udf", 0x8001, b"BEA01"),
    ("squashfs", 0, b"hsqs"),
    ("zonefs", 0, b"SFOZ"),
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    ("crypto_LUKS", 0x4000, b"SKUL\xba\xbe"),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("LVM2_member", 0x000, b"LABELONE"),
    ("LVM2_member", 0x200, b"LABELONE"),
    ("LVM2_member", 0x400, b"LABELONE"),
    ("LVM2_member", 0x600, b"LABELONE"),
    ("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9"),
    ("linux_raid_member", 0x1000, b"\xfc\x4e\x2b\xa9"),
    ("ceph_bluestore", 0, b"bluestore block device"),
    ("vdo", 0, b"dmvdo001"),
    ("blobstore", 0, b"SPDKBLOB"),
    ("gpt", 0x200, b"EFI PART"),
    ("gpt", 0x1000, b"EFI PART"),
    ("dos", 0x1fe, b"\x55\xaa"),
    ("swap", 0xff6, b"SWAPSPACE2"),
    ("swap", 0x1ff6, b"SWAPSPACE2"),
    ("swap", 0x3ff6, b"SWAPSPACE2"),
    ("swap", 0xfff6, b"SWAPSPACE2"),
    ("swap", 0xff6, b"SWAP-SPACE"),
    ("swsuspend", 0xff6, b"S1SUSPEND"),
];

/// ZFS: the ring of uberblocks fills the second half of each 256 KiB label; a place of it every KiB.
const ZFS_LABEL_BYTES: usize = 256 << 10;
const ZFS_RING: std::ops::Range<usize> = 128 << 10..ZFS_LABEL_BYTES;
const ZFS_MAGIC: u64 = 0x00ba_b10c;
const MD_MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";

/// What the contents of the device at `path` begin and end with. `device` is its name.
///
/// # Errors
/// Those of opening and reading.
pub fn find(path: &Path, device: &str) -> io::Result<Vec<Signature>> {
    let mut file = File::open(path)?;
    let size_bytes = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    (&file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let mut found = Vec::new();
    let mut note = |name: &'static str, offset_bytes: u64| {
        // A name once: copies of a header say nothing new.
        if !found.iter().any(|known: &Signature| known.name == name) {
            found.push(Signature { device: device.to_owned(), name, offset_bytes });
        }
    };
    for &(name, at, bytes) in TABLE {
        if head.get(at..).is_some_and(|rest| rest.starts_with(bytes)) {
            note(name, at as u64);
        }
    }
    if let Some(at) = zfs(&head) {
        note("zfs_member", at as u64);
    }
    for (name, at) in at_end(&file, size_bytes)? {
        note(name, at);
    }
    Ok(found)
}

fn zfs(label: &[u8]) -> Option<usize> {
    ZFS_RING.step_by(1024).find(|at| {
        let magic = label.get(*at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        magic.is_some_and(|magic| {
            u64::from_le_bytes(magic) == ZFS_MAGIC || u64::from_be_bytes(magic) == ZFS_MAGIC
        })
    })
}

/// What lies at a place counted from the end: the second partition table of GPT, MD's superblocks of versions 0.90 and 1.0,
/// the last label of ZFS.
fn at_end(file: &File, size_bytes: u64) -> io::Result<Vec<(&'static str, u64)>> {
    let starts = |at: Option<u64>, bytes: &[u8]| -> io::Result<Option<u64>> {
        let Some(at) = at else { return Ok(None) };
        let mut found = vec![0; bytes.len()];
        match file.read_exact_at(&mut found, at) {
            Ok(()) => Ok((found == bytes).then_some(at)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut found = Vec::new();
    for block_bytes in [512, 4096] {
        found.extend(starts(size_bytes.checked_sub(block_bytes), b"EFI PART")?.map(|at| ("gpt", at)));
    }
    let old = (size_bytes & !0xffff).checked_sub(0x1_0000);
    let new = size_bytes.checked_sub(0x2000).map(|at| at & !0xfff);
    for at in [old, new] {
        found.extend(starts(at, MD_MAGIC)?.map(|at| ("linux_raid_member", at)));
    }
    let label_bytes = ZFS_LABEL_BYTES as u64;
    if let Some(last) = (size_bytes & !(label_bytes - 1)).checked_sub(label_bytes) {
        let mut label = vec![0; ZFS_LABEL_BYTES];
        file.read_exact_at(&mut label, last)?;
        found.extend(zfs(&label).map(|at| ("zfs_member", last + at as u64)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SIZE_BYTES: u64 = 4 << 20;

    fn file(at: u64, bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE_BYTES).unwrap();
        file.as_file().write_all_at(bytes, at).unwrap();
        file
    }

    fn names(path: &Path) -> Vec<&'static str> {
        find(path, "d").unwrap().iter().map(|found| found.name).collect()
    }

    #[test]
    fn each_signature_is_found_in_its_place_and_only_there() {
        for &(name, at, bytes) in TABLE {
            assert_eq!(names(file(at as u64, bytes).path()), [name]);
            assert!(names(file(at as u64 + 1, bytes).path()).is_empty(), "{name}");
        }
        assert!(names(file(0, b"").path()).is_empty());
    }

    #[test]
    fn what_lies_at_the_end_is_found() {
        let magic = ZFS_MAGIC.to_le_bytes();
        for (name, at, bytes) in [
            ("gpt", SIZE_BYTES - 512, &b"EFI PART"[..]),
            ("gpt", SIZE_BYTES - 4096, b"EFI PART"),
            ("linux_raid_member", SIZE_BYTES - 0x1_0000, MD_MAGIC),
            ("linux_raid_member", SIZE_BYTES - 0x2000, MD_MAGIC),
            ("zfs_member", 130 << 10, &magic),
            ("zfs_member", SIZE_BYTES - 1024, &magic),
        ] {
            assert_eq!(names(file(at, bytes).path()), [name], "at {at}");
        }
    }

    #[test]
    fn a_device_shorter_than_any_signature_holds_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for len in [0, 1, 511, 512, 4096, 8192, 65_536] {
            file.as_file().set_len(len).unwrap();
            assert!(names(file.path()).is_empty(), "{len} bytes");
        }
    }

    /// Where the machine has the programs: what they make is found, and libblkid has the same name for it.
    #[test]
    fn what_others_make_is_found_as_libblkid_finds_it() {
        for (program, arguments) in [
            ("mkfs.ext4", &["-q", "-F"][..]),
            ("mkswap", &["-q"]),
            ("mkfs.xfs", &["-q", "-f"]),
            ("mkfs.btrfs", &["-q", "-f"]),
            ("mkfs.vfat", &[]),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(320 << 20).unwrap();
            let made = Command::new(program).args(arguments).arg(file.path()).output();
            if !made.is_ok_and(|output| output.status.success()) {
                continue;
            }
            let found = names(file.path());
            let blkid =
                Command::new("blkid").args(["-p", "-o", "value", "-s", "TYPE"]).arg(file.path()).output();
            let Ok(blkid) = blkid else { continue };
            let theirs = String::from_utf8_lossy(&blkid.stdout).trim().to_owned();
            let theirs = if theirs.starts_with("ext") { "ext2/3/4".to_owned() } else { theirs };
            assert!(found.contains(&theirs.as_str()), "{program}: {found:?}, but libblkid says {theirs}");
        }
    }
}
