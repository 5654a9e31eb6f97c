//! The time in a directory's name: by a pattern, or by the shape that such names have. Pure.
//!
//! Without a pattern the first date in the name counts: four digits, two and two, with `-`, `.`, `_` or nothing between.
//! Behind it, joined by `T`, `_`, `-`, `.`, `@`, a space or nothing, may stand hour, minute and (or not) second, with `:`, `-`,
//! `.`, `_` or nothing between; behind these `Z`, or an offset such as `+02:00`. A date alone is its first moment.

use chrono::format::{Item, Parsed, StrftimeItems, parse_and_remainder};
use chrono::{DateTime, FixedOffset, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

/// How times are read out of names.
#[derive(Debug, Clone)]
pub struct Stamps {
    /// strftime(3), somewhere in the name; none: by its shape.
    pattern: Option<String>,
    /// What names without an offset mean.
    zone: Tz,
}

/// What a name says of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// This moment.
    At(DateTime<Utc>),
    /// Nothing.
    None,
    /// A time that the clocks showed twice on that day: at these moments.
    Twice(DateTime<Utc>, DateTime<Utc>),
    /// A time that the clocks left out on that day.
    Never(NaiveDateTime),
}

/// A time as a name has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Moment(DateTime<Utc>),
    Local(NaiveDateTime),
    /// A date alone.
    Day(NaiveDate),
}

impl Stamps {
    /// Times by this pattern, in this zone.
    ///
    /// # Errors
    /// What is wrong with the pattern, in words.
    pub fn new(pattern: Option<&str>, zone: Tz) -> Result<Self, String> {
        if let Some(pattern) = pattern {
            if StrftimeItems::new(pattern).any(|item| item == Item::Error) {
                return Err(format!("\"{pattern}\" is not a pattern of strftime"));
            }
            // What it writes it must be able to read.
            let example = DateTime::<FixedOffset>::from(DateTime::UNIX_EPOCH + TimeDelta::days(20_000)).format(pattern).to_string();
            if by_pattern(&example, pattern).is_none() {
                return Err(format!("\"{pattern}\" does not say which day; it needs %Y, %m and %d, or %s"));
            }
        }
        Ok(Self { pattern: pattern.map(str::to_owned), zone })
    }

    /// Whether a pattern was given: then a name that does not fit is not looked at by its time of change.
    #[must_use]
    pub fn has_pattern(&self) -> bool {
        self.pattern.is_some()
    }

    /// The time in a name.
    #[must_use]
    pub fn read(&self, name: &str) -> Stamp {
        let written = match &self.pattern {
            Some(pattern) => by_pattern(name, pattern),
            None => by_shape(name),
        };
        match written {
            None => Stamp::None,
            Some(Written::Moment(at)) => Stamp::At(at),
            Some(Written::Local(local)) => self.moment(local),
            Some(Written::Day(day)) => self.first_moment(day),
        }
    }

    fn moment(&self, local: NaiveDateTime) -> Stamp {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Stamp::At(at.to_utc()),
            LocalResult::Ambiguous(one, other) => Stamp::Twice(one.to_utc(), other.to_utc()),
            LocalResult::None => Stamp::Never(local),
        }
    }

    /// A day has a first moment also where the clocks leave midnight out, or have it twice.
    fn first_moment(&self, day: NaiveDate) -> Stamp {
        let quarters = (0..=96).filter_map(|n| day.and_time(NaiveTime::MIN).checked_add_signed(TimeDelta::minutes(15 * n)));
        let first = quarters.map(|local| self.zone.from_local_datetime(&local)).find_map(|local| local.earliest());
        first.map_or(Stamp::Never(day.and_time(NaiveTime::MIN)), |at| Stamp::At(at.to_utc()))
    }
}

