//! The cut of many: the verdicts of one by one, one sync for a batch, no fork lost to it, and what was cut is reported.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::{NEVER, Open, World, instance};
use nix::errno::Errno;
use proptest::test_runner::{Config, TestRunner};
use snapkeep::event::Event;
use snapkeep::ids::{HoldName, SnapshotId};
use snapkeep::reclaim::{ReclaimError, Removal};
use snapkeep::store::StorePin;
use snapkeep::store::fs::{Fs, Gate, Op, StopAfter};
use snapkeep::worker::backend::Backend as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

/// What may be about a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Nothing,
    LiveFork,
    QueuedFork,
    Hold,
    Pin,
    Expiring,
    Quarantined,
    /// Only the disk knows of it.
    StrayRef,
    StrayHold,
    UnreadableRef,
    BadManifest,
    /// Somebody has a link to its memory.
    Linked,
    /// It has its memory file in common with a fork and that one's parent, of whom all is known.
    OfFork,
    GoneAlready,
}

const ALL: [About; 14] = [
    About::Nothing,
    About::LiveFork,
    About::QueuedFork,
    About::Hold,
    About::Pin,
    About::Expiring,
    About::Quarantined,
    About::StrayRef,
    About::StrayHold,
    About::UnreadableRef,
    About::BadManifest,
    About::Linked,
    About::OfFork,
    About::GoneAlready,
];

/// A small instance with memory.
fn small(world: &World, name: &str) {
    let dir = world.vms.join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("disk"), "disk").unwrap();
    fs::write(dir.join("memory"), "memory").unwrap();
}

fn world_of(all: &[About]) -> (World, Vec<SnapshotId>) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::at(&dir.keep());
    small(&world, "a");
    let open = world.open();
    let mut ids = Vec::new();
    for (n, about) in all.iter().enumerate() {
        let mut id = open.take("a").unwrap();
        let (snapshot, refs) = (open.store.layout.snapshot(&id), open.store.layout.refs_of(&id));
        match about {
            About::LiveFork => drop(open.fork(&id, &format!("f{n}")).unwrap()),
            About::QueuedFork => drop(open.accept(&id, &format!("q{n}")).unwrap()),
            About::Hold => open.store.add_hold(&open.store.lock_snapshot(&id), &HoldName::parse("mine").unwrap()).unwrap(),
            About::Expiring => open.store.mark_expiring(&open.store.lock_snapshot(&id), "by hand").unwrap(),
            About::Quarantined => open.store.mark_quarantined(&open.store.lock_snapshot(&id), "bad").unwrap(),
            About::UnreadableRef => {
                fs::create_dir(&refs).unwrap();
                fs::write(refs.join("f0123456789abcdef"), "no link").unwrap();
            }
            About::BadManifest => fs::write(snapshot.join("manifest.json"), "{").unwrap(),
            About::Linked => fs::hard_link(snapshot.join("data/memory"), world.store.with_file_name(format!("copy-{n}"))).unwrap(),
            About::OfFork => {
                open.fork(&id, &format!("p{n}")).unwrap();
                id = open.take(&format!("p{n}")).unwrap();
                let links =
                    std::os::unix::fs::MetadataExt::nlink(&fs::metadata(open.store.layout.snapshot(&id).join("data/memory")).unwrap());
                assert_eq!(links, 3, "its own, the fork's, the parent's");
            }
            About::GoneAlready => open.remove(&id).unwrap(),
            About::Nothing | About::Pin | About::StrayRef | About::StrayHold => {}
        }
        ids.push(id);
    }
    (world, ids)
}

/// What is in memory, or came to the disk behind the worker's back.
fn prepare(open: &Open, all: &[About], ids: &[SnapshotId]) -> Vec<StorePin> {
    let mut pins = Vec::new();
    for (about, id) in all.iter().zip(ids) {
        let (refs, holds) = (open.store.layout.refs_of(id), open.store.layout.holds_of(id));
        match about {
            About::Pin => pins.extend(open.store.pin(id)),
            About::StrayRef => {
                fs::create_dir(&refs).unwrap();
                std::os::unix::fs::symlink("/somewhere", refs.join("f0123456789abcdef")).unwrap();
            }
            About::StrayHold => {
                fs::create_dir(&holds).unwrap();
                fs::write(holds.join("theirs"), "").unwrap();
            }
            _ => {}
        }
    }
    pins
}

