//! The ready pool: what is made ahead of need comes out as a fork that was made on demand, goes to one fork only, goes with
//! its snapshot, and is never handed out if it is not as it was made.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::mounts::{Kind, mounted};
use crate::support::program::Program;
use crate::support::{NEVER, Open, World, ask};
use snapkeep::event::Event;
use snapkeep::fork::Forks;
use snapkeep::fork::pool::Turn;
use snapkeep::fork::queue::RequestState;
use snapkeep::ids::SnapshotId;
use snapkeep::reclaim::Reclaim;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::{Fs, Gate, Op};
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::verify::verify;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub(crate) const READY_3: &str =
    "[worker]\nthreads = 1\n[driver]\nmemory_names = [\"memory\"]\n[[prefork]]\ninstances = [\"a\"]\nready = 3\n";

/// A worker with a pool, and the short words of tests for it.
pub(crate) struct Pooled {
    pub(crate) world: World,
    pub(crate) worker: Arc<Worker>,
    pub(crate) open: Open,
    pub(crate) id: SnapshotId,
}

fn start(world: &World, config: &str, fs: Fs) -> Option<(Arc<Worker>, Open)> {
    let worker = world.try_worker(config, fs).ok()?;
    let (store, forks) = (Arc::clone(&worker.store), Arc::clone(&worker.forks));
    let reclaim = Reclaim::new(Arc::clone(&store), Arc::clone(&forks));
    Some((worker, Open { store, forks, reclaim }))
}

impl Pooled {
    /// With a snapshot of `a`, and a full pool.
    pub(crate) fn new(world: World, config: &str) -> Self {
        if !world.vms.join("a").exists() {
            world.make_instance("a");
        }
        let (worker, open) = start(&world, config, Fs::real()).unwrap();
        let id = open.take("a").unwrap();
        let pooled = Self { world, worker, open, id };
        pooled.fill();
        pooled
    }

    fn fill(&self) {
        fill(&self.open);
    }

    fn restart(self, config: &str) -> Self {
        let Self { world, worker, open, id } = self;
        drop((worker, open));
        let (worker, open) = start(&world, config, Fs::real()).unwrap();
        Self { world, worker, open, id }
    }

    /// The entries of the pool that have their names.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        entries(&self.world, &self.id)
    }

    fn ready(&self) -> u64 {
        self.open.forks.pool().counts().ready
    }

    /// Forks that came out of the pool, of those that were made so far.
    pub(crate) fn pooled(&self) -> Vec<bool> {
        self.world.events.events().iter().filter_map(|e| if let Event::ForkCreated { pool, .. } = e { Some(*pool) } else { None }).collect()
    }

    fn count(&self, name: &str) -> usize {
        self.world.event_names().iter().filter(|n| **n == name).count()
    }

    fn findings(&self) -> Vec<String> {
        let found = verify(&Fs::real(), &self.open.store.layout, &HashSet::new(), Flow::quiet()).findings;
        found.into_iter().map(|finding| finding.name).collect()
    }
}

pub(crate) fn fill(open: &Open) {
    for _ in 0..1000 {
        match open.forks.tend_pool(&NEVER) {
            Turn::Done => {}
            Turn::Settled | Turn::Later => return,
        }
    }
    panic!("the pool never settles");
}

fn entries(world: &World, id: &SnapshotId) -> Vec<PathBuf> {
    let dir = world.vms.join(".snapkeep/pool").join(id.as_str());
    let mut found: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    found.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
    found.sort();
    found
}

/// Everything in the pool's directory, by name, at any depth but not within entries.
fn lies_about(world: &World) -> Vec<String> {
    let pool = world.vms.join(".snapkeep/pool");
    let names = |dir: &Path| -> Vec<PathBuf> { fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect() };
    let dirs = names(&pool);
    let below = dirs.iter().filter(|d| !d.file_name().unwrap().to_str().unwrap().starts_with('.')).flat_map(|d| names(d));
    let hidden = dirs.iter().cloned().chain(below).filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with('.'));
    hidden.map(|p| p.display().to_string()).collect()
}

