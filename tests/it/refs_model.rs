//! Who needs what, against a naive model: random lives of snapshots and forks on real files, with people moving, copying
//! and deleting forks, and with restarts. After each step counts, states and what removal says are the model's.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::{NEVER, World, instance};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use snapkeep::ids::{HoldName, SnapshotId};
use snapkeep::policy::SnapshotState;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::{Backend, Removal};
use snapkeep::worker::problem::ProblemKind;
use snapkeep::worker::view::{ForkBody, TakeBody};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CONFIG: &str = "[trash]\ngrace = \"1h\"\nfork_grace = \"1h\"\n";

#[derive(Debug, Clone, Copy)]
enum Step {
    Take,
    Fork,
    Accept,
    Run,
    Unfork,
    Delete,
    Move,
    Copy,
    Hold,
    Release,
    Remove,
    Defer,
    Undelete,
    Prune,
    Sweep,
    Restart,
}

const STEPS: [Step; 16] = [
    Step::Take,
    Step::Fork,
    Step::Accept,
    Step::Run,
    Step::Unfork,
    Step::Delete,
    Step::Move,
    Step::Copy,
    Step::Hold,
    Step::Release,
    Step::Remove,
    Step::Defer,
    Step::Undelete,
    Step::Prune,
    Step::Sweep,
    Step::Restart,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    There,
    Trashed,
    Gone,
}

#[derive(Debug)]
struct Snap {
    id: SnapshotId,
    place: Place,
    is_expiring: bool,
    holds: BTreeSet<&'static str>,
}

/// A directory that carries a fork's id.
#[derive(Debug)]
struct Carrier {
    name: String,
    fork: usize,
    is_trashed: bool,
}

#[derive(Debug, Default)]
struct Model {
    snaps: Vec<Snap>,
    /// By fork: its parent.
    parents: Vec<usize>,
    queued: BTreeMap<usize, String>,
    carriers: Vec<Carrier>,
    names: u32,
}

impl Model {
    fn refs(&self, snap: usize) -> u64 {
        let needing = self.queued.keys().copied().chain(self.carriers.iter().map(|c| c.fork));
        needing.filter(|fork| self.parents[*fork] == snap).collect::<BTreeSet<_>>().len() as u64
    }

    fn is_free(&self, snap: usize) -> bool {
        self.refs(snap) == 0 && self.snaps[snap].holds.is_empty()
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("f{}", self.names)
    }
}

struct Life {
    world: World,
    worker: Option<Arc<Worker>>,
    model: Model,
    _dir: tempfile::TempDir,
}

fn kind_of<T>(answer: &Result<T, snapkeep::worker::problem::Problem>) -> Option<ProblemKind> {
    answer.as_ref().err().map(|problem| problem.kind)
}

