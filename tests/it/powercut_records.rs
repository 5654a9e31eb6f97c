//! Power cuts between any two calls in which many records are replaced together, as `powercut_steps.rs` makes them: each is there as it was
//! or as it is to be, and those whose writer was told so are as they are to be.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::powercut_steps::{Neighbour, sync, world};
use crate::support::mounts::{Kind, clonable};
use snapkeep::store::fs::Fs;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More than btrfs syncs one by one.
const COUNT: usize = 12;

/// The others are new.
fn was_there(n: usize) -> bool {
    n % 2 == 1
}

/// What a record says: some of it so little that btrfs has it in its tree.
fn text(n: usize, byte: u8) -> Vec<u8> {
    vec![byte; 100 + n * 800]
}

fn check(dir: &Path, cut: u64, are_told: bool) {
    for n in 0..COUNT {
        let found = fs::read(dir.join(n.to_string())).ok();
        let (was, is) = (was_there(n).then(|| text(n, b'o')), Some(text(n, b'n')));
        let size = found.as_ref().map(Vec::len);
        assert!(found == is || (found == was && !are_told), "cut {cut}: record {n} has {size:?} bytes, neither old nor new");
    }
}

fn power_cuts(kind: Kind) {
    // With an empty trash the ledger's neighbour is one who syncs the records' directory.
    for neighbour in [Neighbour::Nothing, Neighbour::Ledger, Neighbour::Other, Neighbour::Everything] {
        let Some(mut disk) = clonable(kind) else { return };
        let (world, gate) = world(&disk, neighbour);
        drop(world.open());
        let dir = world.store.join("ledger");
        let paths: Vec<PathBuf> = (0..COUNT).map(|n| dir.join(n.to_string())).collect();
        (0..COUNT).filter(|n| was_there(*n)).for_each(|n| fs::write(dir.join(n.to_string()), text(n, b'o')).unwrap());
        sync(&dir);
        let texts: Vec<_> = (0..COUNT).map(|n| text(n, b'n')).collect();
        let records: Vec<_> = paths.iter().map(PathBuf::as_path).zip(texts.iter().map(Vec::as_slice)).collect();
        gate.arm(true);
        assert!(Fs::gated(Arc::clone(&gate) as _).replace_records(&records).iter().all(Result::is_ok));
        gate.arm(false);
        gate.cut();
        for cut in 0..gate.count() {
            disk.as_of(&gate.clone_of(cut)).unwrap();
            check(&dir, cut, cut + 1 == gate.count());
        }
        println!("{kind}, {:?}, beside who syncs {neighbour:?}: {} cuts", gate.commits, gate.count());
    }
}

#[test]
fn a_power_cut_on_ext4_between_any_two_calls_for_many_records_leaves_each_old_or_new() {
    power_cuts(Kind::Ext4);
}

#[test]
fn a_power_cut_on_xfs_between_any_two_calls_for_many_records_leaves_each_old_or_new() {
    power_cuts(Kind::Xfs);
}

#[test]
fn a_power_cut_on_btrfs_between_any_two_calls_for_many_records_leaves_each_old_or_new() {
    power_cuts(Kind::Btrfs);
}