/// Answers with places for ids, so that those of two worlds can be compared.
fn words(ids: &[SnapshotId], answer: &Result<(), ReclaimError>) -> String {
    let text = match answer {
        Ok(()) => "gone".to_owned(),
        Err(ReclaimError::Blocked { blocked, .. }) => format!("{:?} {:?} {:?}", blocked.why, blocked.forks, blocked.holds),
        Err(e) => e.to_string(),
    };
    ids.iter().enumerate().fold(text, |text, (n, id)| text.replace(id.as_str(), &format!("<{n}>")))
}

/// Which are there, which are in the trash, and how many removals were reported.
fn outcome(world: &World, ids: &[SnapshotId]) -> (Vec<usize>, Vec<usize>, usize) {
    let names = |dir: &str| -> Vec<String> {
        fs::read_dir(world.store.join(dir)).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    };
    let places = |names: Vec<String>| {
        let has = |id: &SnapshotId| names.iter().any(|name| name.starts_with(id.as_str()));
        ids.iter().enumerate().filter(|(_, id)| has(id)).map(|(n, _)| n).collect()
    };
    (places(names("snapshots")), places(names("trash")), world.event_names().iter().filter(|name| **name == "prune.removed").count())
}

fn removals(ids: &[SnapshotId]) -> Vec<Removal> {
    ids.iter().map(|id| Removal { id: id.clone(), reasons: vec!["last".to_owned()] }).collect()
}

fn same_verdicts(all: &[About]) {
    let (one, many) = (world_of(all), world_of(all));
    let naive = {
        let open = one.0.open();
        let _pins = prepare(&open, all, &one.1);
        one.1.iter().map(|id| words(&one.1, &open.remove(id))).collect::<Vec<_>>()
    };
    let batch = {
        let open = many.0.open();
        let _pins = prepare(&open, all, &many.1);
        let answers = open.reclaim.remove_all(&removals(&many.1), Duration::ZERO);
        answers.into_iter().map(|answer| words(&many.1, &answer.map(drop))).collect::<Vec<_>>()
    };
    assert_eq!(naive, batch, "{all:?}");
    assert_eq!(outcome(&one.0, &one.1), outcome(&many.0, &many.1));
    for (about, verdict) in all.iter().zip(&batch) {
        let goes = matches!(about, About::Nothing | About::Expiring | About::Quarantined | About::OfFork);
        assert_eq!(verdict == "gone", goes, "{about:?}: {verdict}");
    }
    [&one.0, &many.0].iter().for_each(|world| fs::remove_dir_all(world.store.parent().unwrap()).unwrap());
}

#[test]
fn many_get_the_verdicts_that_each_would_get_alone() {
    same_verdicts(&ALL);
    // So many that the records of all are listed at once.
    same_verdicts(&[ALL.as_slice(), &[About::Nothing, About::StrayRef]].concat());
    let cases = if std::env::var_os("FULL").is_some() { 200 } else { 12 };
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let worlds = proptest::collection::vec(proptest::sample::select(ALL.to_vec()), 1..12);
    runner
        .run(&worlds, |all| {
            same_verdicts(&all);
            Ok(())
        })
        .unwrap();
}

/// Counts calls by kind.
#[derive(Debug, Default)]
struct Counting(Mutex<BTreeMap<String, u64>>);

impl Gate for Counting {
    fn before(&self, op: Op, _path: &Path) -> Result<(), Errno> {
        *self.0.lock().unwrap().entry(format!("{op:?}")).or_default() += 1;
        Ok(())
    }
}

