//! The cadence where something bounds it: windows, turns, how long ago; and the first look at a pair.

use super::*;

#[test]
fn a_slot_that_went_by_too_long_ago_is_not_caught_up() {
    let schedule = Schedule { missed_within: Some(TimeDelta::hours(6)), ..cron("0 3 * * *", Tz::UTC) };
    let entry = after(at(2026, 11, 21, 3, 0, 0));
    let missed = Some(MissedSlots { first: at(2026, 11, 22, 3, 0, 0), last: at(2026, 11, 23, 3, 0, 0), count: 2 });
    assert_eq!(due_now(&schedule, &entry, day(9, 0, 0)), Due::Run { slot: day(3, 0, 0), attempt: 1, missed });
    let slots = MissedSlots { first: at(2026, 11, 22, 3, 0, 0), last: day(3, 0, 0), count: 3 };
    assert_eq!(due_now(&schedule, &entry, day(9, 0, 1)), Due::Missed(slots));
    assert_eq!(due_now(&schedule, &entry.missed(slots), day(9, 0, 1)), Due::NotYet(Some(at(2026, 11, 25, 3, 0, 0))));
    // With jitter, the time counts from when it was to run.
    let due = due(&schedule, secs(600), &entry, day(9, 5, 0));
    assert!(matches!(due, Due::Run { .. }), "{due:?}");
}

#[test]
fn a_slot_that_waits_for_its_turn_is_not_missed_for_that() {
    for schedule in [skipping(cron("*/15 * * * *", Tz::UTC)), Schedule { missed_within: Some(secs(60)), ..every(900) }] {
        let (entry, slot) = (after(day(9, 0, 0)), day(9, 15, 0));
        assert!(matches!(due_now(&schedule, &entry, day(9, 20, 0)), Due::Missed(_)));
        let due_then = |now| due_for(&schedule, TimeDelta::zero(), &entry, now, Some(slot));
        assert_eq!(due_then(day(9, 20, 0)), run(slot));
        // When the next slot comes, the two are one.
        let both = Some(MissedSlots { first: slot, last: slot, count: 1 });
        assert_eq!(due_then(day(9, 30, 0)), Due::Run { slot: day(9, 30, 0), attempt: 1, missed: both });
    }
}

#[test]
fn nothing_begins_outside_the_window_and_what_was_missed_waits_for_it() {
    let window = crate::policy::Window::parse(["22:00-06:00"]).unwrap();
    let schedule = Schedule { window, ..cron("0 */2 * * *", Tz::UTC) };
    let entry = after(at(2026, 11, 24, 0, 0, 0));
    // The worker was away from 01:00 on.
    assert_eq!(due_now(&schedule, &entry, day(9, 0, 0)), Due::NotYet(Some(day(22, 0, 0))));
    let missed = Some(MissedSlots { first: day(2, 0, 0), last: day(4, 0, 0), count: 2 });
    assert_eq!(due_now(&schedule, &entry, day(22, 0, 0)), Due::Run { slot: day(22, 0, 0), attempt: 1, missed });
    let one = Schedule { missed_within: Some(TimeDelta::hours(6)), ..cron("0 4 * * *", Tz::UTC) };
    let one = Schedule { window: schedule.window.clone(), ..one };
    let entry = after(at(2026, 11, 23, 4, 0, 0));
    assert_eq!(due_now(&one, &entry, day(5, 0, 0)), run(day(4, 0, 0)));
    assert_eq!(due_now(&one, &entry, day(9, 0, 0)), Due::NotYet(Some(day(22, 0, 0))));
    assert!(matches!(due_now(&one, &entry, day(22, 0, 0)), Due::Missed(_)), "it is too old when the window opens");
    // Nor is a slot tried again outside.
    let slot = day(4, 0, 0);
    let (running, mark) = begun(&after(at(2026, 11, 23, 4, 0, 0)), slot, 1, slot);
    let failed = running.failed(mark, "x", false, Retry { backoff: TimeDelta::hours(3), ..RETRY }, one.slot_after(slot), slot);
    assert_eq!(due_now(&one, &failed, day(8, 0, 0)), Due::NotYet(Some(day(22, 0, 0))));
    assert_eq!(due_now(&one, &failed, day(22, 0, 0)), Due::Run { slot, attempt: 2, missed: None });
}

#[test]
fn a_pair_that_is_seen_for_the_first_time_waits_or_runs_at_once() {
    let hourly = cron("0 * * * *", Tz::UTC);
    let now = day(9, 20, 0) + TimeDelta::milliseconds(300);
    assert_eq!(due_now(&hourly, &LedgerEntry::enabled(&hourly, now), now), Due::NotYet(Some(day(10, 0, 0))));
    for missed in [Missed::Run, Missed::Skip] {
        let eager = Schedule { on_enable: OnEnable::Run, missed, ..hourly.clone() };
        let entry = LedgerEntry::enabled(&eager, now);
        assert_eq!(due_now(&eager, &entry, now), Due::Run { slot: day(9, 20, 0), attempt: 1, missed: None });
        // A worker that ends in between finds the same when it is back.
        assert_eq!(due_now(&eager, &entry, day(9, 50, 0)), Due::Run { slot: day(9, 20, 0), attempt: 1, missed: None });
        assert_eq!(due_now(&eager, &entry, day(10, 0, 0)), run(day(10, 0, 0)), "the next slot takes its place");
        let entry = taken(&entry, day(9, 20, 0), now);
        assert_eq!(due_now(&eager, &entry, now), Due::NotYet(Some(day(10, 0, 0))));
        let closed = Schedule { window: crate::policy::Window::parse(["22:00-06:00"]).unwrap(), ..eager };
        assert_eq!(due_now(&closed, &LedgerEntry::enabled(&closed, now), now), Due::NotYet(Some(day(22, 0, 0))));
    }
}

#[test]
fn how_late_a_run_began_is_remembered_and_not_known_of_old_entries() {
    let entry = LedgerEntry::new(day(9, 0, 0)).late(day(9, 0, 0), secs(30), day(9, 0, 32));
    assert_eq!(entry.late_ms, Some(2000));
    assert_eq!(entry.late(day(9, 0, 0), secs(30), day(9, 0, 10)).late_ms, Some(0));
    let text = serde_json::to_string(&LedgerEntry::new(day(9, 0, 0))).unwrap();
    let old = text.replace(",\"late_ms\":null", "");
    assert_ne!(old, text);
    assert_eq!(serde_json::from_str::<LedgerEntry>(&old).unwrap().late_ms, None);
}
