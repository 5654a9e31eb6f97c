//! HTTP on the worker's unix socket (and on loopback, if the configuration says so), and the client of it. Paths and fields are
//! the contract's; what they do is the [`Backend`](crate::worker::backend::Backend)'s. `operations` is the one list of what there
//! is: the gate, the OpenAPI document and the tests go by it.

mod access;
mod ask;
mod client;
mod feed;
mod gate;
mod handlers;
mod metrics;
mod openapi;
mod operations;
mod page;
mod reply;
mod router;
mod server;
mod timeline;

pub use access::{Peer, WhoView};
pub use client::{Client, Reach};
pub use openapi::{openapi, openapi_text};
pub use operations::{HealthView, Right};
pub use router::{Api, router};
pub use server::{ApiError, Listeners, bind, bind_tcp, serve};
