//! All integration tests, in one binary.

mod api;
mod cli;
mod faults;
mod filesystems;
mod fuzz_seeds;
mod guards;
mod hostile;
mod kill;
mod layers;
mod lifecycle;
mod race;
mod removal;
mod schedule;
mod stops;
mod support;
mod verify;
