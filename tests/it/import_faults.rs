//! Every write-like call of an import goes wrong in every way, and it is stopped before every one of them: each directory is
//! then whole where it was, or whole in the store, and the next import or start goes on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::faults::sweep_all;
use crate::support::faulty::DeadFrom;
use crate::support::sweep::{Live, Row, Scene, Told};
use crate::support::{instance, listing, write_sparse};
use snapkeep::ids::SnapshotId;
use snapkeep::store::fs::{Fs, Op};
use snapkeep::worker::backend::Backend;
use snapkeep::worker::importing::ImportBody;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROWS: &[Row] = &[
    Row { name: "import", prepare: with_backups, act: import, check: imported, from_start: false, keeps_source: true },
    Row { name: "import --move", prepare: with_backups, act: import_moving, check: moved, from_start: false, keeps_source: true },
    Row {
        name: "import --move, stopped before",
        prepare: with_stopped,
        act: import_moving,
        check: moved,
        from_start: true,
        keeps_source: true,
    },
];

/// The second has a file with a name elsewhere: it is copied, and then removed.
const NAMES: [&str; 2] = ["2024-01-01", "2024-01-02"];

fn beside(scene: &Scene, name: &str) -> PathBuf {
    scene.world.store.parent().unwrap().join(name)
}

fn with_backups(scene: &Scene) {
    for parent in ["backup", "pristine"] {
        for name in NAMES {
            let dir = beside(scene, parent).join(name);
            fs::create_dir_all(dir.join("sub")).unwrap();
            write_sparse(&dir.join("overlay.raw"), 8 << 10, &[(4 << 10, name.as_bytes())]);
            write_sparse(&dir.join("memory"), 8 << 10, &[(0, b"ram of ")]);
            fs::write(dir.join("sub/config.json"), name).unwrap();
            fs::set_permissions(dir.join("sub/config.json"), fs::Permissions::from_mode(0o640)).unwrap();
            std::os::unix::fs::symlink("overlay.raw", dir.join("disk")).unwrap();
        }
    }
    fs::hard_link(beside(scene, "backup").join(NAMES[1]).join("overlay.raw"), beside(scene, "elsewhere")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(21));
}

/// The first was renamed into the store, and then the process died.
fn with_stopped(scene: &Scene) {
    with_backups(scene);
    let gate = Arc::new(DeadFrom::new(Op::SetMeta, "data/memory"));
    let live = scene.start(Fs::gated(Arc::clone(&gate) as _)).unwrap();
    import_moving(scene, &live).unwrap_err();
    assert!(gate.is_dead() && !beside(scene, "backup").join(NAMES[0]).exists());
}

fn run(scene: &Scene, live: &Live, take_away: bool) -> Result<(), String> {
    let dir = beside(scene, "backup");
    let body = ImportBody {
        dir: dir.clone(),
        instance: instance("old"),
        policy: None,
        pattern: None,
        timezone: None,
        tags: BTreeMap::new(),
        take_away,
        dry_run: false,
    };
    let view = live.worker.import(&body).map_err(|e| e.detail)?;
    let wrong: Vec<String> = view.entries.iter().filter(|e| e.result == "failed" || e.why.is_some()).map(|e| format!("{e:?}")).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn import(scene: &Scene, live: &Live) -> Result<(), String> {
    run(scene, live, false)
}

fn import_moving(scene: &Scene, live: &Live) -> Result<(), String> {
    run(scene, live, true)
}

fn imported(scene: &Scene, live: &Live, told: Told) {
    each(scene, live, told);
    let dir = beside(scene, "backup");
    assert!(NAMES.iter().all(|name| dir.join(name).exists()), "it stays");
}

fn moved(scene: &Scene, live: &Live, told: Told) {
    each(scene, live, told);
    assert!(told != Told::Done || listing(&beside(scene, "backup")).is_empty(), "all of it is gone");
}

fn each(scene: &Scene, live: &Live, told: Told) {
    let taken: Vec<_> = live.store.index().of_instance(&instance("old")).iter().map(|s| (s.id.clone(), s.created_at)).collect();
    for name in NAMES {
        let (dir, pristine) = (beside(scene, "backup").join(name), beside(scene, "pristine").join(name));
        let of_it: Vec<&SnapshotId> = taken.iter().filter(|(_, at)| at.format("%F").to_string() == name).map(|(id, _)| id).collect();
        assert!(of_it.len() <= 1, "{name} was taken twice");
        let is_there = dir.exists();
        assert!(!is_there || listing(&dir) == listing(&pristine), "{name} is what it was: {:#?}", listing(&dir));
        for id in &of_it {
            assert!(holds(&scene.world.store.join("snapshots").join(id.as_str()).join("data"), &pristine), "{name} is whole in the store");
        }
        let pending = fs::read_dir(scene.world.store.join("importing"))
            .into_iter()
            .flatten()
            .any(|e| holds(&e.unwrap().path().join("data"), &pristine));
        assert!(is_there || !of_it.is_empty() || pending, "{name} is nowhere");
        assert!(told != Told::Done || (of_it.len() == 1 && !pending), "{name} was acknowledged");
    }
}

/// Whether a tree has the same bytes and links in it, whatever its modes are.
fn holds(tree: &Path, pristine: &Path) -> bool {
    let same = |file: &str| fs::read(tree.join(file)).ok() == fs::read(pristine.join(file)).ok();
    ["overlay.raw", "memory", "sub/config.json"].into_iter().all(same) && fs::read_link(tree.join("disk")).is_ok()
}

#[test]
fn whatever_goes_wrong_with_an_import_each_directory_is_whole_in_one_place_or_the_other() {
    // A copy alone is `take`'s, which has a sweep of its own.
    let is_full = std::env::var_os("FULL").is_some();
    sweep_all(if is_full { ROWS } else { ROWS.get(1..).unwrap() });
}
