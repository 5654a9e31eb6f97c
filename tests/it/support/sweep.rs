//! Tries every call of an operation with every fault, and looks at what is left: with the process that saw the fault, and
//! with the next one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    dead_code,
    unreachable_pub,
    reason = "support of tests"
)]

use super::faulty::{Fault, Faulty};
use super::{NEVER, Open, World, ask, listing};
use snapkeep::config::parse;
use snapkeep::event::Events;
use snapkeep::fork::ForkError;
use snapkeep::fork::queue::{Request, RequestState};
use snapkeep::ids::{HoldName, SnapshotId};
use snapkeep::reclaim::Reclaim;
use snapkeep::snapshot::copy::{Flow, NoProgress};
use snapkeep::store::fs::{Commits, Fs};
use snapkeep::store::{Refs, Store};
use snapkeep::worker::verify::verify;
use snapkeep::worker::view::Finding;
use snapkeep::worker::{Surroundings, Worker};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One operation.
pub struct Row {
    pub name: &'static str,
    /// What must be there before.
    pub prepare: fn(&Scene),
    /// The operation; `Ok` only if it has all of its effect. It is called again after a failure, and then goes on.
    pub act: fn(&Scene, &Live) -> Result<(), String>,
    /// What must be there behind it.
    pub check: fn(&Scene, &Live, Told),
    /// Whether the start belongs to the operation.
    pub from_start: bool,
    /// Whether the source may change.
    pub keeps_source: bool,
}

/// What is known of an operation's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It said that it is done.
    Done,
    /// It said that it failed.
    Failed,
    /// Nobody was left to say anything, or it is not known.
    Nothing,
}

impl Told {
    /// That `is` agrees with what was told.
    pub fn agrees(self, is: bool) -> bool {
        match self {
            Self::Done => is,
            Self::Failed => !is,
            Self::Nothing => true,
        }
    }
}

/// A store with a source `a`, a snapshot `id` of it with a fork `f`, and a snapshot `spare`.
pub struct Scene {
    _dir: tempfile::TempDir,
    pub world: World,
    pub id: SnapshotId,
    pub spare: SnapshotId,
    /// What a row's `prepare` made.
    pub extra: Mutex<Option<SnapshotId>>,
    /// Listing of `a` and of `f` before the operation.
    pub before: Mutex<(Vec<String>, Vec<String>)>,
    /// What was acknowledged.
    pub taken: Mutex<Vec<SnapshotId>>,
    pub accepted: Mutex<Vec<Request>>,
    /// The configuration behind `[store]`, unless a row's `prepare` puts another one in its place.
    pub config: Mutex<&'static str>,
    /// Listing of `a` that a row works for.
    pub wanted: Mutex<Vec<String>>,
    /// How the file system is to be taken to commit.
    pub commits: Mutex<Commits>,
    /// Whether the harness has emptied the trash.
    pub swept: AtomicBool,
}

/// A worker, and the short words of tests for it.
pub struct Live {
    pub worker: Arc<Worker>,
    pub open: Open,
}

impl Deref for Live {
    type Target = Open;
    fn deref(&self) -> &Open {
        &self.open
    }
}

pub const CONFIG: &str = "[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n[driver]\nmemory_names = [\"memory\"]\n\
    [[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n[policy.keep]\nlast = 1\n";

