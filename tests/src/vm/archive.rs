//! An initramfs as the kernel reads it: a cpio archive of the kind "newc" (`Documentation/driver-api/early-userspace/
//! buffer-format.rst` of Linux), not compressed, since unpacking costs an emulated processor more than reading.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TRAILER: &str = "TRAILER!!!";

/// An archive that is being written.
pub struct Archive<W: Write> {
    out: W,
    next_inode: u32,
    folders: std::collections::BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty archive that goes to `out`.
    pub fn new(out: W) -> Archive<W> {
        Archive { out, next_inode: 1, folders: std::collections::BTreeSet::new() }
    }

    /// Adds a folder, and those above it. `path` has no slash in front.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let folder = &path[..end];
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that may be run, and the folders above it. `path` has no slash in front.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        self.entry(path, PROGRAM, content)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let len =
            u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{name} is too long")))?;
        let inode = self.next_inode;
        self.next_inode += 1;
        let name_len = name.len() as u32 + 1;
        // inode, mode, uid, gid, links, mtime, length, device (2), device of a node (2), length of the name, checksum.
        let fields = [inode, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        write!(self.out, "{name}\0")?;
        self.pad(6 + 8 * fields.len() + name_len as usize)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Everything begins at a multiple of 4.
    fn pad(&mut self, len: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..len.next_multiple_of(4) - len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_folders_made_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/file", b"12345").unwrap();
        archive.file("a/b/other", b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(starts.iter().all(|at| at % 4 == 0));
        let names: Vec<&str> = starts.iter().map(|at| text[at + 110..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/file", "a/b/other", TRAILER]);
        // The length of the file is the seventh field.
        assert_eq!(&text[starts[2] + 6 + 48..][..8], "00000005");
        assert!(text.contains("12345\0\0\x00070701"));
    }
}
