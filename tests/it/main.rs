//! All integration tests, in one binary.

mod api;
mod cli;
mod faults;
mod faults_behind;
mod filesystems;
mod guards;
mod kill;
mod layers;
mod lifecycle;
mod race;
mod removal;
mod schedule;
mod stops;
mod support;
mod verify;
