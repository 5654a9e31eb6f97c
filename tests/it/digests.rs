//! Digests that are made after a snapshot was published: never missing for good, never wrong, never in anybody's way.
#![allow(
    clippy::disallowed_macros,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use crate::faults::sweep_all;
use crate::support::mounts::{Kind, Mounted, mounted};
use crate::support::sweep::{Live, Row, Scene, Told};
use crate::support::{NEVER, World, instance, write_sparse};
use snapkeep::config::DigestTime;
use snapkeep::ids::SnapshotId;
use snapkeep::policy::SnapshotState;
use snapkeep::snapshot::copy::{Flow, Progress};
use snapkeep::snapshot::late::{Late, hash_late};
use snapkeep::store::Store;
use snapkeep::store::fs::{Fs, StopAfter};
use snapkeep::store::manifest::{FORMAT, FORMAT_PENDING, Manifest, Node, seal};
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::{TakeBody, VerifyBody};
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CONFIG: &str = "[driver]\nmemory_names = [\"memory\"]\n[trash]\ngrace = \"1h\"\n";

fn by_definition(bytes: &[u8]) -> String {
    if bytes.len() <= 1 << 20 {
        return format!("blake3:{}", blake3::hash(bytes).to_hex());
    }
    let joined: Vec<u8> = bytes.chunks(1 << 20).flat_map(|block| *blake3::hash(block).as_bytes()).collect();
    format!("blake3-1m:{}", blake3::hash(&joined).to_hex())
}

/// How many digests of a snapshot are pending; each that is there is right.
fn pending(store: &Store, id: &SnapshotId) -> usize {
    let data = store.layout.snapshot(id).join("data");
    let manifest = store.manifest(id).unwrap();
    for entry in &manifest.entries {
        if let Node::File(file) = &entry.node
            && !file.digest.is_empty()
        {
            assert_eq!(file.digest, by_definition(&fs::read(data.join(entry.path.as_path())).unwrap()), "{id}: {entry:?}");
        }
    }
    manifest.pending().count()
}

/// An instance with a disk and memory of more than one block.
pub(crate) fn make_big(world: &World, name: &str) {
    let dir = world.make_instance(name);
    write_sparse(&dir.join("overlay.raw"), 24 << 20, &[(0, b"boot"), (9 << 20, b"root"), ((24 << 20) - 4096, b"end")]);
    write_sparse(&dir.join("memory"), 5 << 20, &[(1 << 20, b"ram of "), (3 << 20, b"more")]);
}

/// Makes a snapshot's digests pending, as if its extents were shared: for file systems that share none. Nobody has the store.
pub(crate) fn make_pending(world: &World, id: &SnapshotId) {
    let path = world.store.join("snapshots").join(id.as_str()).join("manifest.json");
    let mut manifest = Manifest::unseal(&path, &fs::read(&path).unwrap()).unwrap();
    manifest.format = FORMAT_PENDING;
    for entry in &mut manifest.entries {
        if let Node::File(file) = &mut entry.node
            && (file.memory || entry.path.as_path() == Path::new("overlay.raw"))
        {
            file.digest.clear();
        }
    }
    fs::write(&path, seal(&manifest).unwrap()).unwrap();
}

/// A world whose only snapshot has two digests pending.
pub(crate) fn pending_world() -> (World, SnapshotId) {
    let world = World::new();
    make_big(&world, "a");
    let id = world.open().take("a").unwrap();
    make_pending(&world, &id);
    (world, id)
}

fn findings(worker: &Worker) -> Vec<String> {
    let found = worker.verify(&VerifyBody::default()).unwrap().findings;
    found.into_iter().map(|finding| format!("{} {}", finding.severity, finding.name)).collect()
}

fn take(worker: &Worker, name: &str) -> SnapshotId {
    worker.take(&TakeBody { instance: instance(name), name: None, tags: Default::default() }).unwrap().id
}

fn shared() -> impl Iterator<Item = (Kind, Mounted)> {
    [Kind::Xfs, Kind::Btrfs].into_iter().filter_map(|kind| Some((kind, mounted(kind, Kind::SMALLEST)?)))
}

