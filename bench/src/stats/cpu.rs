//! CPU time, context switches and page faults of one thread, from `getrusage(RUSAGE_THREAD)`.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What a thread used. As a total since the thread started, or as the difference of two such totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// Time in user space, microseconds.
    pub user_us: u64,
    /// Time in the kernel, microseconds.
    pub system_us: u64,
    /// Context switches, voluntary and not.
    pub context_switches: u64,
    /// Page faults that needed the disk.
    pub major_faults: u64,
    /// Page faults that did not.
    pub minor_faults: u64,
}

impl CpuUse {
    /// Totals of the calling thread (getrusage(2)); zeroes should the kernel refuse, which it does only for bad
    /// arguments.
    pub fn of_this_thread() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else {
            return CpuUse::default();
        };
        CpuUse {
            user_us: counter(usage.user_time().num_microseconds()),
            system_us: counter(usage.system_time().num_microseconds()),
            context_switches: counter(
                usage.voluntary_context_switches() + usage.involuntary_context_switches(),
            ),
            major_faults: counter(usage.major_page_faults()),
            minor_faults: counter(usage.minor_page_faults()),
        }
    }

    /// What was used since `start`, a total taken earlier on the same thread.
    pub fn since(&self, start: &CpuUse) -> Self {
        CpuUse {
            user_us: self.user_us.saturating_sub(start.user_us),
            system_us: self.system_us.saturating_sub(start.system_us),
            context_switches: self.context_switches.saturating_sub(start.context_switches),
            major_faults: self.major_faults.saturating_sub(start.major_faults),
            minor_faults: self.minor_faults.saturating_sub(start.minor_faults),
        }
    }

    /// Adds what another thread used.
    pub fn merge(&mut self, other: &CpuUse) {
        self.user_us += other.user_us;
        self.system_us += other.system_us;
        self.context_switches += other.context_switches;
        self.major_faults += other.major_faults;
        self.minor_faults += other.minor_faults;
    }
}

/// The kernel's counters are signed and never negative.
fn counter(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
