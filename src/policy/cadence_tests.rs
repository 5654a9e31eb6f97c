//! The cadence by cases (change of clocks, missed slots, retries, clocks that step), and by random lives of a worker.

use super::*;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::Times;
use chrono::TimeZone as _;
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const RETRY: Retry = Retry { attempts: 3, backoff: TimeDelta::seconds(60) };

fn at(y: i32, m: u32, d: u32, h: u32, min: u32, s: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(y, m, d, h, min, s).unwrap()
}

/// A day without changes of clocks.
fn day(h: u32, min: u32, s: u32) -> DateTime<Utc> {
    at(2026, 11, 24, h, min, s)
}

fn secs(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

fn schedule(rhythm: Rhythm, timezone: Tz) -> Schedule {
    Schedule::new(rhythm, timezone)
}

fn cron(text: &str, timezone: Tz) -> Schedule {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).dom_and_dow(false).build();
    schedule(Rhythm::Cron([Times::new(parser.parse(text).unwrap())].into()), timezone)
}

fn cron_list(texts: &[&str], timezone: Tz) -> Schedule {
    let all = texts.iter().flat_map(|text| match cron(text, timezone).rhythm {
        Rhythm::Cron(all) => all.to_vec(),
        Rhythm::Every(_) => Vec::new(),
    });
    schedule(Rhythm::Cron(all.collect()), timezone)
}

fn every(n: i64) -> Schedule {
    schedule(Rhythm::Every(secs(n)), Tz::UTC)
}

fn skipping(schedule: Schedule) -> Schedule {
    Schedule { missed: Missed::Skip, ..schedule }
}

fn snapshot() -> SnapshotId {
    SnapshotId::parse("20261124-090347-abcdefgh").unwrap()
}

fn pair(n: usize) -> (PolicyName, InstanceId) {
    (PolicyName::parse("golden").unwrap(), InstanceId::parse(&format!("vm-{n}")).unwrap())
}

fn due_now(schedule: &Schedule, entry: &LedgerEntry, now: DateTime<Utc>) -> Due {
    due(schedule, TimeDelta::zero(), entry, now)
}

fn run(slot: DateTime<Utc>) -> Due {
    Due::Run { slot, attempt: 1, missed: None }
}

fn begun(entry: &LedgerEntry, slot: DateTime<Utc>, attempt: u32, now: DateTime<Utc>) -> (LedgerEntry, Begun) {
    let entry = entry.begin(slot, attempt, now);
    let begun = entry.begun.unwrap();
    (entry, begun)
}

fn taken(entry: &LedgerEntry, slot: DateTime<Utc>, now: DateTime<Utc>) -> LedgerEntry {
    entry.begin(slot, 1, now).taken(slot, snapshot(), now)
}

/// An entry whose last slot was taken on time.
fn after(slot: DateTime<Utc>) -> LedgerEntry {
    taken(&LedgerEntry::new(slot - secs(1)), slot, slot)
}

/// A worker that looks every so many seconds and succeeds each time: what it ran.
fn live(schedule: &Schedule, from: DateTime<Utc>, to: DateTime<Utc>, step: i64) -> Vec<DateTime<Utc>> {
    let (mut entry, mut now, mut slots) = (LedgerEntry::new(from), from, Vec::new());
    while now <= to {
        if let Due::Run { slot, missed, .. } = due_now(schedule, &entry, now) {
            assert_eq!(missed, None, "{now}");
            entry = taken(&entry, slot, now);
            slots.push(slot);
        }
        now += secs(step);
    }
    slots
}

// ---------------------------------------------------------------- slots

#[test]
fn slots_of_cron_and_of_every_are_the_next_and_the_last() {
    let quarters = cron("*/15 * * * *", Tz::UTC);
    for schedule in [&quarters, &every(900)] {
        for (t, before, next) in [
            (day(9, 0, 0), day(9, 0, 0), day(9, 15, 0)),
            (day(9, 0, 1), day(9, 0, 0), day(9, 15, 0)),
            (day(9, 14, 59), day(9, 0, 0), day(9, 15, 0)),
            (day(9, 15, 0), day(9, 15, 0), day(9, 30, 0)),
        ] {
            assert_eq!((schedule.slot_at_or_before(t), schedule.slot_after(t)), (Some(before), Some(next)), "{t}");
        }
    }
    let daily = cron("30 3 * * *", Tz::Europe__Vienna);
    assert_eq!(daily.slot_after(day(9, 0, 0)), Some(at(2026, 11, 25, 2, 30, 0)));
    let by_second = cron("*/10 * * * * *", Tz::UTC);
    assert_eq!(by_second.slot_after(day(9, 0, 0)), Some(day(9, 0, 10)));
    // Day of month or day of week, as cron has it: the first, and Mondays.
    let either = cron("0 0 1 * 1", Tz::UTC);
    assert_eq!(either.slot_after(day(0, 0, 0)), Some(at(2026, 11, 30, 0, 0, 0)));
    assert_eq!(either.slot_after(at(2026, 11, 30, 0, 0, 0)), Some(at(2026, 12, 1, 0, 0, 0)));
}

