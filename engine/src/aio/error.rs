//! What can go wrong in the event loop, said with the value that was wrong and what would be right.

use std::io;

use thiserror::Error;

/// An error of the event loop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AioError {
    /// `io_uring_setup(2)` is not to be had: the sysctl forbids it, a seccomp filter does, or the kernel lacks it.
    #[error("io_uring is not available ({source}): {}", explain_disabled(.sysctl, .source))]
    Disabled {
        /// The value of `kernel.io_uring_disabled`, where the kernel has it (since 6.6).
        sysctl: Option<u32>,
        /// EPERM or ENOSYS.
        source: io::Error,
    },
    /// `io_uring_setup(2)` refused every set of flags that was tried.
    #[error("io_uring_setup with {entries} entries and flags {flags} failed: {source}")]
    Setup {
        /// Submission queue entries asked for.
        entries: u32,
        /// The flags tried last.
        flags: String,
        /// The errno.
        source: io::Error,
    },
    /// The kernel lacks something that there is no way around.
    #[error("the kernel lacks {missing}, which needs Linux {since} or newer")]
    KernelTooOld {
        /// What is missing.
        missing: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// A field of a configuration is out of range.
    #[error("{field} = {value} is not valid: {allowed}")]
    BadConfig {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What would be valid.
        allowed: &'static str,
    },
    /// Memory could not be pinned.
    #[error(
        "pinning {len_bytes} bytes for {what} failed ({source}); RLIMIT_MEMLOCK is {limit}: raise it with \
         `ulimit -l unlimited`, or LimitMEMLOCK= in a systemd unit"
    )]
    MemLock {
        /// What the memory is for.
        what: &'static str,
        /// How much was asked for.
        len_bytes: u64,
        /// The soft limit, as text.
        limit: String,
        /// ENOMEM.
        source: io::Error,
    },
    /// `io_uring_register(2)` refused.
    #[error("io_uring_register of {what} failed: {source}")]
    Register {
        /// What was to be registered.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// A table of registered things is full.
    #[error("the ring's table of {what} is full: all {size} entries are in use")]
    TableFull {
        /// What the table holds.
        what: &'static str,
        /// How many entries it has.
        size: u32,
    },
    /// `io_uring_enter(2)` failed in a way that a retry does not cure.
    #[error("io_uring_enter failed: {0}")]
    Enter(#[source] io::Error),
    /// The lane's eventfd could not be made.
    #[error("eventfd failed: {0}")]
    EventFd(#[source] io::Error),
    /// A thread could not be started.
    #[error("the thread \"{name}\" could not be started: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The errno.
        source: io::Error,
    },
    /// A thread could not be pinned.
    #[error("cannot pin the thread to core {core}: this thread may run on the cores {allowed}")]
    Core {
        /// The core asked for.
        core: usize,
        /// The cores that the process may use, as a list of ranges.
        allowed: String,
    },
    /// The lane has ended, so it neither takes work nor will it give a result.
    #[error("the lane has ended")]
    LaneGone,
    /// The lane's thread panicked.
    #[error("the lane \"{name}\" panicked: {message}")]
    Panicked {
        /// The thread's name.
        name: String,
        /// The panic's message.
        message: String,
    },
}

fn explain_disabled(sysctl: &Option<u32>, source: &io::Error) -> String {
    match sysctl {
        Some(value @ 1..) => format!(
            "kernel.io_uring_disabled = {value}; allow it with `sysctl -w kernel.io_uring_disabled=0`{}",
            if *value == 1 { " or put the user into kernel.io_uring_group" } else { "" }
        ),
        Some(0) => {
            "kernel.io_uring_disabled = 0, so a seccomp filter (a container runtime's, say) forbids it".into()
        }
        None if source.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => {
            "this kernel has no io_uring, or a seccomp filter hides it; Linux 5.11 or newer is needed".into()
        }
        None => "kernel.io_uring_disabled does not exist here, so a seccomp filter forbids it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn text(sysctl: Option<u32>, errno: Errno) -> String {
        AioError::Disabled { sysctl, source: errno.into() }.to_string()
    }

    #[test]
    fn a_disabled_io_uring_names_the_sysctl_its_value_and_the_command() {
        for value in [1, 2] {
            let text = text(Some(value), Errno::PERM);
            assert!(text.contains(&format!("kernel.io_uring_disabled = {value}")), "{text}");
            assert!(text.contains("sysctl -w kernel.io_uring_disabled=0"), "{text}");
            assert_eq!(text.contains("io_uring_group"), value == 1, "a group helps only with 1: {text}");
        }
    }

    #[test]
    fn a_filter_is_told_from_the_sysctl_and_from_an_old_kernel() {
        assert!(text(Some(0), Errno::PERM).contains("kernel.io_uring_disabled = 0, so a seccomp filter"));
        assert!(text(None, Errno::PERM).contains("a seccomp filter forbids it"));
        assert!(text(None, Errno::NOSYS).contains("Linux 5.11 or newer is needed"));
    }
}
