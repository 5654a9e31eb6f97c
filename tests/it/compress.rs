//! Cold snapshots: their memory is packed, and a fork of one has a raw memory file all the same.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::mounts::{Kind, mounted};
use crate::support::{NEVER, Open, World, ask, fork_config, instance, listing};
use chrono::TimeDelta;
use snapkeep::config::{DriverConfig, Skip};
use snapkeep::driver::Plain;
use snapkeep::event::Event;
use snapkeep::fork::Forks;
use snapkeep::fork::queue::RequestState;
use snapkeep::ids::SnapshotId;
use snapkeep::policy::compress::{Compress, Method};
use snapkeep::snapshot::copy::Flow;
use snapkeep::snapshot::pack::{CompressError, Compressed, compress};
use snapkeep::snapshot::restore::restore;
use snapkeep::store::fs::Fs;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::verify::verify;
use snapkeep::worker::view::VerifyBody;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const RULE: Compress =
    Compress { after: TimeDelta::hours(1), method: Method::Zstd, level: 3, min_gain: 1000, while_forked: false };

/// Compresses a snapshot as the worker does, on one thread.
pub(crate) fn pack(open: &Open, id: &SnapshotId) -> Result<Compressed, CompressError> {
    compress(&open.store, id, &RULE, &|| !open.forks.waiting_for(id).is_empty(), 1)
}

/// What of a snapshot's memory is raw, and what is packed.
pub(crate) fn forms(open: &Open, id: &SnapshotId) -> (bool, bool) {
    let dir = open.store.layout.snapshot(id);
    (dir.join("data/memory").exists(), dir.join("packed").exists())
}

fn cached(open: &Open, id: &SnapshotId) -> PathBuf {
    open.store.layout.cached(id, 1)
}

fn unpackings(world: &World) -> usize {
    world.event_names().iter().filter(|name| **name == "snapshot.decompressed").count()
}

#[test]
fn a_fork_of_a_compressed_snapshot_has_a_raw_memory_file_with_the_sources_bytes_and_no_compressed_one() {
    for method in [Method::Zstd, Method::Lz4] {
        let world = World::new();
        let source = world.make_instance("golden");
        let open = world.open();
        let id = open.take("golden").unwrap();
        let before = listing(&open.store.layout.snapshot(&id).join("data"));
        let raw = fs::metadata(open.store.layout.snapshot(&id).join("data/memory")).unwrap();
        compress(&open.store, &id, &Compress { method, ..RULE }, &|| false, 2).unwrap();
        assert_eq!(forms(&open, &id), (false, true));
        let request = open.fork(&id, "golden-7").unwrap();
        assert_eq!((request.state, request.memory.as_deref()), (RequestState::Done, Some("decompressed")));
        let fork = world.vms.join("golden-7");
        assert!(fs::read(fork.join("memory")).unwrap() == fs::read(source.join("memory")).unwrap());
        let memory = fs::metadata(fork.join("memory")).unwrap();
        assert_eq!((memory.mode() & 0o777, memory.mtime_nsec(), memory.uid()), (0o444, raw.mtime_nsec(), raw.uid()));
        assert!(memory.blocks() <= raw.blocks(), "holes stay holes");
        let names: Vec<String> = listing(&fork).iter().map(|line| line.split([' ', '/']).next().unwrap().to_owned()).collect();
        assert_eq!(names, [".snapkeep", ".snapkeep", "config.json", "disk", "memory", "overlay.raw"], "and no compressed file");
        let second = open.fork(&id, "golden-8").unwrap();
        assert_eq!(second.memory.as_deref(), Some("hardlink"));
        assert_eq!(memory.ino(), fs::metadata(world.vms.join("golden-8/memory")).unwrap().ino());
        assert_eq!(unpackings(&world), 1);
        let rest: Vec<_> = before.iter().filter(|line| !line.starts_with("memory ")).cloned().collect();
        assert_eq!(listing(&open.store.layout.snapshot(&id).join("data")), rest, "nothing else was touched");
    }
}