/// Where in a name a time may begin: nowhere within a number.
fn places(name: &str) -> impl Iterator<Item = &str> {
    let mut before = None;
    name.char_indices().filter_map(move |(at, c)| {
        let is_inside = before.replace(c).is_some_and(|b: char| b.is_ascii_digit()) && c.is_ascii_digit();
        if is_inside { None } else { name.get(at..) }
    })
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// The first place of the name where all of the pattern fits, and no digit follows.
fn by_pattern(name: &str, pattern: &str) -> Option<Written> {
    places(name).find_map(|text| {
        let mut parsed = Parsed::new();
        let rest = parse_and_remainder(&mut parsed, text, StrftimeItems::new(pattern)).ok()?;
        // A dash before the year is no minus.
        let year = parsed.year().is_none_or(|year| year > 0);
        if begins_with_digit(rest) || !year { None } else { resolve(parsed) }
    })
}

fn resolve(mut parsed: Parsed) -> Option<Written> {
    if parsed.offset().is_some() {
        return parsed.to_datetime().ok().map(|at| Written::Moment(at.to_utc()));
    }
    if parsed.timestamp().is_some() {
        return parsed.to_naive_datetime_with_offset(0).ok().map(|at| Written::Moment(at.and_utc()));
    }
    let day = parsed.to_naive_date().ok()?;
    if parsed.hour_mod_12().is_none() {
        return Some(Written::Day(day));
    }
    if parsed.minute().is_none() {
        parsed.set_minute(0).ok()?;
    }
    parsed.to_naive_time().ok().map(|time| Written::Local(day.and_time(time)))
}

/// The first date of the name, with the time behind it.
fn by_shape(name: &str) -> Option<Written> {
    places(name).find_map(|text| {
        let (day, rest) = date(text)?;
        let Some((time, rest)) = time(rest) else {
            return (!begins_with_digit(rest)).then_some(Written::Day(day));
        };
        let local = day.and_time(time);
        Some(offset(rest).map_or(Written::Local(local), |offset| Written::Moment((local - offset).and_utc())))
    })
}

/// So many digits as a number, and what is behind them.
fn number(text: &str, digits: usize) -> Option<(u32, &str)> {
    let (head, rest) = text.split_at_checked(digits)?;
    if !head.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((head.parse().ok()?, rest))
}

/// One of these characters, and what is behind it; nothing, and all of it, if there is none.
fn one_of<'a>(text: &'a str, any: &str) -> (Option<char>, &'a str) {
    match text.chars().next().filter(|c| any.contains(*c)) {
        Some(c) => (Some(c), text.get(c.len_utf8()..).unwrap_or_default()),
        None => (None, text),
    }
}

fn date(text: &str) -> Option<(NaiveDate, &str)> {
    let (year, rest) = number(text, 4)?;
    let (first, rest) = one_of(rest, "-._");
    let (month, rest) = number(rest, 2)?;
    let (second, rest) = one_of(rest, "-._");
    if first != second {
        return None;
    }
    let (day, rest) = number(rest, 2)?;
    Some((NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?, rest))
}

/// With its joint; `None` if what follows is no time.
fn time(text: &str) -> Option<(NaiveTime, &str)> {
    let (_, rest) = one_of(text, "Tt_-.@ ");
    let (hour, rest) = number(rest, 2)?;
    let (first, rest) = one_of(rest, ":-._");
    let (minute, rest) = number(rest, 2)?;
    let (second, behind) = one_of(rest, ":-._");
    // The same between minute and second, or there is no second.
    let with_second = number(behind, 2).filter(|(_, rest)| first == second && !begins_with_digit(rest));
    let (second, rest) = with_second.unwrap_or((0, rest));
    if begins_with_digit(rest) {
        return None;
    }
    // A leap second is the last moment of its minute.
    NaiveTime::from_hms_opt(hour, minute, second.min(59)).filter(|_| second <= 60).map(|time| (time, rest))
}

