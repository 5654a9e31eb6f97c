//! HTTP on the worker's unix socket, and the client of it. Paths and fields are the contract's; what they do is the
//! [`Backend`](crate::worker::backend::Backend)'s.

mod client;
mod metrics;
mod reply;
mod router;
mod server;

pub use client::{Client, Reach};
pub use router::router;
pub use server::{ApiError, bind, serve};
