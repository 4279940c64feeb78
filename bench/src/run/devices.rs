//! The devices of a run: each path is opened once for all lanes that open it alike, so that the block layer sees all of
//! their requests and serialises those that are not aligned.
//!
//! Image locks are per open file, so that two opens of one file in this process would exclude each other. They guard
//! against other programs, not against our own jobs; so the first open of a path takes them, with the access that the
//! whole run needs, and further opens (with other options, such as another cache mode) take none. The first stays open
//! until nobody in the run uses the path any more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use corelane_drivers::file::{CacheMode as FileCache, DiscardMode, FileDriver, FileOptions, Locking, SqPoll};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_drivers::null::{NullDriver, NullOptions};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver, BlockError};

use super::error::RunError;
use crate::options::{Access, CacheMode, EngineKind, JobSpec, LockingMode};

/// What a run does with a path, over all its jobs.
#[derive(Clone, Copy, Debug, Default)]
struct PathUse {
    written: bool,
    locking: Option<LockingMode>,
}

/// The devices of a run.
#[derive(Default)]
pub struct Devices {
    uses: HashMap<PathBuf, PathUse>,
    open: Mutex<HashMap<DeviceKey, Weak<OpenPath>>>,
}

/// What two opens must have in common to see the same bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum DeviceKey {
    File(PathBuf),
    /// A device in memory belongs to a job, and to one name in it.
    Memory(EngineKindKey, usize, PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum EngineKindKey {
    Null,
    Mem,
}

/// A path that is open, once for each set of options.
#[derive(Default)]
struct OpenPath {
    backends: Mutex<Vec<(Option<FileOptions>, BlockBackend)>>,
}

/// A lane's share in an open device. The path's locks are held as long as there is one.
#[derive(Clone)]
pub struct Device {
    /// The device.
    pub backend: BlockBackend,
    /// What it was opened by.
    pub path: PathBuf,
    _path: Arc<OpenPath>,
}

impl Devices {
    /// Notes what all jobs do with their paths, before the first is opened.
    pub fn new(jobs: &[JobSpec]) -> Devices {
        let mut uses: HashMap<PathBuf, PathUse> = HashMap::new();
        for job in jobs.iter().filter(|job| job.target.engine == EngineKind::IoUring) {
            let paths = (0..job.num_jobs).flat_map(|clone| job.file_paths(clone));
            for path in paths {
                let known = uses.entry(identity(&path)).or_default();
                known.written |= writes(job);
                known.locking = Some(stricter(known.locking, job.target.locking));
            }
        }
        Devices { uses, open: Mutex::default() }
    }

    /// Opens `path` as job number `job` of the run wants it, or joins those who have it open. `length_bytes` is the
    /// length of a device in memory.
    ///
    /// # Errors
    /// What the driver says.
    pub fn open(
        &self,
        spec: &JobSpec,
        job: usize,
        path: &Path,
        length_bytes: u64,
    ) -> Result<Device, RunError> {
        let key = match spec.target.engine {
            EngineKind::IoUring => DeviceKey::File(identity(path)),
            EngineKind::Null => DeviceKey::Memory(EngineKindKey::Null, job, path.into()),
            EngineKind::Mem => DeviceKey::Memory(EngineKindKey::Mem, job, path.into()),
        };
        let mut open = lock(&self.open);
        open.retain(|_, path| path.strong_count() > 0);
        let shared = open.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        open.insert(key, Arc::downgrade(&shared));
        drop(open);
        let mut backends = lock(&shared.backends);
        let wanted = self.file_options(spec, path, backends.is_empty());
        let found = backends.iter().find(|(options, _)| alike(options.as_ref(), wanted.as_ref()));
        let backend = match found {
            Some((_, backend)) => backend.clone(),
            None => {
                let driver = open_driver(spec.target.engine, wanted.as_ref(), length_bytes)?;
                let options =
                    BackendOptions { name: path.display().to_string(), ..BackendOptions::default() };
                let backend = BlockBackend::new(driver, options)?;
                backends.push((wanted, backend.clone()));
                backend
            }
        };
        drop(backends);
        Ok(Device { backend, path: path.into(), _path: shared })
    }

    /// The driver's options, or `None` for a device in memory. `first`: nobody has the path open, so locks are taken.
    fn file_options(&self, spec: &JobSpec, path: &Path, first: bool) -> Option<FileOptions> {
        let target = &spec.target;
        if target.engine != EngineKind::IoUring {
            return None;
        }
        let known = self.uses.get(&identity(path)).copied().unwrap_or_default();
        let locking = if first { known.locking.unwrap_or(target.locking) } else { LockingMode::Off };
        let sqpoll = target.sq_thread.map(|thread| SqPoll { cpu: thread.cpu, ..SqPoll::default() });
        Some(
            FileOptions::new(path)
                .cache(file_cache(target.cache))
                .read_only(!known.written && !writes(spec))
                .locking(match locking {
                    LockingMode::Auto => Locking::Auto,
                    LockingMode::On => Locking::On,
                    LockingMode::Off => Locking::Off,
                })
                // What a job trims is to be deallocated.
                .discard(DiscardMode::Unmap)
                .iopoll(target.hipri)
                .sqpoll(sqpoll)
                .fixed_file(target.registered_files),
        )
    }
}

/// Whether two opens can be one: alike in all but locking, which concerns the first only.
fn alike(one: Option<&FileOptions>, other: Option<&FileOptions>) -> bool {
    let unlocked =
        |options: Option<&FileOptions>| options.cloned().map(|options| options.locking(Locking::Off));
    unlocked(one) == unlocked(other)
}

fn open_driver(
    engine: EngineKind,
    file: Option<&FileOptions>,
    length_bytes: u64,
) -> Result<Arc<dyn BlockDriver>, BlockError> {
    Ok(match (engine, file) {
        (EngineKind::IoUring, Some(options)) => Arc::new(FileDriver::open(options)?),
        (EngineKind::Mem, _) => {
            let size_bytes = usize::try_from(length_bytes).unwrap_or(usize::MAX);
            Arc::new(MemDriver::open(&MemOptions::new(size_bytes))?)
        }
        _ => Arc::new(NullDriver::open(&NullOptions { size_bytes: length_bytes, ..NullOptions::default() })?),
    })
}

fn file_cache(cache: CacheMode) -> FileCache {
    match cache {
        CacheMode::None => FileCache::None,
        CacheMode::Writeback => FileCache::Writeback,
        CacheMode::Writethrough => FileCache::Writethrough,
        CacheMode::Directsync => FileCache::Directsync,
        CacheMode::Unsafe => FileCache::Unsafe,
    }
}

/// Whether the job changes the file.
pub fn writes(spec: &JobSpec) -> bool {
    let only_checks = spec.verify.as_ref().is_some_and(|verify| verify.only);
    let rw = spec.workload.rw;
    !only_checks && (rw.uses(Access::Write) || rw.uses(Access::Trim))
}

fn stricter(known: Option<LockingMode>, new: LockingMode) -> LockingMode {
    match (known, new) {
        (Some(LockingMode::On), _) | (_, LockingMode::On) => LockingMode::On,
        (Some(LockingMode::Auto), _) | (_, LockingMode::Auto) => LockingMode::Auto,
        _ => LockingMode::Off,
    }
}

/// One name for all names of a file: two names of one file must not be opened as two.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| std::path::absolute(path).unwrap_or_else(|_| path.into()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole at every moment, so that a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
