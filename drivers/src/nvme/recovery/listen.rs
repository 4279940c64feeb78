//! What a controller tells by itself: asynchronous events (Base 5.2), each read up in its log page, and namespaces that change.
//!
//! The [warden](super::warden) keeps event requests with the controller and leaves what comes here. A thread of its own, which
//! lives as long as there is something to do, reads the log page, which clears the event, and tells of it: an answer
//! to that may take as long as an admin command may, and ticks must not wait for it.
//!
//! Invariants:
//! - An event's log page is read without retaining the event, so the controller tells of the next of its kind.
//! - What is left to do is bounded: an event waits in the controller for a request, and requests are sent again only as
//!   long as few are left.
//! - After each reset, and when a controller cannot say what has changed, all open namespaces are looked at.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::ControllerEvent;
use super::state::State;
use super::watch::{Found, Watched};
use crate::nvme::controller::admin::{Answer, Data, Permit};
use crate::nvme::controller::core::{Core, read};
use crate::nvme::error::NvmeError;
use crate::nvme::spec::Nsid;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::identify::{COMMAND_SET_NVM, IDENTIFY_BYTES, cns};
use crate::nvme::spec::log::{ChangedNamespaces, CriticalWarning, ErrorEntry, HealthLog, page};
use crate::nvme::spec::namespace::IdentifyNamespace;
use crate::nvme::spec::status::Status;

/// Most that waits to be read up.
const MOST_WAITING: usize = 64;
/// What is read of a log page that nobody here understands.
const UNKNOWN_BYTES: usize = 512;
/// First in the Changed Namespace List: more have changed than it holds.
const TOO_MANY: u32 = u32::MAX;

/// Dword 0 of a completed Asynchronous Event Request (Base figure 150).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// Its type: 0 error, 1 SMART and health, 2 notice, 6 of the I/O command set, 7 of the vendor.
    pub kind: u8,
    /// What it is, by its type.
    pub info: u8,
    /// The log page that says more, and clears it.
    pub page: u8,
}

impl AsyncEvent {
    /// As the controller says it.
    pub fn of(result: u32) -> AsyncEvent {
        AsyncEvent { kind: (result & 0b111) as u8, info: (result >> 8) as u8, page: (result >> 16) as u8 }
    }
}

/// Something to be found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// What an event is about.
    Event(AsyncEvent),
    /// What has become of all open namespaces.
    Namespaces,
}

