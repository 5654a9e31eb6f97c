//! Removal that people can live with: refused with reasons, deferred, undone within the grace, bounded, reported.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::{World, instance, listing};
use snapkeep::event::Event;
use snapkeep::ids::{HoldName, SnapshotId};
use snapkeep::policy::SnapshotState;
use snapkeep::reclaim::SweepRules;
use snapkeep::store::trash::Departed;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::{Backend, Removal};
use snapkeep::worker::problem::ProblemKind;
use snapkeep::worker::view::{ForkBody, TakeBody, VerifyBody};
use std::fs;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn take(worker: &Worker, name: &str) -> SnapshotId {
    worker.take(&TakeBody { instance: instance(name), name: None, tags: Default::default() }).unwrap().id
}

fn fork(worker: &Worker, id: &SnapshotId, name: &str) -> Result<(), ProblemKind> {
    let body = ForkBody { name: Some(name.to_owned()), ..ForkBody::default() };
    worker.fork(id.as_str(), &body, None).map_err(|problem| problem.kind)?;
    worker.forks.run_ready(&worker.stopping, &worker.cancelled).unwrap();
    Ok(())
}

fn state(worker: &Worker, id: &SnapshotId) -> Option<SnapshotState> {
    worker.snapshot(id.as_str()).ok().map(|view| view.state)
}

#[test]
fn a_refused_removal_names_forks_holds_and_bytes_and_one_with_a_trashed_fork_says_so() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("[trash]\nfork_grace = \"1h\"\n");
    let id = take(&worker, "a");
    fork(&worker, &id, "web").unwrap();
    worker.hold(id.as_str(), &HoldName::parse("mine").unwrap()).unwrap();
    let problem = worker.remove(id.as_str(), Removal::Now).unwrap_err();
    assert_eq!((problem.kind, problem.forks, problem.holds), (ProblemKind::Conflict, vec!["web".to_owned()], vec!["mine".to_owned()]));
    assert!(problem.reclaimable_bytes.is_some_and(|bytes| bytes >= 8192) && problem.detail.contains("would free"), "{}", problem.detail);
    worker.unfork(&instance("web")).unwrap();
    let problem = worker.remove(id.as_str(), Removal::Now).unwrap_err();
    assert_eq!(problem.forks, ["web (in the trash)"], "a trashed instance keeps its ref");
}

#[test]
fn one_that_is_deferred_takes_no_new_forks_survives_a_restart_and_goes_with_its_last_fork() {
    let world = World::new();
    world.make_instance("a");
    let config = "[trash]\ngrace = \"0s\"\n";
    let worker = world.worker(config);
    let id = take(&worker, "a");
    fork(&worker, &id, "one").unwrap();
    fork(&worker, &id, "two").unwrap();
    assert_eq!(worker.remove(id.as_str(), Removal::Defer).unwrap().result, "expiring");
    assert_eq!(fork(&worker, &id, "three"), Err(ProblemKind::Conflict));
    drop(worker);
    let worker = world.worker(config);
    assert_eq!((state(&worker, &id), fork(&worker, &id, "three")), (Some(SnapshotState::Expiring), Err(ProblemKind::Conflict)));
    worker.unfork(&instance("one")).unwrap();
    worker.once().unwrap();
    assert!(state(&worker, &id).is_some(), "one fork is left");
    worker.unfork(&instance("two")).unwrap();
    worker.once().unwrap();
    assert_eq!(state(&worker, &id), None);
    assert_eq!(listing(&world.store.join("snapshots")), [""; 0]);
}

#[test]
fn forks_of_an_expiring_snapshot_are_made_where_the_config_allows_them_and_the_mark_can_be_taken_back() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("[fork]\nallow_forks_of_expiring = true\n");
    let id = take(&worker, "a");
    fork(&worker, &id, "one").unwrap();
    worker.remove(id.as_str(), Removal::Defer).unwrap();
    fork(&worker, &id, "two").unwrap();
    assert_eq!(worker.undelete(id.as_str(), None).unwrap().result, "kept");
    assert_eq!(state(&worker, &id), Some(SnapshotState::Ready));
    drop(worker);
    let worker = world.worker("");
    fork(&worker, &id, "three").unwrap();
}

const EXPIRING: &str = "[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n[policy.keep]\nlast = 1\n";

