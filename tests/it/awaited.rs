//! Forks that are waited for: out of the pool they become durable together with their requests, and nobody is told of one before.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::counts::Counter;
use crate::support::{NEVER, Open, World, ask};
use nix::errno::Errno;
use snapkeep::config::{PoolConfig, Prefork};
use snapkeep::event::Event;
use snapkeep::fork::ForkError;
use snapkeep::fork::pool::Turn;
use snapkeep::fork::queue::{Ask, Request, RequestState};
use snapkeep::ids::SnapshotId;
use snapkeep::store::fs::{Commits, FailNth, Fs, Gate, Op};
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::ForkBody;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A store on a file system that commits in order, with so many forks of a snapshot lying ready.
struct Scene {
    world: World,
    counter: Counter,
    open: Open,
    id: SnapshotId,
}

impl Scene {
    fn new(ready: u32) -> Self {
        let counter = Counter::default();
        let (world, open, id) = with_pool(counter.fs(), ready);
        Self { world, counter, open, id }
    }

    fn awaited(&self, name: &str) -> Ask {
        Ask { waits: true, ..ask(&self.id, name) }
    }

    fn accept(&self, ask: Ask) -> Request {
        self.open.forks.accept(vec![ask]).pop().unwrap().unwrap()
    }

    /// What is synced while a fork is asked for and made, below the world's directory.
    fn synced(&self, make: impl FnOnce() -> Request) -> Vec<PathBuf> {
        let (request, _) = self.counter.during(make);
        assert_eq!(request.state, RequestState::Done);
        let root = self.world.store.parent().unwrap();
        let synced = self.counter.calls().into_iter().filter(|(op, _)| matches!(op, Op::Fsync | Op::Syncfs));
        synced.map(|(_, path)| path.strip_prefix(root).unwrap().to_owned()).collect()
    }
}

fn with_pool(gated: Fs, ready: u32) -> (World, Open, SnapshotId) {
    let world = World::new();
    world.make_instance("golden");
    let open = world.try_open(gated).unwrap();
    open.recover().unwrap();
    let id = open.take("golden").unwrap();
    open.fork(&id, "first").unwrap();
    let rule = Prefork { policy: None, instances: None, exclude: globset::GlobSet::empty(), tags: Default::default(), newest: 1, ready };
    open.forks.configure_pool(PoolConfig { rules: vec![rule], ..PoolConfig::default() });
    while open.forks.tend_pool(&NEVER) == Turn::Done {}
    (world, open, id)
}

/// A file system that commits in order, until a call whose path ends so fails; and then, if it `kills`, every other one too.
#[derive(Debug)]
struct Trouble {
    on: Op,
    at: &'static str,
    kills: bool,
    is_armed: AtomicBool,
    is_dead: AtomicBool,
}

impl Trouble {
    fn new(on: Op, at: &'static str, kills: bool) -> Arc<Self> {
        Arc::new(Self { on, at, kills, is_armed: AtomicBool::new(false), is_dead: AtomicBool::new(false) })
    }

    fn arm(&self, armed: bool) {
        self.is_armed.store(armed, Ordering::SeqCst);
    }
}

