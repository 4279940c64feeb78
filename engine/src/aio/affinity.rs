//! Which cores a thread may use, and pinning it to one.
//!
//! `core_affinity` pins but reports no errno, and its set cannot hold a core of 1,024 or more: both are checked here.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{AioError, CoreChoice};

/// The cores that the process could use when first asked, before any lane was pinned.
fn process_cores() -> Option<&'static CpuSet> {
    static CORES: OnceLock<Option<CpuSet>> = OnceLock::new();
    CORES.get_or_init(|| sched_getaffinity(Some(getpid())).ok()).as_ref()
}

fn list(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Writes a sorted list of cores as ranges: `0-3,8`.
fn ranges(cores: &[usize]) -> String {
    let runs = cores.chunk_by(|one, next| one + 1 == *next);
    let texts = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(usize::to_string).collect(),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// The cores that the process may use, in ascending order; empty if the kernel does not say.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    process_cores().map(list).unwrap_or_default()
}

/// Pins the calling thread to one core.
///
/// # Errors
/// [`AioError::Core`], which names the core and those that may be used.
pub fn pin_current_thread(core: usize) -> Result<(), AioError> {
    let allowed = allowed_cores();
    let set = core < CpuSet::MAX_CPU && core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let pinned = set && sched_getaffinity(None).is_ok_and(|now| now.is_set(core) && now.count() == 1);
    if pinned { Ok(()) } else { Err(AioError::Core { core, allowed: ranges(&allowed) }) }
}

/// Lets the calling thread use all cores of the process, whatever the thread that made it was pinned to.
pub fn unpin_current_thread() {
    if let Some(cores) = process_cores() {
        // Only a worse distribution if the kernel refuses.
        let _ = sched_setaffinity(None, cores);
    }
}

impl CoreChoice {
    /// The core that is meant. Each call with [`CoreChoice::Any`] gives the next one.
    pub(super) fn pick(self) -> Option<usize> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        match self {
            Self::Given(core) => Some(core),
            Self::Any => {
                let cores = allowed_cores();
                let turn = NEXT.fetch_add(1, Ordering::Relaxed);
                turn.checked_rem(cores.len()).map(|index| cores[index])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }

    #[test]
    fn pinning_takes_effect_or_names_the_core() {
        let core = *allowed_cores().last().unwrap();
        std::thread::spawn(move || {
            pin_current_thread(core).unwrap();
            assert_eq!(list(&sched_getaffinity(None).unwrap()), [core]);
            unpin_current_thread();
            assert_eq!(list(&sched_getaffinity(None).unwrap()), allowed_cores());
            for absent in [1023, 1024, usize::MAX] {
                let error = pin_current_thread(absent).unwrap_err().to_string();
                assert!(
                    error.contains(&absent.to_string()) && error.contains(&ranges(&allowed_cores())),
                    "{error}"
                );
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn any_goes_round() {
        let cores = allowed_cores();
        let picked: std::collections::BTreeSet<_> =
            (0..cores.len()).filter_map(|_| CoreChoice::Any.pick()).collect();
        assert!(picked.iter().all(|core| cores.contains(core)));
        assert_eq!(CoreChoice::Given(7).pick(), Some(7));
    }
}