#[test]
fn where_extents_are_shared_a_snapshot_is_published_first_and_hashed_after_and_both_are_shown() {
    for (kind, at) in shared() {
        let world = World::at(&at.path);
        make_big(&world, "a");
        let worker = world.worker(CONFIG);
        let id = take(&worker, "a");
        assert_eq!(pending(&worker.store, &id), 2, "{kind}: the disk and the memory, and no small file");
        assert_eq!(worker.store.manifest(&id).unwrap().format, FORMAT_PENDING);
        assert_eq!(worker.snapshot(id.as_str()).unwrap().digests, "pending");
        assert_eq!(findings(&worker), ["info digests.pending"]);
        assert!(worker.fork(id.as_str(), &fork_body("early"), Some(Duration::ZERO)).is_ok());
        worker.forks.run_ready(&NEVER, &NEVER).unwrap();
        assert!(worker.hash_next(), "{kind}");
        assert!(!worker.hash_next(), "{kind}: only once");
        assert_eq!(pending(&worker.store, &id), 0);
        assert_eq!(worker.snapshot(id.as_str()).unwrap().digests, "there");
        assert_eq!(findings(&worker), [""; 0]);
        assert!(world.event_names().contains(&"snapshot.hashed"));
        // Damage is found from now on.
        drop(worker);
        let worker = world.worker(CONFIG);
        assert_eq!((pending(&worker.store, &id), findings(&worker).len()), (0, 0), "{kind}: after a restart");
        let disk = worker.store.layout.snapshot(&id).join("data/overlay.raw");
        write_in_place(&disk, 9 << 20);
        assert_eq!(findings(&worker), ["error digest.differs"], "{kind}");
        drop(worker);
        let worker = world.worker(&format!("{CONFIG}[snapshot]\ndigests = \"before\"\n"));
        let id = take(&worker, "a");
        assert_eq!((pending(&worker.store, &id), worker.store.manifest(&id).unwrap().format), (0, FORMAT));
    }
}

fn fork_body(name: &str) -> snapkeep::worker::view::ForkBody {
    snapkeep::worker::view::ForkBody { name: Some(name.to_owned()), ..Default::default() }
}

fn write_in_place(path: &Path, at: u64) {
    let mode = fs::metadata(path).unwrap().permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let mtime = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"rot", at).unwrap();
    file.set_modified(mtime).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777)).unwrap();
}

#[test]
fn a_start_finds_what_is_pending_and_once_makes_it() {
    let (world, id) = pending_world();
    let worker = world.worker(CONFIG);
    assert_eq!(worker.store.index().unhashed().collect::<Vec<_>>(), [&id]);
    worker.once().unwrap();
    assert_eq!(pending(&worker.store, &id), 2, "who does not ask for them leaves them");
    worker.hash_all();
    assert_eq!((pending(&worker.store, &id), worker.store.index().unhashed().count()), (0, 0));
    // A stop in the middle leaves them to the next one.
    let (world, id) = pending_world();
    let worker = world.worker(CONFIG);
    worker.cancel();
    worker.hash_all();
    assert_eq!(pending(&worker.store, &id), 2);
    drop(worker);
    let worker = world.worker(CONFIG);
    worker.stopping.store(true, std::sync::atomic::Ordering::SeqCst);
    worker.hash_next();
    assert_eq!(pending(&worker.store, &id), 2);
    drop(worker);
    world.worker(CONFIG).hash_all();
    assert_eq!(pending(&world.open().store, &id), 0);
}

/// Does something once, when the first bytes have been read.
struct Once<F: Fn() + Sync>(F, std::sync::Once);

impl<F: Fn() + Sync> Progress for Once<F> {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {
        self.1.call_once(&self.0);
    }
}

fn hash_while(store: &Arc<Store>, id: &SnapshotId, act: impl Fn() + Sync) -> Late {
    let once = Once(act, std::sync::Once::new());
    hash_late(store, id, Flow { progress: &once, ..Flow::quiet() }).unwrap()
}

#[test]
fn a_removal_does_not_wait_for_digests_and_what_comes_back_gets_them() {
    let (world, id) = pending_world();
    let open = world.open();
    let late = hash_while(&open.store, &id, || open.remove(&id).unwrap());
    assert_eq!(late, Late::Gone);
    assert!(!open.store.layout.mark(&id, "digests").exists());
    open.reclaim.undelete_snapshot(&id).unwrap();
    assert_eq!((pending(&open.store, &id), open.store.index().unhashed().count()), (2, 1));
    // Removed, unlinked and all.
    let late = hash_while(&open.store, &id, || {
        open.store.drop_hold(&open.store.lock_snapshot(&id), &snapkeep::ids::HoldName::parse("undeleted").unwrap()).unwrap();
        open.remove(&id).unwrap();
        open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    });
    assert_eq!(late, Late::Gone);
    assert!(!world.store.join("marks").join(id.as_str()).exists() && !open.store.layout.snapshot(&id).exists());
    assert_eq!(hash_late(&open.store, &id, Flow::quiet()).unwrap(), Late::Gone);
}

/// What is done to a file, in a word.
type Change<'a> = (&'a str, &'a (dyn Fn(&Path) + Sync));

