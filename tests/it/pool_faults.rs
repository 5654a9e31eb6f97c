//! The sweep of `faults.rs` over the ready pool: filling, handing out, draining, dropping, and the start behind a crash. `FULL=1`
//! and `FAULTS="pool, fill"` as there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::faults::sweep_all;
use crate::support::sweep::{CONFIG, Live, Row, Scene, Told};
use crate::support::{NEVER, ask};
use snapkeep::fork::pool::Turn;
use snapkeep::fork::queue::{Ask, RequestState};
use snapkeep::store::fs::{Commits, Fs};
use snapkeep::store::pool::BLANK;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

const ROWS: &[Row] = &[
    Row { name: "pool, fill", prepare: with_rule, act: fill, check: filled, from_start: false, keeps_source: true },
    Row { name: "pool, fork", prepare: with_pool, act: fork, check: forked, from_start: false, keeps_source: true },
    Row { name: "pool, fork in order", prepare: with_pool_in_order, act: fork, check: forked, from_start: false, keeps_source: true },
    Row {
        name: "pool, fork awaited",
        prepare: with_pool_in_order,
        act: fork_awaited,
        check: forked,
        from_start: false,
        keeps_source: true,
    },
    Row { name: "pool, start and fork", prepare: with_leftovers, act: fork, check: forked, from_start: true, keeps_source: true },
    Row { name: "pool, remove", prepare: with_pool, act: remove, check: removed, from_start: false, keeps_source: true },
    Row { name: "pool, drop", prepare: without_rule, act: drop_all, check: dropped, from_start: false, keeps_source: true },
];

/// So many for each of the two snapshots; in the long form two.
static READY: LazyLock<usize> = LazyLock::new(|| if std::env::var_os("FULL").is_some() { 2 } else { 1 });
static WITH_RULE: LazyLock<&'static str> = LazyLock::new(|| {
    let rule = format!("[[prefork]]\ninstances = [\"a\"]\nnewest = 2\nready = {}\n", *READY);
    Box::leak(format!("{CONFIG}{rule}").into_boxed_str())
});

fn with_rule(scene: &Scene) {
    *scene.config.lock().unwrap() = *WITH_RULE;
}

fn with_pool(scene: &Scene) {
    with_rule(scene);
    fill(scene, &scene.start(Fs::real()).unwrap()).unwrap();
}

/// As on xfs, and on ext4 with a journal.
fn with_pool_in_order(scene: &Scene) {
    with_pool(scene);
    *scene.commits.lock().unwrap() = Commits::InOrder;
}

fn without_rule(scene: &Scene) {
    with_pool(scene);
    *scene.config.lock().unwrap() = CONFIG;
}

fn with_leftovers(scene: &Scene) {
    with_pool(scene);
    let pool = scene.world.vms.join(".snapkeep/pool");
    for dir in [pool.join(scene.id.as_str()).join(".faaaaaaaaaaaaaaaa"), pool.join(".gone-faaaaaaaaaaaaaaab")] {
        fs::create_dir(&dir).unwrap();
        fs::hard_link(scene.world.store.join("snapshots").join(scene.id.as_str()).join("data/memory"), dir.join("memory")).unwrap();
    }
}

fn entries(scene: &Scene) -> Vec<PathBuf> {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let all = below(scene.world.vms.join(".snapkeep/pool")).into_iter().flat_map(below);
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('f')).collect()
}

fn tend(live: &Live) {
    for _ in 0..100 {
        if live.forks.tend_pool(&NEVER) != Turn::Done {
            return;
        }
    }
    panic!("the pool never settles");
}

fn fill(scene: &Scene, live: &Live) -> Result<(), String> {
    tend(live);
    let counts = live.forks.pool().counts();
    let wanted = 2 * *READY;
    let full = counts.wanted == wanted as u64 && counts.ready == wanted as u64 && entries(scene).len() >= wanted;
    full.then_some(()).ok_or_else(|| format!("{counts:?}"))
}

/// The harness has one fork made at the end, of the pool as anybody's.
fn taken(scene: &Scene) -> usize {
    usize::from(scene.world.vms.join("late").exists())
}