/// The calls of a cut of `n`, and of the sweep behind it.
fn calls(n: usize) -> [BTreeMap<String, u64>; 2] {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::at(dir.path());
    small(&world, "a");
    let gate = Arc::new(Counting::default());
    let open = world.try_open(Fs::gated(Arc::clone(&gate) as _)).unwrap();
    open.recover().unwrap();
    let ids: Vec<SnapshotId> = (0..n).map(|_| open.take("a").unwrap()).collect();
    let mark = |id: &SnapshotId| open.store.mark_expiring(&open.store.lock_snapshot(id), "by hand").unwrap();
    ids.iter().for_each(mark);
    let took = || std::mem::take(&mut *gate.0.lock().unwrap());
    // The first sweep looks for what an earlier process left.
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    world.clock.advance(Duration::from_secs(2));
    took();
    assert!(open.reclaim.remove_all(&removals(&ids), Duration::ZERO).iter().all(Result::is_ok));
    let cut = took();
    assert_eq!(open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap().unlinked, n as u64);
    [cut, took()]
}

#[test]
fn the_calls_of_a_removal_do_not_grow_with_the_number_of_removals_and_a_batch_shares_its_syncs() {
    let [(cut, swept), (cut_more, swept_more)] = [10, 30].map(calls).map(|[cut, swept]| (cut, swept));
    assert_eq!(cut, BTreeMap::from([("Rename".to_owned(), 10), ("Fsync".to_owned(), 2)]));
    assert_eq!(cut_more, BTreeMap::from([("Rename".to_owned(), 30), ("Fsync".to_owned(), 2)]));
    // Doomed by one record, which goes in the end, as what a crash may have left of one goes before, and with a sync of the trash
    // before each change of it; then: manifest, data with two files, the directory, and the marks with one file.
    let sweep_of = |n: u64| {
        let record = [("Mkdir", 1), ("Create", 1), ("Write", 1), ("Fsync", 4), ("Rename", 1)].map(|(op, n)| (op.to_owned(), n));
        BTreeMap::from_iter(record.into_iter().chain([("Unlink".to_owned(), n * 7 + 2)]))
    };
    assert_eq!((swept, swept_more), (sweep_of(10), sweep_of(30)));
    if std::env::var_os("FULL").is_some() {
        let [cut, _] = calls(1005);
        assert_eq!(cut, BTreeMap::from([("Rename".to_owned(), 1005), ("Fsync".to_owned(), 4)]), "a thousand are locked at a time");
    }
}

#[test]
fn a_fork_that_is_asked_for_while_many_are_cut_is_made_or_its_snapshot_is_gone_and_never_both() {
    let rounds = if std::env::var_os("FULL").is_some() { 300 } else { 25 };
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::at(dir.path());
    small(&world, "a");
    let open = world.open();
    let (mut cut, mut forked) = (0, 0);
    for round in 0..rounds {
        let ids: Vec<SnapshotId> = (0..12).map(|_| open.take("a").unwrap()).collect();
        let start = Barrier::new(3);
        let ask = |n: usize| open.accept(&ids[n], &format!("r{round}-{n}")).is_ok();
        let (answers, accepted) = std::thread::scope(|scope| {
            // Against the order of ids, one by one, and all at once: in whatever order locks are wanted, none waits for ever.
            let asked = scope.spawn(|| {
                start.wait();
                (0..6).rev().map(ask).collect::<Vec<_>>()
            });
            let asked_at_once = scope.spawn(|| {
                start.wait();
                let asks = (6..12).rev().map(|n| crate::support::ask(&ids[n], &format!("r{round}-{n}"))).collect();
                let mut answers: Vec<bool> = open.forks.accept(asks).iter().map(Result::is_ok).collect();
                answers.reverse();
                answers
            });
            start.wait();
            std::thread::sleep(Duration::from_micros(round * 37 % 900));
            let answers = open.reclaim.remove_all(&removals(&ids), Duration::ZERO);
            let mut accepted = asked.join().unwrap();
            accepted.reverse();
            accepted.extend(asked_at_once.join().unwrap());
            (answers, accepted)
        });
        open.forks.run_ready(&NEVER, &NEVER).unwrap();
        for (n, (answer, accepted)) in answers.iter().zip(accepted).enumerate() {
            let name = format!("r{round}-{n}");
            assert_ne!(answer.is_ok(), accepted, "{name}: {answer:?}");
            assert_eq!(world.vms.join(&name).exists(), accepted, "an acknowledged fork is made");
            cut += usize::from(!accepted);
            if accepted {
                forked += 1;
                open.forks.unfork(&instance(&name)).unwrap();
            }
        }
        open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
        assert!(open.reclaim.remove_all(&removals(&ids), Duration::ZERO).iter().zip(&answers).all(|(now, was)| now.is_ok() != was.is_ok()));
    }
    println!("{cut} cut, {forked} forked");
    assert!(cut > 0 && forked > 0, "no race");
}

