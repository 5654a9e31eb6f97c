//! All integration tests, in one binary.

mod layers;
mod lifecycle;
mod stops;
mod support;
mod verify;
