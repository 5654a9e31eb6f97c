//! What does not grow with what is stored: the calls of a look, a refusal and a removal, whatever number of forks there is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::counts::{Counter, Counts};
use crate::support::fixture::Numbers;
use crate::support::many::{Many, make, world_in_memory};
use crate::support::{NEVER, World};
use snapkeep::ids::{ForkId, SnapshotId};
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::RefTarget;
use snapkeep::store::fs::Fs;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::{Backend, Removal};
use snapkeep::worker::problem::ProblemKind;
use snapkeep::worker::verify::verify;
use snapkeep::worker::view::{ForkBody, SnapshotFilter};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG: &str = "[worker]\nthreads = 1\n[trash]\ngrace = \"1h\"\n";

#[test]
fn a_store_that_was_made_at_once_is_one_that_was_taken_and_forked() {
    let (_dir, world, ids) = world_in_memory(Many { snapshots: 200, sources: 7, forks: 300, of_one: false });
    let worker = world.worker(CONFIG);
    assert_eq!((worker.store.index().count_present(), worker.store.index().count_refs()), (200, 300));
    assert!(!world.event_names().iter().any(|name| name.starts_with("fork.") || name.contains("quarantined")), "{:?}", world.event_names());
    let found = verify(&worker.store.fs, &worker.store.layout, &HashSet::new(), Flow::quiet());
    assert!(found.findings.is_empty() && found.snapshots == 200 && found.forks == 300, "{found:?}");
    // It forks as any other.
    worker.fork(ids[3].as_str(), &ForkBody { name: Some("one-more".to_owned()), ..ForkBody::default() }, None).unwrap();
    assert_eq!(worker.forks.run_ready(&NEVER, &NEVER).unwrap().done, 1);
    assert!(world.vms.join("one-more/memory").exists());
}

/// What each operation asks of the kernel in a store with so many forks of its first snapshot.
fn counts(forks: usize) -> Vec<(&'static str, Counts)> {
    let (_dir, world, ids) = world_in_memory(Many { snapshots: 20, sources: 4, forks, of_one: true });
    let counter = Counter::default();
    let worker = world.try_worker(CONFIG, counter.fs()).unwrap();
    assert_eq!(worker.store.index().get(&ids[0]).unwrap().refs.len(), forks);
    let (first, last) = (ids[0].as_str(), ids[19].as_str());
    let mut all = Vec::new();
    let (view, count) = counter.during(|| worker.snapshot(first).unwrap());
    assert_eq!(view.ref_count, forks as u64);
    all.push(("show", count));
    all.push(("show by name", counter.during(|| worker.snapshot(&format!("{}/{}", view.instance, view.name)).unwrap()).1));
    all.push(("ls", counter.during(|| worker.snapshots(&SnapshotFilter::default()).unwrap()).1));
    all.push(("status", counter.during(|| worker.status().unwrap()).1));
    let (of, count) = counter.during(|| worker.forks(Some(first)).unwrap());
    assert_eq!(of.forks.len(), forks);
    all.push(("forks", count));
    let (refused, count) = counter.during(|| worker.remove(first, Removal::Now).unwrap_err());
    assert!(refused.kind == ProblemKind::Conflict && refused.forks.len() == forks);
    all.push(("a removal that is refused", count));
    all.push(("a removal", counter.during(|| worker.remove(last, Removal::Now).unwrap()).1));
    let one = ForkBody { name: Some("one-more".to_owned()), ..ForkBody::default() };
    let make = || {
        worker.fork(first, &one, None).unwrap();
        worker.forks.run_ready(&NEVER, &NEVER).unwrap()
    };
    all.push(("a fork", counter.during(make).1));
    all.push(("a look at one new fork", counter.during(|| assert_eq!(worker.look_at_root(), 0)).1));
    fs::rename(world.vms.join("one-more"), world.vms.join("moved")).unwrap();
    all.push(("a fork that moved", counter.during(|| assert_eq!(worker.look_at_root(), 0)).1));
    let points_at = worker.store.index().refs().filter(|(.., target)| **target == RefTarget::At(world.vms.join("moved"))).count();
    assert_eq!(points_at, 1);
    all
}

#[test]
fn a_look_a_refusal_and_a_removal_ask_as_much_of_the_kernel_with_ten_thousand_forks_as_with_a_hundred() {
    let (few, many) = (counts(100), counts(10_000));
    for ((what, few), (_, many)) in few.iter().zip(&many) {
        // The refusal lists the snapshot's own refs, with one call: that the cut checks for itself is an invariant.
        assert_eq!(few, many, "{what}");
        println!("{what}: {} calls {:?}", many.total(), many.calls);
    }
}