impl Life {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let world = World::at(dir.path());
        fs::create_dir(world.vms.join("a")).unwrap();
        fs::write(world.vms.join("a/memory"), "memory").unwrap();
        let worker = Some(world.worker(CONFIG));
        Self { world, worker, model: Model::default(), _dir: dir }
    }

    fn worker(&self) -> Arc<Worker> {
        Arc::clone(self.worker.as_ref().unwrap())
    }

    fn run(&mut self) {
        self.worker().forks.run_ready(&NEVER, &NEVER).unwrap();
        for (fork, name) in std::mem::take(&mut self.model.queued) {
            self.model.carriers.push(Carrier { name, fork, is_trashed: false });
        }
    }

    fn accept(&mut self, snap: usize) {
        let name = self.model.name();
        let body = ForkBody { name: Some(name.clone()), ..ForkBody::default() };
        let answer = self.worker().fork(self.model.snaps[snap].id.as_str(), &body, None);
        let Snap { place, is_expiring, .. } = self.model.snaps[snap];
        match (place, is_expiring) {
            (Place::There, false) => {
                answer.unwrap();
                self.model.queued.insert(self.model.parents.len(), name);
                self.model.parents.push(snap);
            }
            (Place::There, true) => assert_eq!(kind_of(&answer), Some(ProblemKind::Conflict)),
            _ => assert_eq!(kind_of(&answer), Some(ProblemKind::NotFound)),
        }
    }

    fn remove(&mut self, snap: usize, how: Removal) {
        let answer = self.worker().remove(self.model.snaps[snap].id.as_str(), how);
        let is_free = self.model.is_free(snap);
        let known = &mut self.model.snaps[snap];
        match (known.place, is_free) {
            (Place::There, true) => {
                assert_eq!(answer.unwrap().result, "removed");
                known.place = Place::Trashed;
            }
            (Place::There, false) if how == Removal::Defer => {
                assert_eq!(answer.unwrap().result, "expiring");
                known.is_expiring = true;
            }
            (Place::There, false) => assert_eq!(kind_of(&answer), Some(ProblemKind::Conflict)),
            _ => assert_eq!(kind_of(&answer), Some(ProblemKind::NotFound)),
        }
    }

    fn undelete(&mut self, snap: usize) {
        let answer = self.worker().undelete(self.model.snaps[snap].id.as_str(), None);
        let known = &mut self.model.snaps[snap];
        match (known.place, known.is_expiring) {
            (Place::Trashed, _) => {
                assert_eq!(answer.unwrap().result, "undeleted");
                (known.place, known.is_expiring) = (Place::There, false);
                known.holds.insert("undeleted");
            }
            (Place::There, true) => {
                assert_eq!(answer.unwrap().result, "kept");
                known.is_expiring = false;
            }
            _ => assert_eq!(kind_of(&answer), Some(ProblemKind::NotFound)),
        }
    }

    /// Holds and releases; `undeleted` is released as any other.
    fn hold(&mut self, snap: usize, sets: bool) {
        let worker = self.worker();
        let known = &mut self.model.snaps[snap];
        let name = if sets { "mine" } else { known.holds.first().copied().unwrap_or("mine") };
        let hold = HoldName::parse(name).unwrap();
        let answer = if sets { worker.hold(known.id.as_str(), &hold) } else { worker.release(known.id.as_str(), &hold) };
        let was_there = known.holds.contains(name);
        if known.place != Place::There || !sets && !was_there {
            return assert_eq!(kind_of(&answer), Some(ProblemKind::NotFound));
        }
        answer.unwrap();
        if sets {
            known.holds.insert(name)
        } else {
            known.holds.remove(name)
        };
    }

    /// What people do to a published fork.
    fn handle(&mut self, step: Step, pick: usize) {
        let live: Vec<usize> = (0..self.model.carriers.len()).filter(|at| !self.model.carriers[*at].is_trashed).collect();
        let Some(at) = live.get(pick % live.len().max(1)).copied() else { return };
        let path = self.world.vms.join(&self.model.carriers[at].name);
        let name = self.model.name();
        let to = self.world.vms.join(&name);
        match step {
            Step::Unfork => {
                self.worker().unfork(&instance(&self.model.carriers[at].name)).unwrap();
                self.model.carriers[at].is_trashed = true;
            }
            Step::Delete => {
                fs::remove_dir_all(path).unwrap();
                self.model.carriers.remove(at);
            }
            Step::Move => {
                fs::rename(path, to).unwrap();
                self.model.carriers[at].name = name;
            }
            _ => {
                assert!(Command::new("cp").arg("-a").arg(path).arg(to).status().unwrap().success());
                let fork = self.model.carriers[at].fork;
                self.model.carriers.push(Carrier { name, fork, is_trashed: false });
            }
        }
    }

    fn step(&mut self, step: Step, pick: usize) {
        if self.model.snaps.is_empty() || matches!(step, Step::Take) {
            let body = TakeBody { instance: instance("a"), name: None, tags: BTreeMap::new() };
            let id = self.worker().take(&body).unwrap().id;
            self.model.snaps.push(Snap { id, place: Place::There, is_expiring: false, holds: BTreeSet::new() });
        }
        // Few snapshots, so that much meets at each.
        let newest = self.model.snaps.len();
        let snap = newest - 1 - pick % newest.min(3);
        match step {
            Step::Take => {}
            Step::Fork => {
                self.accept(snap);
                self.run();
            }
            Step::Accept => self.accept(snap),
            Step::Run => self.run(),
            Step::Unfork | Step::Delete | Step::Move | Step::Copy => self.handle(step, pick),
            Step::Hold => self.hold(snap, true),
            Step::Release => self.hold(snap, false),
            Step::Remove => self.remove(snap, Removal::Now),
            Step::Defer => self.remove(snap, Removal::Defer),
            Step::Undelete => self.undelete(snap),
            Step::Prune => {
                self.worker().prune_pass().unwrap();
                for at in 0..newest {
                    let goes = self.model.snaps[at].is_expiring && self.model.is_free(at);
                    let known = &mut self.model.snaps[at];
                    if known.place == Place::There && goes {
                        known.place = Place::Trashed;
                    }
                }
            }
            Step::Sweep => {
                self.world.clock.advance(Duration::from_secs(2 * 3600));
                self.worker().sweep().unwrap();
                self.model.carriers.retain(|carrier| !carrier.is_trashed);
                self.model.snaps.iter_mut().filter(|s| s.place == Place::Trashed).for_each(|s| s.place = Place::Gone);
            }
            Step::Restart => {
                drop(self.worker.take());
                self.worker = Some(self.world.worker(CONFIG));
            }
        }
    }

    fn check(&self) {
        let worker = self.worker();
        worker.look_at_root();
        for (at, known) in self.model.snaps.iter().enumerate() {
            let view = worker.snapshot(known.id.as_str());
            if known.place != Place::There {
                assert_eq!(kind_of(&view), Some(ProblemKind::NotFound), "{known:?}");
                continue;
            }
            let view = view.unwrap();
            let state = if known.is_expiring { SnapshotState::Expiring } else { SnapshotState::Ready };
            let holds: BTreeSet<&str> = view.holds.iter().map(HoldName::as_str).collect();
            assert_eq!(
                (view.ref_count, view.state, &holds),
                (self.model.refs(at), state, &known.holds.iter().copied().collect()),
                "{known:?}"
            );
        }
    }
}

#[test]
fn ref_counts_states_and_refusals_are_those_of_a_naive_model_whatever_people_do() {
    let is_full = std::env::var_os("FULL").is_some();
    let config = Config { cases: if is_full { 3000 } else { 64 }, failure_persistence: None, ..Config::default() };
    let (lives, steps) = (AtomicU64::new(0), AtomicU64::new(0));
    let step = (prop::sample::select(STEPS.to_vec()), any::<u8>());
    TestRunner::new(config)
        .run(&prop::collection::vec(step, 1..40), |life_steps| {
            let mut life = Life::new();
            for (step, pick) in life_steps {
                life.step(step, usize::from(pick));
                life.check();
                steps.fetch_add(1, Ordering::Relaxed);
            }
            lives.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    println!("{} lives, {} steps", lives.into_inner(), steps.into_inner());
}
