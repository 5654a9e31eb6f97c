//! The rules of `retention.rs`, one by one and against a naive model.
