//! What Corelane's tests share, and the tidy check.

pub mod tidy;
