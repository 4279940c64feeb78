//! What is done when a controller does not do what it should: deadlines, aborts, resets, retries, events.
//!
//! One thread for each controller, the [`warden`], counts the ticks of the deadlines, looks at the registers and at what
//! the host says of the function, keeps event requests with the controller, aborts late commands, and stops and restarts
//! the controller. What the controller tells by itself is found out on a thread of its own ([`listen`], [`watch`]). Lanes learn of all of it by one word that they compare once a turn ([`control`], [`state`]); what they
//! then do stands in `leaf/away.rs`.
//!
//! Invariants:
//! - No clock is read and no timer is set for a command ([`deadline`]).
//! - A command's id and memory are free again only when its completion came, or the controller has provably stopped.
//! - Nothing here waits for a lane but for the end of what it rings just then, and every wait has a bound: a controller comes
//!   back or is given up in bounded time, whatever the device does.

pub mod control;
pub mod deadline;
pub mod event;
pub mod listen;
pub mod restart;
pub mod retry;
pub mod state;
pub mod warden;
pub mod watch;

pub use event::ControllerEvent;
pub use state::State;
