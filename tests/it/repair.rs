//! `verify --repair`: what it says of each damage, that it does that and no more, and that a second look agrees. How a
//! run goes on where it was stopped, keeps to a rate, and is done in the background.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests, which print what they tried"
)]

use crate::support::program::Program;
use crate::support::{World, instance, listing};
use snapkeep::clock::Clock;
use snapkeep::config::parse;
use snapkeep::event::{Event, Events};
use snapkeep::ids::{ForkId, SnapshotId};
use snapkeep::policy::SnapshotState;
use snapkeep::snapshot::copy::Progress;
use snapkeep::store::layout::Layout;
use snapkeep::store::manifest::seal;
use snapkeep::worker::backend::Backend;
use snapkeep::worker::problem::ProblemKind;
use snapkeep::worker::view::{Findings, ForkBody, TakeBody, VerifyBody};
use snapkeep::worker::{Surroundings, Worker};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

const NOWHERE: &str = "20200101-000000-aaaaaaaa";
const NOBODY: &str = "faaaaaaaaaaaaaaaa";
const DAY: Duration = Duration::from_secs(86_400);

/// A worker with a snapshot of `golden`, a fork `golden-7` of it, and another snapshot.
struct Scene {
    world: World,
    worker: Arc<Worker>,
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
        crate::support::write_sparse(&dir.join("large.raw"), 3 << 20, &[(1 << 20, b"large"), (2 << 20, b"large")]);
        let worker = world.worker("");
        let id = take(&world, &worker, "golden");
        take(&world, &worker, "golden");
        let fork = fork(&worker, &id, "golden-7").unwrap();
        Self { world, worker, id, fork }
    }

    fn layout(&self) -> &Layout {
        &self.worker.store.layout
    }

    fn stored(&self, path: &str) -> PathBuf {
        self.layout().snapshot(&self.id).join("data").join(path)
    }

    fn forked(&self, path: &str) -> PathBuf {
        self.world.vms.join("golden-7").join(path)
    }

    fn own_ref(&self) -> PathBuf {
        self.layout().ref_of(&self.id, &self.fork)
    }

    fn nowhere(&self) -> SnapshotId {
        SnapshotId::parse(NOWHERE).unwrap()
    }

    /// Everything, but for the log of what was compared.
    fn listing(&self) -> BTreeSet<String> {
        listing(self.world.store.parent().unwrap()).into_iter().filter(|line| !line.starts_with("store/ledger")).collect()
    }

    /// Ids of snapshots and names of forks.
    fn inhabitants(&self) -> Vec<String> {
        let all = self.worker.snapshots(&Default::default()).unwrap();
        let snapshots = all.snapshots.into_iter().map(|s| s.id).chain(all.unreadable.into_iter().map(|u| u.id)).map(|id| id.to_string());
        // Not by the listing of forks: one whose record is spoilt is an instance all the same, and keeps its ref.
        let instances = fs::read_dir(&self.world.vms).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let refs = self.worker.snapshot(self.id.as_str()).map_or(0, |view| view.ref_count);
        let mut all: Vec<String> = snapshots.chain(instances).chain([format!("{refs} refs")]).collect();
        all.sort();
        all
    }

    fn quarantines(&self) -> usize {
        self.world.event_names().into_iter().filter(|name| *name == "snapshot.quarantined").count()
    }
}

fn take(world: &World, worker: &Worker, name: &str) -> SnapshotId {
    world.clock.advance(Duration::from_secs(60));
    worker.take(&TakeBody { instance: instance(name), name: None, tags: Default::default() }).unwrap().id
}

fn fork(worker: &Worker, id: &SnapshotId, name: &str) -> Result<ForkId, ProblemKind> {
    let body = ForkBody { name: Some(name.to_owned()), ..ForkBody::default() };
    let asked = worker.fork(id.as_str(), &body, None).map_err(|problem| problem.kind)?;
    worker.forks.run_ready(&worker.stopping, &worker.cancelled).unwrap();
    Ok(asked.requests[0].id.clone())
}

fn look(worker: &Worker) -> Findings {
    worker.verify(&VerifyBody::default()).unwrap()
}

fn mend(worker: &Worker) -> Findings {
    worker.verify(&VerifyBody { repair: true, ..VerifyBody::default() }).unwrap()
}

