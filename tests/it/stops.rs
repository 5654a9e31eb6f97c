//! The end of the process at every step of every protocol: after the nth write-like call nothing more reaches the disk;
//! then a start, and everything must be whole.
#![allow(
    clippy::disallowed_macros,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use crate::support::{NEVER, Open, World, listing};
use snapkeep::fork::queue::RequestState;
use snapkeep::ids::SnapshotId;
use snapkeep::store::fs::{Fs, StopAfter};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// Runs `act` with a stop after each number of calls in turn, until it passes untouched; after each stop the store is
/// opened as by a start, and `check` looks at it. Returns how many stops were tried.
fn stop_everywhere<P>(prepare: impl Fn(&World) -> P, act: impl Fn(&Open, &P), check: impl Fn(&World, &Open, &P, bool)) -> u64 {
    for n in 0.. {
        let world = World::new();
        let prepared = prepare(&world);
        let gate = Arc::new(StopAfter::new(n));
        if let Ok(open) = world.try_open(Fs::gated(Arc::clone(&gate) as _))
            && open.recover().is_ok()
        {
            act(&open, &prepared);
        }
        let untouched = !gate.has_stopped();
        let open = world.open();
        check(&world, &open, &prepared, untouched);
        open.fork_and_remove_still_work(&world);
        if untouched {
            println!("{n} stops");
            return n;
        }
    }
    unreachable!()
}

impl Open {
    /// Whatever happened before: a store that recovered takes, forks and removes.
    fn fork_and_remove_still_work(&self, world: &World) {
        fs::create_dir(world.vms.join("after")).unwrap();
        fs::write(world.vms.join("after/x"), "x").unwrap();
        let id = self.take("after").unwrap();
        assert_eq!(self.fork(&id, "after-1").unwrap().state, RequestState::Done);
        fs::remove_dir_all(world.vms.join("after-1")).unwrap();
        self.forks.reconcile().unwrap();
        self.remove(&id).unwrap();
        assert_eq!(listing(&self.store.layout.staging()), [""; 0]);
        assert_eq!(listing(&self.store.layout.fork_staging()), [""; 0]);
    }
}

/// A published fork is whole; a ref is there for each, and for nothing else.
fn forks_and_refs_agree(world: &World, open: &Open, id: &SnapshotId, names: &[&str]) {
    let alive = names.iter().filter(|n| world.vms.join(n).exists()).count();
    let waiting = open.forks.waiting_for(id).len();
    assert_eq!(open.ref_count(id), alive + waiting);
    for name in names.iter().filter(|n| world.vms.join(n).exists()) {
        let fork = world.vms.join(name);
        for file in ["overlay.raw", "memory", "config.json", ".snapkeep/fork.json"] {
            assert!(fork.join(file).exists(), "{name} lacks {file}");
        }
        assert_eq!(fs::read(fork.join("overlay.raw")).unwrap(), fs::read(world.vms.join("a/overlay.raw")).unwrap());
        assert!(fs::read_to_string(fork.join("config.json")).unwrap().contains(name));
    }
}

/// A snapshot of an instance with so many files more; how many stops were tried.
fn stops_of_take(more: usize) -> u64 {
    let prepare = |world: &World| {
        world.make_instance("a");
        (0..more).for_each(|n| fs::write(world.vms.join(format!("a/file-{n}")), "x").unwrap());
    };
    stop_everywhere(
        prepare,
        |open, ()| drop(open.take("a")),
        |world, open, (), untouched| {
            let present: Vec<SnapshotId> = open.store.index().present().map(|(id, _)| id.clone()).collect();
            assert!(present.len() <= 1 && (!untouched || present.len() == 1));
            for id in present {
                let data = open.store.layout.snapshot(&id).join("data");
                let manifest = open.store.manifest(&id).unwrap();
                assert_eq!(manifest.entries.len(), 5 + more, "root, config.json, disk, memory, overlay.raw, and the others");
                assert_eq!(fs::read(data.join("overlay.raw")).unwrap(), fs::read(world.vms.join("a/overlay.raw")).unwrap());
            }
        },
    )
}

#[test]
fn a_stop_at_any_step_of_take_leaves_a_whole_snapshot_or_none() {
    let stops = stops_of_take(0);
    assert!(stops > 30, "{stops}");
}

#[test]
fn nor_does_a_stop_leave_half_a_snapshot_of_many_files_that_is_made_durable_by_one_sync_for_all() {
    let stops = stops_of_take(32);
    assert!(stops > 100, "{stops}");
}

#[test]
fn a_stop_at_any_step_of_accept_and_build_loses_no_acknowledged_fork_and_makes_none_twice() {
    let acknowledged = std::cell::RefCell::new(Vec::new());
    let stops = stop_everywhere(
        |world| {
            world.make_instance("a");
            world.open().take("a").unwrap()
        },
        |open, id| {
            let asks = ["b", "c"].map(|n| crate::support::ask(id, n)).to_vec();
            *acknowledged.borrow_mut() = open.forks.accept(asks).into_iter().filter_map(Result::ok).collect();
            let _ = open.forks.run_ready(&NEVER, &NEVER);
        },
        |world, open, id, untouched| {
            forks_and_refs_agree(world, open, id, &["b", "c"]);
            open.forks.run_ready(&NEVER, &NEVER).unwrap();
            for request in acknowledged.borrow().iter() {
                assert_eq!(open.forks.request(&request.id).unwrap().state, RequestState::Done, "{} was acknowledged", request.name);
                let record = fs::read_to_string(world.vms.join(request.name.as_str()).join(".snapkeep/fork.json")).unwrap();
                assert!(record.contains(request.id.as_str()));
            }
            assert!(!untouched || acknowledged.borrow().len() == 2);
            forks_and_refs_agree(world, open, id, &["b", "c"]);
            acknowledged.borrow_mut().clear();
        },
    );
    assert!(stops > 40, "{stops}");
}

