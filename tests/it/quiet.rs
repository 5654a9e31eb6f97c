//! An idle schedule: where nothing can have become due nobody looks, and where much is due at once nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::{World, instance};
use chrono::{DateTime, Utc};
use nix::errno::Errno;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use snapkeep::clock::Clock as _;
use snapkeep::policy::cadence::Outcome;
use snapkeep::policy::{Candidate, InstanceTags};
use snapkeep::schedule::Turn;
use snapkeep::store::fs::{Fs, Gate, Op};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn world() -> (tempfile::TempDir, World) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::at(dir.path());
    (dir, world)
}

fn make(world: &World, name: &str) {
    fs::create_dir(world.vms.join(name)).unwrap();
    fs::write(world.vms.join(name).join("x"), "x").unwrap();
}

/// Policies of all kinds: short and long, by calendar and not, one whose snapshots always fail and are tried again.
const POLICIES: &str = "[worker]\nmax_running = 2\n\
    [[policy]]\nname = \"short\"\ninstances = [\"a*\"]\nevery = \"7s\"\nkeep_all = true\n\
    [[policy]]\nname = \"late\"\ninstances = [\"*\"]\nschedule = \"*/2 * * * *\"\njitter = \"50s\"\nkeep_all = true\n\
    [[policy]]\nname = \"skips\"\ninstances = [\"b*\"]\nevery = \"20s\"\nmissed = \"skip\"\nmax_running = 1\nkeep_all = true\n\
    [[policy]]\nname = \"fails\"\ninstances = [\"b1\"]\nevery = \"40s\"\nkind = \"standby\"\nretry = { attempts = 3, backoff = \"3s\" }\n\
    keep_all = true\n";

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Milliseconds go by.
    Pass(u64),
    /// The wall clock is set back, or forward, by seconds.
    Set(i64),
    /// An instance comes, or goes.
    Toggle(usize),
    /// A job that was begun ends.
    End,
    /// Or is left.
    Leave,
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..9000u64).prop_map(Step::Pass),
        1 => (-300..300i64).prop_map(Step::Set),
        1 => (0..4usize).prop_map(Step::Toggle),
        3 => Just(Step::End),
        1 => Just(Step::Leave),
        1 => Just(Step::Reload),
    ];
    proptest::collection::vec(step, 1..60)
}

fn candidates(world: &World) -> Vec<Candidate> {
    let mut names: Vec<String> =
        fs::read_dir(&world.vms).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| !n.starts_with('.')).collect();
    names.sort();
    let candidate = |name: &String| Candidate { instance: instance(name), is_fork: false, tags: InstanceTags::default() };
    names.iter().map(candidate).collect()
}

/// At each moment at which nobody would look, a look finds nothing and changes nothing.
fn live(steps: &[Step]) -> (u64, u64) {
    let (_dir, world) = world();
    ["a1", "a2", "b1"].iter().for_each(|name| make(&world, name));
    let worker = world.worker(POLICIES);
    let (mut running, mut quiet, mut taken) = (Vec::new(), 0, 0);
    for step in steps {
        match step {
            Step::Pass(millis) => world.clock.advance(Duration::from_millis(*millis)),
            Step::Set(by) => world.clock.step_to(world.clock.now() + chrono::TimeDelta::seconds(*by)),
            Step::Toggle(n) => {
                let name = ["a1", "b1", "b2", "c"][*n];
                if world.vms.join(name).exists() {
                    fs::remove_dir_all(world.vms.join(name)).unwrap()
                } else {
                    make(&world, name)
                }
                worker.forks.forget_all_names();
                worker.look_at_root();
            }
            Step::End => {
                if let Some(job) = running.pop() {
                    taken += u64::from(worker.run_job(&job));
                    running.extend(worker.next_turns());
                }
            }
            Step::Leave => running.pop().iter().for_each(|job| worker.schedules.leave(job)),
            Step::Reload => {
                let text = format!("[store]\npath = \"{}\"\ninstances = \"{}\"\n{POLICIES}", world.store.display(), world.vms.display());
                worker.reload(snapkeep::config::parse(vec![("/c.toml".into(), text)]).unwrap());
            }
        }
        let is_quiet = worker.is_quiet();
        let jobs = worker.beat();
        assert!(!is_quiet || jobs.is_empty(), "{jobs:?}");
        running.extend(jobs);
        if let Some(until) = worker.quiet_until() {
            quiet += 1;
            let (now, before) = (world.clock.now(), worker.schedules.pairs());
            assert!(until > now);
            // Also at the last moment before.
            for at in [now, until - chrono::TimeDelta::milliseconds(1)] {
                let config = worker.config();
                let turn = Turn { max_running: config.max_running, only: None };
                let found = worker.schedules.tick(&config.policies, Some(&candidates(&world)), turn, at.max(now));
                assert!(found.is_empty(), "due at {at}, and it was to be quiet until {until}: {found:?}");
            }
            assert_eq!(worker.schedules.pairs(), before, "and nothing is written down");
            assert!(worker.schedules.waiting().is_empty());
            // The looks ahead were not made by the worker.
            worker.schedules.reconsider();
        }
    }
    (quiet, taken)
}

