//! Length, allocation and holes of an open file. Everything here may block and belongs to the control plane.

use std::io;
use std::os::fd::BorrowedFd;

use corelane_engine::block::{BlockStatus, StatusFlags};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::probe::FileKind;

/// The unit of `st_blocks` (`stat(2)`), whatever the file system's block size.
const STAT_BLOCK_BYTES: u64 = 512;

/// The length in bytes: a regular file's size, a device's capacity.
///
/// # Errors
/// What the kernel says.
pub fn length(fd: BorrowedFd<'_>, kind: FileKind) -> io::Result<u64> {
    match kind {
        FileKind::Regular => Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0)),
        // The capacity of a block device is where its end is; the position itself is used by nobody.
        FileKind::Block => Ok(rustix::fs::seek(fd, SeekFrom::End(0))?),
    }
}

/// How many bytes of storage it occupies. A block device occupies itself.
///
/// # Errors
/// What the kernel says.
pub fn allocated(fd: BorrowedFd<'_>, kind: FileKind) -> io::Result<u64> {
    match kind {
        FileKind::Regular => {
            Ok(u64::try_from(rustix::fs::fstat(fd)?.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK_BYTES))
        }
        FileKind::Block => length(fd, kind),
    }
}

/// Whether data or a hole begins at `offset`, and how far it goes, looking at most `bytes` ahead.
///
/// A hole reads as zeroes. Where holes cannot be asked for (block devices, some file systems) everything is data, which is
/// never wrong. Beyond the end of the file everything is hole.
///
/// # Errors
/// What the kernel says, apart from what means "cannot tell".
pub fn status(fd: BorrowedFd<'_>, kind: FileKind, offset: u64, bytes: u64) -> io::Result<BlockStatus> {
    let data = |bytes| Ok(BlockStatus { flags: StatusFlags::DATA, bytes });
    let hole = |bytes| Ok(BlockStatus { flags: StatusFlags::ZERO, bytes });
    if kind == FileKind::Block || bytes == 0 {
        return data(bytes);
    }
    match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(start) if start > offset => return hole(bytes.min(start - offset)),
        Ok(_) => {}
        // No data from here on.
        Err(Errno::NXIO) => return hole(bytes),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return data(bytes),
        Err(errno) => return Err(errno.into()),
    }
    match rustix::fs::seek(fd, SeekFrom::Hole(offset)) {
        Ok(end) if end > offset => data(bytes.min(end - offset)),
        // Somebody punched or cut it between the two questions; the next look will tell.
        Ok(_) | Err(Errno::NXIO) => data(bytes.min(1)),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => data(bytes),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// 64 KiB of hole, 64 KiB of data, 64 KiB of hole.
    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(192 << 10).unwrap();
        file.write_all_at(&[7; 64 << 10], 64 << 10).unwrap();
        file
    }

    #[allow(clippy::print_stdout)] // The line is for whoever runs the tests.
    fn skip() {
        println!("SKIPPED: kernel: the file system of the temporary folder knows no holes");
    }

    fn at(file: &File, offset: u64, bytes: u64) -> (StatusFlags, u64) {
        let status = status(file.as_fd(), FileKind::Regular, offset, bytes).unwrap();
        (status.flags, status.bytes)
    }

    #[test]
    fn holes_and_data_are_told_apart() {
        let file = sparse();
        if at(&file, 0, 1 << 20) == (StatusFlags::DATA, 1 << 20) {
            skip();
            return;
        }
        assert_eq!(at(&file, 0, 1 << 20), (StatusFlags::ZERO, 64 << 10));
        assert_eq!(at(&file, 4096, 100), (StatusFlags::ZERO, 100));
        assert_eq!(at(&file, 64 << 10, 1 << 20), (StatusFlags::DATA, 64 << 10));
        assert_eq!(at(&file, (64 << 10) + 1, 10), (StatusFlags::DATA, 10));
        assert_eq!(at(&file, 128 << 10, 64 << 10), (StatusFlags::ZERO, 64 << 10));
        assert_eq!(at(&file, 1 << 30, 5), (StatusFlags::ZERO, 5));
        assert_eq!(at(&file, 0, 0).1, 0);
    }

    #[test]
    fn length_and_allocation() {
        let file = sparse();
        assert_eq!(length(file.as_fd(), FileKind::Regular).unwrap(), 192 << 10);
        let allocated = allocated(file.as_fd(), FileKind::Regular).unwrap();
        assert!((64 << 10..192 << 10).contains(&allocated), "{allocated}");
    }
}
