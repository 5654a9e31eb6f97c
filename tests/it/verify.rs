//! `verify` finds each kind of damage by its name, and nothing in a sound store.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::{World, instance};
use snapkeep::ids::SnapshotId;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
use snapkeep::store::layout::Layout;
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A sound store with a snapshot, two forks of it, a snapshot of one of them, and things that were removed.
fn sound() -> (World, SnapshotId) {
    let world = World::new();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    for name in ["b", "c", "gone"] {
        open.fork(&id, name).unwrap();
    }
    let child = open.take("b").unwrap();
    open.fork(&child, "d").unwrap();
    open.forks.unfork(&instance("gone")).unwrap();
    let removed = open.take("a").unwrap();
    open.remove(&removed).unwrap();
    open.reclaim.sweep(Duration::from_secs(60), Duration::ZERO).unwrap();
    (world, id)
}

fn names(world: &World) -> Vec<String> {
    let found = verify(&Fs::real(), &Layout::new(&world.store, &world.vms), &HashSet::new(), Flow::quiet());
    found.findings.into_iter().map(|f| f.name).collect()
}

fn scribble(path: &Path, offset: u64) {
    let meta = fs::metadata(path).unwrap();
    let (mode, time) = (meta.permissions(), meta.modified().unwrap());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"x", offset).unwrap();
    file.set_modified(time).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

#[test]
fn a_sound_store_has_nothing_to_find_and_everything_was_looked_at() {
    let (world, _) = sound();
    let found = verify(&Fs::real(), &Layout::new(&world.store, &world.vms), &HashSet::new(), Flow::quiet());
    assert_eq!(found.findings, []);
    assert_eq!((found.snapshots, found.forks), (2, 3));
    assert!(found.bytes > 2 << 20);
}

#[test]
fn each_kind_of_damage_has_its_name() {
    type Damage = fn(&World, &Path, &SnapshotId);
    let kinds: &[(&str, Damage)] = &[
        ("digest.differs", |_, data, _| scribble(&data.join("overlay.raw"), 99)),
        ("memory.writable", |_, data, _| fs::set_permissions(data.join("memory"), fs::Permissions::from_mode(0o644)).unwrap()),
        ("mode.differs", |_, data, _| fs::set_permissions(data.join("overlay.raw"), fs::Permissions::from_mode(0o400)).unwrap()),
        ("file.missing", |_, data, _| fs::remove_file(data.join("config.json")).unwrap()),
        ("file.extra", |_, data, _| fs::write(data.join("x"), "x").unwrap()),
        ("link.differs", |_, data, _| {
            fs::remove_file(data.join("disk")).unwrap();
            std::os::unix::fs::symlink("/elsewhere", data.join("disk")).unwrap();
        }),
        ("manifest.unreadable", |_, data, _| fs::write(data.with_file_name("manifest.json"), "{").unwrap()),
        ("fork.without_ref", |world, _, id| {
            let refs = world.store.join("refs").join(id.as_str());
            fs::remove_file(fs::read_dir(refs).unwrap().next().unwrap().unwrap().path()).unwrap();
        }),
        ("ref.dangling", |world, _, id| {
            let name = world.store.join("refs").join(id.as_str()).join("faaaaaaaaaaaaaaaa");
            std::os::unix::fs::symlink("/nowhere/at/all", name).unwrap();
        }),
        ("ref.unreadable", |world, _, id| {
            fs::write(world.store.join("refs").join(id.as_str()).join("faaaaaaaaaaaaaaaa"), "").unwrap();
        }),
        ("staging.stray", |world, _, _| fs::create_dir(world.store.join("staging/x")).unwrap()),
        ("name.strange", |world, _, _| fs::create_dir(world.store.join("snapshots/x")).unwrap()),
        ("links.unknown", |world, data, _| fs::hard_link(data.join("memory"), world.vms.join("copy")).unwrap()),
        ("file.shared", |world, data, _| {
            let disk: PathBuf = world.vms.join("b/overlay.raw");
            fs::remove_file(&disk).unwrap();
            fs::hard_link(data.join("overlay.raw"), disk).unwrap();
        }),
        ("fork.unreadable", |world, _, _| fs::write(world.vms.join("d/.snapkeep/fork.json"), "{").unwrap()),
        ("root.unproven", |world, _, _| fs::remove_file(world.vms.join(".snapkeep/root")).unwrap()),
    ];
    for (name, damage) in kinds {
        let (world, id) = sound();
        damage(&world, &world.store.join("snapshots").join(id.as_str()).join("data"), &id);
        let found = names(&world);
        assert!(found.contains(&(*name).to_owned()), "{name}: {found:?}");
        // What the damage makes look odd elsewhere may be found too, but not much.
        assert!(found.len() <= 3, "{name}: {found:?}");
    }
}

#[test]
fn a_changed_memory_file_is_found_in_every_snapshot_that_links_it() {
    let (world, id) = sound();
    scribble(&world.store.join("snapshots").join(id.as_str()).join("data/memory"), 70_000);
    assert_eq!(names(&world), ["digest.differs", "digest.differs"]);
}