type Refs = BTreeSet<(SnapshotId, ForkId, PathBuf)>;

fn refs(worker: &Worker) -> Refs {
    let at = |target: &RefTarget| match target {
        RefTarget::At(path) => path.clone(),
        RefTarget::Unreadable => PathBuf::new(),
    };
    worker.store.index().refs().map(|(snapshot, fork, target)| (snapshot.clone(), fork.clone(), at(target))).collect()
}

/// Somebody does something to a directory of the root, or beside it; what was there or is, no matter.
fn disturb(world: &World, beside: &Path, numbers: &mut Numbers) -> String {
    let mut names: Vec<PathBuf> = fs::read_dir(&world.vms).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| !path.ends_with(".snapkeep"));
    names.sort();
    let one = names[usize::try_from(numbers.below(names.len() as u64)).unwrap()].clone();
    let new = world.vms.join(format!("new-{}", numbers.below(12)));
    let out = beside.join(format!("out-{}", numbers.below(6)));
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to.join(".snapkeep")).unwrap();
        fs::copy(from.join(".snapkeep/fork.json"), to.join(".snapkeep/fork.json")).map(drop)
    };
    let what = numbers.below(8);
    let done = match what {
        0 => fs::remove_dir_all(&one),
        1 => fs::rename(&one, &new),
        2 => fs::rename(&one, &out),
        3 => fs::rename(&out, &new),
        // Not over a fork: of what is written into one that is there the kernel does not tell, and the pass of every ten minutes
        // finds it. One that has no record yet gets it now.
        4 if !new.join(".snapkeep/fork.json").exists() => copy(&one, &new),
        4 => Ok(()),
        5 => fs::create_dir(&new),
        // A copy whose record comes later.
        6 => fs::create_dir_all(new.join(".snapkeep")),
        _ => fs::remove_file(one.join(".snapkeep/fork.json")).and_then(|()| fs::remove_dir_all(&one)),
    };
    format!("{what} {} {done:?}", one.display())
}

#[test]
fn a_look_at_what_has_changed_finds_what_reading_all_of_the_root_finds() {
    for seed in 0..6 {
        let (dir, world, _) = world_in_memory(Many { snapshots: 3, sources: 1, forks: 40, of_one: false });
        let beside = dir.path().join("beside");
        fs::create_dir(&beside).unwrap();
        let worker = world.worker(CONFIG);
        let mut numbers = Numbers::new(seed);
        for round in 0..60 {
            let did: Vec<String> = (0..numbers.below(4)).map(|_| disturb(&world, &beside, &mut numbers)).collect();
            worker.look_at_root();
            let (looked, scan) = (refs(&worker), worker.forks.last_scan());
            worker.forks.forget_all_names();
            worker.look_at_root();
            assert_eq!(looked, refs(&worker), "seed {seed}, round {round}: {did:?}");
            assert_eq!(*scan, *worker.forks.last_scan(), "seed {seed}, round {round}: {did:?}");
        }
    }
}

#[test]
fn a_copy_whose_record_comes_after_its_directory_gets_its_ref_without_reading_all() {
    let (_dir, world, _) = world_in_memory(Many { snapshots: 1, sources: 1, forks: 2, of_one: true });
    let away = world.vms.parent().unwrap().join("away");
    fs::rename(world.vms.join("fork-0"), &away).unwrap();
    let counter = Counter::default();
    let worker: Arc<Worker> = world.try_worker(CONFIG, counter.fs()).unwrap();
    assert_eq!(worker.store.index().count_refs(), 1);
    let copy = world.vms.join("copy");
    fs::create_dir_all(copy.join(".snapkeep")).unwrap();
    worker.look_at_root();
    worker.look_at_root();
    fs::copy(away.join(".snapkeep/fork.json"), copy.join(".snapkeep/fork.json")).unwrap();
    let (_, counts) = counter.during(|| worker.look_at_root());
    assert_eq!(worker.store.index().count_refs(), 2, "{counts:?}");
    assert!(!counter.calls().iter().any(|(_, path)| path.starts_with(world.vms.join("fork-1"))), "all was read");
}

#[test]
fn a_root_that_cannot_be_watched_is_read_as_a_whole() {
    let world = World::new();
    make(&world, Many { snapshots: 1, sources: 1, forks: 3, of_one: true });
    // Nobody asked for a watch: as where the kernel gives none.
    let open = world.try_open(Fs::real()).unwrap();
    open.recover().unwrap();
    fs::remove_dir_all(world.vms.join("fork-0")).unwrap();
    assert_eq!(open.forks.look().unwrap(), 1);
    assert_eq!(open.store.index().count_refs(), 2);
}