#[test]
fn while_the_schedule_says_that_it_is_quiet_nothing_is_due_and_nothing_to_be_written_down() {
    let cases = if std::env::var_os("FULL").is_some() { 500 } else { 24 };
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let (quiet, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    runner
        .run(&steps(), |steps| {
            let (q, t) = live(&steps);
            quiet.fetch_add(q, Ordering::SeqCst);
            taken.fetch_add(t, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
    let (quiet, taken) = (quiet.into_inner(), taken.into_inner());
    println!("{quiet} quiet moments, {taken} snapshots taken");
    assert!(quiet > 20 && taken > 20);
}

/// Counts the syncs of ledger directories.
#[derive(Debug, Default)]
struct LedgerSyncs(AtomicU64);

impl Gate for LedgerSyncs {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        if op == Op::Fsync && path.ends_with("ledger/p") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[test]
fn of_many_slots_in_one_second_each_is_taken_once_and_none_is_late_by_another() {
    let many = if std::env::var_os("FULL").is_some() { 1000 } else { 100 };
    let (_dir, world) = world();
    (0..many).for_each(|n| make(&world, &format!("vm-{n}")));
    let gate = Arc::new(LedgerSyncs::default());
    let config = "[worker]\nmax_running = 1000\n[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1h\"\nkeep_all = true\n";
    let worker = world.try_worker(config, Fs::gated(Arc::clone(&gate) as _)).unwrap();
    assert!(worker.due_jobs().is_empty());
    assert!(gate.0.load(Ordering::SeqCst) <= 4, "their first entries share a sync: {gate:?}");
    world.clock.advance(Duration::from_secs(3600));
    let slot: DateTime<Utc> = world.clock.now();
    let jobs = worker.due_jobs();
    assert_eq!(jobs.len(), many);
    std::thread::scope(|scope| {
        jobs.iter().for_each(|job| drop(scope.spawn(|| assert!(worker.run_or_leave(job)))));
    });
    assert!(worker.due_jobs().is_empty());
    let entries = worker.schedules.pairs();
    assert_eq!(entries.len(), many);
    for ((_, instance), entry) in entries {
        assert!(matches!(entry.outcome, Some(Outcome::Taken { .. })), "{instance}: {entry:?}");
        assert_eq!((entry.begun, entry.last_slot, entry.late_ms), (None, Some(slot), Some(0)), "{instance}");
    }
    assert_eq!(worker.store.index().present().count(), many);
    let syncs = gate.0.load(Ordering::SeqCst);
    println!("{many} slots, begun and ended: {syncs} syncs of the ledger's directory");
}

/// Has somebody wait with `wait` while `end` is done, long after it began; it must not have waited for its own end.
fn is_ended_by(wait: impl FnOnce() + Send, end: impl FnOnce()) {
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(wait);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "there was nothing to end it yet");
        end();
        waiting.join().unwrap();
    });
    assert!(began.elapsed() < LONG / 2);
}

/// Nobody waits so long.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn who_waits_for_something_to_change_is_told_when_it_does_and_at_the_stop() {
    let began = std::time::Instant::now();
    let (_dir, world) = world();
    make(&world, "a");
    let open = world.open();
    open.forks.watch_root();
    open.forks.reconcile().unwrap();
    assert!(open.forks.is_told_of_changes());
    let news = |wanted: bool| assert_eq!(open.forks.wait_for_news(LONG).news, wanted);
    is_ended_by(|| news(true), || make(&world, "b"));
    // What has just come is looked at again for a while, in case it is a fork whose record comes last: somebody has looked, and
    // the kernel's word is spent.
    open.forks.look().unwrap();
    news(true);
    assert!(!open.forks.is_told_of_changes());
    fs::remove_dir_all(world.vms.join("b")).unwrap();
    open.forks.look().unwrap();
    assert!(open.forks.is_told_of_changes());
    is_ended_by(|| assert!(!open.forks.wait_for_news(LONG).mounts), || open.forks.wake());
    let (stop, seen) = (AtomicBool::new(false), open.store.changes());
    is_ended_by(|| open.store.wait_for_change(seen, LONG, &stop), || assert!(open.take("a").is_ok()));
    let seen = open.store.changes();
    is_ended_by(|| open.store.wait_for_change(seen, LONG, &stop), || open.store.wake());
    assert_eq!(open.store.changes(), seen);
    // Said before the wait began.
    stop.store(true, Ordering::SeqCst);
    open.store.wait_for_change(seen, LONG, &stop);
    open.forks.pool().wait(LONG, &stop);
    assert!(began.elapsed() < LONG / 2);
}
