//! Things that happen at the same time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::{NEVER, World, instance};
use snapkeep::fork::queue::RequestState;
use snapkeep::ids::HoldName;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::trash::Departed;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::verify::verify;
use snapkeep::worker::view::TakeBody;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_fork_racing_the_removal_of_its_snapshot_either_gets_it_whole_or_is_refused() {
    let rounds = if std::env::var_os("FULL").is_some() { 3000 } else { 300 };
    let world = World::new();
    let dir = world.vms.join("a");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("disk"), "disk").unwrap();
    fs::write(dir.join("memory"), "memory").unwrap();
    let open = world.open();
    let (mut forked, mut removed) = (0, 0);
    for round in 0..rounds {
        let id = open.take("a").unwrap();
        let name = format!("f{round}");
        let start = Barrier::new(2);
        let (made, gone) = std::thread::scope(|scope| {
            let fork = scope.spawn(|| {
                start.wait();
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(round as u64 % 400));
                }
                open.fork(&id, &name)
            });
            let remove = scope.spawn(|| {
                start.wait();
                std::thread::sleep(Duration::from_micros(round as u64 % 700));
                open.remove(&id)
            });
            (fork.join().unwrap(), remove.join().unwrap())
        });
        match (&made, &gone) {
            (Ok(request), Err(_)) => {
                assert_eq!(request.state, RequestState::Done);
                assert_eq!(fs::read(world.vms.join(&name).join("memory")).unwrap(), b"memory");
                forked += 1;
                fs::remove_dir_all(world.vms.join(&name)).unwrap();
                open.forks.reconcile().unwrap();
                open.remove(&id).unwrap();
            }
            (Err(_), Ok(())) => {
                assert!(!world.vms.join(&name).exists());
                removed += 1;
            }
            both => panic!("both won, or neither: {both:?}"),
        }
        open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    }
    println!("{forked} forks won, {removed} removals won");
    assert!(forked > 0 && removed > 0, "no race: {forked} {removed}");
}

#[test]
fn takes_forks_unforks_deletions_and_removals_at_once_leave_a_sound_store() {
    let world = World::new();
    world.make_instance("a");
    world.make_instance("b");
    let open = world.open();
    let base = open.take("a").unwrap();
    // Without one that stays there are moments at which nobody needs it, and it may go.
    open.fork(&base, "stays").unwrap();
    let rounds = if std::env::var_os("FULL").is_some() { 300 } else { 40 };
    std::thread::scope(|scope| {
        for instance in ["a", "b"] {
            let open = &open;
            scope.spawn(move || {
                for _ in 0..rounds {
                    let id = open.take(instance).unwrap();
                    let _ = open.remove(&id);
                }
            });
        }
        scope.spawn(|| {
            for n in 0..rounds {
                let made = open.fork(&base, &format!("x{n}")).unwrap();
                assert_eq!(made.state, RequestState::Done, "{made:?}");
                open.forks.unfork(&instance(&format!("x{n}"))).unwrap();
            }
        });
        scope.spawn(|| {
            for n in 0..rounds {
                let made = open.fork(&base, &format!("y{n}")).unwrap();
                assert_eq!(made.state, RequestState::Done, "{made:?}");
                fs::remove_dir_all(world.vms.join(format!("y{n}"))).unwrap();
            }
        });
        scope.spawn(|| {
            for _ in 0..rounds {
                open.forks.reconcile().unwrap();
                open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
            }
        });
        scope.spawn(|| {
            for _ in 0..rounds {
                open.forks.run_ready(&NEVER, &NEVER).unwrap();
                assert!(open.remove(&base).is_err());
            }
        });
    });
    open.forks.reconcile().unwrap();
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    let found = verify(&open.store.fs, &open.store.layout, &HashSet::new(), Flow::quiet());
    assert_eq!(found.findings, []);
}

#[test]
fn a_fork_that_is_made_between_the_refs_and_the_root_being_read_is_no_news_to_a_reconcile() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    std::thread::scope(|scope| {
        let moves = open.store.lock_root_moves();
        let reconcile = scope.spawn(|| open.forks.reconcile());
        // It has read the refs, and waits to read the root.
        std::thread::sleep(Duration::from_millis(100));
        open.fork(&id, "web").unwrap();
        drop(moves);
        assert_eq!(reconcile.join().unwrap().unwrap(), 0);
    });
    assert_eq!(open.ref_count(&id), 1);
    assert!(!world.event_names().contains(&"fork.adopted"), "{:?}", world.event_names());
}

