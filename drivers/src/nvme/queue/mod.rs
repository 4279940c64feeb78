//! Queue pairs: rings, doorbells, command ids and the entries that say where data is. Nothing here knows of requests.

pub mod bell;
pub mod memory;
pub mod pair;
pub mod prp;
pub mod ring;
