//! The devices of a run: each path is opened once for all lanes that open it alike, so that the block layer sees all of
//! their requests and serialises those that are not aligned.
//!
//! Image locks are per open file, so that two opens of one file in this process would exclude each other. They guard
//! against other programs, not against our own jobs; so the first open of a path takes them, with the access that the
//! whole run needs, and further opens (with other options, such as another cache mode) take none. The first stays open
//! until nobody in the run uses the path any more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use corelane_dma::Backing;
use corelane_drivers::file::{CacheMode as FileCache, DiscardMode, FileDriver, FileOptions, Locking, SqPoll};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_drivers::null::{NullDriver, NullOptions};
use corelane_drivers::nvme::NvmeController;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::uring::{NvmeUringDriver, NvmeUringOptions};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver, BlockError};

use super::error::RunError;
use super::nvme::{Controllers, placement};
use crate::options::{Access, CacheMode, CompletionPolling, EngineKind, JobSpec, LockingMode};

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
    controllers: Controllers,
}

/// What two opens must have in common to see the same bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum DeviceKey {
    File(PathBuf),
    /// A device in memory belongs to a job, and to one name in it.
    Memory(EngineKindKey, usize, PathBuf),
    Nvme(PathBuf),
    NvmeUring(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum EngineKindKey {
    Null,
    Mem,
}

/// A path that is open, once for each set of options.
#[derive(Default)]
struct OpenPath {
    backends: Mutex<Vec<(Wanted, BlockBackend, Option<Backing>)>>,
    zones: Arc<AtomicBool>,
}

/// How a job wants its device.
#[derive(Clone, PartialEq)]
enum Wanted {
    Memory,
    File(FileOptions),
    Nvme(CompletionPolling, Option<Vec<u16>>),
    /// With IOPOLL or without.
    NvmeUring(bool, Option<Vec<u16>>),
}

impl Wanted {
    /// Whether two opens can be one: alike in all but locking, which concerns the first only.
    fn is_like(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::File(one), Wanted::File(other)) => {
                one.clone().locking(Locking::Off) == other.clone().locking(Locking::Off)
            }
            _ => self == other,
        }
    }
}

/// A lane's share in an open device. The path's locks are held as long as there is one.
#[derive(Clone)]
pub struct Device {
    /// The device.
    pub backend: BlockBackend,
    /// What it was opened by.
    pub path: PathBuf,
    /// The kind of memory that the device can reach, where not any will do. I/O on memory that is registered with it needs no
    /// copy.
    pub memory: Option<Backing>,
    /// The controller of a namespace that is driven from user space, and which that is.
    pub controller: Option<(Arc<NvmeController>, Nsid)>,
    /// Whether a lane writes to its zones.
    pub zones: Arc<AtomicBool>,
    _path: Arc<OpenPath>,
}

