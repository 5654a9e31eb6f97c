//! The same sweep over what takes back, clears up and mends: restore, undelete, prune, the start behind a crash,
//! compaction, the clock. `FULL=1` and `FAULTS=restore` as in `faults.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::faults::sweep_all;
use crate::support::faulty::{DeadFrom, Fault};
use crate::support::sweep::{Live, Row, Scene, Told, sweep};
use crate::support::{NEVER, instance, listing};
use snapkeep::store::fs::{Fs, Op};
use snapkeep::store::trash::Departed;
use snapkeep::worker::backend::Backend;
use std::fs as std_fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ROWS: &[Row] = &[
    Row { name: "restore", prepare: with_changes, act: restore, check: restored, from_start: false, keeps_source: false },
    Row { name: "undelete", prepare: with_removed, act: undelete, check: undeleted, from_start: false, keeps_source: true },
    Row { name: "undelete fork", prepare: with_unforked, act: undelete_fork, check: undeleted_fork, from_start: false, keeps_source: true },
    Row { name: "prune", prepare: with_slots, act: prune, check: pruned, from_start: false, keeps_source: true },
    Row { name: "prune, many", prepare: with_many_slots, act: prune, check: pruned_many, from_start: false, keeps_source: true },
    Row { name: "prune, defer", prepare: with_slots_deferred, act: prune_deferred, check: deferred, from_start: false, keeps_source: true },
    Row { name: "recover, built", prepare: with_half_built, act: recover, check: recovered, from_start: true, keeps_source: true },
    Row { name: "recover, published", prepare: with_publishing, act: recover, check: recovered, from_start: true, keeps_source: true },
    Row { name: "compact", prepare: with_long_journal, act: compact, check: compacted, from_start: false, keeps_source: true },
    Row { name: "clock", prepare: |_| {}, act: accept_clock, check: accepted_clock, from_start: false, keeps_source: true },
];

const SKIPPING: &str = "[worker]\nthreads = 1\n[trash]\ngrace = \"1h\"\n[driver]\nmemory_names = [\"memory\"]\n\
    [snapshot]\nskip = [\"logs/\", \"*.tmp\"]\n";

/// The instance goes on after its snapshot; what snapshots skip is its own.
fn with_changes(scene: &Scene) {
    *scene.config.lock().unwrap() = SKIPPING;
    let a = scene.world.vms.join("a");
    std_fs::create_dir_all(a.join("logs/old/empty")).unwrap();
    std::os::unix::fs::symlink("app.log", a.join("logs/now")).unwrap();
    *scene.wanted.lock().unwrap() = listing(&a);
    for (name, contents) in [("overlay.raw", "another disk"), ("memory", "other memory"), ("new.txt", "new")] {
        let _ = std_fs::remove_file(a.join(name));
        std_fs::write(a.join(name), contents).unwrap();
    }
    std::thread::sleep(Duration::from_millis(21));
}

fn restore(scene: &Scene, live: &Live) -> Result<(), String> {
    live.worker.restore(scene.id.as_str()).map(drop).map_err(|problem| problem.detail)
}

fn restored(scene: &Scene, live: &Live, told: Told) {
    let (now, before, wanted) = (scene.source_now(), scene.before.lock().unwrap().0.clone(), scene.wanted.lock().unwrap().clone());
    assert!(now == before || now == wanted, "the one tree or the other, whole: {now:#?}, wanted {wanted:#?}");
    assert!(told.agrees(now == wanted), "{told:?}");
    if now == wanted && !scene.swept.load(Ordering::SeqCst) {
        let trash = live.store.trash_entries(&live.store.layout.root_trash()).unwrap();
        let is_there = trash.iter().any(|entry| {
            (entry.instance(), entry.departed()) == (Some(instance("a")), Departed::Replaced) && listing(&entry.path) == before
        });
        assert!(is_there, "the tree that was replaced is in the trash: {trash:#?}");
    }
}

fn start(scene: &Scene) -> Live {
    scene.start(Fs::real()).unwrap()
}

fn with_removed(scene: &Scene) {
    let live = start(scene);
    live.store.mark_expiring(&live.store.lock_snapshot(&scene.spare), "by hand").unwrap();
    live.remove(&scene.spare).unwrap();
}

fn undelete(scene: &Scene, live: &Live) -> Result<(), String> {
    live.worker.undelete(scene.spare.as_str(), None).map(drop).map_err(|problem| problem.detail)
}

fn undeleted(scene: &Scene, live: &Live, told: Told) {
    let known = live.store.known(&scene.spare);
    assert!(told.agrees(known.is_ok()), "{told:?}");
    assert_eq!(live.store.manifest(&scene.spare).is_ok(), known.is_ok(), "in memory as on the disk");
    if let Ok(known) = known {
        assert!(known.holds.iter().any(|hold| hold.as_str() == "undeleted"), "it is held");
        assert!(!known.expiring, "it is not to go again");
    }
}

fn with_unforked(scene: &Scene) {
    start(scene).forks.unfork(&instance("f")).unwrap();
}

