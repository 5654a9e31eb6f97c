//! A disk that begins to fail under snapshots that are taken at the same time: when it is well again, every one that was acknowledged
//! is there, and whole.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::World;
use crate::support::mounts::{Kind, failing};
use snapkeep::ids::SnapshotId;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::fs;

const TAKERS: u8 = 8;
const MOST: u8 = 200;

/// How many were taken, each of something new, before the first failure of each taker.
fn takes(kind: Kind, room: u64) -> Option<usize> {
    let mut disk = failing(kind)?;
    let world = World::at(&disk.mounted.path);
    (0..TAKERS).for_each(|n| drop(world.make_instance(&format!("vm-{n}"))));
    let open = world.open();
    open.recover().unwrap();
    nix::unistd::syncfs(fs::File::open(&world.store).unwrap()).unwrap();
    disk.fail_after(room).unwrap();
    let take = |taker: u8| {
        let name = format!("vm-{taker}");
        let overlay = world.vms.join(&name).join("overlay.raw");
        let one = |n: u8| fs::write(&overlay, vec![n; 30_000]).ok().and_then(|()| open.take(&name).ok());
        (0..MOST).map_while(one).collect::<Vec<SnapshotId>>()
    };
    let taken: Vec<SnapshotId> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..TAKERS).map(|taker| scope.spawn(move || take(taker))).collect();
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    drop(open);
    disk.heal().unwrap();
    let open = world.open();
    open.recover().unwrap();
    for id in &taken {
        assert!(open.store.manifest(id).is_ok(), "{kind}, {room} bytes: {id} was taken, one of {}", taken.len());
    }
    let findings = verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings;
    assert!(findings.is_empty(), "{kind}, {room} bytes: {findings:#?}");
    Some(taken.len())
}

fn a_disk_that_fails(kind: Kind) {
    let rounds = if std::env::var_os("FULL").is_some() { 60 } else { 6 };
    let taken: Vec<usize> = (0..rounds).map_while(|n| takes(kind, (2 << 20) + n * 700_000)).collect();
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
