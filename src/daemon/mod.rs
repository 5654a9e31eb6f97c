//! The long-running worker: who wakes what, signals, and the end in order. Deciding and doing are the worker's; here is
//! only the async edge around its blocking calls.

mod journal;
mod listen;
pub mod log;
mod notify;
mod reload;
mod run;
mod threads;

pub use run::run;
