//! Quarantine: a snapshot that failed a check is listed, never forked, never removed by age, reported once, counted as
//! not there, removed by hand; and nothing else suffers by it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests, which print what they tried"
)]

use crate::support::{World, instance};
use snapkeep::event::{Event, Level};
use snapkeep::ids::{HoldName, SnapshotId};
use snapkeep::policy::{SnapshotState, Verdict};
use snapkeep::store::layout::Layout;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::{Backend, Removal};
use snapkeep::worker::problem::ProblemKind;
use snapkeep::worker::view::{ForkBody, PlanBody, TakeBody, VerifyBody};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn take(world: &World, worker: &Worker, name: &str) -> SnapshotId {
    world.clock.advance(Duration::from_secs(60));
    worker.take(&TakeBody { instance: instance(name), name: None, tags: Default::default() }).unwrap().id
}

/// The state of the request, or why it was refused.
fn fork(worker: &Worker, id: &SnapshotId, name: &str) -> Result<String, ProblemKind> {
    let body = ForkBody { name: Some(name.to_owned()), ..ForkBody::default() };
    let asked = worker.fork(id.as_str(), &body, None).map_err(|problem| problem.kind)?;
    worker.forks.run_ready(&worker.stopping, &worker.cancelled).unwrap();
    Ok(worker.request(&asked.requests[0].id).unwrap().state)
}

fn state(worker: &Worker, id: &SnapshotId) -> Option<SnapshotState> {
    worker.snapshot(id.as_str()).ok().map(|view| view.state)
}

/// Events about snapshots in quarantine.
fn reports(world: &World) -> Vec<String> {
    let quarantined = world.events.events().into_iter().filter(|e| matches!(e, Event::SnapshotQuarantined { .. }));
    quarantined
        .map(|event| {
            assert_eq!(event.level(), Level::Error);
            let Event::SnapshotQuarantined { snapshot, .. } = event else { unreachable!() };
            snapshot
        })
        .collect()
}

fn change(path: &Path, how: impl FnOnce(&fs::File)) {
    let mode = fs::metadata(path).unwrap().mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    how(&fs::File::options().write(true).open(path).unwrap());
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn spoil(worker: &Worker, id: &SnapshotId) {
    use std::os::unix::fs::FileExt as _;
    change(&worker.store.layout.snapshot(id).join("data/overlay.raw"), |file| file.write_all_at(b"spoilt", 9).unwrap());
    worker.verify(&VerifyBody { repair: true, ..VerifyBody::default() }).unwrap();
    assert_eq!(state(worker, id), Some(SnapshotState::Quarantined));
}

/// In words, and what is done to a file.
type Change<'a> = (&'a str, &'a dyn Fn(&fs::File));

#[test]
fn memory_that_changed_is_found_at_the_next_fork_reported_once_and_stays_out_of_reach_over_restarts() {
    let time = |file: &fs::File| file.set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH)).unwrap();
    let length = |file: &fs::File| file.set_len(300 << 10).unwrap();
    let kinds: [Change<'_>; 2] = [("its time", &time), ("its length", &length)];
    for (words, how) in kinds {
        let world = World::new();
        world.make_instance("a");
        let worker = world.worker("");
        let (bad, good) = (take(&world, &worker, "a"), take(&world, &worker, "a"));
        change(&worker.store.layout.snapshot(&bad).join("data/memory"), how);
        assert_eq!(fork(&worker, &bad, "one").unwrap(), "failed", "{words}");
        assert!(!world.vms.join("one").exists());
        assert_eq!(fork(&worker, &bad, "two"), Err(ProblemKind::Conflict), "{words}");
        let view = worker.snapshot(bad.as_str()).unwrap();
        assert_eq!((view.state, view.ref_count), (SnapshotState::Quarantined, 0), "{words}");
        assert!(view.quarantined_because.is_some_and(|why| why.contains("memory")));
        drop(worker);
        let worker = world.worker("");
        let listed = worker.snapshots(&Default::default()).unwrap().snapshots;
        assert_eq!(listed.iter().map(|s| s.state).collect::<Vec<_>>(), [SnapshotState::Quarantined, SnapshotState::Ready], "{words}");
        assert_eq!(fork(&worker, &bad, "two"), Err(ProblemKind::Conflict), "{words}");
        assert!(worker.restore(bad.as_str()).is_err());
        assert_eq!(fork(&worker, &good, "two").unwrap(), "done");
        worker.verify(&VerifyBody { repair: true, ..VerifyBody::default() }).unwrap();
        assert_eq!(reports(&world), [bad.to_string()], "{words}: once");
        worker.remove(bad.as_str(), Removal::Now).unwrap();
        assert_eq!(state(&worker, &bad), None);
    }
}

