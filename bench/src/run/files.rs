//! Makes the files of a job ready, as fio does: what is to be read and is not there is written, what is to be written
//! gets its length. Nothing that a file holds already is touched.
//!
//! Invariant: preparing twice changes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use corelane_drivers::file::{FileDriver, FileOptions};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

use super::devices;
use super::error::RunError;
use super::region::Present;
use crate::options::{Access, JobSpec, LockingMode};
use crate::workload::job_seed;

/// How much is written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What a job needs of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The file's length at least.
    pub length_bytes: u64,
    /// Whether it is read, so that holes will not do.
    pub data: bool,
    /// Whether it may be made or made longer.
    pub may_change: bool,
    /// How an image that is made longer is guarded meanwhile.
    pub locking: LockingMode,
}

impl Need {
    /// Of a job whose region needs a file of `length_bytes`. `locking`: what the whole run asks for.
    pub fn of(spec: &JobSpec, length_bytes: u64, locking: LockingMode) -> Need {
        let only_checks = spec.verify.as_ref().is_some_and(|verify| verify.only);
        Need { length_bytes, data: spec.workload.rw.uses(Access::Read), may_change: !only_checks, locking }
    }
}

/// What is there under `path`.
///
/// # Errors
/// [`RunError::File`] when the system does not tell, and when it is neither a regular file nor a block device.
pub fn look(path: &Path) -> Result<Present, RunError> {
    let failed = |source, hint| RunError::File { what: "use", path: path.into(), source, hint };
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Present { length_bytes: None, can_grow: true });
        }
        Err(error) => return Err(failed(error, "")),
    };
    if meta.file_type().is_block_device() {
        let length = File::open(path).and_then(|mut device| device.seek(SeekFrom::End(0)));
        let length_bytes = Some(length.map_err(|error| failed(error, ""))?);
        return Ok(Present { length_bytes, can_grow: false });
    }
    if meta.is_file() {
        return Ok(Present { length_bytes: Some(meta.len()), can_grow: true });
    }
    let kind = if meta.is_dir() { io::ErrorKind::IsADirectory } else { io::ErrorKind::InvalidInput };
    Err(failed(kind.into(), "; filename= takes regular files and block devices"))
}

