//! The lock protocol under every schedule (within a bound of preemptions): instance, snapshot, journal; the keyed locks
//! are the crate's own code, compiled over loom's types.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_macros, dead_code, unreachable_pub, reason = "tests")]

use keyed::KeyedLocks;
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::sync::atomic::{AtomicU64, Ordering};

mod sync {
    pub(super) use loom::sync::{Arc, Condvar, Mutex};
    pub(super) use std::sync::PoisonError;
}

#[path = "../../src/store/keyed.rs"]
mod keyed;

/// Tries every schedule with at most so many preemptions; returns how many there are.
fn explore(preemptions: usize, run: impl Fn() + Send + Sync + 'static) -> u64 {
    let count = std::sync::Arc::new(AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&count);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        run();
    });
    count.load(Ordering::Relaxed)
}

/// How a step of a protocol takes its snapshot's lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Locked,
    /// What is written before the cut is not read again under the lock.
    ReadBefore,
}

/// One snapshot: its directory, its refs, and the queue's journal, each a system call away from the others.
struct Model {
    snapshots: KeyedLocks<u8>,
    instances: KeyedLocks<u8>,
    is_there: Mutex<bool>,
    refs: Mutex<u32>,
    journal: Mutex<u32>,
}

const SNAPSHOT: u8 = 0;

impl Model {
    fn new() -> Arc<Self> {
        let keys = KeyedLocks::default;
        Arc::new(Self { snapshots: keys(), instances: keys(), is_there: Mutex::new(true), refs: Mutex::new(0), journal: Mutex::new(0) })
    }

    /// Accept: lock and check, ref, journal, unlock; true if the fork is acknowledged.
    fn accept(&self) -> bool {
        let _held = self.snapshots.lock(&SNAPSHOT);
        if !*self.is_there.lock().unwrap() {
            return false;
        }
        *self.refs.lock().unwrap() += 1;
        *self.journal.lock().unwrap() += 1;
        true
    }

    fn is_needed(&self) -> bool {
        *self.journal.lock().unwrap() > 0 || *self.refs.lock().unwrap() > 0
    }

    /// The cut: lock, read refs and queue again, rename.
    fn cut(&self, how: How) -> bool {
        let needed_before = how == How::ReadBefore && self.is_needed();
        let _held = self.snapshots.lock(&SNAPSHOT);
        let is_needed = if how == How::ReadBefore { needed_before } else { self.is_needed() };
        !is_needed && std::mem::replace(&mut *self.is_there.lock().unwrap(), false)
    }

    /// Unfork and the release of its ref: the instance's lock, then the snapshot's, then the journal.
    fn release(&self) {
        let _instance = self.instances.lock(&SNAPSHOT);
        let _held = self.snapshots.lock(&SNAPSHOT);
        let mut journal = self.journal.lock().unwrap();
        *journal = journal.saturating_sub(1);
        drop(journal);
        let mut refs = self.refs.lock().unwrap();
        *refs = refs.saturating_sub(1);
    }
}

fn accept_against_cut(how: How) {
    let model = Model::new();
    let others: Vec<_> = (0..2)
        .map(|_| {
            let model = Arc::clone(&model);
            thread::spawn(move || model.accept())
        })
        .collect();
    let is_cut = model.cut(how);
    let accepted = others.into_iter().map(|other| other.join().unwrap()).filter(|accepted| *accepted).count();
    assert!(accepted == 0 || !is_cut, "{accepted} forks were acknowledged, and their snapshot is cut");
    assert_eq!(*model.is_there.lock().unwrap(), !is_cut);
}

#[test]
fn no_schedule_ends_with_a_fork_acknowledged_and_its_snapshot_cut() {
    let schedules = explore(3, || accept_against_cut(How::Locked));
    println!("accept, accept and cut: {schedules} schedules");
}

#[test]
#[should_panic(expected = "their snapshot is cut")]
fn a_cut_that_does_not_read_again_under_the_lock_is_caught() {
    explore(3, || accept_against_cut(How::ReadBefore));
}