/// What the clocks were ahead of UTC.
fn offset(text: &str) -> Option<TimeDelta> {
    let (zulu, rest) = one_of(text, "Zz");
    if zulu.is_some() {
        return (!rest.starts_with(|c: char| c.is_alphanumeric())).then(TimeDelta::zero);
    }
    let (sign, rest) = one_of(text, "+-");
    let (hours, rest) = number(rest, 2)?;
    let (colon, rest) = one_of(rest, ":");
    let (minutes, rest) = number(rest, 2)?;
    // `-0500` behind a time is as likely a counter.
    let is_offset = (sign == Some('+') || sign == Some('-') && colon.is_some()) && hours <= 14 && minutes < 60 && !begins_with_digit(rest);
    let ahead = TimeDelta::minutes(i64::from(hours * 60 + minutes));
    is_offset.then_some(if sign == Some('-') { -ahead } else { ahead })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaped(name: &str, zone: Tz) -> String {
        show(Stamps::new(None, zone).unwrap().read(name))
    }

    fn show(stamp: Stamp) -> String {
        let text = |at: DateTime<Utc>| at.format("%F %T").to_string();
        match stamp {
            Stamp::At(at) => text(at),
            Stamp::None => "none".into(),
            Stamp::Twice(one, other) => format!("twice {} {}", text(one), text(other)),
            Stamp::Never(local) => format!("never {local}"),
        }
    }

    #[test]
    fn times_are_found_in_names_of_the_usual_shapes() {
        let same = "2026-11-24 03:05:09";
        let second = [
            "2026-11-24T03-05-09",
            "2026-11-24T03:05:09",
            "2026-11-24_03-05-09",
            "2026-11-24-03-05-09",
            "2026-11-24 03:05:09",
            "20261124-030509",
            "20261124_030509",
            "20261124T030509",
            "20261124T030509Z",
            "20261124030509",
            "2026-11-24_030509",
            "2026.11.24-03.05.09",
            "2026_11_24_03_05_09",
            "2026-11-24@03:05:09",
            "golden-20261124-030509",
            "golden2-2026-11-24T03-05-09.bak",
            "7-vm-20261124-030509-0012",
            "2026-11-24T05:05:09+02:00",
            "2026-11-23T22:05:09-05:00",
            "2026-11-24T05:05:09+0200",
            "2026-11-24T03:05:09.123Z",
            "@GMT-2026.11.24-03.05.09",
        ];
        for name in second {
            assert_eq!(shaped(name, Tz::UTC), same, "{name}");
        }
        for (name, wanted) in [
            ("2026-11-24T03-05", "2026-11-24 03:05:00"),
            ("20261124-0305", "2026-11-24 03:05:00"),
            ("202611240305", "2026-11-24 03:05:00"),
            ("2026-11-24", "2026-11-24 00:00:00"),
            ("backup-20261124", "2026-11-24 00:00:00"),
            ("2026-11-24-golden", "2026-11-24 00:00:00"),
            ("2026-11-24.7", "2026-11-24 00:00:00"),
            ("2026-11-24-99-99-99", "2026-11-24 00:00:00"),
            ("2026.11.24", "2026-11-24 00:00:00"),
            ("2026-11-24-0305-09x", "2026-11-24 03:05:00"),
            ("ü-2026-11-24", "2026-11-24 00:00:00"),
            ("2016-12-31T23-59-60Z", "2016-12-31 23:59:59"),
        ] {
            assert_eq!(shaped(name, Tz::UTC), wanted, "{name}");
        }
        for name in [
            "latest",
            "daily.0",
            "2026-13-45",
            "2026-11",
            "202611",
            "120261124",
            "1700000000",
            "2026-11.24",
            "",
            "202611241",
            "20261124030",
            "v1.2.3",
        ] {
            assert_eq!(shaped(name, Tz::UTC), "none", "{name}");
        }
    }

    #[test]
    fn names_are_read_in_their_zone_and_the_clocks_that_changed_are_seen() {
        let vienna = Tz::Europe__Vienna;
        assert_eq!(shaped("2026-07-01T03-00-00", vienna), "2026-07-01 01:00:00");
        assert_eq!(shaped("2026-12-01T03-00-00", vienna), "2026-12-01 02:00:00");
        assert_eq!(shaped("2026-07-01T03-00-00Z", vienna), "2026-07-01 03:00:00");
        assert_eq!(shaped("2026-12-01", vienna), "2026-11-30 23:00:00");
        assert_eq!(shaped("2026-10-25T02-30-00", vienna), "twice 2026-10-25 00:30:00 2026-10-25 01:30:00");
        assert_eq!(shaped("2026-10-25T02-30-00+02:00", vienna), "2026-10-25 00:30:00");
        assert_eq!(shaped("2026-03-29T02-30-00", vienna), "never 2026-03-29 02:30:00");
        assert_eq!(shaped("2024-03-31", Tz::Asia__Beirut), "2024-03-30 22:00:00", "a day without midnight begins at one");
        assert_eq!(shaped("2025-11-02", Tz::America__Havana), "2025-11-02 04:00:00", "one with two begins at the first");
    }

    #[test]
    fn a_pattern_fits_somewhere_in_the_name_or_nowhere() {
        let by = |pattern: &str, name: &str| show(Stamps::new(Some(pattern), Tz::UTC).unwrap().read(name));
        assert_eq!(by("%Y-%m-%dT%H-%M-%S", "golden-2026-11-24T03-05-09.bak"), "2026-11-24 03:05:09");
        assert_eq!(by("%Y-%m-%dT%H-%M-%S", "2026-11-24_03-05-09"), "none");
        assert_eq!(by("%d.%m.%Y", "vm 24.11.2026"), "2026-11-24 00:00:00");
        assert_eq!(by("snap_%s", "snap_1795489509"), "2026-11-24 03:05:09");
        assert_eq!(by("%s", "1795489509-golden"), "2026-11-24 03:05:09");
        assert_eq!(by("%Y%m%d-%H", "20261124-03"), "2026-11-24 03:00:00");
        assert_eq!(by("%Y%m%d-%H%M", "20261124-03059"), "none", "a digit follows");
        assert_eq!(by("%Y-%m-%dT%H:%M:%S%z", "2026-11-24T05:05:09+0200"), "2026-11-24 03:05:09");
        assert_eq!(by("%Y%m%d%I%M%p", "202611240305PM"), "2026-11-24 15:05:00");
        assert_eq!(by("%G-W%V-%u", "2026-W48-2"), "2026-11-24 00:00:00");
        for bad in ["%H-%M", "%Y-%m", "%Q", "", "x", "%"] {
            assert!(Stamps::new(Some(bad), Tz::UTC).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_read_or_not_and_nothing_panics(name in "\\PC{0,40}", pattern in "[%YmdHMSsfzZGVuIpj.:_ -]{0,16}", digits in "[0-9TZ:._+-]{0,30}") {
            for zone in [Tz::UTC, Tz::Europe__Vienna] {
                for name in [&name, &digits] {
                    let _ = Stamps::new(None, zone).map(|stamps| stamps.read(name));
                    let _ = Stamps::new(Some(&pattern), zone).map(|stamps| stamps.read(name));
                }
            }
        }

        #[test]
        fn every_second_is_read_back(seconds in 0_i64..4_102_444_800, shape in 0..4_usize) {
            let at = DateTime::from_timestamp(seconds, 0).unwrap();
            let name = at.format(["%Y-%m-%dT%H-%M-%S", "vm-%Y%m%d-%H%M%S", "%Y.%m.%d_%H.%M.%S", "%Y-%m-%d %H:%M:%SZ"][shape]).to_string();
            proptest::prop_assert_eq!(Stamps::new(None, Tz::UTC).unwrap().read(&name), Stamp::At(at));
        }
    }
}