/// Whatever has its own name is whole, and what is in memory is on the disk.
fn filled(scene: &Scene, live: &Live, told: Told) {
    let ready = usize::try_from(live.forks.pool().counts().ready).unwrap();
    let there = entries(scene);
    assert!(there.len() >= ready && (told != Told::Done || ready + taken(scene) == 2 * *READY), "{ready} known, {there:?}");
    for entry in there {
        let snapshot = scene.world.store.join("snapshots").join(entry.parent().unwrap().file_name().unwrap()).join("data");
        for file in ["overlay.raw", "memory"] {
            assert_eq!(fs::read(entry.join(file)).unwrap(), fs::read(snapshot.join(file)).unwrap(), "{}", entry.display());
        }
        for file in ["config.json", ".snapkeep/fork.json"] {
            assert_eq!(fs::read(entry.join(file)).unwrap(), BLANK, "{}", entry.display());
        }
    }
}

fn fork(scene: &Scene, live: &Live) -> Result<(), String> {
    scene.accept(live, &scene.id, &["b", "c", "d"])?;
    scene.build(live)
}

/// As many as lie ready, of which nobody is told before they are made; and then the others.
fn fork_awaited(scene: &Scene, live: &Live) -> Result<(), String> {
    let names = &["b", "c"][..*READY];
    let asked = |name: &str| live.forks.requests().into_iter().find(|request| request.name.as_str() == name);
    let asks = names.iter().filter(|name| asked(name).is_none()).map(|name| Ask { waits: true, ..ask(&scene.id, name) }).collect();
    live.forks.accept(asks).into_iter().try_for_each(|answer| answer.map(drop)).map_err(|e| e.to_string())?;
    live.forks.run_ready(&NEVER, &NEVER).map_err(|e| e.to_string())?;
    for request in names.iter().map(|name| asked(name).unwrap()) {
        if request.state != RequestState::Done {
            return Err(format!("{} is {:?}: {:?}", request.name, request.state, request.error));
        }
        scene.tell(request);
    }
    fork(scene, live)
}

fn forked(scene: &Scene, live: &Live, told: Told) {
    let mut disks = BTreeSet::new();
    for entry in entries(scene) {
        disks.insert(fs::metadata(entry.join("overlay.raw")).unwrap().ino());
    }
    for name in ["b", "c", "d", "f", "late"] {
        let dir = scene.world.vms.join(name);
        assert!(dir.exists() || told != Told::Done || name == "late");
        if let Ok(disk) = fs::metadata(dir.join("overlay.raw")) {
            assert!(disks.insert(disk.ino()) && disk.nlink() == 1, "{name} has a disk of its own");
            assert!(fs::read_to_string(dir.join("config.json")).unwrap().contains(&format!("/{name}/overlay.raw")), "{name}");
        }
    }
    let forks = ["b", "c", "d", "f", "late"].iter().filter(|n| scene.world.vms.join(n).exists()).count();
    assert!(live.ref_count(&scene.id) >= forks.max(live.forks.waiting_for(&scene.id).len()));
}

fn remove(scene: &Scene, live: &Live) -> Result<(), String> {
    if live.store.known(&scene.spare).is_ok() {
        live.remove(&scene.spare).map_err(|e| e.to_string())?;
    }
    live.reclaim.sweep(Duration::ZERO, Duration::ZERO).map(drop).map_err(|e| e.to_string())
}

fn removed(scene: &Scene, live: &Live, told: Told) {
    let is_there = live.store.known(&scene.spare).is_ok();
    assert_eq!(live.store.manifest(&scene.spare).is_ok(), is_there, "in memory as on the disk");
    assert!(told != Told::Done || !is_there);
    let ready = |id: &snapkeep::ids::SnapshotId| live.store.index().get(id).map_or(0, |known| known.pool);
    assert!(is_there || ready(&scene.spare) == 0);
    assert_eq!(ready(&scene.id) + taken(scene), *READY, "the other's pool is nobody's business");
    // A cut that failed leaves a snapshot that can be forked, with or without its pool.
    if is_there && told == Told::Failed {
        live.accept(&scene.spare, "of-spare").unwrap();
        live.forks.run_ready(&NEVER, &NEVER).unwrap();
        let dir = scene.world.vms.join("of-spare");
        assert!(dir.join("overlay.raw").exists());
        fs::remove_dir_all(dir).unwrap();
        live.forks.reconcile().unwrap();
    }
}

fn drop_all(scene: &Scene, live: &Live) -> Result<(), String> {
    tend(live);
    let left = entries(scene).len();
    (left == 0).then_some(()).ok_or_else(|| format!("{left} are left"))
}

fn dropped(scene: &Scene, live: &Live, told: Told) {
    assert!(told != Told::Done || live.forks.pool().counts().ready == 0);
    assert!(told != Told::Done || entries(scene).is_empty());
}

#[test]
fn whatever_call_of_the_pool_fails_no_fork_is_lost_and_nothing_is_handed_out_that_is_not_whole() {
    sweep_all(ROWS);
}