#[test]
fn a_file_that_is_not_the_published_one_gets_no_digest_and_its_snapshot_is_quarantined() {
    let touch = |path: &Path| fs::File::options().append(true).open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let grow = |path: &Path| {
        let mtime = fs::metadata(path).unwrap().modified().unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_len((24 << 20) + 1).unwrap();
        file.set_modified(mtime).unwrap();
    };
    let shorten = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(2 << 20).unwrap();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let replace = |path: &Path| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    };
    let changes: [Change<'_>; 5] =
        [("touched", &touch), ("grown", &grow), ("shortened", &shorten), ("removed", &remove), ("replaced", &replace)];
    for (what, change) in changes {
        let (world, id) = pending_world();
        let worker = world.worker(CONFIG);
        let disk = worker.store.layout.snapshot(&id).join("data/overlay.raw");
        fs::set_permissions(&disk, fs::Permissions::from_mode(0o600)).unwrap();
        change(&disk);
        assert!(worker.hash_next(), "{what}");
        assert_eq!(worker.snapshot(id.as_str()).unwrap().state, SnapshotState::Quarantined, "{what}");
        assert!(!worker.store.layout.mark(&id, "digests").exists() && !worker.hash_next(), "{what}");
        assert!(world.event_names().contains(&"snapshot.quarantined"), "{what}");
        assert!(!findings(&worker).contains(&"info quarantine.stale".to_owned()), "{what}: nobody can say that it is right");
        drop(worker);
        // While it is read, and after the last look at the open file.
        let (world, id) = pending_world();
        let open = world.open();
        let disk = open.store.layout.snapshot(&id).join("data/overlay.raw");
        fs::set_permissions(&disk, fs::Permissions::from_mode(0o600)).unwrap();
        let late = hash_while(&open.store, &id, || change(&disk));
        assert!(matches!(&late, Late::Changed { why } if why.contains("overlay.raw")), "{what}: {late:?}");
        assert!(!open.store.layout.mark(&id, "digests").exists(), "{what}");
    }
    println!("{} changes, before and while", changes.len());
}

#[test]
fn a_damaged_mark_is_made_again_and_one_of_a_newer_version_is_left_alone() {
    let (world, id) = pending_world();
    let worker = world.worker(CONFIG);
    worker.hash_all();
    drop(worker);
    let mark = world.store.join("marks").join(id.as_str()).join("digests.json");
    let good = fs::read(&mark).unwrap();
    let mut bad = good.clone();
    bad[40] ^= 1;
    for bytes in [bad, good[..good.len() / 2].to_vec(), Vec::new()] {
        fs::write(&mark, bytes).unwrap();
        let worker = world.worker(CONFIG);
        assert!(world.event_names().contains(&"record.unreadable"));
        assert_eq!(findings(&worker), ["warn digests.unreadable", "info digests.pending"]);
        assert_eq!(worker.snapshot(id.as_str()).unwrap().state, SnapshotState::Ready, "the snapshot itself is sound");
        worker.hash_all();
        assert_eq!((pending(&worker.store, &id), findings(&worker).len()), (0, 0));
    }
    let text = String::from_utf8(good).unwrap();
    let body = &text[text.find("{\"format\"").unwrap()..text.rfind(",\"checksum\"").unwrap()];
    let newer = body.replacen("\"format\":1", "\"format\":7", 1);
    let bytes = format!("{{\"body\":{newer},\"checksum\":\"{}\"}}\n", blake3::hash(newer.as_bytes()).to_hex());
    fs::write(&mark, &bytes).unwrap();
    let worker = world.worker(CONFIG);
    worker.hash_all();
    assert_eq!(pending(&worker.store, &id), 2);
    assert_eq!(fs::read_to_string(&mark).unwrap(), bytes);
    assert!(world.event_names().contains(&"snapshot.hash_failed"));
    assert!(!worker.hash_next(), "not again at once");
    world.clock.advance(Duration::from_secs(61));
    assert!(worker.hash_next());
}

#[test]
fn a_snapshot_of_a_fork_of_a_pending_snapshot_gets_its_own_digests() {
    for (kind, at) in shared() {
        let world = World::at(&at.path);
        make_big(&world, "a");
        let open = world.open();
        let parent = open.take_with("a", DigestTime::After, Flow::quiet()).unwrap();
        open.fork(&parent, "f").unwrap();
        let early = open.take_with("f", DigestTime::After, Flow::quiet()).unwrap();
        assert_eq!(pending(&open.store, &early), 2, "{kind}: its memory is the parent's, whose digest is not there");
        for id in [&parent, &early] {
            assert_eq!(hash_late(&open.store, id, Flow::quiet()).map(|late| matches!(late, Late::Made { files: 2, .. })).ok(), Some(true));
            assert_eq!(pending(&open.store, id), 0, "{kind}");
        }
        let late = open.take_with("f", DigestTime::After, Flow::quiet()).unwrap();
        assert_eq!(pending(&open.store, &late), 1, "{kind}: only its disk");
    }
}

