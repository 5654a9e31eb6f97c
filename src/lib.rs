//! snapkeep
pub mod clock;
pub mod config;
pub mod driver;
pub mod event;
pub mod fork;
pub mod ids;
pub mod policy;
pub mod reclaim;
pub mod schedule;
pub mod snapshot;
pub mod store;
pub mod worker;