/// Makes the file at `path` fit `need`. Stops early, with what is done so far, when `stop` is set. `tell` is called
/// with the number of bytes that are going to be written, before that begins.
///
/// The image is locked as by one who writes it, from before it is changed until it has its length.
///
/// # Errors
/// [`RunError::Block`] when another program uses the image, [`RunError::File`] for whatever the system refuses,
/// [`RunError::Size`] for a file that may not be changed and is too short.
pub fn prepare(path: &Path, need: Need, stop: &AtomicBool, tell: impl FnOnce(u64)) -> Result<(), RunError> {
    let present = look(path)?;
    let length = present.length_bytes.unwrap_or(0);
    if !present.can_grow || length >= need.length_bytes {
        return Ok(());
    }
    if !need.may_change {
        return Err(RunError::Size {
            path: path.into(),
            what: format!("verify_only needs {} bytes, and the file has {length}", need.length_bytes),
            right: "run the job without verify_only first".into(),
        });
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(|source| {
        let missing = source.kind() == io::ErrorKind::NotFound;
        let hint = if missing { "; its directory must exist" } else { "" };
        RunError::File { what: "create", path: path.into(), source, hint }
    })?;
    // The driver locks what it opens; nothing is written through it.
    let _locked = FileDriver::open(&FileOptions::new(path).locking(devices::driver_locking(need.locking)))?;
    // Who had it until now may have made it longer.
    let length = look(path)?.length_bytes.unwrap_or(0);
    let done = if length >= need.length_bytes {
        Ok(())
    } else if need.data {
        tell(need.length_bytes - length);
        write_data(&file, length, need.length_bytes, stop)
    } else {
        extend(&file, length, need.length_bytes)
    };
    done.map_err(|source| {
        let full = source.kind() == io::ErrorKind::StorageFull;
        let hint = if full { "; give a smaller size, or a filename on a larger file system" } else { "" };
        RunError::File { what: "lay out", path: path.into(), source, hint }
    })
}

/// Gives the file its length, with space behind it where the file system can.
fn extend(file: &File, from: u64, to: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from, to - from) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(to),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes pseudo-random bytes, which no layer below can compress or deduplicate.
fn write_data(mut file: &File, from: u64, to: u64, stop: &AtomicBool) -> io::Result<()> {
    let mut chunk = vec![0u8; CHUNK_BYTES];
    file.seek(SeekFrom::Start(from))?;
    let mut at = from;
    while at < to && !stop.load(Relaxed) {
        let len = CHUNK_BYTES.min(usize::try_from(to - at).unwrap_or(CHUNK_BYTES));
        fill_random(&mut chunk[..len], at);
        file.write_all(&chunk[..len])?;
        at += len as u64;
    }
    // So that dropping the page cache drops these pages, and no write-back disturbs the measurement.
    file.sync_data()
}

/// Fills `bytes` with pseudo-random bytes that depend on `seed`.
pub fn fill_random(bytes: &mut [u8], seed: u64) {
    let mut state = job_seed(seed, 0) | 1;
    for word in bytes.chunks_mut(8) {
        // xorshift64 (Marsaglia): as fast as memory, and no two blocks alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

/// Drops a file's pages from the page cache. Best effort, as in fio: a file system that does not do it is none of the
/// job's failures.
pub fn drop_cached_pages(path: &Path) {
    let dropped = File::open(path).and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
    if let Err(error) = dropped {
        tracing::warn!(path = %path.display(), %error, "the page cache was not dropped (invalidate)");
    }
}

/// Deletes a file that a job used, unless it is a device (`unlink`).
///
/// # Errors
/// [`RunError::File`] when the system refuses.
pub fn unlink(path: &Path) -> Result<(), RunError> {
    let failed = |source| RunError::File { what: "delete", path: path.into(), source, hint: "" };
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => fs::remove_file(path).map_err(failed),
        // Another clone was faster, or it is a device.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static RUN_ON: AtomicBool = AtomicBool::new(false);

    fn need(length_bytes: u64, data: bool) -> Need {
        Need { length_bytes, data, may_change: true, locking: LockingMode::Auto }
    }

    #[test]
    fn an_image_that_another_uses_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"theirs").unwrap();
        let other = FileDriver::open(&FileOptions::new(&path)).unwrap();
        for data in [true, false] {
            let error = prepare(&path, need(1 << 20, data), &RUN_ON, |_| panic!("it must not begin"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("lock"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"theirs");
        }
        let unguarded = Need { locking: LockingMode::Off, ..need(4096, false) };
        prepare(&path, unguarded, &RUN_ON, |_| ()).unwrap();
        drop(other);
        prepare(&path, need(8192, true), &RUN_ON, |_| ()).unwrap();
        prepare(&path, need(1 << 20, true), &RUN_ON, |_| ()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_to_read_is_written_and_keeps_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"old").unwrap();
        let mut told = 0;
        prepare(&path, need(3 << 20, true), &RUN_ON, |bytes| told = bytes).unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(told, (3 << 20) - 3);
        assert_eq!((content.len(), &content[..3]), (3 << 20, &b"old"[..]));
        let zeroes = content.iter().filter(|&&byte| byte == 0).count();
        assert!(zeroes < content.len() / 200, "{zeroes} zeroes");
        assert_ne!(content[4096..8192], content[(1 << 20) + 4096..(1 << 20) + 8192]);
        prepare(&path, need(1 << 20, true), &RUN_ON, |_| panic!("nothing is missing")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
    }

    #[test]
    fn a_file_to_write_only_gets_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        prepare(&path, need(12_345, false), &RUN_ON, |_| panic!("no data is needed")).unwrap();
        assert_eq!(look(&path).unwrap(), Present { length_bytes: Some(12_345), can_grow: true });
        assert!(fs::read(&path).unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_cannot_be_is_said_with_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere/f");
        let error = prepare(&path, need(1, true), &RUN_ON, |_| ()).unwrap_err().to_string();
        assert!(error.contains("nowhere/f") && error.contains("directory must exist"), "{error}");
        let error = look(dir.path()).unwrap_err().to_string();
        assert!(error.contains("regular files and block devices"), "{error}");
        let missing = dir.path().join("f");
        let only = Need { may_change: false, ..need(4096, true) };
        let error = prepare(&missing, only, &RUN_ON, |_| ()).unwrap_err().to_string();
        assert!(error.contains("verify_only needs 4096 bytes"), "{error}");
        assert!(!missing.exists());
    }

    #[test]
    fn unlink_takes_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"x").unwrap();
        unlink(&path).unwrap();
        unlink(&path).unwrap();
        unlink(dir.path()).unwrap();
        assert!(!path.exists() && dir.path().exists());
    }
}