fn short(findings: &Findings) -> Vec<String> {
    let mut names: Vec<String> = findings.findings.iter().map(|f| format!("{} {}", f.severity, f.name)).collect();
    names.sort();
    names
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Changes what is in a file, and neither its mode nor its time.
fn tamper(path: &Path, change: impl FnOnce(&fs::File)) {
    let before = fs::metadata(path).unwrap();
    chmod(path, 0o600);
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    change(&file);
    file.set_times(fs::FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
    chmod(path, before.mode() & 0o7777);
}

fn flip(path: &Path, at: u64) {
    tamper(path, |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    });
}

fn punch(path: &Path, at: i64) {
    use nix::fcntl::{FallocateFlags, fallocate};
    tamper(path, |file| fallocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, at, 4096).unwrap());
}

fn touch(path: &Path) {
    fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH)).unwrap();
}

fn scribble_manifest(scene: &Scene, text: &[u8]) {
    let path = Layout::manifest_in(&scene.layout().snapshot(&scene.id));
    chmod(&path, 0o600);
    fs::write(path, text).unwrap();
}

/// What a repair does about a damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mends {
    /// The snapshot is quarantined; what is wrong stays.
    Quarantine,
    /// Something is moved aside.
    Aside,
    /// Refs come or go.
    Refs,
    /// Records of nothing go.
    Records,
    /// Only a person can tell.
    Nothing,
}