#[test]
fn locks_in_the_order_instance_snapshot_journal_never_wait_for_each_other_in_a_ring() {
    let schedules = explore(3, || {
        let model = Model::new();
        let (one, other) = (Arc::clone(&model), Arc::clone(&model));
        let accept = thread::spawn(move || one.accept());
        let release = thread::spawn(move || other.release());
        let is_cut = model.cut(How::Locked);
        release.join().unwrap();
        // Released at once, it may be cut after it was acknowledged; with its ref it may not.
        let accepted = accept.join().unwrap();
        assert!(!is_cut || !accepted || *model.refs.lock().unwrap() == 0);
    });
    println!("accept, release and cut: {schedules} schedules");
}

#[test]
fn a_key_has_one_holder_under_every_schedule_and_nobody_waits_for_ever() {
    let schedules = explore(3, || {
        let locks = Arc::new(KeyedLocks::default());
        let inside = Arc::new(Mutex::new([0u32; 2]));
        let hold = |locks: &KeyedLocks<usize>, inside: &Mutex<[u32; 2]>, key: usize| {
            let _held = locks.lock(&key);
            let change = |by: i32| {
                let mut inside = inside.lock().unwrap();
                let here = inside.get_mut(key).unwrap();
                *here = here.checked_add_signed(by).unwrap();
                *here
            };
            assert_eq!(change(1), 1, "two hold it");
            change(-1);
        };
        let others: Vec<_> = [0, 1]
            .map(|key| {
                let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
                thread::spawn(move || hold(&locks, &inside, key))
            })
            .into();
        hold(&locks, &inside, 0);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(locks.try_lock(&0).is_some() && locks.try_lock(&1).is_some(), "a key stayed locked");
    });
    println!("three threads, two keys: {schedules} schedules");
}

/// Two snapshots, and a queue that a cut of both reads once, behind their locks.
struct Both {
    snapshots: KeyedLocks<usize>,
    is_there: [Mutex<bool>; 2],
    queued: Mutex<[u32; 2]>,
}

impl Both {
    /// Accepts a fork of each, with all their locks, in this order; says which are acknowledged.
    fn accept(&self, ids: &[usize]) -> [bool; 2] {
        let _held: Vec<_> = ids.iter().map(|id| self.snapshots.lock(id)).collect();
        let mut accepted = [false; 2];
        for id in ids {
            if *self.is_there.get(*id).unwrap().lock().unwrap() {
                *self.queued.lock().unwrap().get_mut(*id).unwrap() += 1;
                *accepted.get_mut(*id).unwrap() = true;
            }
        }
        accepted
    }

    /// Cuts both; with `early` the queue is read before the locks are held.
    fn cut(&self, early: bool) -> [bool; 2] {
        let before = early.then(|| *self.queued.lock().unwrap());
        let _held = [0, 1].map(|id| self.snapshots.lock(&id));
        let queued = before.unwrap_or_else(|| *self.queued.lock().unwrap());
        [0, 1].map(|id| {
            let mut is_there = self.is_there.get(id).unwrap().lock().unwrap();
            *queued.get(id).unwrap() == 0 && std::mem::replace(&mut *is_there, false)
        })
    }
}

fn accept_against_cut_of_both(early: bool) {
    let both = Arc::new(Both { snapshots: KeyedLocks::default(), is_there: [true, true].map(Mutex::new), queued: Mutex::new([0; 2]) });
    let others: Vec<_> = [[0, 1].as_slice(), &[1]]
        .into_iter()
        .map(|ids| {
            let both = Arc::clone(&both);
            thread::spawn(move || both.accept(ids))
        })
        .collect();
    let cut = both.cut(early);
    for accepted in others.into_iter().map(|other| other.join().unwrap()) {
        assert!(accepted.iter().zip(&cut).all(|(accepted, cut)| !(*accepted && *cut)), "{accepted:?} acknowledged, and {cut:?} cut");
    }
}

#[test]
fn a_cut_of_many_that_reads_the_queue_once_behind_all_its_locks_loses_no_fork_and_waits_for_nobody_for_ever() {
    let schedules = explore(2, || accept_against_cut_of_both(false));
    println!("accept both, accept one, cut both: {schedules} schedules");
}

#[test]
#[should_panic(expected = "acknowledged")]
fn a_cut_of_many_that_reads_the_queue_before_it_has_its_locks_is_caught() {
    explore(2, || accept_against_cut_of_both(true));
}