impl Devices {
    /// Notes what all jobs do with their paths, before the first is opened.
    pub fn new(jobs: &[JobSpec]) -> Devices {
        let mut uses: HashMap<PathBuf, PathUse> = HashMap::new();
        let lasting = |job: &&JobSpec| {
            matches!(job.target.engine, EngineKind::IoUring | EngineKind::Nvme | EngineKind::NvmeUring)
        };
        for job in jobs.iter().filter(lasting) {
            let paths = (0..job.num_jobs).flat_map(|clone| job.file_paths(clone));
            for path in paths {
                let known = uses.entry(place(job, &path)).or_default();
                known.written |= writes(job);
                known.locking = Some(stricter(known.locking, job.target.locking));
            }
        }
        Devices { uses, open: Mutex::default(), controllers: Controllers::default() }
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
            EngineKind::Nvme => DeviceKey::Nvme(path.into()),
            EngineKind::NvmeUring => DeviceKey::NvmeUring(identity(path)),
        };
        let mut open = lock(&self.open);
        open.retain(|_, path| path.strong_count() > 0);
        let shared = open.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        open.insert(key, Arc::downgrade(&shared));
        drop(open);
        let mut backends = lock(&shared.backends);
        let wanted = match spec.target.engine {
            EngineKind::IoUring => Wanted::File(self.file_options(spec, path, backends.is_empty())),
            EngineKind::Nvme => Wanted::Nvme(spec.target.polling, spec.target.placement.clone()),
            EngineKind::NvmeUring => Wanted::NvmeUring(spec.target.hipri, spec.target.placement.clone()),
            EngineKind::Null | EngineKind::Mem => Wanted::Memory,
        };
        let found = backends.iter().find(|(options, ..)| options.is_like(&wanted));
        let (backend, memory) = match found {
            Some((_, backend, memory)) => (backend.clone(), *memory),
            None => {
                let (driver, memory) = self.open_driver(spec, path, &wanted, length_bytes)?;
                let options =
                    BackendOptions { name: path.display().to_string(), ..BackendOptions::default() };
                let backend = BlockBackend::new(driver, options)?;
                backends.push((wanted, backend.clone(), memory));
                (backend, memory)
            }
        };
        drop(backends);
        let controller = match spec.target.engine {
            EngineKind::Nvme => Some(self.controllers.controller(spec, &path.to_string_lossy())?),
            _ => None,
        };
        let zones = Arc::clone(&shared.zones);
        Ok(Device { backend, path: path.into(), memory, controller, zones, _path: shared })
    }

    /// The length of a namespace in bytes. Starts its controller, if nobody has and the kernel does not drive it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn namespace_bytes(&self, spec: &JobSpec, path: &Path) -> Result<u64, RunError> {
        if spec.target.engine == EngineKind::NvmeUring {
            let options = NvmeUringOptions { read_only: true, ..NvmeUringOptions::new(path) };
            return Ok(NvmeUringDriver::open(&options)?.length()?);
        }
        Ok(self.controllers.open(spec, &path.to_string_lossy(), true)?.length()?)
    }

    /// The driver, and the kind of memory that it is to be given.
    fn open_driver(
        &self,
        spec: &JobSpec,
        path: &Path,
        wanted: &Wanted,
        length_bytes: u64,
    ) -> Result<(Arc<dyn BlockDriver>, Option<Backing>), BlockError> {
        Ok(match (spec.target.engine, wanted) {
            (EngineKind::IoUring, Wanted::File(options)) => (Arc::new(FileDriver::open(options)?), None),
            (EngineKind::Nvme, _) => {
                let read_only = !self.uses.get(path).is_some_and(|known| known.written);
                let driver = self.controllers.open(spec, &path.to_string_lossy(), read_only)?;
                let memory = driver.controller().bus().backing();
                (Arc::new(driver), Some(memory))
            }
            (EngineKind::NvmeUring, _) => {
                let read_only = !self.uses.get(&identity(path)).is_some_and(|known| known.written);
                let options = NvmeUringOptions {
                    filename: path.into(),
                    read_only,
                    placement: placement(spec),
                    iopoll: spec.target.hipri,
                };
                (Arc::new(NvmeUringDriver::open(&options)?), None)
            }
            (EngineKind::Mem, _) => {
                let size_bytes = usize::try_from(length_bytes).unwrap_or(usize::MAX);
                (Arc::new(MemDriver::open(&MemOptions::new(size_bytes))?), None)
            }
            _ => {
                let options = NullOptions { size_bytes: length_bytes, ..NullOptions::default() };
                (Arc::new(NullDriver::open(&options)?), None)
            }
        })
    }

    /// How `path` is locked: as strictly as the strictest job that uses it asks for.
    pub fn locking(&self, spec: &JobSpec, path: &Path) -> LockingMode {
        self.uses.get(&identity(path)).and_then(|known| known.locking).unwrap_or(spec.target.locking)
    }

    /// The driver's options for a file. `first`: nobody has the path open, so locks are taken.
    fn file_options(&self, spec: &JobSpec, path: &Path, first: bool) -> FileOptions {
        let target = &spec.target;
        let known = self.uses.get(&identity(path)).copied().unwrap_or_default();
        let locking = if first { self.locking(spec, path) } else { LockingMode::Off };
        let sqpoll = target.sq_thread.map(|thread| SqPoll { cpu: thread.cpu, ..SqPoll::default() });
        FileOptions::new(path)
            .cache(file_cache(target.cache))
            .read_only(!known.written && !writes(spec))
            .locking(driver_locking(locking))
            // What a job trims is to be deallocated.
            .discard(DiscardMode::Unmap)
            .iopoll(target.hipri)
            .sqpoll(sqpoll)
            .fixed_file(target.registered_files)
    }
}

