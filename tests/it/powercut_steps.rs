//! Power cuts between any two calls of a fork: before each call that changes something, and behind the last one, the disk
//! is cloned as it is then. Of each clone, mounted anew: what was acknowledged is there, and no name is there without what is
//! behind it, not even before a start has looked. Somebody else may have synced something of it just before.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::mounts::{Clonable, Kind, clonable, clone_disk};
use crate::support::{NEVER, Open, World, ask};
use nix::errno::Errno;
use snapkeep::config::{PoolConfig, Prefork};
use snapkeep::fork::pool::Turn;
use snapkeep::fork::queue::Ask;
use snapkeep::ids::SnapshotId;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::{Commits, Fs, Gate, Op};
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What somebody else makes durable right before each cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    Nothing,
    /// The directory in which forks appear.
    Root,
    Journal,
    /// What was removed.
    Trash,
    /// The directory in which snapshots appear.
    Snapshots,
    /// Where snapshots and forks are built or lie ready, and then a file that has nothing to do with them.
    Staging,
    /// Such a file alone.
    Other,
    /// Everything while something in the trash is half gone, and then the directory with the record of that.
    Ledger,
    Everything,
}

impl Neighbour {
    const OF_FORKS: [Self; 6] = [Self::Nothing, Self::Root, Self::Journal, Self::Staging, Self::Other, Self::Everything];
    pub(crate) const OF_SNAPSHOTS: [Self; 5] = [Self::Nothing, Self::Snapshots, Self::Staging, Self::Other, Self::Everything];
    pub(crate) const OF_REMOVALS: [Self; 4] = [Self::Nothing, Self::Trash, Self::Ledger, Self::Everything];

    /// On btrfs a sync of the journal by somebody else, in the moment between its write and the commit, would have `publishing` without
    /// the rename. The journal is its owner's alone, and nobody but the worker has a reason to sync it.
    fn can_be(self, commits: Commits) -> bool {
        self != Self::Journal || commits != Commits::Whole
    }

    fn sync(self, mounted: &Path) {
        let open = |name: &str| fs::File::open(mounted.join(name)).unwrap();
        match self {
            Self::Nothing => {}
            Self::Root => open("vms").sync_all().unwrap(),
            Self::Journal => open("store/queue/journal").sync_all().unwrap(),
            Self::Trash => open("store/trash").sync_all().unwrap(),
            Self::Snapshots => open("store/snapshots").sync_all().unwrap(),
            Self::Staging => {
                let pool = mounted.join("vms/.snapkeep/pool");
                let shelves = fs::read_dir(&pool).into_iter().flatten().map(|entry| entry.unwrap().path());
                let built_in = shelves.chain([pool.clone(), mounted.join("store/staging"), mounted.join("vms/.snapkeep/staging")]);
                built_in.filter(|dir| dir.exists()).for_each(|dir| fs::File::open(dir).unwrap().sync_all().unwrap());
                Self::Other.sync(mounted);
            }
            Self::Other => {
                fs::write(mounted.join("other"), "new").unwrap();
                open("other").sync_all().unwrap();
            }
            Self::Ledger if !is_half_gone(&mounted.join("store/trash")) => open("store/ledger").sync_all().unwrap(),
            Self::Ledger | Self::Everything => nix::unistd::syncfs(open("")).unwrap(),
        }
    }
}

fn is_half_gone(trash: &Path) -> bool {
    let mut entries = fs::read_dir(trash).unwrap().map(|entry| entry.unwrap().path());
    entries.any(|entry| !entry.join("manifest.json").exists() || !entry.join("data/overlay.raw").exists())
}

/// Clones the disk before each call.
#[derive(Debug)]
pub(crate) struct Cuts {
    mounted: PathBuf,
    neighbour: Neighbour,
    disk: PathBuf,
    pub(crate) commits: Commits,
    is_armed: AtomicBool,
    cuts: AtomicU64,
}