#[test]
fn what_is_taken_out_of_the_pool_is_made_again() {
    let pooled = Pooled::new(World::new(), READY_3);
    assert_eq!((pooled.entries().len(), pooled.ready(), pooled.count("pool.filled")), (3, 3, 1));
    assert_eq!(pooled.worker.snapshot(pooled.id.as_str()).unwrap().pool_count, 3);
    assert_eq!((pooled.open.ref_count(&pooled.id), pooled.worker.snapshot(pooled.id.as_str()).unwrap().ref_count), (0, 0));
    let inodes: BTreeSet<u64> = pooled.entries().iter().map(|e| fs::metadata(e.join("overlay.raw")).unwrap().ino()).collect();
    for name in ["b", "c"] {
        let request = pooled.open.fork(&pooled.id, name).unwrap();
        assert_eq!((request.state, request.memory.as_deref()), (RequestState::Done, Some("hardlink")));
        assert!(inodes.contains(&fs::metadata(pooled.world.vms.join(name).join("overlay.raw")).unwrap().ino()));
    }
    assert_eq!((pooled.pooled(), pooled.entries().len(), pooled.ready()), (vec![true, true], 1, 1));
    assert_eq!(pooled.worker.snapshot(pooled.id.as_str()).unwrap().pool_count, 1);
    pooled.fill();
    assert_eq!((pooled.entries().len(), pooled.ready(), pooled.count("pool.filled")), (3, 3, 2));
    assert_eq!(pooled.open.ref_count(&pooled.id), 2, "the pool's are no refs");
    assert_eq!(pooled.findings(), [""; 0]);
}

#[test]
fn a_pool_that_is_empty_costs_nothing_but_a_look_into_memory() {
    let pooled = Pooled::new(World::new(), READY_3);
    for name in ["b", "c", "d", "e"] {
        assert_eq!(pooled.open.fork(&pooled.id, name).unwrap().state, RequestState::Done);
    }
    assert_eq!(pooled.pooled(), [true, true, true, false]);
}

#[test]
fn forks_of_a_burst_on_several_threads_never_get_the_same_entry() {
    let world = World::new();
    let config = READY_3.replace("threads = 1", "threads = 4").replace("ready = 3", "ready = 24");
    let pooled = Pooled::new(world, &config);
    let inodes: BTreeSet<u64> = pooled.entries().iter().map(|e| fs::metadata(e.join("overlay.raw")).unwrap().ino()).collect();
    assert_eq!(inodes.len(), 24);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pooled = &pooled;
            scope.spawn(move || {
                let asks = (0..8).map(|n| ask(&pooled.id, &format!("f-{thread}-{n}"))).collect();
                assert!(pooled.open.forks.accept(asks).iter().all(Result::is_ok));
                pooled.open.forks.run_ready(&NEVER, &NEVER).unwrap();
            });
        }
        // And meanwhile what is taken is made again.
        let pooled = &pooled;
        scope.spawn(move || (0..20).for_each(|_| _ = pooled.open.forks.tend_pool(&NEVER)));
    });
    pooled.open.forks.run_ready(&NEVER, &NEVER).unwrap();
    let mut disks = BTreeSet::new();
    for n in 0..32 {
        let dir = pooled.world.vms.join(format!("f-{}-{}", n / 8, n % 8));
        let disk = fs::metadata(dir.join("overlay.raw")).unwrap();
        assert!(disks.insert(disk.ino()) && disk.nlink() == 1, "a disk of its own");
        assert!(fs::read_to_string(dir.join("config.json")).unwrap().contains(&format!("f-{}-{}/overlay", n / 8, n % 8)));
    }
    assert!(disks.intersection(&inodes).count() >= 24, "all of the pool was used");
    assert_eq!(pooled.findings(), [""; 0]);
}

/// All that can be told of a tree, but for what no two forks have in common: inode numbers and times of what was made now.
fn told(dir: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(dir).unwrap().display().to_string();
        let is_ours = name.starts_with(".snapkeep") || name == "config.json" || name == "sub/rw.json";
        let mtime = if is_ours { String::new() } else { format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()) };
        let contents = if meta.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            String::new()
        } else if name.ends_with("fork.json") {
            "a record".to_owned()
        } else {
            let text = fs::read(&path).unwrap();
            format!("{} {}", text.len(), blake3::hash(&text).to_hex())
        };
        let names = if meta.is_dir() || name.ends_with("memory") { 0 } else { meta.nlink() };
        let xattrs: BTreeMap<_, _> =
            xattr::list(&path).into_iter().flatten().map(|k| (k.clone(), xattr::get(&path, &k).unwrap())).collect();
        let owner = (meta.uid(), meta.gid());
        all.insert(name, format!("{:o} {owner:?} {names} {mtime} {xattrs:?} {contents}", meta.permissions().mode()));
    }
    all
}

