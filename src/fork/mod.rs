//! Forks: new instances made from snapshots.
//!
//! A fork shares nothing writable with its source or its siblings, and keeps no way to its source's disk.

pub mod rewrite;