#[test]
fn retention_defers_what_forks_need_where_the_policy_says_so_and_else_keeps_it_as_it_is() {
    for (mode, wanted) in [("keep", SnapshotState::Ready), ("defer", SnapshotState::Expiring)] {
        let world = World::new();
        world.make_instance("a");
        let policy = EXPIRING.replace("every", &format!("when_referenced = \"{mode}\"\nevery"));
        let worker = world.worker(&format!("[trash]\ngrace = \"0s\"\n{policy}"));
        let step = |worker: &Worker| {
            world.clock.advance(HOUR);
            worker.once().unwrap();
        };
        step(&worker);
        step(&worker);
        let first = worker.snapshots(&Default::default()).unwrap().snapshots[0].id.clone();
        fork(&worker, &first, "web").unwrap();
        let held = HoldName::parse("mine").unwrap();
        worker.hold(first.as_str(), &held).unwrap();
        step(&worker);
        assert_eq!(state(&worker, &first), Some(SnapshotState::Ready), "a hold is not deferred");
        worker.release(first.as_str(), &held).unwrap();
        step(&worker);
        step(&worker);
        assert_eq!(state(&worker, &first), Some(wanted), "{mode}");
        let deferred = world.event_names().into_iter().filter(|name| *name == "prune.deferred").count();
        assert_eq!(deferred, usize::from(mode == "defer"), "once");
        worker.unfork(&instance("web")).unwrap();
        step(&worker);
        assert_eq!(state(&worker, &first), None, "{mode}: it goes with its last fork");
    }
}

#[test]
fn forks_that_keep_a_snapshot_for_long_past_its_expiry_are_reported_once_a_day_also_over_restarts() {
    let world = World::new();
    world.make_instance("a");
    let config = format!("[prune]\nwarn_pinned_after = \"2d\"\n[trash]\ngrace = \"0s\"\n{EXPIRING}");
    let mut worker = world.worker(&config);
    // The first look finds the instance; its first slot is the next one.
    for _ in 0..2 {
        world.clock.advance(HOUR);
        worker.once().unwrap();
    }
    let first = worker.snapshots(&Default::default()).unwrap().snapshots[0].id.clone();
    fork(&worker, &first, "web").unwrap();
    let reports = || world.events.events().iter().filter(|e| matches!(e, Event::ForkPinnedLong { .. })).count();
    for hour in 1..=24 * 5 {
        world.clock.advance(HOUR);
        worker.once().unwrap();
        if hour % 20 == 0 {
            drop(worker);
            worker = world.worker(&config);
        }
    }
    assert_eq!(reports(), 3, "after two days, three and four");
    let last = world.events.events().into_iter().rfind(|e| matches!(e, Event::ForkPinnedLong { .. })).unwrap();
    assert!(matches!(last, Event::ForkPinnedLong { snapshot, forks, bytes, .. } if snapshot == first && forks == ["web"] && bytes > 0));
    worker.unfork(&instance("web")).unwrap();
    worker.once().unwrap();
    assert_eq!(state(&worker, &first), None);
}

#[test]
fn a_snapshot_comes_back_whole_with_a_hold_within_the_grace_and_not_after_it() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("");
    let id = take(&worker, "a");
    let before = listing(&worker.store.layout.snapshot(&id));
    worker.remove(id.as_str(), Removal::Now).unwrap();
    assert_eq!(state(&worker, &id), None);
    world.clock.advance(Duration::from_secs(3599));
    worker.sweep().unwrap();
    drop(worker);
    let worker = world.worker("");
    let trash = worker.trash().unwrap().trash;
    assert_eq!((trash.len(), trash[0].kind.as_str(), trash[0].seconds_left), (1, "snapshot", Some(1)));
    worker.undelete(id.as_str(), None).unwrap();
    let view = worker.snapshot(id.as_str()).unwrap();
    assert_eq!((view.state, view.holds[0].as_str()), (SnapshotState::Ready, "undeleted"));
    assert_eq!(listing(&worker.store.layout.snapshot(&id)), before);
    fork(&worker, &id, "web").unwrap();
    assert_eq!(worker.undelete(id.as_str(), None).unwrap_err().kind, ProblemKind::NotFound, "it is there already");
    worker.unfork(&instance("web")).unwrap();
    worker.release(id.as_str(), &view.holds[0]).unwrap();
    worker.remove(id.as_str(), Removal::Now).unwrap();
    world.clock.advance(HOUR);
    worker.sweep().unwrap();
    assert_eq!(worker.undelete(id.as_str(), None).unwrap_err().kind, ProblemKind::NotFound);
    assert_eq!(listing(&world.store.join("trash")), [""; 0]);
}

#[test]
fn the_grace_passes_on_both_clocks() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("");
    let id = take(&worker, "a");
    worker.remove(id.as_str(), Removal::Now).unwrap();
    world.clock.step_to(snapkeep::clock::Clock::now(&world.clock) + chrono::TimeDelta::days(400));
    worker.sweep().unwrap();
    worker.undelete(id.as_str(), None).unwrap();
}

