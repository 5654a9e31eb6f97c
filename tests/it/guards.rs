//! Guards: a clock that cannot be believed removes nothing by age; a snapshot that would not fit is not begun.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::mounts::tmpfs;
use crate::support::{World, instance, listing};
use chrono::TimeDelta;
use snapkeep::clock::Clock as _;
use snapkeep::event::Event;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::TakeBody;
use std::fs;
use std::time::Duration;

const AGED: &str =
    "[trash]\ngrace = \"0s\"\n[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n[policy.limit]\nmax_age = \"90m\"\n";

fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

fn snapshots(worker: &Worker) -> usize {
    worker.snapshots(&Default::default()).unwrap().snapshots.len()
}

/// Three snapshots an hour apart, of which the oldest has gone.
fn aged(world: &World) -> std::sync::Arc<Worker> {
    world.make_instance("a");
    let worker = world.worker(AGED);
    for _ in 0..3 {
        world.clock.advance(hours(1));
        worker.once().unwrap();
    }
    assert_eq!(snapshots(&worker), 2);
    worker
}

#[test]
fn a_step_of_the_wall_clock_removes_nothing_by_age_until_it_has_settled() {
    let world = World::new();
    let worker = aged(&world);
    world.clock.step_to(world.clock.now() + TimeDelta::days(2));
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 2);
    let blocked = world.events.events().into_iter().find(|e| matches!(e, Event::PruneBlocked { why, .. } if why == &["clock"]));
    assert!(blocked.is_some(), "{:?}", world.event_names());
    let status = worker.status().unwrap().worker.clock.unwrap();
    assert!(!status.trusted && status.until.is_some(), "{status:?}");
    world.clock.advance(Duration::from_secs(599));
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 2);
    world.clock.advance(Duration::from_secs(2));
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 1, "the newest is never removed by age");
}

#[test]
fn a_month_that_the_boot_clock_does_not_know_wants_a_person_also_after_a_restart() {
    let world = World::new();
    drop(aged(&world));
    world.clock.step_to(world.clock.now() + TimeDelta::days(365));
    for _ in 0..3 {
        let worker = world.worker(AGED);
        world.clock.advance(hours(1));
        worker.prune_pass().unwrap();
        assert_eq!(snapshots(&worker), 2);
    }
    let worker = world.worker(AGED);
    assert!(worker.clock(false).unwrap().why.unwrap().contains("snapkeep clock accept"));
    assert!(worker.clock(true).unwrap().trusted);
    drop(worker);
    let worker = world.worker(AGED);
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 1);
}

#[test]
fn after_a_boot_removal_by_age_waits_for_a_synchronised_clock_and_by_count_it_does_not() {
    let world = World::new();
    drop(aged(&world));
    world.clock.reboot();
    world.clock.set_synchronised(false);
    world.clock.advance(hours(3));
    let worker = world.worker(AGED);
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 2);
    drop(worker);
    let worker = world.worker(&AGED.replace("max_age = \"90m\"", "max_count = 1"));
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 1, "a count needs no clock");
    drop(worker);
    world.make_instance("b");
    let without_ntp = format!("[clock]\nwait_for_sync = false\n{}", AGED.replace("\"a\"", "\"*\""));
    let worker = world.worker(&without_ntp);
    assert!(worker.clock(false).unwrap().trusted);
}

#[test]
fn a_snapshot_from_the_future_keeps_only_itself() {
    let world = World::new();
    let worker = aged(&world);
    let now = world.clock.now();
    world.clock.step_to(now + TimeDelta::days(3));
    worker.take(&TakeBody { instance: instance("a"), name: None, tags: Default::default() }).unwrap();
    world.clock.step_to(now);
    world.clock.advance(hours(2));
    worker.prune_pass().unwrap();
    assert_eq!(snapshots(&worker), 2, "the newest that is not from the future, and the one that is");
}

fn take(worker: &Worker) -> Result<(), String> {
    worker.take(&TakeBody { instance: instance("a"), name: None, tags: Default::default() }).map(drop).map_err(|e| e.detail)
}

#[test]
fn a_snapshot_that_would_not_fit_beside_the_reserve_is_refused_before_a_byte_is_written() {
    let Some(small) = tmpfs("size=16m") else { return };
    let world = World::at(&small.path);
    world.make_instance("a");
    fs::write(world.vms.join("a/big"), vec![7; 5 << 20]).unwrap();
    let worker = world.worker("[space]\nreserve = \"25%\"\n");
    take(&worker).unwrap();
    let before = listing(&world.store);
    let error = take(&worker).unwrap_err();
    assert!(error.contains("no room") && error.contains("4.0 MiB are to stay so"), "{error}");
    let written: Vec<_> = listing(&world.store).into_iter().filter(|line| !before.contains(line) && !line.contains("ledger/")).collect();
    assert_eq!(written, [""; 0]);
    drop(worker);
    let worker = world.worker("");
    take(&worker).unwrap();
    assert!(take(&worker).unwrap_err().contains("no room"), "also without a reserve");
}

#[test]
fn when_space_is_short_what_may_go_goes_before_the_next_snapshot_is_taken() {
    let Some(small) = tmpfs("size=20m") else { return };
    let world = World::at(&small.path);
    world.make_instance("a");
    fs::write(world.vms.join("a/big"), vec![7; 4 << 20]).unwrap();
    let policy = "[trash]\ngrace = \"0s\"\n[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\nretry = { attempts = 1 }\n[policy.keep]\nlast = 2\n";
    let worker = world.worker(policy);
    for n in 0..6 {
        world.clock.advance(hours(1));
        // Only the slots: nothing is pruned unless a snapshot wants room.
        for job in worker.due_jobs() {
            assert!(worker.run_job(&job), "slot {n}: {:?}", world.events.events().last());
        }
    }
    assert!(snapshots(&worker) >= 2, "{}", snapshots(&worker));
    assert!(!world.event_names().contains(&"snapshot.failed"), "{:?}", world.events.events());
    assert_eq!(listing(&world.store.join("staging")), [""; 0]);
}
