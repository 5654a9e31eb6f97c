//! The bytes of a copy: the same with every method, on any number of threads, on every file system; holes are holes; what
//! was in the page cache stays there, and what the copy brought in goes; a limit of the rate is kept by all together.
#![allow(
    clippy::disallowed_macros,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use crate::support::fixture::Numbers;
use crate::support::mounts::{Kind, Mounted, mounted, tmpfs};
use crate::support::{World, write_sparse};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use snapkeep::config::DigestTime;
use snapkeep::snapshot::copy::{Cloner, Flow, Method, Progress};
use snapkeep::snapshot::digest::digest_file;
use snapkeep::store::fs::{Absent, Fs};
use snapkeep::store::manifest::Node;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const MIB: u64 = 1 << 20;

/// Every file system that can be had here.
fn everywhere() -> Vec<(String, Mounted)> {
    let disks = Kind::ALL.into_iter().filter_map(|kind| Some((kind.to_string(), mounted(kind, 1 << 30)?)));
    disks.chain(tmpfs("size=512m").map(|mounted| ("tmpfs".to_owned(), mounted))).collect()
}

/// A file by its length and the stretches written into it.
#[derive(Debug, Clone)]
struct Layout {
    size: u64,
    data: Vec<(u64, u64)>,
}

fn layout() -> impl Strategy<Value = Layout> {
    let size = prop_oneof![0..10_000_u64, (0..6 * MIB), (8 * MIB..24 * MIB), Just(MIB), Just(MIB + 1), Just(12 * MIB)];
    let stretch = (any::<u32>(), prop_oneof![1..9_000_u64, Just(4096), (MIB..5 * MIB)], any::<bool>());
    (size, prop::collection::vec(stretch, 0..8)).prop_map(|(size, stretches)| {
        let data = stretches.into_iter().filter_map(|(at, length, aligned)| {
            let at = u64::from(at) % size.max(1);
            let at = if aligned { at / 4096 * 4096 } else { at };
            Some((at, length.min(size - at))).filter(|(_, length)| *length > 0)
        });
        Layout { size, data: data.collect() }
    })
}

fn make(path: &Path, layout: &Layout) {
    let file = fs::File::create(path).unwrap();
    file.set_len(layout.size).unwrap();
    for (at, length) in &layout.data {
        file.write_all_at(&Numbers::new(*at).bytes(usize::try_from(*length).unwrap())[..usize::try_from(*length).unwrap()], *at).unwrap();
    }
    file.sync_all().unwrap();
}

fn by_definition(bytes: &[u8]) -> String {
    if bytes.len() <= 1 << 20 {
        return format!("blake3:{}", blake3::hash(bytes).to_hex());
    }
    let joined: Vec<u8> = bytes.chunks(1 << 20).flat_map(|block| *blake3::hash(block).as_bytes()).collect();
    format!("blake3-1m:{}", blake3::hash(&joined).to_hex())
}

#[test]
fn a_copy_has_the_same_bytes_and_holes_with_every_method_on_any_threads_on_every_file_system() {
    let cases = if std::env::var_os("FULL").is_some() { 200 } else { 10 };
    let (real, mut copies, mut methods) = (Fs::real(), 0, std::collections::BTreeMap::new());
    for (name, at) in everywhere() {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let count = std::cell::Cell::new(0);
        let seen = std::cell::RefCell::new(&mut methods);
        let result = runner.run(&(layout(), 1..4_usize), |(layout, threads)| {
            let from_path = at.path.join("from");
            make(&from_path, &layout);
            let bytes = fs::read(&from_path).unwrap();
            let from = fs::File::open(&from_path).unwrap();
            let flow = Flow { threads, ..Flow::quiet() };
            let cloners = [
                Cloner::new(&real, flow),
                Cloner::without_reflink(&real, flow),
                Cloner::without_sharing(&real, flow),
                Cloner::without_sharing(&real, flow).leaving_cache(),
            ];
            for (n, cloner) in cloners.into_iter().enumerate() {
                let to_path = at.path.join(format!("to-{n}"));
                let to = real.create(&to_path, 0o600).unwrap();
                let method = cloner.fill(&from, &from_path, &to, &to_path, layout.size).unwrap();
                to.sync_all().unwrap();
                prop_assert!(fs::read(&to_path).unwrap() == bytes, "{name}, cloner {n}: {layout:?}");
                prop_assert_eq!(fs::metadata(&to_path).unwrap().len(), layout.size);
                let (was, is) = (fs::metadata(&from_path).unwrap().blocks(), fs::metadata(&to_path).unwrap().blocks());
                prop_assert!(is <= was + 256, "{name}, cloner {n}: {is} blocks of {was}: {layout:?}");
                prop_assert!(n == 0 || method == Method::Copied);
                *seen.borrow_mut().entry((name.clone(), n)).or_insert(0_u64) += u64::from(real.shared_bytes(&to, &to_path).unwrap() > 0);
                fs::remove_file(&to_path).unwrap();
                count.set(count.get() + 1);
            }
            Ok(())
        });
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
        copies += count.get();
        let shared = |n: usize| methods.get(&(name.clone(), n)).copied().unwrap_or(0) > 0;
        let can_share = name == "xfs" || name == "btrfs";
        assert_eq!((shared(0), shared(1), shared(2)), (can_share, can_share, false), "{name}: who shares extents");
    }
    println!("{copies} copies");
}

