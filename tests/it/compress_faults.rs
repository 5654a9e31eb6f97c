//! Every call of compressing, of unpacking for forks and of dropping the raw copy goes wrong in every way, and the process
//! dies at each: one good form is there at every moment, and forks are right or an error.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::compress::{forms, pack};
use crate::faults::sweep_all;
use crate::support::sweep::{Live, Row, Scene, Told};
use snapkeep::store::fs::Fs;
use std::fs;
use std::time::Duration;

const ROWS: &[Row] = &[
    Row { name: "compress", prepare: nothing, act: compress, check: compressed, from_start: false, keeps_source: true },
    Row { name: "unpack", prepare: packed, act: fork, check: forked, from_start: false, keeps_source: true },
    Row { name: "drop", prepare: cached, act: drop_raw, check: dropped, from_start: false, keeps_source: true },
    Row { name: "remove packed", prepare: cached, act: remove, check: removed, from_start: false, keeps_source: true },
    Row { name: "start packed", prepare: half_packed, act: nothing_more, check: compressed, from_start: true, keeps_source: true },
];

fn nothing(_: &Scene) {}

fn nothing_more(_: &Scene, _: &Live) -> Result<(), String> {
    Ok(())
}

fn compress(scene: &Scene, live: &Live) -> Result<(), String> {
    if live.store.packed(&scene.spare).is_some() {
        return Ok(());
    }
    pack(live, &scene.spare).map(drop).map_err(|e| e.to_string())
}

/// One form counts, and it is whole.
fn compressed(scene: &Scene, live: &Live, told: Told) {
    let Ok(known) = live.store.known(&scene.spare) else { panic!("{} is lost", scene.spare) };
    let (raw, is_packed) = forms(live, &scene.spare);
    match known.packed() {
        Some(compression) => {
            let dir = live.store.layout.snapshot(&scene.spare).join("packed");
            for file in compression.packed().unwrap() {
                assert_eq!(fs::metadata(dir.join(&file.name)).unwrap().len(), file.bytes);
            }
        }
        None => assert!(raw, "raw {raw}, packed {is_packed}"),
    }
    let _ = told;
}

fn packed(scene: &Scene) {
    let live = scene.start(Fs::real()).unwrap();
    pack(&live, &scene.spare).unwrap();
}

fn cached(scene: &Scene) {
    let live = scene.start(Fs::real()).unwrap();
    pack(&live, &scene.spare).unwrap();
    live.fork(&scene.spare, "of-spare").unwrap();
    fs::remove_dir_all(scene.world.vms.join("of-spare")).unwrap();
    live.forks.reconcile().unwrap();
}

/// As after a death between the mark and the end: both forms are there, and something in staging.
fn half_packed(scene: &Scene) {
    let live = scene.start(Fs::real()).unwrap();
    let raw = live.store.layout.snapshot(&scene.spare).join("data/memory");
    let (bytes, time) = (fs::read(&raw).unwrap(), fs::metadata(&raw).unwrap().modified().unwrap());
    pack(&live, &scene.spare).unwrap();
    fs::write(&raw, bytes).unwrap();
    fs::File::options().write(true).open(&raw).unwrap().set_modified(time).unwrap();
    fs::set_permissions(&raw, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    fs::create_dir_all(live.store.layout.staged_packing(&scene.spare).join("packed")).unwrap();
}

fn fork(scene: &Scene, live: &Live) -> Result<(), String> {
    scene.accept(live, &scene.spare, &["b", "c"])?;
    scene.build(live)
}

fn forked(scene: &Scene, live: &Live, told: Told) {
    compressed(scene, live, told);
    for name in ["b", "c"] {
        let is_there = scene.world.vms.join(name).exists();
        assert!(is_there || told != Told::Done);
    }
    let waiting = live.forks.waiting_for(&scene.spare).len();
    assert!(live.ref_count(&scene.spare) >= waiting);
}

fn drop_raw(scene: &Scene, live: &Live) -> Result<(), String> {
    let guard = live.store.lock_snapshot(&scene.spare);
    match live.store.drop_cached(&guard) {
        Ok(true) => Ok(()),
        Ok(false) => Err("in use".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn dropped(scene: &Scene, live: &Live, told: Told) {
    compressed(scene, live, told);
    assert!(told != Told::Done || live.store.cached(|_| false).is_empty());
}

fn remove(scene: &Scene, live: &Live) -> Result<(), String> {
    if live.store.known(&scene.spare).is_ok() {
        live.remove(&scene.spare).map_err(|e| e.to_string())?;
    }
    live.reclaim.sweep(Duration::ZERO, Duration::ZERO).map(drop).map_err(|e| e.to_string())
}

fn removed(scene: &Scene, live: &Live, told: Told) {
    let is_there = live.store.known(&scene.spare).is_ok();
    assert_eq!(live.store.manifest(&scene.spare).is_ok(), is_there);
    assert!(told != Told::Done || !is_there);
    if is_there {
        compressed(scene, live, told);
    }
}

#[test]
fn whatever_call_fails_while_memory_is_packed_or_unpacked_one_good_form_is_there() {
    sweep_all(ROWS);
}
