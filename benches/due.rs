//! What finding out what is due costs for many pairs of policy and instance: the pure computation, and a whole tick.
//!
//! `cargo bench --bench due -- [--pairs N] [--rounds N]`. The floor is a copy of every ledger entry: nothing that looks at
//! each of them can do much less. Compare figures of one run with each other, never times of two machines.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

use chrono::{DateTime, TimeDelta, Utc};
use snapkeep::clock::{Clock, ManualClock};
use snapkeep::config::parse;
use snapkeep::event::{Collected, Events};
use snapkeep::ids::InstanceId;
use snapkeep::policy::cadence::{Due, LedgerEntry, due};
use snapkeep::policy::{Candidate, InstanceTags, Policy};
use snapkeep::schedule::{Schedules, Turn};
use snapkeep::store::fs::Fs;
use snapkeep::store::{OpenOptions, Store};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const POLICIES: usize = 10;

fn options() -> (usize, usize) {
    let (mut pairs, mut rounds) = (10_000, 21);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value")).parse().unwrap();
        match arg.as_str() {
            "--pairs" => pairs = value(),
            "--rounds" => rounds = value(),
            // `cargo bench` adds this.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    (pairs, rounds)
}

fn policies(rest: &str) -> Vec<Policy> {
    let mut text = "[store]\npath = \"/s\"\ninstances = \"/i\"\n".to_owned();
    for n in 0..POLICIES {
        text += &format!("[[policy]]\nname = \"p{n}\"\ninstances = [\"vm{n}-*\"]\nkeep_all = true\n{rest}\n");
    }
    parse(vec![("/c.toml".into(), text)]).unwrap().policies
}

fn median(rounds: usize, mut run: impl FnMut()) -> Duration {
    run();
    let mut all: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    all.sort();
    all[all.len() / 2]
}

fn report(what: &str, time: Duration, floor: Duration) {
    println!("  {what:58} {:9.3} ms   {:6.2} x the floor", time.as_secs_f64() * 1e3, time.as_secs_f64() / floor.as_secs_f64());
}

fn main() {
    let (pairs, rounds) = options();
    let instances: Vec<(InstanceId, bool)> =
        (0..pairs).map(|n| (InstanceId::parse(&format!("vm{}-{n}", n % POLICIES)).unwrap(), false)).collect();
    let start: DateTime<Utc> = "2026-11-24T09:00:00Z".parse().unwrap();
    for (name, rest) in [
        ("cron, a zone, jitter", "schedule = \"*/15 * * * *\"\ntimezone = \"Europe/Vienna\"\njitter = \"2m\""),
        (
            "three cron expressions and a window",
            "schedule = [\"0 9 * * MON-FRI\", \"*/30 1-5 * * *\", \"0 0 L * *\"]\ntimezone = \"America/New_York\"\nwindow = \"20:00-10:00\"",
        ),
        ("every", "every = \"15m\""),
    ] {
        println!("{pairs} pairs of {POLICIES} policies: {name}");
        pure(&policies(rest), &instances, start, rounds);
        ticks(&policies(rest), instances.clone(), start, rounds);
    }
}

/// `due` alone: nothing is new, a slot has come, and a thousand slots were missed.
fn pure(policies: &[Policy], instances: &[(InstanceId, bool)], start: DateTime<Utc>, rounds: usize) {
    let schedule = |n: usize| policies[n % POLICIES].schedule.as_ref().unwrap();
    let slot = schedule(0).slot_after(start).unwrap();
    let all: Vec<LedgerEntry> = instances.iter().map(|_| LedgerEntry::new(slot - TimeDelta::hours(1)).skipped(slot, "done")).collect();
    let floor = median(rounds, || drop(black_box(all.clone())));
    println!("  {:58} {:9.3} ms", "floor: a copy of every entry", floor.as_secs_f64() * 1e3);
    let next = schedule(0).slot_after(slot).unwrap();
    let later = |at: DateTime<Utc>| at + TimeDelta::minutes(4);
    for (what, now) in
        [("due: nothing", later(slot)), ("due: a slot", later(next)), ("due: after a month away", later(next) + TimeDelta::days(30))]
    {
        let mut run = 0;
        let time = median(rounds, || {
            run = 0;
            for (n, entry) in all.iter().enumerate() {
                let offset = schedule(n).offset(&policies[n % POLICIES].name, &instances[n].0, now);
                run += usize::from(matches!(black_box(due(schedule(n), offset, entry, now)), Due::Run { .. }));
            }
        });
        report(&format!("{what} ({run} are to run)"), time, floor);
    }
}

/// A tick over a real ledger: matching, presence, what is due, whose turn it is.
fn ticks(policies: &[Policy], mut instances: Vec<(InstanceId, bool)>, start: DateTime<Utc>, rounds: usize) {
    instances.sort();
    let candidate = |(instance, is_fork)| Candidate { instance, is_fork, tags: InstanceTags::default() };
    let instances: Vec<Candidate> = instances.into_iter().map(candidate).collect();
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (store, vms) = (dir.path().join("store"), dir.path().join("vms"));
    [&store, &vms].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let manual = ManualClock::at(start);
    let clock: Arc<dyn Clock> = Arc::new(manual.clone());
    let events = Events::new(Arc::clone(&clock), Arc::new(Collected::default()));
    let store = Store::open(&OpenOptions { fs: Fs::real(), clock: Arc::clone(&clock), events, store, instances: vms, threads: 2 }).unwrap();
    let schedules = Schedules::open(store, policies).unwrap();
    let turn = Turn { max_running: 0, only: None };
    let tick = || {
        manual.advance(Duration::from_millis(1));
        assert!(schedules.tick(policies, Some(&instances), turn, manual.now()).is_empty());
    };
    tick();
    let entries = schedules.pairs();
    let floor = median(rounds, || drop(black_box(entries.clone())));
    report("tick: all quiet", median(rounds, tick), floor);
    // A clock that goes back makes each of them be looked at anew.
    let asked = median(rounds, || {
        manual.step_to(manual.now() - TimeDelta::milliseconds(2));
        tick();
    });
    report("tick: all computed, nothing due", asked, floor);
    let reloaded = median(rounds, || {
        schedules.reconsider();
        tick();
    });
    report("tick: after a reload, names compared with globs too", reloaded, floor);
    let slot = policies[0].schedule.as_ref().unwrap().slot_after(start).unwrap();
    manual.step_to(slot + TimeDelta::minutes(8));
    report("tick: all due, none may begin", median(rounds, tick), floor);
    println!("    ({} wait for their turn)", schedules.waiting().len());
}
