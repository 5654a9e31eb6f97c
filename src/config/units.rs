//! Durations (`15m`, `36h`, `1h30m`) and sizes (`512MiB`, `5%`) as people write them. Knows nothing of keys or files.

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

/// Why a string is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number and a unit, such as \"512MiB\", \"10GiB\" or \"2TB\"")]
pub struct SizeError(String);

/// Reads a size in bytes: a whole or decimal number and one of B, KiB … EiB (powers of 1024; the `iB` may be left out)
/// or KB … EB (powers of 1000). No unit means bytes.
///
/// # Errors
/// [`SizeError`] for anything else, and for what does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let error = || SizeError(text.trim().to_owned());
    let plain = text.trim();
    let (number, unit) = plain.split_at(plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len()));
    let unit = unit.trim();
    let (prefix, base) = match (unit.strip_suffix("iB"), unit.strip_suffix('B')) {
        (Some(prefix), _) if !prefix.is_empty() => (prefix, 1024_u64),
        (_, Some(prefix)) => (prefix, 1000),
        _ => (unit, 1024),
    };
    let power = match prefix {
        "" => 0,
        one => 1 + u32::try_from(["K", "M", "G", "T", "P", "E"].iter().position(|p| *p == one).ok_or_else(error)?).unwrap_or(u32::MAX),
    };
    let factor = base.checked_pow(power).ok_or_else(error)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || part.len() > 9 {
        return Err(error());
    }
    let whole: u64 = whole.parse().map_err(|_| error())?;
    let part: u64 = if part.is_empty() { 0 } else { format!("{part:0<9}").parse().map_err(|_| error())? };
    let part = u64::try_from(u128::from(part) * u128::from(factor) / 1_000_000_000).map_err(|_| error())?;
    whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(part)).ok_or_else(error)
}

/// `512 B`, `1.2 GiB`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes, "B");
    let mut tenths = 0;
    for next in units {
        // What would print as 1024.0 is 1.0 of the next.
        if value < 1000 {
            break;
        }
        tenths = value % 1024 * 10 / 1024;
        value /= 1024;
        unit = next;
    }
    if unit == "B" || value >= 100 { format!("{value} {unit}") } else { format!("{value}.{tenths} {unit}") }
}

/// Reads a share such as `5%` or `2.5%`, in hundredths of a percent; `None` if it has no percent sign.
///
/// # Errors
/// [`SizeError`] if it is no number, or more than 100.
pub(super) fn parse_share(text: &str) -> Option<Result<u64, SizeError>> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let error = || SizeError(text.trim().to_owned());
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || part.len() > 2 || !digits(whole) || !digits(part) {
        return Some(Err(error()));
    }
    let read = format!("{whole}{part:0<2}").parse::<u64>().ok().filter(|parts| *parts <= 10_000);
    Some(read.ok_or_else(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_1024_of_a_unit() {
        let shown = [0, 999, 1000, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, 1_300_000_000, u64::MAX].map(show_size);
        assert_eq!(shown, ["0 B", "999 B", "0.9 KiB", "0.9 KiB", "1.0 KiB", "1.5 KiB", "1.0 MiB", "0.9 MiB", "1.2 GiB", "15.9 EiB"]);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let good = [
            ("0", 0),
            ("512", 512),
            ("1KiB", 1024),
            ("1K", 1024),
            ("1KB", 1000),
            ("1.5 GiB", 3 << 29),
            ("2TB", 2_000_000_000_000),
            ("7B", 7),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "B", "x", "1X", "1iB", "-1", "1.2.3", "17EiB", "1 G B", "\u{663}"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let shares = ["5%", "2.5 %", "100%", "0.05%"].map(|t| parse_share(t).unwrap().unwrap());
        assert_eq!(shares, [500, 250, 10_000, 5]);
        assert!(["101%", "%", "a%", "1.234%"].iter().all(|t| parse_share(t).unwrap().is_err()) && parse_share("5").is_none());
    }
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
