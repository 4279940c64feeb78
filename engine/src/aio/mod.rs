//! The event loop: one pinned thread, one [`AioContext`], one io_uring to sleep in. It knows nothing of blocks.
//!
//! A turn goes: mailbox, ready tasks and bottom halves, the pollers' commits, one `io_uring_enter(2)` that submits and
//! waits, completions, timers. Everything here is `!Send`, except what is made to be reached from other threads:
//! [`AioHandle`], wakers, [`BhHandle`].
//!
//! Unsafe code stands in `ring.rs` only, where entries are handed to the kernel.

mod affinity;
mod bh;
mod config;
mod context;
mod current;
mod error;
mod fd;
mod handle;
mod idle;
mod offload;
mod oneshot;
mod poller;
mod ready;
mod ring;
mod shared;
mod signal;
mod task;
mod thread;
mod timer;
mod wake;

pub use affinity::{allowed_cores, pin_current_thread, unpin_current_thread};
pub use bh::{BhHandle, BottomHalf};
pub use config::{AioConfig, CoreChoice, PollMode};
pub use context::{AioContext, Wait};
pub use current::Entered;
pub use error::AioError;
pub use fd::{FdReady, Interest};
pub use handle::{AioHandle, Call, Mail, Post, PostError};
pub use offload::{MAX_THREADS as MAX_OFFLOAD_THREADS, Offload, offload};
pub use poller::{Poller, PollerId, Readiness};
pub use ring::{Cqe, CqeSink, FixedFile, MAX_BUFFER_BYTES, PlainOp, Ring, RingConfig, SetupFlags, SinkId};
pub use shared::LaneId;
pub use task::JoinHandle;
pub use thread::IoThread;
pub use timer::{Sleep, TimerId};