#[test]
fn a_stop_at_any_step_of_a_failing_fork_leaves_no_ref_behind_and_no_half_fork() {
    stop_everywhere(
        |world| {
            let dir = world.make_instance("a");
            fs::write(dir.join("start.sh"), format!("{}/overlay.raw", dir.display())).unwrap();
            world.open().take("a").unwrap()
        },
        |open, id| drop(open.fork(id, "b")),
        |world, open, id, _| {
            open.forks.run_ready(&NEVER, &NEVER).unwrap();
            assert!(!world.vms.join("b").exists());
            assert_eq!(open.ref_count(id), 0);
        },
    );
}

#[test]
fn a_stop_at_any_step_of_remove_leaves_the_snapshot_whole_or_in_the_trash() {
    stop_everywhere(
        |world| {
            world.make_instance("a");
            let open = world.open();
            let id = open.take("a").unwrap();
            open.store.mark_expiring(&open.store.lock_snapshot(&id), "by hand").unwrap();
            id
        },
        |open, id| {
            drop(open.remove(id));
            drop(open.reclaim.sweep(Duration::ZERO, Duration::ZERO));
        },
        |world, open, id, untouched| {
            let present = open.store.known(id).is_ok();
            if present {
                assert!(open.store.manifest(id).is_ok() && !untouched);
                assert_eq!(open.fork(id, "b").err().map(|e| e.to_string().contains("last fork")), Some(true), "its mark is kept too");
            }
            open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
            assert_eq!(listing(&world.store.join("trash")), [""; 0]);
            assert_eq!(world.store.join("marks").join(id.as_str()).exists(), present);
        },
    );
}

#[test]
fn a_stop_at_any_step_of_unfork_leaves_the_fork_in_place_or_in_the_trash_with_its_ref() {
    stop_everywhere(
        |world| {
            world.make_instance("a");
            let open = world.open();
            let id = open.take("a").unwrap();
            open.fork(&id, "b").unwrap();
            id
        },
        |open, _| {
            drop(open.forks.unfork(&crate::support::instance("b")));
            drop(open.reclaim.sweep(Duration::ZERO, Duration::ZERO));
        },
        |world, open, id, _| {
            open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
            assert_eq!(open.ref_count(id), usize::from(world.vms.join("b").exists()));
        },
    );
}

#[test]
fn a_stop_at_any_step_of_restore_leaves_the_old_tree_or_the_new_one_whole() {
    use snapkeep::config::{DriverConfig, Skip};
    use snapkeep::driver::Plain;
    use snapkeep::snapshot::{copy::Flow, restore::restore};
    let plain = || Plain::new(DriverConfig { memory_names: vec![], freeze: vec![], thaw: vec![], timeout: Duration::from_secs(1) });
    stop_everywhere(
        |world| {
            let dir = world.make_instance("a");
            let id = world.open().take("a").unwrap();
            fs::write(dir.join("overlay.raw"), "changed since").unwrap();
            fs::write(dir.join("new-file"), "new").unwrap();
            id
        },
        |open, id| drop(restore(&open.store, id, &plain(), &Skip::new(&["logs/"]).unwrap(), Flow::quiet())),
        |world, open, _, untouched| {
            let dir = world.vms.join("a");
            let is_old = dir.join("new-file").exists();
            assert!(!(untouched && is_old));
            let disk = fs::read(dir.join("overlay.raw")).unwrap();
            assert_eq!(disk == b"changed since", is_old, "never half of each");
            assert_eq!(fs::read_to_string(dir.join("logs/app.log")).unwrap(), "started\n", "what snapshots skip stays");
            let trashed = listing(&world.vms.join(".snapkeep/trash"));
            assert!(is_old || trashed.iter().any(|line| line.contains("new-file")), "the old tree is in the trash");
            open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
        },
    );
}

#[test]
fn a_stop_while_the_start_mends_what_an_earlier_stop_left_is_mended_by_the_next_start() {
    for n in 0.. {
        let mut untouched = true;
        for m in [0, 1, 2, 3, 5, 8, 13, 21] {
            let world = World::new();
            world.make_instance("a");
            let id = world.open().take("a").unwrap();
            let (first, second) = (Arc::new(StopAfter::new(n)), Arc::new(StopAfter::new(m)));
            let mut acknowledged = None;
            if let Ok(open) = world.try_open(Fs::gated(Arc::clone(&first) as _))
                && open.recover().is_ok()
            {
                acknowledged = open.accept(&id, "b").ok();
                let _ = open.forks.run_ready(&NEVER, &NEVER);
            }
            untouched &= !first.has_stopped();
            if let Ok(open) = world.try_open(Fs::gated(Arc::clone(&second) as _)) {
                let _ = open.recover();
            }
            let open = world.open();
            forks_and_refs_agree(&world, &open, &id, &["b"]);
            open.forks.run_ready(&NEVER, &NEVER).unwrap();
            if let Some(request) = acknowledged {
                assert_eq!(open.forks.request(&request.id).unwrap().state, RequestState::Done, "stops after {n} and {m}");
            }
            forks_and_refs_agree(&world, &open, &id, &["b"]);
        }
        if untouched {
            return;
        }
    }
}
