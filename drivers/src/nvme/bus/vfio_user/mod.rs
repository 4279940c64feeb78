//! The bus to NVMe controllers that another process provides over vfio-user 0.1: SPDK's `nvmf` target, our own
//! `nvme-model`, or any other server of the protocol (QEMU `docs/interop/vfio-user.rst`).
//!
//! A server listens on a Unix socket. [`VfioUserBus::open`] connects, asks what the function looks like, and from then on
//! registers are read and written by messages; doorbells are stores into memory that the server shares, if it does; memory
//! for DMA is given to it as file descriptors; interrupts are eventfds.
//!
//! - [`wire`] has the messages, [`capabilities`] what is said in the handshake, [`socket`] sends and receives them whole
//!   and in time. A server is made of the same three.
//! - [`Client`] asks questions and checks the answers.
//! - [`VfioUserBus`] is the [`Bus`](super::Bus) made of it.
//!
//! The `vfio_user` crate (0.1.7) has a client as well. It is not used: it waits for a dead server forever, never looks at
//! a reply's error flag, id, or length (and panics on some lengths), takes one descriptor a message, passes over the limits
//! that the server states, and reports `resettable` the wrong way round. Each would have to be worked around from outside
//! of private fields, so the protocol, which is small, is done here.
//!
//! Whom to trust: a server can be wrong in everything that it says, and gets an error for it. But what is shared is shared:
//! it can change memory that it was given at any time, and one that shortens the file of its doorbells makes the next
//! doorbell fault, since the files of some servers cannot be sealed.

mod bus;
pub mod capabilities;
mod client;
mod error;
mod mapper;
mod region;
pub mod socket;
pub mod wire;

pub use bus::{VfioUserBus, VfioUserOptions, socket_path};
pub use client::Client;
pub use error::CallError;
pub use region::Layout;
