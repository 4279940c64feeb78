//! [`Control`]: whether a controller is driven or given up, and how it gets from the one to the other.
//!
//! ```text
//! Running ──fail──► Stopping ──it is disabled, reset or gone──► Stopped
//!                       └──────nothing stops it───────────────► Lost
//! ```
//!
//! Invariants:
//! - While it is `Running` or `Stopping` the controller may use memory that it was told of.
//! - `Stopped` means that it provably uses none: queues end their requests and give memory back.
//! - `Lost` means that this could not be had: requests end, and their memory is leaked.
//! - Whoever notices a fault calls [`fail`](Control::fail), from any thread; the stopping is done on a helper thread, since it
//!   may take as long as the controller asks for. Lanes that sleep are woken when it is over.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_engine::aio::{AioContext, AioHandle, offload};
use corelane_engine::block::{Errno, IoError};

use super::registers::Registers;
use crate::nvme::error::NvmeError;

/// What becomes of a controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// It is driven.
    Running,
    /// It failed and is being stopped.
    Stopping,
    /// It uses no memory any more.
    Stopped,
    /// It may use memory for ever.
    Lost,
}

impl State {
    const ALL: [State; 4] = [State::Running, State::Stopping, State::Stopped, State::Lost];

    /// Whether `next` may follow.
    const fn may_become(self, next: State) -> bool {
        matches!(
            (self, next),
            (State::Running, State::Stopping) | (State::Stopping, State::Stopped | State::Lost)
        )
    }
}

/// A controller's state, shared by its queues.
pub struct Control {
    registers: Registers,
    state: AtomicU8,
    /// Why it is not running.
    reason: Mutex<Reason>,
    lanes: Mutex<Vec<(u64, AioHandle)>>,
    next_lane: AtomicU64,
}

#[derive(Default)]
struct Reason {
    text: String,
    gone: bool,
}

impl Control {
    /// Of a controller that was just started.
    pub fn new(registers: Registers) -> Arc<Control> {
        Arc::new(Control {
            registers,
            state: AtomicU8::new(State::Running as u8),
            reason: Mutex::default(),
            lanes: Mutex::default(),
            next_lane: AtomicU64::new(0),
        })
    }

    /// The registers.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The controller's name.
    pub fn address(&self) -> &str {
        self.registers.bus().address()
    }

    /// The state now. One load of a line that is written only when something fails.
    #[inline(always)]
    pub fn state(&self) -> State {
        let raw = self.state.load(Ordering::Acquire);
        State::ALL.get(usize::from(raw)).copied().unwrap_or(State::Lost)
    }

    /// Whether it is driven.
    #[inline(always)]
    pub fn is_running(&self) -> bool {
        self.state.load(Ordering::Acquire) == State::Running as u8
    }

    fn change(&self, from: State, to: State) -> bool {
        debug_assert!(from.may_become(to), "{from:?} to {to:?}");
        self.state.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn reason(&self) -> MutexGuard<'_, Reason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the controller up, because of `error`. Only the first call does something.
    #[cold]
    pub fn fail(self: &Arc<Control>, error: &NvmeError) {
        let mut reason = self.reason();
        if !self.change(State::Running, State::Stopping) {
            return;
        }
        *reason = Reason { text: error.to_string(), gone: error.is_gone() };
        drop(reason);
        tracing::error!(controller = self.address(), %error, "the controller is stopped");
        let control = Arc::clone(self);
        // Nobody awaits it: the state tells.
        drop(offload(move || control.stop()));
    }

    /// Stops the controller by disabling it, or else by a reset of the function. Blocks.
    fn stop(&self) {
        let stopped = match self.registers.disable() {
            Ok(()) => true,
            // Who is gone reaches no memory.
            Err(error) if error.is_gone() => true,
            Err(error) => {
                tracing::warn!(controller = self.address(), %error, "it cannot be disabled: it is reset");
                self.registers.bus().reset().inspect_err(|error| tracing::error!(%error)).is_ok()
            }
        };
        self.change(State::Stopping, if stopped { State::Stopped } else { State::Lost });
        self.wake_lanes();
    }

    /// Ok if it is driven.
    ///
    /// # Errors
    /// [`NvmeError::Stopped`] with the reason.
    pub fn check(&self) -> Result<(), NvmeError> {
        if self.is_running() {
            return Ok(());
        }
        let reason = self.reason().text.clone();
        Err(NvmeError::Stopped { address: self.address().to_owned(), reason })
    }

    /// How requests end once it is not driven: ENODEV if it is gone, else EIO.
    #[cold]
    pub fn request_error(&self) -> IoError {
        if self.reason().gone { Errno::ENODEV.into() } else { Errno::EIO.into() }
    }

    /// Wakes the lane of `ctx` whenever the state has changed, until the guard goes.
    pub fn join(self: &Arc<Control>, ctx: &AioContext) -> LaneGuard {
        let id = self.next_lane.fetch_add(1, Ordering::Relaxed);
        self.lanes().push((id, ctx.handle()));
        LaneGuard { control: Arc::clone(self), id }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<(u64, AioHandle)>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_lanes(&self) {
        for (_, lane) in self.lanes().iter() {
            wake(lane);
        }
    }
}

/// Ends a lane's sleep. Allocates nothing.
pub fn wake(lane: &AioHandle) {
    // A full mailbox wakes as well, and a lane that has ended needs no waking.
    let _ = lane.try_post(Box::new(|_| {}));
}

/// A lane that is told of changes.
pub struct LaneGuard {
    control: Arc<Control>,
    id: u64,
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        self.control.lanes().retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_one_another_as_drawn() {
        let allowed: Vec<(State, State)> = State::ALL
            .into_iter()
            .flat_map(|from| State::ALL.map(|to| (from, to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        let drawn = [
            (State::Running, State::Stopping),
            (State::Stopping, State::Stopped),
            (State::Stopping, State::Lost),
        ];
        assert_eq!(allowed, drawn);
    }
}
