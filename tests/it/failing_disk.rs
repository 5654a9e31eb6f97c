//! A disk that fails under snapshots that are taken at the same time: when it is well again, every one that was acknowledged is there,
//! and whole.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::World;
use crate::support::mounts::{Kind, mounted};
use snapkeep::ids::SnapshotId;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::fs;
use std::time::Duration;

const TAKERS: u8 = 8;

/// How many were taken, each of something new, before the disk failed.
fn takes(kind: Kind, after: Duration) -> Option<usize> {
    let mut disk = mounted(kind, Kind::SMALLEST)?;
    let world = World::at(&disk.path);
    (0..TAKERS).for_each(|n| drop(world.make_instance(&format!("vm-{n}"))));
    let open = world.open();
    open.recover().unwrap();
    let take = |taker: u8| {
        let name = format!("vm-{taker}");
        let overlay = world.vms.join(&name).join("overlay.raw");
        let one = |n: u8| fs::write(&overlay, vec![n; 30_000]).ok().and_then(|()| open.take(&name).ok());
        (0..=u8::MAX).map_while(one).collect::<Vec<SnapshotId>>()
    };
    let taken: Vec<SnapshotId> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..TAKERS).map(|taker| scope.spawn(move || take(taker))).collect();
        std::thread::sleep(after);
        disk.break_disk().unwrap();
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    assert!(taken.len() < usize::from(TAKERS) * 256, "{kind}, {after:?}: the disk failed nobody");
    drop(open);
    disk.again().unwrap();
    let open = world.open();
    open.recover().unwrap();
    for id in &taken {
        assert!(open.store.manifest(id).is_ok(), "{kind}, {after:?}: {id} was taken, one of {}", taken.len());
    }
    let findings = verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings;
    assert!(findings.is_empty(), "{kind}, {after:?}: {findings:#?}");
    Some(taken.len())
}

fn a_disk_that_fails(kind: Kind) {
    let rounds = if std::env::var_os("FULL").is_some() { 60 } else { 6 };
    let taken: Vec<usize> = (0..rounds).map_while(|n| takes(kind, Duration::from_micros(100_000 + n * 7_300))).collect();
    println!("{kind}: taken before it failed: {taken:?}");
    assert!(taken.is_empty() || taken.iter().any(|taken| *taken > 0));
}

#[test]
fn what_was_taken_on_ext4_before_its_disk_failed_is_there_when_it_is_well_again() {
    a_disk_that_fails(Kind::Ext4);
}

#[test]
fn what_was_taken_on_xfs_before_its_disk_failed_is_there_when_it_is_well_again() {
    a_disk_that_fails(Kind::Xfs);
}

#[test]
fn what_was_taken_on_btrfs_before_its_disk_failed_is_there_when_it_is_well_again() {
    a_disk_that_fails(Kind::Btrfs);
}
