//! All integration tests, in one binary.

mod cli;
mod kill;
mod layers;
mod lifecycle;
mod race;
mod stops;
mod support;
mod verify;