fn undelete_fork(_: &Scene, live: &Live) -> Result<(), String> {
    live.worker.undelete("f", None).map_err(|problem| problem.detail)?;
    // The next pass, which comes by itself, points the ref right if this one could not.
    live.forks.reconcile().map(drop).map_err(|e| e.to_string())
}

fn undeleted_fork(scene: &Scene, live: &Live, told: Told) {
    let is_there = scene.world.vms.join("f").exists();
    assert!(told.agrees(is_there), "{told:?}, and it is there: {is_there}");
    let refs = live.store.index().get(&scene.id).unwrap().refs.len() - live.forks.waiting_for(&scene.id).len();
    let late = usize::from(scene.world.vms.join("late").exists());
    let kept = is_there || !scene.swept.load(Ordering::SeqCst);
    assert!(refs >= late + usize::from(kept), "a trashed fork keeps its ref");
}

const DEFERRING: &str = "[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n[driver]\nmemory_names = [\"memory\"]\n\
    [[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\nwhen_referenced = \"defer\"\n[policy.keep]\nlast = 1\n";

/// Four snapshots of the policy: one is to stay, one has a fork, two are to go.
fn with_slots(scene: &Scene) {
    with_slots_of(scene, 4);
}

/// The same, but six are to go.
fn with_many_slots(scene: &Scene) {
    with_slots_of(scene, 8);
}

fn with_slots_of(scene: &Scene, all: usize) {
    let live = start(scene);
    assert!(live.worker.due_jobs().is_empty());
    for _ in 0..all {
        scene.world.clock.advance(Duration::from_secs(3600));
        let jobs = live.worker.due_jobs();
        assert!(jobs.len() == 1 && live.worker.run_job(&jobs[0]), "{jobs:?}");
    }
    let mut slots = live.store.index().of_instance(&instance("a"));
    slots.retain(|summary| summary.policy.is_some());
    slots.sort_by_key(|summary| summary.seq);
    assert_eq!(slots.len(), all);
    *scene.extra.lock().unwrap() = Some(slots[1].id.clone());
    scene.taken.lock().unwrap().extend([slots[1].id.clone(), slots[all - 1].id.clone()]);
    live.fork(&slots[1].id, "g").unwrap();
}

fn with_slots_deferred(scene: &Scene) {
    *scene.config.lock().unwrap() = DEFERRING;
    with_slots(scene);
}

fn prune(scene: &Scene, live: &Live) -> Result<(), String> {
    let report = live.worker.prune_pass().map_err(|problem| problem.detail)?;
    let failed = report.failed.iter().map(|failed| failed.error.clone()).next();
    failed.map_or(Ok(()), Err)?;
    live.worker.sweep().map_err(|problem| problem.detail)?;
    // What is only remembered is no part of a prune's answer.
    live.store.known(&scene.extra()).unwrap().pinned.map(drop).ok_or_else(|| "since when it is pinned is not remembered".to_owned())
}

fn pruned(scene: &Scene, live: &Live, told: Told) {
    let of_policy = live.store.index().of_instance(&instance("a")).iter().filter(|s| s.policy.is_some()).count();
    assert!((2..=4).contains(&of_policy) && (told != Told::Done || of_policy == 2), "{of_policy} of four, {told:?}");
    assert!(live.ref_count(&scene.extra()) == 1 && scene.world.vms.join("g").exists(), "what a fork needs stays");
}

/// Each is there, or in the trash, whole; or it goes, and nothing of it comes back.
fn pruned_many(scene: &Scene, live: &Live, told: Told) {
    let slots = live.store.index().of_instance(&instance("a")).into_iter().filter(|s| s.policy.is_some());
    let there: Vec<_> = slots.map(|summary| summary.id.clone()).collect();
    assert!((2..=8).contains(&there.len()) && (told != Told::Done || there.len() == 2), "{} of eight, {told:?}", there.len());
    assert!(live.ref_count(&scene.extra()) == 1 && scene.world.vms.join("g").exists(), "what a fork needs stays");
    let trashed = live.store.trash_entries(&live.store.layout.trash()).unwrap();
    let is_whole = |dir: &std::path::Path| ["manifest.json", "data/overlay.raw", "data/memory"].iter().all(|file| dir.join(file).exists());
    for id in &there {
        assert!(is_whole(&live.store.layout.snapshot(id)), "{id}");
        assert!(trashed.iter().all(|entry| entry.snapshot().as_ref() != Some(id)), "{id} is there, and in the trash");
    }
    assert!(trashed.iter().filter(|entry| !entry.is_doomed).all(|entry| is_whole(&entry.path)), "{trashed:#?}");
}

fn prune_deferred(scene: &Scene, live: &Live) -> Result<(), String> {
    prune(scene, live)?;
    live.store.known(&scene.extra()).unwrap().expiring.then_some(()).ok_or_else(|| "not marked yet".to_owned())
}

fn deferred(scene: &Scene, live: &Live, told: Told) {
    pruned(scene, live, told);
    assert!(told != Told::Done || live.store.known(&scene.extra()).unwrap().expiring);
}

