//! The rules of `cadence.rs`, one by one.
