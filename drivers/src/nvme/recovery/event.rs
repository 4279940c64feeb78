//! [`ControllerEvent`]: what users of a controller may want to know of it, and who is told.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::nvme::spec::log::{CriticalWarning, ErrorEntry, HealthLog};
use crate::nvme::spec::{Cid, Nsid, Qid};

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
    /// The controller reports an error by itself (an asynchronous event of the type "error").
    Error {
        /// What it is (Base figure 151): 0 and 1 a wrong doorbell, 2 a failed diagnosis, 3 an internal error that stays, 4 one
        /// that passes, 5 a firmware image.
        info: u8,
        /// The newest entry of its error log, if there is one.
        entry: Option<ErrorEntry>,
    },
    /// The controller reports on its health (an asynchronous event of the type "SMART / health").
    Health {
        /// What it is (Base figure 152): 0 the subsystem's reliability, 1 a temperature, 2 the spare capacity.
        info: u8,
        /// Its critical warnings.
        warning: CriticalWarning,
        /// Its SMART / health information.
        log: Box<HealthLog>,
    },
    /// Namespaces were attached, detached, resized or formatted. Those that are open have been looked at.
    NamespacesChanged {
        /// Which; none if it cannot say, and all may have.
        nsids: Vec<Nsid>,
    },
    /// An open namespace has another size. Backends on it have it from now on.
    Resized {
        /// The namespace.
        nsid: Nsid,
        /// Its blocks now.
        blocks: u64,
    },
    /// An open namespace was detached, deleted or formatted in another way: its requests end with ENODEV. Close it, and open
    /// it again if it is there.
    NamespaceFailed {
        /// The namespace.
        nsid: Nsid,
        /// What has become of it.
        reason: String,
    },
    /// The controller tells of something else. Its log page was read, so that it tells of the next.
    Notice {
        /// The type (Base figure 150): 2 a notice, 6 of the I/O command set, 7 of the vendor.
        kind: u8,
        /// What it is, by its type.
        info: u8,
        /// The log page that says more.
        page: u8,
    },
}

impl fmt::Display for ControllerEvent {
    /// One line for whoever watches a run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControllerEvent::Reset { reason } => write!(f, "it is reset: {reason}"),
            ControllerEvent::Recovered { attempt } => {
                write!(f, "it is driven again (reset {attempt} in a row)")
            }
            ControllerEvent::Failed { reason, gone: true } => write!(f, "it is gone: {reason}"),
            ControllerEvent::Failed { reason, gone: false } => write!(f, "it is given up: {reason}"),
            ControllerEvent::Late { qid, cid } => {
                write!(f, "command {:#06x} of {qid} is late, and is aborted", cid.0)
            }
            ControllerEvent::MissedInterrupt { qid } => {
                write!(f, "no interrupt came for completions of {qid}")
            }
            ControllerEvent::RemovalRequested => f.write_str("the host wants it back"),
            ControllerEvent::LinkError => f.write_str("the function or its link reported an error"),
            ControllerEvent::Error { info, entry } => {
                write!(f, "it reports {}", error_name(*info))?;
                match entry {
                    Some(entry) => write!(
                        f,
                        " (error {}: queue {}, command {:#06x}, status {:#06x})",
                        entry.error_count,
                        entry.sq_id,
                        entry.cid,
                        entry.status_and_phase.get() >> 1
                    ),
                    None => Ok(()),
                }
            }
            ControllerEvent::Health { warning, log, .. } => {
                let names: Vec<String> = warning.iter_names().map(|(name, _)| name.to_lowercase()).collect();
                let names = if names.is_empty() { "nothing critical".to_owned() } else { names.join(", ") };
                let (spare, used) = (log.available_spare, log.percentage_used);
                let celsius = i32::from(log.temperature.get()) - 273;
                write!(f, "its health: {names}; {celsius} °C, {spare} % spare, {used} % used")
            }
            ControllerEvent::NamespacesChanged { nsids } if nsids.is_empty() => {
                f.write_str("its namespaces have changed")
            }
            ControllerEvent::NamespacesChanged { nsids } => {
                let numbers: Vec<String> = nsids.iter().map(|nsid| nsid.0.to_string()).collect();
                write!(f, "namespaces have changed: {}", numbers.join(", "))
            }
            ControllerEvent::Resized { nsid, blocks } => write!(f, "{nsid} has {blocks} blocks now"),
            ControllerEvent::NamespaceFailed { nsid, reason } => write!(f, "{nsid} cannot be used: {reason}"),
            ControllerEvent::Notice { kind, info, page } => {
                write!(
                    f,
                    "it tells of something else (type {kind}, information {info:#04x}, log page {page:#04x})"
                )
            }
        }
    }
}

/// The kinds of errors that events tell of (Base figure 151).
fn error_name(info: u8) -> String {
    match info {
        0 => "a write to a doorbell that there is not".to_owned(),
        1 => "a wrong value of a doorbell".to_owned(),
        2 => "a failed diagnosis".to_owned(),
        3 => "an internal error that stays".to_owned(),
        4 => "an internal error that passes".to_owned(),
        5 => "a firmware image that cannot be loaded".to_owned(),
        other => format!("error {other:#04x}"),
    }
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
