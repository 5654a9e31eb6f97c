//! All integration tests, in one binary.

mod api;
mod cli;
mod disk;
mod faults;
mod filesystems;
mod fuzz_seeds;
mod guards;
mod kernel;
mod hostile;
mod kill;
mod layers;
mod lifecycle;
mod powercut;
mod quarantine;
mod locks;
mod pairs;
mod race;
mod refs_model;
mod removal;
mod repair;
mod schedule;
mod soak;
mod sizes;
mod stops;
mod support;
mod verify;
