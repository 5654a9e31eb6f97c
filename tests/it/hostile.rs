//! Instances made to harm: each ends in a whole snapshot, or in an error that names a path, and never outside of the store
//! and the instances root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests"
)]

use crate::support::mounts::tmpfs;
use crate::support::{Open, World, instance, listing, write_sparse};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use snapkeep::config::{DriverConfig, Skip};
use snapkeep::driver::Plain;
use snapkeep::fork::queue::RequestState;
use snapkeep::ids::{InstanceId, SnapshotId};
use snapkeep::snapshot::copy::Flow;
use snapkeep::snapshot::restore::{RestoreError, restore};
use snapkeep::snapshot::take::TakeError;
use snapkeep::store::fs::Fs;
use snapkeep::store::instances::Standing;
use snapkeep::store::manifest::{Manifest, Node};
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CANARY: &str = "the canary outside of store and root";

fn is_full() -> bool {
    std::env::var_os("FULL").is_some()
}

/// A directory beside store and root, with files that no snapshot may have and nobody may change.
struct Canary {
    dir: PathBuf,
    before: Vec<String>,
}

impl Canary {
    fn new(world: &World) -> Self {
        let dir = world.store.parent().unwrap().join("outside");
        fs::create_dir_all(dir.join("sub")).unwrap();
        for name in ["one", "two", "sub/one", "app.log"] {
            fs::write(dir.join(name), CANARY).unwrap();
        }
        Self { before: listing(&dir), dir }
    }

    /// Nothing was written there, and nothing of it is in `trees`.
    fn lives(&self, trees: &[&Path]) {
        assert_eq!(listing(&self.dir), self.before);
        for tree in trees {
            let mut todo = vec![tree.to_path_buf()];
            while let Some(dir) = todo.pop() {
                for entry in fs::read_dir(&dir).unwrap() {
                    let path = entry.unwrap().path();
                    let meta = fs::symlink_metadata(&path).unwrap();
                    if meta.is_dir() {
                        todo.push(path);
                    } else if meta.is_file() && meta.len() == CANARY.len() as u64 {
                        assert_ne!(fs::read(&path).unwrap(), CANARY.as_bytes(), "{}", path.display());
                    }
                }
            }
        }
    }
}

impl Open {
    fn manifest(&self, id: &SnapshotId) -> std::sync::Arc<Manifest> {
        self.store.manifest(id).unwrap().into()
    }

    fn data(&self, id: &SnapshotId) -> PathBuf {
        self.store.layout.snapshot(id).join("data")
    }

    fn put_back(&self, id: &SnapshotId) -> Result<(), RestoreError> {
        let driver =
            Plain::new(DriverConfig { memory_names: vec!["memory".into()], freeze: vec![], thaw: vec![], timeout: Duration::from_secs(5) });
        let skip = Skip::new(&["logs/", "*.tmp"]).unwrap();
        restore(&self.store, id, &driver, &skip, Flow::quiet()).map(drop)
    }

    fn is_sound(&self) {
        let findings = verify(&Fs::real(), &self.store.layout, &HashSet::new(), Flow::quiet()).findings;
        let bad: Vec<_> = findings.iter().filter(|f| f.severity != "info").map(|f| format!("{} {}: {}", f.name, f.path, f.what)).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
        assert_eq!(self.store.fs.list(&self.store.layout.staging()).unwrap(), [], "something is left in staging");
    }

    /// The whole life of a snapshot: fork, verify, put back, remove.
    fn lives_through(&self, id: &SnapshotId, fork: &str) {
        let made = self.fork(id, fork).unwrap();
        assert_eq!(made.state, RequestState::Done, "{made:?}");
        self.is_sound();
        self.put_back(id).unwrap();
        self.store.fs.remove_tree(&self.store.layout.instance(&instance(fork))).unwrap();
        self.forks.reconcile().unwrap();
        self.remove(id).unwrap();
        self.is_sound();
    }
}

