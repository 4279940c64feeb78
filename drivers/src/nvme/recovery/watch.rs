//! [`Watched`]: a namespace that is open, and what becomes of it: it is resized, or it is not any more what was opened.
//!
//! Invariants:
//! - A namespace has failed for good once its format has changed or it has gone: no command is sent to it from then on, not
//!   even one that had been accepted, since the same numbers would mean other blocks.
//! - Whoever opens one is told of each change after that, in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use corelane_engine::block::{ChangeHook, DeviceChange, Errno, IoError};

use crate::nvme::spec::Nsid;
use crate::nvme::spec::namespace::{IdentifyNamespace, LbaFormat};

/// What of a namespace its commands rely on. The size is no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    data_shift: u8,
    metadata_bytes: u16,
    extended: bool,
    /// DPS: which protection is on.
    protection: u8,
}

impl Shape {
    /// Of what the controller says of a namespace, and of the format in use.
    pub fn of(identify: &IdentifyNamespace, format: LbaFormat) -> Shape {
        Shape {
            data_shift: format.data_shift,
            metadata_bytes: format.metadata_bytes.get(),
            extended: identify.extended_blocks(),
            protection: identify.dps,
        }
    }
}

/// See the module's documentation.
pub struct Watched {
    nsid: Nsid,
    shape: Shape,
    blocks: AtomicU64,
    failed: OnceLock<String>,
    hooks: Mutex<Vec<ChangeHook>>,
}

/// What a look at a namespace has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is as it was.
    Same,
    /// It has so many blocks now.
    Resized(u64),
    /// It is not what was opened, and why.
    Failed(String),
}

impl Watched {
    /// A namespace that was opened with this shape and so many blocks.
    pub fn new(nsid: Nsid, shape: Shape, blocks: u64) -> Arc<Watched> {
        let (blocks, failed, hooks) = (AtomicU64::new(blocks), OnceLock::new(), Mutex::default());
        Arc::new(Watched { nsid, shape, blocks, failed, hooks })
    }

    /// Its number.
    pub fn nsid(&self) -> Nsid {
        self.nsid
    }

    /// Its length in bytes now.
    pub fn length_bytes(&self) -> u64 {
        self.blocks.load(Ordering::Acquire) << self.shape.data_shift
    }

    /// How its requests end, if it is not any more what was opened.
    #[inline]
    pub fn failed(&self) -> Option<IoError> {
        self.failed.get().map(|_| Errno::ENODEV.into())
    }

    /// Has `hook` called at each change.
    pub fn on_change(&self, hook: ChangeHook) {
        let mut hooks = self.hooks();
        // With the list locked, so that a change is not told twice or not at all.
        if let Some(error) = self.failed() {
            hook(DeviceChange::Failed { error });
        }
        hooks.push(hook);
    }

    fn hooks(&self) -> MutexGuard<'_, Vec<ChangeHook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares it with what the controller says now; `None` if it has no such namespace.
    pub fn compare(&self, identify: Option<&IdentifyNamespace>) -> Found {
        // One that is not active is all zeroes (Base 5.17.2.1).
        let Some(identify) = identify.filter(|identify| identify.nsze.get() != 0) else {
            return Found::Failed("it is not there any more: detached or deleted".to_owned());
        };
        let shape = identify.format().map(|format| Shape::of(identify, format));
        if shape != Some(self.shape) {
            let words = |shape: Option<Shape>| match shape {
                Some(Shape { data_shift, metadata_bytes, protection, .. }) => format!(
                    "blocks of 2^{data_shift} bytes with {metadata_bytes} bytes of metadata and protection {protection}"
                ),
                None => "a format that it does not have".to_owned(),
            };
            let (now, before) = (words(shape), words(Some(self.shape)));
            return Found::Failed(format!("it has {now}, but was opened with {before}"));
        }
        match identify.nsze.get() {
            blocks if blocks == self.blocks.load(Ordering::Acquire) => Found::Same,
            blocks => Found::Resized(blocks),
        }
    }

