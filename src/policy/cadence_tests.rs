//! The rules of `cadence.rs`, one by one, over days on which clocks change, and over random histories.

use super::*;
use chrono::TimeZone as _;
use chrono_tz::Tz;
use croner::parser::CronParser;
use proptest::prelude::*;

fn utc(y: i32, m: u32, d: u32, h: u32, min: u32, s: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(y, m, d, h, min, s).unwrap()
}

fn cron(text: &str, timezone: Tz) -> Schedule {
    let rhythm = Rhythm::Cron(Box::new(CronParser::builder().build().parse(text).unwrap()));
    Schedule { rhythm, timezone, jitter: TimeDelta::zero(), missed: Missed::Run }
}

fn every(seconds: i64) -> Schedule {
    Schedule { rhythm: Rhythm::Every(TimeDelta::seconds(seconds)), timezone: Tz::UTC, jitter: TimeDelta::zero(), missed: Missed::Run }
}

fn retry(attempts: u32, seconds: i64) -> Retry {
    Retry { attempts, backoff: TimeDelta::seconds(seconds) }
}

fn snapshot() -> SnapshotId {
    SnapshotId::parse("20261124-090347-abcdefgh").unwrap()
}

fn at_once(schedule: &Schedule, entry: &LedgerEntry, now: DateTime<Utc>) -> Due {
    due(schedule, TimeDelta::zero(), entry, now)
}

/// Slots that are run when somebody looks every so often.
fn run_over(schedule: &Schedule, from: DateTime<Utc>, to: DateTime<Utc>, step: TimeDelta) -> Vec<DateTime<Utc>> {
    let (mut entry, mut now, mut slots) = (LedgerEntry::new(from), from, Vec::new());
    while now < to {
        if let Due::Run { slot, missed, .. } = at_once(schedule, &entry, now) {
            assert_eq!(missed, None);
            slots.push(slot);
            entry = entry.begin(slot, 1, now).taken(slot, snapshot(), now);
        }
        now += step;
    }
    slots
}

#[test]
fn the_first_slot_is_the_next_one_and_slots_of_every_count_from_the_epoch() {
    let entry = LedgerEntry::new(utc(2026, 11, 24, 12, 3, 0));
    assert_eq!(at_once(&every(900), &entry, utc(2026, 11, 24, 12, 3, 1)), Due::NotYet(Some(utc(2026, 11, 24, 12, 15, 0))));
    let slot = utc(2026, 11, 24, 12, 15, 0);
    assert_eq!(at_once(&every(900), &entry, slot), Due::Run { slot, attempt: 1, missed: None });
    assert_eq!(at_once(&cron("*/15 * * * *", Tz::UTC), &entry, slot), Due::Run { slot, attempt: 1, missed: None });
}

#[test]
fn a_nightly_job_runs_once_on_the_days_when_clocks_change_and_an_hourly_one_misses_no_real_hour() {
    for (tz, spring, autumn) in [
        (Tz::Europe__Vienna, utc(2026, 3, 28, 12, 0, 0), utc(2026, 10, 24, 12, 0, 0)),
        (Tz::America__New_York, utc(2026, 3, 7, 12, 0, 0), utc(2026, 10, 31, 12, 0, 0)),
    ] {
        for day in [spring, autumn] {
            let (until, step) = (day + TimeDelta::hours(24), TimeDelta::minutes(5));
            for text in ["30 2 * * *", "0 3 * * *", "30 1 * * *"] {
                assert_eq!(run_over(&cron(text, tz), day, until, step).len(), 1, "{text} in {tz} after {day}");
            }
            let hours = run_over(&cron("0 * * * *", tz), day, until, step);
            assert_eq!(hours.len(), 23, "every hour after noon until before noon, {tz} after {day}: {hours:?}");
            assert!(hours.windows(2).all(|w| w[1] - w[0] == TimeDelta::hours(1)), "{hours:?}");
        }
    }
}