#[test]
fn one_bad_record_blocks_no_other_snapshot_and_goes_by_hand() {
    let world = World::new();
    world.make_instance("a");
    let config = "[trash]\ngrace = \"0s\"\n";
    let worker = world.worker(config);
    let ids: Vec<SnapshotId> = (0..7).map(|_| take(&world, &worker, "a")).collect();
    let layout = worker.store.layout.clone();
    fork(&worker, &ids[1], "of-1").unwrap();
    drop(worker);
    let scribble = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(path);
        fs::write(path, "\0{scribble").unwrap();
    };
    scribble(&Layout::manifest_in(&layout.snapshot(&ids[0])));
    let own_ref = fs::read_dir(layout.refs_of(&ids[1])).unwrap().next().unwrap().unwrap().path();
    scribble(&own_ref);
    scribble(&layout.mark(&ids[2], "expiring"));
    scribble(&layout.mark(&ids[3], "quarantined"));
    scribble(&layout.holds_of(&ids[4]).join("NOT A NAME"));
    let worker = world.worker(config);
    let all = worker.snapshots(&Default::default()).unwrap();
    assert_eq!(all.snapshots.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(all.unreadable.iter().map(|u| u.id.clone()).collect::<Vec<_>>(), ids[..1]);
    assert_eq!(reports(&world), [ids[0].to_string()]);
    assert_eq!(fork(&worker, &ids[0], "of-0"), Err(ProblemKind::Conflict));
    for id in &ids[..5] {
        assert_eq!(worker.remove(id.as_str(), Removal::Now).unwrap_err().kind, ProblemKind::Conflict, "it cannot be told what needs it");
    }
    for (n, id) in ids.iter().enumerate().skip(5) {
        let name = format!("of-{n}");
        assert_eq!(fork(&worker, id, &name).unwrap(), "done");
        worker.hold(id.as_str(), &HoldName::parse("h").unwrap()).unwrap();
        worker.release(id.as_str(), &HoldName::parse("h").unwrap()).unwrap();
        worker.unfork(&instance(&name)).unwrap();
        worker.remove(id.as_str(), Removal::Now).unwrap();
    }
    worker.remove(ids[0].as_str(), Removal::Unreadable).unwrap();
    let all = worker.snapshots(&Default::default()).unwrap();
    assert_eq!((all.snapshots.len(), all.unreadable.len()), (4, 0));
    assert!(!layout.snapshot(&ids[0]).exists() && layout.snapshot(&ids[1]).exists());
    println!("5 kinds of bad record, beside two snapshots that were forked, held and removed");
}

fn policy(rest: &str) -> String {
    format!("[trash]\ngrace = \"0s\"\n[scrub]\nenabled = false\n[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n{rest}")
}

/// So many snapshots of a policy, oldest first; nothing is pruned yet.
fn taken(world: &World, worker: &Worker, count: usize) -> Vec<SnapshotId> {
    let all = || worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().map(|s| s.id).collect::<Vec<_>>();
    for _ in 0..20 {
        if all().len() == count {
            return all();
        }
        world.clock.advance(HOUR);
        for job in worker.due_jobs() {
            worker.run_job(&job);
        }
    }
    panic!("{} of {count} were taken", all().len());
}

fn left(worker: &Worker) -> Vec<SnapshotId> {
    worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().map(|s| s.id).collect()
}

#[test]
fn one_in_quarantine_is_not_pruned_and_takes_no_place_from_a_good_one() {
    for (rules, keeps) in
        [("[policy.keep]\nlast = 2\n", 2), ("[policy.limit]\nmax_age = \"2h\"\nmin = 2\n", 2), ("[policy.limit]\nmax_count = 3\n", 3)]
    {
        let world = World::new();
        world.make_instance("a");
        let worker = world.worker(&policy(rules));
        let ids = taken(&world, &worker, 6);
        spoil(&worker, &ids[5]);
        spoil(&worker, &ids[0]);
        world.clock.advance(HOUR * 5);
        let plan = worker.plan(&PlanBody::default()).unwrap();
        for bad in [&ids[0], &ids[5]] {
            let entry = plan.entries.iter().find(|e| e.snapshot_id == *bad).unwrap();
            assert_eq!((entry.verdict, entry.reasons[0].rule.as_str()), (Verdict::Keep, "quarantined"), "{rules}");
        }
        worker.prune_pass().unwrap();
        let good = ids[5 - keeps..5].to_vec();
        let wanted: Vec<_> = [&ids[..1], &good, &ids[5..]].concat();
        assert_eq!(left(&worker), wanted, "{rules}");
        worker.remove(ids[5].as_str(), Removal::Now).unwrap();
        worker.prune_pass().unwrap();
        assert_eq!(left(&worker), wanted[..wanted.len() - 1], "{rules}: with the bad one gone, the same good ones stay");
    }
}

#[test]
fn one_that_is_to_go_with_its_last_fork_and_fails_a_check_stays_for_a_person_to_look_at() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("[trash]\ngrace = \"0s\"\n");
    let id = take(&world, &worker, "a");
    fork(&worker, &id, "web").unwrap();
    worker.remove(id.as_str(), Removal::Defer).unwrap();
    spoil(&worker, &id);
    worker.unfork(&instance("web")).unwrap();
    worker.once().unwrap();
    assert_eq!(state(&worker, &id), Some(SnapshotState::Quarantined));
    worker.remove(id.as_str(), Removal::Now).unwrap();
    assert_eq!(left(&worker), []);
}

#[test]
fn a_manifest_that_is_spoilt_while_the_worker_runs_fails_the_fork_for_good_and_is_quarantined() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker("");
    let id = take(&world, &worker, "a");
    let manifest = Layout::manifest_in(&worker.store.layout.snapshot(&id));
    change(&manifest, |file| file.set_len(100).unwrap());
    assert_eq!(fork(&worker, &id, "one").unwrap(), "failed");
    assert_eq!(state(&worker, &id), Some(SnapshotState::Quarantined));
    assert_eq!(reports(&world), [id.to_string()]);
}
