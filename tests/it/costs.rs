//! What the main path asks of the kernel and of the allocator, against numbers that are committed beside this: they are the
//! same on every machine, so a change that makes something dearer is seen where no clock can be trusted.
//!
//! `UPDATE_COSTS=1 cargo test --test it costs` writes the numbers anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::counts::{Counter, Counts, allocations};
use crate::support::{NEVER, Open, World, ask, fixture};
use snapkeep::config::{PoolConfig, Prefork};
use snapkeep::fork::pool::Turn;
use snapkeep::ids::SnapshotId;
use snapkeep::reclaim::Removal;
use snapkeep::worker::backend::Backend as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Where no file system makes a difference.
const MEMORY: &str = "/dev/shm";
/// Allocations may differ by so much: ids are random, and trees of them split here or there.
const SLACK: f64 = 0.05;

type Costs = BTreeMap<String, BTreeMap<String, u64>>;

#[test]
fn the_main_path_asks_no_more_of_kernel_and_allocator_than_the_committed_numbers_say() {
    if !Path::new(MEMORY).is_dir() {
        eprintln!("skipped: {MEMORY} is not there, and other file systems are asked for other things");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/costs.json");
    let found = measure();
    if std::env::var_os("UPDATE_COSTS").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let wanted: Costs = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (what, wanted) in &wanted {
        let found = &found[what];
        println!("{what}: {found:?}");
        for name in wanted.keys().chain(found.keys()) {
            let [wanted, found] = [wanted, found].map(|all| all.get(name).copied().unwrap_or(0));
            let is_same = match name.as_str() {
                "allocations" => (found as f64 - wanted as f64).abs() <= (wanted as f64 * SLACK).max(3.0),
                // Times and random names are a few digits more or less.
                "bytes written" => found.abs_diff(wanted) <= wanted / 100 + 16,
                _ => found == wanted,
            };
            assert!(is_same, "{what}: {name} is {found}, and {wanted} is committed; if that is meant: UPDATE_COSTS=1");
        }
    }
}

fn measure() -> Costs {
    let mut costs = Costs::new();
    let mut note = |what: &str, (counts, allocations): (Counts, u64)| {
        let mut all = counts.calls;
        all.insert("bytes written".to_owned(), counts.bytes);
        all.insert("allocations".to_owned(), allocations);
        costs.insert(what.to_owned(), all);
    };
    let (_dir, world) = world();
    let counter = Counter::default();
    let open = world.try_open(counter.fs()).unwrap();
    open.recover().unwrap();
    let during = |work: &mut dyn FnMut()| {
        let before = allocations();
        let ((), counts) = counter.during(work);
        (counts, allocations() - before)
    };
    let mut ids = Vec::new();
    note("a snapshot", during(&mut || ids.push(open.take("golden").unwrap())));
    let id = ids[0].clone();
    // The first one finds out what all have in common.
    open.fork(&id, "warm").unwrap();
    note("a fork", during(&mut || drop(open.fork(&id, "one").unwrap())));
    note("100 forks at once", during(&mut || burst(&open, &id, "b", 100)));
    fill(&open, 102);
    note("a fork out of the pool", during(&mut || drop(open.fork(&id, "pooled").unwrap())));
    note("a fork out of the pool, waited for", during(&mut || drop(open.fork_awaited(&id, "awaited").unwrap())));
    note("100 forks out of the pool at once", during(&mut || burst(&open, &id, "pooled-", 100)));
    assert_eq!(open.forks.pool().counts().ready, 0);
    open.forks.configure_pool(PoolConfig::default());
    let removals: Vec<Removal> = (0..100).map(|_| Removal { id: open.take("golden").unwrap(), reasons: Vec::new() }).collect();
    note("the cut of 100 snapshots", during(&mut || assert!(open.reclaim.remove_all(&removals, Duration::ZERO).iter().all(Result::is_ok))));
    note("unlinking 100 snapshots", during(&mut || assert_eq!(open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap().unlinked, 100)));
    drop(open);
    let worker = world.try_worker("[worker]\nthreads = 1\n", counter.fs()).unwrap();
    note("a show", during(&mut || drop(worker.snapshot(id.as_str()).unwrap())));
    costs
}

fn world() -> (tempfile::TempDir, World) {
    let dir = tempfile::tempdir_in(MEMORY).unwrap();
    let world = World::at(dir.path());
    fixture::make(&world.vms.join("golden"), 1024).unwrap();
    // Longer than a clock tick: what changed in the last one is flushed once more.
    std::thread::sleep(Duration::from_millis(100));
    (dir, world)
}

/// So many forks lie ready.
fn fill(open: &Open, ready: u32) {
    let rule = Prefork { policy: None, instances: None, exclude: globset::GlobSet::empty(), tags: Default::default(), newest: 1, ready };
    open.forks.configure_pool(PoolConfig { rules: vec![rule], ..PoolConfig::default() });
    while open.forks.tend_pool(&NEVER) == Turn::Done {}
    assert_eq!(open.forks.pool().counts().ready, u64::from(ready));
}

fn burst(open: &Open, id: &SnapshotId, prefix: &str, count: usize) {
    let asks = (0..count).map(|n| ask(id, &format!("{prefix}{n}"))).collect();
    assert!(open.forks.accept(asks).iter().all(Result::is_ok));
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, count);
}
