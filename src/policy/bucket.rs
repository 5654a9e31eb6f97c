//! The calendar: which bucket a moment falls in, as a number that counts the unit. Minutes and hours are counted in UTC,
//! so that no change of clocks merges two of them; days and longer in the policy's zone. Weeks are ISO weeks, which do
//! not split at New Year.

use super::Granularity;
use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use std::fmt;

/// One minute, hour, day, … of the calendar. Those of one unit sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// The unit.
    pub unit: Granularity,
    /// How many units since the epoch; for quarters and shorter months, since the year 0.
    number: i64,
}

/// 1 January 1970 was a Thursday: weeks are counted from the Monday before it.
const MONDAY: i64 = 3;
/// Days from 1 January of the year 1 to the epoch.
const EPOCH: i64 = 719_163;

/// A moment in the zone of a policy: its day there, from which all longer buckets follow.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    seconds: i64,
    day: NaiveDate,
}

impl Moment {
    /// `time` in this zone.
    #[must_use]
    pub fn new(time: DateTime<Utc>, tz: Tz) -> Self {
        let day = if tz == Tz::UTC { time.date_naive() } else { time.with_timezone(&tz).date_naive() };
        Self { seconds: time.timestamp(), day }
    }

    /// Whether both fall in the same bucket: of one day they mostly are, and that is quickly seen.
    pub(super) fn is_alike(&self, other: &Self, unit: Granularity) -> bool {
        (unit >= Granularity::Daily && self.day == other.day) || self.bucket(unit) == other.bucket(unit)
    }

    /// The bucket it falls in.
    #[must_use]
    pub fn bucket(&self, unit: Granularity) -> Bucket {
        let days = || i64::from(self.day.num_days_from_ce()) - EPOCH;
        let months = || i64::from(self.day.year()) * 12 + i64::from(self.day.month0());
        let number = match unit {
            Granularity::Minutely => self.seconds.div_euclid(60),
            Granularity::Hourly => self.seconds.div_euclid(3600),
            Granularity::Daily => days(),
            Granularity::Weekly => (days() + MONDAY).div_euclid(7),
            Granularity::Monthly => months(),
            Granularity::Quarterly => months().div_euclid(3),
            Granularity::Yearly => i64::from(self.day.year()),
        };
        Bucket { unit, number }
    }
}

/// The bucket of `time`.
#[must_use]
pub fn bucket(unit: Granularity, tz: Tz, time: DateTime<Utc>) -> Bucket {
    Moment::new(time, tz).bucket(unit)
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |days: i64| DateTime::UNIX_EPOCH.checked_add_signed(TimeDelta::try_days(days)?).map(|t| t.date_naive());
        let time = |seconds: i64, format: &str| DateTime::from_timestamp(seconds, 0).map(|t| t.format(format).to_string());
        let number = self.number;
        let text = match self.unit {
            Granularity::Minutely => time(number.saturating_mul(60), "%Y-%m-%dT%H:%MZ"),
            Granularity::Hourly => time(number.saturating_mul(3600), "%Y-%m-%dT%HZ"),
            Granularity::Daily => day(number).map(|d| d.to_string()),
            Granularity::Weekly => day(number * 7 - MONDAY).map(|d| d.format("%G-W%V").to_string()),
            Granularity::Monthly => Some(format!("{}-{:02}", number.div_euclid(12), number.rem_euclid(12) + 1)),
            Granularity::Quarterly => Some(format!("{}-Q{}", number.div_euclid(4), number.rem_euclid(4) + 1)),
            Granularity::Yearly => Some(number.to_string()),
        };
        f.write_str(text.as_deref().unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;
    use proptest::prelude::*;

    fn key(granularity: Granularity, tz: Tz, y: i32, m: u32, d: u32, h: u32, min: u32) -> String {
        bucket(granularity, tz, Utc.with_ymd_and_hms(y, m, d, h, min, 0).unwrap()).to_string()
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
        assert_eq!(key(Granularity::Monthly, Tz::UTC, 2026, 12, 1, 0, 0), "2026-12");
    }

    /// What the calendar's own formats say.
    fn written(unit: Granularity, tz: Tz, time: DateTime<Utc>) -> String {
        let local = time.with_timezone(&tz);
        match unit {
            Granularity::Minutely => time.format("%Y-%m-%dT%H:%MZ").to_string(),
            Granularity::Hourly => time.format("%Y-%m-%dT%HZ").to_string(),
            Granularity::Daily => local.format("%Y-%m-%d").to_string(),
            Granularity::Weekly => local.format("%G-W%V").to_string(),
            Granularity::Monthly => local.format("%Y-%m").to_string(),
            Granularity::Quarterly => format!("{}-Q{}", local.year(), local.month0() / 3 + 1),
            Granularity::Yearly => local.format("%Y").to_string(),
        }
    }

    proptest! {
        #[test]
        fn every_bucket_is_written_as_the_calendar_writes_it(seconds in -2_000_000_000i64..5_000_000_000, zone in 0..4usize) {
            use Granularity::{Daily, Hourly, Minutely, Monthly, Quarterly, Weekly, Yearly};
            let tz = [Tz::UTC, Tz::Europe__Vienna, Tz::America__New_York, Tz::Asia__Kathmandu][zone];
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            for unit in [Minutely, Hourly, Daily, Weekly, Monthly, Quarterly, Yearly] {
                prop_assert_eq!(bucket(unit, tz, time).to_string(), written(unit, tz, time));
            }
        }
    }
}