#[test]
fn unzstd_turns_the_packed_file_of_a_store_into_the_raw_one() {
    let world = World::new();
    let source = world.make_instance("golden");
    let open = world.open();
    let id = open.take("golden").unwrap();
    pack(&open, &id).unwrap();
    let out = Command::new("unzstd").args(["-c", "-q"]).arg(open.store.layout.snapshot(&id).join("packed/0.zst")).output();
    let Ok(out) = out else { return };
    assert!(out.stdout == fs::read(source.join("memory")).unwrap(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn show_tells_the_state_and_the_sizes_and_the_policy_compresses_what_is_cold() {
    let world = World::new();
    let dir = world.make_instance("web");
    fs::write(dir.join("memory"), "all work and no play\n".repeat(100_000)).unwrap();
    let policy =
        "[[policy]]\nname = \"p\"\ninstances = [\"web\"]\nevery = \"3h\"\non_enable = \"run\"\nkeep_all = true\n[policy.compress]\n";
    let worker = world.worker(&format!("{policy}after = \"1h\"\n"));
    worker.once().unwrap();
    let shown = || worker.snapshots(&Default::default()).unwrap().snapshots.remove(0);
    let before = shown();
    assert_eq!((before.compression_state.as_str(), before.compressed_size_bytes), ("none", None));
    world.clock.advance(Duration::from_secs(3599));
    worker.once().unwrap();
    assert_eq!(shown().compression_state, "none", "not cold yet");
    world.clock.advance(Duration::from_secs(1));
    worker.once().unwrap();
    let after = shown();
    assert_eq!(after.compression_state, "compressed");
    assert_eq!(after.uncompressed_size_bytes, Some(2_100_000));
    let packed = after.compressed_size_bytes.unwrap();
    assert!(packed > 0 && packed < 16 << 10, "{packed}");
    assert!(after.allocated_bytes < before.allocated_bytes && after.reclaimable_bytes < before.reclaimable_bytes);
    assert_eq!(after.size_bytes, before.size_bytes, "what it holds is what it held");
    let event = world.events.events().into_iter().find(|e| e.name() == "snapshot.compressed");
    let Some(Event::SnapshotCompressed { compressed_size_bytes, method, .. }) = event else { panic!("no event") };
    assert_eq!((compressed_size_bytes, method.as_str()), (packed, "zstd"));
    // A reader without the lock sees the same.
    let body = after.id.to_string();
    drop(worker);
    let worker = world.worker(&format!("{policy}after = \"1h\"\n"));
    assert_eq!(worker.snapshot(&body).unwrap().compression_state, "compressed");
}

#[test]
fn what_does_not_gain_stays_and_is_not_tried_again_before_the_policy_says_otherwise() {
    let world = World::new();
    let dir = world.make_instance("web");
    let mut noise = vec![0; 64 << 10];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(dir.join("memory"), &noise).unwrap();
    let policy = |level: u32| {
        format!(
            "[[policy]]\nname = \"p\"\ninstances = [\"web\"]\nevery = \"9h\"\non_enable = \"run\"\nkeep_all = true\n\
             [policy.compress]\nafter = \"1h\"\nlevel = {level}\n"
        )
    };
    let worker = world.worker(&policy(3));
    worker.once().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    world.clock.advance(Duration::from_secs(3600));
    assert!(worker.compress_next(), "tried");
    assert!(!worker.compress_next(), "once");
    let shown = worker.snapshots(&Default::default()).unwrap().snapshots.remove(0);
    assert_eq!(shown.compression_state, "none");
    assert!(!world.event_names().contains(&"snapshot.compressed"));
    drop(worker);
    assert!(!world.worker(&policy(3)).compress_next(), "also not after a restart");
    assert!(world.worker(&policy(9)).compress_next(), "another level may do");
    assert_eq!(listing(&world.store.join("staging")), [""; 0]);
}

#[test]
fn a_failure_is_an_error_in_show_counted_and_reported_once() {
    let world = World::new();
    world.make_instance("web");
    let worker = world.worker(
        "[[policy]]\nname = \"p\"\ninstances = [\"web\"]\nevery = \"900h\"\non_enable = \"run\"\nkeep_all = true\n[policy.compress]\nafter = \"1h\"\n",
    );
    worker.once().unwrap();
    let id = worker.snapshots(&Default::default()).unwrap().snapshots.remove(0).id;
    // Damage that leaves length and time.
    let memory = worker.store.layout.snapshot(&id).join("data/memory");
    let time = fs::metadata(&memory).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&memory).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 70_000).unwrap();
    file.set_modified(time).unwrap();
    world.clock.advance(Duration::from_secs(3600));
    assert!(worker.compress_next() && !worker.compress_next());
    world.clock.advance(Duration::from_secs(3600));
    assert!(worker.compress_next(), "tried again later");
    let shown = worker.snapshot(id.as_str()).unwrap();
    assert_eq!(shown.compression_state, "error");
    assert!(shown.compression_error.unwrap().contains("its digest is"), "the raw file is not what the manifest has");
    assert!(memory.exists(), "and stays");
    assert_eq!(world.event_names().iter().filter(|n| **n == "snapshot.compress_failed").count(), 1);
}

#[test]
fn nothing_is_compressed_while_forks_share_the_raw_file_unless_that_is_wanted() {
    let world = World::new();
    world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    open.fork(&id, "web-1").unwrap();
    assert!(matches!(pack(&open, &id), Err(CompressError::Cancelled)));
    // A fork that was moved out of the root has no ref, and shares it all the same.
    let out = world.vms.parent().unwrap().join("moved");
    fs::rename(world.vms.join("web-1"), &out).unwrap();
    open.forks.reconcile().unwrap();
    assert_eq!(open.ref_count(&id), 0);
    assert!(matches!(pack(&open, &id), Err(CompressError::Cancelled)));
    assert_eq!(forms(&open, &id), (true, false));
    fs::rename(&out, world.vms.join("web-1")).unwrap();
    open.forks.reconcile().unwrap();
    compress(&open.store, &id, &Compress { while_forked: true, ..RULE }, &|| false, 1).unwrap();
    assert_eq!(forms(&open, &id), (false, true));
    open.fork(&id, "web-2").unwrap();
    let memory = |name: &str| fs::read(world.vms.join(name).join("memory")).unwrap();
    assert!(memory("web-1") == memory("web-2"));
    assert_eq!(listing(&world.store.join("staging")), [""; 0]);
}

#[test]
fn a_hundred_forks_of_a_cold_snapshot_wait_for_one_unpacking() {
    let world = World::new();
    let source = world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    pack(&open, &id).unwrap();
    let forks = Forks::open(Arc::clone(&open.store), fork_config(), 4).0;
    forks.recover().unwrap();
    let accepted = forks.accept((0..100).map(|n| ask(&id, &format!("web-{n}"))).collect());
    assert_eq!(forks.run_ready(&NEVER, &NEVER).unwrap().done, 100);
    let mut ways: Vec<_> = accepted.iter().map(|r| forks.request(&r.as_ref().unwrap().id).unwrap().memory.unwrap()).collect();
    assert!(accepted.iter().all(|r| forks.request(&r.as_ref().unwrap().id).unwrap().attempts == 0), "waiting is no attempt");
    ways.sort();
    assert_eq!((ways[0].as_str(), ways[1].as_str(), ways[99].as_str()), ("decompressed", "hardlink", "hardlink"));
    assert_eq!(unpackings(&world), 1);
    let inodes: HashSet<u64> = (0..100).map(|n| fs::metadata(world.vms.join(format!("web-{n}/memory"))).unwrap().ino()).collect();
    assert_eq!(inodes.len(), 1);
    assert!(fs::read(world.vms.join("web-99/memory")).unwrap() == fs::read(source.join("memory")).unwrap());
}

#[test]
fn the_cache_outlives_a_restart_is_counted_and_goes_when_no_fork_wants_it() {
    let world = World::new();
    world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    pack(&open, &id).unwrap();
    open.fork(&id, "web-1").unwrap();
    assert!(cached(&open, &id).join("memory").exists());
    drop(open);
    let worker = world.worker("[cache]\nkeep = \"10m\"\n");
    let status = worker.status().unwrap().worker;
    assert!(status.cache_bytes >= 4096 && status.cache_snapshots == 1, "{status:?}");
    let open = Open {
        store: Arc::clone(&worker.store),
        forks: Arc::clone(&worker.forks),
        reclaim: snapkeep::reclaim::Reclaim::new(Arc::clone(&worker.store), Arc::clone(&worker.forks)),
    };
    assert_eq!(open.fork(&id, "web-2").unwrap().memory.as_deref(), Some("hardlink"), "no second unpacking");
    world.clock.advance(Duration::from_secs(599));
    worker.tidy_cache();
    assert!(cached(&open, &id).exists());
    world.clock.advance(Duration::from_secs(1));
    // A request waits for it: it stays.
    let waits = open.accept(&id, "web-3").unwrap();
    worker.tidy_cache();
    assert!(cached(&open, &id).exists());
    open.forks.cancel(&waits.id).unwrap();
    worker.tidy_cache();
    assert_eq!(listing(&worker.store.layout.cache()), [""; 0]);
    assert_eq!(worker.status().unwrap().worker.cache_bytes, 0);
    assert!(
        fs::read(world.vms.join("web-1/memory")).unwrap() == fs::read(world.vms.join("web/memory")).unwrap(),
        "forks keep what they have"
    );
    assert_eq!(open.fork(&id, "web-4").unwrap().memory.as_deref(), Some("decompressed"));
    assert_eq!(unpackings(&world), 2);
    // A bound of nothing: what nobody waits for goes at once.
    drop((open, worker));
    let worker = world.worker("[cache]\nmax_bytes = \"0B\"\n");
    worker.tidy_cache();
    assert_eq!(worker.store.cache_size(), (0, 0));
}

#[test]
fn a_damaged_packed_file_is_found_by_verify_and_by_the_fork_and_the_snapshot_is_quarantined() {
    for by_fork in [false, true] {
        let world = World::new();
        world.make_instance("web");
        let worker = world.worker("");
        let open = Open {
            store: Arc::clone(&worker.store),
            forks: Arc::clone(&worker.forks),
            reclaim: snapkeep::reclaim::Reclaim::new(Arc::clone(&worker.store), Arc::clone(&worker.forks)),
        };
        let id = open.take("web").unwrap();
        pack(&open, &id).unwrap();
        assert_eq!(worker.verify(&VerifyBody::default()).unwrap().findings, []);
        let path = open.store.layout.snapshot(&id).join("packed/0.zst");
        let mut bytes = fs::read(&path).unwrap();
        // Behind the hole of 64 KiB, in the frame that holds the data.
        bytes[35] ^= 0x40;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, bytes).unwrap();
        if by_fork {
            let failed = open.fork(&id, "web-1").unwrap();
            assert_eq!(failed.state, RequestState::Failed, "{failed:?}");
            assert!(!world.vms.join("web-1").exists());
            assert!(!cached(&open, &id).exists());
        } else {
            let found = worker.verify(&VerifyBody { repair: true, ..VerifyBody::default() }).unwrap().findings;
            assert!(found.iter().any(|f| f.name == "digest.differs" && f.path.ends_with("packed/0.zst") && f.repaired), "{found:#?}");
        }
        assert!(open.store.known(&id).unwrap().quarantined.is_some());
        assert!(open.accept(&id, "web-2").is_err());
    }
}

