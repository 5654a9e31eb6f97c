//! All integration tests, in one binary.

mod api;
mod cli;
mod faults;
mod filesystems;
mod guards;
mod kill;
mod layers;
mod lifecycle;
mod locks;
mod pairs;
mod race;
mod refs_model;
mod removal;
mod schedule;
mod stops;
mod support;
mod verify;