#[test]
fn many_missed_slots_are_caught_up_once_and_counted_up_to_a_thousand() {
    let since = utc(2026, 1, 1, 0, 0, 0);
    let entry = LedgerEntry::new(since);
    let Due::Run { slot, missed: Some(missed), .. } = at_once(&every(3600), &entry, utc(2026, 1, 1, 5, 30, 0)) else { panic!() };
    assert_eq!(slot, utc(2026, 1, 1, 5, 0, 0));
    assert_eq!(missed, MissedSlots { first: utc(2026, 1, 1, 1, 0, 0), last: utc(2026, 1, 1, 4, 0, 0), count: 4 });
    let began = std::time::Instant::now();
    let Due::Run { missed: Some(missed), .. } = at_once(&cron("* * * * *", Tz::UTC), &entry, utc(2036, 1, 1, 0, 0, 30)) else { panic!() };
    assert_eq!((missed.count, missed.last), (MOST_MISSED, utc(2035, 12, 31, 23, 59, 0)));
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it must not walk through ten years");
}

#[test]
fn with_skip_missed_slots_are_marked_and_one_that_is_on_time_still_runs() {
    let mut schedule = every(3600);
    schedule.missed = Missed::Skip;
    let entry = LedgerEntry::new(utc(2026, 1, 1, 0, 30, 0));
    let Due::Missed(slots) = at_once(&schedule, &entry, utc(2026, 1, 1, 3, 30, 0)) else { panic!() };
    assert_eq!((slots.first, slots.last, slots.count), (utc(2026, 1, 1, 1, 0, 0), utc(2026, 1, 1, 3, 0, 0), 3));
    let entry = entry.missed(slots);
    let slot = utc(2026, 1, 1, 4, 0, 0);
    assert_eq!(at_once(&schedule, &entry, slot + TimeDelta::seconds(59)), Due::Run { slot, attempt: 1, missed: None });
}

#[test]
fn a_failure_is_tried_again_within_its_slot_later_and_later_and_not_into_the_next() {
    let (schedule, slot) = (every(600), utc(2026, 1, 1, 0, 10, 0));
    let (mut entry, mut now) = (LedgerEntry::new(utc(2026, 1, 1, 0, 0, 0)), slot);
    let mut tries = Vec::new();
    while now < slot + TimeDelta::seconds(600) {
        if let Due::Run { slot: this, attempt, .. } = at_once(&schedule, &entry, now) {
            assert_eq!(this, slot);
            tries.push((now - slot).num_seconds());
            let begun = Begun { slot, at: now, attempt };
            let next = schedule.slot_after(slot);
            entry = entry.begin(slot, attempt, now).failed(begun, "no", false, retry(9, 60), next, now);
        }
        now += TimeDelta::seconds(1);
    }
    assert_eq!(tries, [0, 60, 180, 420], "the fifth would come after the next slot");
    assert_eq!((entry.failures, entry.retry_at), (4, None));
    let entry = entry.taken(slot, snapshot(), now);
    assert_eq!((entry.failures, entry.last_error), (0, None));
}

#[test]
fn a_clock_that_steps_back_runs_no_slot_twice_and_one_that_was_far_ahead_stops_nothing() {
    let schedule = every(60);
    let now = utc(2026, 1, 1, 12, 0, 0);
    let entry = LedgerEntry::new(now - TimeDelta::hours(9)).taken(now, snapshot(), now);
    for back in [1, 30, 59, 600, 1800] {
        assert!(matches!(at_once(&schedule, &entry, now - TimeDelta::seconds(back)), Due::NotYet(_)), "{back}");
    }
    let ahead = LedgerEntry::new(now).taken(now + TimeDelta::days(365), snapshot(), now);
    let Due::NotYet(Some(next)) = at_once(&schedule, &ahead, now + TimeDelta::seconds(5)) else { panic!() };
    assert!(next <= now + TimeDelta::minutes(2), "{next}");
}

