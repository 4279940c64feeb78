//! What controllers answer, as people and programs read it.

pub mod identify;
pub mod log;
