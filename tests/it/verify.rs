//! What `verify` finds: nothing in a sound store, and each kind of damage by its name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::{Open, World};
use snapkeep::ids::{ForkId, SnapshotId};
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
use snapkeep::store::layout::Layout;
use snapkeep::store::manifest::{Manifest, seal};
use snapkeep::worker::verify::verify;
use snapkeep::worker::view::Findings;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const NOWHERE: &str = "20200101-000000-aaaaaaaa";
const NOBODY: &str = "faaaaaaaaaaaaaaaa";

/// A store with a snapshot of `golden` and a fork `golden-7` of it.
struct Scene {
    world: World,
    open: Open,
    id: SnapshotId,
    fork: ForkId,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let dir = world.make_instance("golden");
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/one"), "one").unwrap();
        fs::hard_link(dir.join("sub/one"), dir.join("sub/two")).unwrap();
        crate::support::write_sparse(&dir.join("large.raw"), 3 << 20, &[(2 << 20, b"large")]);
        let open = world.open();
        let id = open.take("golden").unwrap();
        let fork = open.fork(&id, "golden-7").unwrap().id;
        Self { world, open, id, fork }
    }

    fn stored(&self, path: &str) -> PathBuf {
        self.layout().snapshot(&self.id).join("data").join(path)
    }

    fn forked(&self, path: &str) -> PathBuf {
        self.world.vms.join("golden-7").join(path)
    }

    fn layout(&self) -> &Layout {
        &self.open.store.layout
    }

    fn verify(&self, unfinished: &[&ForkId]) -> Findings {
        let unfinished: HashSet<ForkId> = unfinished.iter().map(|f| (*f).clone()).collect();
        verify(&Fs::real(), self.layout(), &unfinished, Flow { threads: 3, ..Flow::quiet() })
    }

    /// Names and severities, in their order.
    fn found(&self) -> Vec<String> {
        short(&self.verify(&[]))
    }
}

fn short(findings: &Findings) -> Vec<String> {
    findings.findings.iter().map(|f| format!("{} {}", f.severity, f.name)).collect()
}

