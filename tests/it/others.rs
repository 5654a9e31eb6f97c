//! What is somebody else's stays: mounts inside of trees that go, directories that are not what their snapshot is, what was
//! written into one while it went, and instances that came back unseen.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::mounts::{Mounted, tmpfs};
use crate::support::program::Program;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use snapkeep::worker::backend::Backend as _;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

/// A world on a file system of its own, in mounts of its own.
fn world() -> Option<(Mounted, World, Program)> {
    let disk = tmpfs("size=64m")?;
    let world = World::at(&disk.path);
    world.make_instance("golden");
    let program = Program::new(&world, "");
    program.ok("init");
    Some((disk, world, program))
}

/// Mounts a directory with a file of somebody else's at `at`, of the same file system.
fn bind(disk: &Mounted, at: &Path) {
    let theirs = disk.path.join("theirs");
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("precious"), "mine").unwrap();
    fs::create_dir(at).unwrap();
    mount(Some(&theirs), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

fn is_there(disk: &Mounted) -> bool {
    fs::read_to_string(disk.path.join("theirs/precious")).is_ok_and(|text| text == "mine")
}

#[test]
fn what_is_mounted_inside_of_a_tree_that_goes_is_not_emptied() {
    let Some((disk, world, program)) = world() else { return };
    program.ok("snapshot golden --name base");
    program.ok("fork base web");
    bind(&disk, &world.vms.join("web/shared"));
    drop(program.output("unfork web"));
    assert!(is_there(&disk), "the mount's files are not the fork's");
    let trash = world.vms.join(".snapkeep/trash");
    let left = fs::read_dir(&trash).unwrap().next().expect("it waits").unwrap().path();
    assert!(left.join("overlay.raw").exists(), "nothing of it went");
    umount2(&left.join("shared"), MntFlags::empty()).unwrap();
    program.ok("once");
    assert!(is_there(&disk) && fs::read_dir(&trash).unwrap().next().is_none(), "it goes once nothing is mounted there");
    assert_eq!(program.json("show base")["ref_count"], 0);
}

#[test]
fn a_directory_with_a_mount_in_it_is_copied_and_stays() {
    let Some((disk, world, program)) = world() else { return };
    let dir = disk.path.join("backup");
    let day = dir.join("2026-11-20");
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join("disk.raw"), "old").unwrap();
    bind(&disk, &day.join("shared"));
    let answer = program.json(&format!("import {} --instance golden --move", dir.display()));
    let entry = &answer["entries"][0];
    assert!(entry["why"].as_str().unwrap().contains("mounted"), "{answer}");
    assert!(is_there(&disk) && day.join("disk.raw").exists() && program.json("ls")["snapshots"].as_array().unwrap().len() == 1);
    umount2(&day.join("shared"), MntFlags::empty()).unwrap();
    // The root by another path is still the root.
    let beside = disk.path.join("beside");
    fs::create_dir_all(beside.join("vms")).unwrap();
    mount(Some(&world.vms), &beside.join("vms"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    program.ok(&format!("import {} --instance golden --move", beside.display()));
    assert!(world.vms.join("golden/overlay.raw").exists() && program.json("ls")["snapshots"].as_array().unwrap().len() == 1);
    umount2(&beside.join("vms"), MntFlags::empty()).unwrap();
}

#[test]
fn a_directory_goes_only_for_a_snapshot_that_is_whole_and_that_is_of_it() {
    let world = World::new();
    let program = Program::new(&world, "");
    program.ok("init");
    let dir = world.store.parent().unwrap().join("backup");
    let day = dir.join("2026-11-20");
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join("disk.raw"), vec![1; 8192]).unwrap();
    let line = format!("import {} --instance golden", dir.display());
    program.ok(&line);
    let id = program.json("ls")["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let stored = world.store.join("snapshots").join(&id).join("data/disk.raw");
    let flip = |path: &Path, byte: u8| {
        let times = fs::metadata(path).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[byte], 7).unwrap();
        file.set_modified(times).unwrap();
    };
    fs::write(day.join("more"), "of another backup").unwrap();
    let answer = program.json(&line);
    assert!(answer["entries"][0]["why"].as_str().unwrap().contains("give it another name"), "{answer}");
    fs::remove_file(day.join("more")).unwrap();
    assert!(program.fails("import / --instance golden").1.contains("not a directory of backups"));
    // The snapshot was damaged, and nobody has noticed; then the directory was written again, with its length and its time.
    for (path, why) in [(&stored, "is not whole"), (&day.join("disk.raw"), "are not those of snapshot")] {
        flip(path, 9);
        let answer = program.json(&format!("{line} --move"));
        assert!(answer["entries"][0]["why"].as_str().unwrap().contains(why), "{answer}");
        assert!(day.join("disk.raw").exists());
        flip(path, 1);
    }
    program.ok(&format!("{line} --move"));
    assert!(!day.exists());
    // What somebody wrote into one that was being taken away when the import was stopped stays.
    let aside = dir.join(format!(".snapkeep-imported-{id}"));
    for name in ["NEW", ".snapkeep/note"] {
        fs::create_dir_all(aside.join(name).parent().unwrap()).unwrap();
        fs::write(aside.join(name), "work").unwrap();
        drop(program.output(&format!("{line} --move")));
        assert_eq!(fs::read_to_string(aside.join(name)).unwrap(), "work");
        fs::remove_file(aside.join(name)).unwrap();
    }
    fs::remove_dir(aside.join(".snapkeep")).unwrap();
    drop(program.output(&format!("{line} --move")));
    assert!(!aside.exists(), "nothing of anybody's is in it");
}

#[test]
fn a_file_that_a_rule_called_as_a_kind_of_file_leaves_out_keeps_its_directory() {
    let world = World::new();
    let program = Program::new(&world, "[snapshot]\nskip = [\"device\"]\n");
    program.ok("init");
    let dir = world.store.parent().unwrap().join("backup");
    let day = dir.join("2026-11-20");
    fs::create_dir_all(day.join("sub")).unwrap();
    fs::write(day.join("sub/device"), "data").unwrap();
    fs::write(day.join("disk.raw"), "disk").unwrap();
    let answer = program.json(&format!("import {} --instance golden --move", dir.display()));
    assert!(answer["entries"][0]["why"].as_str().unwrap().contains("sub/device"), "{answer}");
    assert_eq!(fs::read_to_string(day.join("sub/device")).unwrap(), "data");
}

#[test]
fn an_instance_that_is_back_keeps_its_snapshots_though_the_ledger_has_not_seen_it_yet() {
    let world = World::new();
    let vm = world.make_instance("vm");
    let policy = "[scrub]\nenabled = false\n[clock]\nwait_for_sync = false\n[trash]\ngrace = \"0s\"\n[[policy]]\nname = \"p\"\ninstances = [\"vm\"]\nevery = \"1h\"\n\
                  keep_all = true\ngone = { after = \"1h\", min = 0 }\n";
    let count = || {
        let worker = world.worker(policy);
        let all = worker.snapshots(&Default::default()).unwrap().snapshots.len();
        (worker, all)
    };
    let (worker, _) = count();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(3600));
        worker.once().unwrap();
    }
    let away = world.store.parent().unwrap().join("away");
    fs::rename(&vm, &away).unwrap();
    world.clock.advance(Duration::from_secs(60));
    drop(worker.due_jobs());
    worker.look_at_root();
    drop(worker.due_jobs());
    world.clock.advance(Duration::from_secs(7200));
    // It is back, as itself or as a link to another disk, and somebody prunes before anybody has looked.
    for is_link in [false, true] {
        if is_link {
            std::os::unix::fs::symlink(&away, &vm).unwrap();
        } else {
            fs::rename(&away, &vm).unwrap();
        }
        let report = worker.prune_pass().unwrap();
        assert_eq!(report.removed, [], "a link: {is_link}");
        if !is_link {
            fs::rename(&vm, &away).unwrap();
        }
    }
    fs::remove_file(&vm).unwrap();
    worker.look_at_root();
    assert!(!worker.prune_pass().unwrap().removed.is_empty(), "it is gone");
}