const HOURLY: &str = "[worker]\nthreads = 1\n[trash]\ngrace = \"1h\"\n[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n\
    [policy.keep]\nlast = 1\n";

/// Snapshots of the policy, one an hour.
fn hourly(world: &World, n: usize) -> Vec<SnapshotId> {
    small(world, "a");
    let worker = world.worker("[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\nkeep_all = true\n");
    assert!(worker.due_jobs().is_empty());
    for _ in 0..n {
        world.clock.advance(Duration::from_secs(3600));
        assert!(worker.due_jobs().iter().all(|job| worker.run_job(job)));
    }
    let mut all = worker.snapshots(&Default::default()).unwrap().snapshots;
    all.sort_by_key(|snapshot| snapshot.seq);
    all.into_iter().map(|snapshot| snapshot.id).collect()
}

#[test]
fn a_cap_bounds_a_cut_of_many_and_the_oldest_go() {
    let world = World::new();
    let ids = hourly(&world, 9);
    let worker = world.worker(&format!("[prune]\nmax_removals = 3\n{HOURLY}"));
    let went: Vec<Vec<SnapshotId>> = (0..4).map(|_| worker.prune_pass().unwrap().removed).collect();
    assert_eq!(went.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2, 0]);
    let went: BTreeSet<SnapshotId> = went.into_iter().flatten().collect();
    assert_eq!(went, ids[..8].iter().cloned().collect());
}

#[test]
fn whatever_was_cut_when_the_process_died_is_whole_in_the_trash_and_is_reported_by_the_next_start() {
    let mut stops = 0;
    for n in 0.. {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let world = World::at(dir.path());
        let ids = hourly(&world, 5);
        let gate = Arc::new(StopAfter::new(n));
        if let Ok(worker) = world.try_worker(HOURLY, Fs::gated(Arc::clone(&gate) as _)) {
            let _ = worker.prune_pass();
            let _ = worker.sweep();
        }
        drop(world.worker(HOURLY));
        let before = world.event_names().len();
        let worker = world.worker(HOURLY);
        assert!(world.event_names()[before..].iter().all(|name| *name != "prune.removed"), "after {n} calls: told once more, and no more");
        let reported: BTreeSet<SnapshotId> = world
            .events
            .events()
            .into_iter()
            .filter_map(|event| if let Event::PruneRemoved { snapshot, .. } = event { Some(snapshot) } else { None })
            .collect();
        let there: BTreeSet<SnapshotId> = worker.store.index().present().map(|(id, _)| id.clone()).collect();
        for id in &ids {
            assert_ne!(there.contains(id), reported.contains(id), "after {n} calls: there, or reported as gone");
            if !there.contains(id) {
                worker.undelete(id.as_str(), None).unwrap();
            }
            assert_eq!(worker.store.manifest(id).unwrap().entries.len(), 3, "the root, disk, memory");
            assert_eq!(fs::read(worker.store.layout.snapshot(id).join("data/memory")).unwrap(), b"memory");
        }
        if !gate.has_stopped() {
            assert_eq!(reported.len(), 4);
            break;
        }
        stops += 1;
    }
    println!("{stops} stops");
    assert!(stops > 6, "{stops}");
}
