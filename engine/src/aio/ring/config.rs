//! How a ring is set up: what is asked for, what the kernel grants, and the ladder of fall-backs between.

use std::io;

use io_uring::IoUring;
use rustix::process::{Resource, getrlimit};

use crate::aio::AioError;

bitflags::bitflags! {
    /// What a ring was set up with; see io_uring_setup(2).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct SetupFlags: u16 {
        /// Go on submitting after an entry that fails (Linux 5.18).
        const SUBMIT_ALL = 1;
        /// No inter-processor interrupt to run task work (Linux 5.19).
        const COOP_TASKRUN = 1 << 1;
        /// A flag in the submission ring says that task work waits (Linux 5.19).
        const TASKRUN_FLAG = 1 << 2;
        /// One thread submits (Linux 6.0).
        const SINGLE_ISSUER = 1 << 3;
        /// Task work runs only when this thread waits for completions (Linux 6.1).
        const DEFER_TASKRUN = 1 << 4;
        /// No indirection array (Linux 6.6).
        const NO_SQARRAY = 1 << 5;
        /// The ring's descriptor is registered, which saves its look-up at each enter (Linux 5.18).
        const REGISTERED_RING = 1 << 6;
        /// Completions are found by polling the device; only direct I/O.
        const IOPOLL = 1 << 7;
        /// A kernel thread submits.
        const SQPOLL = 1 << 8;
    }
}

/// What to ask for.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Submission queue entries, 1 to 32,768; the kernel rounds up to a power of two.
    pub entries: u32,
    /// Completion queue entries, at least `entries`, at most 65,536; `None`: four times `entries`.
    pub cq_entries: Option<u32>,
    /// Poll the device for completions (`IORING_SETUP_IOPOLL`).
    pub iopoll: bool,
    /// Let a kernel thread submit, which sleeps after so many milliseconds without work.
    pub sqpoll_idle_ms: Option<u32>,
    /// The core of that kernel thread.
    pub sqpoll_core: Option<u32>,
    /// The flags that may be used; all where nothing speaks against it. The kernel may grant less.
    pub allow: SetupFlags,
    /// Size of the table of registered files, made at the first registration.
    pub fixed_files: u32,
    /// Size of the table of registered buffers, made at the first registration; at most 16,384.
    pub fixed_buffers: u16,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 256,
            cq_entries: None,
            iopoll: false,
            sqpoll_idle_ms: None,
            sqpoll_core: None,
            allow: SetupFlags::all(),
            fixed_files: 256,
            fixed_buffers: 1024,
        }
    }
}

impl RingConfig {
    fn check(&self) -> Result<(), AioError> {
        let bad = |field, value, allowed| Err(AioError::BadConfig { field, value, allowed });
        if !(1..=32_768).contains(&self.entries) {
            return bad("ring entries", self.entries.into(), "1 to 32768");
        }
        match self.cq_entries {
            Some(cq) if !(self.entries..=65_536).contains(&cq) => {
                return bad(
                    "completion queue entries",
                    cq.into(),
                    "at least the ring entries, at most 65536",
                );
            }
            _ => {}
        }
        if self.fixed_buffers > 16_384 {
            return bad("fixed_buffers", self.fixed_buffers.into(), "at most 16384");
        }
        if self.sqpoll_core.is_some() && self.sqpoll_idle_ms.is_none() {
            return bad("sqpoll_core", self.sqpoll_core.unwrap_or(0).into(), "only with sqpoll_idle_ms");
        }
        Ok(())
    }

    /// The flags to try, the best first.
    fn ladder(&self) -> Vec<SetupFlags> {
        use SetupFlags as F;
        let coop = F::SUBMIT_ALL | F::COOP_TASKRUN | F::TASKRUN_FLAG;
        let steps = [
            coop | F::SINGLE_ISSUER | F::DEFER_TASKRUN | F::NO_SQARRAY,
            coop | F::SINGLE_ISSUER | F::DEFER_TASKRUN,
            coop | F::SINGLE_ISSUER,
            coop,
            F::SUBMIT_ALL,
            F::empty(),
        ];
        let mut ladder: Vec<F> = Vec::with_capacity(steps.len());
        for step in steps {
            let step = self.consistent(step & self.allow);
            if ladder.last() != Some(&step) {
                ladder.push(step);
            }
        }
        ladder
    }

    /// Takes out what the kernel refuses in combination, and puts in what the user asked for.
    fn consistent(&self, mut flags: SetupFlags) -> SetupFlags {
        use SetupFlags as F;
        if self.sqpoll_idle_ms.is_some() {
            flags -= F::COOP_TASKRUN | F::DEFER_TASKRUN;
            flags |= F::SQPOLL;
        }
        if !flags.contains(F::SINGLE_ISSUER) {
            flags -= F::DEFER_TASKRUN;
        }
        // A lane that polls enters the kernel only if told that task work waits there.
        if !flags.contains(F::TASKRUN_FLAG) {
            flags -= F::COOP_TASKRUN | F::DEFER_TASKRUN;
        }
        if !flags.intersects(F::COOP_TASKRUN | F::DEFER_TASKRUN) {
            flags -= F::TASKRUN_FLAG;
        }
        if self.iopoll {
            flags |= F::IOPOLL;
        }
        flags
    }

