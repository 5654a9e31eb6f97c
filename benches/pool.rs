//! Forks out of the ready pool, against the bare system calls that a fork without a disk needs, and against forks without
//! a pool.
//!
//! `cargo bench --bench pool -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty]` makes its own file systems on
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
use snapkeep::config::{PoolConfig, Prefork};
use snapkeep::fork::pool::Turn;
use snapkeep::fork::queue::Request;
use snapkeep::fork::{ForkError, Forks};
use snapkeep::ids::SnapshotId;
use snapkeep::reclaim::Reclaim;
use snapkeep::store::Store;
use snapkeep::store::fs::Fs;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use support::mounts::Kind;
use support::{NEVER, Open, World, ask, fixture, fork_config};

/// Forks one after the other.
const SINGLE: usize = 32;
/// Forks at once.
const BURST: usize = 1000;
const SIZE: u64 = 24 << 30;
/// So many extents cost a reflink a third of a second on xfs (bench/README.md).
const EXTENTS: u64 = 8192;

/// Files of a fork of the fixture that carry names or paths: its record, and two that named the source.
const WRITTEN: usize = 3;

/// What is forked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The fixture, divided by so much.
    Fixture(u64),
    /// The same, divided by 64, with a disk of 4 GiB in 8,192 extents.
    Extents,
}

fn main() {
    let options = Options::parse();
    for (what, source) in
        [("a durable fork out of the pool", Source::Fixture(8)), ("a durable fork out of the pool, 8,192 extents", Source::Extents)]
    {
        let what = What { what, against: "floor link 2 + a journal sync", unit: "us", wanted: Some(1.3), size: SIZE };
        // Where each of these disks is copied, there is room for some of them only.
        let count = if matches!(source, Source::Extents) { SINGLE / 4 } else { SINGLE };
        options.measure(what, |round| (one_by_one(round, source, (count, count), AWAITED), single_floor(round, count, 1)));
    }
    let against = "the same, three files as here";
    let what = What { what: "a durable fork out of the pool", against, unit: "us", wanted: None, size: SIZE };
    options.measure(what, |round| (one_by_one(round, Source::Fixture(8), (SINGLE, SINGLE), AWAITED), single_floor(round, SINGLE, WRITTEN)));
    let what = What { what: "a durable fork, pool empty", against: "the same without a pool", unit: "us", wanted: Some(1.0), size: SIZE };
    options.measure(what, |round| {
        let source = Source::Fixture(if round.kind == Kind::Ext4 { 64 } else { 8 });
        (one_by_one(round, source, (0, SINGLE), AWAITED), without(round, source, SINGLE))
    });
    at_once(&options);
}

/// A thousand at once, where a disk is copied: a small one, so that a thousand of them fit. To fill the pool takes longest, so that what
/// they are measured against follows in the same round.
fn at_once(options: &Options) {
    let source = Source::Fixture(64);
    let (all, each) = ("1,000 forks at once, full pool", "1,000 forks at once, full pool (each)");
    let what = |what, against, unit, wanted| What { what, against, unit, wanted, size: SIZE };
    let whats = [
        what(all, "floor link 4", "ms", Some(1.15)),
        what(all, "floor link 4, three files as here", "ms", None),
        what(all, "floor link 5, a sync for each file", "ms", Some(1.0)),
        what(each, "the same one after the other", "us", Some(0.1)),
        // Ours share their syncs also one after the other: the floor has a sync for each file, directory and name.
        what(each, "floor link 2 + a journal sync, three files as here", "us", Some(0.1)),
    ];
    options.measure_together(Kind::Ext4, &whats, |round, asked| {
        let ours = burst(round, source);
        let floor = |level, files| run_floor(round, level, (BURST, files), || {}) / 1e3;
        let others: [&dyn Fn() -> f64; 5] = [
            &|| floor(Level::BurstSyncfs, 1),
            &|| floor(Level::BurstSyncfs, WRITTEN),
            &|| floor(Level::BurstFsync, 1),
            &|| one_by_one(round, source, (SINGLE, SINGLE), Open::fork),
            &|| single_floor(round, SINGLE, WRITTEN),
        ];
        let pair = |at: usize, other: &&dyn Fn() -> f64| {
            (if whats[at].what == all { ours / 1e3 } else { ours / BURST as f64 }, if asked[at] { other() } else { f64::NAN })
        };
        others.iter().enumerate().map(|(at, other)| pair(at, other)).collect()
    });
}

/// The source `golden` in a new world, whose forks have paths of usual length: a ref is a link to one, and ext4 gives a link of 60 bytes
/// or more a block of its own.
fn world(round: &Round<'_>, source: Source) -> World {
    let tag = uuid::Uuid::new_v4().simple().to_string();
    let world = World::at(&round.path.join(&tag[..8]));
    let golden = world.vms.join("golden");
    match source {
        Source::Fixture(scale) => fixture::make(&golden, scale).unwrap(),
        Source::Extents => {
            fixture::make(&golden, 64).unwrap();
            extents(&golden.join("overlay.raw"));
        }
    }
    world
}