impl Gate for Trouble {
    fn commits(&self) -> Commits {
        Commits::InOrder
    }

    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        let is_it = self.is_armed.load(Ordering::SeqCst) && op == self.on && path.to_string_lossy().contains(self.at);
        if is_it && self.kills {
            self.is_dead.store(true, Ordering::SeqCst);
        }
        if is_it || self.is_dead.load(Ordering::SeqCst) { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

fn events_of(world: &World, name: &str) -> Vec<&'static str> {
    let is_of = |event: &Event| match event {
        Event::ForkQueued { name: of, .. } | Event::ForkCreated { name: of, .. } | Event::ForkFailed { name: of, .. } => of == name,
        _ => false,
    };
    world.events.events().iter().filter(|event| is_of(event)).map(Event::name).collect()
}

/// Whether the journal on the disk names a fork.
fn says(world: &World, name: &str) -> bool {
    fs::read_to_string(world.store.join("queue/journal")).unwrap().contains(&format!("\"{name}\""))
}

#[test]
fn a_fork_out_of_the_pool_that_is_waited_for_is_synced_once_with_its_request() {
    let scene = Scene::new(2);
    let refs = Path::new("store/refs").join(scene.id.as_str());
    let told = scene.synced(|| scene.open.fork(&scene.id, "told").unwrap());
    assert_eq!(told, ["store/queue/journal".into(), refs, "store/queue/journal".into(), PathBuf::from("vms")]);
    let awaited = scene.synced(|| scene.open.fork_awaited(&scene.id, "awaited").unwrap());
    assert_eq!(awaited, ["store/queue/journal", "vms"].map(PathBuf::from));
    // A start knows of both, and of nothing else.
    drop(scene.open);
    let open = scene.world.open();
    let done = |name: &str| open.forks.requests().iter().any(|r| r.name.as_str() == name && r.state == RequestState::Done);
    assert!(done("told") && done("awaited"));
    assert_eq!(open.ref_count(&scene.id), 3);
}

#[test]
fn what_does_not_lie_ready_or_comes_behind_others_is_promised_at_once() {
    for (ready, before) in [(0, None), (2, Some("before"))] {
        let scene = Scene::new(ready);
        before.iter().for_each(|name| drop(scene.open.accept(&scene.id, name).unwrap()));
        scene.accept(scene.awaited("b"));
        assert!(says(&scene.world, "b"), "{ready} ready, behind {before:?}");
    }
    // More than lie ready, or one whose asker does not wait.
    for (others, batch) in [(["c", "d"].as_slice(), 0), (&["told"], 0), (&["c"], 7)] {
        let scene = Scene::new(2);
        let asks = others.iter().chain(&["b"]).map(|name| Ask { waits: *name != "told", batch, ..ask(&scene.id, name) });
        assert!(scene.open.forks.accept(asks.collect()).iter().all(Result::is_ok));
        assert!(says(&scene.world, "b"), "with {others:?}, batch {batch}");
    }
}

#[test]
fn where_nothing_is_known_of_the_order_of_commits_a_request_is_promised_at_once() {
    let (world, open, id) = with_pool(Fs::gated(Arc::new(FailNth::new(u64::MAX, nix::errno::Errno::EIO))), 2);
    open.forks.accept(vec![Ask { waits: true, ..ask(&id, "b") }]).pop().unwrap().unwrap();
    assert!(says(&world, "b"));
}

#[test]
fn a_request_is_promised_before_its_fork_takes_long_after_all() {
    let scene = Scene::new(1);
    let pool = scene.world.vms.join(".snapkeep/pool").join(scene.id.as_str());
    let entry = fs::read_dir(pool).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.join("overlay.raw").exists()).unwrap();
    fs::write(entry.join("overlay.raw"), "somebody was here").unwrap();
    let request = scene.accept(scene.awaited("b"));
    assert!(!says(&scene.world, "b"));
    scene.counter.during(|| scene.open.forks.run_ready(&NEVER, &NEVER).unwrap());
    assert_eq!(scene.open.forks.request(&request.id).unwrap().state, RequestState::Done);
    let calls = scene.counter.calls();
    let staged = scene.world.vms.join(".snapkeep/staging").join(request.id.as_str());
    let at = |wanted: Op, path: &Path| calls.iter().position(|(op, at)| *op == wanted && at == path).unwrap();
    let built = at(Op::Mkdir, &staged);
    assert!(at(Op::Fsync, &scene.world.store.join("queue/journal")) < built);
    assert!(at(Op::Fsync, &scene.world.store.join("refs").join(scene.id.as_str())) < built);
}

#[test]
fn nobody_is_told_of_a_request_before_it_is_durable() {
    let scene = Scene::new(2);
    let keyed = Ask { key: Some("k".to_owned()), ..scene.awaited("b") };
    let request = scene.accept(keyed.clone());
    let is_told = |id: &snapkeep::ids::ForkId| scene.open.forks.told().iter().any(|told| told.id == *id);
    assert!(!says(&scene.world, "b") && scene.world.store.join("refs").join(scene.id.as_str()).join(request.id.as_str()).is_symlink());
    // Whoever asks again and waits as well is told nothing either.
    assert_eq!(scene.accept(keyed.clone()).id, request.id);
    assert!(!says(&scene.world, "b") && !is_told(&request.id) && events_of(&scene.world, "b").is_empty());
    assert_eq!(scene.accept(Ask { waits: false, ..keyed }).id, request.id);
    assert!(says(&scene.world, "b") && is_told(&request.id));
    assert_eq!(events_of(&scene.world, "b"), ["fork.queued"]);
    assert_eq!(scene.open.forks.run_ready(&NEVER, &NEVER).unwrap().done, 1);
    assert_eq!(events_of(&scene.world, "b"), ["fork.queued", "fork.created"]);
    // Nobody makes it: after a moment it is promised, once.
    let request = scene.accept(scene.awaited("c"));
    assert!(!says(&scene.world, "c"));
    let began = std::time::Instant::now();
    scene.open.forks.keep_promises(std::slice::from_ref(&request.id)).unwrap();
    assert!(says(&scene.world, "c") && began.elapsed() >= Duration::from_millis(20));
    let again = scene.counter.during(|| scene.open.forks.keep_promises(std::slice::from_ref(&request.id)).unwrap()).1;
    assert_eq!((again.total(), events_of(&scene.world, "c").len()), (0, 1), "{again:?}");
}

