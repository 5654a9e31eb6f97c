//! Every write-like call of every operation goes wrong in every way that a kernel has. The process that saw it goes on
//! with a store that is whole, and the next start finds everything that was acknowledged. `FULL=1` tries rare errors at
//! every call too, `FAULTS=take` one operation only.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::faulty::Fault;
use crate::support::sweep::{Live, Row, Scene, Told, sweep};
use snapkeep::ids::HoldName;
use snapkeep::store::fs::Commits;
use std::time::Duration;

/// The table: an operation more is a line more.
const ROWS: &[Row] = &[
    Row { name: "take", prepare: nothing, act: take, check: taken, from_start: false, keeps_source: true },
    Row { name: "take_many", prepare: with_many_files, act: take, check: taken, from_start: false, keeps_source: true },
    Row { name: "take, in order", prepare: in_order, act: take, check: taken, from_start: false, keeps_source: true },
    Row { name: "take_many, in order", prepare: with_many_in_order, act: take, check: taken, from_start: false, keeps_source: true },
    Row { name: "fork", prepare: nothing, act: fork, check: forked, from_start: false, keeps_source: true },
    Row { name: "fork, in order", prepare: in_order, act: fork, check: forked, from_start: false, keeps_source: true },
    Row { name: "hold", prepare: nothing, act: hold, check: held, from_start: false, keeps_source: true },
    Row { name: "release", prepare: with_hold, act: release, check: released, from_start: false, keeps_source: true },
    Row { name: "expiring", prepare: nothing, act: expire, check: expiring, from_start: false, keeps_source: true },
    Row { name: "quarantine", prepare: nothing, act: quarantine, check: quarantined, from_start: false, keeps_source: true },
    Row { name: "unfork", prepare: nothing, act: unfork, check: unforked, from_start: false, keeps_source: true },
    Row { name: "remove", prepare: with_marks, act: remove, check: removed, from_start: false, keeps_source: true },
];

fn nothing(_: &Scene) {}

/// As on xfs, and on ext4 with a journal.
fn in_order(scene: &Scene) {
    *scene.commits.lock().unwrap() = Commits::InOrder;
}

fn with_many_in_order(scene: &Scene) {
    in_order(scene);
    with_many_files(scene);
}

fn take(scene: &Scene, live: &Live) -> Result<(), String> {
    let id = live.take("a").map_err(|e| e.to_string())?;
    scene.taken.lock().unwrap().push(id);
    Ok(())
}

/// So many that one sync is made for all of them.
fn with_many_files(scene: &Scene) {
    (0..32).for_each(|n| std::fs::write(scene.world.vms.join(format!("a/file-{n}")), "x").unwrap());
}

fn taken(scene: &Scene, live: &Live, told: Told) {
    let found = live.store.index().of_instance(&crate::support::instance("a")).len();
    let known = 2 + scene.taken.lock().unwrap().len();
    assert!(found == known || (told == Told::Nothing && found == known + 1), "{found} snapshots, {known} acknowledged");
}

fn fork(scene: &Scene, live: &Live) -> Result<(), String> {
    scene.accept(live, &scene.id, &["b", "c"])?;
    scene.build(live)
}

fn forked(scene: &Scene, live: &Live, told: Told) {
    for name in ["b", "c"] {
        let is_there = scene.world.vms.join(name).exists();
        assert!(is_there || told != Told::Done);
    }
    let forks = ["b", "c", "f", "late"].iter().filter(|n| scene.world.vms.join(n).exists()).count();
    let waiting = live.forks.waiting_for(&scene.id).len();
    assert!(live.ref_count(&scene.id) >= forks.max(waiting));
}

fn mine() -> HoldName {
    HoldName::parse("mine").unwrap()
}

fn has_hold(scene: &Scene, live: &Live) -> bool {
    let on_disk = live.store.layout.hold(&scene.id, &mine()).exists();
    assert_eq!(live.store.known(&scene.id).unwrap().holds.contains(&mine()), on_disk, "in memory as on the disk");
    on_disk
}

