//! The warden: the thread that looks after one controller. See [`super`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corelane_engine::aio::unpin_current_thread;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::control::Late;
use super::event::ControllerEvent;
use super::listen::{AsyncEvent, Task};
use super::restart::{Stop, stop};
use super::state::State;
use crate::nvme::controller::admin::{News, Permit, Standing};
use crate::nvme::controller::core::Core;
use crate::nvme::error::NvmeError;
use crate::nvme::spec::Cid;
use crate::nvme::spec::command::Command;

/// How long lanes are given to end their ringing of doorbells before the controller is stopped. They need a few
/// microseconds, or as long as they do not run. A doorbell that is a message to a process which does not answer takes longer.
const BELLS_TIME: Duration = Duration::from_secs(2);

/// A controller's thread. Its end is waited for.
pub struct Warden {
    resets: Arc<AtomicU64>,
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Warden {
    /// Starts to look after a controller that is about to be enabled.
    ///
    /// # Errors
    /// [`NvmeError::Io`] without a thread.
    pub fn start(core: &Arc<Core>) -> Result<Warden, NvmeError> {
        let resets = Arc::new(AtomicU64::new(0));
        let rounds = Rounds {
            core: Arc::clone(core),
            resets: Arc::clone(&resets),
            attempts: 0,
            next_tick: Instant::now(),
            refused: 0,
            listener: None,
        };
        let thread = thread::Builder::new()
            .name("corelane-nvme".to_owned())
            .spawn(move || rounds.run())
            .map_err(|source| NvmeError::Io { what: "starting a controller's thread", source })?;
        Ok(Warden { resets, core: Arc::clone(core), thread: Some(thread) })
    }

    /// How often the controller was brought back.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    /// Ends the thread. What it is doing is finished first, without waiting for answers of the admin queue: the controller is
    /// left running, stopped or lost.
    pub fn end(&mut self) {
        self.core.control.begin_closing();
        let Some(thread) = self.thread.take() else { return };
        // A hook may have let go of the last handle.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!(controller = self.core.control.address(), "its thread panicked");
        }
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread has at hand.
struct Rounds {
    core: Arc<Core>,
    resets: Arc<AtomicU64>,
    /// Resets in a row, without a command that completed.
    attempts: u32,
    next_tick: Instant,
    /// Event requests that the controller refused since it was enabled.
    refused: usize,
    /// Finds out what the controller has told of, as long as there is something.
    listener: Option<JoinHandle<()>>,
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.end_listener();
    }
}

impl Rounds {
    fn run(mut self) {
        unpin_current_thread();
        loop {
            let control = Arc::clone(&self.core.control);
            match control.state() {
                State::Stopping => self.recover(),
                _ if self.is_closing() => return,
                State::Running => {
                    let epoch = control.word().epoch();
                    if let Err(error) = self.look() {
                        control.fail(epoch, &error);
                        continue;
                    }
                    self.wait(true);
                }
                State::Starting | State::Quiet | State::Stopped | State::Lost => self.wait(false),
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.core.control.is_closing()
    }

    /// Sleeps until something is to be done, or until the next tick.
    fn wait(&mut self, running: bool) {
        let admin = self.core.vectors().as_ref().and_then(|vectors| vectors.admin());
        let notices = self.core.bus().notices();
        let mut fds = vec![PollFd::from_borrowed_fd(self.core.control.bell(), PollFlags::IN)];
        let watched: [Option<BorrowedFd<'_>>; 3] =
            [admin.as_ref().map(OwnedFd::as_fd), notices.error, notices.removal];
        if running {
            fds.extend(watched.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let left = self.next_tick.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok().filter(|_| running);
        if let Err(error) = poll(&mut fds, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "a controller's thread cannot wait");
            thread::sleep(Duration::from_millis(5));
        }
        for fd in [Some(self.core.control.bell()), admin.as_ref().map(OwnedFd::as_fd)].into_iter().flatten() {
            if fds.iter().any(|polled| is_ready(polled, fd)) {
                drain(fd);
            }
        }
    }

    /// What the host says of the function.
    fn look_at_notices(&self) -> Result<(), NvmeError> {
        let core = &self.core;
        let notices = core.bus().notices();
        let address = || core.control.address().to_owned();
        if notices.removal.is_some_and(is_signalled) {
            core.hooks.tell(&ControllerEvent::RemovalRequested);
            return Err(NvmeError::Wanted { address: address() });
        }
        if notices.error.is_some_and(is_signalled) {
            core.hooks.tell(&ControllerEvent::LinkError);
            return Err(NvmeError::Link { address: address() });
        }
        Ok(())
    }

    /// Looks at everything once.
    fn look(&mut self) -> Result<(), NvmeError> {
        let core = Arc::clone(&self.core);
        self.look_at_notices()?;
        for news in core.admin.news(&core.control)? {
            self.hear(news);
        }
        for qid in core.control.take_missed() {
            core.hooks.tell(&ControllerEvent::MissedInterrupt { qid });
        }
        self.keep_listening()?;
        if Instant::now() >= self.next_tick {
            let tick = core.control.deadline().tick();
            self.next_tick = Instant::now() + tick;
            core.control.registers().check_running()?;
            if core.control.take_progress() {
                self.attempts = 0;
            }
            core.control.tick();
        }
        self.abort_late()
    }

    /// The answer to a command that stood.
    fn hear(&mut self, News { of, status, result }: News) {
        let core = Arc::clone(&self.core);
        let controller = core.control.address();
        match of {
            Standing::Event if status.is_success() => {
                core.tasks.add(Task::Event(AsyncEvent::of(result)));
            }
            // It would refuse the same again; there is one request less from now on.
            Standing::Event => {
                tracing::warn!(controller, %status, "it refuses to tell of events");
                self.refused += 1;
            }
            Standing::Abort(Late { qid, cid, .. }) => {
                // Bit 0 says that it was not aborted (Base 5.1); it may have completed just then. If not, it is overdue soon.
                let aborted = status.is_success() && result & 1 == 0;
                tracing::debug!(controller, %qid, cid, aborted, %status, "an abort was answered");
            }
        }
    }

    /// Keeps event requests with the controller, and a thread that finds out what it has told of.
    fn keep_listening(&mut self) -> Result<(), NvmeError> {
        let core = Arc::clone(&self.core);
        if let Some(known) = core.known.get() {
            core.request_events(&known.identify, self.refused)?;
        }
        if core.tasks.is_empty() || self.listener.as_ref().is_some_and(|listener| !listener.is_finished()) {
            return Ok(());
        }
        self.end_listener();
        let listener = thread::Builder::new().name("corelane-events".to_owned()).spawn(move || {
            unpin_current_thread();
            core.find_out();
            // What came just now waits for another one.
            core.control.ring();
        });
        match listener {
            Ok(listener) => self.listener = Some(listener),
            // At the next tick.
            Err(error) => {
                tracing::error!(%error, "there is no thread to find out what a controller tells of")
            }
        }
        Ok(())
    }

    fn end_listener(&mut self) {
        if self.listener.take().is_some_and(|listener| listener.join().is_err()) {
            tracing::error!(controller = self.core.control.address(), "a thread of its events panicked");
        }
    }

    /// Aborts what is late, as many commands at once as the controller allows (ACL).
    fn abort_late(&self) -> Result<(), NvmeError> {
        let core = &self.core;
        let most = core.known.get().map_or(1, |known| usize::from(known.identify.acl) + 1);
        let standing = core.admin.standing(|what| matches!(what, Standing::Abort(_)));
        for late in core.control.take_late(most.saturating_sub(standing)) {
            let timeout_ms = core.control.deadline().timeout_ms();
            let (controller, Late { qid, cid, .. }) = (core.control.address(), late);
            tracing::warn!(controller, %qid, cid, timeout_ms, "a command is late: it is aborted");
            core.hooks.tell(&ControllerEvent::Late { qid, cid: Cid(cid) });
            // Without room it is overdue soon.
            core.admin.send_standing(Command::abort(qid, cid), Standing::Abort(late))?;
        }
        Ok(())
    }

    /// Stops the controller, and brings it back if that is possible.
    fn recover(&mut self) {
        let core = Arc::clone(&self.core);
        let control = &core.control;
        control.let_bells_end(BELLS_TIME);
        core.admin.let_bells_end();
        match stop(control.registers()) {
            Stop::Lost => return self.give_up(State::Lost),
            Stop::Gone(error) => {
                control.note_gone(&error);
                return self.give_up(State::Stopped);
            }
            Stop::Stopped => control.note_there(),
        }
        let (reason, gone) = control.last_reason();
        if gone
            || self.is_closing()
            || core.known.get().is_none()
            || self.attempts >= core.options.resets.into()
        {
            return self.give_up(State::Stopped);
        }
        self.attempts += 1;
        tracing::warn!(controller = control.address(), attempt = self.attempts, "the controller is reset");
        core.hooks.tell(&ControllerEvent::Reset { reason });
        if !control.become_state(State::Quiet) || !control.become_state(State::Starting) {
            return;
        }
        let word = control.word();
        match core.restart(Permit::of(word)) {
            Ok(()) => {
                self.next_tick = Instant::now() + control.deadline().tick();
                self.refused = 0;
                // Whoever sees what lanes do from now on sees this as well.
                self.resets.fetch_add(1, Ordering::Release);
                if !control.become_state(State::Running) {
                    self.resets.fetch_sub(1, Ordering::Release);
                    return;
                }
                // They may have changed meanwhile, and it does not tell of that.
                core.tasks.add(Task::Namespaces);
                tracing::warn!(controller = control.address(), attempt = self.attempts, "it is driven again");
                core.hooks.tell(&ControllerEvent::Recovered { attempt: self.attempts });
            }
            // It may be that already; then this changes nothing.
            Err(error) => control.fail(word.epoch(), &error),
        }
    }

    fn give_up(&self, state: State) {
        let control = &self.core.control;
        let (reason, gone) = control.last_reason();
        tracing::error!(controller = control.address(), reason, ?state, "the controller is given up");
        control.become_state(state);
        if self.core.known.get().is_some() {
            self.core.hooks.tell(&ControllerEvent::Failed { reason, gone });
        }
    }
}

fn is_ready(polled: &PollFd<'_>, fd: BorrowedFd<'_>) -> bool {
    use std::os::fd::AsRawFd;
    polled.as_fd().as_raw_fd() == fd.as_raw_fd() && !polled.revents().is_empty()
}

/// Whether an eventfd was signalled since this was last asked.
fn is_signalled(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let signalled = poll(&mut fds, Some(&at_once)).is_ok_and(|count| count > 0);
    if signalled {
        drain(fd);
    }
    signalled
}

/// Takes an eventfd's count away. It is readable.
fn drain(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    // Another reader may have been quicker; then there is nothing to do.
    let _ = rustix::io::read(fd, &mut count);
}