#[test]
fn a_name_that_leads_elsewhere_is_no_instance_and_does_not_hide_the_others() {
    let world = World::new();
    world.make_instance("good");
    let canary = Canary::new(&world);
    symlink(&canary.dir, world.vms.join("link")).unwrap();
    symlink("loop", world.vms.join("loop")).unwrap();
    fs::write(world.vms.join("file"), "no directory").unwrap();
    for name in [&b"\xff\xfe"[..], b"new\nline", b"tab\tand 'quote'\\x41", b"-rf", "\u{202e}evil".as_bytes()] {
        fs::create_dir(world.vms.join(OsStr::from_bytes(name))).unwrap();
        fs::write(world.vms.join(OsStr::from_bytes(name)).join("disk"), "disk").unwrap();
    }
    let open = world.open();
    let mut tried = 0;
    for bad in ["..", ".", "", "../outside", "good/../../outside", "/etc", ".snapkeep", "a\0b", "new\nline"] {
        assert!(InstanceId::parse(bad).is_err(), "{bad:?}");
        tried += 1;
    }
    for none in ["link", "loop", "file", "nowhere"] {
        assert!(matches!(open.take(none), Err(TakeError::NoInstance(_))), "{none}");
        tried += 1;
    }
    let scan = open.forks.scan().unwrap();
    let names: Vec<String> = scan.names().map(|(id, _)| id.to_string()).collect();
    assert_eq!(names, ["-rf", "good", "tab\tand 'quote'\\x41", "\u{202e}evil"]);
    for name in &names {
        let id = open.take(name).unwrap();
        open.lives_through(&id, &format!("fork-{tried}"));
        tried += 1;
    }
    canary.lives(&[&world.store]);
    println!("{tried} names");
}

/// Fills an instance with everything but plain files; the number of entries.
fn make_odd(dir: &Path, outside: &Path) -> usize {
    fs::create_dir(dir).unwrap();
    let links = [
        ("absolute", outside.join("one")),
        ("directory", outside.to_owned()),
        ("up", "../../outside/one".into()),
        ("loop", "loop".into()),
        ("ping", "pong".into()),
        ("pong", "ping".into()),
        ("here", ".".into()),
        ("nowhere", "/no/such/file".into()),
        ("itself", "/proc/self/fd/0".into()),
        ("memory", outside.join("two")),
    ];
    for (name, target) in &links {
        symlink(target, dir.join(name)).unwrap();
    }
    let names =
        [&b"\xff\xfe"[..], b"new\nline", b"back\\slash", b"..dots", b"...", b" ", b"\\x41", &[b'n'; 255], b"*.tmpx", b"manifest.json"];
    for name in names {
        let path = dir.join(OsStr::from_bytes(name));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2711), ("open", 0o777), ("closed", 0)] {
        fs::write(dir.join(name), name).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(dir.join("sticky")).unwrap();
    fs::set_permissions(dir.join("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o666)).unwrap();
    links.len() + names.len() * 2 + 6
}

#[test]
fn links_odd_names_modes_and_what_is_no_file_are_kept_as_they_are_or_left_out_by_name() {
    let world = World::new();
    let canary = Canary::new(&world);
    let dir = world.vms.join("odd");
    let entries = make_odd(&dir, &canary.dir);
    let mut left_out = vec!["fifo".to_owned()];
    for (name, kind, device) in [("zero", SFlag::S_IFCHR, makedev(1, 5)), ("disk", SFlag::S_IFBLK, makedev(7, 0))] {
        match mknod(&dir.join(name), kind, Mode::from_bits_truncate(0o666), device) {
            Ok(()) => left_out.push(name.to_owned()),
            Err(e) => println!("skipped: a device node: {e}"),
        }
    }
    left_out.sort();
    let before: Vec<String> = listing(&dir);
    let open = world.open();
    let id = open.take("odd").unwrap();
    let manifest = open.manifest(&id);
    let mut skipped: Vec<_> = manifest.skipped.iter().map(|s| s.path.as_path().display().to_string()).collect();
    skipped.sort();
    assert_eq!(skipped, left_out);
    assert_eq!(manifest.entries.len(), entries, "with the root, without the FIFO");
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2711), ("open", 0o777), ("closed", 0), ("sticky", 0o3777)] {
        let entry = manifest.entries.iter().find(|e| e.path.as_path() == Path::new(name)).unwrap();
        assert_eq!(entry.mode, mode, "{name}");
        let stored = fs::symlink_metadata(open.data(&id).join(name)).unwrap().mode() & 0o7777;
        assert_eq!(stored, entry.stored_mode());
        assert!(entry.node == Node::Dir || stored & 0o6222 == 0, "{name} is stored with mode {stored:o}");
    }
    let made = open.fork(&id, "twin").unwrap();
    assert_eq!(made.state, RequestState::Done, "{made:?}");
    open.is_sound();
    fs::write(dir.join("open"), "changed").unwrap();
    open.put_back(&id).unwrap();
    let kept = |lines: &[String]| -> Vec<String> {
        let is_kept = |line: &&String| !left_out.iter().any(|name| line.starts_with(&format!("{name} ")) || **line == *name);
        let mut kept: Vec<_> = lines.iter().filter(is_kept).cloned().collect();
        kept.sort();
        kept
    };
    assert_eq!(kept(&listing(&dir)), kept(&before));
    canary.lives(&[&world.store, &dir, &world.vms.join("twin")]);
    open.store.fs.remove_tree(&world.vms.join("twin")).unwrap();
    open.forks.reconcile().unwrap();
    open.remove(&id).unwrap();
    open.is_sound();
    canary.lives(&[&world.store]);
    println!("{entries} entries, {} left out", left_out.len());
}