#[test]
fn a_damaged_raw_copy_is_found_and_dropped_and_the_next_fork_is_right() {
    let world = World::new();
    let source = world.make_instance("web");
    let worker = world.worker("");
    let open = Open {
        store: Arc::clone(&worker.store),
        forks: Arc::clone(&worker.forks),
        reclaim: snapkeep::reclaim::Reclaim::new(Arc::clone(&worker.store), Arc::clone(&worker.forks)),
    };
    let id = open.take("web").unwrap();
    pack(&open, &id).unwrap();
    open.fork(&id, "web-1").unwrap();
    let path = cached(&open, &id).join("memory");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 70_000).unwrap();
    file.set_modified(time).unwrap();
    let found = worker.verify(&VerifyBody { repair: true, ..VerifyBody::default() }).unwrap().findings;
    assert!(found.iter().any(|f| f.name == "cache.differs" && f.repaired), "{found:#?}");
    assert!(open.store.known(&id).unwrap().quarantined.is_none(), "the snapshot is well");
    open.fork(&id, "web-2").unwrap();
    assert!(fs::read(world.vms.join("web-2/memory")).unwrap() == fs::read(source.join("memory")).unwrap());
}

#[test]
fn a_raw_copy_that_somebody_wrote_to_is_linked_into_no_fork_and_made_anew() {
    let world = World::new();
    let source = world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    pack(&open, &id).unwrap();
    open.fork(&id, "web-1").unwrap();
    let file = fs::OpenOptions::new().write(true).open(cached(&open, &id).join("memory")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 70_000).unwrap();
    let refused = open.fork(&id, "web-2").unwrap();
    assert_eq!(refused.state, RequestState::Queued, "{refused:?}");
    world.clock.advance(Duration::from_secs(2));
    open.forks.run_ready(&NEVER, &NEVER).unwrap();
    let now = open.forks.request(&refused.id).unwrap();
    assert_eq!((now.state, now.memory.as_deref()), (RequestState::Done, Some("decompressed")));
    assert!(fs::read(world.vms.join("web-2/memory")).unwrap() == fs::read(source.join("memory")).unwrap());
    assert!(open.store.known(&id).unwrap().quarantined.is_none(), "the snapshot is well");
}

