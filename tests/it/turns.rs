//! Whose turn it is: bounds and order in `run` and in `once`, windows, first looks; clocks that step and workers that sleep.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::program::{Program, eventually};
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use snapkeep::clock::Clock as _;
use snapkeep::event::Event;
use snapkeep::policy::cadence::Outcome;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend as _;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

fn policy(name: &str, instances: &str, rest: &str) -> String {
    format!("[[policy]]\nname = \"{name}\"\ninstances = [\"{instances}\"]\nkeep_all = true\n{rest}\n")
}

fn entry(worker: &Worker, instance: &str) -> snapkeep::policy::cadence::LedgerEntry {
    worker.schedules.pairs().into_iter().find(|((_, i), _)| i.as_str() == instance).unwrap().1
}

fn state(worker: &Worker, instance: &str) -> String {
    let all = worker.status().unwrap().policies;
    all.into_iter().find(|p| p.instance.as_ref().is_some_and(|i| i.as_str() == instance)).unwrap().state
}

fn names(world: &World, name: &str) -> usize {
    world.event_names().iter().filter(|n| **n == name).count()
}

/// Command lines around each snapshot that count how many are in between, and make it take a while.
fn counting(world: &World, sleep: &str) -> String {
    let dir = world.store.with_file_name("counts");
    fs::create_dir_all(dir.join("now")).unwrap();
    let dir = dir.display();
    format!(
        "[driver]\nfreeze = ['mkdir {dir}/now/$SNAPKEEP_INSTANCE; ls {dir}/now >> {dir}/all; ls {dir}/now | wc -l >> {dir}/counts; {sleep}']\n\
         thaw = ['rmdir {dir}/now/$SNAPKEEP_INSTANCE']\n"
    )
}

fn counts(world: &World) -> Vec<u64> {
    let text = fs::read_to_string(world.store.with_file_name("counts").join("counts")).unwrap();
    text.lines().map(|line| line.trim().parse().unwrap()).collect()
}

#[test]
fn once_takes_all_that_is_due_and_never_more_at_once_than_it_may() {
    for (bounds, own, most) in
        [("threads = 4\nmax_running = 2", "", 2), ("threads = 4", "max_running = 1", 1), ("threads = 3", "", 3), ("threads = 1", "", 1)]
    {
        let world = World::new();
        (0..7).for_each(|n| drop(world.make_instance(&format!("vm-{n}"))));
        let config =
            format!("[worker]\n{bounds}\n{}{}", counting(&world, "sleep 0.05"), policy("p", "*", &format!("every = \"1h\"\n{own}")));
        let worker = world.worker(&config);
        worker.once().unwrap();
        world.clock.advance(hours(1));
        assert_eq!(worker.once().unwrap(), 0);
        let counts = counts(&world);
        assert_eq!(counts.len(), 7, "each once, though not all could begin at first");
        assert!(*counts.iter().max().unwrap() <= most, "{bounds} {own}: {counts:?}");
        println!("{bounds:?} {own:?}: at most {} of 7 at once", counts.iter().max().unwrap());
    }
}