#[test]
fn slots_of_every_are_counted_from_the_epoch() {
    let schedule = every(7 * 60);
    let slot = schedule.slot_at_or_before(day(9, 0, 0)).unwrap();
    assert_eq!(slot.timestamp() % 420, 0);
    assert_eq!(schedule.slot_after(day(9, 0, 0)), Some(slot + secs(420)));
    assert_eq!(schedule.slot_at_or_before(DateTime::UNIX_EPOCH - secs(1)), Some(DateTime::UNIX_EPOCH - secs(420)));
    assert_eq!(every(i64::from(u32::MAX)).slot_after(day(9, 0, 0)), DateTime::from_timestamp(i64::from(u32::MAX), 0));
}

#[test]
fn slots_are_whole_seconds_whatever_the_fraction_of_now() {
    for schedule in [cron("*/15 * * * *", Tz::Europe__Vienna), cron("* * * * * *", Tz::UTC), every(900), every(1)] {
        for nanos in [0, 1, 499_999_999, 500_000_000, 999_999_999] {
            let now = day(9, 15, 0) + TimeDelta::nanoseconds(nanos);
            let (before, next) = (schedule.slot_at_or_before(now).unwrap(), schedule.slot_after(now).unwrap());
            assert_eq!(before, day(9, 15, 0), "{now:?}");
            assert_eq!((next.timestamp_subsec_nanos(), next > now), (0, true), "{now:?}");
            let earlier = schedule.slot_at_or_before(day(9, 15, 0) - TimeDelta::nanoseconds(nanos.max(1))).unwrap();
            assert_eq!((earlier.timestamp_subsec_nanos(), earlier < day(9, 15, 0)), (0, true), "{now:?}");
        }
    }
}

