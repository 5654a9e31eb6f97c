//! Snapshots on their way in (`copy`, `digest`) and out (`materialize`): trees of files, no store layout, no decisions.

pub mod copy;
pub mod digest;
pub mod materialize;