/// Changes one byte and nothing else that can be seen: length, mode and time stay.
fn flip(path: &Path, at: u64) {
    let before = fs::metadata(path).unwrap();
    chmod(path, 0o600);
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
    chmod(path, before.mode() & 0o7777);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn truncate(path: &Path, len: u64) {
    let mode = fs::metadata(path).unwrap().mode() & 0o7777;
    chmod(path, 0o600);
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
    chmod(path, mode);
}

fn rewrite_manifest(scene: &Scene, change: impl FnOnce(&mut Manifest)) {
    let path = Layout::manifest_in(&scene.layout().snapshot(&scene.id));
    let mut manifest = scene.open.store.manifest(&scene.id).unwrap();
    change(&mut manifest);
    chmod(&path, 0o600);
    fs::write(&path, seal(&manifest).unwrap()).unwrap();
}

fn relink(path: &Path, target: &str) {
    fs::remove_file(path).unwrap();
    symlink(target, path).unwrap();
}

/// In words, the damage, and what must be found.
type Row<'a> = (&'a str, &'a dyn Fn(&Scene), &'a [&'a str]);

/// Does each damage to a store of its own; exactly the named findings must follow.
fn table(rows: &[Row<'_>]) {
    for (words, damage, wanted) in rows {
        let scene = Scene::new();
        assert_eq!(scene.found(), [""; 0], "before: {words}");
        damage(&scene);
        let found = scene.verify(&[]);
        // Two snapshots of one moment have ids in no order: which is found first is chance.
        let (mut names, mut wanted) = (short(&found), wanted.to_vec());
        names.sort();
        wanted.sort_unstable();
        assert_eq!(names, wanted, "{words}: {:#?}", found.findings);
    }
}

#[test]
fn a_sound_store_has_no_findings_at_any_time_of_its_life() {
    let scene = Scene::new();
    let sound = |scene: &Scene, words: &str| {
        let found = scene.verify(&[]);
        assert!(found.findings.is_empty(), "{words}: {:#?}", found.findings);
        found
    };
    let first = sound(&scene, "a snapshot and a fork");
    assert_eq!((first.snapshots, first.forks), (1, 1));
    let sizes = scene.open.store.manifest(&scene.id).unwrap().size_bytes;
    assert!(first.bytes >= (4 << 20) + (256 << 10) && first.bytes <= sizes, "{} of {sizes}", first.bytes);
    let child = scene.open.take("golden-7").unwrap();
    let other = scene.open.take("golden").unwrap();
    scene.open.fork(&child, "grandchild").unwrap();
    scene.open.remove(&other).unwrap();
    let hold = snapkeep::ids::HoldName::parse("kept").unwrap();
    scene.open.store.add_hold(&scene.open.store.lock_snapshot(&scene.id), &hold).unwrap();
    scene.open.store.mark_expiring(&scene.open.store.lock_snapshot(&scene.id), "by hand").unwrap();
    let found = sound(&scene, "a snapshot in the trash");
    assert_eq!((found.snapshots, found.forks), (2, 2));
    scene.open.forks.unfork(&crate::support::instance("golden-7")).unwrap();
    sound(&scene, "a fork in the trash");
    scene.open.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    scene.open.forks.reconcile().unwrap();
    sound(&scene, "after the sweep");
    let request = scene.open.accept(&child, "queued").unwrap();
    assert_eq!(short(&scene.verify(&[&request.id])), [""; 0], "a queued fork");
}

#[test]
fn damage_to_a_snapshots_files_is_found_by_its_kind() {
    table(&[
        ("a byte of a disk", &|s| flip(&s.stored("overlay.raw"), 10), &["error digest.differs"]),
        ("a byte in the hole of a large disk", &|s| flip(&s.stored("large.raw"), 99), &["error digest.differs"]),
        ("a byte of memory", &|s| flip(&s.stored("memory"), 64 << 10), &["error digest.differs"]),
        ("memory's mode", &|s| chmod(&s.stored("memory"), 0o644), &["error memory.writable"]),
        ("memory's mode, and nobody can write", &|s| chmod(&s.stored("memory"), 0o400), &["warn mode.differs"]),
        ("a disk's mode", &|s| chmod(&s.stored("overlay.raw"), 0o600), &["warn mode.differs"]),
        ("a directory's mode", &|s| chmod(&s.stored("sub"), 0o700), &["warn mode.differs"]),
        ("a shorter disk", &|s| truncate(&s.stored("overlay.raw"), 4096), &["error size.differs"]),
        ("a shorter memory", &|s| truncate(&s.stored("memory"), 4096), &["error mtime.differs", "error size.differs"]),
        ("a deleted disk", &|s| fs::remove_file(s.stored("overlay.raw")).unwrap(), &["error file.missing"]),
        ("a deleted directory", &|s| fs::remove_dir_all(s.stored("sub")).unwrap(), &["error file.missing"]),
        ("the whole tree deleted", &|s| fs::remove_dir_all(s.stored("")).unwrap(), &["error file.missing"]),
        ("an extra file", &|s| fs::write(s.stored("sub/more"), "x").unwrap(), &["warn file.extra"]),
        (
            "an extra directory",
            &|s| {
                fs::create_dir(s.stored("more")).unwrap();
                fs::write(s.stored("more/x"), "x").unwrap();
            },
            &["warn file.extra"],
        ),
        ("another target", &|s| relink(&s.stored("disk"), "/elsewhere"), &["error target.differs"]),
        (
            "a hard link that is a copy",
            &|s| {
                fs::copy(s.stored("sub/two"), s.stored("sub/new")).unwrap();
                fs::rename(s.stored("sub/new"), s.stored("sub/two")).unwrap();
            },
            &["error hardlink.differs"],
        ),
        ("a link in place of a disk", &|s| relink(&s.stored("overlay.raw"), "large.raw"), &["error type.differs"]),
        (
            "memory written anew",
            &|s| {
                let file = fs::File::open(s.stored("memory")).unwrap();
                file.set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH)).unwrap();
            },
            &["error mtime.differs"],
        ),
    ]);
}

#[test]
fn a_bad_manifest_is_found_by_its_kind_and_hides_nothing_else() {
    let manifest = |s: &Scene| Layout::manifest_in(&s.layout().snapshot(&s.id));
    table(&[
        ("garbage", &|s| fs::write(manifest(s), "{").unwrap(), &["error manifest.unreadable"]),
        ("none", &|s| fs::remove_file(manifest(s)).unwrap(), &["error manifest.unreadable"]),
        ("another's", &|s| rewrite_manifest(s, |m| m.id = SnapshotId::parse(NOWHERE).unwrap()), &["error manifest.foreign"]),
        ("a later format", &|s| rewrite_manifest(s, |m| m.format = 99), &["error manifest.newer"]),
        (
            "garbage in one snapshot, a changed byte in another",
            &|s| {
                let other = s.open.take("golden").unwrap();
                flip(&s.layout().snapshot(&other).join("data/overlay.raw"), 10);
                fs::write(manifest(s), "{").unwrap();
            },
            &["error manifest.unreadable", "error digest.differs"],
        ),
    ]);
}

#[test]
fn refs_and_forks_that_do_not_agree_are_found() {
    let nobody = ForkId::parse(NOBODY).unwrap();
    let of_nobody = |s: &Scene| s.layout().ref_of(&s.id, &nobody);
    let own = |s: &Scene| s.layout().ref_of(&s.id, &s.fork);
    let nowhere = SnapshotId::parse(NOWHERE).unwrap();
    table(&[
        ("a deleted ref", &|s| fs::remove_file(own(s)).unwrap(), &["error fork.without_ref"]),
        ("a ref for nothing", &|s| symlink(s.world.vms.join("none"), of_nobody(s)).unwrap(), &["warn ref.dangling"]),
        ("a ref to a directory that is no fork", &|s| symlink(s.world.vms.join("golden"), of_nobody(s)).unwrap(), &[]),
        ("an empty ref", &|s| fs::write(of_nobody(s), "").unwrap(), &["error ref.unreadable"]),
        ("a relative ref", &|s| symlink("golden-7", of_nobody(s)).unwrap(), &["error ref.unreadable"]),
        ("a ref whose fork has moved", &|s| fs::rename(s.forked(""), s.world.vms.join("moved")).unwrap(), &[]),
        ("a ref whose fork is gone", &|s| fs::remove_dir_all(s.forked("")).unwrap(), &["warn ref.dangling"]),
        (
            "refs of no snapshot",
            &|s| {
                fs::create_dir(s.layout().refs_of(&nowhere)).unwrap();
                symlink(s.forked(""), s.layout().ref_of(&nowhere, &s.fork)).unwrap();
            },
            &["warn ref.without_snapshot"],
        ),
        ("a bad fork record", &|s| fs::write(s.forked(".snapkeep/fork.json"), "{").unwrap(), &["warn fork.unreadable"]),
        ("a fork without its memory", &|s| fs::remove_file(s.forked("memory")).unwrap(), &["warn fork.half"]),
        ("no root", &|s| fs::remove_file(s.layout().root_proof()).unwrap(), &["error root.unproven"]),
        (
            "no root, and a changed byte",
            &|s| {
                fs::remove_file(s.layout().root_proof()).unwrap();
                flip(&s.stored("overlay.raw"), 10);
            },
            &["error digest.differs", "error root.unproven"],
        ),
        ("no FORMAT", &|s| fs::remove_file(s.layout().format()).unwrap(), &["error root.unproven"]),
    ]);
}

#[test]
fn links_that_nobody_should_have_are_found() {
    let cp = |from: PathBuf, to: PathBuf| {
        assert!(std::process::Command::new("cp").arg("-al").arg(from).arg(to).status().unwrap().success());
    };
    let stored_to_fork = |s: &Scene, name: &str| {
        fs::remove_file(s.forked("overlay.raw")).unwrap();
        fs::hard_link(s.stored("overlay.raw"), s.forked(name)).unwrap();
    };
    let outside = |s: &Scene| s.world.store.parent().unwrap().join("outside");
    table(&[
        ("memory linked elsewhere", &|s| cp(s.stored("memory"), outside(s)), &["info links.unknown"]),
        (
            "memory linked into an instance that is no fork",
            &|s| cp(s.stored("memory"), s.world.vms.join("golden/m")),
            &["info links.unknown"],
        ),
        ("a fork moved out of the root", &|s| fs::rename(s.forked(""), outside(s)).unwrap(), &["warn ref.dangling", "info links.unknown"]),
        ("a disk linked into a fork", &|s| stored_to_fork(s, "overlay.raw"), &["error shared.writable"]),
        ("a disk linked into a fork by another name", &|s| stored_to_fork(s, "other.raw"), &["error shared.writable"]),
        ("memory renamed in a fork", &|s| fs::rename(s.forked("memory"), s.forked("ram")).unwrap(), &["warn fork.half"]),
        (
            "a disk shared by two forks",
            &|s| {
                s.open.fork(&s.id, "golden-8").unwrap();
                let other = s.world.vms.join("golden-8/overlay.raw");
                fs::remove_file(&other).unwrap();
                fs::hard_link(s.forked("overlay.raw"), other).unwrap();
            },
            &["error shared.writable", "error shared.writable"],
        ),
        (
            "a disk of a snapshot in the trash linked into a fork",
            &|s| {
                let other = s.open.take("golden").unwrap();
                fs::hard_link(s.layout().snapshot(&other).join("data/overlay.raw"), s.forked("more")).unwrap();
                s.open.remove(&other).unwrap();
            },
            &["error shared.writable"],
        ),
    ]);
}

#[test]
fn strays_and_strange_names_are_found() {
    let nowhere = SnapshotId::parse(NOWHERE).unwrap();
    table(&[
        ("a half snapshot", &|s| fs::create_dir(s.layout().staged(&nowhere)).unwrap(), &["warn staging.stray"]),
        ("a half import", &|s| fs::create_dir_all(s.layout().importing_of(&nowhere)).unwrap(), &["warn importing.unfinished"]),
        (
            "a half fork",
            &|s| fs::create_dir(s.layout().staged_fork(&ForkId::parse(NOBODY).unwrap())).unwrap(),
            &["warn fork_staging.stray"],
        ),
        ("in snapshots", &|s| fs::create_dir(s.layout().snapshots().join("lost+found")).unwrap(), &["warn name.strange"]),
        ("in refs", &|s| fs::create_dir(s.layout().refs().join("x")).unwrap(), &["warn name.strange"]),
        ("in a snapshot's refs", &|s| symlink("/x", s.layout().refs_of(&s.id).join("x")).unwrap(), &["warn name.strange"]),
        ("in holds", &|s| fs::create_dir(s.layout().holds().join("x")).unwrap(), &["warn name.strange"]),
        ("in marks", &|s| fs::create_dir(s.layout().marks().join("x")).unwrap(), &["warn name.strange"]),
        ("in the trash", &|s| fs::create_dir(s.layout().trash().join("x")).unwrap(), &["warn name.strange"]),
        ("holds of nothing", &|s| fs::create_dir(s.layout().holds_of(&nowhere)).unwrap(), &["info hold.without_snapshot"]),
        ("marks of nothing", &|s| fs::create_dir(s.layout().marks_of(&nowhere)).unwrap(), &["info mark.without_snapshot"]),
    ]);
}

#[test]
fn the_staging_of_an_unfinished_fork_and_its_ref_are_no_findings() {
    let scene = Scene::new();
    let fork = ForkId::parse(NOBODY).unwrap();
    fs::create_dir(scene.layout().staged_fork(&fork)).unwrap();
    fs::hard_link(scene.stored("memory"), scene.layout().staged_fork(&fork).join("memory")).unwrap();
    symlink(scene.world.vms.join("soon"), scene.layout().ref_of(&scene.id, &fork)).unwrap();
    assert_eq!(short(&scene.verify(&[&fork])), [""; 0]);
    assert_eq!(scene.found(), ["warn ref.dangling", "warn fork_staging.stray"]);
}

#[test]
fn every_problem_is_found_at_once_worst_first_and_nothing_is_changed() {
    let scene = Scene::new();
    fs::hard_link(scene.stored("memory"), scene.world.store.join("mine")).unwrap();
    fs::write(scene.stored("more"), "x").unwrap();
    flip(&scene.stored("memory"), 5);
    fs::remove_file(scene.layout().ref_of(&scene.id, &scene.fork)).unwrap();
    let before = crate::support::listing(scene.world.store.parent().unwrap());
    let found = scene.found();
    assert_eq!(crate::support::listing(scene.world.store.parent().unwrap()), before);
    assert_eq!(found, ["error digest.differs", "error fork.without_ref", "warn file.extra", "info links.unknown"]);
}

#[test]
fn one_that_is_stopped_says_that_not_every_digest_was_compared() {
    let scene = Scene::new();
    let stop = AtomicBool::new(true);
    let found = verify(&Fs::real(), scene.layout(), &HashSet::new(), Flow { cancelled: &stop, ..Flow::quiet() });
    assert_eq!((short(&found), found.bytes), (vec!["warn verify.stopped".to_owned()], 0));
}
