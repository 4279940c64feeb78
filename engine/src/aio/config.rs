//! What an event loop is made with.

use super::AioError;
use super::ring::{RingConfig, SetupFlags};

/// What a lane does when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// Sleep at once.
    #[default]
    Interrupt,
    /// Look again for a while, then sleep; for how long is learned from how long the lane was idle before. The rule is
    /// that of QEMU's IOThread parameters `poll-max-ns`, `poll-grow` and `poll-shrink`.
    Adaptive {
        /// The longest that the lane looks again, in nanoseconds; 0 turns polling off.
        poll_max_ns: u64,
        /// By what the time grows where a longer one would have found the event; 0 means 2.
        grow: u32,
        /// By what the time is divided where even the longest would not have found it; 0 sets it to nothing.
        shrink: u32,
    },
    /// Never sleep.
    Busy,
}

impl PollMode {
    /// [`Adaptive`](Self::Adaptive) with QEMU's defaults for an IOThread: at most 32,768 ns, doubled, dropped at once.
    #[must_use]
    pub const fn adaptive() -> Self {
        Self::Adaptive { poll_max_ns: 32_768, grow: 0, shrink: 0 }
    }
}

/// Which core a lane's thread is pinned to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreChoice {
    /// This one, as the kernel numbers them.
    Given(usize),
    /// The next one of those that the process may use, round robin over all lanes that ask so.
    Any,
}

/// What an event loop is made with. [`Default`] gives a lane that sleeps at once when idle, unpinned.
#[derive(Clone, Debug)]
pub struct AioConfig {
    /// The lane's name, and the thread's where an [`IoThread`](super::IoThread) is made: the kernel keeps 15 bytes.
    pub name: String,
    /// Submission queue entries, 1 to 32,768; the kernel rounds up to a power of two.
    pub ring_entries: u32,
    /// Completion queue entries; `None`: four times `ring_entries`.
    pub cq_entries: Option<u32>,
    /// Let a kernel thread submit, which sleeps after so many milliseconds without work.
    pub sqpoll_idle_ms: Option<u32>,
    /// The core of that kernel thread.
    pub sqpoll_core: Option<u32>,
    /// The ring flags that may be used.
    pub ring_flags: SetupFlags,
    /// Size of the ring's table of registered files.
    pub fixed_files: u32,
    /// Size of the ring's table of registered buffers.
    pub fixed_buffers: u16,
    /// What to do when idle.
    pub poll: PollMode,
    /// How many closures the mailbox holds, at least 1.
    pub mailbox_capacity: usize,
    /// Where an [`IoThread`](super::IoThread) is pinned. [`AioContext::new`](super::AioContext::new) leaves the calling
    /// thread where it is; see [`pin_current_thread`](super::pin_current_thread).
    pub core: Option<CoreChoice>,
}

impl Default for AioConfig {
    fn default() -> Self {
        let ring = RingConfig::default();
        Self {
            name: "lane".into(),
            ring_entries: ring.entries,
            cq_entries: ring.cq_entries,
            sqpoll_idle_ms: None,
            sqpoll_core: None,
            ring_flags: ring.allow,
            fixed_files: ring.fixed_files,
            fixed_buffers: ring.fixed_buffers,
            poll: PollMode::default(),
            mailbox_capacity: 256,
            core: None,
        }
    }
}

impl AioConfig {
    /// The default with a name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// What the lane's ring is made with. IOPOLL cannot be had there: it would starve the lane's eventfd.
    #[must_use]
    pub fn ring(&self) -> RingConfig {
        RingConfig {
            entries: self.ring_entries,
            cq_entries: self.cq_entries,
            iopoll: false,
            sqpoll_idle_ms: self.sqpoll_idle_ms,
            sqpoll_core: self.sqpoll_core,
            allow: self.ring_flags,
            fixed_files: self.fixed_files,
            fixed_buffers: self.fixed_buffers,
        }
    }

    pub(super) fn check(&self) -> Result<(), AioError> {
        if (1..=1 << 20).contains(&self.mailbox_capacity) {
            return Ok(());
        }
        let value = self.mailbox_capacity as u64;
        Err(AioError::BadConfig { field: "mailbox_capacity", value, allowed: "1 to 1048576" })
    }
}
