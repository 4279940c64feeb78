//! How a controller and a namespace are opened.

use super::placement::Placement;
use super::spec::Nsid;

/// How a controller is started. The same for all that use it: the first who opens it decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerOptions {
    /// The most I/O queue pairs to ask for, at least 1. Lanes beyond what is granted share.
    pub queues: u16,
    /// How long an admin command may take, in milliseconds.
    pub admin_timeout_ms: u64,
    /// How long an I/O command may take, in milliseconds, from 1 to an hour. One that takes longer is aborted, or else the
    /// controller is reset; its request ends with ETIMEDOUT then.
    pub io_timeout_ms: u64,
    /// How often a request is sent again after a status that may pass, or after a reset, before it fails.
    pub io_retries: u8,
    /// How many resets in a row, without a command that completes in between, may try to bring the controller back before
    /// it is given up. With 0 it is given up at once.
    pub resets: u8,
    /// Whether shadow doorbells are used where the controller has them (Doorbell Buffer Config).
    pub shadow_doorbells: bool,
    /// Whether submission queues are put into the controller's own memory, where it has some for them (a controller memory buffer,
    /// CMBSZ.SQS).
    pub queues_in_controller: bool,
    /// The most memory of this host's, in bytes, that a controller gets for itself which asks for it (a host memory buffer, Base
    /// 8.9). It is locked. Where there is less, half is tried, and so on, down to the least that the controller takes. 0: none.
    pub host_memory_bytes: u64,
}

impl Default for ControllerOptions {
    /// 64 queues, shadow doorbells, and what Linux has: 30 s for each command, 5 times again, up to 128 MiB for the controller
    /// (`max_host_mem_size_mb`). 4 resets.
    fn default() -> ControllerOptions {
        ControllerOptions {
            queues: 64,
            admin_timeout_ms: 30_000,
            io_timeout_ms: 30_000,
            io_retries: 5,
            resets: 4,
            shadow_doorbells: true,
            // What it gains depends on the drive and the way to it, and each entry costs eight uncached stores.
            queues_in_controller: false,
            host_memory_bytes: 128 << 20,
        }
    }
}

/// How a lane learns of completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Polling {
    /// The lane looks again and again as long as something is in flight. `poll=on`.
    #[default]
    On,
    /// By an interrupt; what the lane does meanwhile is its own affair ([`PollMode`]). `poll=off`.
    ///
    /// [`PollMode`]: corelane_engine::aio::PollMode
    Off,
    /// The lane looks for a while, then waits for the interrupt. `poll=adaptive`.
    Adaptive,
}

impl std::str::FromStr for Polling {
    type Err = String;

    /// `on`, `off` or `adaptive`.
    fn from_str(text: &str) -> Result<Polling, String> {
        match text {
            "on" => Ok(Polling::On),
            "off" => Ok(Polling::Off),
            "adaptive" => Ok(Polling::Adaptive),
            other => Err(format!("poll is '{other}', but must be on, off or adaptive")),
        }
    }
}

/// How a namespace is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NvmeOptions {
    /// How lanes learn of completions.
    pub poll: Polling,
    /// Whether writes are refused.
    pub read_only: bool,
    /// By which handles the controller places what is written (flexible data placement); `None`: as it likes.
    pub placement: Option<Placement>,
}

/// The namespace to open where none is named: 1, or the only one.
pub fn default_namespace(active: &[Nsid]) -> Option<Nsid> {
    match active {
        [only] => Some(*only),
        _ => active.iter().copied().find(|nsid| *nsid == Nsid(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_first_or_the_only_one() {
        assert_eq!(default_namespace(&[]), None);
        assert_eq!(default_namespace(&[Nsid(7)]), Some(Nsid(7)));
        assert_eq!(default_namespace(&[Nsid(1), Nsid(2)]), Some(Nsid(1)));
        assert_eq!(default_namespace(&[Nsid(2), Nsid(3)]), None);
    }

    #[test]
    fn polling_has_three_names() {
        assert_eq!("adaptive".parse(), Ok(Polling::Adaptive));
        assert_eq!(["on", "off"].map(str::parse::<Polling>), [Ok(Polling::On), Ok(Polling::Off)]);
        assert!("maybe".parse::<Polling>().unwrap_err().contains("'maybe'"));
    }
}
