//! Removing many snapshots: the cut that users wait for, the unlinking behind it, and what a fork feels of it.
//!
//! `cargo bench --bench prune -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty]` makes its own file systems on
//! loop devices (root).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    unsafe_code,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

mod frame;
#[path = "../tests/it/support/mod.rs"]
mod support;

use frame::{Options, Round, What, median};
use snapkeep::ids::{PolicyName, SnapshotId, SnapshotName};
use snapkeep::reclaim::{Removal, SweepRules};
use snapkeep::store::fs::Pace;
use snapkeep::store::manifest::{Node, seal};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Open, World, fixture};

const MANY: usize = 10_000;
const SIZE: u64 = 24 << 30;
const MIB: u64 = 1 << 20;

/// Everything that this policy took goes, but for the newest.
const POLICY: &str = "[trash]\ngrace = \"1h\"\n[scrub]\nenabled = false\n[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n\
    [policy.keep]\nlast = 1\n";

fn main() {
    let options = Options::parse();
    let what = |what, against, unit, wanted| What { what, against, unit, wanted, size: SIZE };
    options.measure(what("the cut of 10,000", "10,000 renames, one sync", "ms", Some(2.0)), |round| (cut(round), renames(round)));
    options.measure(what("a whole prune that cuts 10,000", "10,000 renames, one sync", "ms", None), |round| (prune(round), renames(round)));
    options.measure(what("unlinking 10,000 behind the cut", "rm -rf", "ms", Some(1.1)), |round| {
        (unlink(round), peer(round, &["rm", "-rf"], &[]))
    });
    options.measure(what("unlinking 10,000 behind the cut", "find -delete", "ms", Some(1.1)), |round| {
        (unlink(round), peer(round, &["find"], &["-delete"]))
    });
    options.measure(what("a fork while 10 GiB are unlinked, median", "alone", "ms", Some(2.0)), forks_beside);
}

/// A world with `n` snapshots that the policy `p` took of `a`, one a minute: whole and valid, as `take` makes them, but
/// written without a sync for each.
fn filled(at: &Path, n: usize) -> World {
    let world = World::at(at);
    let a = world.vms.join("a");
    fs::create_dir(&a).unwrap();
    for file in ["memory", "overlay.raw", "config.json", "metadata.json"] {
        fs::write(a.join(file), [7; 4096]).unwrap();
    }
    let template = {
        let open = world.open();
        let id = open.take("a").unwrap();
        open.store.manifest(&id).unwrap()
    };
    let first = template.created_at - chrono::TimeDelta::minutes(n as i64 + 1);
    for seq in 1..=n {
        let at = first + chrono::TimeDelta::minutes(seq as i64);
        let mut manifest = template.clone();
        manifest.id = SnapshotId::generate(at);
        manifest.seq = template.seq + seq as u64;
        manifest.name = SnapshotName::parse(&format!("n{seq}")).unwrap();
        manifest.policy = Some(PolicyName::parse("p").unwrap());
        (manifest.created_at, manifest.order_at, manifest.slot) = (at, at, Some(at));
        let dir = world.store.join("snapshots").join(manifest.id.as_str());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("manifest.json"), seal(&manifest).unwrap()).unwrap();
        for entry in &manifest.entries {
            let path = dir.join("data").join(entry.path.as_path());
            match &entry.node {
                Node::Dir => fs::create_dir(path).unwrap(),
                _ => fs::write(path, [7; 4096]).unwrap(),
            }
        }
    }
    world
}

/// The snapshots of the policy.
fn removals(open: &Open) -> Vec<Removal> {
    let index = open.store.index();
    let of_policy = index.present().filter(|(_, known)| known.summary.as_ref().is_some_and(|s| s.policy.is_some()));
    of_policy.map(|(id, _)| Removal { id: id.clone(), reasons: vec!["last".to_owned()] }).collect()
}

fn cut(round: &Round<'_>) -> f64 {
    let world = filled(&round.path.join("ours"), MANY);
    let open = world.open();
    let removals = removals(&open);
    let (answers, took) = round.time(|| open.reclaim.remove_all(&removals, Duration::from_secs(3600)));
    assert!(answers.len() == MANY && answers.iter().all(Result::is_ok));
    took.as_secs_f64() * 1e3
}

fn prune(round: &Round<'_>) -> f64 {
    let world = filled(&round.path.join("ours"), MANY);
    let worker = world.worker(POLICY);
    let (report, took) = round.time(|| worker.prune_pass().unwrap());
    assert_eq!(report.removed.len(), MANY - 1);
    took.as_secs_f64() * 1e3
}