/// What a crash leaves: a removal and an unfork half unlinked, a copy and forks half made, an entry of the journal half
/// written. The forks `b` and `c` were accepted, and are not there yet.
fn with_crash_at(scene: &Scene, op: Op, path: &'static str) {
    let live = start(scene);
    live.fork(&scene.id, "g").unwrap();
    live.forks.unfork(&instance("g")).unwrap();
    live.remove(&scene.spare).unwrap();
    drop(live);
    let gate = Arc::new(DeadFrom::new(Op::Unlink, "memory"));
    let live = scene.start(Fs::gated(Arc::clone(&gate) as _)).unwrap();
    let _ = live.reclaim.sweep(Duration::ZERO, Duration::ZERO);
    assert!(gate.is_dead());
    drop(live);
    let gate = Arc::new(DeadFrom::new(op, path));
    let live = scene.start(Fs::gated(Arc::clone(&gate) as _)).unwrap();
    scene.accept(&live, &scene.id, &["b", "c"]).unwrap();
    let _ = live.forks.run_ready(&NEVER, &NEVER);
    assert!(gate.is_dead() && !scene.world.vms.join("b").exists());
    let (staging, journal) = (live.store.layout.staging(), live.store.layout.journal());
    drop(live);
    let half = staging.join("20261124-120000-aaaaaaaa/data");
    std_fs::create_dir_all(&half).unwrap();
    std_fs::write(half.join("overlay.raw"), "half").unwrap();
    let mut bytes = std_fs::read(&journal).unwrap();
    bytes.extend(b"000000ff 0123456789abcdef [{");
    std_fs::write(&journal, bytes).unwrap();
}

fn with_half_built(scene: &Scene) {
    with_crash_at(scene, Op::Link, "memory");
}

fn with_publishing(scene: &Scene) {
    with_crash_at(scene, Op::Rename, "vms/b");
}

fn recover(scene: &Scene, live: &Live) -> Result<(), String> {
    scene.build(live)?;
    live.reclaim.sweep(Duration::ZERO, Duration::ZERO).map_err(|e| e.to_string())?;
    live.forks.reconcile().map(drop).map_err(|e| e.to_string())
}

fn recovered(scene: &Scene, live: &Live, told: Told) {
    let made = ["b", "c"].iter().filter(|name| scene.world.vms.join(name).exists()).count();
    assert!(told != Told::Done || made == 2, "{made} of two forks");
    assert!(live.ref_count(&scene.id) > made.max(live.forks.waiting_for(&scene.id).len()), "each has its ref, and f has one");
    assert!(live.store.known(&scene.spare).is_err(), "what is half unlinked never comes back");
}

/// A journal that has grown, and all of whose requests are done.
fn with_long_journal(scene: &Scene) {
    let journal = start(scene).store.layout.journal();
    let body = format!("[{}]", " ".repeat(2 << 20));
    let sum: String = blake3::hash(body.as_bytes()).to_hex().chars().take(16).collect();
    let mut bytes = std_fs::read(&journal).unwrap();
    bytes.extend(format!("{:08x} {sum} {body}\n", body.len()).into_bytes());
    std_fs::write(&journal, bytes).unwrap();
}

fn compact(_: &Scene, live: &Live) -> Result<(), String> {
    live.forks.compact().map_err(|e| e.to_string())
}

/// What is accepted behind a compaction, also behind one that failed, is in the journal that the next start reads.
fn compacted(scene: &Scene, live: &Live, told: Told) {
    if live.forks.closed().is_none() {
        scene.accept(live, &scene.id, &["behind"]).unwrap();
        scene.build(live).unwrap();
    }
    let len = std_fs::metadata(live.store.layout.journal()).unwrap().len();
    assert!(told != Told::Done || len < 1 << 20, "{len} bytes");
}

fn accept_clock(_: &Scene, live: &Live) -> Result<(), String> {
    Backend::clock(&*live.worker, true).map(drop).map_err(|problem| problem.detail)
}

fn accepted_clock(_: &Scene, live: &Live, told: Told) {
    assert!(told != Told::Done || Backend::clock(&*live.worker, false).unwrap().trusted);
}

#[test]
fn whatever_call_fails_while_something_is_brought_back_cleared_up_or_mended_nothing_acknowledged_is_lost() {
    sweep_all(ROWS);
}

/// The start that mends is cut short itself, and so is the one behind it.
#[test]
fn a_start_that_is_stopped_while_it_mends_is_mended_by_the_next() {
    let stride = if std::env::var_os("FULL").is_some() { 1 } else { 6 };
    for row in ROWS.iter().filter(|row| row.from_start) {
        let (mut points, mut failures) = (0, Vec::new());
        for first in (1..).step_by(stride) {
            let (tried, failed) = sweep(row, Some((Fault::Stop, first)), Fault::Stop, stride as u64);
            points += tried;
            failures.extend(failed);
            // The first start was not cut short any more: nothing was tried behind it.
            if tried <= 6 || failures.len() > 12 {
                break;
            }
        }
        println!("{} twice: {points} points", row.name);
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    }
}
