//! Power cuts between any two calls of a removal and of what unlinks behind it, as `powercut_steps.rs` makes them: what is removed
//! stays removed, and what can be brought back is whole.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::powercut_steps::{Cuts, Neighbour, sync, world};
use crate::support::World;
use crate::support::mounts::{Kind, clonable};
use snapkeep::ids::SnapshotId;
use snapkeep::reclaim::ReclaimError;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// Three snapshots of one instance: two lie in the trash, and are unlinked; then the third is removed, and unlinked too.
struct Told {
    ids: Vec<SnapshotId>,
    /// From this cut on the third was removed.
    removed: u64,
}

fn removals(world: &World, gate: &Arc<Cuts>) -> Told {
    let open = world.try_open(Fs::gated(Arc::clone(gate) as _)).unwrap();
    open.recover().unwrap();
    let ids: Vec<SnapshotId> = (0..3).map(|_| open.take("golden").unwrap()).collect();
    ids.iter().take(2).for_each(|id| open.remove(id).unwrap());
    sync(&world.vms);
    gate.arm(true);
    assert_eq!(open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap().unlinked, 2);
    open.remove(ids.last().unwrap()).unwrap();
    let removed = gate.count();
    assert_eq!(open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap().unlinked, 1);
    gate.arm(false);
    gate.cut();
    Told { ids, removed }
}

fn check(world: &World, told: &Told, cut: u64) {
    let third = world.store.join("snapshots").join(told.ids.last().unwrap().as_str());
    assert!(cut < told.removed || !third.exists(), "cut {cut}: what was removed is back");
    let open = world.open();
    let mut back = 0;
    for id in &told.ids {
        match open.reclaim.undelete_snapshot(id) {
            Ok(()) => back += 1,
            Err(ReclaimError::NotInTrash(_)) => {}
            Err(e) => panic!("cut {cut}: {id}: {e}"),
        }
        let data = world.store.join("snapshots").join(id.as_str()).join("data");
        for file in ["memory", "overlay.raw", "config.json"].into_iter().filter(|_| data.exists()) {
            let (is, was) = (fs::read(data.join(file)).ok(), fs::read(world.vms.join("golden").join(file)).unwrap());
            assert!(is.is_some_and(|is| is == was), "cut {cut}: {file} of {id}, which can be brought back");
        }
    }
    let findings = verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings;
    assert!(findings.is_empty(), "cut {cut}: {findings:#?}");
    open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    let left: Vec<_> = fs::read_dir(world.store.join("trash")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "cut {cut}: {left:?}, {back} brought back");
}

fn power_cuts(kind: Kind) {
    let is_full = std::env::var_os("FULL").is_some();
    for neighbour in Neighbour::OF_REMOVALS.into_iter().filter(|neighbour| is_full || *neighbour != Neighbour::Everything) {
        let Some(mut disk) = clonable(kind) else { return };
        let (world, gate) = world(&disk, neighbour);
        let told = removals(&world, &gate);
        for cut in 0..gate.count() {
            disk.as_of(&gate.clone_of(cut)).unwrap();
            check(&world, &told, cut);
        }
        println!("{kind}, {:?}, beside who syncs {neighbour:?}: {} cuts", gate.commits, gate.count());
    }
}

#[test]
fn a_power_cut_on_ext4_between_any_two_calls_of_a_removal_leaves_nothing_half_gone_that_can_be_brought_back() {
    power_cuts(Kind::Ext4);
}

#[test]
fn a_power_cut_on_xfs_between_any_two_calls_of_a_removal_leaves_nothing_half_gone_that_can_be_brought_back() {
    power_cuts(Kind::Xfs);
}

#[test]
fn a_power_cut_on_btrfs_between_any_two_calls_of_a_removal_leaves_nothing_half_gone_that_can_be_brought_back() {
    power_cuts(Kind::Btrfs);
}
