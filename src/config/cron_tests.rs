//! Cron expressions as people write them, and as they should not.

use super::*;
use crate::policy::{Rhythm, Schedule};
use chrono::TimeZone as _;
use chrono_tz::Tz;

fn after(text: &str, from: DateTime<Utc>) -> String {
    let times = parse(text).unwrap_or_else(|problem| panic!("{problem:?}"));
    Schedule::new(Rhythm::Cron([times].into()), Tz::UTC).slot_after(from).unwrap().format("%Y-%m-%dT%H:%M:%S").to_string()
}

fn next(text: &str) -> String {
    after(text, Utc.with_ymd_and_hms(2026, 11, 24, 9, 3, 47).unwrap())
}

#[test]
fn five_to_seven_fields_are_read() {
    assert_eq!(next("*/15 * * * *"), "2026-11-24T09:15:00");
    assert_eq!(next("*/10 * * * * *"), "2026-11-24T09:03:50");
    assert_eq!(next("0 0 0 1 1 * 2030"), "2030-01-01T00:00:00");
    assert_eq!(next("0 3 * * MON-FRI"), "2026-11-25T03:00:00");
    assert_eq!(next("0 0 12 1 jan,Jul ? 2027-2031/2"), "2027-01-01T12:00:00");
    assert_eq!(next(" 5\t4  *  * sun "), "2026-11-29T04:05:00");
    assert_eq!(next("0 0 * * 7"), next("0 0 * * 0"));
    assert_eq!(next("0 0 * * FRI-SUN"), "2026-11-27T00:00:00");
}

#[test]
fn aliases_are_read_in_any_case() {
    assert_eq!(next("@hourly"), "2026-11-24T10:00:00");
    assert_eq!(next("@midnight"), next("@daily"));
    assert_eq!(next("@Weekly"), "2026-11-29T00:00:00");
    assert_eq!(next("@monthly"), "2026-12-01T00:00:00");
    assert_eq!(next("@yearly"), next("@annually"));
}

#[test]
fn last_days_nearest_weekdays_and_nth_weekdays_are_read_also_with_months_and_years() {
    assert_eq!(next("0 0 L * *"), "2026-11-30T00:00:00");
    assert_eq!(next("0 0 L 2 *"), "2027-02-28T00:00:00");
    assert_eq!(next("0 0 0 L 2 * 2028"), "2028-02-29T00:00:00");
    assert_eq!(next("0 0 15W * *"), "2026-12-15T00:00:00");
    assert_eq!(next("0 0 15W 8 *"), "2027-08-16T00:00:00", "the 15th is a Sunday");
    assert_eq!(next("0 0 1W 5 *"), "2027-05-03T00:00:00", "the 1st is a Saturday, and W stays in the month");
    assert_eq!(next("0 0 31W 1 *"), "2027-01-29T00:00:00", "the 31st is a Sunday, and W stays in the month");
    assert_eq!(next("0 0 LW 1 *"), "2027-01-29T00:00:00");
    assert_eq!(next("0 0 * * FRI#2"), "2026-12-11T00:00:00");
    assert_eq!(next("0 0 * * 5L"), "2026-11-27T00:00:00");
    assert_eq!(next("0 0 * * FRIL"), next("0 0 * * 5#L"));
    assert_eq!(next("0 0 * 1 sun#5"), "2027-01-31T00:00:00");
    assert_eq!(next("0 0 0 ? 2 MON#5 2028-2060"), "2044-02-29T00:00:00", "a leap day that is a Monday");
    assert_eq!(next("0 0 * * MON,FRI#2"), "2026-11-30T00:00:00", "each Monday, and second Fridays");
}

#[test]
fn a_day_of_the_month_and_a_day_of_the_week_are_joined_by_or() {
    // Cron's meaning: the 13th and every Friday; 27 November 2026 is a Friday.
    assert_eq!(next("0 0 13 * 5"), "2026-11-27T00:00:00");
    // With a + both must match: Friday the 13th.
    assert_eq!(next("0 0 13 * +5"), "2027-08-13T00:00:00");
    // A field that begins with a star is not restricted, also with a step: odd days that are Mondays.
    assert_eq!(next("0 0 */2 * MON"), "2026-12-07T00:00:00");
    assert_eq!(next("0 0 13 * */7"), "2026-12-13T00:00:00");
}

