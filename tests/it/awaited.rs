//! Forks that are waited for: out of the pool they become durable together with their requests, and nobody is told of one before.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::counts::Counter;
use crate::support::{NEVER, Open, World, ask};
use snapkeep::config::{PoolConfig, Prefork};
use snapkeep::fork::pool::Turn;
use snapkeep::fork::queue::{Ask, Request, RequestState};
use snapkeep::ids::SnapshotId;
use snapkeep::store::fs::{FailNth, Fs, Op};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        let synced = self.counter.calls().into_iter().filter(|(op, _)| *op == Op::Fsync);
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
    for others in [["c", "d"].as_slice(), &["told"]] {
        let scene = Scene::new(2);
        let asks = others.iter().chain(&["b"]).map(|name| Ask { waits: *name != "told", ..ask(&scene.id, name) });
        assert!(scene.open.forks.accept(asks.collect()).iter().all(Result::is_ok));
        assert!(says(&scene.world, "b"), "with {others:?}");
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
    assert!(!says(&scene.world, "b") && scene.world.store.join("refs").join(scene.id.as_str()).join(request.id.as_str()).is_symlink());
    // Whoever asks again and waits as well is told nothing either.
    assert_eq!(scene.accept(keyed.clone()).id, request.id);
    assert!(!says(&scene.world, "b"));
    assert_eq!(scene.accept(Ask { waits: false, ..keyed }).id, request.id);
    assert!(says(&scene.world, "b"));
    // Nobody makes it: after a moment it is promised.
    let scene = Scene::new(2);
    let request = scene.accept(scene.awaited("b"));
    assert!(!says(&scene.world, "b"));
    let began = std::time::Instant::now();
    scene.open.forks.keep_promises(&[request.id]).unwrap();
    assert!(says(&scene.world, "b") && began.elapsed() >= std::time::Duration::from_millis(20));
    // Once.
    let again = scene.counter.during(|| scene.open.forks.keep_promises(&[]).unwrap()).1;
    assert_eq!(again.total(), 0, "{again:?}");
}

#[test]
fn a_promise_that_cannot_be_kept_is_not_made() {
    let scene = Scene::new(1);
    let request = scene.accept(scene.awaited("b"));
    // The journal can be written to, and the refs not be synced.
    let refs = scene.world.store.join("refs").join(scene.id.as_str());
    fs::rename(&refs, refs.with_extension("away")).unwrap();
    let refused = scene.open.forks.keep_promises(std::slice::from_ref(&request.id));
    assert!(matches!(refused, Err(snapkeep::fork::ForkError::Ref(_))), "{refused:?}");
    fs::rename(refs.with_extension("away"), &refs).unwrap();
    scene.open.forks.keep_promises(&[request.id]).unwrap();
    assert!(says(&scene.world, "b"));
}
