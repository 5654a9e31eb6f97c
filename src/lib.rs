//! snapkeep
pub mod clock;
pub mod config;
pub mod ids;
pub mod policy;
pub mod store;
