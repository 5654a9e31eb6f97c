//! The start: reads are answered while it reads the root, nothing goes before it is over, one bad record is one, and the
//! number of threads changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::counts::Counter;
use crate::support::many::{Many, fork_id, world_in_memory};
use nix::errno::Errno;
use snapkeep::clock::Clock;
use snapkeep::config::parse;
use snapkeep::event::{Event, Events};
use snapkeep::policy::SnapshotState;
use snapkeep::snapshot::copy::NoProgress;
use snapkeep::store::fs::{Fs, Gate, Op};
use snapkeep::store::{OpenOptions, Store};
use snapkeep::worker::backend::{Backend, Removal};
use snapkeep::worker::problem::ProblemKind;
use snapkeep::worker::view::{PlanBody, SnapshotFilter};
use snapkeep::worker::{Surroundings, Worker};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};

#[test]
fn what_the_last_process_published_is_durable_before_a_start_acts_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(dir.path());
    let counter = Counter::default();
    let (_open, _) = counter.during(|| world.try_open(counter.fs()).unwrap());
    let (calls, snapshots) = (counter.calls(), world.store.join("snapshots"));
    let first = |op| calls.iter().position(|(done, path)| *done == op && *path == snapshots);
    assert!(first(Op::Fsync).unwrap() < first(Op::List).unwrap());
}

