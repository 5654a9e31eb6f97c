//! What snapshots, forks and removals do to each other, on real files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::{NEVER, World, ask, instance, listing};
use snapkeep::fork::ForkError;
use snapkeep::fork::queue::{Ask, Denied, RequestState};
use snapkeep::reclaim::ReclaimError;
use snapkeep::store::StoreError;
use snapkeep::store::fs::Fs;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

fn blocked_by(result: Result<(), ReclaimError>) -> Vec<&'static str> {
    match result {
        Err(ReclaimError::Blocked { blocked, .. }) => blocked.why,
        other => panic!("not blocked: {other:?}"),
    }
}

#[test]
fn a_stopped_snapshot_outlives_its_source_forks_refuses_removal_while_the_fork_lives_and_goes_when_the_fork_has_gone() {
    let world = World::new();
    let dir = world.make_instance("web");
    fs::remove_file(dir.join("memory")).unwrap();
    let open = world.open();
    let id = open.take("web").unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(open.fork(&id, "web-2").unwrap().state, RequestState::Done);
    assert_eq!(open.ref_count(&id), 1);
    assert_eq!(blocked_by(open.remove(&id)), ["live_forks"]);
    fs::remove_dir_all(world.vms.join("web-2")).unwrap();
    assert_eq!(open.forks.reconcile().unwrap(), 1);
    assert_eq!(open.ref_count(&id), 0);
    open.remove(&id).unwrap();
    assert!(matches!(open.store.known(&id), Err(StoreError::NoSnapshot { .. })));
    assert_eq!(open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap().unlinked, 1);
    assert_eq!(listing(&world.store.join("trash")), [""; 0]);
}

#[test]
fn a_fork_shares_the_memory_files_inode_and_never_a_disks() {
    let world = World::new();
    let source = world.make_instance("golden");
    let open = world.open();
    let id = open.take("golden").unwrap();
    let request = open.fork(&id, "golden-7").unwrap();
    assert_eq!(request.memory.as_deref(), Some("hardlink"));
    let stored = open.store.layout.snapshot(&id).join("data");
    let fork = world.vms.join("golden-7");
    let meta = |path: std::path::PathBuf| fs::metadata(path).unwrap();
    let memory = meta(fork.join("memory"));
    assert_eq!(memory.ino(), meta(stored.join("memory")).ino());
    assert_ne!(memory.ino(), meta(source.join("memory")).ino());
    assert_eq!(memory.mode() & 0o777, 0o444);
    assert_eq!(fs::read(fork.join("memory")).unwrap(), fs::read(source.join("memory")).unwrap());
    let disks = [&source, &stored, &fork].map(|d| meta(d.join("overlay.raw")).ino());
    assert!(disks[0] != disks[1] && disks[1] != disks[2] && disks[0] != disks[2]);
    assert_eq!(fs::read(fork.join("overlay.raw")).unwrap(), fs::read(source.join("overlay.raw")).unwrap());
    assert!(meta(fork.join("overlay.raw")).blocks() * 512 < 64 << 10, "holes stay holes");
}