/// A disk of 4 GiB with 64 KiB of data in each 512: written backwards and synced now and then, so that no two are joined.
fn extents(disk: &Path) {
    let slot = (4 << 30) / EXTENTS;
    let (file, block) = (File::create(disk).unwrap(), vec![0xa5; 64 << 10]);
    file.set_len(4 << 30).unwrap();
    for n in (0..EXTENTS).rev() {
        std::os::unix::fs::FileExt::write_all_at(&file, &block, n * slot).unwrap();
    }
    file.sync_all().unwrap();
}

/// A store with a snapshot that was forked once, and a pool for it of so many; `None` is a store without a pool.
fn store(world: &World, ready: Option<usize>) -> (Open, SnapshotId) {
    let store = Store::open(&world.options(Fs::real())).unwrap();
    let forks = Arc::new(Forks::open(Arc::clone(&store), fork_config(), 2).0);
    let reclaim = Reclaim::new(Arc::clone(&store), Arc::clone(&forks));
    let open = Open { store, forks, reclaim };
    open.recover().unwrap();
    let id = open.take("golden").unwrap();
    open.fork(&id, "warm").unwrap();
    if let Some(ready) = ready {
        let rule = Prefork {
            policy: None,
            instances: None,
            exclude: globset::GlobSet::empty(),
            tags: Default::default(),
            newest: 1,
            ready: u32::try_from(ready).unwrap(),
        };
        open.forks.configure_pool(PoolConfig { rules: vec![rule], ..PoolConfig::default() });
        while open.forks.tend_pool(&NEVER) == Turn::Done {}
        assert_eq!(open.forks.pool().counts().ready, ready as u64);
    }
    (open, id)
}

/// How a fork is asked for and made.
type Make = fn(&Open, &SnapshotId, &str) -> Result<Request, ForkError>;

/// As `snapkeep fork` does it, and a request with `Prefer: wait`: whoever asks waits until it is made.
const AWAITED: Make = Open::fork_awaited;

/// Microseconds for each of `forks`, with `ready` in the pool.
fn one_by_one(round: &Round<'_>, source: Source, (ready, forks): (usize, usize), make: Make) -> f64 {
    let world = world(round, source);
    let (open, id) = store(&world, Some(ready));
    time_each(round, &open, &id, forks, make)
}

fn without(round: &Round<'_>, source: Source, forks: usize) -> f64 {
    let world = world(round, source);
    let (open, id) = store(&world, None);
    time_each(round, &open, &id, forks, AWAITED)
}

fn time_each(round: &Round<'_>, open: &Open, id: &SnapshotId, forks: usize, make: Make) -> f64 {
    let ((), took) = round.time(|| (0..forks).for_each(|n| drop(make(open, id, &format!("f{n}")).unwrap())));
    took.as_secs_f64() * 1e6 / forks as f64
}

/// Microseconds for all.
fn burst(round: &Round<'_>, source: Source) -> f64 {
    let world = world(round, source);
    let (open, id) = store(&world, Some(BURST));
    let asks: Vec<_> = (0..BURST).map(|n| ask(&id, &format!("f{n}"))).collect();
    let ((), took) = round.time(|| {
        assert!(open.forks.accept(asks).iter().all(Result::is_ok));
        assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, BURST);
    });
    took.as_secs_f64() * 1e6
}

fn run_floor(round: &Round<'_>, level: Level, (forks, json_files): (usize, usize), more: impl Fn()) -> f64 {
    let (source, root) = (round.path.join("source"), round.path.join(format!("floor-{}", uuid::Uuid::new_v4())));
    if !source.exists() {
        fixture::make(&source, 64).unwrap();
    }
    std::fs::create_dir(&root).unwrap();
    let (each, turns) = if matches!(level, Level::BurstSyncfs | Level::BurstFsync) { (forks, 1) } else { (1, forks) };
    let roots: Vec<_> = (0..turns).map(|n| root.join(n.to_string())).collect();
    roots.iter().for_each(|root| std::fs::create_dir(root).unwrap());
    let ((), took) = round.time(|| {
        for root in &roots {
            more();
            let floor = Floor {
                source: &source,
                root,
                mode: Mode::Link,
                level,
                forks: each,
                threads: 1,
                small_files: false,
                json_files,
                remove: false,
            };
            floor::run(&floor).unwrap();
        }
    });
    took.as_secs_f64() * 1e6
}

/// Microseconds for each: the fork, and 200 bytes of journal before it.
fn single_floor(round: &Round<'_>, forks: usize, files: usize) -> f64 {
    let journal = File::options().create(true).append(true).open(round.path.join("floor-journal")).unwrap();
    run_floor(round, Level::Directory, (forks, files), || {
        (&journal).write_all(&[b'x'; 200]).unwrap();
        journal.sync_data().unwrap();
    }) / forks as f64
}