type Row<'a> = (&'a str, Mends, &'a dyn Fn(&Scene), &'a [&'a str]);

/// What a line of a listing was called before it was moved aside.
fn where_it_was(line: &str) -> Option<String> {
    let name = line.strip_prefix("store/aside/")?.get("20261124-120000.000000-".len()..)?;
    Some(format!("store/{}", name.replace('%', "/")))
}

/// What a repair may change: everything else must be as it was, and what was moved aside must be there byte for byte.
fn check_changes(words: &str, mends: Mends, before: &BTreeSet<String>, after: &BTreeSet<String>) {
    let aside: BTreeSet<String> = after.iter().filter_map(|line| where_it_was(line)).collect();
    for gone in before.difference(after) {
        let may_go = match mends {
            Mends::Refs => gone.starts_with("store/refs/") && (gone.contains(" -> ") || aside.contains(gone)),
            Mends::Records => gone.contains(NOWHERE),
            _ => aside.contains(gone),
        };
        assert!(may_go, "{words}: {gone} is gone: {after:#?}");
    }
    for new in after.difference(before).filter(|new| !new.starts_with("store/aside/")) {
        let may_come = match mends {
            Mends::Quarantine => new.starts_with("store/marks/"),
            Mends::Refs => new.starts_with("store/refs/") && (new.contains(" -> ") || new.ends_with("/ 40700")),
            _ => false,
        };
        assert!(may_come, "{words}: {new} is new");
    }
    let moved = after.iter().any(|line| where_it_was(line).is_some());
    assert!(mends != Mends::Aside || moved, "{words}: nothing was moved aside");
}

fn table(rows: &[Row<'_>]) {
    let mut count = 0;
    for (words, mends, damage, wanted) in rows {
        let scene = Scene::new();
        assert_eq!(short(&look(&scene.worker)), [""; 0], "before: {words}");
        let inhabitants = scene.inhabitants();
        damage(&scene);
        let before = scene.listing();
        let found = look(&scene.worker);
        assert_eq!(short(&found), *wanted, "{words}: {:#?}", found.findings);
        assert_eq!(scene.listing(), before, "{words}: to look changes nothing");
        for finding in &found.findings {
            let is_told = !finding.what.is_empty() && finding.path.starts_with(scene.world.store.parent().unwrap().to_str().unwrap());
            assert!(is_told, "{words}: {finding:?}");
            assert_eq!((finding.repair.is_none(), finding.repaired), (*mends == Mends::Nothing, false), "{words}: {finding:?}");
        }
        let mended = mend(&scene.worker);
        assert_eq!(short(&mended), *wanted, "{words}");
        assert!(mended.findings.iter().all(|f| f.repaired == f.repair.is_some()), "{words}: {:#?}", mended.findings);
        let after = scene.listing();
        check_changes(words, *mends, &before, &after);
        let left = mend(&scene.worker);
        let may_stay: &[&str] = if matches!(mends, Mends::Quarantine | Mends::Nothing) { wanted } else { &[] };
        assert_eq!(short(&left), may_stay, "{words}: a second look: {:#?}", left.findings);
        assert!(left.findings.iter().all(|f| f.repair.is_none()), "{words}: {:#?}", left.findings);
        assert_eq!(scene.listing(), after, "{words}: a second repair changes nothing");
        assert_eq!(scene.inhabitants(), inhabitants, "{words}");
        let is_bad = *mends == Mends::Quarantine;
        assert_eq!(scene.quarantines(), usize::from(is_bad), "{words}");
        if is_bad {
            assert_eq!(scene.worker.snapshot(scene.id.as_str()).unwrap().state, SnapshotState::Quarantined, "{words}");
            assert_eq!(fork(&scene.worker, &scene.id, "more").unwrap_err(), ProblemKind::Conflict, "{words}");
        }
        count += 1;
    }
    println!("{count} kinds of damage found, mended and looked at again");
}

#[test]
fn a_damaged_snapshot_is_quarantined_and_nothing_of_it_is_changed() {
    table(&[
        ("a byte of a disk", Mends::Quarantine, &|s| flip(&s.stored("overlay.raw"), 10), &["error digest.differs"]),
        ("a byte of memory", Mends::Quarantine, &|s| flip(&s.stored("memory"), 64 << 10), &["error digest.differs"]),
        ("a hole where data was", Mends::Quarantine, &|s| punch(&s.stored("large.raw"), 1 << 20), &["error hole.where_data_was"]),
        (
            "a shorter disk",
            Mends::Quarantine,
            &|s| tamper(&s.stored("overlay.raw"), |file| file.set_len(4096).unwrap()),
            &["error size.differs"],
        ),
        ("memory written anew", Mends::Quarantine, &|s| touch(&s.stored("memory")), &["error mtime.differs"]),
        ("memory that can be written to", Mends::Quarantine, &|s| chmod(&s.stored("memory"), 0o644), &["error memory.writable"]),
        ("a deleted disk", Mends::Quarantine, &|s| fs::remove_file(s.stored("overlay.raw")).unwrap(), &["error file.missing"]),
        ("a deleted directory", Mends::Quarantine, &|s| fs::remove_dir_all(s.stored("sub")).unwrap(), &["error file.missing"]),
        (
            "another target",
            Mends::Quarantine,
            &|s| {
                fs::remove_file(s.stored("disk")).unwrap();
                symlink("/elsewhere", s.stored("disk")).unwrap();
            },
            &["error target.differs"],
        ),
        (
            "a hard link that is a copy",
            Mends::Quarantine,
            &|s| {
                fs::copy(s.stored("sub/two"), s.stored("sub/new")).unwrap();
                fs::rename(s.stored("sub/new"), s.stored("sub/two")).unwrap();
            },
            &["error hardlink.differs"],
        ),
        (
            "a link in place of a disk",
            Mends::Quarantine,
            &|s| {
                fs::remove_file(s.stored("overlay.raw")).unwrap();
                symlink("large.raw", s.stored("overlay.raw")).unwrap();
            },
            &["error type.differs"],
        ),
        ("a manifest that was scribbled on", Mends::Quarantine, &|s| scribble_manifest(s, b"{"), &["error manifest.unreadable"]),
        (
            "a manifest of another",
            Mends::Quarantine,
            &|s| {
                let mut manifest = s.worker.store.manifest(&s.id).unwrap();
                manifest.id = s.nowhere();
                scribble_manifest(s, &seal(&manifest).unwrap());
            },
            &["error manifest.foreign"],
        ),
        ("a disk's mode", Mends::Nothing, &|s| chmod(&s.stored("overlay.raw"), 0o600), &["warn mode.differs"]),
    ]);
}

#[test]
fn what_does_not_belong_there_is_moved_aside() {
    let nobody = ForkId::parse(NOBODY).unwrap();
    table(&[
        ("an extra file", Mends::Aside, &|s| fs::write(s.stored("sub/more"), "x").unwrap(), &["warn file.extra"]),
        (
            "an extra directory",
            Mends::Aside,
            &|s| {
                fs::create_dir(s.stored("more")).unwrap();
                fs::write(s.stored("more/x"), "x").unwrap();
            },
            &["warn file.extra"],
        ),
        ("a half snapshot", Mends::Nothing, &|s| fs::create_dir(s.layout().staged(&s.nowhere())).unwrap(), &["warn staging.stray"]),
        ("in snapshots", Mends::Aside, &|s| fs::create_dir(s.layout().snapshots().join("lost+found")).unwrap(), &["warn name.strange"]),
        ("in refs", Mends::Aside, &|s| fs::create_dir(s.layout().refs().join("x")).unwrap(), &["warn name.strange"]),
        ("in holds", Mends::Aside, &|s| fs::write(s.layout().holds().join("x"), "mine").unwrap(), &["warn name.strange"]),
        ("in marks", Mends::Aside, &|s| fs::create_dir(s.layout().marks().join("x")).unwrap(), &["warn name.strange"]),
        ("in the trash", Mends::Aside, &|s| fs::write(s.layout().trash().join("x"), "x").unwrap(), &["warn name.strange"]),
        ("in a snapshot's refs", Mends::Nothing, &|s| symlink("/x", s.layout().refs_of(&s.id).join("x")).unwrap(), &["warn name.strange"]),
        ("a half fork", Mends::Nothing, &|s| fs::create_dir(s.layout().staged_fork(&nobody)).unwrap(), &["warn fork_staging.stray"]),
    ]);
}

#[test]
fn refs_follow_the_forks_that_there_are_and_records_of_nothing_go() {
    let nobody = ForkId::parse(NOBODY).unwrap();
    table(&[
        ("a deleted ref", Mends::Refs, &|s| fs::remove_file(s.own_ref()).unwrap(), &["error fork.without_ref"]),
        ("all refs deleted", Mends::Refs, &|s| fs::remove_dir_all(s.layout().refs_of(&s.id)).unwrap(), &["error fork.without_ref"]),
        (
            "a ref for nothing",
            Mends::Refs,
            &|s| symlink(s.world.vms.join("none"), s.layout().ref_of(&s.id, &nobody)).unwrap(),
            &["warn ref.dangling"],
        ),
        (
            "a ref that was scribbled on",
            Mends::Refs,
            &|s| {
                fs::remove_file(s.own_ref()).unwrap();
                fs::write(s.own_ref(), "scribble").unwrap();
            },
            &["error ref.unreadable"],
        ),
        (
            "an unreadable ref of nobody",
            Mends::Nothing,
            &|s| fs::write(s.layout().ref_of(&s.id, &nobody), "").unwrap(),
            &["error ref.unreadable"],
        ),
        (
            "a ref of another snapshot's fork in the name of one that is nowhere",
            Mends::Refs,
            &|s| {
                fs::create_dir(s.layout().refs_of(&s.nowhere())).unwrap();
                symlink(s.forked(""), s.layout().ref_of(&s.nowhere(), &s.fork)).unwrap();
            },
            &["warn ref.without_snapshot"],
        ),
        (
            "holds of nothing",
            Mends::Records,
            &|s| {
                fs::create_dir(s.layout().holds_of(&s.nowhere())).unwrap();
                fs::write(s.layout().holds_of(&s.nowhere()).join("kept"), "").unwrap();
            },
            &["info hold.without_snapshot"],
        ),
        (
            "marks of nothing",
            Mends::Records,
            &|s| {
                fs::create_dir(s.layout().marks_of(&s.nowhere())).unwrap();
                fs::write(s.layout().mark(&s.nowhere(), "expiring"), "{}").unwrap();
            },
            &["info mark.without_snapshot"],
        ),
        ("a bad fork record", Mends::Nothing, &|s| fs::write(s.forked(".snapkeep/fork.json"), "{").unwrap(), &["warn fork.unreadable"]),
        (
            "memory linked elsewhere",
            Mends::Nothing,
            &|s| fs::hard_link(s.stored("memory"), s.world.store.parent().unwrap().join("mine")).unwrap(),
            &["info links.unknown"],
        ),
    ]);
}

#[test]
fn refs_of_a_snapshot_that_was_carried_off_stay_and_it_can_be_brought_back() {
    let scene = Scene::new();
    let away = scene.world.store.parent().unwrap().join("away");
    fs::rename(scene.layout().snapshot(&scene.id), &away).unwrap();
    let found = mend(&scene.worker);
    let about_refs: Vec<_> = found.findings.iter().filter(|f| f.name.ends_with(".without_snapshot")).collect();
    assert_eq!((about_refs.len(), about_refs[0].name.as_str()), (1, "fork.without_snapshot"), "{:#?}", found.findings);
    assert!(about_refs[0].repair.is_none() && scene.own_ref().is_symlink());
    fs::rename(&away, scene.layout().snapshot(&scene.id)).unwrap();
    assert_eq!(short(&look(&scene.worker)), [""; 0]);
}

#[test]
fn a_quarantine_is_lifted_only_after_everything_was_found_right() {
    let scene = Scene::new();
    flip(&scene.stored("overlay.raw"), 10);
    mend(&scene.worker);
    flip(&scene.stored("overlay.raw"), 10);
    let quick = scene.worker.verify(&VerifyBody { quick: true, repair: true, ..VerifyBody::default() }).unwrap();
    assert_eq!(short(&quick), [""; 0], "nothing was compared");
    assert_eq!(scene.worker.snapshot(scene.id.as_str()).unwrap().state, SnapshotState::Quarantined);
    assert_eq!(short(&mend(&scene.worker)), ["info quarantine.stale"]);
    assert_eq!(scene.worker.snapshot(scene.id.as_str()).unwrap().state, SnapshotState::Ready);
    fork(&scene.worker, &scene.id, "again").unwrap();
}

#[test]
fn the_program_mends_says_so_and_its_exit_code_tells_how_bad_it_is() {
    for with_worker in [false, true] {
        let world = World::new();
        world.make_instance("golden");
        let program = Program::new(&world, "[scrub]\nenabled = false\n");
        program.ok("init");
        let worker = with_worker.then(|| program.run());
        let id = program.json("snapshot golden --name base")["id"].as_str().unwrap().to_owned();
        let data = world.store.join("snapshots").join(&id).join("data");
        fs::write(data.join("extra"), "mine").unwrap();
        let run = |line: &str| {
            let output = program.output(&format!("{line} --json"));
            let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let names: Vec<String> = found["findings"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect();
            (output.status.code().unwrap(), names, found)
        };
        assert_eq!((run("verify").0, run("verify --strict").0), (0, 1), "a warning");
        assert!(program.ok("verify").contains("--repair would: move it into the store's `aside` directory"));
        let (code, names, found) = run("verify --strict --repair");
        assert_eq!((code, names, found["findings"][0]["repaired"].as_bool()), (0, vec!["file.extra".to_owned()], Some(true)));
        let aside = fs::read_dir(world.store.join("aside")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_to_string(aside).unwrap(), "mine");
        assert_eq!(run("verify --strict").0, 0);
        fs::hard_link(data.join("memory"), world.store.parent().unwrap().join("mine")).unwrap();
        assert_eq!((run("verify --strict").0, run("verify").1), (0, vec!["links.unknown".to_owned()]), "an info");
        flip(&data.join("overlay.raw"), 10);
        assert_eq!(run("verify --quick").0, 0);
        assert_eq!(run("verify").0, 1, "an error");
        let (code, names, _) = run("verify --repair");
        assert_eq!((code, names[0].as_str()), (1, "digest.differs"), "it is contained, not mended");
        assert_eq!(run("verify --resume --rate 1GiB").0, 1);
        assert_eq!(program.json("show base")["state"], "quarantined");
        assert!(program.ok("ls").contains("quarantined"));
        assert_eq!(program.fails("fork base web").0, 4);
        assert_eq!(worker.map_or(0, crate::support::program::Running::stop), 0);
    }
}

#[test]
fn a_worker_that_runs_finds_a_bad_snapshot_by_itself_also_after_it_was_killed() {
    use crate::support::program::eventually;
    let world = World::new();
    world.make_instance("golden");
    let program = Program::new(&world, "[scrub]\nevery = \"1s\"\n");
    program.ok("init");
    let state = |name: &str| program.json(&format!("show {name}"))["state"].as_str().unwrap().to_owned();
    let spoil = |name: &str| {
        let id = program.json(&format!("snapshot golden --name {name}"))["id"].as_str().unwrap().to_owned();
        flip(&world.store.join("snapshots").join(id).join("data/overlay.raw"), 10);
    };
    program.ok("snapshot golden --name good");
    let worker = program.run();
    spoil("first");
    eventually("the first is found", Duration::from_secs(20), || state("first") == "quarantined");
    worker.kill();
    let worker = program.run();
    assert_eq!(state("first"), "quarantined");
    spoil("second");
    eventually("the second is found", Duration::from_secs(20), || state("second") == "quarantined");
    eventually("a pass ends", Duration::from_secs(20), || worker.log().contains("scrub.finished"));
    // The kill may come between an event and the record of its pass: it is said again then, with the same id.
    let ids = |name: &str| -> BTreeSet<String> {
        let log = worker.log();
        let events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.filter(|event| event["event"] == name).map(|event| event["id"].to_string()).collect()
    };
    assert_eq!((ids("scrub.found").len(), ids("snapshot.quarantined").len()), (2, 2), "each is one fact: {}", worker.log());
    assert_eq!((state("good"), worker.stop()), ("ready".to_owned(), 0));
}

/// Counts bytes, and cancels a worker once there are so many.
#[derive(Default)]
struct Counter {
    read: AtomicU64,
    stop_after: AtomicU64,
    worker: OnceLock<Weak<Worker>>,
}

impl Progress for Counter {
    fn total(&self, _: u64) {}
    fn advance(&self, bytes: u64) {
        let read = self.read.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if read >= self.stop_after.load(Ordering::SeqCst)
            && let Some(worker) = self.worker.get().and_then(Weak::upgrade)
        {
            worker.cancel();
        }
    }
}

fn counted(world: &World, stop_after: u64) -> (Arc<Worker>, Arc<Counter>) {
    let text = format!("[store]\npath = \"{}\"\ninstances = \"{}\"\n[worker]\nthreads = 1\n", world.store.display(), world.vms.display());
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let events = Events::new(Arc::clone(&clock), Arc::new(world.events.clone()));
    let around = Surroundings { fs: snapkeep::store::fs::Fs::real(), clock, events };
    let counter = Arc::new(Counter { stop_after: stop_after.into(), ..Counter::default() });
    let worker = Worker::open(parse(vec![("/c.toml".into(), text)]).unwrap(), &around, Arc::<Counter>::clone(&counter)).unwrap();
    counter.worker.set(Arc::downgrade(&worker)).unwrap();
    (worker, counter)
}

#[test]
fn a_run_that_was_stopped_goes_on_after_a_restart_without_reading_again_what_was_right() {
    let world = World::new();
    let dir = world.make_instance("a");
    fs::write(dir.join("filler"), vec![7; 1 << 20]).unwrap();
    let (worker, counter) = counted(&world, u64::MAX);
    for _ in 0..6 {
        take(&world, &worker, "a");
    }
    let mut ids: Vec<_> = worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().map(|s| s.id).collect();
    ids.sort();
    flip(&worker.store.layout.snapshot(&ids[0]).join("data/filler"), 77);
    counter.read.store(0, Ordering::SeqCst);
    assert_eq!(short(&look(&worker)), ["error digest.differs"]);
    let all = counter.read.load(Ordering::SeqCst);
    let one = all / 6;
    drop(worker);
    let (worker, counter) = counted(&world, all / 2);
    assert_eq!(short(&look(&worker)), ["error digest.differs", "warn verify.stopped"]);
    let first = counter.read.load(Ordering::SeqCst);
    drop(worker);
    let (worker, counter) = counted(&world, u64::MAX);
    let resume = VerifyBody { resume: true, ..VerifyBody::default() };
    let found = worker.verify(&resume).unwrap();
    let second = counter.read.swap(0, Ordering::SeqCst);
    assert_eq!(short(&found), ["error digest.differs"], "what was found wrong is found again");
    // Again: the one that is wrong, and the one that was under way.
    println!("{all} bytes in all: {first} and {second}, {one} of one snapshot");
    assert!(first < all && second < all && first + second <= all + 2 * one + one / 2, "{first} + {second} of {all}");
    worker.verify(&resume).unwrap();
    assert_eq!(counter.read.load(Ordering::SeqCst), all, "the last run came to its end: all is read");
}

/// Does something that waits for time to pass, and lets it pass; returns how much did.
fn while_time_passes<T: Send>(world: &World, what: impl FnOnce() -> T + Send) -> (T, Duration) {
    let before = world.clock.since_boot();
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(what);
        while !thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
            if !thread.is_finished() {
                world.clock.advance(Duration::from_millis(100));
            }
        }
        thread.join().unwrap()
    });
    (done, world.clock.since_boot() - before)
}

