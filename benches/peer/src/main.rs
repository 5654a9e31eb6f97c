//! Plans of retention, against `KeepOptions::apply` of rustic_core 0.13 in the same run:
//!
//! `cargo run --release --manifest-path benches/peer/Cargo.toml -- [--rounds N] [--snapshots N]... [--shuffled] [--alone]`
//!
//! Both get the same moments, a quarter of an hour apart, and the same rules: last 10, hourly 24, daily 30, weekly 8,
//! monthly 24, yearly 10. Ours says why of every snapshot, the peer of those that are kept. Times are medians of the time
//! on a processor (what else runs on the machine does not count); making the input and dropping the output are left out.

use chrono::{DateTime, Utc};
use nix::time::{ClockId, clock_gettime};
use rustic_core::KeepOptions;
use rustic_core::jiff::{Timestamp, tz::TimeZone};
use rustic_core::repofile::SnapshotFile;
use snapkeep::ids::{InstanceId, PolicyName, SnapshotId};
use snapkeep::policy::retention::{Circumstances, plan};
use snapkeep::policy::{Granularity, Keep, Limit, Policy, Retention, SnapshotFacts, SnapshotState, Verdict};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

const COUNTS: [(Granularity, u32); 5] =
    [(Granularity::Hourly, 24), (Granularity::Daily, 30), (Granularity::Weekly, 8), (Granularity::Monthly, 24), (Granularity::Yearly, 10)];
const LAST: u32 = 10;
const STEP: i64 = 15 * 60;
const NOW: i64 = 1_790_000_000;

struct Options {
    rounds: usize,
    snapshots: Vec<usize>,
    shuffled: bool,
    alone: bool,
}

fn options() -> Options {
    let mut options = Options { rounds: 9, snapshots: Vec::new(), shuffled: false, alone: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{arg} needs a number"));
        match arg.as_str() {
            "--rounds" => options.rounds = value(),
            "--snapshots" => options.snapshots.push(value()),
            "--shuffled" => options.shuffled = true,
            // For a profile.
            "--alone" => options.alone = true,
            other => panic!("unknown argument {other}"),
        }
    }
    if options.snapshots.is_empty() {
        options.snapshots = vec![1_000, 10_000, 100_000, 1_000_000];
    }
    options
}

/// When snapshots were taken, oldest first or in no order.
fn moments(n: usize, shuffled: bool) -> Vec<i64> {
    let n = i64::try_from(n).expect("a small number");
    let mut moments: Vec<i64> = (1..=n).rev().map(|at| NOW - at * STEP).collect();
    if shuffled {
        let mut random = 1_u64;
        for at in (1..moments.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            moments.swap(at, usize::try_from(random >> 33).expect("31 bits") % (at + 1));
        }
    }
    moments
}

fn id(n: usize) -> SnapshotId {
    let letter = |place: usize| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(n >> (5 * place)) & 31]);
    let letters: String = (0..8).rev().map(letter).collect();
    SnapshotId::parse(&format!("20261124-090347-{letters}")).expect("a valid id")
}

fn fact(n: usize, at: i64) -> SnapshotFacts {
    let created_at = DateTime::from_timestamp(at, 0).expect("a small number");
    SnapshotFacts {
        id: id(n),
        instance: InstanceId::parse("golden").expect("a valid name"),
        policy: Some(PolicyName::parse("golden").expect("a valid name")),
        created_at,
        order_at: created_at,
        seq: n as u64,
        state: SnapshotState::Ready,
        tags_unread: false,
        tags: BTreeMap::new(),
        forks: Vec::new(),
        queued: Vec::new(),
        holds: Vec::new(),
        pinned: false,
        unreadable: None,
        reclaimable_bytes: 1,
    }
}

fn policy() -> Policy {
    let keep = Keep { last: LAST, buckets: COUNTS.to_vec(), ..Keep::default() };
    Policy::new(PolicyName::parse("golden").expect("a valid name"), Retention { keep: Some(keep), limit: Limit { min: 1, ..Limit::default() }, gone: None })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long this thread has been on a processor.
fn busy() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of this thread").into()
}

/// The time of one plan, and how many it keeps.
fn ours(facts: &[SnapshotFacts], policies: &[Policy], now: DateTime<Utc>) -> (Duration, usize) {
    let around = Circumstances { policies, gone_since: &BTreeMap::new(), clock_trusted: true, root_proven: true, pressure: None, foresight: snapkeep::policy::retention::Foresight::All };
    let start = busy();
    let plan = black_box(plan(black_box(facts), &around, now));
    let took = busy() - start;
    assert!(plan.entries.iter().all(|entry| !entry.reasons.is_empty()));
    (took, plan.entries.iter().filter(|entry| entry.verdict == Verdict::Keep).count())
}

fn theirs(snapshots: Vec<SnapshotFile>, rules: &KeepOptions) -> (Duration, usize) {
    let now = Timestamp::from_second(NOW).expect("a small number").to_zoned(TimeZone::UTC);
    let start = busy();
    let done = black_box(rules.apply(black_box(snapshots), &now).expect("valid rules"));
    let took = busy() - start;
    (took, done.iter().filter(|one| one.keep).count())
}

fn main() {
    let options = options();
    let (policies, now) = ([policy()], DateTime::from_timestamp(NOW, 0).expect("a small number"));
    let of = |unit: Granularity| COUNTS.iter().find(|(u, _)| *u == unit).map(|(_, n)| i32::try_from(*n).expect("a small number"));
    let mut rules = KeepOptions::default();
    rules.keep_last = Some(10);
    rules.keep_hourly = of(Granularity::Hourly);
    rules.keep_daily = of(Granularity::Daily);
    rules.keep_weekly = of(Granularity::Weekly);
    rules.keep_monthly = of(Granularity::Monthly);
    rules.keep_yearly = of(Granularity::Yearly);
    println!("snapshots  snapkeep ms  ns each  rustic_core ms  times  kept (rustic_core)");
    for n in options.snapshots {
        let moments = moments(n, options.shuffled);
        let facts: Vec<_> = moments.iter().enumerate().map(|(n, at)| fact(n, *at)).collect();
        let snapshots: Vec<_> = moments
            .iter()
            .map(|at| {
                let mut snapshot = SnapshotFile::default();
                snapshot.time = Timestamp::from_second(*at).expect("a small number").to_zoned(TimeZone::UTC);
                snapshot
            })
            .collect();
        let (mut own, mut peer, mut kept) = (Vec::new(), Vec::new(), (0, 0));
        // In turn, so that both meet the same noise.
        for _ in 0..options.rounds {
            let (took, n) = ours(&facts, &policies, now);
            own.push(took);
            let (took, m) = if options.alone { (Duration::ZERO, 0) } else { theirs(snapshots.clone(), &rules) };
            peer.push(took);
            kept = (n, m);
        }
        let (own, peer) = (median(own).as_secs_f64(), median(peer).as_secs_f64());
        println!(
            "{n:9}  {:11.2}  {:7.0}  {:14.2}  {:5.1}  {} ({})",
            own * 1e3,
            own * 1e9 / n as f64,
            peer * 1e3,
            peer / own,
            kept.0,
            kept.1
        );
    }
}
