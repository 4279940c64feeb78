//! [`ControllerEvent`]: what users of a controller may want to know of it, and who is told.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::nvme::spec::{Cid, Qid};

/// Something happened to a controller. All of it is logged as well.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ControllerEvent {
    /// It is stopped, to be reset; what is in flight is repeated where that is safe.
    Reset {
        /// What made that necessary.
        reason: String,
    },
    /// It is driven again after a reset.
    Recovered {
        /// Which reset in a row that was, from 1.
        attempt: u32,
    },
    /// It is given up: every request fails from now on.
    Failed {
        /// Why.
        reason: String,
        /// Whether it is not there any more: requests end with ENODEV, otherwise with EIO.
        gone: bool,
    },
    /// A command was not completed in time; its abort was asked for.
    Late {
        /// Its queue.
        qid: Qid,
        /// Its number.
        cid: Cid,
    },
    /// Completions were there, but no interrupt had come for them.
    MissedInterrupt {
        /// The queue.
        qid: Qid,
    },
    /// The host wants the function back (VFIO's request notice). It fails as if it were gone; the one who holds it should
    /// let go of it.
    RemovalRequested,
    /// The function or its link reported an error (VFIO's error notice). It is reset.
    LinkError,
}

type Hook = Arc<dyn Fn(&ControllerEvent) + Send + Sync>;

/// Who is told of events.
#[derive(Default)]
pub struct Hooks(Mutex<Vec<Hook>>);

impl Hooks {
    /// One more to be told.
    pub fn add(&self, hook: impl Fn(&ControllerEvent) + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(hook));
    }

    /// Tells all, with nothing locked.
    pub fn tell(&self, event: &ControllerEvent) {
        let hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hooks.iter().for_each(|hook| hook(event));
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}