#[test]
fn the_digest_made_on_the_way_is_the_one_by_definition_on_every_file_system() {
    let (mut files, mut pending) = (0, 0);
    for (name, at) in everywhere() {
        let world = World::at(&at.path);
        let dir = world.vms.join("a");
        fs::create_dir(&dir).unwrap();
        let mut runner = TestRunner::new(Config { cases: 8, failure_persistence: None, ..Config::default() });
        let n = std::cell::Cell::new(0);
        runner
            .run(&layout(), |layout| {
                make(&dir.join(format!("disk-{}", n.replace(n.get() + 1))), &layout);
                Ok(())
            })
            .unwrap();
        make(&dir.join("memory"), &Layout { size: 80 * MIB + 5, data: vec![(3, 70 * MIB), (79 * MIB, MIB + 5)] });
        let open = world.open();
        for digests in [DigestTime::Before, DigestTime::After] {
            let flow = Flow { threads: 3, ..Flow::quiet() };
            let id = open.take_with("a", digests, flow).unwrap();
            for entry in &open.store.manifest(&id).unwrap().entries {
                let Node::File(file) = &entry.node else { continue };
                if file.digest.is_empty() {
                    assert!(digests == DigestTime::After && file.size > MIB && (name == "xfs" || name == "btrfs"), "{name}: {entry:?}");
                    pending += 1;
                    continue;
                }
                let bytes = fs::read(dir.join(entry.path.as_path())).unwrap();
                assert_eq!(file.digest, by_definition(&bytes), "{name}: {entry:?}");
                files += 1;
            }
        }
    }
    println!("{files} digests, {pending} pending");
}

/// How many bytes of a file are in the page cache.
fn cached(path: &Path) -> u64 {
    let size = fs::metadata(path).unwrap().len();
    let file = fs::File::open(path).unwrap();
    let whole = 0..size;
    let absent = Absent::of(&file, size, std::slice::from_ref(&whole));
    size - absent.bytes().min(size)
}

/// MiB in the page cache behind a snapshot: of a source that nobody had read, of the two copies, of a source that was in
/// use (a running VM's memory), of a bystander, and of the copy of the memory once it is in use and was hashed again.
fn cache_behind_a_snapshot(at: &Path) -> ([u64; 3], [u64; 3]) {
    let world = World::at(at);
    let dir = world.vms.join("a");
    fs::create_dir(&dir).unwrap();
    let (cold, hot, bystander) = (dir.join("cold"), dir.join("memory"), at.join("bystander"));
    for path in [&cold, &hot, &bystander] {
        make(path, &Layout { size: 96 * MIB, data: vec![(0, 96 * MIB)] });
        Fs::real().drop_cached(&fs::File::open(path).unwrap(), 0..u64::MAX);
    }
    for path in [&hot, &bystander, &hot, &bystander] {
        fs::read(path).unwrap();
    }
    let open = world.open();
    let flow = Flow { threads: 2, ..Flow::quiet() };
    let id = open.take_with("a", DigestTime::Before, flow).unwrap();
    let data = open.store.layout.snapshot(&id).join("data");
    let left = [&cold, &data.join("cold"), &data.join("memory")].map(|path| cached(path) / MIB);
    let (used, was) = (data.join("memory"), [cached(&hot), cached(&bystander)]);
    fs::read(&used).unwrap();
    digest_file(&Fs::real(), &fs::File::open(&used).unwrap(), &used, 96 * MIB, flow).unwrap();
    (left, [was[0] / MIB, was[1] / MIB, cached(&used) / MIB])
}