#[test]
fn where_a_raw_file_shares_its_blocks_with_the_instance_it_waits_until_dropping_it_frees_some() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let Some(mounted) = mounted(kind, Kind::SMALLEST) else { continue };
        let world = World::at(&mounted.path);
        let dir = world.make_instance("web");
        let wanted = fs::read(dir.join("memory")).unwrap();
        let open = world.open();
        let id = open.take("web").unwrap();
        assert!(matches!(pack(&open, &id), Err(CompressError::Shared)), "{kind}");
        fs::remove_file(dir.join("memory")).unwrap();
        // The file system lets go of them when it comes to it.
        let packed = (0..200).find_map(|_| match pack(&open, &id) {
            Err(CompressError::Shared) => {
                std::thread::sleep(Duration::from_millis(50));
                None
            }
            other => Some(other),
        });
        packed.unwrap_or_else(|| panic!("{kind}: shared for ever")).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(open.fork(&id, "web-1").unwrap().memory.as_deref(), Some("decompressed"), "{kind}");
        assert!(fs::read(world.vms.join("web-1/memory")).unwrap() == wanted, "{kind}");
        drop(open);
    }
}

#[test]
fn restore_remove_and_undelete_work_on_a_compressed_snapshot() {
    let world = World::new();
    let source = world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    let before = listing(&source);
    pack(&open, &id).unwrap();
    fs::write(source.join("memory"), "written over").unwrap();
    let driver =
        Plain::new(DriverConfig { memory_names: vec!["memory".into()], freeze: vec![], thaw: vec![], timeout: Duration::from_secs(5) });
    restore(&open.store, &id, &driver, &Skip::new(&["logs/"]).unwrap(), Flow::quiet()).unwrap();
    assert_eq!(listing(&source), before);
    assert_ne!(fs::metadata(source.join("memory")).unwrap().ino(), fs::metadata(cached(&open, &id).join("memory")).unwrap().ino());
    open.remove(&id).unwrap();
    assert_eq!(listing(&open.store.layout.cache()), [""; 0], "the raw copy goes with it");
    open.reclaim.undelete_snapshot(&id).unwrap();
    assert_eq!(open.fork(&id, "web-1").unwrap().memory.as_deref(), Some("decompressed"));
    assert_eq!(verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings, []);
}