/// The driver's word for how images are locked.
pub fn driver_locking(locking: LockingMode) -> Locking {
    match locking {
        LockingMode::Auto => Locking::Auto,
        LockingMode::On => Locking::On,
        LockingMode::Off => Locking::Off,
    }
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

/// What a path of a job stands for in the books of the run.
fn place(spec: &JobSpec, path: &Path) -> PathBuf {
    if spec.target.engine == EngineKind::Nvme { path.into() } else { identity(path) }
}

/// One name for all names of a file, whether it exists already or not: two names of one file must not be opened as two.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
            (Some(Ok(parent)), Some(name)) => parent.join(name),
            _ => absolute,
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole at every moment, so that a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{GlobalSpec, Plan, parse_job_text};

    fn plan(dir: &Path, jobs: &str) -> Plan {
        let text = format!("[global]\nsize=64k\ndirectory={}\n{jobs}", dir.display());
        parse_job_text(Path::new("test"), &text, &GlobalSpec::default()).unwrap()
    }

    #[test]
    fn a_path_is_opened_once_for_all_that_open_it_alike() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), vec![0; 65_536]).unwrap();
        let jobs =
            "[w]\nfilename=f\nrw=write\n[r]\nfilename=./f\nrw=read\n[s]\nfilename=f\nrw=read\ncache=unsafe\n";
        let plan = plan(dir.path(), jobs);
        let devices = Devices::new(&plan.jobs);
        let open = |job: usize| {
            let spec = &plan.jobs[job];
            devices.open(spec, job, &spec.file_paths(0)[0], 65_536).unwrap()
        };
        let [first, second, third] = [open(0), open(1), open(2)];
        assert!(Arc::ptr_eq(&first._path, &second._path) && Arc::ptr_eq(&first._path, &third._path));
        assert_eq!(first._path.backends.lock().unwrap().len(), 2, "the third has another cache mode");
        assert!(!second.backend.read_only(), "one that only reads shares with one that writes");
        let path = Arc::downgrade(&first._path);
        drop((first, second));
        assert_eq!(path.strong_count(), 1, "the locks stay while anybody has the path open");
        drop(third);
        assert_eq!(path.strong_count(), 0);
    }

    #[test]
    fn who_only_reads_opens_for_reading() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), vec![0; 65_536]).unwrap();
        let plan = plan(dir.path(), "[r]\nfilename=f\nrw=read\n");
        let devices = Devices::new(&plan.jobs);
        let device = devices.open(&plan.jobs[0], 0, &plan.jobs[0].file_paths(0)[0], 0).unwrap();
        assert!(device.backend.read_only());
    }

    #[test]
    fn devices_in_memory_belong_to_their_job() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(
            dir.path(),
            "[a]\nioengine=mem\nfilename=f\nrw=write\n[b]\nioengine=mem\nfilename=f\nrw=write\n",
        );
        let devices = Devices::new(&plan.jobs);
        let open = |job: usize| devices.open(&plan.jobs[job], job, Path::new("f"), 65_536).unwrap();
        let [first, again, other] = [open(0), open(0), open(1)];
        assert!(Arc::ptr_eq(&first._path, &again._path));
        assert!(!Arc::ptr_eq(&first._path, &other._path));
        assert_eq!(first.backend.length(), 65_536);
    }

    #[test]
    fn a_file_has_one_identity_before_and_after_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        let path = dir.path().join("link/f");
        let before = identity(&path);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(identity(&path), before);
        assert_eq!(identity(&dir.path().join("f")), before);
    }
}