#[test]
fn a_fork_out_of_the_pool_is_the_same_as_one_without() {
    for kind in Kind::ALL {
        let Some(mounted) = mounted(kind, Kind::SMALLEST) else { continue };
        let world = World::at(&mounted.path);
        let a = world.make_instance("a");
        // A bit of everything: links in and out, names that are shared, bits that creation does not give, attributes.
        fs::create_dir_all(a.join("sub/deep")).unwrap();
        fs::write(a.join("sub/rw.json"), format!(r#"{{"disk": "{}/overlay.raw"}}"#, a.display())).unwrap();
        std::os::unix::fs::symlink("../../a/overlay.raw", a.join("sub/back")).unwrap();
        std::os::unix::fs::symlink("plain", a.join("sub/deep/link")).unwrap();
        fs::write(a.join("sub/deep/plain"), "x").unwrap();
        fs::hard_link(a.join("sub/deep/plain"), a.join("twin")).unwrap();
        fs::write(a.join("none"), "").unwrap();
        for (name, mode) in [("sub/rw.json", 0o444), ("sub", 0o2750), ("sub/deep", 0o555), ("overlay.raw", 0o640), ("none", 0o4711)] {
            fs::set_permissions(a.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        for name in ["sub/rw.json", "overlay.raw", "sub"] {
            xattr::set(a.join(name), "user.k", b"v").unwrap();
        }
        if nix::unistd::geteuid().is_root() {
            for name in ["sub", "sub/rw.json", "overlay.raw"] {
                nix::unistd::chown(&a.join(name), Some(1.into()), Some(2.into())).unwrap();
            }
            nix::unistd::fchownat(
                nix::fcntl::AT_FDCWD,
                &a.join("sub/back"),
                Some(3.into()),
                Some(4.into()),
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .unwrap();
            fs::set_permissions(a.join("sub"), fs::Permissions::from_mode(0o2750)).unwrap();
        }
        let pooled = Pooled::new(world, &READY_3.replace("ready = 3", "ready = 1"));
        let vms = pooled.world.vms.clone();
        let names = |text: BTreeMap<String, String>, name: &str| -> BTreeMap<String, String> {
            let digest = |file: &str| {
                blake3::hash(fs::read_to_string(vms.join(name).join(file)).unwrap().replace(&format!("/{name}/"), "/NAME/").as_bytes())
            };
            let mut text: BTreeMap<_, _> = text.into_iter().map(|(k, v)| (k, v.replace(&format!("/{name}/"), "/NAME/"))).collect();
            for file in ["config.json", "sub/rw.json"] {
                let told = text.get_mut(file).unwrap();
                *told = format!("{} {}", told.rsplit_once(' ').unwrap().0, digest(file).to_hex());
            }
            text
        };
        assert_eq!(pooled.open.fork(&pooled.id, "pool").unwrap().state, RequestState::Done);
        assert_eq!(pooled.open.fork(&pooled.id, "none").unwrap().state, RequestState::Done);
        assert_eq!(pooled.pooled(), [true, false], "{kind}: one of each");
        let (with, without) = (names(told(&vms.join("pool")), "pool"), names(told(&vms.join("none")), "none"));
        assert_eq!(with, without, "{kind}");
        assert!(with["sub/back"].ends_with(" overlay.raw") || with["sub/back"].ends_with("../overlay.raw"), "{}", with["sub/back"]);
        let requests: Vec<_> = pooled.open.forks.requests().into_iter().map(|r| (r.memory, r.disk)).collect();
        assert_eq!(requests[0], requests[1], "{kind}");
        let memory = |name: &str| fs::metadata(vms.join(name).join("memory")).unwrap().ino();
        assert_eq!(memory("pool"), memory("none"), "the page cache is shared");
        assert_eq!(pooled.findings(), [""; 0], "{kind}");
    }
}

/// A fork of `a`, made with a pool of one by a worker without capabilities, whether it is the pool's entry, and whether it was
/// reported that the pool is of no use.
fn forked_without_capabilities(world: &World) -> (PathBuf, bool, bool) {
    let program = Program::with(world, &READY_3.replace("ready = 3", "ready = 1"));
    let ok = |line: &str| {
        let command = program.command(line);
        let mut bounded = Command::new("setpriv");
        bounded.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(command.get_program()).args(command.get_args());
        let output = bounded.output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stderr).contains("pool.failed")
    };
    ok("init");
    ok("snapshot a");
    ok("once");
    let ids = fs::read_dir(world.store.join("snapshots")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let id = SnapshotId::parse(&ids.collect::<String>()).unwrap();
    let entry = fs::metadata(entries(world, &id).pop().unwrap()).unwrap().ino();
    let is_reported = ok(&format!("fork {id} b"));
    let fork = world.vms.join("b");
    let is_entry = fs::metadata(&fork).unwrap().ino() == entry;
    (fork, is_entry, is_reported)
}

#[test]
fn a_worker_without_capabilities_hands_out_what_is_read_only_or_makes_it_on_demand() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a worker without capabilities: not root");
        return;
    }
    for has_link in [false, true] {
        let world = World::new();
        let a = world.make_instance("a");
        fs::create_dir(a.join("sub")).unwrap();
        fs::write(a.join("sub/ro.json"), format!(r#"{{"disk": "{}/overlay.raw"}}"#, a.display())).unwrap();
        fs::set_permissions(a.join("sub/ro.json"), fs::Permissions::from_mode(0o444)).unwrap();
        if has_link {
            // Nobody without the right to override modes can put another one in its place.
            std::os::unix::fs::symlink(a.join("overlay.raw"), a.join("sub/link")).unwrap();
        }
        fs::set_permissions(a.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
        let (fork, is_entry, is_reported) = forked_without_capabilities(&world);
        assert_eq!((is_entry, is_reported), (!has_link, has_link));
        assert_eq!(fs::metadata(fork.join("sub/ro.json")).unwrap().mode() & 0o7777, 0o444);
        assert!(fs::read_to_string(fork.join("sub/ro.json")).unwrap().contains("/b/overlay.raw"));
        assert!(!has_link || fs::canonicalize(fork.join("sub/link")).unwrap() == fork.join("overlay.raw"));
    }
}

/// Has the forks recover while an entry that has its name already waits to be durable with it.
#[derive(Debug, Default)]
struct Interrupts {
    shelf: OnceLock<PathBuf>,
    forks: OnceLock<Arc<Forks>>,
    seen: Mutex<Vec<(usize, u64)>>,
}

impl Gate for Interrupts {
    fn before(&self, op: Op, path: &Path) -> Result<(), nix::errno::Errno> {
        let (Some(shelf), Some(forks)) = (self.shelf.get(), self.forks.get()) else { return Ok(()) };
        if op == Op::Fsync && path == shelf {
            let names = fs::read_dir(shelf).into_iter().flatten().map(|entry| entry.unwrap().file_name());
            let named = names.filter(|name| !name.as_encoded_bytes().starts_with(b".")).count();
            forks.recover().unwrap();
            self.seen.lock().unwrap().push((named, forks.pool().counts().ready));
        }
        Ok(())
    }
}

#[test]
fn an_entry_is_handed_out_by_nobody_before_whoever_made_it_has_put_it_on_its_shelf() {
    let world = World::new();
    world.make_instance("a");
    let id = world.open().take("a").unwrap();
    let gate = Arc::new(Interrupts::default());
    let (_worker, open) = start(&world, READY_3, Fs::gated(Arc::clone(&gate) as _)).unwrap();
    gate.shelf.set(open.store.layout.pool_of(&id)).unwrap();
    gate.forks.set(Arc::clone(&open.forks)).unwrap();
    fill(&open);
    let seen = gate.seen.lock().unwrap().clone();
    assert!(seen.contains(&(1, 0)) && seen.iter().all(|(named, ready)| *named == 0 || *named as u64 == ready + 1), "{seen:?}");
    assert_eq!(open.forks.pool().counts().ready, 3);
}

#[test]
fn a_snapshot_that_only_the_pool_has_forks_of_is_removed_and_its_entries_with_it() {
    let pooled = Pooled::new(World::new(), READY_3);
    let prune = pooled.open.reclaim.remove(&pooled.id, &[], Duration::ZERO);
    prune.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((pooled.entries().len(), pooled.ready(), pooled.count("pool.drained")), (0, 0, 1));
    assert!(pooled.open.accept(&pooled.id, "b").is_err());
    pooled.open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    assert_eq!(fs::read_dir(pooled.world.vms.join(".snapkeep/pool")).unwrap().count(), 0);
    pooled.fill();
    assert_eq!(pooled.ready(), 0);
}

#[test]
fn a_link_that_is_not_the_pools_keeps_the_snapshot_and_its_pool() {
    let pooled = Pooled::new(World::new(), READY_3);
    let memory = pooled.open.store.layout.snapshot(&pooled.id).join("data/memory");
    fs::hard_link(&memory, pooled.world.vms.join("mine")).unwrap();
    let refused = pooled.open.reclaim.remove(&pooled.id, &[], Duration::ZERO).unwrap_err().to_string();
    assert!(refused.contains("no known fork's"), "{refused}");
    assert_eq!(pooled.ready(), 3, "refused before anything was dropped");
}

#[test]
fn what_cannot_be_forked_any_more_is_drained_and_nothing_of_it_handed_out() {
    let pooled = Pooled::new(World::new(), READY_3);
    let request = pooled.open.accept(&pooled.id, "b").unwrap();
    pooled.open.store.mark_expiring(&pooled.open.store.lock_snapshot(&pooled.id), "by hand").unwrap();
    pooled.open.forks.run_ready(&NEVER, &NEVER).unwrap();
    assert_eq!(pooled.open.forks.request(&request.id).unwrap().state, RequestState::Done, "it was accepted before");
    assert_eq!(pooled.pooled(), [false]);
    pooled.fill();
    assert_eq!((pooled.entries().len(), pooled.ready(), lies_about(&pooled.world).len()), (0, 0, 0));

    let pooled = Pooled::new(World::new(), READY_3);
    pooled.open.store.mark_quarantined(&pooled.open.store.lock_snapshot(&pooled.id), "a test").unwrap();
    pooled.fill();
    assert_eq!((pooled.entries().len(), pooled.ready()), (0, 0));
}

#[test]
fn a_start_keeps_what_is_whole_and_removes_the_rest() {
    let pooled = Pooled::new(World::new(), READY_3);
    let before = pooled.entries();
    let pool = pooled.world.vms.join(".snapkeep/pool");
    let of_snapshot = pool.join(pooled.id.as_str());
    // Cut short while it was made, while it was dropped, of a snapshot that is gone; and a directory of somebody else's.
    for dir in [of_snapshot.join(".faaaaaaaaaaaaaaaa"), pool.join(".gone-faaaaaaaaaaaaaaab"), pool.join(".drained-faaaaaaaaaaaaaaac")] {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("x"), "x").unwrap();
    }
    fs::remove_file(pool.join(".drained-faaaaaaaaaaaaaaac/x")).unwrap();
    fs::create_dir(pool.join("20200101-000000-abcdefgh")).unwrap();
    fs::create_dir(pool.join("mine")).unwrap();
    fs::write(of_snapshot.join("mine.txt"), "mine").unwrap();
    let pooled = pooled.restart(READY_3);
    assert_eq!(pooled.ready(), 3, "known at once");
    let last = pooled.open.fork(&pooled.id, "b").unwrap();
    assert_eq!((last.state, pooled.pooled()), (RequestState::Done, vec![true]));
    pooled.fill();
    let kept = before.iter().filter(|path| path.exists()).count();
    assert_eq!((pooled.entries().len() - 1, kept), (3, 2), "and `mine.txt`");
    assert_eq!(lies_about(&pooled.world), [""; 0]);
    assert!(pool.join("mine").exists() && of_snapshot.join("mine.txt").exists() && !pool.join("20200101-000000-abcdefgh").exists());
    assert_eq!(pooled.findings(), ["pool.strange", "pool.strange"]);
    // Its directory is drained with what is ours in it.
    pooled.open.forks.reconcile().unwrap();
    fs::remove_dir_all(pooled.world.vms.join("b")).unwrap();
    pooled.open.forks.reconcile().unwrap();
    pooled.open.remove(&pooled.id).unwrap();
    pooled.open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    let drained = fs::read_dir(&pool).unwrap().map(|e| e.unwrap().path()).find(|p| p.join("mine.txt").exists()).unwrap();
    assert_eq!(fs::read_dir(drained).unwrap().count(), 1);
}

#[test]
fn what_was_being_handed_out_when_a_crash_came_is_unlinked_and_what_only_looks_blank_is_written_anew() {
    let pooled = Pooled::new(World::new(), READY_3);
    let entries = pooled.entries();
    // Of one the record came to the disk; of the others only what was written behind it.
    fs::write(entries[0].join(".snapkeep/fork.json"), [0; 200]).unwrap();
    for entry in &entries[1..] {
        std::os::unix::fs::symlink("/elsewhere", entry.join(".snapkeep/link")).unwrap();
    }
    let pooled = pooled.restart(READY_3);
    assert_eq!((pooled.ready(), pooled.findings()), (2, Vec::new()));
    for name in ["b", "c"] {
        assert_eq!(pooled.open.fork(&pooled.id, name).unwrap().state, RequestState::Done);
        let fork = pooled.world.vms.join(name);
        assert!(!fork.join(".snapkeep/link").exists() && fs::read_link(fork.join("disk")).unwrap() == fork.join("overlay.raw"));
    }
    assert_eq!((pooled.pooled(), pooled.count("pool.damaged")), (vec![true, true], 0));
    pooled.fill();
    assert_eq!((pooled.ready(), lies_about(&pooled.world).len(), entries.iter().any(|entry| entry.exists())), (3, 0, false));
}

#[test]
fn a_reload_changes_how_many_there_are_and_what_is_made_otherwise_goes() {
    let pooled = Pooled::new(World::new(), READY_3);
    let old: BTreeSet<PathBuf> = pooled.entries().into_iter().collect();
    let reload = |config: &str| {
        let (store, vms) = (pooled.world.store.display(), pooled.world.vms.display());
        let text = format!("[store]\npath = \"{store}\"\ninstances = \"{vms}\"\n{config}");
        pooled.worker.reload(snapkeep::config::parse(vec![("/c.toml".into(), text)]).unwrap());
    };
    reload(&READY_3.replace("ready = 3", "ready = 1"));
    pooled.fill();
    assert_eq!(pooled.entries().len(), 1);
    assert!(old.contains(&pooled.entries()[0]), "one of those that were there");
    reload(&format!("[fork]\nmemory = \"copy\"\n{READY_3}"));
    assert_eq!(
        pooled.open.fork(&pooled.id, "b").unwrap().memory.as_deref(),
        Some("copied"),
        "nothing is handed out that is made otherwise"
    );
    assert_eq!(pooled.pooled(), [false]);
    pooled.fill();
    assert_eq!(pooled.entries().len(), 3);
    assert!(old.iter().all(|path| !path.exists()));
    assert_eq!(pooled.open.fork(&pooled.id, "c").unwrap().memory.as_deref(), Some("copied"));
    assert_eq!(pooled.pooled(), [false, true]);
    reload("");
    pooled.fill();
    assert_eq!((pooled.entries().len(), lies_about(&pooled.world).len()), (0, 0));
    assert!(!pooled.world.vms.join(".snapkeep/pool").join(pooled.id.as_str()).exists());
}

#[test]
fn the_pool_takes_no_more_bytes_than_it_may() {
    let pooled = Pooled::new(World::new(), &format!("[pool]\nmax_bytes = \"100KiB\"\n{READY_3}"));
    let counts = pooled.open.forks.pool().counts();
    let blocks: u64 = pooled.entries().iter().map(|e| fs::metadata(e.join("overlay.raw")).unwrap().blocks() * 512).sum();
    assert!(counts.bytes <= 100 << 10 && blocks <= 100 << 10, "{counts:?}, {blocks}");
    assert_eq!(counts.wanted, 3);
    assert!(counts.ready < 3 || pooled.open.store.can_reflink(), "{counts:?}");
    // With no room at all there is none, and forks are made as ever.
    let pooled = pooled.restart(&format!("[space]\nreserve = \"100%\"\n{READY_3}"));
    let before = pooled.ready();
    assert_eq!(pooled.open.fork(&pooled.id, "b").unwrap().state, RequestState::Done);
    pooled.fill();
    assert_eq!(pooled.ready(), before.saturating_sub(1), "none is made, and none goes for it");
}

/// What somebody does to an entry, in words and in deed.
type Meddling = (&'static str, fn(&Path));

#[test]
fn an_entry_that_somebody_meddled_with_is_not_handed_out() {
    let meddle: [Meddling; 9] = [
        ("a file removed", |e| fs::remove_file(e.join("overlay.raw")).unwrap()),
        ("a disk of another size", |e| fs::File::options().write(true).open(e.join("overlay.raw")).unwrap().set_len(5).unwrap()),
        ("contents written", |e| fs::write(e.join("overlay.raw"), vec![7; 1 << 20]).unwrap()),
        ("a file added", |e| fs::write(e.join("more"), "x").unwrap()),
        ("a disk linked elsewhere", |e| fs::hard_link(e.join("overlay.raw"), e.join("../../mine")).unwrap()),
        ("another mode", |e| fs::set_permissions(e.join("overlay.raw"), fs::Permissions::from_mode(0o777)).unwrap()),
        ("other memory", |e| {
            let memory = fs::read(e.join("memory")).unwrap();
            fs::remove_file(e.join("memory")).unwrap();
            fs::write(e.join("memory"), memory).unwrap();
        }),
        ("a record already", |e| fs::write(e.join(".snapkeep/fork.json"), "{}").unwrap()),
        ("a link in the place of ours", |e| {
            fs::remove_dir_all(e.join(".snapkeep")).unwrap();
            std::os::unix::fs::symlink("/tmp", e.join(".snapkeep")).unwrap();
        }),
    ];
    for (what, meddle) in meddle {
        let pooled = Pooled::new(World::new(), &READY_3.replace("ready = 3", "ready = 1"));
        let entry = pooled.entries().pop().unwrap();
        meddle(&entry);
        assert!(
            pooled.findings().contains(&"pool.damaged".to_owned())
                || ["another mode", "a disk linked elsewhere", "a file added", "a record already"].contains(&what),
            "{what}"
        );
        let request = pooled.open.fork(&pooled.id, "b").unwrap();
        assert_eq!(request.state, RequestState::Done, "{what}: {:?}", request.error);
        assert_eq!((pooled.pooled(), pooled.count("pool.damaged")), (vec![false], 1), "{what}");
        let data = pooled.open.store.layout.snapshot(&pooled.id).join("data");
        assert_eq!(fs::read(pooled.world.vms.join("b/overlay.raw")).unwrap(), fs::read(data.join("overlay.raw")).unwrap(), "{what}");
        pooled.fill();
        assert_eq!(lies_about(&pooled.world), [""; 0], "{what}");
        assert_eq!(pooled.ready(), 1, "{what}");
    }
}

#[test]
fn an_entry_that_somebody_removed_is_no_loss() {
    let pooled = Pooled::new(World::new(), READY_3);
    fs::remove_dir_all(pooled.world.vms.join(".snapkeep/pool")).unwrap();
    assert_eq!(pooled.open.fork(&pooled.id, "b").unwrap().state, RequestState::Done);
    pooled.fill();
    assert_eq!((pooled.pooled(), pooled.entries().len()), (vec![false], 3));
}

#[test]
fn a_fork_that_must_not_be_made_takes_no_entry_and_spoilt_memory_is_found_by_whoever_comes_first() {
    let pooled = Pooled::new(World::new(), READY_3);
    let memory = pooled.open.store.layout.snapshot(&pooled.id).join("data/memory");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&memory, "spoilt").unwrap();
    let request = pooled.open.fork(&pooled.id, "b").unwrap();
    assert_eq!(request.state, RequestState::Failed);
    assert!(pooled.open.store.known(&pooled.id).unwrap().quarantined.is_some());
    pooled.fill();
    assert_eq!(pooled.ready(), 0);
}

#[test]
fn pruning_takes_the_pool_for_no_fork() {
    let config = "[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n[driver]\nmemory_names = [\"memory\"]\n[[policy]]\nname = \"p\"\n\
        instances = [\"a\"]\nevery = \"1h\"\n[policy.keep]\nlast = 1\n[[prefork]]\npolicy = \"p\"\nready = 2\n";
    let world = World::new();
    world.make_instance("a");
    let (worker, open) = start(&world, config, Fs::real()).unwrap();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(3600));
        assert_eq!(worker.once().unwrap(), 0);
    }
    let all = worker.snapshots(&Default::default()).unwrap().snapshots;
    assert_eq!(all.iter().map(|s| (s.ref_count, s.pool_count)).collect::<Vec<_>>(), [(0, 2)], "the newest alone is there, with its pool");
    assert!(!world.event_names().contains(&"prune.blocked"), "{:?}", world.event_names());
    let pool = worker.status().unwrap().worker.pool.unwrap();
    assert_eq!((pool.ready, pool.wanted), (2, 2));
    assert_eq!(entries(&world, &all[0].id).len(), 2);
    drop(open);
}

/// Knows what was written and not synced, and says so when something gets the name that makes it whole.
#[derive(Debug)]
struct Durability {
    vms: PathBuf,
    dirty: Mutex<BTreeSet<PathBuf>>,
    names: AtomicU64,
}

impl Gate for Durability {
    fn before(&self, _op: Op, _path: &Path) -> Result<(), nix::errno::Errno> {
        Ok(())
    }

    fn after(&self, op: Op, path: &Path) {
        let mut dirty = self.dirty.lock().unwrap();
        match op {
            Op::Write | Op::Truncate | Op::Reflink | Op::SetMeta => drop(dirty.insert(path.to_owned())),
            Op::Create | Op::Mkdir | Op::Symlink | Op::Link => drop(dirty.insert(path.parent().unwrap().to_owned())),
            Op::Fsync => drop(dirty.remove(path)),
            Op::Syncfs => dirty.clear(),
            Op::Unlink => dirty.retain(|d| !d.starts_with(path)),
            Op::Rename => {
                let name = path.file_name().unwrap().to_str().unwrap();
                let is_whole =
                    path.parent() == Some(&self.vms) || (path.starts_with(self.vms.join(".snapkeep/pool")) && name.contains('-'));
                if is_whole && !name.starts_with('.') {
                    self.names.fetch_add(1, Ordering::SeqCst);
                    let parts = [self.vms.join(".snapkeep/staging"), self.vms.join(".snapkeep/pool")];
                    // The directory that an entry leaves, or comes into, is synced behind it; links keep their times by their parents'.
                    let is_part =
                        |d: &&PathBuf| parts.iter().any(|p| d.strip_prefix(p).is_ok_and(|d| d.components().count() > 1 || p == &parts[0]));
                    let left: Vec<_> = dirty
                        .iter()
                        .filter(is_part)
                        .filter(|d| **d != parts[0])
                        .filter(|d| !d.ends_with("disk") && !d.ends_with("link"))
                        .collect();
                    assert!(left.is_empty(), "{} has its name, and {left:?} is not durable", path.display());
                }
                dirty.insert(path.parent().unwrap().to_owned());
            }
            _ => {}
        }
    }
}

#[test]
fn an_entry_is_durable_when_it_has_its_name_and_a_fork_of_it_when_it_is_seen() {
    let world = World::new();
    world.make_instance("a");
    let id = world.open().take("a").unwrap();
    let gate = Arc::new(Durability { vms: world.vms.clone(), dirty: Mutex::default(), names: AtomicU64::new(0) });
    let (_worker, open) = start(&world, READY_3, Fs::gated(Arc::clone(&gate) as _)).unwrap();
    fill(&open);
    for name in ["b", "c"] {
        assert_eq!(open.fork(&id, name).unwrap().state, RequestState::Done);
    }
    assert_eq!(gate.names.load(Ordering::SeqCst), 5, "three entries and two forks");
}
