//! The worker: one code path behind the command line, `once` and `run`.

pub mod backend;
pub mod problem;
pub mod view;
