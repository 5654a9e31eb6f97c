//! Schedules through the worker: slots end with an outcome, whatever happens; clocks step; instances fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::World;
use chrono::TimeDelta;
use snapkeep::clock::Clock as _;
use snapkeep::config::parse;
use snapkeep::event::Event;
use snapkeep::policy::cadence::Outcome;
use snapkeep::store::fs::{Fs, StopAfter};
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::PlanBody;
use snapkeep::worker::{Worker, WorkerError};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

const HOURLY: &str = "[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1h\"\n[policy.keep]\nlast = 2\n";

fn worker_on(world: &World, policies: &str, fs: Fs) -> Result<Arc<Worker>, WorkerError> {
    world.try_worker(&format!("[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n{policies}"), fs)
}

fn worker(world: &World, policies: &str) -> Arc<Worker> {
    worker_on(world, policies, Fs::real()).unwrap()
}

fn outcome(worker: &Worker, instance: &str) -> Option<Outcome> {
    worker.schedules.pairs().into_iter().find(|((_, i), _)| i.as_str() == instance).and_then(|(_, entry)| entry.outcome)
}

fn count(world: &World, name: &str) -> usize {
    world.event_names().iter().filter(|n| **n == name).count()
}

fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

#[test]
fn the_newest_scheduled_ones_are_kept_never_a_manual_one_and_one_with_forks_goes_after_them() {
    let world = World::new();
    world.make_instance("a");
    let worker = worker(&world, HOURLY);
    worker.once().unwrap();
    let by_hand = worker.take(&serde_json::from_str(r#"{"instance": "a"}"#).unwrap()).unwrap();
    world.clock.advance(hours(1));
    worker.once().unwrap();
    let first = worker.snapshots(&Default::default()).unwrap().snapshots[1].id.clone();
    worker.fork(first.as_str(), &serde_json::from_str(r#"{"name": "f"}"#).unwrap(), None).unwrap();
    for _ in 0..3 {
        world.clock.advance(hours(1));
        worker.once().unwrap();
    }
    let ids = || worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(ids().len(), 4);
    assert!(ids().contains(&by_hand.id) && ids().contains(&first));
    fs::remove_dir_all(world.vms.join("f")).unwrap();
    worker.once().unwrap();
    assert!(ids().contains(&by_hand.id) && !ids().contains(&first));
}

#[test]
fn a_missed_slot_is_caught_up_once_and_logged() {
    let world = World::new();
    world.make_instance("a");
    worker(&world, HOURLY).once().unwrap();
    // The worker is away for half a day.
    world.clock.advance(hours(12));
    let away = worker(&world, HOURLY);
    away.once().unwrap();
    away.once().unwrap();
    assert_eq!(away.snapshots(&Default::default()).unwrap().snapshots.len(), 1);
    let missed = world.events.events().into_iter().find_map(|e| if let Event::SlotMissed { count, .. } = e { Some(count) } else { None });
    assert_eq!(missed, Some(11));
    drop(away);
    let skip = HOURLY.replace("every", "missed = \"skip\"\nevery");
    world.clock.advance(hours(5) + Duration::from_secs(1800));
    let worker = worker(&world, &skip);
    worker.once().unwrap();
    assert!(matches!(outcome(&worker, "a"), Some(Outcome::Missed { count: 5, .. })));
    assert_eq!(worker.snapshots(&Default::default()).unwrap().snapshots.len(), 1);
}

#[test]
fn a_stop_at_any_step_of_a_slot_shows_as_taken_or_as_failed_interrupted_never_as_running() {
    let mut interrupted = 0;
    for n in 0.. {
        let world = World::new();
        world.make_instance("a");
        worker(&world, HOURLY).once().unwrap();
        world.clock.advance(hours(1));
        let gate = Arc::new(StopAfter::new(n));
        if let Ok(stopped) = worker_on(&world, HOURLY, Fs::gated(Arc::clone(&gate) as _)) {
            let _ = stopped.once();
        }
        let again = worker(&world, HOURLY);
        let taken = again.snapshots(&Default::default()).unwrap().snapshots;
        match outcome(&again, "a") {
            Some(Outcome::Taken { snapshot, .. }) => assert_eq!(taken[0].id, snapshot),
            Some(Outcome::Failed { interrupted: was, .. }) => {
                interrupted += u32::from(was);
                assert_eq!(taken.len(), 0);
            }
            // Not yet begun: it is taken now.
            _ => assert_eq!(taken.len(), 0),
        }
        assert!(again.status().unwrap().policies.iter().all(|p| p.state != "running"));
        again.once().unwrap();
        world.clock.advance(hours(1));
        again.once().unwrap();
        assert!(matches!(outcome(&again, "a"), Some(Outcome::Taken { .. })), "the schedule goes on");
        if !gate.has_stopped() {
            break;
        }
    }
    assert!(interrupted > 10, "{interrupted}");
}

#[test]
fn one_failing_instance_stops_no_other_and_its_failures_are_counted_and_shown() {
    let world = World::new();
    for name in ["bad", "good"] {
        world.make_instance(name);
    }
    let policies = format!(
        "[driver]\nfreeze = ['test \"$SNAPKEEP_INSTANCE\" = good']\nthaw = ['touch {}/thawed-$SNAPKEEP_INSTANCE']\n{HOURLY}",
        world.store.parent().unwrap().display()
    );
    let worker = worker(&world, &policies);
    worker.once().unwrap();
    for _ in 0..4 {
        world.clock.advance(hours(1));
        assert_eq!(worker.once().unwrap(), 1, "one slot failed");
    }
    let status = worker.status().unwrap().policies;
    let of = |name: &str| status.iter().find(|p| p.instance.as_ref().unwrap().as_str() == name).unwrap();
    assert_eq!((of("bad").state.as_str(), of("bad").failures), ("failing", 4));
    assert!(of("bad").last_error.as_ref().unwrap().contains("freeze"), "{:?}", of("bad").last_error);
    assert_eq!((of("good").state.as_str(), of("good").failures, of("good").snapshots), ("ok", 0, 2));
    assert_eq!((count(&world, "snapshot.failed"), count(&world, "schedule.failing")), (4, 2));
    assert!(world.store.parent().unwrap().join("thawed-bad").exists(), "the thaw runs also when the freeze failed");
}

#[test]
fn a_slot_that_failed_is_tried_again_within_it() {
    let world = World::new();
    let dir = world.make_instance("a");
    let policies =
        format!("[driver]\nfreeze = ['test -e ok']\n{}", HOURLY.replace("every", "retry = { attempts = 3, backoff = \"1m\" }\nevery"));
    let worker = worker(&world, &policies);
    worker.once().unwrap();
    world.clock.advance(hours(1));
    assert_eq!(worker.once().unwrap(), 1);
    assert_eq!(worker.due_jobs().len(), 0);
    fs::write(dir.join("ok"), "").unwrap();
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(worker.once().unwrap(), 0);
    assert!(matches!(outcome(&worker, "a"), Some(Outcome::Taken { .. })));
    assert_eq!(count(&world, "slot.missed"), 0);
}

#[test]
fn a_clock_that_steps_back_reorders_nothing_and_takes_no_slot_twice_and_forward_loses_none() {
    let world = World::new();
    world.make_instance("a");
    let worker = worker(&world, HOURLY);
    worker.once().unwrap();
    for _ in 0..2 {
        world.clock.advance(hours(1));
        worker.once().unwrap();
    }
    let ids = || worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().map(|s| s.id).collect::<Vec<_>>();
    let before = ids();
    world.clock.step_to(world.clock.now() - TimeDelta::minutes(90));
    worker.once().unwrap();
    assert_eq!(ids(), before, "nothing is due again, and nothing goes");
    let by_hand = worker.take(&serde_json::from_str(r#"{"instance": "a"}"#).unwrap()).unwrap();
    let plan = worker.plan(&PlanBody::default()).unwrap();
    let newest = worker.store.index().of_instance(&by_hand.instance)[0].id.clone();
    assert_eq!(newest, by_hand.id, "the last one taken is the newest, whatever the clock says");
    assert!(plan.entries.iter().all(|e| e.verdict == snapkeep::policy::Verdict::Keep));
    world.clock.step_to(world.clock.now() + TimeDelta::hours(5));
    worker.once().unwrap();
    assert_eq!(ids().len(), 3);
}

#[test]
fn an_instance_that_is_gone_keeps_its_snapshots_until_the_policy_says_so() {
    let world = World::new();
    world.make_instance("a");
    let policies = format!("{HOURLY}[policy.gone]\nafter = \"1d\"\nmin = 0\n");
    let worker = worker(&world, &policies);
    worker.once().unwrap();
    world.clock.advance(hours(1));
    worker.once().unwrap();
    fs::remove_dir_all(world.vms.join("a")).unwrap();
    worker.look_at_root();
    worker.once().unwrap();
    assert_eq!(worker.status().unwrap().policies[0].state, "gone");
    world.clock.advance(hours(23));
    worker.once().unwrap();
    assert_eq!(worker.snapshots(&Default::default()).unwrap().snapshots.len(), 1);
    world.clock.advance(hours(1));
    worker.once().unwrap();
    assert_eq!(worker.snapshots(&Default::default()).unwrap().snapshots.len(), 0);
}

#[test]
fn a_schedule_that_cannot_be_is_refused() {
    let refused = |schedule: &str| {
        let text = format!(
            "[store]\npath = \"/s\"\ninstances = \"/i\"\n[[policy]]\nname = \"p\"\ninstances = [\"*\"]\n{schedule}\nkeep_all = true\n"
        );
        parse(vec![("/c.toml".into(), text)]).is_err()
    };
    for bad in [
        "every = \"500ms\"",
        "every = \"soon\"",
        "schedule = \"* * *\"",
        "schedule = \"0 0 30 2 *\"",
        "timezone = \"Mars/Olympus\"\nevery = \"1h\"",
    ] {
        assert!(refused(bad), "{bad}");
    }
    assert!(!refused("every = \"1s\"") && !refused("schedule = \"@hourly\"\ntimezone = \"Europe/Vienna\""));
}
