//! snapkeep
pub mod clock;
pub mod config;
pub mod event;
pub mod fork;
pub mod ids;
pub mod policy;
pub mod snapshot;
pub mod store;
