//! Durations as people write them (`15m`, `36h`, `1h30m`), read and shown. Knows nothing of keys or files.

use std::fmt::Write as _;
use std::time::Duration;

/// Longer ones are slips of the pen, and adding them to a date could leave the calendar.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// Why a string is not a duration; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing but spaces.
    #[error("a duration is empty: write a number and a unit, such as \"15m\", \"36h\" or \"7d\"")]
    Empty,
    /// A number without a unit.
    #[error("`{0}` has no unit: write \"{0}s\", \"{0}m\", \"{0}h\" or \"{0}d\"")]
    NoUnit(String),
    /// A unit whose length depends on the calendar.
    #[error("`{text}` is ambiguous, for a {unit} has no fixed length: write it in days, such as \"{days}d\"")]
    Calendar {
        /// What was written.
        text: String,
        /// `month` or `year`.
        unit: &'static str,
        /// About as many days.
        days: u64,
    },
    /// A unit that does not exist.
    #[error("`{text}` has the unknown unit `{unit}`: the units are ms, s, m, h, d and w")]
    UnknownUnit {
        /// What was written.
        text: String,
        /// Its unit.
        unit: String,
    },
    /// More than a thousand years.
    #[error("`{0}` is too long: 365000d is the longest duration")]
    TooLong(String),
    /// Anything else.
    #[error("`{0}` is not a duration: write numbers with units, such as \"15m\", \"36h\", \"7d\" or \"1h30m\"")]
    Malformed(String),
}

/// Reads a duration: whole or decimal numbers, each with one of the units ns, us, ms, s, m, h, d, w (or their names in
/// full), added up. Months and years are refused: their length depends on the calendar.
///
/// # Errors
/// [`DurationError`], which says what to write.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let shown = || text.trim().to_owned();
    if text.trim().is_empty() {
        return Err(DurationError::Empty);
    }
    if text.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(DurationError::NoUnit(shown()));
    }
    if let Some(error) = calendar_unit(text) {
        return Err(error);
    }
    // humantime adds seconds up unchecked near the end of u64; numbers that long are refused before it sees them.
    if text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 15) {
        return Err(DurationError::TooLong(shown()));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err(DurationError::TooLong(shown())),
        Ok(duration) => Ok(duration),
        Err(humantime::DurationError::UnknownUnit { unit, value, .. }) if unit.is_empty() => Err(DurationError::NoUnit(value.to_string())),
        Err(humantime::DurationError::UnknownUnit { unit, .. }) => Err(DurationError::UnknownUnit { text: shown(), unit }),
        Err(humantime::DurationError::NumberOverflow) => Err(DurationError::TooLong(shown())),
        Err(_) => Err(DurationError::Malformed(shown())),
    }
}

/// The complaint about the first month or year in `text`, if it has one.
fn calendar_unit(text: &str) -> Option<DurationError> {
    let mut number = 1_u64;
    for part in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let mut rest = part;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (figures, after) = rest.split_at(digits);
            if let Ok(n) = figures.parse() {
                number = n;
            }
            let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            let (unit, length) = match unit {
                "M" | "mo" | "mon" | "month" | "months" => ("month", 30),
                "y" | "yr" | "yrs" | "year" | "years" => ("year", 365),
                _ if figures.is_empty() && unit.is_empty() => break,
                _ => {
                    rest = after;
                    continue;
                }
            };
            return Some(DurationError::Calendar { text: text.trim().to_owned(), unit, days: number.saturating_mul(length) });
        }
    }
    None
}

/// Shows a duration as it would be written: `1h30m`, `7d`, `500ms`. [`parse_duration`] reads it back unchanged.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(nanos / 1_000_000), "ms"),
        (u64::from(nanos / 1000 % 1000), "us"),
        (u64::from(nanos % 1000), "ns"),
    ];
    let mut text = String::new();
    for (number, unit) in parts.iter().filter(|(number, _)| *number > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{number}{unit}");
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in
            [("15m", 900), ("36h", 129_600), ("7d", 604_800), ("1h30m", 5400), ("1h 30m", 5400), ("90s", 90), ("2w", 1_209_600), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
    }

    #[test]
    fn what_is_no_duration_is_answered_with_what_to_write() {
        let cases = [
            ("", "a duration is empty: write a number and a unit, such as \"15m\", \"36h\" or \"7d\""),
            ("15", "`15` has no unit: write \"15s\", \"15m\", \"15h\" or \"15d\""),
            ("1h30", "`30` has no unit: write \"30s\", \"30m\", \"30h\" or \"30d\""),
            ("2 months", "`2 months` is ambiguous, for a month has no fixed length: write it in days, such as \"60d\""),
            ("1M", "`1M` is ambiguous, for a month has no fixed length: write it in days, such as \"30d\""),
            ("1y6d", "`1y6d` is ambiguous, for a year has no fixed length: write it in days, such as \"365d\""),
            ("3fortnights", "`3fortnights` has the unknown unit `fortnights`: the units are ms, s, m, h, d and w"),
            ("soon", "`soon` is not a duration: write numbers with units, such as \"15m\", \"36h\", \"7d\" or \"1h30m\""),
            ("-5m", "`-5m` is not a duration: write numbers with units, such as \"15m\", \"36h\", \"7d\" or \"1h30m\""),
            ("PT1H", "`PT1H` is not a duration: write numbers with units, such as \"15m\", \"36h\", \"7d\" or \"1h30m\""),
            ("999999d", "`999999d` is too long: 365000d is the longest duration"),
        ];
        for (text, message) in cases {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn numbers_at_the_end_of_the_integers_are_refused_and_not_a_panic() {
        assert!(parse_duration("18446744073709551615s 999ms 1ms").is_err());
        assert!(parse_duration("18446744073709551615w").is_err());
    }

    proptest! {
        #[test]
        fn any_duration_that_is_shown_reads_back_the_same(seconds in 0..LONGEST.as_secs(), nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-zA-Zµ. -]{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
