//! Power cuts between any two calls of a snapshot, as `powercut_steps.rs` makes them: no name is there without what is behind it, and
//! a snapshot that was taken is there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::powercut_steps::{Cuts, Neighbour, world};
use crate::support::World;
use crate::support::mounts::{Kind, clonable};
use snapkeep::ids::SnapshotId;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::{Commits, Fs};
use snapkeep::store::manifest::Manifest;
use snapkeep::worker::verify::verify;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILES: [&str; 5] = ["memory", "overlay.raw", "config.json", "deep/er/notes", "deep/er/nothing"];

/// A snapshot, and what its instance had then.
struct Taken {
    id: SnapshotId,
    /// From this cut on it was taken.
    at: u64,
    had: BTreeMap<PathBuf, Vec<u8>>,
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    FILES.iter().filter_map(|file| Some((PathBuf::from(file), fs::read(dir.join(file)).ok()?))).collect()
}

/// Two snapshots of an instance that is written to before each, and one of a fork of the second, with a cut before each call.
fn takes(world: &World, gate: &Arc<Cuts>) -> Vec<Taken> {
    let golden = world.vms.join("golden");
    fs::create_dir_all(golden.join("deep/er")).unwrap();
    let open = world.try_open(Fs::gated(Arc::clone(gate) as _)).unwrap();
    open.recover().unwrap();
    let mut all: Vec<Taken> = Vec::new();
    for n in [1_u8, 2] {
        fs::write(golden.join("overlay.raw"), vec![n; 300_000]).unwrap();
        fs::write(golden.join("deep/er/notes"), vec![n; 5000]).unwrap();
        fs::write(golden.join("deep/er/nothing"), "").unwrap();
        gate.arm(true);
        let id = open.take("golden").unwrap();
        gate.arm(false);
        all.push(Taken { id, at: gate.count(), had: contents(&golden) });
    }
    open.fork(&all.last().unwrap().id, "fork").unwrap();
    // Its memory is linked to that of its source.
    gate.arm(true);
    let id = open.take("fork").unwrap();
    gate.arm(false);
    all.push(Taken { id, at: gate.count(), had: contents(&world.vms.join("fork")) });
    gate.cut();
    all
}

fn check(world: &World, all: &[Taken], cut: u64) {
    for Taken { id, at, had } in all {
        let dir = world.store.join("snapshots").join(id.as_str());
        assert!(dir.exists() || cut < *at, "cut {cut}: {id} was taken");
        let manifest = dir.join("manifest.json");
        let is_sealed = || fs::read(&manifest).is_ok_and(|bytes| Manifest::unseal(&manifest, &bytes).is_ok());
        let whole = || is_sealed() && contents(&dir.join("data")) == *had;
        assert!(!dir.exists() || whole(), "cut {cut}: {id} is there, and not whole");
    }
    let open = world.open();
    open.recover().unwrap();
    let there = all.iter().filter(|taken| open.store.manifest(&taken.id).is_ok()).count();
    assert_eq!(fs::read_dir(world.store.join("snapshots")).unwrap().count(), there, "cut {cut}");
    let findings = verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings;
    assert!(findings.is_empty(), "cut {cut}: {findings:#?}");
}

fn power_cuts(kind: Kind) {
    for neighbour in Neighbour::OF_SNAPSHOTS {
        let Some(mut disk) = clonable(kind) else { return };
        let (world, gate) = world(&disk, neighbour);
        assert_eq!(gate.commits, if kind == Kind::Btrfs { Commits::Whole } else { Commits::InOrder });
        let all = takes(&world, &gate);
        for cut in 0..gate.count() {
            disk.as_of(&gate.clone_of(cut)).unwrap();
            check(&world, &all, cut);
        }
        println!("{kind}, {:?}, beside who syncs {neighbour:?}: {} cuts", gate.commits, gate.count());
    }
}

#[test]
fn a_power_cut_on_ext4_between_any_two_calls_of_a_snapshot_leaves_no_name_without_what_is_behind_it() {
    power_cuts(Kind::Ext4);
}

#[test]
fn a_power_cut_on_xfs_between_any_two_calls_of_a_snapshot_leaves_no_name_without_what_is_behind_it() {
    power_cuts(Kind::Xfs);
}

#[test]
fn a_power_cut_on_btrfs_between_any_two_calls_of_a_snapshot_leaves_no_name_without_what_is_behind_it() {
    power_cuts(Kind::Btrfs);
}
