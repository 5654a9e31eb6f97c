//! Where the file system is too full: more goes, early, by what it frees; never the least, what is held or what a fork
//! needs. On real file systems, and on ones without a byte left.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests, which print what they tried"
)]

use crate::support::World;
use crate::support::mounts::{Kind, mounted, tmpfs};
use crate::support::program::{Program, eventually};
use snapkeep::event::Event;
use snapkeep::ids::SnapshotId;
use snapkeep::policy::Verdict;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::{ForkBody, PlanBody, PruneBody};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What a snapshot takes, its disk and its memory.
const EACH: u64 = 12 * MIB;
const SNAPSHOTS: usize = 12;
const MIN: usize = 3;
const CONFIG: &str = "[scrub]\nenabled = false\n[trash]\ngrace = \"1h\"\n[clock]\nwait_for_sync = false\n[space]\nprune_above = \"85%\"\nuntil = \"75%\"\n\
                      [[policy]]\nname = \"p\"\ninstances = [\"vm\"]\nevery = \"1h\"\nkeep = { last = 100 }\nlimit = { min = 3 }\n";

/// Writes the instance anew: nothing of it is shared with a snapshot afterwards.
fn rewrite(vm: &Path, seed: u8) {
    for (name, size) in [("disk.raw", EACH - 4 * MIB), ("memory", 4 * MIB)] {
        let bytes: Vec<u8> = (0..size).map(|n| (n / 4096 % 251) as u8 ^ seed).collect();
        fs::write(vm.join(name), bytes).unwrap();
    }
}

/// Twelve snapshots of `p`, one an hour; the sixth is held, and the fourth has a fork.
fn with_snapshots(world: &World) -> (Arc<Worker>, Vec<SnapshotId>) {
    let vm = world.vms.join("vm");
    fs::create_dir(&vm).unwrap();
    let worker = world.worker(CONFIG);
    worker.once().unwrap();
    for n in 0..SNAPSHOTS {
        rewrite(&vm, u8::try_from(n).unwrap());
        world.clock.advance(Duration::from_secs(3600));
        worker.once().unwrap();
    }
    let all = worker.snapshots(&Default::default()).unwrap().snapshots;
    let ids: Vec<SnapshotId> = all.into_iter().map(|s| s.id).collect();
    let ids = ids[ids.len() - SNAPSHOTS..].to_vec();
    worker.hold(ids[5].as_str(), &"mine".parse().unwrap()).unwrap();
    worker.fork(ids[3].as_str(), &ForkBody { name: Some("dev".to_owned()), ..ForkBody::default() }, None).unwrap();
    worker.once().unwrap();
    (worker, ids)
}

fn used_percent(root: &Path) -> u64 {
    assert!(std::process::Command::new("sync").arg("-f").arg(root).status().unwrap().success());
    let stat = nix::sys::statvfs::statvfs(root).unwrap();
    100 - stat.blocks_available() * 100 / stat.blocks()
}

/// Fills the file system with somebody else's files, up to this share. They are closed: xfs takes more for one that grows.
fn fill(root: &Path, percent: u64) {
    let filler = root.join("filler");
    fs::create_dir_all(&filler).unwrap();
    let mut n = fs::read_dir(&filler).unwrap().count();
    while used_percent(root) < percent && fs::write(filler.join(n.to_string()), vec![7; 1 << 20]).is_ok() {
        n += 1;
    }
}

fn left(worker: &Worker) -> BTreeSet<SnapshotId> {
    worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().map(|s| s.id).collect()
}

#[test]
fn snapshots_go_early_until_there_is_room_and_never_the_least_nor_what_is_needed() {
    for kind in Kind::ALL {
        let Some(disk) = mounted(kind, 512 * MIB) else { continue };
        let world = World::at(&disk.path);
        let (worker, ids) = with_snapshots(&world);
        let quiet = worker.plan(&PlanBody::default()).unwrap();
        assert!(quiet.entries.iter().all(|e| e.verdict == Verdict::Keep), "{kind}: {}% is not too full", used_percent(&disk.path));
        fill(&disk.path, 88);
        let before = used_percent(&disk.path);
        let plan = worker.plan(&PlanBody::default()).unwrap();
        let goes = plan.entries.iter().filter(|e| e.verdict == Verdict::Remove);
        assert!(goes.clone().count() > 0 && goes.clone().all(|e| e.reasons[0].rule == "space"), "{kind}: {plan:#?}");
        let later = worker.plan(&PlanBody { at: Some(plan.at + chrono::TimeDelta::seconds(1)), ..PlanBody::default() }).unwrap();
        assert!(later.entries.iter().all(|e| e.verdict == Verdict::Keep), "{kind}: how full it is then is not known");
        let report = worker.prune(&PruneBody::default()).unwrap();
        let (after, there) = (used_percent(&disk.path), left(&worker));
        println!("{kind}: {before}% used, {} of {SNAPSHOTS} snapshots went, {after}% used", report.removed.len());
        assert!(after <= 76, "{kind}: {after}%");
        // No more went than it takes, by what each takes.
        let needed = (before - 75) * 512 * MIB / 100 / EACH;
        assert!(report.removed.len() as u64 <= needed + 2, "{kind}: {} went, {needed} are enough", report.removed.len());
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| [3, 5].contains(n) || *n >= SNAPSHOTS - MIN) {
            assert!(there.contains(id), "{kind}: number {n} of {SNAPSHOTS} went");
        }
        assert!(report.removed.contains(&ids[0]), "{kind}: the oldest went first: {report:?}");
        // Nothing else may go: it says so, once, and takes no more.
        fill(&disk.path, 97);
        for _ in 0..2 {
            worker.prune(&PruneBody::default()).unwrap();
        }
        let short = world.events.events().iter().filter(|e| matches!(e, Event::SpaceShort { .. })).count();
        let there = left(&worker);
        assert_eq!(short, 1, "{kind}: {there:?}");
        assert!([3, 5, 9, 10, 11].iter().all(|n| there.contains(&ids[*n])), "{kind}");
        assert!(there.len() <= 6, "{kind}: all that may go went: {there:?}");
        worker.hash_all();
        drop(worker);
        assert_eq!(world.worker(CONFIG).verify(&Default::default()).unwrap().findings, []);
    }
}

