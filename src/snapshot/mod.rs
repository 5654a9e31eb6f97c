//! Snapshots on their way in (`take`, with `copy`, `digest` and `late`) and out (`materialize`, `restore`).

pub mod copy;
pub mod digest;
pub mod import;
pub mod late;
pub mod materialize;
pub mod pack;
pub mod restore;
mod settle;
pub mod space;
pub mod take;