#[test]
fn what_never_occurs_is_refused() {
    for text in ["0 3 30 2 *", "0 0 0 1 1 * 2020", "0 0 31 4,6,9,11 *", "0 0 31W 2 *"] {
        assert_eq!(parse(text).unwrap_err().message, format!("`{text}` never occurs"));
    }
    assert!(parse("0 0 29 2 *").is_ok(), "leap days occur");
}

#[test]
fn complaints_say_what_is_wrong_and_what_to_write() {
    let complaint = |text: &str| parse(text).unwrap_err();
    assert_eq!(complaint("*/15 * *").message, "`*/15 * *` is not a cron expression: it has 3 fields, not five to seven");
    assert_eq!(complaint("").message, "`` is not a cron expression: it has 0 fields, not five to seven");
    assert_eq!(complaint("@every 5m").help.as_deref(), Some("write every = \"5m\" instead of schedule"));
    let aliases = "the aliases are @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually";
    assert_eq!(complaint("@reboot").help.as_deref(), Some(aliases));
    for (text, message, help) in [
        ("61 * * * *", "`61` is not a minute: 0 to 59", ""),
        ("x * * * *", "`X` is not a minute: 0 to 59", ""),
        ("0 24 * * *", "`24` is not an hour: 0 to 23", ""),
        ("0 0 0 * *", "`0` is not a day of the month: 1 to 31", ""),
        ("0 0 * * MONDAY", "`MONDAY` is not a day of the week: 0 to 7, or SUN to SAT", "write `MON`"),
        ("0 0 * march *", "`MARCH` is not a month: 1 to 12, or JAN to DEC", "write `MAR`"),
        ("0/15 * * * *", "`0/15` has a step, but no range", "write `*/15`"),
        ("5/15 * * * *", "`5/15` has a step, but no range", "write `5-59/15`"),
        (
            "*/90 * * * *",
            "the step of `*/90` is longer than the minutes from 0 to 59",
            "for every 90 minutes write every = \"90m\" instead of schedule",
        ),
        ("*/0 * * * *", "`*/0` has no step: after the / stands a number from 1", ""),
        ("0 22-6 * * *", "`22-6` goes backwards", "ranges do not wrap: write `22-23,0-6`"),
        ("0 0 * * SAT-MON", "`SAT-MON` goes backwards", "ranges do not wrap: write `6,0-1`"),
        ("1,,2 * * * *", "`1,,2` has an empty item", "leave the extra comma out"),
        (
            "0 0 * * L",
            "`L` says not which day of the week",
            "`5L` or `FRIL` is the last Friday of the month; the last day is `L` in the day of the month",
        ),
        (
            "0 0 L-2 * *",
            "`L-2` cannot be written: days are not counted back from the last",
            "`L` is the last day, `LW` the last Monday to Friday",
        ),
        ("0 0 1-5W * *", "`1-5W` has a W after a range", "W is for one day: `15W` is the Monday to Friday nearest to the 15th"),
        ("0 0 L,LW * *", "`L` and `LW` cannot stand in one field", "write two expressions"),
        ("0 0 * * FRI#6", "`FRI#6` has no such day: after # stands 1 to 5, or L for the last", ""),
        ("0 0 0 1 1 * 20260", "`20260` is not a year: 1970 to 2199", ""),
        ("L * * * *", "`L` is not a minute: 0 to 59", ""),
        ("? * * * *", "`?` is not a minute: 0 to 59", ""),
        ("-5 * * * *", "`` is not a minute: 0 to 59", ""),
    ] {
        let found = complaint(text);
        assert_eq!(found.message, format!("`{text}` is not a cron expression: {message}"));
        assert_eq!(found.help.unwrap_or_default(), help, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn what_passes_the_check_is_read_and_nothing_panics(text in "([0-9A-Z*/,#?LW-]{1,6} ){4}[0-9A-Z*/,#?LW+-]{1,6}") {
        if let Err(problem) = parse(&text) {
            // croner has nothing to add: what it would refuse is known here.
            for words in ["invalid", "out of bounds", "illegal", "not allowed"] {
                proptest::prop_assert!(!problem.message.contains(words), "{}", problem.message);
            }
        }
    }
}
