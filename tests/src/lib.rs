//! What Corelane's tests share: what to do without a thing that the machine lacks, scratch files, seeds, loop
//! devices, our own programs, and an allocator that counts. And the [`tidy`] check.
//!
//! This is a library of tests: where a set-up fails that a test cannot go on without, it panics with the reason.

pub mod alloc;
mod lack;
pub mod limited;
mod loop_device;
pub mod model;
mod program;
mod scratch;
mod seed;
pub mod tidy;
pub mod vm;

pub use lack::{Lack, skip};
pub use loop_device::LoopDevice;
pub use program::{foreign_program, own_program, run};
pub use scratch::Scratch;
pub use seed::Seed;

/// The README's example, compiled so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