#[test]
fn a_slot_that_waits_has_not_begun_and_when_its_next_one_comes_the_two_are_one() {
    for missed in ["run", "skip"] {
        let world = World::new();
        ["a", "b", "c"].iter().for_each(|name| drop(world.make_instance(name)));
        let worker =
            world.worker(&format!("[worker]\nmax_running = 1\n{}", policy("p", "*", &format!("every = \"1h\"\nmissed = \"{missed}\""))));
        assert_eq!(worker.due_jobs().len(), 0);
        world.clock.advance(hours(1));
        let first = worker.due_jobs();
        assert_eq!(first.iter().map(|job| job.instance.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(["a", "b", "c"].map(|name| state(&worker, name)), ["running", "due", "due"]);
        assert!(["b", "c"].iter().all(|name| entry(&worker, name).begun.is_none()));
        assert_eq!(worker.due_jobs().len(), 0, "there is no room");
        assert!(worker.run_job(&first[0]));
        // Long after it was due, and not missed for that: it had to wait.
        world.clock.advance(Duration::from_secs(600));
        let second = worker.due_jobs();
        assert_eq!(second.iter().map(|job| job.instance.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(worker.run_job(&second[0]));
        assert_eq!(entry(&worker, "b").late_ms, Some(600_000));
        // The third has waited until the next slot, and is first.
        world.clock.advance(Duration::from_secs(3000));
        let slot = world.clock.now();
        let third = worker.due_jobs();
        assert_eq!((third.len(), third[0].instance.as_str(), third[0].slot), (1, "c", slot));
        assert!(worker.run_job(&third[0]));
        assert_eq!(names(&world, "slot.missed"), 1);
        for name in ["a", "b"] {
            let jobs = worker.due_jobs();
            assert_eq!((jobs.len(), jobs[0].instance.as_str()), (1, name));
            assert!(worker.run_job(&jobs[0]));
        }
        assert_eq!((worker.due_jobs().len(), names(&world, "snapshot.taken")), (0, 5));
    }
}

#[test]
fn a_policy_that_runs_all_it_may_and_an_instance_that_is_slow_hold_up_nobody() {
    let world = World::new();
    ["slow", "fast-1", "fast-2"].iter().for_each(|name| drop(world.make_instance(name)));
    let dir = world.store.with_file_name("go");
    let freeze = format!(
        "[driver]\nfreeze = ['[ $SNAPKEEP_INSTANCE != slow ] || while [ ! -e {} ]; do sleep 0.05; done']\ntimeout = \"60s\"\n",
        dir.display()
    );
    let policies = policy("slow", "slow", "every = \"1s\"\nmax_running = 1") + &policy("fast", "fast-*", "every = \"1s\"\nmax_running = 1");
    let program = Program::with(&world, &format!("[worker]\nmax_running = 2\n{freeze}{policies}"));
    program.ok("init");
    let worker = program.run();
    let of = |name: &str| program.json("ls")["snapshots"].as_array().unwrap().iter().filter(|s| s["instance"] == name).count();
    eventually("the fast ones go on", SOON, || of("fast-1") >= 2 && of("fast-2") >= 2);
    assert_eq!(of("slow"), 0);
    let states = |program: &Program| -> Vec<String> {
        program.json("status")["policies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| p["instance"] == "slow")
            .map(|p| p["state"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(states(&program), ["running"]);
    fs::write(&dir, "").unwrap();
    eventually("the slow one is taken at last", SOON, || of("slow") >= 1);
    let log = worker.log();
    assert_eq!(worker.stop(), 0);
    let mut seen = BTreeSet::new();
    for line in log.lines().filter(|line| line.contains("\"snapshot.taken\"")) {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(seen.insert((event["instance"].to_string(), event["slot"].to_string())), "twice: {line}");
    }
}

#[test]
fn in_run_nobody_starves_and_the_bound_of_the_host_holds() {
    let world = World::new();
    (0..4).for_each(|n| drop(world.make_instance(&format!("vm-{n}"))));
    let often = policy("often", "vm-[012]", "every = \"1s\"") + &policy("rare", "vm-3", "every = \"3s\"");
    let program = Program::with(&world, &format!("[worker]\nmax_running = 1\n{}{often}", counting(&world, "sleep 0.4")));
    program.ok("init");
    let worker = program.run();
    let all = || program.json("ls")["snapshots"].as_array().unwrap().clone();
    let served = || all().iter().map(|s| s["instance"].to_string()).collect::<BTreeSet<_>>().len();
    eventually("each has its turn", SOON, || served() == 4 && all().len() >= 6);
    assert_eq!(worker.stop(), 0);
    assert!(counts(&world).iter().all(|n| *n == 1), "{:?}", counts(&world));
    println!("{} snapshots, one at a time", counts(&world).len());
}

fn at(world: &World, hour: u32) -> DateTime<Utc> {
    let day = world.clock.now().date_naive().and_hms_opt(hour, 0, 0).unwrap();
    Utc.from_utc_datetime(&day)
}

#[test]
fn a_missed_slot_waits_for_its_window_and_one_that_is_too_old_is_only_reported() {
    let world = World::new();
    world.make_instance("a");
    let config = |extra: &str| policy("p", "*", &format!("schedule = \"0 */2 * * *\"\nwindow = \"22:00-06:00\"\n{extra}"));
    let worker = world.worker(&config(""));
    world.clock.step_to(at(&world, 4) + TimeDelta::minutes(30));
    worker.once().unwrap();
    drop(worker);
    // Away over midnight's and two o'clock's slots of the next night.
    world.clock.advance(hours(24) + Duration::from_secs(7200));
    let worker = world.worker(&config(""));
    worker.once().unwrap();
    assert_eq!(names(&world, "snapshot.taken"), 0, "it is half past six");
    let next = worker.status().unwrap().policies[0].next_slot;
    assert_eq!(next, Some(at(&world, 22)));
    world.clock.step_to(at(&world, 22));
    worker.once().unwrap();
    assert_eq!((names(&world, "snapshot.taken"), names(&world, "slot.missed")), (1, 1));
    drop(worker);
    let worker = world.worker(&config("missed_within = \"6h\""));
    world.clock.advance(hours(24 + 7));
    worker.once().unwrap();
    assert_eq!((names(&world, "snapshot.taken"), names(&world, "slot.missed")), (2, 2), "05:00: four o'clock's slot is caught up");
    drop(worker);
    let worker = world.worker(&policy("p", "*", "schedule = \"0 2 * * *\"\nmissed_within = \"6h\""));
    world.clock.advance(hours(24 + 5));
    worker.once().unwrap();
    assert_eq!((names(&world, "snapshot.taken"), names(&world, "slot.missed")), (2, 3), "two o'clock was eight hours ago");
    assert!(matches!(entry(&worker, "a").outcome, Some(Outcome::Missed { .. })));
}

#[test]
fn an_instance_that_is_new_gets_its_first_snapshot_at_once_if_so_wanted() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker(&policy("p", "*", "every = \"1h\"\non_enable = \"run\""));
    world.clock.advance(Duration::from_secs(1234));
    worker.once().unwrap();
    assert_eq!(names(&world, "snapshot.taken"), 1);
    worker.once().unwrap();
    drop(worker);
    let worker = world.worker(&policy("p", "*", "every = \"1h\"\non_enable = \"run\""));
    worker.once().unwrap();
    assert_eq!(names(&world, "snapshot.taken"), 1, "it is known");
    world.make_instance("b");
    worker.look_at_root();
    worker.once().unwrap();
    assert_eq!(names(&world, "snapshot.taken"), 2);
    world.clock.advance(hours(1));
    worker.once().unwrap();
    assert_eq!((names(&world, "snapshot.taken"), names(&world, "slot.missed")), (4, 0));
}

#[test]
fn status_says_when_the_next_slot_is_there_and_how_late_the_last_run_was() {
    let world = World::new();
    world.make_instance("a");
    let worker = world.worker(&policy("p", "*", "schedule = \"0 3 * * *\"\ntimezone = \"Europe/Vienna\""));
    worker.once().unwrap();
    let status = || worker.status().unwrap().policies.remove(0);
    assert_eq!((status().late_ms, status().timezone.as_deref()), (None, Some("Europe/Vienna")));
    assert_eq!(status().next_slot_local.as_deref(), Some("2026-11-25T03:00:00+01:00"));
    world.clock.advance(hours(14) + Duration::from_secs(90));
    worker.once().unwrap();
    assert_eq!((status().late_ms, status().state.as_str()), (Some(90_000), "ok"));
}

#[test]
fn a_clock_that_was_set_while_no_worker_ran_is_reported_by_the_next_one() {
    let world = World::new();
    world.make_instance("a");
    let config = policy("p", "*", "every = \"1h\"");
    let once = || world.worker(&config).once().unwrap();
    once();
    world.clock.advance(hours(3));
    once();
    assert_eq!((names(&world, "clock.stepped"), names(&world, "snapshot.taken")), (0, 1), "time passed, no more");
    world.clock.step_to(world.clock.now() - TimeDelta::minutes(30));
    once();
    once();
    assert_eq!((names(&world, "clock.stepped"), names(&world, "snapshot.taken")), (1, 1), "said once, and no slot twice");
    // Half past four: the slot of three has been, before the clock was set.
    world.clock.advance(hours(2));
    once();
    assert_eq!((names(&world, "clock.stepped"), names(&world, "snapshot.taken")), (1, 2));
}

#[test]
fn a_suspend_and_a_step_of_the_clock_are_reported_and_take_no_slot_twice_and_lose_none() {
    let world = World::new();
    world.make_instance("a");
    let worker: Arc<Worker> = world.worker(&policy("p", "*", "every = \"10m\""));
    let slots = || -> Vec<DateTime<Utc>> {
        world.events.events().into_iter().filter_map(|e| if let Event::SnapshotTaken { slot, .. } = e { slot } else { None }).collect()
    };
    let beat = |seconds: u64| {
        world.clock.advance(Duration::from_secs(seconds));
        worker.beat().iter().for_each(|job| assert!(worker.run_job(job)));
    };
    let run = |seconds: u64| (0..seconds / 2).for_each(|_| beat(2));
    run(1300);
    assert_eq!((slots().len(), names(&world, "worker.suspended"), names(&world, "clock.stepped")), (2, 0, 0));
    // Eight hours of suspend: both clocks have gone on.
    beat(8 * 3600);
    assert_eq!((slots().len(), names(&world, "worker.suspended"), names(&world, "slot.missed")), (3, 1, 1));
    // Back by half an hour: its slots have been.
    world.clock.step_to(world.clock.now() - TimeDelta::minutes(30));
    run(1700);
    assert_eq!((slots().len(), names(&world, "clock.stepped")), (3, 1));
    run(600);
    assert_eq!(slots().len(), 4, "and then it goes on");
    // Forward by two hours.
    world.clock.step_to(world.clock.now() + TimeDelta::hours(2));
    beat(2);
    assert_eq!((slots().len(), names(&world, "clock.stepped"), names(&world, "worker.suspended")), (5, 2, 1));
    // Back by two days, as when the clock was wrong before: no waiting for two days.
    world.clock.step_to(world.clock.now() - TimeDelta::days(2));
    run(1200);
    assert!(slots().len() >= 6 && slots().len() <= 8, "{:?}", slots());
    let distinct: BTreeSet<_> = slots().into_iter().collect();
    assert_eq!(distinct.len(), slots().len(), "none twice");
    let stepped: Vec<i64> = world
        .events
        .events()
        .into_iter()
        .filter_map(|e| if let Event::ClockStepped { by_ms, .. } = e { Some(by_ms / 60_000) } else { None })
        .collect();
    assert_eq!(stepped, [-30, 120, -2880]);
}
