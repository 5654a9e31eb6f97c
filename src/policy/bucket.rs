//! The calendar: which bucket a moment falls in. Minutes and hours are keyed in UTC, so that no change of clocks merges
//! two of them; days and longer in the policy's zone. Weeks are ISO weeks, which do not split at New Year.

use super::Granularity;
use chrono::{DateTime, Datelike as _, Utc};
use chrono_tz::Tz;

/// The bucket of `time`: equal text, same bucket. Texts of one granularity sort by time.
#[must_use]
pub fn bucket_key(granularity: Granularity, tz: Tz, time: DateTime<Utc>) -> String {
    let local = time.with_timezone(&tz);
    match granularity {
        Granularity::Minutely => time.format("%Y-%m-%dT%H:%MZ").to_string(),
        Granularity::Hourly => time.format("%Y-%m-%dT%HZ").to_string(),
        Granularity::Daily => local.format("%Y-%m-%d").to_string(),
        Granularity::Weekly => local.format("%G-W%V").to_string(),
        Granularity::Monthly => local.format("%Y-%m").to_string(),
        Granularity::Quarterly => format!("{}-Q{}", local.year(), local.month0() / 3 + 1),
        Granularity::Yearly => local.format("%Y").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    fn key(granularity: Granularity, tz: Tz, y: i32, m: u32, d: u32, h: u32, min: u32) -> String {
        bucket_key(granularity, tz, Utc.with_ymd_and_hms(y, m, d, h, min, 0).unwrap())
    }

    #[test]
    fn an_iso_week_does_not_split_at_new_year() {
        let week = |y, m, d| key(Granularity::Weekly, Tz::UTC, y, m, d, 12, 0);
        assert_eq!(week(2026, 12, 31), "2026-W53");
        assert_eq!(week(2027, 1, 3), "2026-W53");
        assert_eq!(week(2027, 1, 4), "2027-W01");
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours_and_a_day_begins_in_the_policys_zone() {
        let vienna = Tz::Europe__Vienna;
        assert_ne!(key(Granularity::Hourly, vienna, 2026, 10, 25, 0, 30), key(Granularity::Hourly, vienna, 2026, 10, 25, 1, 30));
        assert_eq!(key(Granularity::Daily, vienna, 2026, 11, 24, 23, 30), "2026-11-25");
        assert_eq!(key(Granularity::Daily, Tz::UTC, 2026, 11, 24, 23, 30), "2026-11-24");
        assert_eq!(key(Granularity::Quarterly, Tz::UTC, 2026, 12, 1, 0, 0), "2026-Q4");
    }
}