#[test]
fn a_rate_is_kept_to() {
    let world = World::new();
    let dir = world.make_instance("a");
    fs::write(dir.join("filler"), vec![7; 1 << 20]).unwrap();
    let worker = world.worker("");
    take(&world, &worker, "a");
    let body = VerifyBody { rate: Some(256 << 10), ..VerifyBody::default() };
    let (found, took) = while_time_passes(&world, || worker.verify(&body).unwrap());
    assert_eq!(short(&found), [""; 0]);
    assert!(took >= Duration::from_secs(4), "1 MiB at 256 KiB each second took {took:?}");
}

#[test]
fn the_scrub_looks_at_each_snapshot_once_in_each_interval_also_over_restarts_and_quarantines_a_bad_one() {
    let config = "[scrub]\nevery = \"1d\"\nrate = \"1MiB\"\n";
    let world = World::new();
    world.make_instance("a");
    let mut worker = world.worker(config);
    let ids: Vec<_> = (0..5).map(|_| take(&world, &worker, "a")).collect();
    assert!(!worker.scrub_next(), "what was just taken has just been hashed");
    world.clock.advance(DAY);
    flip(&worker.store.layout.snapshot(&ids[3]).join("data/overlay.raw"), 10);
    let mut rounds = 0;
    while while_time_passes(&world, || worker.scrub_next()).0 {
        rounds += 1;
        if rounds == 2 {
            drop(worker);
            worker = world.worker(config);
        }
        assert!(rounds <= 5, "one turn each");
    }
    assert_eq!(rounds, 5);
    let count = |name: &str| world.event_names().into_iter().filter(|n| *n == name).count();
    let counts = || (count("scrub.found"), count("snapshot.quarantined"), count("scrub.finished"));
    assert_eq!(counts(), (1, 1, 1));
    let found = world.events.events().into_iter().find(|e| matches!(e, Event::ScrubFound { .. })).unwrap();
    assert!(matches!(&found, Event::ScrubFound { name, path, .. } if name == "digest.differs" && path.contains(ids[3].as_str())));
    assert_eq!(worker.snapshot(ids[3].as_str()).unwrap().state, SnapshotState::Quarantined);
    assert_eq!(fork(&worker, &ids[3], "web"), Err(ProblemKind::Conflict));
    fork(&worker, &ids[2], "web").unwrap();
    world.clock.advance(DAY);
    let mut again = 0;
    while while_time_passes(&world, || worker.scrub_next()).0 {
        again += 1;
    }
    assert_eq!((again, counts()), (4, (1, 1, 2)), "what is in quarantine has been reported");
    println!("5 snapshots scrubbed twice, one of them bad");
}

#[test]
fn a_scrub_leaves_a_stopped_verify_its_place() {
    let world = World::new();
    world.make_instance("a");
    let (worker, _) = counted(&world, u64::MAX);
    for _ in 0..4 {
        take(&world, &worker, "a");
    }
    drop(worker);
    // One scrub before, so that it has read the log.
    let scrub = "[scrub]\nevery = \"1d\"\nrate = \"1MiB\"\n[worker]\nthreads = 1\n";
    let worker = world.worker(scrub);
    world.clock.advance(DAY);
    while_time_passes(&world, || worker.scrub_next());
    worker.cancel();
    look(&worker);
    while_time_passes(&world, || worker.scrub_next());
    let log = snapkeep::worker::verify::log::VerifyLog::load(&worker.store.fs, &worker.store.layout);
    assert!(log.unfinished.is_some() && log.at.len() == 2, "{log:?}");
}