#[test]
fn a_snapshot_leaves_the_page_cache_as_it_was() {
    for kind in Kind::ALL {
        let mut seen = Vec::new();
        // The kernel takes pages for others when it likes: all or nothing is what a copy of ours decides.
        let is_right = (0..4).any(|_| {
            let Some(at) = mounted(kind, 1 << 30) else { return true };
            let (left, kept) = cache_behind_a_snapshot(&at.path);
            seen.push((left, kept));
            left.iter().all(|mib| *mib <= 16) && kept.iter().all(|mib| *mib >= 72)
        });
        assert!(is_right, "{kind}: MiB of 96 left behind, and kept: {seen:?}");
        println!("{kind}: MiB of 96 left behind, and kept: {seen:?}");
    }
}

#[test]
fn a_source_that_changes_under_a_copy_on_several_threads_is_copied_again_or_refused() {
    struct Writes {
        path: PathBuf,
        left: AtomicU64,
    }
    impl Progress for Writes {
        fn total(&self, _: u64) {}
        fn advance(&self, _: u64) {
            if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                let file = fs::File::options().write(true).open(&self.path).unwrap();
                file.write_all_at(&self.left.load(Ordering::SeqCst).to_le_bytes(), 4096).unwrap();
            }
        }
    }
    for (name, at) in everywhere() {
        let world = World::at(&at.path);
        let dir = world.vms.join("a");
        fs::create_dir(&dir).unwrap();
        make(&dir.join("disk"), &Layout { size: 20 * MIB, data: vec![(0, 20 * MIB)] });
        let open = world.open();
        for (writes, is_taken) in [(3, true), (u64::MAX, false)] {
            let progress = Writes { path: dir.join("disk"), left: writes.into() };
            let flow = Flow { threads: 3, progress: &progress, ..Flow::quiet() };
            let taken = open.take_with("a", DigestTime::Before, flow);
            match taken {
                Ok(id) => {
                    assert!(is_taken, "{name}: it never held still");
                    let data = open.store.layout.snapshot(&id).join("data/disk");
                    assert!(fs::read(data).unwrap() == fs::read(dir.join("disk")).unwrap(), "{name}");
                    let manifest = open.store.manifest(&id).unwrap();
                    let digest = by_definition(&fs::read(dir.join("disk")).unwrap());
                    assert!(manifest.entries.iter().any(|e| matches!(&e.node, Node::File(f) if f.digest == digest)), "{name}");
                }
                Err(e) => assert!(!is_taken && e.to_string().contains("keeps changing"), "{name}: {e}"),
            }
        }
    }
}

#[test]
fn a_stop_ends_a_copy_that_rests_for_its_rate_and_leaves_nothing() {
    let world = World::new();
    let dir = world.vms.join("a");
    fs::create_dir(&dir).unwrap();
    write_sparse(&dir.join("disk"), 64 << 20, &[(0, b"x"), (5 << 20, b"y"), (40 << 20, b"z")]);
    fs::write(dir.join("small"), vec![1; 3 << 20]).unwrap();
    // The clock of this world stands still: a rest for the rate ends only by the stop, and a copy that went on without its
    // rest would be complete.
    let worker = world.worker("[worker]\ncopy_rate = \"1KiB\"\n[driver]\nmemory_names = [\"memory\"]\n");
    if worker.store.can_reflink() {
        return;
    }
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            use snapkeep::worker::backend::Backend as _;
            let body = snapkeep::worker::view::TakeBody { instance: crate::support::instance("a"), name: None, tags: Default::default() };
            worker.take(&body)
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        worker.cancel();
        let error = taking.join().unwrap().unwrap_err();
        assert!(error.detail.contains("stopped"), "{}", error.detail);
    });
    assert_eq!(fs::read_dir(world.store.join("snapshots")).unwrap().count(), 0);
}