/// Holds up whoever opens this fork's record, until it is let go.
#[derive(Debug, Default)]
struct Barrier {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Barrier {
    fn wait_until_somebody_is_held(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |(is_held, _)| !*is_held).unwrap());
    }

    fn let_go(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Gate for Barrier {
    fn before(&self, _op: Op, _path: &Path) -> Result<(), Errno> {
        Ok(())
    }

    fn looks(&self, op: Op, path: &Path) {
        if op == Op::Open && path.ends_with("fork-7/.snapkeep/fork.json") {
            let mut state = self.state.lock().unwrap();
            state.0 = true;
            self.changed.notify_all();
            drop(self.changed.wait_while(state, |(_, is_let_go)| !*is_let_go).unwrap());
        }
    }
}

fn begin(world: &World, fs: Fs) -> Arc<Worker> {
    let text = format!(
        "[store]\npath = \"{}\"\ninstances = \"{}\"\n[worker]\nthreads = 2\n[trash]\ngrace = \"0s\"\n",
        world.store.display(),
        world.vms.display()
    );
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let events = Events::new(Arc::clone(&clock), Arc::new(world.events.clone()));
    let config = parse(vec![("/c.toml".into(), text)]).unwrap();
    Worker::begin(config, &Surroundings { fs, clock, events }, Arc::new(NoProgress)).unwrap()
}

#[test]
fn reads_are_answered_while_the_root_is_read_and_nothing_goes_before_that_is_over() {
    let (_dir, world, ids) = world_in_memory(Many { snapshots: 10, sources: 1, forks: 30, of_one: true });
    // A fork that is gone: its ref is to be dropped. And what a take left that was cut short.
    fs::remove_dir_all(world.vms.join("fork-3")).unwrap();
    fs::create_dir(world.store.join("staging/20260101-000000-abcdefgh")).unwrap();
    let dropped = world.store.join(format!("refs/{}/{}", ids[0], fork_id(3)));
    let barrier = Arc::new(Barrier::default());
    let worker = begin(&world, Fs::gated(Arc::clone(&barrier) as _));
    std::thread::scope(|scope| {
        let recovery = scope.spawn(|| worker.recover().unwrap());
        barrier.wait_until_somebody_is_held();
        assert_eq!(worker.snapshots(&SnapshotFilter::default()).unwrap().snapshots.len(), 10);
        assert_eq!(worker.snapshot(ids[0].as_str()).unwrap().ref_count, 30);
        assert_eq!(worker.queue().unwrap().requests.len(), 0);
        assert_eq!(worker.plan(&PlanBody::default()).unwrap().entries.len(), 10);
        let status = worker.status().unwrap().worker;
        assert!(status.starting.as_ref().is_some_and(|so_far| so_far.contains("of 29")), "{status:?}");
        let removal = scope.spawn(|| worker.remove(ids[5].as_str(), Removal::Now));
        // It has nothing to wait for but the start: ten thousand turns are enough for one that does not wait.
        (0..10_000).for_each(|_| std::thread::yield_now());
        assert!(!removal.is_finished() && !recovery.is_finished());
        assert!(world.store.join("snapshots").join(ids[5].as_str()).exists() && dropped.is_symlink());
        assert_eq!(fs::read_dir(world.store.join("staging")).unwrap().count(), 1);
        barrier.let_go();
        recovery.join().unwrap();
        assert_eq!(removal.join().unwrap().unwrap().result, "removed");
    });
    assert!(!dropped.is_symlink());
    assert_eq!(worker.starting(), None);
    assert_eq!(worker.snapshot(ids[0].as_str()).unwrap().ref_count, 29);
    assert_eq!(fs::read_dir(world.store.join("staging")).unwrap().count(), 0);
}

#[test]
fn a_start_that_is_told_to_stop_ends_and_what_waited_for_it_is_told_to_try_again() {
    let (_dir, world, ids) = world_in_memory(Many { snapshots: 2, sources: 1, forks: 300, of_one: true });
    let barrier = Arc::new(Barrier::default());
    let worker = begin(&world, Fs::gated(Arc::clone(&barrier) as _));
    std::thread::scope(|scope| {
        let recovery = scope.spawn(|| worker.recover());
        barrier.wait_until_somebody_is_held();
        worker.stopping.store(true, Ordering::SeqCst);
        worker.stop_starting();
        let refused = worker.remove(ids[1].as_str(), Removal::Now).unwrap_err();
        assert!(refused.kind == ProblemKind::Busy && refused.detail.contains("is starting"), "{refused:?}");
        barrier.let_go();
        assert!(recovery.join().unwrap().unwrap_err().to_string().contains("Operation canceled"));
    });
    drop(worker);
    // The next one goes on from there.
    assert_eq!(world.worker("").store.index().count_refs(), 300);
}

/// All that a store knows, and what was reported, as text.
fn opened(world: &World, threads: usize) -> (Vec<String>, Vec<Event>) {
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let collected = snapkeep::event::Collected::default();
    let events = Events::new(Arc::clone(&clock), Arc::new(collected.clone()));
    let options = OpenOptions { fs: Fs::real(), clock, events, store: world.store.clone(), instances: world.vms.clone(), threads };
    let store = Store::open_reader(&options).unwrap();
    let known = store.index().all().map(|(id, known)| format!("{id} {known:?}")).collect();
    (known, collected.events())
}

#[test]
fn a_bad_record_among_ten_thousand_blocks_only_itself_on_any_number_of_threads() {
    let (_dir, world, ids) = world_in_memory(Many { snapshots: 10_000, sources: 50, forks: 500, of_one: false });
    let bad = |n: usize| ids[n].as_str();
    let manifest = world.store.join("snapshots").join(bad(5000)).join("manifest.json");
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    fs::remove_file(world.store.join("snapshots").join(bad(7000)).join("manifest.json")).unwrap();
    let marks = world.store.join("marks").join(bad(100));
    fs::create_dir(&marks).unwrap();
    fs::write(marks.join("expiring.json"), "half").unwrap();
    fs::write(marks.join("pinned.json"), "half").unwrap();
    fs::write(world.store.join("refs").join(bad(200)).join("no fork"), "").unwrap();
    fs::remove_file(world.store.join("refs").join(bad(300)).join(fork_id(300).as_str())).unwrap();
    symlink("nowhere", world.store.join("refs").join(bad(300)).join(fork_id(300).as_str())).unwrap();
    let holds = world.store.join("holds").join(bad(400));
    fs::create_dir(&holds).unwrap();
    fs::write(holds.join("No Name"), "").unwrap();
    fs::write(holds.join("release"), "").unwrap();

    let (alone, events) = opened(&world, 1);
    for threads in [2, 3, 16] {
        let (together, reported) = opened(&world, threads);
        assert!(alone == together, "{threads} threads");
        assert_eq!(format!("{events:?}"), format!("{reported:?}"), "{threads} threads");
    }
    let worker = world.worker("[worker]\nthreads = 4\n");
    let index = worker.store.index();
    assert_eq!((index.count_present(), index.count_refs()), (10_000, 500));
    let damaged: Vec<&str> = index.all().filter(|(_, known)| known.damage().is_some()).map(|(id, _)| id.as_str()).collect();
    assert_eq!(damaged, [bad(100), bad(200), bad(400), bad(5000), bad(7000)]);
    assert!(index.get(&ids[5000]).is_some_and(|known| known.state() == SnapshotState::Quarantined && known.unreadable.is_empty()));
    assert_eq!(index.present().filter(|(_, known)| known.state() == SnapshotState::Ready).count(), 9998);
}