#[test]
fn rare_slots_are_found_fast() {
    let start = Instant::now();
    for text in ["0 0 1 1 *", "0 0 29 2 *", "59 23 31 12 *", "0 0 0 1 1 * 2020-2099"] {
        let schedule = cron(text, Tz::Europe__Vienna);
        for n in 0..50 {
            let now = day(9, 0, 0) + TimeDelta::days(n * 7);
            let (before, next) = (schedule.slot_at_or_before(now).unwrap(), schedule.slot_after(now).unwrap());
            assert!(before <= now && now < next, "{text}: {before} {now} {next}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_schedule_that_is_over_is_due_never_again() {
    let schedule = cron("0 0 0 1 1 * 2025", Tz::UTC);
    assert_eq!(schedule.slot_after(day(9, 0, 0)), None);
    assert_eq!(schedule.slot_at_or_before(day(9, 0, 0)), Some(at(2025, 1, 1, 0, 0, 0)));
    assert_eq!(due_now(&schedule, &LedgerEntry::new(day(9, 0, 0)), day(9, 0, 1)), Due::NotYet(None));
    assert_eq!(cron("0 0 0 1 1 * 2030", Tz::UTC).slot_at_or_before(day(9, 0, 0)), None);
}

#[test]
fn the_first_slot_is_the_next_one_after_the_pair_was_known() {
    for schedule in [cron("*/15 * * * *", Tz::UTC), every(900)] {
        let entry = LedgerEntry::new(day(9, 0, 0));
        assert_eq!(due_now(&schedule, &entry, day(9, 0, 0)), Due::NotYet(Some(day(9, 15, 0))));
        assert_eq!(due_now(&schedule, &entry, day(9, 14, 59)), Due::NotYet(Some(day(9, 15, 0))));
        assert_eq!(due_now(&schedule, &entry, day(9, 15, 0)), run(day(9, 15, 0)));
        let entry = taken(&entry, day(9, 15, 0), day(9, 15, 0));
        assert_eq!(due_now(&schedule, &entry, day(9, 15, 0)), Due::NotYet(Some(day(9, 30, 0))));
    }
}

// ---------------------------------------------------------------- change of clocks

const CHANGES: [(Tz, (u32, u32)); 4] =
    [(Tz::Europe__Vienna, (3, 29)), (Tz::Europe__Vienna, (10, 25)), (Tz::America__New_York, (3, 8)), (Tz::America__New_York, (11, 1))];

#[test]
fn a_daily_job_runs_once_a_day_when_the_clocks_change() {
    for (zone, (month, date)) in CHANGES {
        for text in ["30 2 * * *", "30 1 * * *", "0 2 * * *", "0 3 * * *", "59 1 * * *"] {
            let schedule = cron(text, zone);
            let noon = |days: i64| zone.with_ymd_and_hms(2026, month, date, 12, 0, 0).unwrap().with_timezone(&Utc) + TimeDelta::days(days);
            let slots = live(&schedule, noon(-2), noon(2), 300);
            let dates: Vec<_> = slots.iter().map(|s| s.with_timezone(&zone).date_naive()).collect();
            let mut distinct = dates.clone();
            distinct.dedup();
            assert_eq!((dates.len(), distinct.len()), (4, 4), "{text} {zone}: {slots:?}");
        }
    }
}

#[test]
fn an_hourly_job_misses_no_real_hour_when_the_clocks_change() {
    for (zone, (month, date)) in CHANGES {
        for (text, an_hour) in [("0 * * * *", 1), ("30 * * * *", 1), ("*/20 * * * *", 3)] {
            let from = zone.with_ymd_and_hms(2026, month, date, 0, 0, 0).unwrap().with_timezone(&Utc) - secs(1);
            let slots = live(&cron(text, zone), from, from + TimeDelta::hours(23), 30);
            assert_eq!(slots.len(), 23 * an_hour, "{text} {zone}: {slots:?}");
            let gaps: Vec<_> = slots.windows(2).map(|w| (w[1] - w[0]).num_minutes()).collect();
            assert!(gaps.iter().all(|gap| *gap == 60 / an_hour as i64), "{text} {zone}: {gaps:?}");
        }
    }
}

#[test]
fn looking_back_finds_the_slots_that_looking_ahead_finds_when_the_clocks_change() {
    for (zone, (month, date)) in CHANGES {
        for text in ["30 2 * * *", "30 1 * * *", "0 2 * * *", "0 * * * *", "*/15 * * * *", "*/15 2 * * *", "0 1-3 * * *", "30 */2 * * *"] {
            let schedule = cron(text, zone);
            let from = at(2026, month, date, 0, 0, 0) - TimeDelta::hours(30);
            let to = from + TimeDelta::hours(72);
            let mut ahead = vec![schedule.slot_after(from).unwrap()];
            while ahead[ahead.len() - 1] < to {
                ahead.push(schedule.slot_after(ahead[ahead.len() - 1]).unwrap());
            }
            assert!(ahead.is_sorted_by(|a, b| a < b), "{text} {zone}: {ahead:?}");
            let mut now = ahead[0];
            while now < to {
                let want = *ahead.iter().rfind(|s| **s <= now).unwrap();
                assert_eq!(schedule.slot_at_or_before(now), Some(want), "{text} {zone} {now}");
                now += secs(450);
            }
        }
    }
}

// ---------------------------------------------------------------- jitter

#[test]
fn the_offset_is_constant_for_a_pair_and_differs_between_pairs() {
    let jittery = |schedule: Schedule, jitter| Schedule { jitter, ..schedule };
    let schedules = [
        jittery(cron("*/15 * * * *", Tz::UTC), TimeDelta::minutes(2)),
        jittery(cron("0 9,17 * * *", Tz::Europe__Vienna), TimeDelta::hours(12)),
        jittery(cron("0 0,1 * * *", Tz::UTC), TimeDelta::hours(5)),
        jittery(every(900), TimeDelta::hours(5)),
    ];
    for schedule in schedules {
        let offset = |n: usize, now| schedule.offset(&pair(n).0, &pair(n).1, now);
        let all: std::collections::BTreeSet<_> = (0..50).map(|n| offset(n, day(9, 0, 0))).collect();
        assert!(all.len() > 45, "{all:?}");
        assert!(*all.last().unwrap() - *all.first().unwrap() > *all.last().unwrap() / 2, "spread: {all:?}");
        for n in 0..5 {
            for minutes in 0..200 {
                assert_eq!(offset(n, day(9, 0, 0) + TimeDelta::minutes(minutes * 29)), offset(n, day(9, 0, 0)));
            }
        }
    }
}

#[test]
fn the_offset_is_at_most_the_jitter_and_half_a_slot() {
    for (schedule, half) in [
        (cron("*/15 * * * *", Tz::UTC), 450),
        (cron("0 0,1 * * *", Tz::UTC), 1800),
        (cron("*/7 * * * *", Tz::UTC), 120),
        (cron("0 0 1 * *", Tz::UTC), 14 * 86_400),
        (every(900), 450),
        (every(1), 0),
    ] {
        for jitter in [0, 1, 120, 86_400, 400 * 86_400] {
            let schedule = Schedule { jitter: secs(jitter), ..schedule.clone() };
            for n in 0..20 {
                let offset = schedule.offset(&pair(n).0, &pair(n).1, day(9, 0, 0));
                let most = secs(jitter.min(half)).max(TimeDelta::milliseconds(500.min(jitter * 1000)));
                assert!(TimeDelta::zero() <= offset && offset <= most, "{offset} {most} {schedule:?}");
            }
        }
    }
}

#[test]
fn a_jittered_pair_runs_its_slot_later_and_is_on_time() {
    let schedule = skipping(Schedule { jitter: TimeDelta::minutes(5), ..cron("0 * * * *", Tz::UTC) });
    let offset = secs(240);
    let entry = after(day(8, 0, 0));
    assert_eq!(due(&schedule, offset, &entry, day(9, 3, 59)), Due::NotYet(Some(day(9, 4, 0))));
    assert_eq!(due(&schedule, offset, &entry, day(9, 4, 0)), run(day(9, 0, 0)));
    assert_eq!(due(&schedule, offset, &after(day(9, 0, 0)), day(9, 4, 0)), Due::NotYet(Some(day(10, 4, 0))));
}

#[test]
fn slots_of_different_lengths_are_not_missed_for_their_jitter() {
    let schedule = skipping(Schedule { jitter: TimeDelta::hours(12), ..cron("0 0,1 * * *", Tz::UTC) });
    for n in 0..5 {
        let (policy, instance) = pair(n);
        let mut entry = LedgerEntry::new(day(5, 0, 0));
        for minute in 0..24 * 60 {
            let now = day(5, 0, 0) + TimeDelta::minutes(minute);
            match due(&schedule, schedule.offset(&policy, &instance, now), &entry, now) {
                Due::Run { slot, .. } => entry = taken(&entry, slot, now),
                Due::Missed(missed) => panic!("{now}: {missed:?}"),
                Due::NotYet(_) => {}
            }
        }
    }
}

// ---------------------------------------------------------------- missed slots

#[test]
fn one_snapshot_makes_up_for_many_missed_slots() {
    for schedule in [cron("*/15 * * * *", Tz::UTC), every(900)] {
        let entry = after(day(9, 0, 0));
        let missed = MissedSlots { first: day(9, 15, 0), last: day(11, 45, 0), count: 11 };
        let due = due_now(&schedule, &entry, day(12, 10, 0));
        assert_eq!(due, Due::Run { slot: day(12, 0, 0), attempt: 1, missed: Some(missed) });
        let entry = taken(&entry, day(12, 0, 0), day(12, 10, 0));
        assert_eq!(due_now(&schedule, &entry, day(12, 10, 0)), Due::NotYet(Some(day(12, 15, 0))));
    }
}

#[test]
fn missed_slots_are_skipped_and_marked_if_so_wanted() {
    for schedule in [cron("*/15 * * * *", Tz::UTC), every(900)].map(skipping) {
        let entry = after(day(9, 0, 0));
        let slots = MissedSlots { first: day(9, 15, 0), last: day(12, 0, 0), count: 12 };
        assert_eq!(due_now(&schedule, &entry, day(12, 10, 0)), Due::Missed(slots));
        let entry = entry.missed(slots);
        assert_eq!(entry.outcome, Some(Outcome::Missed { slot: day(12, 0, 0), count: 12 }));
        assert_eq!(due_now(&schedule, &entry, day(12, 10, 0)), Due::NotYet(Some(day(12, 15, 0))));
        assert_eq!(due_now(&schedule, &entry, day(12, 15, 0)), run(day(12, 15, 0)));
    }
}

#[test]
fn a_slot_on_time_runs_though_those_before_it_are_skipped() {
    let schedule = skipping(cron("*/15 * * * *", Tz::UTC));
    let missed = Some(MissedSlots { first: day(9, 15, 0), last: day(11, 45, 0), count: 11 });
    for now in [day(12, 0, 0), day(12, 0, 59), day(12, 1, 0)] {
        assert_eq!(due_now(&schedule, &after(day(9, 0, 0)), now), Due::Run { slot: day(12, 0, 0), attempt: 1, missed });
    }
    assert!(matches!(due_now(&schedule, &after(day(9, 0, 0)), day(12, 1, 1)), Due::Missed(_)));
    // Slots shorter than a minute are always on time.
    assert!(matches!(due_now(&skipping(every(10)), &after(day(9, 0, 0)), day(9, 0, 29)), Due::Run { .. }));
}

#[test]
fn years_of_missed_slots_are_counted_to_a_thousand_and_fast() {
    let entry = after(at(2016, 1, 1, 0, 0, 0));
    let start = Instant::now();
    for (schedule, length) in [(every(1), 1), (cron("* * * * * *", Tz::Europe__Vienna), 1), (cron("*/5 * * * *", Tz::UTC), 300)] {
        let now = day(9, 3, 20);
        let slot = schedule.slot_at_or_before(now).unwrap();
        let first = at(2016, 1, 1, 0, 0, 0) + secs(length);
        let missed = MissedSlots { first, last: slot - secs(length), count: 1000 };
        assert_eq!(due_now(&schedule, &entry, now), Due::Run { slot, attempt: 1, missed: Some(missed) });
        if length > 60 {
            let all = MissedSlots { last: slot, ..missed };
            assert_eq!(due_now(&skipping(schedule), &entry, now), Due::Missed(all));
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn exactly_a_thousand_missed_slots_are_reported_with_their_last() {
    for n in [998, 999, 1000, 1001, 1002] {
        let now = day(9, 0, 0) + secs(900 * n + 100);
        let last = day(9, 0, 0) + secs(900 * n);
        let count = u32::try_from(n.min(1000)).unwrap();
        let want = MissedSlots { first: day(9, 15, 0), last, count };
        assert_eq!(due_now(&skipping(every(900)), &after(day(9, 0, 0)), now), Due::Missed(want));
        let before = MissedSlots { last: last - secs(900), count: u32::try_from((n - 1).min(1000)).unwrap(), ..want };
        assert_eq!(due_now(&every(900), &after(day(9, 0, 0)), now), Due::Run { slot: last, attempt: 1, missed: Some(before) });
    }
}

// ---------------------------------------------------------------- retries

#[test]
fn a_failed_slot_is_tried_again_with_doubled_waits_and_so_many_times() {
    let schedule = cron("0 * * * *", Tz::UTC);
    let (slot, next) = (day(9, 0, 0), Some(day(10, 0, 0)));
    let mut entry = after(day(8, 0, 0));
    let mut now = slot;
    for (attempt, wait) in [(1, Some(60)), (2, Some(120)), (3, Some(240)), (4, None)] {
        assert_eq!(due_now(&schedule, &entry, now), Due::Run { slot, attempt, missed: None });
        let (running, begun) = begun(&entry, slot, attempt, now);
        entry = running.failed(begun, "no space", false, Retry { attempts: 4, ..RETRY }, next, now);
        assert_eq!(entry.outcome, Some(Outcome::Failed { slot, error: "no space".to_owned(), interrupted: false }));
        assert_eq!((entry.failures, entry.last_error.as_deref()), (attempt, Some("no space")));
        let Some(wait) = wait else { break };
        assert_eq!((entry.retry_slot, entry.retry_at, entry.attempts), (Some(slot), Some(now + secs(wait)), attempt));
        assert_eq!(due_now(&schedule, &entry, now + secs(wait - 1)), Due::NotYet(Some(now + secs(wait))));
        now += secs(wait);
    }
    assert_eq!((entry.retry_slot, entry.retry_at, entry.attempts), (None, None, 0));
    assert_eq!(due_now(&schedule, &entry, day(9, 59, 59)), Due::NotYet(next));
    assert_eq!(due_now(&schedule, &entry, day(10, 0, 0)), run(day(10, 0, 0)));
    let entry = taken(&entry, day(10, 0, 0), day(10, 0, 0));
    assert_eq!((entry.failures, entry.last_error), (0, None));
}

#[test]
fn a_slot_is_never_tried_again_beyond_the_next_one() {
    let schedule = cron("*/15 * * * *", Tz::UTC);
    let (slot, next) = (day(9, 0, 0), Some(day(9, 15, 0)));
    let (entry, begun) = begun(&after(day(8, 45, 0)), slot, 1, slot);
    // It failed so late that the wait goes to the next slot.
    for (now, again) in [(day(9, 13, 59), true), (day(9, 14, 0), false), (day(9, 20, 0), false)] {
        assert_eq!(entry.failed(begun, "x", false, RETRY, next, now).retry_at.is_some(), again, "{now}");
    }
    // A retry was planned, but nobody looked until the next slot: that one runs, and the old one has failed.
    let entry = entry.failed(begun, "x", false, RETRY, next, slot);
    assert_eq!(due_now(&schedule, &entry, day(9, 15, 0)), run(day(9, 15, 0)));
    let entry = entry.begin(day(9, 15, 0), 1, day(9, 15, 0)).skipped(day(9, 15, 0), "it is a fork");
    assert_eq!((entry.retry_slot, entry.retry_at, entry.attempts), (None, None, 0));
    assert_eq!(entry.outcome, Some(Outcome::Skipped { slot: day(9, 15, 0), why: "it is a fork".to_owned() }));
}

#[test]
fn waits_of_any_length_and_any_number_of_attempts_do_not_overflow() {
    let (entry, mut begun) = begun(&after(day(8, 0, 0)), day(9, 0, 0), 1, day(9, 0, 0));
    for attempt in [1, 17, 40, u32::MAX - 1] {
        begun.attempt = attempt;
        for backoff in [TimeDelta::zero(), secs(1), TimeDelta::MAX] {
            let retry = Retry { attempts: u32::MAX, backoff };
            let entry = entry.failed(begun, "x", false, retry, None, day(9, 0, 0));
            assert_eq!(entry.retry_at.is_some(), backoff != TimeDelta::MAX);
        }
    }
    begun.attempt = 1;
    assert_eq!(entry.failed(begun, "x", false, Retry { attempts: 1, ..RETRY }, None, day(9, 0, 0)).retry_at, None);
}

#[test]
fn a_slot_that_was_begun_and_has_no_outcome_is_a_failure_and_tried_again() {
    let schedule = cron("0 * * * *", Tz::UTC);
    let slot = day(9, 0, 0);
    let (entry, _) = begun(&after(day(8, 0, 0)), slot, 1, slot);
    // The process ended; the next one finds this.
    let entry: LedgerEntry = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap();
    let found = entry.begun.unwrap();
    let entry = entry.failed(found, "interrupted", true, RETRY, schedule.slot_after(slot), day(9, 5, 0));
    assert_eq!(entry.outcome, Some(Outcome::Failed { slot, error: "interrupted".to_owned(), interrupted: true }));
    assert_eq!((entry.begun, entry.failures, entry.attempts, entry.last_slot), (None, 1, 1, Some(slot)));
    assert_eq!(due_now(&schedule, &entry, day(9, 6, 0)), Due::Run { slot, attempt: 2, missed: None });
    // Found when the next slot has come, it is not tried again.
    let (entry, found) = begun(&after(day(8, 0, 0)), slot, 1, slot);
    let entry = entry.failed(found, "interrupted", true, RETRY, schedule.slot_after(slot), day(10, 5, 0));
    assert_eq!(entry.retry_slot, None);
    assert_eq!(due_now(&schedule, &entry, day(10, 5, 0)), run(day(10, 0, 0)));
}

// ---------------------------------------------------------------- clocks that step

#[test]
fn a_clock_that_steps_back_a_little_runs_no_slot_twice() {
    for schedule in [cron("*/15 * * * *", Tz::UTC), every(900)] {
        let entry = after(day(9, 0, 0));
        for back in [1, 60, 899, 900, 1800, 3600] {
            let now = day(9, 0, 0) - secs(back);
            assert!(matches!(due_now(&schedule, &entry, now), Due::NotYet(Some(_))), "{back}");
        }
        assert_eq!(due_now(&schedule, &entry, day(9, 14, 59)), Due::NotYet(Some(day(9, 15, 0))));
    }
    // A rare slot is not run again by a clock that is weeks behind it.
    let yearly = cron("0 0 1 1 *", Tz::UTC);
    let entry = after(at(2026, 1, 1, 0, 0, 0));
    assert_eq!(due_now(&yearly, &entry, at(2025, 12, 20, 0, 0, 0)), Due::NotYet(Some(at(2026, 1, 1, 0, 0, 0))));
    assert_eq!(due_now(&yearly, &entry, at(2026, 1, 1, 0, 0, 0)), Due::NotYet(Some(at(2027, 1, 1, 0, 0, 0))));
}

#[test]
fn a_clock_that_steps_back_by_hours_goes_on_with_its_next_slot() {
    for missed in [Missed::Run, Missed::Skip] {
        let schedule = Schedule { missed, ..cron("*/15 * * * *", Tz::UTC) };
        let entry = after(day(12, 0, 0));
        assert_eq!(due_now(&schedule, &entry, day(9, 5, 0)), Due::NotYet(Some(day(9, 15, 0))), "not at once");
        assert_eq!(due_now(&schedule, &entry, day(9, 15, 1)), run(day(9, 15, 0)));
        let entry = taken(&entry, day(9, 15, 0), day(9, 15, 1));
        assert_eq!(due_now(&schedule, &entry, day(9, 15, 2)), Due::NotYet(Some(day(9, 30, 0))));
        assert_eq!(due_now(&schedule, &entry, day(9, 30, 0)), run(day(9, 30, 0)));
    }
}

#[test]
fn an_entry_in_the_far_future_does_not_stop_the_schedule() {
    let future = at(2036, 1, 1, 0, 0, 0);
    for entry in [after(future), LedgerEntry::new(future), LedgerEntry::new(day(8, 0, 0)).skipped(future, "x")] {
        for schedule in [cron("*/15 * * * *", Tz::UTC), every(900)] {
            // Whoever looks rarely, and never on time, gets its slot.
            assert_eq!(due_now(&schedule, &entry, day(9, 5, 0)), run(day(9, 0, 0)));
            let right = taken(&entry, day(9, 0, 0), day(9, 5, 0));
            assert_eq!(due_now(&schedule, &right, day(9, 5, 0)), Due::NotYet(Some(day(9, 15, 0))));
            assert_eq!(due_now(&schedule, &right, day(9, 16, 0)), run(day(9, 15, 0)));
            let schedule = skipping(schedule);
            let missed = MissedSlots { first: day(9, 0, 0), last: day(9, 0, 0), count: 1 };
            assert_eq!(due_now(&schedule, &entry, day(9, 5, 0)), Due::Missed(missed));
            let right = entry.missed(missed);
            assert_eq!(due_now(&schedule, &right, day(9, 5, 0)), Due::NotYet(Some(day(9, 15, 0))), "marked once");
            assert_eq!(due_now(&schedule, &right, day(9, 15, 0)), run(day(9, 15, 0)));
        }
    }
}

// ---------------------------------------------------------------- the record

#[test]
fn an_instance_is_gone_since_it_was_first_seen_gone() {
    let entry = after(day(9, 0, 0)).seen(false, day(9, 5, 0)).seen(false, day(9, 6, 0));
    assert_eq!(entry.gone_since, Some(day(9, 5, 0)));
    assert_eq!(entry.seen(true, day(9, 7, 0)).gone_since, None);
    assert_eq!(entry.seen(true, day(9, 7, 0)), after(day(9, 0, 0)));
}

#[test]
fn an_entry_is_the_same_after_it_was_written_and_read() {
    let entry = LedgerEntry::new(day(8, 0, 0) + TimeDelta::nanoseconds(123_456_789));
    let (running, mark) = begun(&entry, day(9, 0, 0), 1, day(9, 0, 1));
    let missed = MissedSlots { first: day(9, 0, 0), last: day(10, 0, 0), count: 2 };
    let all = [
        running.taken(day(9, 0, 0), snapshot(), day(9, 0, 2)).seen(false, day(9, 1, 0)),
        running.failed(mark, "\"quoted\"\n", true, RETRY, None, day(9, 0, 2)),
        entry.skipped(day(9, 0, 0), "it is a fork"),
        entry.missed(missed),
        running,
        entry,
    ];
    for entry in all {
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<LedgerEntry>(&text).unwrap(), entry, "{text}");
    }
    // What is not known of is none.
    let least: LedgerEntry = serde_json::from_str(r#"{"format":1,"since":"2026-11-24T08:00:00Z","attempts":0,"failures":0}"#).unwrap();
    assert_eq!(least, LedgerEntry::new(day(8, 0, 0)));
}

// ---------------------------------------------------------------- properties

/// What happens to a slot that is begun.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Taken,
    Failed,
    Skipped,
    Crashed,
}

/// Where a slot is, by the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Taken,
    Failed,
    Skipped,
    Missed,
    /// It failed so many times and is to be tried again.
    Retried(u32),
    /// Begun, by a process that is no more.
    Begun(u32),
}

/// A worker's life beside a record of every slot.
struct Life {
    schedule: Schedule,
    offset: TimeDelta,
    retry: Retry,
    entry: LedgerEntry,
    slots: BTreeMap<DateTime<Utc>, Ended>,
    since: DateTime<Utc>,
}

impl Life {
    fn end(&mut self, slot: DateTime<Utc>, how: Ended) {
        let was = self.slots.insert(slot, how);
        assert!(matches!(was, None | Some(Ended::Retried(_) | Ended::Begun(_))), "{slot} was {was:?}, now {how:?}");
    }

    fn fail(&mut self, interrupted: bool, now: DateTime<Utc>) {
        let begun = self.entry.begun.unwrap();
        let next = self.schedule.slot_after(begun.slot);
        self.entry = self.entry.failed(begun, "x", interrupted, self.retry, next, now);
        let again = self.entry.retry_at.is_some();
        assert!(!again || begun.attempt < self.retry.attempts);
        assert!(self.entry.retry_at.is_none_or(|at| at < next.unwrap()));
        self.end(begun.slot, if again { Ended::Retried(begun.attempt) } else { Ended::Failed });
    }

    /// All slots that `missed` speaks of are the next ones that nobody has dealt with.
    fn miss(&mut self, missed: MissedSlots) {
        let known = self.slots.keys().next_back().copied().unwrap_or(self.since);
        let mut slot = self.schedule.slot_after(known).unwrap();
        assert_eq!(slot, missed.first);
        for n in 1..=missed.count {
            self.end(slot, Ended::Missed);
            assert_eq!(n == missed.count, slot == missed.last);
            slot = self.schedule.slot_after(slot).unwrap();
        }
    }

    fn step(&mut self, now: DateTime<Utc>, fate: Fate) {
        if self.entry.begun.is_some() {
            self.fail(true, now);
        }
        match due(&self.schedule, self.offset, &self.entry, now) {
            Due::NotYet(until) => assert!(until.unwrap() > now),
            Due::Missed(missed) => {
                assert_eq!(self.schedule.missed, Missed::Skip);
                self.give_up_retries();
                self.miss(missed);
                self.entry = self.entry.missed(missed);
            }
            Due::Run { slot, attempt, missed } => {
                assert!(slot + self.offset <= now);
                let before = self.slots.get(&slot).copied();
                assert_eq!(before, (attempt > 1).then(|| Ended::Retried(attempt - 1)), "{slot} attempt {attempt}");
                assert!(attempt <= self.retry.attempts);
                if attempt == 1 {
                    self.give_up_retries();
                }
                if let Some(missed) = missed {
                    self.miss(missed);
                }
                self.entry = self.entry.begin(slot, attempt, now);
                match fate {
                    Fate::Taken => {
                        self.entry = self.entry.taken(slot, snapshot(), now);
                        self.end(slot, Ended::Taken);
                    }
                    Fate::Skipped => {
                        self.entry = self.entry.skipped(slot, "x");
                        self.end(slot, Ended::Skipped);
                    }
                    Fate::Failed => self.fail(false, now),
                    Fate::Crashed => self.end(slot, Ended::Begun(attempt)),
                }
            }
        }
        self.check(now);
    }

    /// A new slot has come: what was to be tried again has failed.
    fn give_up_retries(&mut self) {
        for ended in self.slots.values_mut().filter(|e| matches!(e, Ended::Retried(_))) {
            *ended = Ended::Failed;
        }
    }

    /// Every slot that has come is in the record, once, and at most the last one has no final outcome.
    fn check(&self, now: DateTime<Utc>) {
        let mut slot = self.schedule.slot_after(self.since).unwrap();
        let mut known = self.slots.iter().peekable();
        while slot + self.offset <= now {
            let (at, ended) = known.next().unwrap();
            assert_eq!(*at, slot);
            let is_open = matches!(ended, Ended::Retried(_) | Ended::Begun(_));
            assert!(!is_open || known.peek().is_none(), "{slot}: {ended:?}");
            slot = self.schedule.slot_after(slot).unwrap();
        }
        assert_eq!(known.next(), None);
    }
}

fn a_schedule() -> impl Strategy<Value = Schedule> {
    let rhythms = prop::sample::select(vec![
        every(600),
        every(45),
        cron("*/10 * * * *", Tz::UTC),
        cron("0,7,30 * * * *", Tz::Europe__Vienna),
        cron("30 1,2 * * *", Tz::America__New_York),
        cron_list(&["0 * * * *", "20,30 2 * * *"], Tz::Europe__Vienna),
    ]);
    (rhythms, any::<bool>()).prop_map(|(schedule, skip)| if skip { skipping(schedule) } else { schedule })
}

fn a_fate() -> impl Strategy<Value = Fate> {
    prop::sample::select(vec![Fate::Taken, Fate::Failed, Fate::Failed, Fate::Skipped, Fate::Crashed])
}

/// The night of a change of clocks in each zone, and one without.
fn a_start() -> impl Strategy<Value = DateTime<Utc>> {
    let nights =
        vec![at(2026, 10, 24, 20, 0, 0), at(2026, 3, 28, 20, 0, 0), at(2026, 11, 1, 0, 0, 0), at(2026, 3, 8, 0, 0, 0), day(0, 0, 0)];
    (prop::sample::select(nights), 0..7200i64).prop_map(|(night, s)| night + secs(s))
}

proptest! {
    #[test]
    fn each_slot_ends_in_one_outcome_or_is_being_tried_again(
        schedule in a_schedule(),
        since in a_start(),
        offset in 0..20i64,
        attempts in 1..5u32,
        backoff in 1..200i64,
        steps in prop::collection::vec((prop_oneof![0..90_000i64, 90_000..600_000i64, 600_000..9_000_000i64], a_fate()), 1..60),
    ) {
        let retry = Retry { attempts, backoff: secs(backoff) };
        let mut life = Life { schedule, offset: secs(offset), retry, entry: LedgerEntry::new(since), slots: BTreeMap::new(), since };
        let mut now = since;
        for (milliseconds, fate) in steps {
            now += TimeDelta::milliseconds(milliseconds);
            life.step(now, fate);
        }
    }

    #[test]
    fn a_clock_that_wavers_takes_no_slot_twice(
        schedule in a_schedule(), since in a_start(), steps in prop::collection::vec((0..3000i64, 0..=3600i64), 1..60),
    ) {
        let (mut entry, mut right, mut seen) = (LedgerEntry::new(since), since, std::collections::BTreeSet::new());
        for (forward, behind) in steps {
            right += secs(forward);
            let now = right - secs(behind);
            match due_now(&schedule, &entry, now) {
                Due::Run { slot, .. } => {
                    prop_assert!(seen.insert(slot), "{} twice", slot);
                    entry = taken(&entry, slot, now);
                }
                Due::Missed(missed) => {
                    prop_assert!(seen.insert(missed.last));
                    entry = entry.missed(missed);
                }
                Due::NotYet(_) => {}
            }
        }
    }

    #[test]
    fn slots_behind_and_ahead_enclose_any_moment(schedule in a_schedule(), start in a_start(), later in 0..400 * 86_400_000i64) {
        let now = start + TimeDelta::milliseconds(later);
        let (before, next) = (schedule.slot_at_or_before(now).unwrap(), schedule.slot_after(now).unwrap());
        prop_assert!(before <= now && now < next);
        prop_assert_eq!((before.timestamp_subsec_nanos(), next.timestamp_subsec_nanos()), (0, 0));
        prop_assert_eq!(schedule.slot_after(before), Some(next));
        prop_assert_eq!(schedule.slot_at_or_before(next - TimeDelta::milliseconds(1)), Some(before));
        prop_assert_eq!(schedule.slot_at_or_before(next), Some(next));
    }
}

#[path = "cadence_limits_tests.rs"]
mod limits;