#[test]
fn a_snapshot_of_a_fork_of_a_compressed_snapshot_has_a_memory_file_of_its_own() {
    let world = World::new();
    let source = world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    pack(&open, &id).unwrap();
    open.fork(&id, "web-1").unwrap();
    let child = open.take("web-1").unwrap();
    let memory = open.store.layout.snapshot(&child).join("data/memory");
    assert!(fs::read(&memory).unwrap() == fs::read(source.join("memory")).unwrap());
    assert_eq!(fs::metadata(&memory).unwrap().nlink(), 1);
    assert_eq!(open.store.known(&child).unwrap().summary.unwrap().parent, Some(id.clone()));
    assert_eq!(open.fork(&child, "web-1-1").unwrap().memory.as_deref(), Some("hardlink"));
    pack(&open, &child).unwrap_err();
    assert_eq!(open.store.index().of_instance(&instance("web")).len(), 1);
}

#[test]
fn a_link_to_a_raw_copy_that_is_no_known_forks_keeps_the_snapshot() {
    let world = World::new();
    world.make_instance("web");
    let open = world.open();
    let id = open.take("web").unwrap();
    pack(&open, &id).unwrap();
    open.fork(&id, "web-1").unwrap();
    let kept = world.vms.parent().unwrap().join("kept");
    fs::hard_link(world.vms.join("web-1/memory"), &kept).unwrap();
    fs::remove_dir_all(world.vms.join("web-1")).unwrap();
    open.forks.reconcile().unwrap();
    let refused = open.remove(&id).unwrap_err().to_string();
    assert!(refused.contains("has a link that is no known fork's"), "{refused}");
    fs::remove_file(&kept).unwrap();
    open.remove(&id).unwrap();
}