#[test]
fn jitter_is_constant_for_a_pair_different_between_pairs_and_at_most_half_a_slot() {
    let mut schedule = every(60);
    schedule.jitter = TimeDelta::hours(1);
    let now = utc(2026, 1, 1, 0, 0, 0);
    let offset = |n: u32| schedule.offset(&PolicyName::parse("p").unwrap(), &InstanceId::parse(&format!("i{n}")).unwrap(), now);
    let offsets: Vec<_> = (0..50).map(offset).collect();
    assert!(offsets.iter().all(|o| *o >= TimeDelta::zero() && *o <= TimeDelta::seconds(30)), "{offsets:?}");
    assert_eq!(offset(7), offset(7));
    let mut different = offsets.clone();
    different.sort();
    different.dedup();
    assert!(different.len() > 40);
    let entry = LedgerEntry::new(now);
    let slot = utc(2026, 1, 1, 0, 1, 0);
    assert!(matches!(due(&schedule, offsets[0], &entry, slot + offsets[0] - TimeDelta::milliseconds(1)), Due::NotYet(_)));
    assert_eq!(due(&schedule, offsets[0], &entry, slot + offsets[0]), Due::Run { slot, attempt: 1, missed: None });
}

#[test]
fn an_entry_survives_the_way_through_json() {
    let now = utc(2026, 1, 1, 0, 0, 0);
    let begun = Begun { slot: now, at: now, attempt: 2 };
    let entry = LedgerEntry::new(now).begin(now, 2, now).failed(begun, "no", true, retry(3, 1), None, now).seen(false, now);
    let text = serde_json::to_string(&entry).unwrap();
    assert_eq!(serde_json::from_str::<LedgerEntry>(&text).unwrap(), entry);
}

proptest! {
    /// Each slot is handled once: taken, failed, or missed; none is left out.
    #[test]
    fn every_slot_ends_exactly_once(
        interval in 1i64..400, skip in any::<bool>(), steps in proptest::collection::vec((1i64..900, 0u8..4), 1..60),
    ) {
        let mut schedule = every(interval);
        schedule.missed = if skip { Missed::Skip } else { Missed::Run };
        let start = utc(2026, 1, 1, 0, 0, 7);
        let (mut entry, mut now) = (LedgerEntry::new(start), start);
        let mut ended: Vec<DateTime<Utc>> = Vec::new();
        for (step, outcome) in steps {
            now += TimeDelta::seconds(step);
            match at_once(&schedule, &entry, now) {
                Due::NotYet(next) => prop_assert!(next.is_none_or(|next| next > now)),
                Due::Missed(slots) => {
                    let mut slot = slots.first;
                    for _ in 0..slots.count {
                        ended.push(slot);
                        slot = schedule.slot_after(slot).unwrap();
                    }
                    entry = entry.missed(slots);
                }
                Due::Run { slot, attempt, missed } => {
                    let mut lost = missed.map_or(slot, |m| m.first);
                    while lost < slot {
                        ended.push(lost);
                        lost = schedule.slot_after(lost).unwrap();
                    }
                    let begun = Begun { slot, at: now, attempt };
                    let begins = entry.begin(slot, attempt, now);
                    let next = schedule.slot_after(slot);
                    entry = match outcome {
                        0 => begins.failed(begun, "no", false, retry(3, 2), next, now),
                        // The process died, and was started again.
                        1 => begins.failed(begun, "died", true, retry(3, 2), next, now),
                        _ => begins.taken(slot, snapshot(), now),
                    };
                    if attempt == 1 {
                        ended.push(slot);
                    }
                }
            }
        }
        prop_assert!(ended.windows(2).all(|w| w[0] < w[1]), "twice, or out of order: {:?}", ended);
        let mut slot = schedule.slot_after(start).unwrap();
        for handled in &ended {
            prop_assert_eq!(*handled, slot, "one was left out");
            slot = schedule.slot_after(slot).unwrap();
        }
    }
}