impl Cuts {
    pub(crate) fn arm(&self, armed: bool) {
        self.is_armed.store(armed, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self) {
        self.neighbour.sync(&self.mounted);
        let n = self.cuts.fetch_add(1, Ordering::SeqCst);
        clone_disk(&self.disk, &self.clone_of(n));
    }

    pub(crate) fn clone_of(&self, n: u64) -> PathBuf {
        self.disk.with_file_name(format!("cut-{n}"))
    }

    pub(crate) fn count(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Gate for Cuts {
    fn commits(&self) -> Commits {
        self.commits
    }

    fn before(&self, _op: Op, _path: &Path) -> Result<(), Errno> {
        if self.is_armed.load(Ordering::SeqCst) {
            self.cut();
        }
        Ok(())
    }
}

fn with_pool(open: &Open) {
    let rule = Prefork { policy: None, instances: None, exclude: globset::GlobSet::empty(), tags: Default::default(), newest: 1, ready: 3 };
    open.forks.configure_pool(PoolConfig { rules: vec![rule], ..PoolConfig::default() });
    while open.forks.tend_pool(&NEVER) == Turn::Done {}
    assert_eq!(open.forks.pool().counts().ready, 3);
}

/// What two forks that are asked for together have to say at the cuts.
struct Told {
    id: SnapshotId,
    /// From this cut on they were accepted.
    accepted: u64,
    /// From this one on they were made.
    made: u64,
}

/// Whose forks they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// Of the source, for somebody who is told that they are accepted.
    OnDemand,
    /// The same, out of the pool.
    Pooled,
    /// Out of the pool, for somebody who is told nothing before they are made.
    Waiting,
}

impl Asker {
    const ALL: [Self; 3] = [Self::Pooled, Self::Waiting, Self::OnDemand];
}

/// Accepts and makes `b` and `c`, with a cut before each call.
fn forks(world: &World, gate: &Arc<Cuts>, asker: Asker) -> Told {
    let open = world.try_open(Fs::gated(Arc::clone(gate) as _)).unwrap();
    open.recover().unwrap();
    let id = open.take("golden").unwrap();
    // The first one makes what all have in common.
    open.fork(&id, "first").unwrap();
    if asker != Asker::OnDemand {
        with_pool(&open);
    }
    sync(&world.vms);
    gate.arm(true);
    let asks = ["b", "c"].map(|name| Ask { waits: asker == Asker::Waiting, ..ask(&id, name) });
    assert!(open.forks.accept(asks.to_vec()).iter().all(Result::is_ok));
    let asked = gate.count();
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 2);
    gate.arm(false);
    let made = gate.count();
    gate.cut();
    Told { id, accepted: if asker == Asker::Waiting { made } else { asked }, made }
}

pub(crate) fn sync(path: &Path) {
    assert!(std::process::Command::new("sync").arg("-f").arg(path).status().unwrap().success());
}

/// What is not as a fork should have it.
fn wrong(world: &World, name: &str) -> Vec<&'static str> {
    let (fork, golden) = (world.vms.join(name), world.vms.join("golden"));
    let same = |file: &str| fs::read(fork.join(file)).is_ok_and(|bytes| bytes == fs::read(golden.join(file)).unwrap());
    let has = |file: &str, text: &str| fs::read_to_string(fork.join(file)).is_ok_and(|found| found.contains(text));
    let mut wrong = Vec::new();
    wrong.extend(["memory", "overlay.raw"].into_iter().filter(|file| !same(file)));
    wrong.extend((!has("config.json", &format!("{}/overlay.raw", fork.display()))).then_some("config.json"));
    wrong.extend((!has(".snapkeep/fork.json", "fork_of_snapshot")).then_some("fork.json"));
    wrong.extend((!fs::read_link(fork.join("disk")).is_ok_and(|link| link == fork.join("overlay.raw"))).then_some("disk"));
    wrong
}

fn check(world: &World, told: &Told, cut: u64) {
    for name in ["b", "c"] {
        let is_there = world.vms.join(name).exists();
        let wrong = wrong(world, name);
        assert!(!is_there || wrong.is_empty(), "cut {cut}: {name} is there, and not whole: {wrong:?}");
        assert!(is_there || cut < told.made, "cut {cut}: {name} was made");
    }
    let open = world.try_open(Fs::real()).unwrap();
    open.recover().unwrap();
    open.forks.run_ready(&NEVER, &NEVER).unwrap();
    let made: Vec<_> = ["b", "c"].into_iter().filter(|name| world.vms.join(name).exists()).collect();
    assert!(made.len() == 2 || cut < told.accepted, "cut {cut}: two were accepted, and {made:?} made");
    for name in &made {
        assert_eq!(wrong(world, name), [""; 0], "cut {cut}: {name} behind a start");
    }
    open.forks.reconcile().unwrap();
    assert_eq!(open.ref_count(&told.id), 1 + made.len(), "cut {cut}");
    let findings = verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings;
    assert!(findings.is_empty(), "cut {cut}: {findings:#?}");
}

fn power_cuts(kind: Kind) {
    let is_full = std::env::var_os("FULL").is_some();
    let all = Neighbour::OF_FORKS.into_iter().flat_map(|neighbour| Asker::ALL.map(|asker| (neighbour, asker)));
    let is_short =
        |neighbour: Neighbour, asker: Asker| matches!(neighbour, Neighbour::Nothing | Neighbour::Staging) || asker == Asker::Waiting;
    for (neighbour, asker) in all.filter(|(neighbour, asker)| is_full || is_short(*neighbour, *asker)) {
        let Some(mut disk) = clonable(kind) else { return };
        let (world, gate) = world(&disk, neighbour);
        if !neighbour.can_be(gate.commits) {
            continue;
        }
        let told = forks(&world, &gate, asker);
        assert!(told.accepted < told.made || asker == Asker::Waiting);
        for cut in 0..gate.count() {
            disk.as_of(&gate.clone_of(cut)).unwrap();
            check(&world, &told, cut);
        }
        println!(
            "{kind}, {:?}, {asker:?}, beside who syncs {neighbour:?}: {} cuts, {} behind the acceptance",
            gate.commits,
            gate.count(),
            gate.count() - told.accepted
        );
    }
}

pub(crate) fn world(disk: &Clonable, neighbour: Neighbour) -> (World, Arc<Cuts>) {
    let mounted = disk.mounted.path.clone();
    let world = World::at(&mounted);
    world.make_instance("golden");
    let real = Fs::real();
    let commits = real.commits(&real.open_dir(&world.vms).unwrap());
    let gate = Cuts { mounted, neighbour, disk: disk.disk(), commits, is_armed: AtomicBool::new(false), cuts: AtomicU64::new(0) };
    (world, Arc::new(gate))
}

#[test]
fn a_power_cut_on_ext4_between_any_two_calls_of_a_fork_leaves_no_name_without_what_is_behind_it() {
    power_cuts(Kind::Ext4);
}

#[test]
fn a_power_cut_on_xfs_between_any_two_calls_of_a_fork_leaves_no_name_without_what_is_behind_it() {
    power_cuts(Kind::Xfs);
}

#[test]
fn a_power_cut_on_btrfs_between_any_two_calls_of_a_fork_leaves_no_name_without_what_is_behind_it() {
    power_cuts(Kind::Btrfs);
}