/// What is to be found out.
#[derive(Default)]
pub struct Tasks(Mutex<VecDeque<Task>>);

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more. The same one is not there twice.
    pub fn add(&self, task: Task) {
        let mut tasks = self.lock();
        if tasks.len() < MOST_WAITING && !tasks.contains(&task) {
            tasks.push_back(task);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether there is no room for what another few events would add.
    pub fn is_full(&self) -> bool {
        self.lock().len() >= MOST_WAITING / 2
    }

    fn take(&self) -> Option<Task> {
        self.lock().pop_front()
    }
}

impl Core {
    /// Finds out what there is to be found out, until all is or it is closed. What the controller does not tell because
    /// it is reset is dropped: it has forgotten its events, and namespaces are looked at afterwards. Blocks.
    pub(super) fn find_out(&self) {
        while !self.control.is_closing()
            && let Some(task) = self.tasks.take()
        {
            let word = self.control.word();
            if word.state() != State::Running {
                continue;
            }
            let permit = Permit::of(word);
            let result = match task {
                Task::Event(event) => self.read_up(permit, event),
                Task::Namespaces => self.look_at(permit, |_| true),
            };
            if let Err(error) = result {
                tracing::warn!(controller = self.control.address(), ?task, %error, "an event is lost");
            }
        }
    }

    /// Reads what an event is about, which clears it, and tells of it.
    fn read_up(&self, permit: Permit, event: AsyncEvent) -> Result<(), NvmeError> {
        let AsyncEvent { kind, info, page } = event;
        let controller = self.control.address();
        match (kind, page) {
            (0, page::ERROR) => {
                let answer = self.log_page(permit, page::ERROR, size_of::<ErrorEntry>())?;
                // The newest is first; a count of 0 marks an entry that is not used.
                let entry = Some(*read::<ErrorEntry>(&answer)).filter(|entry| entry.error_count.get() != 0);
                tracing::warn!(controller, info, ?entry, "it reports an error");
                self.hooks.tell(&ControllerEvent::Error { info, entry });
            }
            (1, page::HEALTH) => {
                let answer = self.log_page(permit, page::HEALTH, size_of::<HealthLog>())?;
                let log = read::<HealthLog>(&answer);
                let warning = CriticalWarning::from_bits_retain(log.critical_warning);
                let kelvins = log.temperature.get();
                tracing::warn!(controller, info, ?warning, kelvins, "it reports on its health");
                self.hooks.tell(&ControllerEvent::Health { info, warning, log });
            }
            (2, page::CHANGED_NAMESPACES) => self.namespaces_changed(permit)?,
            _ => {
                // Some have none; whatever it says, reading it clears the event.
                let refused = self.log_page(permit, page, UNKNOWN_BYTES).err();
                if let Some(error) = refused.filter(|error| !matches!(error, NvmeError::Refused { .. })) {
                    return Err(error);
                }
                tracing::info!(controller, kind, info, page, "it tells of something");
                self.hooks.tell(&ControllerEvent::Notice { kind, info, page });
            }
        }
        Ok(())
    }

    fn namespaces_changed(&self, permit: Permit) -> Result<(), NvmeError> {
        let answer = self.log_page(permit, page::CHANGED_NAMESPACES, size_of::<ChangedNamespaces>())?;
        let list = read::<ChangedNamespaces>(&answer);
        let mut nsids: Vec<Nsid> =
            list.nsids.iter().map(|nsid| Nsid(nsid.get())).take_while(|nsid| nsid.0 != 0).collect();
        // An empty list is no help either.
        let all = nsids.is_empty() || nsids.first().is_some_and(|nsid| nsid.0 == TOO_MANY);
        if all {
            nsids.clear();
        }
        tracing::info!(controller = self.control.address(), ?nsids, all, "its namespaces have changed");
        // Who opens one from here on sees what it has become.
        self.look_at(permit, |nsid| all || nsids.contains(&nsid))?;
        self.hooks.tell(&ControllerEvent::NamespacesChanged { nsids });
        Ok(())
    }

    /// Looks at open namespaces, and takes over what has become of them.
    fn look_at(&self, permit: Permit, which: impl Fn(Nsid) -> bool) -> Result<(), NvmeError> {
        self.watched.begin_look();
        let mut open = self.watched.open();
        open.retain(|one| which(one.nsid()) && one.failed().is_none());
        open.sort_by_key(|one| one.nsid());
        for same in open.chunk_by(|one, next| one.nsid() == next.nsid()) {
            self.look_at_one(permit, same)?;
        }
        Ok(())
    }

    /// Looks at a namespace, which may be open more than once.
    fn look_at_one(&self, permit: Permit, same: &[Arc<Watched>]) -> Result<(), NvmeError> {
        let Some(nsid) = same.first().map(|one| one.nsid()) else { return Ok(()) };
        let command = Command::identify(cns::NAMESPACE, nsid, COMMAND_SET_NVM);
        let data = Data::In(IDENTIFY_BYTES);
        let identify = match self.execute(permit, "Identify (namespace)", command, data) {
            Ok(answer) => Some(read::<IdentifyNamespace>(&answer)),
            Err(NvmeError::Refused { status, .. }) if status.is(Status::INVALID_NAMESPACE) => None,
            Err(error) => return Err(error),
        };
        // All take over what has become of it; it is told of once.
        let mut changes = Vec::new();
        for one in same {
            let found = one.compare(identify.as_deref());
            if one.become_(&found) && !changes.contains(&found) {
                changes.push(found);
            }
        }
        changes.into_iter().for_each(|found| self.tell_change(nsid, found));
        Ok(())
    }

    fn tell_change(&self, nsid: Nsid, found: Found) {
        let controller = self.control.address();
        match found {
            Found::Same => {}
            Found::Resized(blocks) => {
                tracing::info!(controller, %nsid, blocks, "a namespace was resized");
                self.hooks.tell(&ControllerEvent::Resized { nsid, blocks });
            }
            Found::Failed(reason) => {
                // Lanes that have requests for it look at it before they send more.
                self.control.notice();
                tracing::error!(controller, %nsid, reason, "a namespace is not any more what was opened");
                self.hooks.tell(&ControllerEvent::NamespaceFailed { nsid, reason });
            }
        }
    }

    /// The first bytes of a log page of the controller's, without retaining its event.
    fn log_page(&self, permit: Permit, page: u8, len_bytes: usize) -> Result<Answer, NvmeError> {
        let command = Command::log_page(page, Nsid::ALL, 0, len_bytes as u32);
        self.execute(permit, "Get Log Page", command, Data::In(len_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_waits_once() {
        let tasks = Tasks::default();
        let event = |page| Task::Event(AsyncEvent { kind: 7, info: 0, page });
        for page in 0..MOST_WAITING as u8 / 2 {
            assert!(!tasks.is_full());
            tasks.add(event(page));
            tasks.add(event(page));
        }
        assert!(tasks.is_full(), "no more is asked for");
        (0..=u8::MAX).for_each(|page| tasks.add(event(page)));
        let taken: Vec<Task> = std::iter::from_fn(|| tasks.take()).collect();
        assert_eq!(taken, (0..MOST_WAITING as u8).map(event).collect::<Vec<_>>());
        assert!(tasks.is_empty());
    }
}