fn hold(scene: &Scene, live: &Live) -> Result<(), String> {
    live.store.add_hold(&live.store.lock_snapshot(&scene.id), &mine()).map_err(|e| e.to_string())
}

fn held(scene: &Scene, live: &Live, told: Told) {
    assert!(told.agrees(has_hold(scene, live)), "{told:?}");
}

fn with_hold(scene: &Scene) {
    hold(scene, &scene.start(snapkeep::store::fs::Fs::real()).unwrap()).unwrap();
}

fn release(scene: &Scene, live: &Live) -> Result<(), String> {
    match live.store.drop_hold(&live.store.lock_snapshot(&scene.id), &mine()) {
        Ok(was_there) => was_there.then_some(()).ok_or_else(|| "it was not there".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn released(scene: &Scene, live: &Live, told: Told) {
    let holds = live.store.known(&scene.id).unwrap().holds.contains(&mine());
    assert!(told.agrees(!holds), "{told:?}");
}

fn expire(scene: &Scene, live: &Live) -> Result<(), String> {
    live.store.mark_expiring(&live.store.lock_snapshot(&scene.spare), "by hand").map_err(|e| e.to_string())
}

fn expiring(scene: &Scene, live: &Live, told: Told) {
    assert!(told != Told::Done || live.store.known(&scene.spare).unwrap().expiring);
}

fn quarantine(scene: &Scene, live: &Live) -> Result<(), String> {
    live.store.mark_quarantined(&live.store.lock_snapshot(&scene.spare), "a test").map_err(|e| e.to_string())
}

fn quarantined(scene: &Scene, live: &Live, told: Told) {
    assert!(told == Told::Nothing || live.store.known(&scene.spare).unwrap().quarantined.is_some(), "at once, and behind");
}

fn unfork(scene: &Scene, live: &Live) -> Result<(), String> {
    if scene.world.vms.join("f").exists() {
        live.forks.unfork(&crate::support::instance("f")).map_err(|e| e.to_string())?;
    }
    live.reclaim.sweep(Duration::ZERO, Duration::ZERO).map(drop).map_err(|e| e.to_string())
}

fn unforked(scene: &Scene, live: &Live, told: Told) {
    let now = scene.fork_now();
    assert!(now.is_empty() || now == scene.before.lock().unwrap().1, "whole, or gone");
    assert!(told != Told::Done || now.is_empty());
    let refs = live.store.index().get(&scene.id).unwrap().refs.len() - live.forks.waiting_for(&scene.id).len();
    let late = usize::from(scene.world.vms.join("late").exists());
    assert!(refs >= late + usize::from(!now.is_empty()));
}

fn with_marks(scene: &Scene) {
    let live = scene.start(snapkeep::store::fs::Fs::real()).unwrap();
    live.store.mark_expiring(&live.store.lock_snapshot(&scene.spare), "by hand").unwrap();
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
    assert!(!is_there || live.store.known(&scene.spare).unwrap().expiring, "with its mark");
}

#[test]
fn whatever_call_fails_in_whatever_way_nothing_acknowledged_is_lost_and_nothing_is_seen_half_made() {
    sweep_all(ROWS);
}

/// Tries every fault at every call of these operations.
pub(crate) fn sweep_all(rows: &[Row]) {
    let is_full = std::env::var_os("FULL").is_some();
    let only = std::env::var("FAULTS").unwrap_or_default();
    let (mut all, mut failures) = (0, Vec::new());
    for row in rows.iter().filter(|row| only.is_empty() || row.name == only) {
        let mut points = 0;
        for fault in Fault::ALL {
            let stride = if is_full || fault.is_everywhere() { 1 } else { 4 };
            let (tried, failed) = sweep(row, None, fault, stride);
            points += tried;
            failures.extend(failed);
        }
        println!("{}: {points} points", row.name);
        all += points;
    }
    println!("{all} points in all");
    let total = failures.len();
    failures.truncate(12);
    assert!(failures.is_empty(), "{total} failures:\n{}", failures.join("\n\n"));
}