#[test]
fn no_fork_keeps_a_way_to_its_sources_disk() {
    let world = World::new();
    let source = world.make_instance("golden");
    let open = world.open();
    let id = open.take("golden").unwrap();
    open.fork(&id, "golden-7").unwrap();
    let fork = world.vms.join("golden-7");
    assert_eq!(fs::read_link(fork.join("disk")).unwrap(), fork.join("overlay.raw"));
    let config = fs::read_to_string(fork.join("config.json")).unwrap();
    assert_eq!(config, format!(r#"{{"drive": "{}/overlay.raw", "vcpus": 2}}"#, fork.display()));
    fs::write(source.join("start.sh"), format!("exec vmm --disk {}/overlay.raw\n", source.display())).unwrap();
    let id = open.take("golden").unwrap();
    let failed = open.fork(&id, "golden-8").unwrap();
    assert_eq!(failed.state, RequestState::Failed);
    assert!(failed.error.unwrap().starts_with("start.sh names the source's directory"));
    assert!(!world.vms.join("golden-8").exists());
    assert_eq!(open.ref_count(&id), 0, "a fork that failed for good needs nothing");
    assert_eq!(listing(&open.store.layout.fork_staging()), [""; 0]);
}

#[test]
fn an_unreadable_fork_record_blocks_its_own_snapshot_and_no_other() {
    let world = World::new();
    world.make_instance("a");
    world.make_instance("b");
    let open = world.open();
    let (a, b) = (open.take("a").unwrap(), open.take("b").unwrap());
    open.fork(&a, "fork-of-a").unwrap();
    fs::write(world.vms.join("fork-of-a/.snapkeep/fork.json"), "{").unwrap();
    drop(open);
    let open = world.open();
    assert_eq!(open.ref_count(&a), 1);
    assert!(blocked_by(open.remove(&a)).contains(&"live_forks"));
    open.remove(&b).unwrap();
    // Also when the ref is lost and only the memory file's inode tells whose fork it is.
    drop(open);
    fs::remove_dir_all(world.store.join("refs").join(a.as_str())).unwrap();
    let open = world.open();
    assert_eq!(blocked_by(open.remove(&a)), ["unreadable"]);
    assert!(world.event_names().contains(&"record.unreadable"));
}

#[test]
fn a_snapshot_with_an_unreadable_manifest_is_kept_and_blocks_nothing_else() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let (bad, good) = (open.take("a").unwrap(), open.take("a").unwrap());
    drop(open);
    let manifest = world.store.join("snapshots").join(bad.as_str()).join("manifest.json");
    fs::write(&manifest, "{").unwrap();
    let open = world.open();
    assert!(matches!(open.accept(&bad, "x"), Err(ForkError::NotForkable(..))));
    assert_eq!(blocked_by(open.remove(&bad)), ["unreadable"]);
    open.fork(&good, "y").unwrap();
    open.take("a").unwrap();
}

#[test]
fn a_moved_fork_is_followed_a_copied_one_lives_until_the_last_copy_is_gone_and_a_deleted_one_is_released() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    for name in ["moved", "copied", "deleted"] {
        open.fork(&id, name).unwrap();
    }
    fs::rename(world.vms.join("moved"), world.vms.join("elsewhere")).unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(world.vms.join("copied")).arg(world.vms.join("copy")).status().unwrap();
    assert!(status.success());
    fs::remove_dir_all(world.vms.join("copied")).unwrap();
    fs::remove_dir_all(world.vms.join("deleted")).unwrap();
    assert_eq!(open.forks.reconcile().unwrap(), 1);
    assert_eq!(open.ref_count(&id), 2);
    let targets: Vec<_> =
        fs::read_dir(world.store.join("refs").join(id.as_str())).unwrap().map(|e| fs::read_link(e.unwrap().path()).unwrap()).collect();
    assert!(targets.contains(&world.vms.join("elsewhere")) && targets.contains(&world.vms.join("copy")), "{targets:?}");
    fs::remove_dir_all(world.vms.join("copy")).unwrap();
    assert_eq!(open.forks.reconcile().unwrap(), 1);
    // Moved out of the root: it counts no more, but its link to the memory file does.
    fs::rename(world.vms.join("elsewhere"), world.store.parent().unwrap().join("outside")).unwrap();
    assert_eq!(open.forks.reconcile().unwrap(), 1);
    assert_eq!(open.ref_count(&id), 0);
    assert_eq!(blocked_by(open.remove(&id)), ["linked"]);
    fs::remove_dir_all(world.store.parent().unwrap().join("outside")).unwrap();
    open.remove(&id).unwrap();
}

#[test]
fn with_the_instances_root_away_no_ref_is_dropped_nothing_is_removed_and_all_is_well_when_it_is_back() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let (forked, free) = (open.take("a").unwrap(), open.take("a").unwrap());
    open.fork(&forked, "b").unwrap();
    // What is left when a mount goes: the mount point, empty.
    let away = world.vms.with_extension("away");
    fs::rename(&world.vms, &away).unwrap();
    fs::create_dir(&world.vms).unwrap();
    assert_eq!(open.forks.reconcile().unwrap(), 0);
    assert_eq!(open.ref_count(&forked), 1);
    assert!(matches!(open.remove(&free), Err(ReclaimError::Unmounted(_))));
    assert!(open.take("a").is_err());
    assert!(open.accept(&free, "c").is_err());
    drop(open);
    let open = world.open();
    assert_eq!(open.ref_count(&forked), 1, "also after a restart");
    assert!(!world.vms.join(".snapkeep").exists(), "the proof is not made anew");
    fs::remove_dir(&world.vms).unwrap();
    fs::rename(&away, &world.vms).unwrap();
    assert_eq!(open.forks.reconcile().unwrap(), 0);
    open.remove(&free).unwrap();
    let names = world.event_names();
    assert!(names.contains(&"root.lost") && names.contains(&"root.found"));
}

