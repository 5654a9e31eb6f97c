//! All integration tests, in one binary.

mod api;
mod cli;
mod disk;
mod faults;
mod filesystems;
mod guards;
mod kernel;
mod kill;
mod layers;
mod lifecycle;
mod powercut;
mod race;
mod removal;
mod schedule;
mod stops;
mod support;
mod verify;