#[test]
fn a_snapshot_that_is_cut_in_the_middle_of_a_sweep_keeps_its_marks_in_the_trash() {
    let rounds = if std::env::var_os("FULL").is_some() { 3000 } else { 60 };
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::at(dir.path());
    world.make_instance("a");
    let open = world.open();
    let ids: Vec<_> = (0..12).map(|_| open.take("a").unwrap()).collect();
    for id in &ids {
        open.store.mark_quarantined(&open.store.lock_snapshot(id), "a check failed").unwrap();
    }
    let grace = Duration::from_secs(3600);
    let done = AtomicBool::new(false);
    let undeleted = HoldName::parse("undeleted").unwrap();
    let mut sweeps = 0;
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                open.reclaim.sweep(grace, grace).unwrap();
                sweeps += 1;
            }
        });
        let mut lost = 0;
        for round in 0..rounds {
            let id = &ids[round % ids.len()];
            open.reclaim.remove(id, &[], grace).unwrap();
            lost += usize::from(!open.store.layout.mark(id, "quarantined").exists());
            std::thread::sleep(Duration::from_micros(round as u64 * 37 % 900));
            lost += usize::from(!open.store.layout.mark(id, "quarantined").exists());
            open.reclaim.undelete_snapshot(id).unwrap();
            open.store.drop_hold(&open.store.lock_snapshot(id), &undeleted).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        sweeper.join().unwrap();
        assert_eq!(lost, 0, "of {rounds}");
    });
    println!("{rounds} cuts under {sweeps} sweeps");
    for id in &ids {
        assert!(open.store.known(id).unwrap().quarantined.is_some());
    }
}

#[test]
fn a_sweep_without_a_grace_leaves_alone_what_a_restore_is_building() {
    let world = World::new();
    let open = world.open();
    let building = open.store.instance_locks.lock(&instance("a"));
    let built = open.store.root_trash_path(Departed::Replaced, &instance("a"));
    fs::create_dir(&built).unwrap();
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    assert!(built.exists());
    drop(building);
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    assert!(!built.exists());
}

#[test]
fn two_trees_that_are_replaced_at_the_same_time_of_the_clock_are_both_kept() {
    let world = World::new();
    let dir = world.make_instance("a");
    let worker = world.worker("");
    let body = TakeBody { instance: instance("a"), name: None, tags: Default::default() };
    let id = worker.take(&body).unwrap().id;
    for work in ["one", "two", "three"] {
        fs::write(dir.join("work"), work).unwrap();
        worker.restore(id.as_str()).unwrap();
    }
    let trash = world.vms.join(".snapkeep/trash");
    let mut kept: Vec<_> = fs::read_dir(trash).unwrap().map(|e| fs::read_to_string(e.unwrap().path().join("work")).unwrap()).collect();
    kept.sort();
    assert_eq!(kept, ["one", "three", "two"]);
}

#[test]
fn a_fork_with_the_name_and_inode_number_of_one_that_was_deleted_keeps_its_ref() {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let dir = world.vms.join("web");
    let mut reused = 0;
    for _ in 0..10 {
        open.fork(&id, "web").unwrap();
        let inode = fs::metadata(&dir).unwrap().ino();
        open.forks.reconcile().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        // File systems that give numbers out again do so at once.
        let made = open.fork(&id, "web").unwrap();
        reused += u32::from(fs::metadata(&dir).unwrap().ino() == inode);
        open.forks.reconcile().unwrap();
        let refs: Vec<_> = open.store.known(&id).unwrap().refs.keys().cloned().collect();
        assert_eq!(refs, [made.id], "after {reused} that were the same");
        fs::remove_dir_all(&dir).unwrap();
        open.forks.reconcile().unwrap();
        assert_eq!(open.ref_count(&id), 0);
    }
    println!("{reused} of 10 had the number of the one before");
}