#[test]
fn instances_come_back_with_their_refs_also_under_another_name() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("[trash]\nfork_grace = \"1h\"\n");
    let id = take(&worker, "a");
    fork(&worker, &id, "web").unwrap();
    fs::write(world.vms.join("web/work"), "work").unwrap();
    worker.unfork(&instance("web")).unwrap();
    assert_eq!(worker.snapshot(id.as_str()).unwrap().ref_count, 1, "it keeps its ref in the trash");
    fork(&worker, &id, "web").unwrap();
    let problem = worker.undelete("web", None).unwrap_err();
    assert!(problem.kind == ProblemKind::Conflict && problem.detail.contains("--as"), "{}", problem.detail);
    assert_eq!(worker.undelete("web", Some(&instance("web-old"))).unwrap().instance, Some(instance("web-old")));
    assert_eq!(fs::read_to_string(world.vms.join("web-old/work")).unwrap(), "work");
    assert_eq!(worker.snapshot(id.as_str()).unwrap().ref_count, 2);
    fs::write(world.vms.join("a/work"), "more").unwrap();
    worker.restore(id.as_str()).unwrap();
    assert!(!world.vms.join("a/work").exists());
    let entry = worker.trash().unwrap().trash[0].entry.clone();
    assert!(entry.starts_with("restore:a@"), "{entry}");
    worker.undelete(&entry, Some(&instance("a-before"))).unwrap();
    assert_eq!(fs::read_to_string(world.vms.join("a-before/work")).unwrap(), "more");
    assert_eq!(worker.trash().unwrap().trash, []);
}

#[test]
fn nothing_that_is_being_unlinked_comes_back() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    open.remove(&id).unwrap();
    let entry = open.store.trash_entries(&open.store.layout.trash()).unwrap().remove(0);
    assert_eq!(open.store.doom_snapshots(std::slice::from_ref(&entry)).unwrap().len(), 1);
    fs::remove_file(entry.path.join("data/overlay.raw")).unwrap();
    assert!(open.reclaim.undelete_snapshot(&id).unwrap_err().to_string().contains("not in the trash"));
    assert_eq!(open.reclaim.sweep(HOUR, HOUR).unwrap().unlinked, 1, "what is half unlinked waits for no grace");
    assert!(!open.store.layout.unlinking().exists(), "nothing is being unlinked any more");
}

#[test]
fn while_it_cannot_be_told_what_is_being_unlinked_nothing_goes_and_nothing_comes_back() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let trashed = open.reclaim.remove(&id, &[], HOUR).unwrap().trashed;
    let record = open.store.layout.unlinking();
    fs::write(&record, "{}").unwrap();
    let named = record.display().to_string();
    assert!(open.reclaim.undelete_snapshot(&id).unwrap_err().to_string().contains(&named));
    assert!(open.reclaim.sweep(Duration::ZERO, HOUR).unwrap_err().to_string().contains(&named));
    let replaced = open.store.root_trash_path(Departed::Replaced, &instance("b"));
    fs::create_dir_all(replaced.join("work")).unwrap();
    let early = SweepRules { grace: HOUR, fork_grace: HOUR, free: u64::MAX, ..SweepRules::default() };
    assert!(open.reclaim.sweep_by(&early).unwrap_err().to_string().contains(&named));
    assert!(replaced.exists(), "nothing else goes early in its place");
    open.reclaim.sweep(Duration::ZERO, HOUR).unwrap_err();
    assert!(!replaced.exists(), "what is known to be due goes");
    assert!(trashed.join("data/overlay.raw").exists());
    drop(open);
    let findings = world.worker("").verify(&VerifyBody::default()).unwrap().findings;
    assert!(findings.iter().any(|finding| finding.name == "trash.unreadable" && finding.severity == "error"), "{findings:#?}");
    fs::remove_file(&record).unwrap();
    world.open().reclaim.undelete_snapshot(&id).unwrap();
}

#[test]
fn a_trash_that_is_too_full_lets_its_oldest_entries_go_and_says_so() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("[trash]\nmax_bytes = \"70KiB\"\n");
    let ids: Vec<SnapshotId> = (0..4)
        .map(|n| {
            fs::write(world.vms.join("a/filler"), vec![n; 20 << 10]).unwrap();
            world.clock.advance(Duration::from_secs(60));
            take(&worker, "a")
        })
        .collect();
    for id in &ids {
        world.clock.advance(Duration::from_secs(60));
        worker.remove(id.as_str(), Removal::Now).unwrap();
    }
    worker.sweep().unwrap();
    let left: Vec<_> = worker.trash().unwrap().trash.into_iter().filter_map(|t| t.snapshot_id).collect();
    assert!(!left.is_empty() && left.len() < 4 && ids.ends_with(&left), "{left:?} of {ids:?}");
    let evicted = world.events.events().iter().filter(|e| matches!(e, Event::TrashEvicted { .. })).count();
    assert_eq!(evicted, 4 - left.len());
}
