//! Where the queue, the pool, digests that come later and compression meet: what one of them may do to another.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::compress::{forms, pack};
use crate::digests::{make_big, make_pending, pending_world};
use crate::pool::{Pooled, READY_3, fill};
use crate::support::{NEVER, Open, World, ask};
use nix::errno::Errno;
use snapkeep::fork::queue::{Ask, RequestState};
use snapkeep::fork::{ForkError, Forks};
use snapkeep::ids::SnapshotId;
use snapkeep::reclaim::Reclaim;
use snapkeep::store::fs::{Fs, Gate, Op};
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::VerifyBody;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

fn open_of(worker: &Arc<Worker>) -> Open {
    let (store, forks) = (Arc::clone(&worker.store), Arc::clone(&worker.forks));
    Open { reclaim: Reclaim::new(Arc::clone(&store), Arc::clone(&forks)), store, forks }
}

/// Makes forks at the moment at which refs are to be synced, and fails that sync.
#[derive(Debug, Default)]
struct EagerRunner {
    forks: Mutex<Weak<Forks>>,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Gate for EagerRunner {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        let is_refs = path.parent().and_then(Path::file_name).is_some_and(|name| name == "refs");
        let Some(forks) = self.forks.lock().unwrap().upgrade().filter(|_| op == Op::Fsync && is_refs) else { return Ok(()) };
        let report = forks.run_ready(&NEVER, &NEVER).unwrap();
        self.made.fetch_add(report.done as u64, Ordering::SeqCst);
        self.failed.fetch_add(1, Ordering::SeqCst);
        Err(Errno::EIO)
    }
}

#[test]
fn nothing_is_built_before_its_ref_is_durable_and_nothing_at_all_if_it_cannot_be() {
    let world = World::new();
    world.make_instance("a");
    let gate = Arc::new(EagerRunner::default());
    let open = world.try_open(Fs::gated(Arc::clone(&gate) as _)).unwrap();
    open.recover().unwrap();
    let id = open.take("a").unwrap();
    open.fork(&id, "first").unwrap();
    *gate.forks.lock().unwrap() = Arc::downgrade(&open.forks);
    // Twice the same, with one key: neither is told that it will be made.
    let keyed = Ask { key: Some("k".to_owned()), ..ask(&id, "second") };
    let answers = open.forks.accept(vec![keyed.clone(), keyed.clone()]);
    assert!(answers.iter().all(|answer| matches!(answer, Err(ForkError::Ref(_)))), "{answers:?}");
    assert_eq!((gate.failed.load(Ordering::SeqCst), gate.made.load(Ordering::SeqCst)), (1, 0));
    *gate.forks.lock().unwrap() = Weak::new();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 0);
    assert_eq!((open.ref_count(&id), open.forks.pending()), (1, 0));
    drop(open);
    // Nor by the next start; name and key are free.
    let open = world.open();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 0);
    assert!(!world.vms.join("second").exists());
    assert!(open.forks.accept(vec![keyed]).pop().unwrap().is_ok());
}

/// What is on the disk at this moment, as a power cut would leave it: a copy in another place, links and all.
fn cut_off(world: &World) -> (tempfile::TempDir, World) {
    let dir = tempfile::tempdir().unwrap();
    for part in [&world.store, &world.vms] {
        assert!(Command::new("cp").arg("-a").arg(part).arg(dir.path()).status().unwrap().success());
    }
    let other = World::at(dir.path());
    (dir, other)
}

#[test]
fn a_fork_whose_renames_out_of_the_pool_a_power_cut_undoes_is_made_again_and_one_that_is_there_is_not() {
    let pooled = Pooled::new(World::new(), READY_3);
    let entry = pooled.entries().into_iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(pooled.open.fork(&pooled.id, "f").unwrap().state, RequestState::Done);
    assert_eq!(pooled.pooled(), [true]);
    // `done` is not in the journal yet; the fork is in its place.
    for is_undone in [false, true] {
        let (_dir, world) = cut_off(&pooled.world);
        if is_undone {
            let shelf = world.vms.join(".snapkeep/pool").join(pooled.id.as_str());
            let name = entry.iter().find(|name| !shelf.join(name).exists()).unwrap();
            fs::rename(world.vms.join("f"), shelf.join(name)).unwrap();
        }
        let open = world.open();
        let made = open.forks.run_ready(&NEVER, &NEVER).unwrap().done;
        assert_eq!((made, world.vms.join("f/memory").exists()), (usize::from(is_undone), true));
        assert_eq!(open.ref_count(&pooled.id), 1);
        assert!(open.forks.requests().iter().all(|request| request.state == RequestState::Done));
    }
}

#[test]
fn a_snapshot_that_is_new_gets_the_pool_of_the_one_before() {
    let pooled = Pooled::new(World::new(), READY_3);
    let newer = pooled.open.take("a").unwrap();
    fill(&pooled.open);
    assert!(pooled.entries().is_empty(), "nobody wants the old one's");
    assert_eq!(pooled.worker.snapshot(newer.as_str()).unwrap().pool_count, 3);
}

/// A snapshot whose digests came after it was published, compressed since.
fn compressed() -> (World, SnapshotId, Arc<Worker>) {
    let (world, id) = pending_world();
    let worker = world.worker("");
    worker.hash_all();
    pack(&open_of(&worker), &id).unwrap();
    assert_eq!(forms(&open_of(&worker), &id), (false, true));
    (world, id, worker)
}

#[test]
fn a_damaged_mark_of_digests_is_made_anew_for_a_compressed_snapshot_too() {
    let (world, id, worker) = compressed();
    drop(worker);
    let mark = world.store.join("marks").join(id.as_str()).join("digests.json");
    let before = fs::read(&mark).unwrap();
    fs::write(&mark, "{").unwrap();
    let worker = world.worker("");
    assert_eq!(worker.snapshot(id.as_str()).unwrap().digests, "pending");
    worker.hash_all();
    let view = worker.snapshot(id.as_str()).unwrap();
    assert_eq!((view.digests.as_str(), view.quarantined_because), ("there", None));
    assert!(worker.verify(&VerifyBody::default()).unwrap().findings.is_empty());
    assert_eq!(fs::read(&mark).unwrap().len(), before.len(), "the same digests at another time");
}

#[test]
fn a_raw_copy_is_compared_also_where_the_manifest_was_written_before_its_digest_was_made() {
    let (_world, id, worker) = compressed();
    let open = open_of(&worker);
    open.fork(&id, "f").unwrap();
    let path = open.store.layout.cached(&id, 1).join("memory");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 2 << 20).unwrap();
    file.set_modified(time).unwrap();
    let found = worker.verify(&VerifyBody::default()).unwrap().findings;
    assert!(found.iter().any(|finding| finding.name == "cache.differs"), "{found:?}");
}

#[test]
fn a_snapshot_whose_files_somebody_took_away_holds_up_no_others_digests() {
    let world = World::new();
    make_big(&world, "a");
    let open = world.open();
    let (gone, other) = (open.take("a").unwrap(), open.take("a").unwrap());
    drop(open);
    make_pending(&world, &gone);
    make_pending(&world, &other);
    let worker = world.worker("");
    fs::remove_dir_all(world.store.join("snapshots").join(gone.as_str())).unwrap();
    worker.hash_all();
    assert_eq!(worker.snapshot(other.as_str()).unwrap().digests, "there");
    assert!(world.event_names().contains(&"snapshot.hash_failed"));
}