#[test]
fn requests_with_the_same_key_make_one_fork_also_after_a_restart() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let mut keyed = ask(&id, "b");
    keyed.key = Some("job-1".into());
    let first = open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap();
    let again = open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap();
    assert_eq!(first.id, again.id);
    drop(open);
    let open = world.open();
    open.forks.run_ready(&NEVER, &NEVER).unwrap();
    let again = open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap();
    assert_eq!((again.id, again.state), (first.id.clone(), RequestState::Done));
    // The journal forgets; the fork's own record does not.
    drop(open);
    fs::remove_file(world.store.join("queue/journal")).unwrap();
    let open = world.open();
    let again = open.forks.accept(vec![keyed]).pop().unwrap().unwrap();
    assert_eq!(again.id, first.id);
    let denied = open.accept(&id, "b").unwrap_err();
    assert!(matches!(denied, ForkError::Denied(Denied::NameTaken(_))), "{denied}");
}

#[test]
fn whoever_was_to_share_a_request_of_a_batch_that_is_refused_is_refused_too_and_nothing_of_it_waits() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let of = |batch: u64, key: &str, name: &str| Ask { key: Some(key.into()), batch, ..ask(&id, name) };
    // All come while one accepts: the first batch wants a name that is taken, the others requests of the first.
    let answers = open.forks.accept(vec![
        of(1, "job/0", "b"),
        of(1, "job/1", "a"),
        of(0, "job/0", "b"),
        of(2, "job/0", "b"),
        of(2, "more/0", "c"),
        of(3, "well/0", "d"),
        of(3, "well/1", "e"),
    ]);
    let accepted: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [false, false, false, false, false, true, true], "{answers:?}");
    assert_eq!((open.forks.pending(), open.ref_count(&id)), (2, 2));
    let again = open.forks.accept(vec![of(0, "job/0", "b")]).pop().unwrap().unwrap();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 3);
    assert_eq!(open.forks.request(&again.id).unwrap().state, RequestState::Done);
}

#[test]
fn a_cancelled_request_is_never_built_and_its_ref_is_gone() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let request = open.accept(&id, "b").unwrap();
    assert_eq!(blocked_by(open.remove(&id)), ["queued"]);
    open.forks.cancel(&request.id).unwrap();
    open.forks.run_ready(&NEVER, &NEVER).unwrap();
    assert!(!world.vms.join("b").exists());
    assert!(matches!(open.forks.cancel(&request.id), Err(ForkError::Denied(Denied::TooLate(..)))));
    open.remove(&id).unwrap();
}

#[test]
fn a_burst_makes_every_fork_once_and_numbers_go_on_after_the_highest() {
    use snapkeep::fork::queue::{Ask, Naming};
    let world = World::new();
    world.make_instance("g");
    let open = world.open();
    let id = open.take("g").unwrap();
    open.fork(&id, "g-41").unwrap();
    let asks =
        (0..50).map(|_| Ask { key: None, snapshot: id.clone(), naming: Naming::Prefixed("g".into()), batch: 0, waits: false }).collect();
    let names: Vec<String> = open.forks.accept(asks).into_iter().map(|r| r.unwrap().name.to_string()).collect();
    assert_eq!((names[0].as_str(), names[49].as_str()), ("g-42", "g-91"));
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 50);
    assert!(names.iter().all(|n| world.vms.join(n).join("overlay.raw").exists()));
    assert_eq!(open.ref_count(&id), 51);
}

#[test]
fn a_damaged_journal_is_kept_accepts_nothing_and_drops_no_ref_while_snapshots_go_on() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    open.fork(&id, "b").unwrap();
    drop(open);
    let journal = world.store.join("queue/journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[30] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    fs::remove_dir_all(world.vms.join("b")).unwrap();
    let open = world.open();
    assert_eq!(open.ref_count(&id), 1, "an unfinished request may hide in the damage");
    assert!(matches!(open.accept(&id, "c"), Err(ForkError::Journal(_))));
    let other = open.take("a").unwrap();
    open.remove(&other).unwrap();
    assert_eq!(fs::read(&journal).unwrap(), bytes);
    assert!(world.event_names().contains(&"queue.damaged"));
}

#[test]
fn a_torn_journal_tail_is_cut_and_what_was_acknowledged_is_made() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    open.accept(&id, "b").unwrap();
    drop(open);
    let journal = world.store.join("queue/journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend_from_slice(b"000001f0 0123456789abcdef [{\"record\":\"acc");
    fs::write(&journal, &bytes).unwrap();
    let open = world.open();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 1);
    assert!(world.vms.join("b").exists());
}

#[test]
fn a_memory_file_that_somebody_wrote_to_is_not_linked_and_its_snapshot_is_quarantined() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let memory = open.store.layout.snapshot(&id).join("data/memory");
    fs::set_permissions(&memory, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&memory, "scribble").unwrap();
    let request = open.fork(&id, "b").unwrap();
    assert_eq!(request.state, RequestState::Failed);
    assert!(matches!(open.accept(&id, "c"), Err(ForkError::NotForkable(..))));
    drop(open);
    let open = world.open();
    assert!(matches!(open.accept(&id, "c"), Err(ForkError::NotForkable(..))), "also after a restart");
}