#[test]
fn what_cannot_be_promised_is_not_made() {
    let trouble = Trouble::new(Op::Fsync, "/refs/", false);
    let (world, open, id) = with_pool(Fs::gated(Arc::clone(&trouble) as _), 2);
    let request = open.forks.accept(vec![Ask { waits: true, ..ask(&id, "b") }]).pop().unwrap().unwrap();
    trouble.arm(true);
    let refused = open.forks.keep_promises(std::slice::from_ref(&request.id));
    trouble.arm(false);
    assert!(matches!(refused, Err(ForkError::Ref(_))), "{refused:?}");
    assert_eq!(open.forks.request(&request.id).unwrap().state, RequestState::Failed);
    assert_eq!((open.forks.run_ready(&NEVER, &NEVER).unwrap().done, open.ref_count(&id)), (0, 1));
    // The name is free.
    assert_eq!(open.fork_awaited(&id, "b").unwrap().state, RequestState::Done);
    drop(open);
    assert_eq!(world.open().ref_count(&id), 2);
}

#[test]
fn a_fork_that_a_crash_left_without_its_request_is_known_again_behind_a_start() {
    let trouble = Trouble::new(Op::Write, "queue/journal", true);
    let (world, open, id) = with_pool(Fs::gated(Arc::clone(&trouble) as _), 2);
    let keyed = Ask { key: Some("k".to_owned()), waits: true, ..ask(&id, "b") };
    let request = open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap();
    trouble.arm(true);
    open.forks.run_ready(&NEVER, &NEVER).unwrap_err();
    drop(open);
    assert!(world.vms.join("b").exists() && !says(&world, "b") && events_of(&world, "b").is_empty());
    for _ in 0..2 {
        // Once, however often it is started.
        let open = world.open();
        assert_eq!(events_of(&world, "b"), ["fork.queued", "fork.created"]);
        let known = open.forks.accept(vec![keyed.clone()]).pop().unwrap().unwrap();
        assert_eq!((known.id, known.state), (request.id.clone(), RequestState::Done));
        assert_eq!(open.ref_count(&id), 2);
    }
}

#[test]
fn whoever_waits_is_told_of_a_fork_that_was_made_though_its_request_could_not_be_written_down() {
    let trouble = Trouble::new(Op::Write, "queue/journal", false);
    let world = World::new();
    world.make_instance("golden");
    let config = "[worker]\nthreads = 1\n[driver]\nmemory_names = [\"memory\"]\n[[prefork]]\ninstances = [\"golden\"]\nready = 2\n";
    let worker = world.try_worker(config, Fs::gated(Arc::clone(&trouble) as _)).unwrap();
    let body = |name: &str| ForkBody { name: Some(name.to_owned()), names: None, count: None, prefix: None, key: None };
    let taken = worker.take(&serde_json::from_str(r#"{"instance": "golden"}"#).unwrap()).unwrap();
    worker.fork(taken.id.as_str(), &body("first"), None).unwrap();
    worker.forks.run_ready(&NEVER, &NEVER).unwrap();
    while worker.forks.tend_pool(&NEVER) == Turn::Done {}
    trouble.arm(true);
    let problem = std::thread::scope(|scope| {
        let asker = scope.spawn(|| worker.fork(taken.id.as_str(), &body("b"), Some(Duration::from_secs(5))).unwrap_err());
        while !asker.is_finished() {
            worker.forks.wait_for_work(Duration::from_millis(5));
            drop(worker.forks.run_ready(&NEVER, &NEVER));
        }
        asker.join().unwrap()
    });
    assert!(problem.detail.contains("No space left") && problem.detail.contains("known again behind a start: b"), "{problem:?}");
    drop(worker);
    let worker = world.worker(config);
    assert!(worker.queue().unwrap().requests.iter().any(|request| request.name.as_str() == "b" && request.state == "done"));
}