    fn build(&self, flags: SetupFlags) -> io::Result<IoUring> {
        use SetupFlags as F;
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp();
        builder.setup_cqsize(self.cq_entries.unwrap_or(self.entries.saturating_mul(4).min(65_536)));
        if flags.contains(F::SUBMIT_ALL) {
            builder.setup_submit_all();
        }
        if flags.contains(F::COOP_TASKRUN) {
            builder.setup_coop_taskrun();
        }
        if flags.contains(F::TASKRUN_FLAG) {
            builder.setup_taskrun_flag();
        }
        if flags.contains(F::SINGLE_ISSUER) {
            builder.setup_single_issuer();
        }
        if flags.contains(F::DEFER_TASKRUN) {
            builder.setup_defer_taskrun();
        }
        if flags.contains(F::NO_SQARRAY) {
            builder.setup_no_sqarray();
        }
        if flags.contains(F::IOPOLL) {
            builder.setup_iopoll();
        }
        if let Some(idle_ms) = self.sqpoll_idle_ms {
            builder.setup_sqpoll(idle_ms);
        }
        if let Some(core) = self.sqpoll_core {
            builder.setup_sqpoll_cpu(core);
        }
        builder.build(self.entries)
    }

    /// Makes the ring with the best flags that the kernel takes.
    pub(super) fn create(&self) -> Result<(IoUring, SetupFlags), AioError> {
        self.check()?;
        let ladder = self.ladder();
        let mut refused = None;
        for flags in ladder {
            match self.build(flags) {
                Ok(uring) => {
                    if !uring.params().is_feature_ext_arg() {
                        return Err(AioError::KernelTooOld { missing: "IORING_FEAT_EXT_ARG", since: "5.11" });
                    }
                    tracing::debug!(?flags, sq = uring.params().sq_entries(), "io_uring set up");
                    return Ok((uring, flags));
                }
                // An unknown flag; a smaller set may do.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => refused = Some((flags, error)),
                Err(error) => return Err(self.explain(flags, error)),
            }
        }
        let (flags, error) =
            refused.unwrap_or((SetupFlags::empty(), io::Error::from(io::ErrorKind::InvalidInput)));
        Err(self.explain(flags, error))
    }

    fn explain(&self, flags: SetupFlags, source: io::Error) -> AioError {
        use rustix::io::Errno;
        match Errno::from_io_error(&source) {
            Some(Errno::PERM | Errno::NOSYS) => {
                AioError::Disabled { sysctl: read_sysctl("/proc/sys/kernel/io_uring_disabled"), source }
            }
            Some(Errno::NOMEM) => AioError::MemLock {
                what: "an io_uring",
                len_bytes: u64::from(self.entries) * 64,
                limit: memlock_limit(),
                source,
            },
            _ => AioError::Setup { entries: self.entries, flags: format!("{flags:?}"), source },
        }
    }
}

fn read_sysctl(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The soft limit of RLIMIT_MEMLOCK, as text.
pub(super) fn memlock_limit() -> String {
    getrlimit(Resource::Memlock).current.map_or_else(|| "unlimited".into(), |bytes| format!("{bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::SetupFlags as F;
    use super::*;

    #[test]
    fn each_step_of_the_ladder_is_one_that_a_kernel_takes() {
        for allow in 0..=F::all().bits() {
            for (iopoll, sqpoll_idle_ms) in [(false, None), (true, None), (false, Some(1)), (true, Some(1))] {
                let allow = F::from_bits_truncate(allow);
                let config = RingConfig { allow, iopoll, sqpoll_idle_ms, ..RingConfig::default() };
                let ladder = config.ladder();
                assert!(!ladder.is_empty());
                for flags in ladder {
                    let deferred = flags.intersects(F::DEFER_TASKRUN | F::COOP_TASKRUN);
                    assert_eq!(deferred, flags.contains(F::TASKRUN_FLAG), "{flags:?}");
                    assert!(
                        !flags.contains(F::DEFER_TASKRUN) || flags.contains(F::SINGLE_ISSUER),
                        "{flags:?}"
                    );
                    assert!(!(deferred && flags.contains(F::SQPOLL)), "{flags:?}");
                    assert_eq!(flags.contains(F::SQPOLL), sqpoll_idle_ms.is_some());
                    assert_eq!(flags.contains(F::IOPOLL), iopoll);
                    assert!((allow | F::SQPOLL | F::IOPOLL).contains(flags), "{flags:?} of {allow:?}");
                }
            }
        }
    }

    #[test]
    fn the_ladder_ends_without_flags() {
        assert_eq!(RingConfig::default().ladder().last(), Some(&F::empty()));
        assert_eq!(RingConfig::default().ladder().len(), 6);
    }

    #[test]
    fn what_the_kernel_forbids_is_explained() {
        let explain =
            |errno: rustix::io::Errno| RingConfig::default().explain(F::empty(), errno.into()).to_string();
        let forbidden = explain(rustix::io::Errno::PERM);
        assert!(forbidden.contains("kernel.io_uring_disabled"), "{forbidden}");
        let memory = explain(rustix::io::Errno::NOMEM);
        assert!(memory.contains("RLIMIT_MEMLOCK is ") && memory.contains("ulimit -l"), "{memory}");
        let files = explain(rustix::io::Errno::MFILE);
        assert!(files.contains("io_uring_setup with 256 entries"), "{files}");
    }
}