impl Scene {
    pub fn new() -> Self {
        let dir = if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap();
        let world = World::at(dir.path());
        let a = world.vms.join("a");
        fs::create_dir_all(a.join("logs")).unwrap();
        super::write_sparse(&a.join("overlay.raw"), 16 << 10, &[(4 << 10, b"root of ")]);
        super::write_sparse(&a.join("memory"), 16 << 10, &[(8 << 10, b"ram of ")]);
        fs::write(a.join("config.json"), format!(r#"{{"drive": "{}/overlay.raw"}}"#, a.display())).unwrap();
        std::os::unix::fs::symlink(a.join("overlay.raw"), a.join("disk")).unwrap();
        fs::write(a.join("logs/app.log"), "started\n").unwrap();
        fs::create_dir(world.vms.join("tiny")).unwrap();
        fs::write(world.vms.join("tiny/x"), "x").unwrap();
        // What was changed just now is looked at twice.
        std::thread::sleep(Duration::from_millis(21));
        let open = world.open();
        let (id, spare) = (open.take("a").unwrap(), open.take("a").unwrap());
        assert_eq!(open.fork(&id, "f").unwrap().state, RequestState::Done);
        drop(open);
        Self {
            _dir: dir,
            world,
            id,
            spare,
            extra: Mutex::default(),
            before: Mutex::default(),
            taken: Mutex::default(),
            accepted: Mutex::default(),
            config: Mutex::new(CONFIG),
            wanted: Mutex::default(),
            commits: Mutex::default(),
            swept: AtomicBool::new(false),
        }
    }

    /// A start of the worker.
    pub fn start(&self, fs: Fs) -> Result<Live, String> {
        let (store, vms) = (self.world.store.display(), self.world.vms.display());
        let text = format!("[store]\npath = \"{store}\"\ninstances = \"{vms}\"\n{}", self.config.lock().unwrap());
        let clock: Arc<dyn snapkeep::clock::Clock> = Arc::new(self.world.clock.clone());
        let events = Events::new(Arc::clone(&clock), Arc::new(self.world.events.clone()));
        let config = parse(vec![("/c.toml".into(), text)]).unwrap();
        let worker = Worker::open(config, &Surroundings { fs, clock, events }, Arc::new(NoProgress)).map_err(|e| e.to_string())?;
        let (store, forks) = (Arc::clone(&worker.store), Arc::clone(&worker.forks));
        let reclaim = Reclaim::new(Arc::clone(&store), Arc::clone(&forks));
        Ok(Live { worker, open: Open { store, forks, reclaim } })
    }

    pub fn extra(&self) -> SnapshotId {
        self.extra.lock().unwrap().clone().unwrap()
    }

    fn look(&self, name: &str) -> Vec<String> {
        let dir = self.world.vms.join(name);
        if dir.exists() { listing(&dir) } else { Vec::new() }
    }

    pub fn source_now(&self) -> Vec<String> {
        self.look("a")
    }

    pub fn fork_now(&self) -> Vec<String> {
        self.look("f")
    }

    /// Asks for forks and remembers those that were accepted; those that were before are not asked for again.
    pub fn accept(&self, live: &Live, snapshot: &SnapshotId, names: &[&str]) -> Result<(), String> {
        let known: Vec<String> = self.accepted.lock().unwrap().iter().map(|r| r.name.to_string()).collect();
        let asks = names.iter().filter(|n| !known.iter().any(|k| k == *n)).map(|n| ask(snapshot, n)).collect();
        let mut result = Ok(());
        for answer in live.forks.accept(asks) {
            match answer {
                Ok(request) => self.accepted.lock().unwrap().push(request),
                Err(e) => result = Err(e.to_string()),
            }
        }
        result
    }

    /// Remembers a request of which somebody was told.
    pub fn tell(&self, request: Request) {
        let mut accepted = self.accepted.lock().unwrap();
        accepted.retain(|known| known.id != request.id);
        accepted.push(request);
    }

    /// Builds what waits; fails unless everything that was accepted is done.
    pub fn build(&self, live: &Live) -> Result<(), String> {
        live.forks.run_ready(&NEVER, &NEVER).map_err(|e| e.to_string())?;
        for request in self.accepted.lock().unwrap().iter() {
            let now = live.forks.request(&request.id);
            let state = now.as_ref().map(|r| r.state);
            if state != Some(RequestState::Done) {
                return Err(format!("{} is {state:?}: {:?}", request.name, now.and_then(|r| r.error)));
            }
        }
        Ok(())
    }

    fn findings(&self, live: &Live) -> Vec<Finding> {
        let unfinished = live.forks.requests().into_iter().filter(|r| !r.state.is_final()).map(|r| r.id).collect();
        verify(&Fs::real(), &live.store.layout, &unfinished, Flow::quiet()).findings
    }

    /// What is in memory is what is on the disk, or protects more.
    fn index_agrees(&self, live: &Live, exactly: bool) {
        let disk = Store::open_reader(&self.world.options(Fs::real())).unwrap();
        let of = |store: &Store| -> BTreeMap<SnapshotId, bool> {
            store.index().present().map(|(id, known)| (id.clone(), known.expiring)).collect()
        };
        assert_eq!(of(&live.store), of(&disk), "snapshots and marks, in memory and on the disk");
        for (id, there) in disk.index().all() {
            let here = live.store.index().get(id).cloned().unwrap_or_default();
            let forks = |refs: &Refs| refs.keys().cloned().collect::<BTreeSet<snapkeep::ids::ForkId>>();
            assert!(forks(&here.refs).is_superset(&forks(&there.refs)), "refs of {id}: {here:#?}, on the disk {there:#?}");
            assert!(here.holds.is_superset(&there.holds), "holds of {id}: {here:#?}, on the disk {there:#?}");
            assert!(here.quarantined.is_some() || there.quarantined.is_none(), "{id}");
            if exactly {
                assert_eq!((&here.refs, &here.holds, here.pins), (&there.refs, &there.holds, 0), "{id}");
            }
        }
    }

    /// Everything that was acknowledged is there.
    fn nothing_is_lost(&self, live: &Live, row: &Row) {
        for id in self.taken.lock().unwrap().iter() {
            assert!(live.store.manifest(id).is_ok(), "{id} was taken");
        }
        assert!(live.store.manifest(&self.id).is_ok());
        if row.keeps_source {
            assert_eq!(self.source_now(), self.before.lock().unwrap().0, "the source");
        }
        let mut of_source: Vec<_> = live.store.index().of_instance(&super::instance("a")).iter().map(|s| s.name.clone()).collect();
        let names = of_source.len();
        of_source.sort();
        of_source.dedup();
        assert_eq!(names, of_source.len(), "names of snapshots are unique");
        for entry in fs::read_dir(&self.world.vms).unwrap().map(|e| e.unwrap().path()) {
            if entry.join(".snapkeep/fork.json").exists() && !entry.join("x").exists() {
                self.is_whole_fork(&entry);
            }
        }
    }

    fn is_whole_fork(&self, dir: &Path) {
        for file in ["overlay.raw", "memory"] {
            let is = fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{}: {e}", dir.join(file).display()));
            let was = fs::read(self.world.store.join("snapshots").join(self.id.as_str()).join("data").join(file)).unwrap();
            assert!(is == was, "{}/{file}", dir.display());
        }
        assert!(fs::read_to_string(dir.join("config.json")).unwrap().contains("overlay.raw"));
    }

    /// The store takes, forks and removes.
    fn still_works(&self, live: &Live, fork: &str) {
        self.swept.store(true, Ordering::SeqCst);
        let id = live.take("tiny").unwrap();
        assert_eq!(live.fork(&id, fork).unwrap().state, RequestState::Done);
        fs::remove_dir_all(self.world.vms.join(fork)).unwrap();
        live.forks.reconcile().unwrap();
        live.remove(&id).unwrap_or_else(|e| panic!("{e}"));
        live.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
        let hold = HoldName::parse("still").unwrap();
        live.store.add_hold(&live.store.lock_snapshot(&self.id), &hold).unwrap();
        assert!(live.store.drop_hold(&live.store.lock_snapshot(&self.id), &hold).unwrap());
    }
}

/// Errors among findings.
fn errors(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity == "error").collect()
}

/// The process that saw the fault goes on living; returns what is known of the operation at its end.
fn goes_on(scene: &Scene, row: &Row, live: &Live, gate: &Faulty, told: Told) -> Told {
    (row.check)(scene, live, told);
    scene.nothing_is_lost(live, row);
    scene.index_agrees(live, false);
    let found = scene.findings(live);
    assert!(errors(&found).is_empty(), "while it lives: {found:#?}");
    if live.forks.closed().is_some() {
        let refused = live.accept(&scene.id, "refused");
        assert!(matches!(refused, Err(ForkError::Journal(_))), "the queue is closed: {refused:?}");
        live.take("tiny").unwrap();
        return Told::Nothing;
    }
    if told != Told::Done {
        let mut again = Err(String::new());
        for _ in 0..3 {
            scene.world.clock.advance(Duration::from_secs(61));
            again = (row.act)(scene, live);
            if again.is_ok() {
                break;
            }
        }
        assert_eq!(again, Ok(()), "tried again");
        (row.check)(scene, live, Told::Done);
    }
    // Entries of the pool that were given up are no forks, and no entries either.
    live.forks.pool().clear(&live.store.fs);
    // The ballast is no record: what becomes of it in a power cut is made good by the next sweep.
    let mut not_durable = gate.not_durable();
    not_durable.retain(|path| !path.ends_with("ballast"));
    assert_eq!(not_durable, [""; 0].map(Path::new), "acknowledged, and not durable");
    scene.still_works(live, "while-1");
    scene.index_agrees(live, true);
    scene.accept(live, &scene.id, &["late"]).unwrap();
    Told::Done
}

/// The next start.
fn next_start(scene: &Scene, row: &Row, told: Told) {
    let live = scene.start(Fs::real()).unwrap();
    let found = scene.findings(&live);
    assert!(errors(&found).is_empty(), "after a start: {found:#?}");
    for _ in 0..3 {
        scene.world.clock.advance(Duration::from_secs(61));
        live.forks.run_ready(&NEVER, &NEVER).unwrap();
    }
    scene.build(&live).unwrap();
    (row.check)(scene, &live, told);
    scene.nothing_is_lost(&live, row);
    live.reclaim.sweep(Duration::ZERO, Duration::ZERO).unwrap();
    scene.swept.store(true, Ordering::SeqCst);
    live.forks.reconcile().unwrap();
    scene.index_agrees(&live, true);
    (row.check)(scene, &live, told);
    scene.still_works(&live, "next-1");
    let mut found = scene.findings(&live);
    // What the operation itself marks, and nothing is wrong with.
    found.retain(|finding| finding.name != "quarantine.stale");
    assert!(found.is_empty(), "after a start and a sweep: {found:#?}");
    for staging in [live.store.layout.staging(), live.store.layout.fork_staging()] {
        assert_eq!(listing(&staging), [""; 0]);
    }
}

/// One point; returns the call that went wrong, `None` if the operation passed untouched.
fn point(row: &Row, faults: &[(Fault, u64)]) -> Option<String> {
    let scene = Scene::new();
    (row.prepare)(&scene);
    *scene.before.lock().unwrap() = (scene.source_now(), scene.fork_now());
    let mut hit = None;
    let mut told = Told::Nothing;
    for (fault, n) in faults {
        let gate = Arc::new(Faulty::new(*fault, *n, *scene.commits.lock().unwrap()));
        if row.from_start {
            gate.arm();
        }
        let live = scene.start(Fs::gated(Arc::clone(&gate) as _));
        if !row.from_start {
            gate.begin();
            gate.arm();
        }
        let result = match &live {
            Ok(live) => (row.act)(&scene, live),
            Err(e) => Err(e.clone()),
        };
        hit = gate.hit();
        let is_dead = *fault == Fault::Stop && hit.is_some();
        assert!(*fault != Fault::ShortThenOn || result.is_ok(), "a short write is no failure: {result:?}");
        told = match result {
            _ if is_dead => Told::Nothing,
            Ok(()) => Told::Done,
            Err(_) => Told::Failed,
        };
        let Ok(live) = live else {
            told = Told::Nothing;
            continue;
        };
        if !is_dead && faults.len() == 1 {
            gate.disarm();
            told = goes_on(&scene, row, &live, &gate, told);
        } else if told == Told::Failed {
            told = Told::Nothing;
        }
        hit.as_ref()?;
    }
    next_start(&scene, row, told);
    hit
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// Tries a fault at each `stride`th call until the operation passes untouched, several worlds at a time: they mostly wait.
/// Returns how many points were tried and what went wrong.
pub fn sweep(row: &Row, first: Option<(Fault, u64)>, fault: Fault, stride: u64) -> (u64, Vec<String>) {
    let (next, end, tried) = (AtomicU64::new(0), AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let work = || loop {
        let n = 1 + next.fetch_add(1, Ordering::SeqCst) * stride;
        // More of the same tells nothing new.
        if n > end.load(Ordering::SeqCst) || failures.lock().unwrap().len() >= 24 {
            return;
        }
        let faults: Vec<(Fault, u64)> = first.into_iter().chain([(fault, n)]).collect();
        tried.fetch_add(1, Ordering::SeqCst);
        match catch_unwind(AssertUnwindSafe(|| point(row, &faults))) {
            Ok(Some(_)) => {}
            Ok(None) => drop(end.fetch_min(n, Ordering::SeqCst)),
            Err(panic) => failures.lock().unwrap().push(format!("{} with {faults:?}: {}", row.name, words(&*panic))),
        }
        if n > 2000 {
            failures.lock().unwrap().push(format!("{}: no end", row.name));
            return;
        }
    };
    std::thread::scope(|scope| (0..6).for_each(|_| drop(scope.spawn(work))));
    (tried.into_inner(), failures.into_inner().unwrap())
}
