//! The store: the only place that touches the disk.
pub mod fs;
pub mod manifest;