#[test]
fn a_snapshot_of_a_fork_links_its_parents_unchanged_memory_and_outlives_the_parent() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let parent = open.take("a").unwrap();
    open.fork(&parent, "b").unwrap();
    let child = open.take("b").unwrap();
    let ino = |id: &snapkeep::ids::SnapshotId| fs::metadata(open.store.layout.snapshot(id).join("data/memory")).unwrap().ino();
    assert_eq!(ino(&parent), ino(&child));
    assert_eq!(open.store.known(&child).unwrap().summary.unwrap().parent, Some(parent.clone()));
    open.forks.unfork(&instance("b")).unwrap();
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    open.remove(&parent).unwrap();
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    assert_eq!(open.fork(&child, "c").unwrap().state, RequestState::Done);
    assert!(!listing(&world.vms.join("c")).is_empty());
}

#[test]
fn a_removed_fork_keeps_its_ref_until_it_is_unlinked_from_the_trash() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    open.fork(&id, "b").unwrap();
    assert!(matches!(open.forks.unfork(&instance("a")), Err(ForkError::NoFork(_))));
    open.forks.unfork(&instance("b")).unwrap();
    assert!(!world.vms.join("b").exists());
    open.forks.reconcile().unwrap();
    assert_eq!(open.ref_count(&id), 1);
    open.reclaim.sweep(Duration::from_secs(3600), Duration::from_secs(3600)).unwrap();
    assert_eq!(open.ref_count(&id), 1);
    world.clock.advance(Duration::from_secs(3601));
    open.reclaim.sweep(Duration::from_secs(3600), Duration::from_secs(3600)).unwrap();
    assert_eq!(open.ref_count(&id), 0);
}

#[test]
fn a_second_writer_is_refused_and_a_reader_is_not() {
    let world = World::new();
    let open = world.open();
    assert!(matches!(world.try_open(Fs::real()), Err(StoreError::Busy { .. })));
    snapkeep::store::Store::open_reader(&world.options(Fs::real())).unwrap();
    drop(open);
    world.open();
}

#[test]
fn a_hold_blocks_removal_until_it_is_released() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let hold = snapkeep::ids::HoldName::parse("release-1").unwrap();
    open.store.add_hold(&open.store.lock_snapshot(&id), &hold).unwrap();
    drop(open);
    let open = world.open();
    assert_eq!(blocked_by(open.remove(&id)), ["held"]);
    assert!(open.store.drop_hold(&open.store.lock_snapshot(&id), &hold).unwrap());
    open.remove(&id).unwrap();
}

#[test]
fn the_trash_keeps_a_snapshot_until_its_grace_has_passed_on_wall_and_boot_clock() {
    use chrono::TimeDelta;
    use snapkeep::clock::Clock as _;
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    open.remove(&id).unwrap();
    let hour = Duration::from_secs(3600);
    let swept = || open.reclaim.sweep(hour, hour).unwrap().unlinked;
    assert_eq!(swept(), 0);
    world.clock.step_to(world.clock.now() + TimeDelta::days(400));
    assert_eq!(swept(), 0, "a wall clock that jumps is not time that passed");
    world.clock.advance(hour + Duration::from_secs(1));
    assert_eq!(swept(), 1);
}

#[test]
fn a_fork_that_was_accepted_is_made_once_the_root_is_back_without_a_restart() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    open.accept(&id, "b").unwrap();
    drop(open);
    let away = world.vms.with_extension("away");
    fs::rename(&world.vms, &away).unwrap();
    fs::create_dir(&world.vms).unwrap();
    let open = world.open();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap(), Default::default());
    assert_eq!(open.forks.requests()[0].state, RequestState::Queued, "no attempt is lost to a root that is away");
    fs::remove_dir(&world.vms).unwrap();
    fs::rename(&away, &world.vms).unwrap();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 1);
    assert!(world.vms.join("b/overlay.raw").exists());
}

#[test]
fn a_key_is_remembered_for_as_long_as_its_fork_lives() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let mut keyed = ask(&id, "b");
    keyed.key = Some("job-1".into());
    let first = open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap();
    open.forks.run_ready(&NEVER, &NEVER).unwrap();
    open.forks.reconcile().unwrap();
    world.clock.advance(Duration::from_secs(3 * 86_400));
    open.forks.compact().unwrap();
    assert_eq!(open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap().id, first.id);
    fs::remove_dir_all(world.vms.join("b")).unwrap();
    open.forks.reconcile().unwrap();
    assert_ne!(open.forks.accept(vec![keyed]).pop().unwrap().unwrap().id, first.id);
}
