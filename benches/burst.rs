//! Durable forks, in a burst and one at a time, against the bare system calls that each needs.
//!
//! `cargo bench --bench burst -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty]` makes its own file systems on
//! loop devices (root).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    unsafe_code,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

mod floor;
mod frame;
#[path = "../tests/it/support/mod.rs"]
mod support;

use floor::{Floor, Level, Mode};
use frame::{Options, Round, What};
use snapkeep::ids::SnapshotId;
use support::mounts::Kind;
use support::{NEVER, Open, World, ask, fixture};

const BURST: usize = 1000;
const SINGLE: usize = 50;
const SIZE: u64 = 24 << 30;

fn main() {
    let options = Options::parse();
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let what = What { what: "1,000 forks at once, durable", against: "floor clone 4", unit: "ms", wanted: Some(1.15), size: SIZE };
        options.measure_on(kind, what, |round| (burst(round, BURST), floor(round, Mode::Clone, Level::BurstSyncfs, BURST)));
        let against = "floor clone 5, a sync for each file";
        let what = What { what: "1,000 forks at once, durable", against, unit: "ms", wanted: Some(1.0), size: SIZE };
        options.measure_on(kind, what, |round| (burst(round, BURST), floor(round, Mode::Clone, Level::BurstFsync, BURST)));
        let wanted = if kind == Kind::Xfs { 1.0 / 1.5 } else { 1.0 / 3.0 };
        let against = "the same one after the other";
        let what = What { what: "1,000 forks at once, durable (each)", against, unit: "us", wanted: Some(wanted), size: SIZE };
        options.measure_on(kind, what, |round| (burst(round, BURST) * 1e3 / BURST as f64, one_by_one(round, SINGLE) * 1e3 / SINGLE as f64));
    }
    let what = What { what: "a fork by itself, durable", against: "floor clone 2", unit: "ms", wanted: None, size: SIZE };
    options.measure(what, |round| {
        let mode = if round.kind == Kind::Ext4 { Mode::ReadWrite } else { Mode::Clone };
        (one_by_one(round, SINGLE) / SINGLE as f64, floor(round, mode, Level::Directory, SINGLE) / SINGLE as f64)
    });
}

/// Where disks are copied the fixture is small: its bytes would be all that is measured.
fn scale(kind: Kind) -> u64 {
    if kind == Kind::Ext4 { 64 } else { 1 }
}

/// A store with a snapshot that was forked once.
fn warm(round: &Round<'_>) -> (Open, SnapshotId) {
    let world = World::at(&round.path.join(format!("world-{}", uuid::Uuid::new_v4())));
    fixture::make(&world.vms.join("golden"), scale(round.kind)).unwrap();
    let open = world.open();
    let id = open.take("golden").unwrap();
    open.fork(&id, "warm").unwrap();
    (open, id)
}

/// Milliseconds for all.
fn burst(round: &Round<'_>, forks: usize) -> f64 {
    let (open, id) = warm(round);
    let asks: Vec<_> = (0..forks).map(|n| ask(&id, &format!("f{n}"))).collect();
    let ((), took) = round.time(|| {
        assert!(open.forks.accept(asks).iter().all(Result::is_ok));
        assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, forks);
    });
    took.as_secs_f64() * 1e3
}

/// Milliseconds for all.
fn one_by_one(round: &Round<'_>, forks: usize) -> f64 {
    let (open, id) = warm(round);
    let ((), took) = round.time(|| (0..forks).for_each(|n| drop(open.fork(&id, &format!("f{n}")).unwrap())));
    took.as_secs_f64() * 1e3
}

/// Milliseconds for all.
fn floor(round: &Round<'_>, mode: Mode, level: Level, forks: usize) -> f64 {
    let (source, root) = (round.path.join("source"), round.path.join("floor"));
    fixture::make(&source, scale(round.kind)).unwrap();
    std::fs::create_dir(&root).unwrap();
    let floor = Floor { source: &source, root: &root, mode, level, forks, threads: 1, small_files: true, json_files: 1, remove: false };
    round.time(|| floor::run(&floor).unwrap()).1.as_secs_f64() * 1e3
}