#[test]
fn what_would_free_nothing_is_not_given_up() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let Some(disk) = mounted(kind, 512 * MIB) else { continue };
        let world = World::at(&disk.path);
        let vm = world.vms.join("vm");
        fs::create_dir(&vm).unwrap();
        rewrite(&vm, 1);
        fs::remove_file(vm.join("memory")).unwrap();
        let worker = world.worker(CONFIG);
        for _ in 0..8 {
            world.clock.advance(Duration::from_secs(3600));
            worker.once().unwrap();
        }
        let before = left(&worker);
        fill(&disk.path, 90);
        let report = worker.prune(&PruneBody::default()).unwrap();
        assert_eq!((report.removed.len(), left(&worker)), (0, before), "{kind}: the disk's blocks are the instance's own too");
        let short = world.events.events().iter().any(|e| matches!(e, Event::SpaceShort { .. }));
        assert!(short, "{kind}");
    }
}

#[test]
fn pruning_works_where_there_is_not_a_byte_left() {
    let full = |root: &Path| {
        let mut file = fs::File::options().create(true).append(true).open(root.join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        drop(file.sync_all());
    };
    for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
        let disk = match kind {
            Some(kind) => mounted(kind, 512 * MIB),
            None => tmpfs("size=256m"),
        };
        let Some(disk) = disk else { continue };
        let name = kind.map_or_else(|| "tmpfs".to_owned(), |kind| kind.to_string());
        let world = World::at(&disk.path);
        let (worker, ids) = with_snapshots(&world);
        drop(worker);
        // A policy that only prunes, and the program as it is.
        let program = Program::with(
            &world,
            "[scrub]\nenabled = false\n[trash]\ngrace = \"0s\"\n[[policy]]\nname = \"p\"\ninstances = [\"vm\"]\nkeep = { last = 4 }\n",
        );
        full(&disk.path);
        let report = program.json("prune");
        let removed = report["removed"].as_array().unwrap().len();
        println!("{name}: {removed} of {SNAPSHOTS} went on a full disk");
        assert!(removed == SNAPSHOTS - 4 - 2 && report["failed"] == serde_json::json!([]), "{name}: {report}");
        assert!(used_percent(&disk.path) < 97, "{name}");
        let there = program.json("ls").to_string();
        assert!([3, 5, 8, 9, 10, 11].iter().all(|n| there.contains(ids[*n].as_str())), "{name}: {there}");
        assert!(program.output("verify").status.success());
    }
}

#[test]
fn a_cap_bounds_a_run_for_space_and_the_next_waits_for_its_time() {
    let Some(disk) = tmpfs("size=256m") else { return };
    let world = World::at(&disk.path);
    let (worker, _) = with_snapshots(&world);
    drop(worker);
    let worker = world.worker(&format!("[prune]\nmax_removals = 1\n{CONFIG}"));
    assert!(!worker.is_filling(), "it is not full yet");
    fill(&disk.path, 95);
    assert!(worker.is_filling(), "something is to be done");
    let before = left(&worker).len();
    let report = worker.prune(&PruneBody::default()).unwrap();
    assert!(report.removed.len() == 1 && report.left > 0 && left(&worker).len() == before - 1, "{report:?}");
    assert!(used_percent(&disk.path) > 85 && !worker.is_filling(), "the next is not at once");
    assert!(!world.events.events().iter().any(|e| matches!(e, Event::SpaceShort { .. })), "more may go, at the next run");
}

#[test]
fn a_worker_notices_by_itself_that_its_disk_fills() {
    let Some(disk) = tmpfs("size=256m") else { return };
    let world = World::at(&disk.path);
    let (worker, ids) = with_snapshots(&world);
    drop(worker);
    let program = Program::with(&world, &CONFIG.replace("every = \"1h\"\n", ""));
    let worker = program.run();
    let count = || program.json("ls")["snapshots"].as_array().unwrap().len();
    let before = count();
    fill(&disk.path, 90);
    eventually("it prunes for space, long before its next pass", Duration::from_secs(30), || {
        count() < before && used_percent(&disk.path) <= 85
    });
    let there = program.json("ls").to_string();
    assert!([3, 5, 9, 10, 11].iter().all(|n| there.contains(ids[*n].as_str())), "{there}");
    assert!(worker.log().contains("\"reasons\":[\"space\"]"), "{}", worker.log());
    assert_eq!(worker.stop(), 0);
}
