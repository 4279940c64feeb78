//! Corelane's engine, in two halves that stay apart.
//!
//! - [`aio`] is the event loop: one pinned thread, one [`aio::AioContext`], one io_uring to sleep in. It knows
//!   nothing of blocks.
//! - [`block`] is the block layer: limits, requests, backends, channels. It names no concrete driver.
//!
//! The vocabulary is QEMU's, since the users of a block layer know it.

pub mod aio;
pub mod block;