#[test]
fn the_scrub_leaves_what_is_pending_and_an_import_is_never_without_digests() {
    let (world, id) = pending_world();
    let worker = world.worker(&format!("{CONFIG}[scrub]\nevery = \"1d\"\nrate = \"1GiB\"\n"));
    world.clock.advance(Duration::from_secs(3 * 86_400));
    assert!(!worker.scrub_next(), "nothing to compare with");
    worker.hash_all();
    // It was nobody's turn: so long it does not ask again.
    world.clock.advance(Duration::from_secs(61));
    // It keeps to its rate, by the clock of this world.
    std::thread::scope(|scope| {
        let scrubbed = scope.spawn(|| worker.scrub_next());
        while !scrubbed.is_finished() {
            world.clock.advance(Duration::from_millis(100));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(scrubbed.join().unwrap());
    });
    assert_eq!(worker.snapshot(id.as_str()).unwrap().state, SnapshotState::Ready);
    drop(worker);
    for (kind, at) in shared() {
        let world = World::at(&at.path);
        make_big(&world, "a");
        let backups = at.path.join("backups");
        fs::create_dir(&backups).unwrap();
        fs::rename(world.vms.join("a"), backups.join("a-20261101-000000")).unwrap();
        let worker = world.worker(CONFIG);
        let body = serde_json::from_value(serde_json::json!({ "dir": backups, "instance": "a" })).unwrap();
        let id = worker.import(&body).unwrap().entries[0].id.clone().unwrap();
        assert_eq!(pending(&worker.store, &id), 0, "{kind}");
    }
}

#[test]
fn a_stop_at_any_step_of_a_snapshot_and_its_digests_leaves_a_way_to_them_and_none_that_is_wrong() {
    for (kind, at) in shared() {
        let mut stops = 0;
        for n in 0.. {
            let place = at.path.join(n.to_string());
            fs::create_dir(&place).unwrap();
            let world = World::at(&place);
            make_big(&world, "a");
            let gate = Arc::new(StopAfter::new(n));
            if let Ok(open) = world.try_open(Fs::gated(Arc::clone(&gate) as _))
                && open.recover().is_ok()
                && let Ok(id) = open.take_with("a", DigestTime::After, Flow::quiet())
            {
                assert!(pending(&open.store, &id) > 0, "{kind}");
                let _ = hash_late(&open.store, &id, Flow::quiet());
            }
            let open = world.open();
            let present: Vec<SnapshotId> = open.store.index().present().map(|(id, _)| id.clone()).collect();
            for id in &present {
                let is_pending = pending(&open.store, id) > 0;
                assert_eq!(open.store.index().unhashed().any(|other| other == id), is_pending, "{kind}: after {n} calls");
                hash_late(&open.store, id, Flow::quiet()).unwrap();
                assert_eq!(pending(&open.store, id), 0, "{kind}: after {n} calls");
            }
            drop(open);
            fs::remove_dir_all(&place).unwrap();
            stops = n;
            if !gate.has_stopped() {
                break;
            }
        }
        assert!(stops > 40, "{stops}");
        println!("{kind}: {stops} stops");
    }
}

const ROWS: &[Row] = &[Row { name: "digests", prepare: with_pending, act: hash, check: hashed, from_start: false, keeps_source: true }];

fn with_pending(scene: &Scene) {
    make_pending(&scene.world, &scene.id);
    make_pending(&scene.world, &scene.spare);
}

fn hash(scene: &Scene, live: &Live) -> Result<(), String> {
    live.worker.hash_all();
    let left = pending(&live.store, &scene.id) + pending(&live.store, &scene.spare);
    // One that was written and could not be synced is in line still.
    let unhashed = live.store.index().unhashed().count();
    if left + unhashed == 0 { Ok(()) } else { Err(format!("{left} digests of {unhashed} snapshots are pending")) }
}

fn hashed(scene: &Scene, live: &Live, told: Told) {
    // Each that is there is right: `pending` looks.
    let left = pending(&live.store, &scene.id) + pending(&live.store, &scene.spare);
    assert!(told != Told::Done || left == 0, "{left} digests are pending");
    let unhashed = live.store.index().unhashed().count();
    assert!(left == 0 || unhashed > 0, "what is pending is in line");
    assert!(told != Told::Done || unhashed == 0, "{told:?}");
    if told == Told::Nothing {
        // Behind a start.
        live.worker.hash_all();
        assert_eq!(pending(&live.store, &scene.id) + pending(&live.store, &scene.spare), 0);
    }
}

#[test]
fn every_call_of_making_digests_may_fail_in_every_way() {
    sweep_all(ROWS);
}