    /// Takes over what was found, and tells of it. False if that was known.
    pub fn become_(&self, found: &Found) -> bool {
        let hooks = self.hooks();
        let change = match found {
            _ if self.failed().is_some() => return false,
            Found::Same => return false,
            Found::Resized(blocks) => {
                self.blocks.store(*blocks, Ordering::Release);
                DeviceChange::Resized { length_bytes: self.length_bytes() }
            }
            Found::Failed(reason) => {
                // Set under the lock alone.
                let _ = self.failed.set(reason.clone());
                DeviceChange::Failed { error: Errno::ENODEV.into() }
            }
        };
        hooks.iter().for_each(|hook| hook(change));
        true
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("nsid", &self.nsid)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// The open namespaces of a controller.
#[derive(Default)]
pub struct Watchlist {
    all: Mutex<Vec<Weak<Watched>>>,
    /// Counts looks, so that whoever opens a namespace knows whether one fell in between.
    looks: AtomicU64,
}

impl Watchlist {
    /// How many looks were begun.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// A look begins.
    pub fn begin_look(&self) {
        self.looks.fetch_add(1, Ordering::SeqCst);
    }

    /// One more. Those that were closed are forgotten.
    pub fn add(&self, watched: &Arc<Watched>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(watched));
    }

    /// Those that are open.
    pub fn open(&self) -> Vec<Arc<Watched>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn shape(identify: &IdentifyNamespace) -> Shape {
        Shape::of(identify, identify.formats[0])
    }

    fn identify(blocks: u64, data_shift: u8, metadata_bytes: u16) -> Box<IdentifyNamespace> {
        let mut identify = Box::new(IdentifyNamespace::new_zeroed());
        identify.nsze.set(blocks);
        identify.formats[0].data_shift = data_shift;
        identify.formats[0].metadata_bytes.set(metadata_bytes);
        identify
    }

    #[test]
    fn what_is_found_is_taken_over_and_told_once() {
        let opened = identify(100, 12, 0);
        let watched = Watched::new(Nsid(1), shape(&opened), 100);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        watched.on_change(Box::new(move |change| tell.lock().unwrap().push(change)));
        assert_eq!(watched.compare(Some(&opened)), Found::Same);
        let found = watched.compare(Some(&identify(50, 12, 0)));
        assert_eq!(found, Found::Resized(50));
        assert!(watched.become_(&found) && watched.length_bytes() == 50 * 4096);
        assert_eq!(watched.compare(Some(&identify(50, 12, 0))), Found::Same);
        for other in [Some(identify(400, 9, 0)), Some(identify(50, 12, 8)), Some(identify(0, 0, 0)), None] {
            assert!(matches!(watched.compare(other.as_deref()), Found::Failed(_)));
        }
        assert_eq!(watched.failed(), None);
        let found = watched.compare(None);
        assert!(
            watched.become_(&found) && !watched.become_(&found) && !watched.become_(&Found::Resized(100))
        );
        let error = IoError::from(Errno::ENODEV);
        assert_eq!(watched.failed(), Some(error));
        let expected = [DeviceChange::Resized { length_bytes: 50 * 4096 }, DeviceChange::Failed { error }];
        assert_eq!(*told.lock().unwrap(), expected);
        // Who comes too late for that is told at once.
        let tell = Arc::clone(&told);
        watched.on_change(Box::new(move |change| tell.lock().unwrap().push(change)));
        assert_eq!(told.lock().unwrap()[2..], [DeviceChange::Failed { error }]);
    }

    #[test]
    fn another_format_is_another_namespace() {
        let opened = identify(100, 12, 8);
        let watched = Watched::new(Nsid(1), shape(&opened), 100);
        let (mut extended, mut protected) = (identify(100, 12, 8), identify(100, 12, 8));
        (extended.flbas, protected.dps) = (1 << 4, 1);
        for other in [extended, protected] {
            assert!(matches!(watched.compare(Some(&other)), Found::Failed(_)));
        }
        assert_eq!(watched.compare(Some(&opened)), Found::Same);
    }

    #[test]
    fn closed_namespaces_are_forgotten() {
        let list = Watchlist::default();
        let shape = shape(&identify(1, 9, 0));
        let first = Watched::new(Nsid(1), shape, 1);
        list.add(&first);
        drop(first);
        assert!(list.open().is_empty());
        let second = Watched::new(Nsid(2), shape, 1);
        list.add(&second);
        assert_eq!((list.open().len(), list.all.lock().unwrap().len()), (1, 1));
    }
}
