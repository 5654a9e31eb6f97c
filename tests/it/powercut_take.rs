//! Power cuts between any two calls of a snapshot, as `powercut_steps.rs` makes them: no name is there without what is behind it, and
//! a snapshot that was taken is there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::powercut_steps::{Cuts, Neighbour, world};
use crate::support::World;
use crate::support::mounts::{Kind, clonable};
use snapkeep::ids::SnapshotId;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
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

/// Two snapshots of an instance that is written to before each, with a cut before each call.
fn takes(world: &World, gate: &Arc<Cuts>) -> Vec<Taken> {
    let golden = world.vms.join("golden");
    fs::create_dir_all(golden.join("deep/er")).unwrap();
    let open = world.try_open(Fs::gated(Arc::clone(gate) as _)).unwrap();
    open.recover().unwrap();
    let all = [1_u8, 2].map(|n| {
        fs::write(golden.join("overlay.raw"), vec![n; 300_000]).unwrap();
        fs::write(golden.join("deep/er/notes"), vec![n; 5000]).unwrap();
        fs::write(golden.join("deep/er/nothing"), "").unwrap();
        gate.arm(true);
        let id = open.take("golden").unwrap();
        gate.arm(false);
        Taken { id, at: gate.count(), had: contents(&golden) }
    });
    gate.cut();
    all.into()
}

fn check(world: &World, all: &[Taken], cut: u64) {
    for Taken { id, at, had } in all {
        let dir = world.store.join("snapshots").join(id.as_str());
        assert!(dir.exists() || cut < *at, "cut {cut}: {id} was taken");
        let whole = || dir.join("manifest.json").metadata().is_ok_and(|meta| meta.len() > 0) && contents(&dir.join("data")) == *had;
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