/// The same trees, from one directory into another, and both synced once.
fn renames(round: &Round<'_>) -> f64 {
    let world = filled(&round.path.join("floor"), MANY);
    let (snapshots, trash) = (world.store.join("snapshots"), world.store.join("trash"));
    let names: Vec<PathBuf> = fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().path()).collect();
    let ((), took) = round.time(|| {
        for from in &names {
            fs::rename(from, trash.join(from.file_name().unwrap())).unwrap();
        }
        [&trash, &snapshots].iter().for_each(|dir| File::open(dir).unwrap().sync_all().unwrap());
    });
    took.as_secs_f64() * 1e3
}

fn unlink(round: &Round<'_>) -> f64 {
    let world = filled(&round.path.join("ours"), MANY);
    let open = world.open();
    assert!(open.reclaim.remove_all(&removals(&open), Duration::ZERO).iter().all(Result::is_ok));
    let (swept, took) = round.time(|| {
        // As with `unlink_rate = 0`.
        let threads = if open.store.fs.unlinks_side_by_side(round.path) { 2 } else { 1 };
        let swept = open.reclaim.sweep_by(&SweepRules { threads, ..SweepRules::default() }).unwrap();
        syncfs(round.path);
        swept
    });
    assert_eq!(swept.unlinked, MANY as u64);
    took.as_secs_f64() * 1e3
}

/// What a user would do instead, with the same trees.
fn peer(round: &Round<'_>, before: &[&str], after: &[&str]) -> f64 {
    let world = filled(&round.path.join("theirs"), MANY);
    let snapshots = world.store.join("snapshots");
    let ((), took) = round.time(|| {
        assert!(Command::new(before[0]).args(&before[1..]).arg(&snapshots).args(after).status().unwrap().success());
        syncfs(round.path);
    });
    took.as_secs_f64() * 1e3
}

fn syncfs(path: &Path) {
    nix::unistd::syncfs(File::open(path).unwrap()).unwrap();
}

/// Ten gigabytes in runs of 4 MiB: a memory file of eight and a disk of two.
fn big(dir: &Path) {
    use std::os::fd::AsRawFd as _;
    fs::create_dir_all(dir).unwrap();
    for (name, gib) in [("memory", 8), ("overlay.raw", 2)] {
        let file = File::create(dir.join(name)).unwrap();
        for run in 0..gib * 256 {
            let rc = unsafe { libc::fallocate(file.as_raw_fd(), 0, run * 8 * MIB as i64, 4 * MIB as i64) };
            assert_eq!(rc, 0);
        }
    }
    syncfs(dir);
}

/// Durable forks one after the other: their median alone, and while 10 GiB are unlinked as the worker does it.
fn forks_beside(round: &Round<'_>) -> (f64, f64) {
    let world = World::at(&round.path.join("world"));
    fixture::make(&world.vms.join("golden"), 64).unwrap();
    fs::create_dir(world.vms.join("a")).unwrap();
    fs::write(world.vms.join("a/memory"), "memory").unwrap();
    let open = world.open();
    let golden = open.take("golden").unwrap();
    open.fork(&golden, "warm").unwrap();
    let large = open.take("a").unwrap();
    big(&open.store.layout.snapshot(&large).join("data/big"));
    let one = |name: String| {
        let began = Instant::now();
        open.fork(&golden, &name).unwrap();
        began.elapsed().as_secs_f64() * 1e3
    };
    let (alone, _) = round.time(|| median((0..60).map(|n| one(format!("alone-{n}")))));
    open.reclaim.remove_all(&[Removal { id: large, reasons: Vec::new() }], Duration::ZERO).pop().unwrap().unwrap();
    // The defaults of [trash].
    let pace = Pace { rest: Duration::from_micros(500), bytes: Some(4 << 30), stop: Arc::new(AtomicBool::new(false)) };
    let swept = AtomicBool::new(false);
    let (beside, _) = round.time(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let began = Instant::now();
                let rules = SweepRules { pace: Some(pace), ..SweepRules::default() };
                assert_eq!(open.reclaim.sweep_by(&rules).unwrap().unlinked, 1);
                eprintln!("    {} 10 GiB in {:.0} ms", round.kind, began.elapsed().as_secs_f64() * 1e3);
                swept.store(true, Ordering::SeqCst);
            });
            let mut all = Vec::new();
            while !swept.load(Ordering::SeqCst) {
                all.push(one(format!("beside-{}", all.len())));
            }
            eprintln!("    {} forks meanwhile, the slowest {:.1} ms", all.len(), all.iter().copied().fold(0.0, f64::max));
            median(all.into_iter())
        })
    });
    (beside, alone)
}