#[test]
fn restoring_writes_nothing_through_a_link_that_the_snapshot_has_in_the_place_of_a_directory() {
    let world = World::new();
    let canary = Canary::new(&world);
    let dir = world.vms.join("vm");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("disk"), "disk").unwrap();
    // The rule `logs/` is about directories: a link of that name is in the snapshot.
    symlink(&canary.dir, dir.join("logs")).unwrap();
    symlink(&canary.dir, dir.join(".snapkeep")).unwrap();
    let open = world.open();
    let id = open.take("vm").unwrap();
    for name in ["logs", ".snapkeep"] {
        fs::remove_file(dir.join(name)).unwrap();
        fs::create_dir_all(dir.join(name).join("sub/new")).unwrap();
        for file in ["app.log", "evil", "sub/evil"] {
            fs::write(dir.join(name).join(file), "written by the instance").unwrap();
        }
    }
    open.put_back(&id).unwrap();
    assert_eq!(fs::read_link(dir.join("logs")).unwrap(), canary.dir);
    assert_eq!(fs::read(dir.join(".snapkeep/evil")).unwrap(), b"written by the instance", "our own directory is the live one");
    canary.lives(&[&world.store]);
    open.is_sound();
}

#[test]
fn a_fork_record_that_is_no_plain_file_harms_nobody_else() {
    let world = World::new();
    world.make_instance("good");
    let canary = Canary::new(&world);
    let open = world.open();
    let good = open.take("good").unwrap();
    let fork = open.fork(&good, "real").unwrap();
    let record = |name: &str| {
        let dir = world.vms.join(name);
        fs::create_dir_all(dir.join(".snapkeep")).unwrap();
        fs::write(dir.join("disk"), name).unwrap();
        dir.join(".snapkeep/fork.json")
    };
    symlink(world.vms.join("real/.snapkeep/fork.json"), record("link")).unwrap();
    nix::unistd::mkfifo(&record("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    fs::create_dir(record("directory")).unwrap();
    symlink("/dev/zero", record("endless")).unwrap();
    fs::write(record("empty"), "").unwrap();
    fs::write(record("deep"), "[".repeat(60_000)).unwrap();
    write_sparse(&record("huge"), 1 << 40, &[]);
    record("elsewhere");
    fs::remove_dir(world.vms.join("elsewhere/.snapkeep")).unwrap();
    symlink(world.vms.join("real/.snapkeep"), world.vms.join("elsewhere/.snapkeep")).unwrap();
    let scan = open.forks.scan().unwrap();
    let carriers = scan.carriers(&open.store.layout);
    assert_eq!(carriers.values().flatten().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [world.vms.join("real")]);
    let odd = ["link", "fifo", "directory", "endless", "empty", "deep", "huge", "elsewhere"];
    for name in odd {
        let (_, standing) = &scan.instances[OsStr::new(name)];
        assert!(matches!(standing, Standing::Unreadable(why) if !why.is_empty()), "{name}: {standing:?}");
        // Whole, or an error that says where.
        if let Err(e) = open.take(name) {
            assert!(e.to_string().contains(name), "{name}: {e}");
        }
    }
    let again = open.take("good").unwrap();
    assert_eq!(open.fork(&again, "more").unwrap().state, RequestState::Done);
    assert!(open.remove(&good).is_err(), "{} needs it", fork.name);
    canary.lives(&[&world.store]);
    println!("{} records", odd.len());
}

/// Ends the other thread also when this one panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_swapped_for_a_link_under_the_copy_is_never_read_through_it() {
    let rounds = if is_full() { 3000 } else { 60 };
    let world = World::new();
    world.make_instance("good");
    let canary = Canary::new(&world);
    let dir = world.vms.join("moving");
    for sub in ["dir/sub", "file-or-dir", "logs/sub"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for file in ["disk", "dir/one", "dir/two", "dir/sub/one", "file-or-dir/one", "logs/app.log"] {
        fs::write(dir.join(file), format!("the instance's own {file}")).unwrap();
    }
    // What is swapped in waits outside of the instance.
    let other = world.store.parent().unwrap().join("other");
    fs::create_dir(&other).unwrap();
    for (name, target) in [("dir", &canary.dir), ("sub", &canary.dir.join("sub")), ("logs", &canary.dir), ("one", &canary.dir.join("one"))]
    {
        symlink(target, other.join(name)).unwrap();
    }
    fs::write(other.join("file-or-dir"), "a file").unwrap();
    let open = world.open();
    let base = open.take("moving").unwrap();
    let stop = AtomicBool::new(false);
    let (mut whole, mut failed, mut put_back, mut not_put_back) = (0, 0, 0, 0);
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let swap = |inside: &str, outside: &str| {
                renameat2(AT_FDCWD, &dir.join(inside), AT_FDCWD, &other.join(outside), RenameFlags::RENAME_EXCHANGE).is_ok()
            };
            let mut swaps = 0_u64;
            let names = [("dir", "dir"), ("dir/sub", "sub"), ("logs", "logs"), ("dir/one", "one"), ("file-or-dir", "file-or-dir")];
            while !stop.load(Ordering::Relaxed) {
                for (inside, outside) in names {
                    // Never through a link of our own making.
                    let is_link = inside.starts_with("dir/") && fs::symlink_metadata(dir.join("dir")).is_ok_and(|m| m.is_symlink());
                    for _ in 0..if is_link { 0 } else { 2 } {
                        swaps += u64::from(swap(inside, outside));
                        std::thread::sleep(Duration::from_micros(swaps % 7 * 60));
                    }
                }
                // Long enough, now and then, for a copy to be whole.
                if swaps % 60 < 8 {
                    std::thread::sleep(Duration::from_millis(150));
                }
            }
            swaps
        });
        let _stop = StopAtEnd(&stop);
        for round in 0..rounds {
            match open.take("moving") {
                Ok(id) => {
                    whole += 1;
                    if round % 8 == 0 {
                        let made = open.fork(&id, &format!("fork-{round}")).unwrap();
                        assert_eq!(made.state, RequestState::Done, "{made:?}");
                    } else {
                        open.remove(&id).unwrap();
                    }
                }
                Err(e) => {
                    failed += 1;
                    assert!(e.to_string().contains("/moving"), "{e}");
                }
            }
            if round % 4 == 0 {
                match open.put_back(&base) {
                    Ok(()) => put_back += 1,
                    Err(e) => {
                        not_put_back += 1;
                        assert!(e.to_string().contains("moving"), "{e}");
                    }
                }
            }
            if round % 16 == 0 {
                open.remove(&open.take("good").unwrap()).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap()
    });
    canary.lives(&[&world.store, &world.vms]);
    open.is_sound();
    assert!(swaps > rounds && whole > 0, "{swaps} swaps, {whole} whole");
    println!("{rounds} takes under {swaps} swaps: {whole} whole, {failed} failed; put back {put_back} times, {not_put_back} not");
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long_goes_through_everything() {
    // In either case deeper than a path may be long.
    let levels = if is_full() { 4000 } else { 600 };
    let world = World::new();
    world.make_instance("good");
    let dir = world.vms.join("deep");
    fs::create_dir(&dir).unwrap();
    let fs_ = Fs::real();
    let mut at = fs_.open_dir(&dir).unwrap();
    for _ in 0..levels {
        fs_.mkdir(at.at(OsStr::new("directory")), 0o755).unwrap();
        at = fs_.open_dir(at.at(OsStr::new("directory"))).unwrap();
    }
    fs_.write_new(at.at(OsStr::new("bottom.json")), b"{\"a\": 1}").unwrap();
    fs_.write_new(at.at(OsStr::new("memory")), b"ram").unwrap();
    drop(at);
    let open = world.open();
    let id = open.take("deep").unwrap();
    assert_eq!(open.manifest(&id).entries.len(), levels + 3);
    open.lives_through(&id, "deep-fork");
    let good = open.take("good").unwrap();
    open.lives_through(&good, "good-fork");
    for tree in [&world.vms, &world.store] {
        Fs::real().remove_tree(tree).unwrap();
    }
    println!("{levels} levels");
}

#[test]
fn files_of_the_greatest_length_without_data_make_a_whole_snapshot() {
    let Some(mounted) = tmpfs("size=256m") else { return };
    for world in [World::at(&mounted.path), World::new()] {
        let dir = world.vms.join("huge");
        fs::create_dir(&dir).unwrap();
        let file = fs::File::create(dir.join("disk-0")).unwrap();
        let sizes = [i64::MAX as u64, i64::MAX as u64 & !4095, 1 << 60, 1 << 56, (1 << 44) - 4096, 1 << 43, 1 << 42];
        let size = sizes.into_iter().find(|size| file.set_len(*size).is_ok()).unwrap();
        file.write_all_at(b"data", size / 2).unwrap();
        // Together more than any number of bytes that is counted.
        for n in 1..if size > 1 << 44 { 4 } else { 1 } {
            fs::File::create(dir.join(format!("disk-{n}"))).unwrap().set_len(size).unwrap();
        }
        fs::File::create(dir.join("memory")).unwrap().set_len(size).unwrap();
        drop(file);
        let open = world.open();
        let id = open.take("huge").unwrap();
        let stored = fs::File::open(open.data(&id).join("disk-0")).unwrap();
        assert_eq!(stored.metadata().unwrap().len(), size);
        let mut bytes = [0; 4];
        stored.read_exact_at(&mut bytes, size / 2).unwrap();
        assert_eq!(&bytes, b"data");
        open.lives_through(&id, "huge-fork");
        println!("{size} bytes");
        Fs::real().remove_tree(&world.vms).unwrap();
    }
}

#[test]
fn a_great_number_of_small_files_goes_through_everything() {
    let files: usize = if is_full() { 1_000_000 } else { 5000 };
    let world = World::new();
    let dir = world.vms.join("many");
    for n in 0..files {
        let sub = dir.join(format!("{}", n / 500));
        if n % 500 == 0 {
            fs::create_dir_all(&sub).unwrap();
        }
        fs::write(sub.join(format!("{n}")), n.to_string()).unwrap();
    }
    let open = world.open();
    let began = std::time::Instant::now();
    let id = open.take("many").unwrap();
    let taken = began.elapsed();
    assert_eq!(open.manifest(&id).entries.len(), files + files.div_ceil(500) + 1);
    open.lives_through(&id, "many-fork");
    println!("{files} files: taken in {taken:.1?}, all in {:.1?}", began.elapsed());
}
